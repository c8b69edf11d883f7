"""From traits to a head that can be posed and lit: geometry, skin texture, eyes, hair."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from stages.world import hair, kernels, skin
from stages.world.assets import Assets, load
from stages.world.traits import ANCESTRIES, Traits

HAIR_VARIANTS = 3
# linear RGB from brown to blue and green, with the colour of the ring around the pupil
_IRIS = np.array([
    [0.045, 0.022, 0.010], [0.085, 0.040, 0.016], [0.15, 0.080, 0.028], [0.14, 0.14, 0.065],
    [0.11, 0.17, 0.12], [0.18, 0.23, 0.27], [0.15, 0.24, 0.36],
])  # fmt: skip


@dataclass
class Head:
    """A person at rest. Hair is grown when a scene first asks for its variant and then kept."""

    traits: Traits
    vertices: np.ndarray  # [v, 3] float32, decimetres
    eyes: np.ndarray  # [2, 3] centres
    eye_radius: float
    pivot: np.ndarray  # [3] about which the head turns
    texture: np.ndarray  # [rows, columns, 8] float32, see skin.bake
    iris: np.ndarray  # [9]: RGB, ring RGB, radius in radians, pupil, phase of the fibres
    lips: np.ndarray  # [3] linear RGB
    teeth: np.ndarray  # [3]
    brows: hair.SurfaceHair
    _grown: dict[int, tuple[hair.Strands | None, hair.SurfaceHair | None, float]] = field(
        default_factory=dict, repr=False
    )

    def hair(self, variant: int) -> tuple[hair.Strands | None, hair.SurfaceHair | None, float]:
        """Scalp hair, beard and stubble of one of the person's `HAIR_VARIANTS` ways to wear them."""
        if variant not in self._grown:
            assets = load()
            strands = hair.scalp(assets, self.vertices, self.eyes, self.traits, variant)
            self._grown[variant] = (strands, *hair.beard(assets, self.texture, self.traits, variant))
        return self._grown[variant]


def build_head(traits: Traits) -> Head:
    """Shape the mesh, bake the skin and plant the brows of a person."""
    assets = load()
    rng = np.random.default_rng([traits.seed, traits.identity, 1, 0])
    vertices = _geometry(assets, traits)
    eyes = np.stack([(vertices[ring].max(0) + vertices[ring].min(0)) / 2 for ring in assets.eyes])
    radius = np.mean(
        [np.median(np.linalg.norm(vertices[ring] - eye, axis=1)) for ring, eye in zip(assets.eyes, eyes, strict=True)]
    )
    tone = skin.tone(traits)
    dark = skin.pigment(traits) / 6
    return Head(
        traits=traits,
        vertices=vertices,
        eyes=eyes.astype(np.float64),
        eye_radius=float(radius),
        pivot=vertices[assets.head_joint].mean(0).astype(np.float64) - [0, 0.25, 0],
        texture=skin.bake(traits, rng),
        iris=_iris(traits, dark),
        lips=tone * [0.86, 0.42 + 0.22 * dark, 0.44 + 0.22 * dark] * (0.75 + 0.3 * traits.lip_tone),
        teeth=skin.linear(np.array([0.90, 0.87, 0.80])) * (0.75 + 0.3 * traits.tooth_tone),
        brows=hair.brows(assets, traits, rng),
    )


def _geometry(assets: Assets, traits: Traits) -> np.ndarray:
    """MakeHuman's macro targets for sex, age, ancestry and build, then the local parameters, smoothed of lumps."""
    weights: dict[int, float] = {}

    def add(name: str, weight: float) -> None:
        if name in assets.target_index and weight > 1e-6:
            weights[assets.target_index[name]] = weight

    build = {}
    for kind, value in (("muscle", traits.muscle), ("weight", traits.weight)):
        thirds = (max(0.0, 1 - 2 * value), 1 - abs(2 * value - 1), max(0.0, 2 * value - 1))
        build[kind] = dict(zip((f"min{kind}", f"average{kind}", f"max{kind}"), thirds, strict=True))
    for sex, of_sex in (("female", 1 - traits.sex), ("male", traits.sex)):
        for age, of_age in (("young", 1 - traits.elderly), ("old", traits.elderly)):
            for ancestry, share in zip(ANCESTRIES, traits.ancestry, strict=True):
                add(f"macro/{ancestry}-{sex}-{age}", share * of_sex * of_age)
            for muscle, of_muscle in build["muscle"].items():
                for weight, of_weight in build["weight"].items():
                    add(f"macro/universal-{sex}-{age}-{muscle}-{weight}", of_sex * of_age * of_muscle * of_weight)
    macro = kernels.blend_shapes(assets.vertices, assets.targets, *_lists(weights))

    weights = {}
    for parameter, sides in zip(assets.parameters, traits.shape, strict=True):
        for (negative, positive), value in zip(parameter.sides, sides, strict=False):
            target = positive if value >= 0 else negative
            if target >= 0:
                weights[target] = abs(float(value))
    local = kernels.blend_shapes(np.zeros_like(assets.vertices), assets.targets, *_lists(weights))
    return macro + kernels.smooth_field(local, *assets.neighbours, 3)


def _lists(weights: dict[int, float]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(list(weights), np.int64), np.array(list(weights.values()), np.float32)


def _iris(traits: Traits, dark: float) -> np.ndarray:
    fair = traits.ancestry[2] * np.clip(1.6 - 2.5 * dark, 0, 1)
    level = traits.iris * (1.6 + 4.4 * fair)
    colour = np.array([np.interp(level, range(len(_IRIS)), _IRIS[:, c]) for c in range(3)])
    return np.concatenate([colour, _IRIS[min(int(level) + 1, 3)] * 0.6, [traits.iris_size, 0.4, traits.identity % 97]])
