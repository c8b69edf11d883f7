"""What the learning translators promise whatever comes: one target image, gray images, images of several sizes."""

import zipfile
from dataclasses import replace

import numpy as np
import pytest

from stages import fit
from stages.store import encode
from stages.transfer import METHODS, create, knobs_of
from tests.transfer.staged import params

TINY = {
    "vsait": {"dimension": 16, "hidden": 4, "filters": 2},
    "decent": {"hidden": 2, "patches": 8},
    "unsb": {"patches": 8},
}


@pytest.fixture
def root(tmp_path):
    """Of two identities: an upright image, one of no multiple of 4, a gray one; of the target, a single gray image."""
    rng = np.random.default_rng(0)
    shapes = [(40, 40, 3), (39, 29, 3), (36, 36)]
    for place, images in (
        ("source/subjects_0-1_3_imgs.zip", {f"{i}/{k}.png": shape for i in range(2) for k, shape in enumerate(shapes)}),
        ("target/target.zip", {"0.png": (50, 44)}),
    ):
        (tmp_path / "data" / place).parent.mkdir(parents=True)
        with zipfile.ZipFile(tmp_path / "data" / place, "w") as file:
            for name, shape in images.items():
                file.writestr(name, encode(rng.integers(0, 256, shape).astype(np.uint8)))
    return tmp_path


def test_every_method_that_learns_is_tested_here():
    assert set(TINY) == {method for method in METHODS if knobs_of(method).learns}


@pytest.mark.parametrize("method", TINY)
def test_any_images_are_learned_from_and_translated(root, method):
    small = {"steps": 2, "batch_size": 2, "load": 36, "crop": 32, "width": 4, "blocks": 2, "size": 0, "device": "cpu"}
    chosen = params(method, **small, **TINY[method])
    chosen = replace(chosen, images_per_id=3, fit=fit.Fit(source_images=6, target_images=1, threads=1))
    fit.run(chosen, root)
    made = create(chosen, root).portraits(1)
    assert [image.shape for image in made.images] == [(40, 40, 3), (39, 29, 3), (36, 36, 3)]
    assert made.sample.tolist() == [0, 1, 2]
    assert all(image.std() > 0 for image in made.images)
