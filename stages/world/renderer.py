"""The renderer: a head and a scene in, a picture out, in one of two looks.

`raster` is a game engine's: one hard shadow, plain highlights, hair in broad strips, no noise. `camera` is a
photograph's: soft shadows, microfacet highlights, subsurface scattering, fine hair, lens, sensor and JPEG.
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np

from stages.world import film, hair, kernels, skin
from stages.world.assets import load
from stages.world.head import Head
from stages.world.scene import Camera, Glasses, Scene

Look = Literal["raster", "camera"]

_SHADOW_SIZE = 224  # px
_SHADOW_SPAN = 4.2  # decimetres across the shadow map
_SCATTER = np.array([0.055, 0.026, 0.014])  # decimetres, of red, green and blue light in skin


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Rotation matrix [3, 3] of a head: roll, then pitch, then yaw; radians."""
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    nod = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    tilt = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    # written out: a BLAS product may differ in the last bit from machine to machine
    return np.einsum("ij,jk,kl->il", turn, nod, tilt)


def render(head: Head, scene: Scene, look: Look, size: int = 112) -> np.ndarray:
    """The picture [size, size, 3] uint8 RGB of a person in a scene; the same bits for the same arguments.

    Raises:
        ValueError: an unknown look, or a size below 16 px.
    """
    if look not in ("raster", "camera"):
        raise ValueError(f"look is {look!r}: raster or camera")
    if size < 16:
        raise ValueError(f"size is {size} px: at least 16")
    return _Frame(head, scene, look == "camera", size).picture()


class _Frame:
    """One picture being made: the posed mesh, the view, the light and the buffers, at `factor` times the size."""

    def __init__(self, head: Head, scene: Scene, fine: bool, size: int) -> None:
        self.head, self.scene, self.fine, self.size = head, scene, fine, size
        self.factor = 2
        self.assets = load()
        self.turn = rotation(scene.yaw, scene.pitch, scene.roll)
        self.strands, self.beard, self.stubble = head.hair(scene.hair)
        self._pose()
        self._aim(scene.camera)
        self._light()

    def _pose(self) -> None:
        head, scene, assets = self.head, self.scene, self.assets
        names = [name for name, weight in scene.expression.items() if weight > 0]
        chosen = np.array([assets.expression_index[name] for name in names], np.int64)
        weights = np.array([scene.expression[name] for name in names], np.float32)
        moved = kernels.blend_shapes(head.vertices, assets.expressions, chosen, weights)
        posed = kernels.skin_to_pose(moved, assets.head_weight, head.pivot, self.turn, rotation(0.15 * scene.yaw, 0, 0))
        self.eyes = self.place(head.eyes)
        self.eye_radius = 0.985 * head.eye_radius
        balls = [
            (assets.sphere @ self.turn.T.astype(np.float32)) * np.float32(self.eye_radius) + eye for eye in self.eyes
        ]
        self.points = np.concatenate([posed, *balls]).astype(np.float32)
        self.normals = kernels.vertex_normals(self.points, assets.faces)
        left, up = scene.gaze
        # both eyes meet at a point in front of the face
        self.eye_axes = np.stack([self.turn @ rotation(left + squint, -up, 0)[:, 2] for squint in (-0.03, 0.03)])

    def place(self, points: np.ndarray) -> np.ndarray:
        """Turn points [n, 3] that move with the head."""
        return (points - self.head.pivot) @ self.turn.T + self.head.pivot

    def _aim(self, camera: Camera) -> None:
        centre = self.head.eyes.mean(0, keepdims=True) + np.array([0, -0.22, -0.35])
        target = self.place(centre)[0] + np.array([*camera.shift, 0])
        across, up = (np.sin(camera.azimuth), np.cos(camera.azimuth)), np.cos(camera.elevation)
        forward = -np.array([across[0] * up, np.sin(camera.elevation), across[1] * up])
        self.eye = target - forward * camera.distance
        right = np.cross(forward, [0, 1, 0])
        right /= np.sqrt(np.sum(right * right))
        self.axes = np.stack([right, np.cross(right, forward), forward])
        self.pixels = self.size * self.factor
        self.focal = self.pixels * 0.5 * camera.distance / camera.half_height
        self.scale = self.focal / camera.distance  # px per decimetre at the face

    def project(self, points: np.ndarray) -> np.ndarray:
        return kernels.project(points, self.axes, self.eye, self.focal, self.pixels * 0.5)

    def _light(self) -> None:
        """The first light's shadow map of the mesh and of the hair."""
        towards = self.scene.light.directions[0]
        right = np.cross([0.0, 1.0, 0.0], towards)
        right /= np.sqrt(np.sum(right * right)) + 1e-9
        self.light_axes = np.stack([right, np.cross(towards, right), towards])
        centre = (self.light_axes * (self.head.pivot + np.array([0, 0.25, 0.3]))).sum(1)
        self.light_frame = np.array([centre[0], centre[1], _SHADOW_SIZE / _SHADOW_SPAN, _SHADOW_SIZE * 0.5])
        self.shadow = np.full((_SHADOW_SIZE, _SHADOW_SIZE), -1e3, np.float32)
        unused = np.zeros((_SHADOW_SIZE, _SHADOW_SIZE), np.int32), np.zeros((1, 1, 2), np.float32)
        seen = kernels.project_light(self.points, self.light_axes, self.light_frame)
        kernels.rasterise(seen, self.assets.faces, self.shadow, *unused, False)
        if self.strands is not None:
            self.locks, self.locks_out = self._turned(self.strands)
            lit = kernels.project_light(self.locks, self.light_axes, self.light_frame)
            kernels.draw_strand_depth(lit, self.strands.points, len(self.strands.colours) // 2, self.shadow)

    def _turned(self, strands: hair.Strands) -> tuple[np.ndarray, np.ndarray]:
        ones = np.ones(len(strands.positions), np.float32)
        turned = kernels.skin_to_pose(strands.positions, ones, self.head.pivot, self.turn, self.turn)
        outward = kernels.skin_to_pose(strands.outward, ones, np.zeros(3), self.turn, self.turn)
        return turned, outward

    def picture(self) -> np.ndarray:
        n = self.pixels
        self.depth = np.zeros((n, n), np.float32)
        self.face_id = np.full((n, n), kernels.EMPTY, np.int32)
        self.image = np.zeros((n, n, 3), np.float32)
        bary = np.zeros((n, n, 2), np.float32)
        kernels.rasterise(self.project(self.points), self.assets.faces, self.depth, self.face_id, bary, True)
        self._draw_hair()
        if self.scene.glasses:
            self._draw_frames(self.scene.glasses)
        face = self._shade(bary)
        self._draw_surface_hair()
        self._draw_lashes()
        if self.scene.glasses:
            self._draw_lenses(self.scene.glasses)
        rng = np.random.default_rng([*self.scene.key, 6])
        self._draw_background(rng)
        small = self.image.reshape(self.size, self.factor, self.size, self.factor, 3).mean((1, 3))
        level = float(skin.tone(self.head.traits).mean())
        if self.fine:
            return film.develop_camera(small, face, level, self.scene.exposure, self.scene.quality, rng)
        return film.develop_raster(small, face, level, self.scene.exposure)

    def _lights(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        light = self.scene.light
        return light.directions, light.colours, light.ambient, self.shadow, self.light_axes, self.light_frame

    def _draw_hair(self) -> None:
        if self.strands is None:
            return
        points, total = self.strands.points, len(self.strands.colours)
        # enough strands to cover the head at this resolution; fewer and broader ones in the raster look
        count = min(total, int(total * (0.4 if not self.fine else 0.5 + self.pixels / 900)))
        width = (0.018 if not self.fine else 0.010) * self.scale
        part = slice(0, count * points)
        colours = kernels.shade_strands(
            self.locks[part], self.locks_out[part], points, self.strands.colours[:count], self.strands.occlusion[part],
            *self._lights(), self.eye, 0.06 if self.fine else 0.03,
        )  # fmt: skip
        widths = np.full(count, width, np.float32)
        kernels.draw_strands(
            self.project(self.locks[part]), colours, points, widths, self.depth, self.face_id, self.image
        )

    def _shade(self, bary: np.ndarray) -> np.ndarray:
        """Shade the mesh into the image; returns where the output shows skin [size, size]."""
        n, assets, head = self.pixels, self.assets, self.head
        irradiance, albedo, specular = (np.zeros((n, n, 3), np.float32) for _ in range(3))
        is_skin = np.zeros((n, n), np.float32)
        iris = head.iris.copy()
        iris[7] = self.scene.pupil
        kernels.shade_surface(
            self.face_id, bary, assets.faces, assets.materials, self.points, self.normals, assets.uv, assets.tangents,
            assets.masks, assets.canonical, self.turn, head.texture, self.eye, self.eyes, self.eye_axes,
            self.eye_radius, self._palette(), iris, self.scene.clothes, *self._lights(), self.fine,
            irradiance, albedo, specular, is_skin,
        )  # fmt: skip
        soft, count, near = kernels.gather_skin(irradiance, is_skin, self.depth, self.factor)
        face = count > 0.5 * self.factor**2
        if self.fine:
            sigma = _SCATTER * self.scale / self.factor
            taps = np.arange(int(2.5 * sigma[0]) + 2)[:, None]
            spread = np.exp(-0.5 * (taps / sigma) ** 2)
            soft = kernels.blur_skin(soft, count, near, spread, 1, 0)
            soft = kernels.blur_skin(soft, count, near, spread, 0, 1)
        else:
            count = np.zeros((1, 1), np.float32)
        kernels.compose(self.face_id, irradiance, albedo, specular, is_skin, soft, count, self.factor, self.image)
        return face

    def _palette(self) -> np.ndarray:
        """Rows for `kernels.shade_surface`: lips, teeth, mouth, scalp, stubble."""
        traits, makeup = self.head.traits, self.scene.makeup
        lips, gloss = self.head.lips, 0.38
        if makeup is not None and traits.sex < 0.5:
            lips, gloss = lips * (1 - makeup.cover) + np.array(makeup.lips) * makeup.cover, 0.30
        tone = skin.tone(traits)
        hairs = hair.greyed(hair.colour(traits), traits)
        cover = self.strands.cover if self.strands is not None else 0.0
        return np.array([
            [*lips, gloss], [*self.head.teeth, 0], [0.22, 0.06, 0.05, 0], [*(0.55 * hairs + 0.08 * tone), cover],
            [*(0.5 * hairs + 0.25 * tone), 0.75 * self.stubble],
        ])  # fmt: skip

    def _draw_surface_hair(self) -> None:
        for fur in (self.head.brows, self.beard):
            if fur is None:
                continue
            corners = self.points[self.assets.skin_faces[fur.faces]].astype(np.float64)
            roots = np.einsum("nij,ni->nj", corners, fur.roots)
            normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
            normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-12
            lean = fur.directions @ self.turn.T
            lean = lean - 0.75 * np.sum(lean * normal, 1, keepdims=True) * normal
            along = np.array([0, 0.5, 1.0])[None, :, None]
            path = (
                roots[:, None]
                + lean[:, None] * fur.lengths[:, None, None] * along
                + normal[:, None] * (0.004 + 0.02 * along * (1 - along))
            )
            path = path.reshape(-1, 3).astype(np.float32)
            outward = np.repeat(normal, 3, 0).astype(np.float32)
            colours = kernels.shade_strands(
                path, outward, 3, fur.colours, np.full(len(path), 0.75, np.float32), *self._lights(), self.eye, 0.01
            )
            opacity = np.full(len(fur.lengths), min(1.0, 0.0085 * self.scale * fur.opacity))
            kernels.blend_strands(self.project(path), colours, 3, opacity, self.depth, 0.0003, self.image)

    def _draw_lashes(self) -> None:
        """Lashes are cards of the mesh that darken what lies behind them, the upper ones more."""
        n = self.pixels
        depth, shown = self.depth.copy(), np.full((n, n), kernels.EMPTY, np.int32)
        bary = np.zeros((1, 1, 2), np.float32)
        kernels.rasterise(self.project(self.points), self.assets.lashes, depth, shown, bary, False)
        rows, columns = np.nonzero(shown >= 0)
        height = self.assets.canonical[self.assets.lashes[shown[rows, columns]], 1].mean(1)
        liner = self.scene.makeup.eyeliner if self.scene.makeup and self.head.traits.sex < 0.5 else 0.0
        alpha = np.where(height > 7.27, 0.70 + 0.25 * liner, 0.25 + 0.25 * liner) * (1.05 - 0.3 * self.head.traits.sex)
        self.image[rows, columns] *= (1 - alpha)[:, None].astype(np.float32)

    def _rings(self, glasses: Glasses) -> list[np.ndarray]:
        """Outline [41, 3] of each lens in the head's frame."""
        t = np.linspace(0, 2 * np.pi, 41)
        u = np.sign(np.cos(t)) * np.abs(np.cos(t)) ** (2 / glasses.squareness)
        v = np.sign(np.sin(t)) * np.abs(np.sin(t)) ** (2 / glasses.squareness)
        rings = []
        for eye, sign in zip(self.head.eyes, (1, -1), strict=True):
            centre = np.array([eye[0] + 0.03 * sign, eye[1] - 0.04, self.head.eyes[:, 2].mean() + 0.34])
            rings.append(centre + np.stack([u * glasses.width, v * glasses.height, -0.05 * (u * sign + 1)], 1))
        return rings

    def _draw_frames(self, glasses: Glasses) -> None:
        left, right = self._rings(glasses)
        reach = np.abs(self.head.vertices[self.assets.canonical[: len(self.head.vertices), 1] > 6.9, 0]).max() * 0.93
        pieces = [left, right, np.stack([left[20] + [0, 0.06, 0], right[0] + [0, 0.06, 0]])]
        for ring, outer, sign in ((left, 0, 1), (right, 20, -1)):
            pieces.append(np.stack([ring[outer], [sign * reach, self.head.eyes[0, 1] + 0.02, 0.45]]))
        light = self.scene.light
        colour = np.array(glasses.colour) * (light.ambient[0] + 0.5 * light.colours[0])
        for piece in pieces:
            screen = self.project(self.place(piece).astype(np.float32))
            colours = np.tile(colour, (len(piece), 1)).astype(np.float32)
            width = np.array([glasses.thickness * self.scale], np.float32)
            kernels.draw_strands(screen, colours, len(piece), width, self.depth, self.face_id, self.image)

    def _draw_lenses(self, glasses: Glasses) -> None:
        fan = np.array([[41, i, i + 1] for i in range(40)], np.int32)
        for ring in self._rings(glasses):
            outline = np.concatenate([ring, ring.mean(0, keepdims=True)])
            depth, shown = self.depth.copy(), np.full(self.depth.shape, kernels.EMPTY, np.int32)
            kernels.rasterise(
                self.project(self.place(outline).astype(np.float32)),
                fan,
                depth,
                shown,
                np.zeros((1, 1, 2), np.float32),
                False,
            )
            rows, columns = np.nonzero(shown >= 0)
            through = np.array([0.10, 0.085, 0.07] if glasses.dark else [0.93, 0.95, 0.94], np.float32)
            sky = self.scene.light.ambient[0] * (0.06 if glasses.dark else 0.03)
            shine = sky[None] * (1 - rows / self.pixels)[:, None]
            self.image[rows, columns] = self.image[rows, columns] * through + shine.astype(np.float32)

    def _draw_background(self, rng: np.random.Generator) -> None:
        backdrop = background(self.scene.background, max(32, self.size // 2), rng)
        backdrop = cv2.resize(backdrop, (self.pixels, self.pixels), interpolation=cv2.INTER_LINEAR)
        empty = self.face_id == kernels.EMPTY
        self.image[empty] = backdrop[empty]


def background(kind: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """What lies behind a person, out of focus: linear RGB [size, size, 3] float32."""

    def grow(grid: np.ndarray) -> np.ndarray:
        return cv2.resize(grid.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)

    base = skin.linear(np.clip(rng.uniform(0.08, 0.98) + rng.normal(0, 0.07, 3), 0.02, 1))
    if kind == "plain":
        image = grow(np.ones((2, 2, 3)) * base * rng.uniform(0.6, 1.3, (2, 2, 1)))
    elif kind in ("blurred", "lamps"):
        cells = int(rng.integers(3, 12))
        image = grow(base * np.exp(rng.normal(0, 0.5, (cells, cells, 1)) + rng.normal(0, 0.12, (cells, cells, 3))))
        if kind == "lamps":
            rows, columns = np.mgrid[0:size, 0:size] / size
            for _ in range(int(rng.integers(4, 14))):
                x, y, radius = rng.random(), rng.random(), rng.uniform(0.015, 0.06)
                disc = np.clip((radius - np.hypot(columns - x, rows - y)) * size, 0, 1)
                image = image + disc[..., None] * skin.linear(rng.uniform(0.3, 1, 3)) * 0.8
    elif kind == "room":
        image = np.ones((size, size, 3)) * base
        for _ in range(int(rng.integers(4, 14))):
            x, y = rng.integers(0, size, 2)
            wide, high = (rng.uniform(0.1, 0.6, 2) * size).astype(int)
            image[y : y + high, x : x + wide] = skin.linear(
                np.clip(rng.uniform(0.1, 0.95) + rng.normal(0, 0.10, 3), 0, 1)
            )
        image = cv2.GaussianBlur(image.astype(np.float32), (0, 0), size * rng.uniform(0.012, 0.05))
    else:
        cells = int(rng.integers(8, 24))
        sky = skin.linear(np.clip(np.array([0.62, 0.74, 0.9]) * rng.uniform(0.8, 1.1), 0, 1))
        ground = np.clip(
            skin.linear(np.array([0.38, 0.42, 0.28]) * rng.uniform(0.6, 1.4)) + rng.normal(0, 0.02, 3), 0, 1
        )
        down = np.linspace(0, 1, cells)[:, None, None]
        horizon = rng.uniform(0.1, 0.7) + 0.1 * rng.normal(size=(1, cells, 1))
        mix = 1 / (1 + np.exp(-(down - horizon) * rng.uniform(6, 40)))
        image = grow((sky * (1 - mix) + ground * mix) * np.exp(rng.normal(0, 0.3, (cells, cells, 1)) * mix))
    return (np.clip(image, 0, 2) * rng.uniform(0.5, 1.1)).astype(np.float32)
