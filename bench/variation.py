"""How much images of a person vary, before and after identity mixup: `python -m bench.variation` prints one JSON line.

SynFace's figure 3 in the embedded world: Syn1 is without mixup, Syn2 at a share of 0.8, Syn3 at 0.6 to 1 in 11 steps,
and `code` at the official code's 0 to 1 in 21; `camera` are the same people unmixed, photographed. An encoder that was
trained on photographs of others sees them aligned. Of each set the mean of 1 - cosine between two images of a person
(`pair`) and of 1 - cosine to their mean (`centre`), over people.
"""

import json
import sys
from pathlib import Path

import numpy as np

from stages.align.faces import align_images, detector
from stages.align.knobs import Align
from stages.embed.encoder import Encoder
from stages.judge import Judge, diversity
from stages.transfer.identity_mixup import mixtures
from stages.world import WORLD_RANGES, Look, build_head, render, sample_scene, sample_traits
from stages.world.mixup import mix_traits

PEOPLE, IMAGES, SIZE = 12, 12, 112
FIRST = WORLD_RANGES["source"]
SETS: dict[str, tuple[list[float], Look]] = {
    "Syn1": ([1.0], "raster"),
    "Syn2": ([0.8], "raster"),
    "Syn3": (np.linspace(0.6, 1.0, 11).tolist(), "raster"),
    "code": (np.linspace(0, 1.05, 21, endpoint=False).tolist(), "raster"),
    "camera": ([1.0], "camera"),
}


def pictures(person: int, ratios: list[float], look: Look) -> list[np.ndarray]:
    """A person's images, another partner in each of them."""
    mixed = mixtures(person, range(PEOPLE), IMAGES, ratios, seed=0)
    own = sample_traits(FIRST + person)
    images = []
    for sample, (partner, ratio) in enumerate(zip(mixed.partner.tolist(), mixed.ratio.tolist(), strict=True)):
        head = build_head(mix_traits(own, sample_traits(FIRST + partner), ratio))
        images.append(render(head, sample_scene(FIRST + person, sample), look, SIZE))
    return images


def main() -> None:
    encoder, mtcnn, out = Encoder(Path(Judge().encoder)), detector(Align()), {}
    for name, (ratios, look) in SETS.items():
        pair, centre = [], []
        for person in range(PEOPLE):
            seen = encoder.embed(align_images(pictures(person, ratios, look), mtcnn).images).astype(np.float64)
            seen /= np.linalg.norm(seen, axis=1, keepdims=True)
            mean = seen.mean(axis=0)
            pair.append(diversity(seen))
            centre.append(1 - (seen @ mean / np.linalg.norm(mean)).mean())
        out[name] = {"pair": round(np.mean(pair), 4), "centre": round(np.mean(centre), 4)}
        print(name, out[name], file=sys.stderr)
    print(json.dumps({"people": PEOPLE, "images": IMAGES} | out))


if __name__ == "__main__":
    main()
