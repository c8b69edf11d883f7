"""What changes from image to image of a person: pose, expression, gaze, light, background, glasses, make-up, camera."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stages.world.assets import load
from stages.world.head import HAIR_VARIANTS
from stages.world.skin import linear


@dataclass(frozen=True)
class Light:
    """Ambient spherical harmonics and k directional lights; the first casts shadows. Linear RGB."""

    ambient: np.ndarray  # [9, 3]
    directions: np.ndarray  # [k, 3] unit vectors towards the lights
    colours: np.ndarray  # [k, 3]


@dataclass(frozen=True)
class Camera:
    """Where the photograph is taken from, in decimetres and radians."""

    distance: float
    half_height: float  # of the frame at the face; a face is about 1.7 from chin to hairline
    shift: tuple[float, float]  # of the face's centre in the frame
    azimuth: float
    elevation: float


@dataclass(frozen=True)
class Glasses:
    """Half width and height of a lens in decimetres, exponent of its outline (2 an ellipse, more a rectangle)."""

    width: float
    height: float
    squareness: float
    thickness: float
    colour: tuple[float, float, float]
    dark: bool  # sunglasses


@dataclass(frozen=True)
class Makeup:
    """Linear RGB of lipstick and how much it covers; strength of the line around the eyes."""

    lips: tuple[float, float, float]
    cover: float
    eyeliner: float


@dataclass(frozen=True)
class Scene:
    """One photograph to be. Replace any field, as in `replace(scene, yaw=1.4)` for a profile."""

    key: tuple[int, int, int]  # seed, identity, sample: of the noise that rendering itself draws
    yaw: float  # radians, to the person's left
    pitch: float  # down
    roll: float
    expression: Mapping[str, float]  # weights in [0, 1] by the names of ARKit's units
    gaze: tuple[float, float]  # radians to the left and up, relative to the head
    pupil: float  # of the iris's radius
    light: Light
    background: str  # plain | blurred | lamps | room | outdoors
    clothes: np.ndarray  # [10]: RGB, RGB of stripes, neckline height and slope, stripes per decimetre and their tilt
    camera: Camera
    hair: int  # variant of the person's hair and beard
    glasses: Glasses | None
    makeup: Makeup | None
    exposure: float  # stops
    quality: float  # 1 a good photograph .. 0 a bad one: blur, noise, compression; the camera look's


_MOODS = {
    "neutral": 0.28, "smile": 0.22, "grin": 0.22, "open": 0.07,
    "frown": 0.04, "surprise": 0.04, "squint": 0.05, "any": 0.08,
}  # fmt: skip


def sample_expression(rng: np.random.Generator) -> dict[str, float]:
    """A mood of random strength, slightly uneven, with the blink and brow movement of any photograph."""
    mood = str(rng.choice(list(_MOODS), p=list(_MOODS.values())))
    strength, uneven = rng.uniform(0.35, 0.95), rng.normal(0, 0.06)
    out: dict[str, float] = {}

    def both(name: str, weight: float) -> None:
        out[f"{name}Left"], out[f"{name}Right"] = weight * (strength + uneven), weight * (strength - uneven)

    if mood in ("smile", "grin"):
        both("mouthSmile", 1.0)
        both("cheekSquint", 0.42)
        both("eyeSquint", 0.22)
        both("mouthDimple", 0.2)
    if mood == "grin":
        both("mouthUpperUp", 0.6)
        both("mouthLowerDown", 0.45)
        out["jawOpen"] = 0.12 * strength
    elif mood == "open":
        out["jawOpen"], out["mouthFunnel"] = 0.45 * strength, 0.3 * rng.random()
    elif mood == "frown":
        both("mouthFrown", 0.6)
        both("browDown", 0.6)
        both("mouthPress", 0.3)
    elif mood == "surprise":
        both("browOuterUp", 0.7)
        both("eyeWide", 0.6)
        out["jawOpen"] = 0.3 * strength
    elif mood == "squint":
        both("eyeSquint", 0.7)
        both("noseSneer", 0.3)
        both("browDown", 0.3)
    elif mood == "any":
        names = [
            n
            for n in load().expression_index
            if n not in ("tongueOut", "mouthClose") and "eyeLook" not in n and "Blink" not in n
        ]
        out.update({str(name): float(rng.uniform(0, 0.4)) for name in rng.choice(names, 5, replace=False)})
    blink = rng.uniform(0.5, 0.9) if rng.random() < 0.03 else abs(rng.normal(0, 0.05))
    out["eyeBlinkLeft"] = out["eyeBlinkRight"] = blink
    out["browInnerUp"] = (
        out.get("browInnerUp", 0.0) + max(0.0, rng.normal(0.08, 0.10)) + (0.6 * strength if mood == "surprise" else 0.0)
    )
    return {name: float(np.clip(weight, 0, 1)) for name, weight in out.items()}


def _towards(azimuth: float, elevation: float) -> np.ndarray:
    return np.array([np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)])


def _warmth(t: float) -> np.ndarray:
    return np.array([1 + 0.20 * t, 1.0, 1 - 0.26 * t])


def sample_light(rng: np.random.Generator) -> Light:
    """Soft, frontal, side, top and back light, indoors and outdoors."""
    kind = str(rng.choice(["soft", "key", "flash", "side", "rim", "top"], p=[0.28, 0.30, 0.14, 0.12, 0.08, 0.08]))
    level = rng.uniform(0.4, 0.65) if kind == "soft" else rng.uniform(0.15, 0.4)
    tint = _warmth(np.clip(rng.normal(0.15, 0.35), -0.8, 0.9))
    ambient = np.zeros((9, 3))
    ambient[0] = level * tint
    ambient[1] = level * (0.5 * tint + rng.normal(0, 0.05, 3)) * rng.uniform(0.3, 1.0)
    ambient[2] = level * rng.normal(0.2, 0.22) * tint
    ambient[3] = level * rng.normal(0, 0.25) * tint
    ambient[4:] = level * rng.normal(0, 0.06, (5, 1)) * tint
    side = float(rng.choice([-1, 1]))
    azimuth, elevation, power = {
        "soft": (rng.uniform(-0.8, 0.8), rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.45)),
        "key": (rng.uniform(-1, 1), rng.uniform(0.15, 0.8), rng.uniform(0.6, 1.1)),
        "flash": (rng.uniform(-0.15, 0.15), rng.uniform(0.05, 0.3), rng.uniform(0.7, 1.2)),
        "side": (side * rng.uniform(0.8, 1.35), rng.uniform(0.05, 0.6), rng.uniform(0.6, 1.1)),
        "rim": (rng.uniform(-0.8, 0.8), rng.uniform(0.2, 0.7), rng.uniform(0.3, 0.6)),
        "top": (rng.uniform(-0.7, 0.7), rng.uniform(0.8, 1.15), rng.uniform(0.5, 0.9)),
    }[kind]
    lights = [(_towards(azimuth, elevation), power * _warmth(np.clip(rng.normal(0.15, 0.45), -1, 1.2)))]
    if kind == "rim" or rng.random() < 0.25:
        lights.append(
            (
                _towards(float(rng.choice([-1, 1])) * rng.uniform(1.9, 2.7), rng.uniform(0.1, 0.7)),
                rng.uniform(0.4, 1.0) * _warmth(rng.normal(0, 0.5)),
            )
        )
    if rng.random() < 0.35:
        lights.append(
            (
                _towards(rng.uniform(-1.2, 1.2), rng.uniform(-0.2, 0.5)),
                rng.uniform(0.1, 0.3) * _warmth(rng.normal(0, 0.5)),
            )
        )
    return Light(ambient, np.array([d for d, _ in lights]), np.array([c for _, c in lights]))


def sample_glasses(rng: np.random.Generator) -> Glasses:
    """Spectacles, one in six of them dark."""
    colour = linear(
        np.array([[0.05, 0.05, 0.05], [0.25, 0.15, 0.08], [0.6, 0.6, 0.62], [0.55, 0.42, 0.2]])[rng.integers(4)]
    )
    return Glasses(
        width=rng.uniform(0.25, 0.30),
        height=rng.uniform(0.18, 0.24),
        squareness=rng.uniform(2.2, 4.5),
        thickness=rng.uniform(0.015, 0.045),
        colour=(float(colour[0]), float(colour[1]), float(colour[2])),
        dark=bool(rng.random() < 0.16),
    )


def sample_makeup(rng: np.random.Generator) -> Makeup:
    """Lipstick and eyeliner."""
    lips = linear(
        np.array([[0.66, 0.14, 0.18], [0.76, 0.33, 0.36], [0.60, 0.20, 0.28], [0.80, 0.42, 0.38]])[rng.integers(4)]
    )
    return Makeup((float(lips[0]), float(lips[1]), float(lips[2])), rng.uniform(0.35, 0.95), rng.uniform(0, 1))


def sample_clothes(rng: np.random.Generator) -> np.ndarray:
    """Colours, stripes and neckline of a shirt."""
    first = linear(np.clip(rng.beta(0.8, 1.0) * 0.95 + rng.normal(0, 0.12, 3), 0.02, 0.98))
    stripes = rng.uniform(20, 60) if rng.random() < 0.2 else 0.0
    return np.concatenate(
        [
            first,
            linear(rng.uniform(0.05, 0.95, 3)),
            [rng.uniform(5.62, 5.92), -rng.uniform(0.02, 0.26), stripes, rng.choice([0.0, 30.0])],
        ]
    )


def sample_scene(identity: int, sample: int, seed: int = 0) -> Scene:
    """Draw image `sample` of a person: the same for equal (seed, identity, sample) in any process.

    Raises:
        ValueError: a negative number.
    """
    if min(identity, sample, seed) < 0:
        raise ValueError(f"identity {identity}, sample {sample}, seed {seed}: all must be at least 0")
    rng = np.random.default_rng([seed, identity, sample, 4])
    yaw = rng.normal(0, 0.12) if rng.random() < 0.35 else rng.normal(0, 0.40)
    habit = np.random.default_rng([seed, identity, 0, 5]).random()  # of make-up; it shows on women
    return Scene(
        key=(seed, identity, sample),
        yaw=float(np.clip(yaw, -0.85, 0.85)),
        pitch=float(np.clip(rng.normal(0.02, 0.14), -0.40, 0.40)),
        roll=float(rng.normal(0, 0.09)),
        expression=sample_expression(rng),
        gaze=(float(rng.normal(0, 0.12)), float(rng.normal(0, 0.06))),
        pupil=float(rng.uniform(0.28, 0.5)),
        light=sample_light(rng),
        background=str(rng.choice(["plain", "blurred", "lamps", "room", "outdoors"], p=[0.22, 0.26, 0.12, 0.2, 0.2])),
        clothes=sample_clothes(rng),
        camera=Camera(
            distance=float(rng.uniform(7, 20)),
            half_height=float(rng.uniform(1.20, 1.48)),
            shift=(float(rng.normal(0, 0.05)), float(rng.normal(0, 0.05))),
            azimuth=float(rng.normal(0, 0.05)),
            elevation=float(rng.normal(0, 0.05)),
        ),
        hair=int(rng.integers(HAIR_VARIANTS)),
        glasses=sample_glasses(rng) if rng.random() < 0.13 else None,
        makeup=sample_makeup(rng) if rng.random() < 0.15 + 0.6 * habit else None,
        exposure=float(rng.normal(0, 0.28)),
        quality=float(1 - 0.5 * rng.beta(1.2, 2.5) if rng.random() < 0.85 else rng.uniform(0.1, 0.5)),
    )
