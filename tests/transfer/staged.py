"""What the tests of translators as stages share: a small source and target, and what is learned from them."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from stages import fit, transfer
from stages.params import Params
from stages.store import encode, file_digest


def write_faces(root: Path) -> Path:
    """A dark source of 3 x 2 images and a bright target of 5, of 36 px."""
    rng = np.random.default_rng(0)
    for place, names, level in (
        ("source/subjects_0-2_2_imgs.zip", [f"{i}/{k}.png" for i in range(3) for k in range(2)], 40),
        ("target/target.zip", [f"{k}.png" for k in range(5)], 180),
    ):
        (root / "data" / place).parent.mkdir(parents=True)
        with zipfile.ZipFile(root / "data" / place, "w") as file:
            for name in names:
                file.writestr(name, encode(rng.integers(level, level + 40, (36, 36, 3)).astype(np.uint8)))
    return root


def params(method: str, seed: int = 0, **knobs) -> Params:
    block = fit.Fit(source_images=6, target_images=5, checkpoint_minutes=0.0, threads=1)
    return Params(method=method, transfer=transfer.knobs_of(method)(**knobs), fit=block, images_per_id=2, seed=seed)


def content(root: Path) -> dict[str, str]:
    """Digests of the weights that `fit` wrote, and of the sheet."""
    return {path.name: file_digest(path) for folder in ("data/fit", "plots/fit") for path in (root / folder).iterdir()}


def assert_killed_fit_goes_on_to_the_same_bytes(root: Path, chosen: Params, learner: type, monkeypatch) -> None:
    """A fit killed before its last step, and resumed from its checkpoint, writes what one in one go does."""
    step, done, last = learner.step, [], chosen.transfer.steps

    def killed(self, *batch):
        done.append(1)
        if len(done) == last:
            raise KeyboardInterrupt
        return step(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(learner, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            fit.run(chosen, root)
    with monkeypatch.context() as patch:
        patch.setattr(learner, "step", lambda self, *batch: done.append(1) or step(self, *batch))
        fit.run(chosen, root)
    assert len(done) == last + 1
    resumed = content(root)
    with monkeypatch.context() as patch:
        patch.setenv("R2R_CACHE", str(root / "another cache"))  # so that it is trained anew, in one go
        torch.manual_seed(99)  # whatever stands in the global generator
        fit.run(chosen, root)
    assert content(root) == resumed
