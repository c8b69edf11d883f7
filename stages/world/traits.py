"""Who a person is: the traits that all images of an identity share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stages.world.assets import load

WORLD_RANGES: dict[str, int] = {
    "source": 0,
    "target": 10_000_000,
    "benchmarks": 20_000_000,
    "pretrain": 30_000_000,
    "second": 40_000_000,
    "generator": 50_000_000,
}
"""First identity number of each population; each is ten million long, so no two share a person."""

ANCESTRIES = ("african", "asian", "caucasian")
YOUNGEST, OLDEST = 18.0, 80.0  # years

# standard deviation of a region's parameters before they saturate at 1
_SPREAD = {
    "head": 0.26, "forehead": 0.32, "eyebrows": 0.28, "eyes": 0.33, "nose": 0.38, "mouth": 0.36,
    "cheek": 0.33, "chin": 0.36, "ears": 0.35, "neck": 0.25, "asym": 0.13,
}  # fmt: skip
# what tells people apart at a glance varies more, what deforms the skull less
_SPREAD_OF = {
    "eye-scale": 0.5, "eyebrows-angle": 0.2, "head-scale-horiz": 0.4, "head-fat": 0.3, "eye-trans-in": 0.6,
    "nose-scale-horiz-decr": 0.6, "nose-scale-vert-decr": 0.6, "nose-hump-decr": 0.5, "mouth-scale-horiz-decr": 0.6,
    "mouth-trans-down": 0.5, "chin-height-decr": 0.6, "chin-width-decr": 0.6, "mouth-upperlip-volume-decr": 0.6,
    "mouth-lowerlip-volume-decr": 0.6, "eyebrows-trans-down": 0.5, "head-trans-backward": 0.1, "head-trans-down": 0.1,
    "head-trans-in": 0.05, "nose-trans-in": 0.12, "mouth-trans-in": 0.12, "neck-trans-in": 0.1, "head-triangular": 0.15,
    "head-diamond": 0.2, "head-back-scale-depth-decr": 0.3, "ear-shape-pointed": 0.05, "ear-shape-triangle": 0.1,
    "ear-shape-square": 0.1, "head-age-decr": 0.25, "eye-eyefold-angle-down": 0.3, "neck-double-decr": 0.25,
    "eye-push1-in": 0.25, "eye-push2-in": 0.25, "head-angle-in": 0.3,
}  # fmt: skip
_MEAN_OF = {
    "eye-scale-decr": 0.30, "eye-height2-decr": 0.22, "eye-height1-decr": 0.10, "eye-height3-decr": 0.10,
    "eyebrows-trans-down": 0.15, "eyebrows-angle-down": -0.1, "mouth-scale-horiz-decr": 0.2,
    "head-scale-horiz-decr": -0.12, "head-fat-decr": -0.15, "mouth-angles-down": 0.1,
}  # fmt: skip

# how the mean of women differs from that of men, beyond MakeHuman's own targets
_WOMEN = {
    "eye-scale-decr": 0.35, "eye-height2-decr": 0.25, "mouth-upperlip-volume-decr": 0.4,
    "mouth-lowerlip-volume-decr": 0.4, "chin-width-decr": -0.4, "nose-scale-horiz-decr": -0.3,
    "nose-volume-decr": -0.3, "eyebrows-trans-down": 0.3, "chin-prominent-decr": -0.3, "head-fat-decr": -0.2,
    "chin-height-decr": -0.2, "head-scale-horiz-decr": -0.15,
}  # fmt: skip


@dataclass(frozen=True)
class Traits:
    """A person. Replace `age` (years) or `ancestry` and all else about the person stays."""

    identity: int
    seed: int
    sex: float  # 0 female .. 1 male, as the face shows it
    age: float  # years, YOUNGEST to OLDEST
    ancestry: tuple[float, float, float]  # shares of ANCESTRIES, sum 1
    muscle: float  # 0 .. 1
    weight: float  # 0 .. 1
    shape: np.ndarray  # [p, 2] float32 in [-1, 1]: left and right value of each of the assets' parameters
    melanin: float  # standard deviations from the ancestry's mean tone
    hue: tuple[float, float]  # of the skin: towards red, towards yellow; standard deviations
    redness: float  # 0 .. 1, of cheeks, nose and ears
    freckles: float  # 0 .. 1
    moles: int
    texture: float  # 0 smooth .. 1 rough
    iris: float  # 0 .. 1, a quantile: dark to light among the ancestry's colours
    iris_size: float  # angle of its radius on the eyeball, radians
    hair_tone: float  # 0 .. 1, a quantile: dark to light
    hair_red: bool
    curl: float  # 0 straight .. 1 kinky
    hairline: float  # decimetres up
    recession: float  # 0 .. 1, of the hairline by old age
    grey_from: float  # age in years at which greying begins
    brow_thickness: float  # decimetres
    brow_arch: float
    brow_height: float
    brow_length: float
    brow_density: float  # 0 .. 1
    beard_growth: float  # 0 .. 1; shows on men
    lip_tone: float  # 0 .. 1
    tooth_tone: float  # 0 .. 1

    @property
    def elderly(self) -> float:
        """Age on MakeHuman's axis from young (0) to old (1)."""
        return float(np.clip((self.age - 20) / 60, 0, 1))

    @property
    def grey(self) -> float:
        """Share of grey hair."""
        return float(np.clip((self.age - self.grey_from) / 25, 0, 1))


def sample_traits(identity: int, seed: int = 0) -> Traits:
    """Draw a person: the same for equal (seed, identity) in any process.

    Raises:
        ValueError: a negative identity or seed.
    """
    if identity < 0 or seed < 0:
        raise ValueError(f"identity {identity}, seed {seed}: both must be at least 0")
    rng = np.random.default_rng([seed, identity, 0, 0])
    sex = float(np.clip(rng.normal(0.08, 0.10) if rng.random() < 0.5 else rng.normal(0.92, 0.10), 0, 1))
    ancestry = rng.dirichlet([0.35, 0.35, 0.45])
    age = YOUNGEST + (OLDEST - YOUNGEST) * rng.beta(1.4, 2.4)
    african = float(ancestry[0])
    return Traits(
        identity=identity,
        seed=seed,
        sex=sex,
        age=float(age),
        ancestry=(african, float(ancestry[1]), float(1 - african - ancestry[1])),
        muscle=float(np.clip(rng.normal(0.5, 0.2), 0, 1)),
        weight=float(np.clip(rng.normal(0.40, 0.18), 0, 1)),
        shape=_sample_shape(rng, sex),
        melanin=float(np.clip(rng.normal(), -2, 2)),
        hue=(float(np.clip(rng.normal(), -2, 2)), float(np.clip(rng.normal(), -2, 2))),
        redness=float(rng.uniform(0.2, 1)),
        freckles=float(rng.uniform(0.3, 1) if rng.random() < 0.22 else 0),
        moles=int(rng.poisson(3)),
        texture=float(rng.random()),
        iris=float(rng.random()),
        iris_size=float(rng.uniform(0.49, 0.56)),
        hair_tone=float(rng.random()),
        hair_red=bool(rng.random() < 0.06),
        curl=float(np.clip(0.65 * african + rng.beta(1.2, 3.5) * (1 - 0.8 * ancestry[1]), 0, 1)),
        hairline=float(rng.normal(0, 0.05)),
        recession=float(rng.random()),
        grey_from=float(rng.normal(48, 7)),
        brow_thickness=float(rng.uniform(0.016, 0.034)),
        brow_arch=float(rng.uniform(0.0, 1.0)),
        brow_height=float(rng.normal(0, 0.02)),
        brow_length=float(rng.uniform(0.40, 0.50)),
        brow_density=float(rng.uniform(0.25, 1.0)),
        beard_growth=float(rng.random()),
        lip_tone=float(rng.random()),
        tooth_tone=float(rng.random()),
    )


def _sample_shape(rng: np.random.Generator, sex: float) -> np.ndarray:
    """Signed shape parameters [p, 2]; tanh keeps each inside its target, the sides differ slightly."""
    parameters = load().parameters
    spread = np.array([_lookup(_SPREAD_OF, p.name, _SPREAD[p.region]) for p in parameters])
    mean = np.array([_MEAN_OF.get(p.name, 0.0) + (0.5 - sex) * _WOMEN.get(p.name, 0.0) for p in parameters])
    common = mean + rng.normal(size=len(parameters)) * spread
    sides = common[:, None] + rng.normal(size=(len(parameters), 2)) * 0.04
    return np.tanh(sides).astype(np.float32)


def _lookup(table: dict[str, float], name: str, default: float) -> float:
    return next((value for key, value in table.items() if name.startswith(key)), default)
