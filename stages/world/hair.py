"""Hair: strands of the scalp in styles that vary within an identity, brows, and beards.

Scalp hair is grown once per style in the head's frame. Brows and beards sit on the skin's triangles and follow the
expression.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stages.world import kernels, skin
from stages.world.assets import Assets
from stages.world.traits import Traits

_COLOURS = np.array(
    [[0.010, 0.008, 0.007], [0.028, 0.017, 0.010], [0.060, 0.034, 0.017], [0.12, 0.070, 0.032], [0.30, 0.19, 0.085]]
)
_RED = np.array([0.20, 0.065, 0.020])
_GREY = np.array([0.34, 0.335, 0.33])


@dataclass(frozen=True)
class Strands:
    """n strands of `points` points in the head's frame, in random order: the first m are a thinner head of hair."""

    points: int
    positions: np.ndarray  # [n * points, 3] float32
    outward: np.ndarray  # [n * points, 3] float32, away from the head
    colours: np.ndarray  # [n, 3] float32, linear
    occlusion: np.ndarray  # [n * points] float32, share of ambient light
    cover: float  # 0 .. 1: how much of the scalp below shows the hair's colour


@dataclass(frozen=True)
class SurfaceHair:
    """n short hairs on the skin: where they root, and directions in the canonical frame."""

    faces: np.ndarray  # [n] indices into the assets' skin faces
    roots: np.ndarray  # [n, 3] barycentric
    directions: np.ndarray  # [n, 3]
    lengths: np.ndarray  # [n] decimetres
    colours: np.ndarray  # [n, 3]
    opacity: float


@dataclass(frozen=True)
class Style:
    """How a haircut grows; pairs are ranges that a person's variant draws from. Lengths are decimetres."""

    top: tuple[float, float]  # length on top of the head
    sides: tuple[float, float]  # length at sides and back
    comb: str  # swept | parted | back | out
    lift: tuple[float, float]  # 0 flat .. 1 upright
    gravity: float
    points: int
    layer: float  # thickness of the hair on the head
    stiffness: float = 0.3
    stick: tuple[float, float] = (0.0, 0.0)
    fall: tuple[float, float] = (0.8, 0.8)
    hangs: bool = False  # falls beside the face


STYLES = {
    "buzz": Style((0.05, 0.10), (0.04, 0.08), "out", (0.7, 0.7), 0.0, 3, 0.03),
    "short": Style((0.25, 0.5), (0.14, 0.24), "swept", (0.25, 0.6), 0.12, 8, 0.12, stick=(0.0, 0.3)),
    "side": Style((0.55, 1.0), (0.20, 0.30), "parted", (0.2, 0.5), 0.22, 9, 0.13, stick=(0.15, 0.4), fall=(1.6, 1.6)),
    "quiff": Style((0.5, 0.9), (0.16, 0.26), "back", (0.5, 0.7), 0.05, 8, 0.12),
    "medium": Style((0.9, 1.6), (0.9, 1.6), "parted", (0.1, 0.3), 0.42, 13, 0.16, 0.2, fall=(1.6, 2.6), hangs=True),
    "long": Style((2.0, 3.0), (2.0, 3.0), "parted", (0.1, 0.3), 0.42, 16, 0.17, 0.2, fall=(1.6, 2.6), hangs=True),
    "tied": Style(
        (1.0, 1.3), (1.0, 1.3), "back", (0.02, 0.05), 0.0, 10, 0.07, 0.2, stick=(0.75, 0.75), fall=(0.0, 0.0)
    ),
    "curly": Style((0.35, 0.9), (0.3, 0.8), "out", (0.8, 0.8), 0.06, 12, 0.10, 0.6),
}


def colour(traits: Traits) -> np.ndarray:
    """Linear RGB [3] of the person's hair before greying."""
    if traits.hair_red and traits.ancestry[2] > 0.6:
        return _RED
    fair = traits.ancestry[2] * np.clip(1.8 - 0.5 * skin.pigment(traits), 0, 1)
    level = traits.hair_tone * (1.2 + 2.8 * fair)
    return np.array([np.interp(level, range(5), _COLOURS[:, c]) for c in range(3)])


def greyed(base: np.ndarray, traits: Traits) -> np.ndarray:
    """The mean colour when part of the hair is grey."""
    return base * (1 - traits.grey) + _GREY * traits.grey


def _choose(traits: Traits, rng: np.random.Generator) -> str:
    if traits.sex > 0.5:
        bald = 0.05 + 0.5 * traits.recession * traits.elderly
        weights = {
            "bald": bald,
            "buzz": 0.16,
            "short": 0.30,
            "side": 0.24,
            "quiff": 0.10,
            "medium": 0.06,
            "long": 0.02,
            "curly": 0.05,
        }
    else:
        weights = {"short": 0.06, "side": 0.05, "medium": 0.28, "long": 0.36, "tied": 0.20, "curly": 0.05}
    if traits.curl > 0.6:
        smooth = sum(weights.pop(name, 0.0) for name in ("side", "quiff", "medium", "long", "short"))
        weights["curly"] += 0.7 * smooth
        weights["buzz"] = weights.get("buzz", 0.0) + 0.3 * smooth * traits.sex
        weights["tied"] = weights.get("tied", 0.0) + 0.3 * smooth * (1 - traits.sex)
    names = list(weights)
    p = np.array([weights[name] for name in names])
    return str(rng.choice(names, p=p / p.sum()))


def _roots(assets: Assets, share: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`count` random points on the skin, triangle t taken in proportion to its area times share[t]."""
    total = np.cumsum(assets.skin_area * share)
    faces = np.searchsorted(total, rng.random(count) * total[-1], side="right")
    pair = rng.random((count, 2))
    pair = np.where(pair.sum(1, keepdims=True) > 1, 1 - pair, pair)
    return np.minimum(faces, len(share) - 1), np.column_stack([1 - pair.sum(1), pair])


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / (np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-9)


def scalp(
    assets: Assets, vertices: np.ndarray, eyes: np.ndarray, traits: Traits, variant: int, count: int = 8000
) -> Strands | None:
    """Grow variant `variant` of the person's hair on the head `vertices`; None is a bald head."""
    rng = np.random.default_rng([traits.seed, traits.identity, 2, variant])
    usual = _choose(traits, np.random.default_rng([traits.seed, traits.identity, 2, 999]))
    name = usual if usual == "bald" or rng.random() < 0.5 else _choose(traits, rng)
    if name == "bald":
        return None
    style = STYLES[name]
    centre = np.array([0, 7.35, 0.45]) + eyes.mean(0) - [0, 7.284, 1.245]
    used = np.unique(assets.skin_faces)
    used = used[
        (assets.canonical[used, 1] > 6.35)
        & (assets.head_weight[used] > 0.75)
        & (assets.masks[used, kernels.MOUTH] < 0.3)
    ]
    radii = np.minimum(kernels.radius_map(vertices[used].astype(np.float64), centre, 40, 80), 1.35)

    middle = assets.skin_centre
    azimuth = np.arctan2(middle[:, 0], middle[:, 2] - 0.35)
    ragged = 0.03 * np.sin(azimuth * 17 + rng.random() * 6) + 0.02 * np.sin(azimuth * 41 + rng.random() * 6)
    density = np.clip((middle[:, 1] - skin.hairline(azimuth, traits) - ragged) / 0.09, 0, 1) ** 1.3
    density *= (
        (assets.skin_masks[:, kernels.EARS] < 0.3)
        & (middle[:, 1] > 6.4)
        & (assets.skin_masks[:, kernels.OCCLUSION] > 0.25)
    )
    thinning = traits.sex * traits.elderly * traits.recession
    density = density * (1 - 0.9 * thinning * np.exp(-0.5 * ((middle[:, 1] - 8.49) / 0.16) ** 2))

    faces, bary = _roots(assets, density, count, rng)
    corners = vertices[assets.skin_faces[faces]].astype(np.float64)
    roots = np.einsum("nij,ni->nj", corners, bary)
    normals = _unit(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))
    away = roots - centre
    normals = _unit(0.6 * normals + 0.4 * _unit(away))
    top = np.clip((away[:, 1:2] - 0.55) / 0.4, 0, 1)
    front = np.clip(away[:, 2:3] / 0.6, -1, 1)
    parting = rng.choice([-1, 1]) * rng.uniform(0.12, 0.42) if rng.random() < 0.7 else rng.normal(0, 0.04)
    x, y, z = np.eye(3)
    jitter = rng.normal(size=(count, 3))
    beside = np.where(away[:, :1] > parting, 1.0, -1.0)
    if style.comb == "out":
        comb = normals + 0.35 * jitter - 0.25 * y
    elif style.comb == "swept":
        comb = (0.4 * beside * x * rng.uniform(0.3, 1) + 0.8 * z * front * rng.choice([1.0, -0.4], p=[0.6, 0.4])) * top
        comb = comb + (-0.9 * y - 0.5 * z) * (1 - top) + 0.22 * jitter
    elif style.comb == "back":
        comb = (-0.9 * z + 0.4 * y) * top + (-0.7 * y - 0.6 * z) * (1 - top) + 0.12 * jitter
        if name == "tied":
            comb = -z + 0.15 * y + 0.05 * jitter
    elif style.hangs:
        comb = beside * x * 0.9 * top - 0.9 * y * (1 - 0.6 * top) - 0.35 * z * (1 - 0.4 * front) + 0.10 * jitter
    else:
        comb = (beside * x + 0.45 * z * front) * top + (-0.9 * y - 0.45 * z) * (1 - top) + 0.14 * jitter
    length_top, length_side = rng.uniform(*style.top), rng.uniform(*style.sides)
    if style.hangs:
        length_side = length_top
    lengths = (length_top * top[:, 0] + length_side * (1 - top[:, 0])) * rng.uniform(0.65, 1.1, count)
    part = np.full(count, 1.0 if style.hangs else 0.0)
    if style.hangs and rng.random() < 0.3:  # a fringe
        fringe = (front[:, 0] > 0.6) & (np.abs(away[:, 0]) < 0.46) & (top[:, 0] > 0.2)
        comb[fringe] = 0.8 * z - 0.35 * y + 0.2 * jitter[fringe] + 0.4 * x * away[fringe, :1]
        lengths[fringe] = rng.uniform(0.34, 0.5) * rng.uniform(0.85, 1.05, int(fringe.sum()))
        part[fringe] = 0
    if style.comb != "out":
        comb = comb - 0.6 * np.sum(comb * normals, 1, keepdims=True) * normals
    layer = rng.random(count) ** 1.5 * style.layer + 0.012
    wave = traits.curl if style.comb == "out" else 0.5 * traits.curl
    curl = 0.0 if name in ("buzz", "tied") else 0.02 * wave + (0.03 if name == "curly" else 0.0)
    turns = 0.6 + 3.5 * wave
    phase = np.round(azimuth[faces] * 6 + middle[faces, 1] * 5) * 1.7 + rng.normal(0, 0.5, count)
    positions = kernels.grow(
        roots, normals, _unit(comb), lengths * (1 if name == "tied" else 0.15 + 0.85 * density[faces]),
        style.points, centre, radii, style.gravity, rng.uniform(*style.lift), style.stiffness,
        rng.uniform(*style.stick), rng.uniform(*style.fall), curl, turns, phase, layer, part,
    )  # fmt: skip
    if name == "tied":
        positions, layer = _add_bun(positions, layer, centre, style.points, rng)
    outward = positions - centre.astype(np.float32)
    n = len(layer)
    depth = np.repeat(layer / layer.max(), style.points)
    along = np.tile(np.linspace(0, 1, style.points), n)
    base = colour(traits)
    shade = rng.random((n, 1))
    grey = np.clip(traits.grey + 0.8 * traits.grey * (1 - traits.grey) * rng.normal(size=(n, 1)), 0, 1)
    colours = base * (0.7 + 0.6 * shade) * (1 - grey) + _GREY * (0.7 + 0.4 * shade) * grey
    return Strands(
        points=style.points,
        positions=positions,
        outward=_unit(outward).astype(np.float32),
        colours=colours.astype(np.float32),
        occlusion=np.clip(0.30 + 0.35 * depth + 0.35 * along, 0, 1).astype(np.float32),
        cover=0.75 if name == "buzz" else 0.95,
    )


def _add_bun(
    positions: np.ndarray, layer: np.ndarray, centre: np.ndarray, points: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A knot of hair behind the head, shuffled into the other strands."""
    count = len(layer) // 6
    middle = centre + np.array([0, rng.uniform(0.3, 0.9), -0.85])
    out = _unit(rng.normal(size=(count, 3)))
    side = _unit(np.cross(out, rng.normal(size=3)))
    along = np.linspace(-0.7, 0.7, points)[None, :, None]
    knot = middle + rng.uniform(0.22, 0.32) * (out[:, None] * np.cos(along) + side[:, None] * np.sin(along))
    strands = np.concatenate([positions.reshape(-1, points, 3), knot.astype(np.float32)])
    order = rng.permutation(len(strands))
    return strands[order].reshape(-1, 3), np.concatenate([layer, np.full(count, 0.06)])[order]


def brows(assets: Assets, traits: Traits, rng: np.random.Generator) -> SurfaceHair:
    """Eyebrows: the person's own arch, height, length, thickness and density."""
    x, y = assets.skin_centre[:, 0], assets.skin_centre[:, 1]
    reach = (np.abs(x) - 0.11) / traits.brow_length
    arch = (0.02 + 0.05 * traits.brow_arch) * np.sin(0.35 + 2.15 * np.clip(reach, 0, 1))
    middle = 7.488 + traits.brow_height + arch - 0.09 * np.clip(reach - 0.62, 0, 1) ** 1.2
    thick = traits.brow_thickness * (0.85 + 0.45 * traits.sex) * (1 - 0.65 * np.clip(reach - 0.3, 0, 1))
    share = np.exp(-0.5 * ((y - middle) / thick) ** 2) * (reach > 0) * (reach < 1) * (assets.skin_normal[:, 2] > 0.2)
    count = int((300 + 500 * traits.brow_density) * (0.85 + 0.35 * traits.sex))
    faces, roots = _roots(assets, np.where(share > 0.12, share, 0) + 1e-9, count, rng)
    start = np.einsum("nij,ni->nj", assets.canonical[assets.skin_faces[faces]], roots)
    reach = np.clip((np.abs(start[:, 0]) - 0.11) / traits.brow_length, 0, 1)
    lean = np.stack([np.sign(start[:, 0]) * (0.7 + 0.5 * reach), 0.45 - 0.85 * reach, np.full(count, 0.15)], 1)
    base = greyed(np.minimum(colour(traits), 0.09) * 0.9, traits) * 0.85 + 0.05 * skin.tone(traits)
    return SurfaceHair(
        faces=faces,
        roots=roots,
        directions=_unit(lean + rng.normal(0, 0.12, (count, 3))),
        lengths=rng.uniform(0.035, 0.06, count) * (0.9 + 0.2 * traits.sex),
        colours=(base * rng.uniform(0.7, 1.2, (count, 1))).astype(np.float32),
        opacity=0.5 + 0.35 * traits.brow_density,
    )


def beard(assets: Assets, texture: np.ndarray, traits: Traits, variant: int) -> tuple[SurfaceHair | None, float]:
    """The variant's beard, or None when shaven, and its stubble in [0, 1]."""
    rng = np.random.default_rng([traits.seed, traits.identity, 3, variant])
    if traits.sex < 0.5:
        return None, 0.0
    stubble = float(np.clip(rng.normal(0.15, 0.2) + 0.4 * traits.beard_growth * rng.random(), 0, 0.8)) * (
        1 - 0.4 * skin.pigment(traits) / 6
    )
    if traits.beard_growth < 0.45 or rng.random() < 0.45:
        return None, stubble
    kind = str(rng.choice(["full", "goatee", "moustache", "short"], p=[0.3, 0.15, 0.15, 0.4]))
    centre = assets.skin_centre
    rows, columns = texture.shape[:2]
    uv = assets.uv[assets.skin_faces].mean(1)
    share = texture[(uv[:, 1] * (rows - 1)).astype(int), (uv[:, 0] * (columns - 1)).astype(int), 7]
    share = share * (assets.skin_masks[:, kernels.LIPS] < 0.15) * (assets.skin_masks[:, kernels.MOUTH] < 0.1)
    if kind == "goatee":
        share = share * (np.abs(centre[:, 0]) < 0.30)
    elif kind == "moustache":
        share = share * (centre[:, 1] > 6.68) * (np.abs(centre[:, 0]) < 0.32)
    count = {"full": 3200, "goatee": 1100, "moustache": 450, "short": 2600}[kind]
    faces, roots = _roots(assets, np.where(share > 0.3, share, 0) + 1e-9, count, rng)
    start = np.einsum("nij,ni->nj", assets.canonical[assets.skin_faces[faces]], roots)
    down = np.stack(
        [np.sign(start[:, 0]) * np.where(start[:, 1] > 6.68, 0.8, 0.15), np.full(count, -1.0), np.full(count, 0.4)], 1
    )
    reach = {"full": rng.uniform(0.10, 0.28), "goatee": rng.uniform(0.07, 0.16), "moustache": 0.09, "short": 0.05}[kind]
    base = greyed(colour(traits) * 0.9, traits) + np.array([0.004, 0.002, 0.001])
    hair = SurfaceHair(
        faces=faces,
        roots=roots,
        directions=_unit(down + rng.normal(0, 0.25, (count, 3))),
        lengths=reach * rng.uniform(0.6, 1.1, count),
        colours=(base * rng.uniform(0.7, 1.3, (count, 1))).astype(np.float32),
        opacity=0.85,
    )
    return hair, max(stubble, 0.6)
