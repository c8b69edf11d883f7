"""Skin: tone, and a texture of colour, roughness, relief, scalp and beard regions."""

from __future__ import annotations

import cv2
import numpy as np

from stages.world.assets import texel_grid
from stages.world.traits import Traits

ROWS, COLUMNS = 384, 256
# sRGB of skin from the least to the most melanin
_TONES = (
    np.array(
        [
            [240, 198, 172],
            [230, 182, 152],
            [216, 164, 132],
            [194, 140, 108],
            [156, 107, 80],
            [118, 78, 58],
            [84, 55, 43],
        ]
    )
    / 255
)
_MELANIN = np.array([4.5, 1.7, 1.1])  # mean position on that scale by ancestry


def linear(srgb: np.ndarray) -> np.ndarray:
    """Light that an sRGB value in [0, 1] stands for."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def pigment(traits: Traits) -> float:
    """Melanin on the scale from 0 (lightest) to 6 (darkest)."""
    return float(np.clip(_MELANIN @ traits.ancestry + 0.65 * traits.melanin, 0, 6))


def tone(traits: Traits) -> np.ndarray:
    """Linear RGB of the person's skin [3] in (0, 1)."""
    level = pigment(traits)
    colour = np.array([np.interp(level, range(7), _TONES[:, c]) for c in range(3)])
    red, yellow = traits.hue
    return linear(np.clip(colour * [1 + 0.012 * red, 1, 1 - 0.02 * red - 0.025 * yellow], 0.05, 0.97))


def noise(rng: np.random.Generator, cells: int, octaves: int = 1) -> np.ndarray:
    """Smooth noise [ROWS, COLUMNS] float32 of about unit variance; `cells` across the texture."""
    out = np.zeros((ROWS, COLUMNS), np.float32)
    weight, total = 1.0, 0.0
    for k in range(octaves):
        n = cells * 2**k
        grid = rng.standard_normal((max(2, n * ROWS // COLUMNS), max(2, n)), dtype=np.float32)
        out += weight * cv2.resize(grid, (COLUMNS, ROWS), interpolation=cv2.INTER_CUBIC)
        total += weight * weight
        weight *= 0.6
    return out * np.float32(1.3 / np.sqrt(total))


HEIGHT, AZIMUTH = (axis.astype(np.float32) for axis in texel_grid(ROWS, COLUMNS))
_AROUND = np.abs(AZIMUTH)


def spot(azimuth: float, height: float, wide: float, high: float) -> np.ndarray:
    """A Gaussian patch [ROWS, COLUMNS] in [0, 1]."""
    return np.outer(np.exp(-0.5 * ((HEIGHT - height) / high) ** 2), np.exp(-0.5 * ((AZIMUTH - azimuth) / wide) ** 2))


def both(azimuth: float, height: float, wide: float, high: float) -> np.ndarray:
    """The same patch on both sides of the face."""
    return np.outer(
        np.exp(-0.5 * ((HEIGHT - height) / high) ** 2),
        np.exp(-0.5 * ((_AROUND - azimuth) / wide) ** 2),
    )


def hairline(azimuth: np.ndarray, traits: Traits) -> np.ndarray:
    """Height of the hairline by azimuth; it recedes with age at the temples of men."""
    back = traits.recession * traits.elderly * traits.sex
    up, temples = traits.hairline + 0.10 * back, 0.03 * traits.sex + 0.30 * back
    around = [0, 0.35, 0.75, 1.05, 1.35, 1.62, 1.95, 2.4, 3.15]
    heights = [
        7.92 + up,
        7.92 + up + 0.3 * temples,
        7.85 + 0.8 * up + temples,
        7.55 + 0.7 * temples,
        7.05,
        7.28,
        6.98,
        6.66,
        6.55,
    ]
    return np.interp(np.abs(azimuth), around, heights)


def bake(traits: Traits, rng: np.random.Generator) -> np.ndarray:
    """The texture [ROWS, COLUMNS, 8] float32: linear RGB, roughness, slopes along u and v, scalp, beard region."""
    level = pigment(traits) / 6
    elderly = traits.elderly
    redness = 0.55 * both(0.55, 6.86, 0.24, 0.18) + 0.5 * spot(0, 6.92, 0.13, 0.12) + 0.15 * spot(0, 6.3, 0.3, 0.12)
    redness += 0.35 * both(1.5, 6.95, 0.25, 0.3)
    redness = (redness * (0.3 + traits.redness) + 0.12 * noise(rng, 12, 3)) * (1 - 0.5 * level)
    shade = 0.20 * both(0.27, 7.14, 0.13, 0.06) * rng.uniform(0.2, 1.4 + elderly)
    shade += 0.10 * both(0.26, 7.38, 0.17, 0.07) * rng.uniform(0.3, 1.5)
    mottle = 1 + 0.03 * noise(rng, 6, 2) + 0.03 * noise(rng, 50, 2) * (0.6 + 0.7 * elderly + 0.4 * traits.texture)
    freckles = np.clip((noise(rng, 110) - 1.1) * 1.2, 0, 1) * both(0.4, 7.0, 0.5, 0.3)
    freckles *= (0.5 * traits.freckles * (level < 0.45)) + 0.10 * elderly + 0.03
    moles = np.zeros((ROWS, COLUMNS), np.float32)
    for _ in range(traits.moles):
        size = rng.uniform(0.011, 0.022)
        moles += spot(rng.uniform(-1, 1), rng.uniform(6.2, 7.9), size, size) * rng.uniform(0.4, 0.9)

    wrinkled = max(0.0, elderly - 0.15) * 1.1
    wander = noise(rng, 8, 2)
    rows, columns = HEIGHT[:, None], _AROUND[None]
    forehead = np.sin((rows - 7.6) * rng.uniform(38, 50) + 0.9 * wander) * spot(0, 7.72, 0.45, 0.13) * wrinkled
    feet = np.sin((rows - 7.26) * 70 + columns * 20 + wander) * both(0.62, 7.26, 0.10, 0.12) * wrinkled
    fold = np.exp(-0.5 * ((columns - (0.30 + 0.42 * (6.98 - rows))) / 0.035) ** 2) * np.exp(
        -0.5 * ((rows - 6.78) / 0.14) ** 2
    )
    fold = fold * (0.15 + wrinkled) * rng.uniform(0.4, 1.2)
    relief = 0.5 * np.clip(forehead, -1, 0.3) + 0.4 * np.clip(feet, -1, 0.3) - 0.35 * fold
    relief += (0.05 + 0.07 * traits.texture) * noise(rng, 115) + 0.06 * noise(rng, 60) * (0.5 + elderly)
    shade = shade + 0.10 * np.clip(-forehead, 0, 1) + 0.10 * np.clip(-feet, 0, 1) + 0.12 * fold

    chin = (
        np.clip(1.3 * np.exp(-0.5 * ((rows - 6.30) / 0.30) ** 2), 0, 1)
        * (columns < 1.15)
        * (1 - spot(0, 6.98, 0.5, 0.17))
    )
    cheek = np.clip((rows - (6.62 + 0.42 * np.clip((columns - 0.55) / 0.5, 0, 1.6))) / 0.18, 0, 1)
    beard = np.clip(chin * (1 - cheek) + 1.1 * spot(0, 6.76, 0.20, 0.05), 0, 1) * np.clip((rows - 6.20) / 0.14, 0, 1)

    above = rows - hairline(AZIMUTH, traits)[None] + 0.015 * noise(rng, 30)
    ear = (np.abs(columns - 1.55) < 0.28) & (rows < 7.36) & (rows > 6.5)
    scalp = np.clip(above / 0.10, 0, 1) * ~ear

    out = np.empty((ROWS, COLUMNS, 8), np.float32)
    base = tone(traits)
    for c, (blood, dark, spotted, mole) in enumerate(
        [(0.10, 0.5, 0.25, 0.5), (-0.42, 0.62, 0.45, 0.65), (-0.36, 0.60, 0.55, 0.70)]
    ):
        colour = base[c] * mottle * (1 + 0.5 * blood * redness) * (1 - dark * shade)
        out[..., c] = np.clip(colour * (1 - spotted * freckles) * (1 - mole * np.minimum(moles, 1)), 0.004, 0.95)
    oily = spot(0, 7.75, 0.4, 0.2) + spot(0, 7.1, 0.1, 0.3) + 0.6 * spot(0, 6.3, 0.2, 0.1)
    out[..., 3] = np.clip(0.52 + 0.05 * noise(rng, 24, 2) - 0.09 * oily * rng.uniform(0.2, 1.2), 0.34, 0.75)
    out[..., 4] = 0.5 * np.gradient(relief, axis=1)
    out[..., 5] = -0.6 * np.gradient(relief, axis=0)
    out[..., 6] = scalp
    out[..., 7] = beard * (1 + 0.2 * noise(rng, 110))
    return np.clip(out, [0, 0, 0, 0, -1, -1, 0, 0], 1).astype(np.float32)
