"""The inner loops, compiled by numba: mesh, rasteriser, shading, strands, subsurface blur, hair growth.

World units are decimetres, y up, the face looks along +z. A screen point is (x px, y px, 1/depth): nearer is
larger. Loops run in a fixed order and without `fastmath`, so the same arguments give the same bits.
"""

import math

import numpy as np
from numba import njit

EMPTY, STRAND = -1, -2  # what a pixel of `face_id` shows when it is no triangle
SKIN, EYE, UPPER_TEETH, LOWER_TEETH, TONGUE, LASHES = range(6)  # materials
LIPS, MOUTH, EARS, OCCLUSION = range(4)  # columns of the vertex masks
ROUGHNESS, SLOPE_U, SLOPE_V, SCALP, STUBBLE = range(3, 8)  # channels of the skin texture after its RGB


@njit(cache=True)
def blend_shapes(base, shapes, chosen, weights):
    """`base` [v, 3] plus the weighted sum of the chosen rows of `shapes` [s, v, 3]."""
    out = base.copy()
    for k in range(chosen.shape[0]):
        shape, weight = shapes[chosen[k]], weights[k]
        for i in range(out.shape[0]):
            for c in range(3):
                out[i, c] += weight * shape[i, c]
    return out


@njit(cache=True)
def smooth_field(field, starts, neighbours, rounds):
    """Laplacian smoothing of a vertex field [v, 3] over a mesh's neighbour lists: takes lumps out of a displacement."""
    for _ in range(rounds):
        last = field.copy()
        for i in range(field.shape[0]):
            n = starts[i + 1] - starts[i]
            if n == 0:
                continue
            for c in range(3):
                total = np.float32(0.0)
                for k in range(starts[i], starts[i + 1]):
                    total += last[neighbours[k], c]
                field[i, c] = np.float32(0.5) * last[i, c] + np.float32(0.5) * total / n
    return field


@njit(cache=True)
def skin_to_pose(points, head_weight, pivot, head, body):
    """Rotate points [v, 3] about the pivot by `head` and `body` [3, 3], mixed by each vertex's head weight."""
    out = np.empty_like(points)
    for i in range(points.shape[0]):
        x, y, z = points[i, 0] - pivot[0], points[i, 1] - pivot[1], points[i, 2] - pivot[2]
        w = head_weight[i]
        for c in range(3):
            a = head[c, 0] * x + head[c, 1] * y + head[c, 2] * z
            b = body[c, 0] * x + body[c, 1] * y + body[c, 2] * z
            out[i, c] = a * w + b * (1 - w) + pivot[c]
    return out


@njit(cache=True)
def vertex_normals(points, faces):
    """Unit vertex normals [v, 3] float32, weighted by the area of the adjacent triangles."""
    out = np.zeros_like(points)
    for t in range(faces.shape[0]):
        i, j, k = faces[t, 0], faces[t, 1], faces[t, 2]
        ax, ay, az = points[j, 0] - points[i, 0], points[j, 1] - points[i, 1], points[j, 2] - points[i, 2]
        bx, by, bz = points[k, 0] - points[i, 0], points[k, 1] - points[i, 1], points[k, 2] - points[i, 2]
        x, y, z = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
        for v in (i, j, k):
            out[v, 0] += x
            out[v, 1] += y
            out[v, 2] += z
    for i in range(out.shape[0]):
        scale = 1.0 / (math.sqrt(out[i, 0] ** 2 + out[i, 1] ** 2 + out[i, 2] ** 2) + 1e-12)
        for c in range(3):
            out[i, c] *= scale
    return out


@njit(cache=True)
def project(points, axes, eye, focal, half):
    """Perspective screen points [v, 3] of world points; `axes` rows are right, up, forward; `half` the centre in px."""
    out = np.empty((points.shape[0], 3), np.float32)
    for i in range(points.shape[0]):
        x, y, z = points[i, 0] - eye[0], points[i, 1] - eye[1], points[i, 2] - eye[2]
        inverse = 1.0 / max(axes[2, 0] * x + axes[2, 1] * y + axes[2, 2] * z, 0.1)
        out[i, 0] = (axes[0, 0] * x + axes[0, 1] * y + axes[0, 2] * z) * inverse * focal + half
        out[i, 1] = half - (axes[1, 0] * x + axes[1, 1] * y + axes[1, 2] * z) * inverse * focal
        out[i, 2] = inverse
    return out


@njit(cache=True)
def project_light(points, axes, frame):
    """Light-space points [v, 3] without perspective: px, px, height. `frame` is (cx, cy, px per unit, half)."""
    out = np.empty((points.shape[0], 3), np.float32)
    for i in range(points.shape[0]):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        out[i, 0] = (axes[0, 0] * x + axes[0, 1] * y + axes[0, 2] * z - frame[0]) * frame[2] + frame[3]
        out[i, 1] = (axes[1, 0] * x + axes[1, 1] * y + axes[1, 2] * z - frame[1]) * frame[2] + frame[3]
        out[i, 2] = axes[2, 0] * x + axes[2, 1] * y + axes[2, 2] * z
    return out


@njit(cache=True)
def rasterise(screen, faces, depth, face_id, bary, perspective):
    """Draw triangles into `depth` [h, w], `face_id` [h, w] and `bary` [h, w, 2] (of corners 0 and 1), nearest wins."""
    height, width = depth.shape
    for t in range(faces.shape[0]):
        i, j, k = faces[t, 0], faces[t, 1], faces[t, 2]
        x0, y0, z0 = screen[i, 0], screen[i, 1], screen[i, 2]
        x1, y1, z1 = screen[j, 0], screen[j, 1], screen[j, 2]
        x2, y2, z2 = screen[k, 0], screen[k, 1], screen[k, 2]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if area == 0:
            continue
        left = max(math.ceil(min(x0, x1, x2) - 0.5), 0)
        right = min(math.floor(max(x0, x1, x2) - 0.5), width - 1)
        top = max(math.ceil(min(y0, y1, y2) - 0.5), 0)
        bottom = min(math.floor(max(y0, y1, y2) - 0.5), height - 1)
        if left > right or top > bottom:
            continue
        inverse = 1.0 / area
        for y in range(top, bottom + 1):
            py = y + 0.5
            for x in range(left, right + 1):
                px = x + 0.5
                w1 = ((px - x0) * (y2 - y0) - (x2 - x0) * (py - y0)) * inverse
                w2 = ((x1 - x0) * (py - y0) - (px - x0) * (y1 - y0)) * inverse
                w0 = 1.0 - w1 - w2
                if w0 < 0 or w1 < 0 or w2 < 0:
                    continue
                z = w0 * z0 + w1 * z1 + w2 * z2
                if z > depth[y, x]:
                    depth[y, x] = z
                    face_id[y, x] = t
                    if perspective:
                        bary[y, x, 0] = w0 * z0 / z
                        bary[y, x, 1] = w1 * z1 / z


@njit(cache=True)
def draw_strands(screen, colours, points, widths, depth, face_id, image):
    """Draw opaque strands of `points` screen points each, `widths` [n] px, over the depth buffer."""
    height, width = depth.shape
    for s in range(widths.shape[0]):
        reach = max(widths[s] * 0.5, 0.5)
        for q in range(s * points, (s + 1) * points - 1):
            x0, y0, z0 = screen[q, 0], screen[q, 1], screen[q, 2]
            x1, y1, z1 = screen[q + 1, 0], screen[q + 1, 1], screen[q + 1, 2]
            if max(x0, x1) < -2 or max(y0, y1) < -2 or min(x0, x1) > width + 2 or min(y0, y1) > height + 2:
                continue
            steps = int(max(abs(x1 - x0), abs(y1 - y0))) + 1
            if steps > 4 * width:
                continue
            for i in range(steps):
                f = i / steps
                x, y, z = x0 + (x1 - x0) * f, y0 + (y1 - y0) * f, z0 + (z1 - z0) * f
                for yy in range(max(math.floor(y - reach + 0.5), 0), min(math.floor(y + reach - 0.5), height - 1) + 1):
                    for xx in range(
                        max(math.floor(x - reach + 0.5), 0), min(math.floor(x + reach - 0.5), width - 1) + 1
                    ):
                        if z > depth[yy, xx]:
                            depth[yy, xx] = z
                            face_id[yy, xx] = STRAND
                            for c in range(3):
                                image[yy, xx, c] = colours[q, c] + (colours[q + 1, c] - colours[q, c]) * f


@njit(cache=True)
def draw_strand_depth(screen, points, count, depth):
    """Add strands to a depth map: their shadow."""
    size = depth.shape[0]
    for s in range(count):
        for q in range(s * points, (s + 1) * points - 1):
            x0, y0, z0 = screen[q, 0], screen[q, 1], screen[q, 2]
            x1, y1, z1 = screen[q + 1, 0], screen[q + 1, 1], screen[q + 1, 2]
            steps = min(int(max(abs(x1 - x0), abs(y1 - y0))) + 1, size)
            for i in range(steps):
                f = i / steps
                x, y = math.floor(x0 + (x1 - x0) * f), math.floor(y0 + (y1 - y0) * f)
                z = z0 + (z1 - z0) * f
                if 0 <= x < size and 0 <= y < size and z > depth[y, x]:
                    depth[y, x] = z


@njit(cache=True)
def blend_strands(screen, colours, points, opacity, depth, bias, image):
    """Draw thin strands over the image with bilinear coverage; they fade to the tip and write no depth."""
    height, width = depth.shape
    for s in range(opacity.shape[0]):
        for q in range(s * points, (s + 1) * points - 1):
            x0, y0, z0 = screen[q, 0], screen[q, 1], screen[q, 2]
            x1, y1, z1 = screen[q + 1, 0], screen[q + 1, 1], screen[q + 1, 2]
            steps = int(max(abs(x1 - x0), abs(y1 - y0))) + 1
            if steps > width:
                continue
            for i in range(steps):
                f = i / steps
                x, y, z = x0 + (x1 - x0) * f - 0.5, y0 + (y1 - y0) * f - 0.5, z0 + (z1 - z0) * f + bias
                ix, iy = math.floor(x), math.floor(y)
                if ix < 0 or iy < 0 or ix >= width - 1 or iy >= height - 1:
                    continue
                alpha = opacity[s] * (1 - 0.5 * (q - s * points + f) / (points - 1))
                fx, fy = x - ix, y - iy
                for dy in range(2):
                    for dx in range(2):
                        if z > depth[iy + dy, ix + dx]:
                            w = alpha * (fx if dx else 1 - fx) * (fy if dy else 1 - fy)
                            for c in range(3):
                                image[iy + dy, ix + dx, c] += (colours[q, c] - image[iy + dy, ix + dx, c]) * w


@njit(cache=True)
def harmonics(coefficients, x, y, z, out):
    """Light [3] from direction (x, y, z) out of nine spherical harmonics [9, 3], at least 0."""
    for c in range(3):
        out[c] = max(
            0.0,
            coefficients[0, c]
            + coefficients[1, c] * y
            + coefficients[2, c] * z
            + coefficients[3, c] * x
            + coefficients[4, c] * x * y
            + coefficients[5, c] * y * z
            + coefficients[6, c] * (3 * z * z - 1)
            + coefficients[7, c] * x * z
            + coefficients[8, c] * (x * x - y * y),
        )


@njit(cache=True)
def lit(shadow, axes, frame, x, y, z, bias, taps):
    """Share of the first light in [0, 1] that reaches a world point: (2 taps + 1)^2 soft comparisons."""
    size = shadow.shape[0]
    u = math.floor((axes[0, 0] * x + axes[0, 1] * y + axes[0, 2] * z - frame[0]) * frame[2] + frame[3])
    v = math.floor((axes[1, 0] * x + axes[1, 1] * y + axes[1, 2] * z - frame[1]) * frame[2] + frame[3])
    height = axes[2, 0] * x + axes[2, 1] * y + axes[2, 2] * z + bias
    total = 0.0
    for dv in range(-taps, taps + 1):
        for du in range(-taps, taps + 1):
            a, b = u + du, v + dv
            if a < 0 or b < 0 or a >= size or b >= size:
                total += 1.0
                continue
            over = shadow[b, a] - height
            if over < 0.06:
                total += 1.0 if over <= 0 else 1.0 - over / 0.06
    return total / (2 * taps + 1) ** 2


@njit(cache=True)
def shade_surface(
    face_id, bary, faces, materials, points, normals, uv, tangents, masks, canonical, head, texture, eye,
    eye_centres, eye_axes, eye_radii, palette, iris, cloth, light_dirs, light_rgb, ambient, shadow, axes, frame, fine,
    irradiance, albedo, specular, is_skin,
):  # fmt: skip
    """Shade every pixel that shows a triangle: irradiance, albedo, specular [h, w, 3] and the skin mask [h, w].

    `palette` rows: lips, teeth, mouth, hair, stubble (RGB and roughness or cover). `fine` is the camera look: wide soft
    shadows, a microfacet highlight, wrapped light on skin; without it a hard shadow and a plain highlight.
    """
    height, width = face_id.shape
    sh = np.zeros(3)
    reflected = np.zeros(3)
    texel = np.zeros(8)
    rows, columns, channels = texture.shape
    taps = 2 if fine else 1
    for y in range(height):
        for x in range(width):
            t = face_id[y, x]
            if t < 0:
                continue
            i, j, k = faces[t, 0], faces[t, 1], faces[t, 2]
            u, v = bary[y, x, 0], bary[y, x, 1]
            w = 1 - u - v
            px = points[i, 0] * u + points[j, 0] * v + points[k, 0] * w
            py = points[i, 1] * u + points[j, 1] * v + points[k, 1] * w
            pz = points[i, 2] * u + points[j, 2] * v + points[k, 2] * w
            nx = normals[i, 0] * u + normals[j, 0] * v + normals[k, 0] * w
            ny = normals[i, 1] * u + normals[j, 1] * v + normals[k, 1] * w
            nz = normals[i, 2] * u + normals[j, 2] * v + normals[k, 2] * w
            vx, vy, vz = eye[0] - px, eye[1] - py, eye[2] - pz
            inverse = 1 / math.sqrt(vx * vx + vy * vy + vz * vz)
            vx *= inverse
            vy *= inverse
            vz *= inverse
            material = materials[t]
            occlusion, rough, f0, skin = 1.0, 0.5, 0.028, 0.0
            if material == SKIN:
                skin = 1.0
                tu = min(max((uv[i, 0] * u + uv[j, 0] * v + uv[k, 0] * w) * (columns - 1), 0.0), columns - 1.001)
                tv = min(max((uv[i, 1] * u + uv[j, 1] * v + uv[k, 1] * w) * (rows - 1), 0.0), rows - 1.001)
                iu, iv = int(tu), int(tv)
                fu, fv = tu - iu, tv - iv
                for c in range(channels):
                    upper = texture[iv, iu, c] * (1 - fu) + texture[iv, iu + 1, c] * fu
                    texel[c] = (
                        upper * (1 - fv) + (texture[iv + 1, iu, c] * (1 - fu) + texture[iv + 1, iu + 1, c] * fu) * fv
                    )
                rough = texel[ROUGHNESS]
                lips = masks[i, LIPS] * u + masks[j, LIPS] * v + masks[k, LIPS] * w
                inner = masks[i, MOUTH] * u + masks[j, MOUTH] * v + masks[k, MOUTH] * w
                ears = masks[i, EARS] * u + masks[j, EARS] * v + masks[k, EARS] * w
                occlusion = masks[i, OCCLUSION] * u + masks[j, OCCLUSION] * v + masks[k, OCCLUSION] * w
                occlusion = 0.06 + 0.94 * occlusion**1.3
                scalp, stubble = texel[SCALP] * palette[3, 3], texel[STUBBLE] * palette[4, 3]
                for c in range(3):
                    texel[c] = texel[c] * (1 - stubble) + palette[4, c] * stubble
                    texel[c] = texel[c] * (1 - scalp) + palette[3, c] * scalp
                lips = min(1.0, max(0.0, (lips - 0.40) / 0.55))
                lips = lips * lips * (3 - 2 * lips) * 0.9
                ears = 0.12 * ears
                inner = min(1.0, max(0.0, (inner - 0.3) * 2.5))
                rough = (rough * (1 - scalp) + 0.8 * scalp) * (1 - lips) + palette[0, 3] * lips
                for c in range(3):
                    texel[c] = texel[c] * (1 - lips) + palette[0, c] * lips
                    if c:
                        texel[c] *= 1 - ears
                    texel[c] = texel[c] * (1 - inner) + palette[2, c] * inner
                r, g, b = texel[0], texel[1], texel[2]
                bend = (1 - lips) * (1 - inner)
                tx = tangents[i, 0] * u + tangents[j, 0] * v + tangents[k, 0] * w
                tz = tangents[i, 1] * u + tangents[j, 1] * v + tangents[k, 1] * w
                su, sv = texel[SLOPE_U] * bend, texel[SLOPE_V] * bend
                nx -= su * (head[0, 0] * tx + head[0, 2] * tz) + sv * head[0, 1]
                ny -= su * (head[1, 0] * tx + head[1, 2] * tz) + sv * head[1, 1]
                nz -= su * (head[2, 0] * tx + head[2, 2] * tz) + sv * head[2, 1]
                cx = canonical[i, 0] * u + canonical[j, 0] * v + canonical[k, 0] * w
                cy = canonical[i, 1] * u + canonical[j, 1] * v + canonical[k, 1] * w
                cz = canonical[i, 2] * u + canonical[j, 2] * v + canonical[k, 2] * w
                neckline = cloth[6] + cloth[7] * cz + 0.06 * cx * cx
                if cy < neckline:
                    skin, rough, f0 = 0.0, 0.9, 0.02
                    stripe = 0.0
                    if cloth[8] > 0 and math.sin(cy * cloth[8] + cx * cloth[9]) > 0:
                        stripe = 1.0
                    edge = 0.75 if cy > neckline - 0.05 else 1.0
                    r = (cloth[0] * (1 - stripe) + cloth[3] * stripe) * edge
                    g = (cloth[1] * (1 - stripe) + cloth[4] * stripe) * edge
                    b = (cloth[2] * (1 - stripe) + cloth[5] * stripe) * edge
            elif material == EYE:
                s = 0 if canonical[i, 0] > 0 else 1
                dx, dy, dz = px - eye_centres[s, 0], py - eye_centres[s, 1], pz - eye_centres[s, 2]
                inverse = 1 / math.sqrt(dx * dx + dy * dy + dz * dz)
                dx *= inverse
                dy *= inverse
                dz *= inverse
                ahead = dx * eye_axes[s, 0] + dy * eye_axes[s, 1] + dz * eye_axes[s, 2]
                angle = math.acos(min(1.0, max(-1.0, ahead)))
                across = dx * head[0, 0] + dy * head[1, 0] + dz * head[2, 0]
                above = dx * head[0, 1] + dy * head[1, 1] + dz * head[2, 1]
                corner = min(1.0, max(0.0, (abs(across) - 0.35) / 0.5))
                r, g, b = 0.66 - 0.06 * corner, 0.61 - 0.20 * corner, 0.57 - 0.20 * corner
                radius = angle / iris[6]
                if radius < 1.15:
                    around = math.atan2(dy - eye_axes[s, 1] * ahead, dx - eye_axes[s, 0] * ahead)
                    fibre = (
                        0.9 + 0.14 * math.sin(around * 23 + 3 * math.sin(around * 7 + iris[8])) + 0.35 * (0.8 - radius)
                    )
                    rim = 1 - 0.7 * min(1.0, max(0.0, (radius - 0.74) / 0.26))
                    collar = max(0.0, 1 - abs(radius - 0.45) / 0.22) * 0.6
                    pupil = min(1.0, max(0.0, (radius - iris[7]) / 0.10))
                    edge = min(1.0, max(0.0, (1.12 - radius) / 0.18))
                    r = r * (1 - edge) + edge * pupil * rim * fibre * (iris[0] + collar * iris[3])
                    g = g * (1 - edge) + edge * pupil * rim * fibre * (iris[1] + collar * iris[4])
                    b = b * (1 - edge) + edge * pupil * rim * fibre * (iris[2] + collar * iris[5])
                    bulge = 0.5 * max(
                        0.0, 1 - radius
                    )  # the cornea stands out: its highlight sits apart from the sclera's
                    nx, ny, nz = dx - bulge * (eye_axes[s, 0] - dx), dy - bulge * (eye_axes[s, 1] - dy), dz
                else:
                    nx, ny, nz = dx, dy, dz
                occlusion = 1 - 0.75 * max(0.0, above - 0.10) / 0.4 - 0.25 * max(0.0, -above - 0.2) / 0.4
                occlusion = max(0.12, min(1.0, occlusion)) * (1 - 0.45 * corner)
                rough, f0 = 0.12, 0.045
            elif material in (UPPER_TEETH, LOWER_TEETH):
                cx = canonical[i, 0] * u + canonical[j, 0] * v + canonical[k, 0] * w
                cz = canonical[i, 2] * u + canonical[j, 2] * v + canonical[k, 2] * w
                gap = abs((math.atan2(cx, cz - 1.18) * 4.6) % 1.0 - 0.5) * 2
                shade = 0.75 if gap > 0.86 else 1.0
                r, g, b = palette[1, 0] * shade, palette[1, 1] * shade, palette[1, 2] * shade
                rough = 0.25
                occlusion = 0.35 + 0.60 * max(0.0, min(1.0, (cz - 1.1) / 0.38))
            else:
                r, g, b = 0.38, 0.13, 0.12
                occlusion, rough = 0.4, 0.35
            inverse = 1 / math.sqrt(nx * nx + ny * ny + nz * nz + 1e-12)
            nx *= inverse
            ny *= inverse
            nz *= inverse
            harmonics(ambient, nx, ny, nz, sh)
            er, eg, eb = sh[0] * occlusion, sh[1] * occlusion, sh[2] * occlusion
            facing = max(0.0, nx * vx + ny * vy + nz * vz)
            sr, sg, sb = 0.0, 0.0, 0.0
            if fine:
                harmonics(ambient, 2 * facing * nx - vx, 2 * facing * ny - vy, 2 * facing * nz - vz, reflected)
                fresnel = (f0 + 0.4 * (max(1 - rough, f0) - f0) * (1 - facing) ** 5) * occlusion * occlusion
                if material == EYE:
                    fresnel *= 0.5
                sr, sg, sb = reflected[0] * fresnel, reflected[1] * fresnel, reflected[2] * fresnel
            for q in range(light_dirs.shape[0]):
                lx, ly, lz = light_dirs[q, 0], light_dirs[q, 1], light_dirs[q, 2]
                incident = nx * lx + ny * ly + nz * lz
                reach = 1.0
                if q == 0 and incident > -0.25:
                    reach = lit(shadow, axes, frame, px, py, pz, 0.04, taps)
                if material > EYE:
                    reach *= occlusion
                elif material == SKIN:  # nostrils and the corners of eyes and mouth are finer than the shadow map
                    reach *= min(1.0, 0.25 + 1.5 * occlusion)
                if skin > 0 and fine:  # light that enters skin leaves around the terminator, red the farthest
                    er += light_rgb[q, 0] * reach * max(0.0, (incident + 0.22) / 1.22)
                    eg += light_rgb[q, 1] * reach * max(0.0, (incident + 0.10) / 1.10)
                    eb += light_rgb[q, 2] * reach * max(0.0, (incident + 0.05) / 1.05)
                else:
                    plain = reach * max(0.0, incident)
                    if material == EYE:
                        plain *= occlusion
                    er += light_rgb[q, 0] * plain
                    eg += light_rgb[q, 1] * plain
                    eb += light_rgb[q, 2] * plain
                if incident > 0:
                    hx, hy, hz = lx + vx, ly + vy, lz + vz
                    inverse = 1 / math.sqrt(hx * hx + hy * hy + hz * hz + 1e-9)
                    half = max(0.0, (nx * hx + ny * hy + nz * hz) * inverse)
                    if fine:
                        a2 = rough**4
                        spread = half * half * (a2 - 1) + 1
                        kg = (rough + 1) ** 2 / 8
                        geometry = 0.25 / ((incident * (1 - kg) + kg) * (facing * (1 - kg) + kg))
                        grazing = (1 - max(0.0, (vx * hx + vy * hy + vz * hz) * inverse)) ** 5
                        glint = (f0 + (1 - f0) * grazing) * a2 / (spread * spread) * geometry * incident * 0.5
                    elif material == EYE:
                        glint = 0.6 * half**60
                    else:
                        glint = 0.05 * (1 - rough) * half**12
                    glint = min(glint, 4.0) * reach
                    sr += light_rgb[q, 0] * glint
                    sg += light_rgb[q, 1] * glint
                    sb += light_rgb[q, 2] * glint
            irradiance[y, x, 0], irradiance[y, x, 1], irradiance[y, x, 2] = er, eg, eb
            albedo[y, x, 0], albedo[y, x, 1], albedo[y, x, 2] = r, g, b
            specular[y, x, 0], specular[y, x, 1], specular[y, x, 2] = sr, sg, sb
            is_skin[y, x] = skin


@njit(cache=True)
def shade_strands(
    world, outward, points, base, occlusion, light_dirs, light_rgb, ambient, shadow, axes, frame, eye, gloss
):
    """Colours [n * points, 3] of hair: Kajiya and Kay's diffuse and two shifted highlights, lit along `outward`."""
    out = np.empty((world.shape[0], 3), np.float32)
    sh = np.zeros(3)
    for s in range(base.shape[0]):
        for q in range(s * points, (s + 1) * points):
            a, b = max(q - 1, s * points), min(q + 1, (s + 1) * points - 1)
            tx, ty, tz = world[b, 0] - world[a, 0], world[b, 1] - world[a, 1], world[b, 2] - world[a, 2]
            inverse = 1 / (math.sqrt(tx * tx + ty * ty + tz * tz) + 1e-9)
            tx *= inverse
            ty *= inverse
            tz *= inverse
            x, y, z = world[q, 0], world[q, 1], world[q, 2]
            vx, vy, vz = eye[0] - x, eye[1] - y, eye[2] - z
            inverse = 1 / math.sqrt(vx * vx + vy * vy + vz * vz)
            vx *= inverse
            vy *= inverse
            vz *= inverse
            nx, ny, nz = outward[q, 0], outward[q, 1], outward[q, 2]
            harmonics(ambient, nx, ny, nz, sh)
            open_ = occlusion[q]
            r, g, b_ = sh[0] * open_, sh[1] * open_, sh[2] * open_
            hr, hg, hb = 0.0, 0.0, 0.0
            for k in range(light_dirs.shape[0]):
                lx, ly, lz = light_dirs[k, 0], light_dirs[k, 1], light_dirs[k, 2]
                incident = max(0.0, (nx * lx + ny * ly + nz * lz + 0.35) / 1.35)
                if incident == 0:
                    continue
                if k == 0:
                    incident *= lit(shadow, axes, frame, x, y, z, 0.10, 0)
                along = tx * lx + ty * ly + tz * lz
                diffuse = (0.45 * math.sqrt(max(0.0, 1 - along * along)) + 0.55) * incident * (0.4 + 0.6 * open_)
                r += light_rgb[k, 0] * diffuse
                g += light_rgb[k, 1] * diffuse
                b_ += light_rgb[k, 2] * diffuse
                hx, hy, hz = lx + vx, ly + vy, lz + vz
                inverse = 1 / math.sqrt(hx * hx + hy * hy + hz * hz + 1e-9)
                first = (tx * hx + ty * hy + tz * hz) * inverse + 0.08
                second = first - 0.22
                white = max(0.0, 1 - first * first) ** 40 * incident * gloss
                tinted = max(0.0, 1 - second * second) ** 14 * incident * gloss * 3
                hr += light_rgb[k, 0] * (white + tinted * base[s, 0])
                hg += light_rgb[k, 1] * (white + tinted * base[s, 1])
                hb += light_rgb[k, 2] * (white + tinted * base[s, 2])
            out[q, 0] = base[s, 0] * r + hr
            out[q, 1] = base[s, 1] * g + hg
            out[q, 2] = base[s, 2] * b_ + hb
    return out


@njit(cache=True)
def gather_skin(irradiance, is_skin, depth, factor):
    """Mean irradiance, skin pixels and mean 1/depth of each output pixel: the input of the subsurface blur."""
    size = is_skin.shape[0] // factor
    light = np.zeros((size, size, 3), np.float32)
    count = np.zeros((size, size), np.float32)
    near = np.zeros((size, size), np.float32)
    for y in range(size):
        for x in range(size):
            for j in range(factor):
                for i in range(factor):
                    yy, xx = y * factor + j, x * factor + i
                    if is_skin[yy, xx] > 0.5:
                        count[y, x] += 1
                        near[y, x] += depth[yy, xx]
                        for c in range(3):
                            light[y, x, c] += irradiance[yy, xx, c]
            if count[y, x] > 0:
                near[y, x] /= count[y, x]
                for c in range(3):
                    light[y, x, c] /= count[y, x]
    return light, count, near


@njit(cache=True)
def blur_skin(light, count, near, kernel, down, across):
    """One direction of a blur [taps, 3] that stays on skin and stops at steps of depth."""
    size = count.shape[0]
    out = np.zeros_like(light)
    for y in range(size):
        for x in range(size):
            if count[y, x] == 0:
                continue
            r, g, b = light[y, x, 0] * kernel[0, 0], light[y, x, 1] * kernel[0, 1], light[y, x, 2] * kernel[0, 2]
            wr, wg, wb = kernel[0, 0], kernel[0, 1], kernel[0, 2]
            for d in range(1, kernel.shape[0]):
                for sign in (-1, 1):
                    yy, xx = y + d * sign * down, x + d * sign * across
                    if yy < 0 or xx < 0 or yy >= size or xx >= size or count[yy, xx] == 0:
                        continue
                    step = (near[yy, xx] / near[y, x] - 1) * 60
                    keep = 1 / (1 + 4 * step * step)
                    wr += kernel[d, 0] * keep
                    wg += kernel[d, 1] * keep
                    wb += kernel[d, 2] * keep
                    r += light[yy, xx, 0] * kernel[d, 0] * keep
                    g += light[yy, xx, 1] * kernel[d, 1] * keep
                    b += light[yy, xx, 2] * kernel[d, 2] * keep
            out[y, x, 0], out[y, x, 1], out[y, x, 2] = r / wr, g / wg, b / wb
    return out


@njit(cache=True)
def compose(face_id, irradiance, albedo, specular, is_skin, soft, count, factor, image):
    """Radiance: diffuse light times albedo plus highlight; skin takes most of its light from the blurred `soft`."""
    height, width = face_id.shape
    size = count.shape[0]
    for y in range(height):
        for x in range(width):
            if face_id[y, x] < 0:
                continue
            light = irradiance[y, x]
            r, g, b = light[0], light[1], light[2]
            if is_skin[y, x] > 0.5 and size > 1:
                v, u = (y + 0.5) / factor - 0.5, (x + 0.5) / factor - 0.5
                j, i = math.floor(v), math.floor(u)
                total, sr, sg, sb = 0.0, 0.0, 0.0, 0.0
                for dj in range(2):
                    for di in range(2):
                        jj, ii = min(max(j + dj, 0), size - 1), min(max(i + di, 0), size - 1)
                        if count[jj, ii] > 0:
                            w = (1 - abs(v - j - dj)) * (1 - abs(u - i - di)) + 1e-4
                            total += w
                            sr += soft[jj, ii, 0] * w
                            sg += soft[jj, ii, 1] * w
                            sb += soft[jj, ii, 2] * w
                r = 0.95 * sr / total + 0.05 * r
                g = 0.80 * sg / total + 0.20 * g
                b = 0.70 * sb / total + 0.30 * b
            image[y, x, 0] = r * albedo[y, x, 0] + specular[y, x, 0]
            image[y, x, 1] = g * albedo[y, x, 1] + specular[y, x, 1]
            image[y, x, 2] = b * albedo[y, x, 2] + specular[y, x, 2]


@njit(cache=True)
def radius_map(points, centre, rows, columns):
    """Largest distance of the points from the centre per direction [rows, columns]: the head as hair feels it."""
    out = np.zeros((rows, columns))
    for i in range(points.shape[0]):
        x, y, z = points[i, 0] - centre[0], points[i, 1] - centre[1], points[i, 2] - centre[2]
        r = math.sqrt(x * x + y * y + z * z)
        a = min(int(math.acos(y / r) / math.pi * rows), rows - 1)
        b = min(int((math.atan2(x, z) / (2 * math.pi) + 0.5) * columns), columns - 1)
        for da in range(-1, 2):
            if 0 <= a + da < rows:
                for db in range(-1, 2):
                    out[a + da, (b + db) % columns] = max(out[a + da, (b + db) % columns], r)
    return out


@njit(cache=True)
def radius_at(radii, x, y, z, r):
    """Bilinear look-up in a `radius_map` along (x, y, z), whose length is r."""
    rows, columns = radii.shape
    t = math.acos(min(1.0, max(-1.0, y / r))) / math.pi * rows - 0.5
    p = (math.atan2(x, z) / (2 * math.pi) + 0.5) * columns - 0.5
    a, b = math.floor(t), math.floor(p)
    ft, fp = t - a, p - b
    a0, a1 = min(max(a, 0), rows - 1), min(max(a + 1, 0), rows - 1)
    upper = radii[a0, b % columns] * (1 - fp) + radii[a0, (b + 1) % columns] * fp
    return upper * (1 - ft) + (radii[a1, b % columns] * (1 - fp) + radii[a1, (b + 1) % columns] * fp) * ft


@njit(cache=True)
def grow(
    roots,
    normals,
    combing,
    lengths,
    points,
    centre,
    radii,
    gravity,
    lift,
    stiffness,
    stick,
    fall,
    curl,
    turns,
    phase,
    layer,
    part,
):
    """Grow strands [n * points, 3]: out of the skin, along the combing, down by gravity, never into the head.

    `part` in [0, 1] per strand keeps hair that falls in front of the face to its sides; `stick` draws it to the skin.
    """
    n = roots.shape[0]
    out = np.zeros((n * points, 3), np.float32)
    give = 1 - stiffness
    for s in range(n):
        x, y, z = roots[s, 0], roots[s, 1], roots[s, 2]
        step = lengths[s] / (points - 1)
        dx = normals[s, 0] * lift + combing[s, 0] * (1 - lift)
        dy = normals[s, 1] * lift + combing[s, 1] * (1 - lift)
        dz = normals[s, 2] * lift + combing[s, 2] * (1 - lift)
        out[s * points] = roots[s]
        for k in range(1, points):
            f = k / (points - 1)
            pull = max(0.0, 1 - f * lengths[s] * fall) * 0.5 * give
            dx += combing[s, 0] * pull
            dy += combing[s, 1] * pull - gravity * (0.3 + min(1.0, f * lengths[s] * 1.5)) * give * 1.2
            dz += combing[s, 2] * pull
            hx, hy, hz = x - centre[0], y - centre[1], z - centre[2]
            if part[s] > 0 and hz > 0.15 and hy < 0.62:
                push = min(1.0, (hz - 0.15) * 2) * min(1.0, (0.62 - hy) * 3) * max(0.0, 1 - abs(hx) / 0.85) * 1.7
                dx += math.copysign(push, hx) * part[s]
                dz -= push * 0.35 * part[s]
            inverse = 1 / math.sqrt(dx * dx + dy * dy + dz * dz + 1e-9)
            dx *= inverse
            dy *= inverse
            dz *= inverse
            x += dx * step
            y += dy * step
            z += dz * step
            rx, ry, rz = x - centre[0], y - centre[1], z - centre[2]
            r = math.sqrt(rx * rx + ry * ry + rz * rz)
            skin = radius_at(radii, rx, ry, rz, r) + layer[s] * min(1.0, k / 3)
            if r < skin:
                x, y, z = centre[0] + rx * skin / r, centre[1] + ry * skin / r, centre[2] + rz * skin / r
                inward = (dx * rx + dy * ry + dz * rz) / r
                if inward < 0:
                    dx -= inward * rx / r
                    dy -= inward * ry / r
                    dz -= inward * rz / r
            elif stick > 0 and r > skin + 0.02:
                g = (r - (r - skin) * stick) / r
                x, y, z = centre[0] + rx * g, centre[1] + ry * g, centre[2] + rz * g
            amplitude = curl * min(1.0, f * 2)
            angle = turns * lengths[s] * f * 6.28 + phase[s]
            cosine, sine = math.cos(angle), math.sin(angle)
            inverse = 1 / math.sqrt(dx * dx + dz * dz + 1e-6)
            ax, az = -dz * inverse, dx * inverse
            q = s * points + k
            out[q, 0] = x + amplitude * (cosine * ax + sine * dy * az)
            out[q, 1] = y + amplitude * sine * (dz * ax - dx * az)
            out[q, 2] = z + amplitude * (cosine * az - sine * dy * ax)
    return out
