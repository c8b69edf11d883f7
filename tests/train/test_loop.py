import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from stages.params import Params, ParamsError, Train
from stages.store import StoreError
from stages.train import backbones, loop, run
from stages.train.backbones import IResNet, load_backbone, normalise
from stages.train.data import FaceDataset
from tests.train.conftest import made_up_people

OUTPUTS = ("data/train/backbone.safetensors", "metrics/train.json", "plots/train.csv")
TINY = Train(backbone="test", head="cosface", margin=0.1, scale=16, batch_size=16, lr=0.05, epochs=4, threads=1)


class WithDropout(IResNet):
    """Small enough for a test, and with dropout, whose randomness a resumed run must repeat."""

    def __init__(self):
        super().__init__((1, 1), widths=(8, 16), stem_stride=4, embedding=16)

    def forward(self, images):
        return super().forward(nn.functional.dropout2d(images, 0.1, self.training))


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("R2R_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(backbones.BACKBONES, "test", WithDropout)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def root(tmp_path, write_aligned):
    write_aligned(tmp_path / "a/data/align", made_up_people(range(8), range(10)))
    os.symlink(tmp_path / "a/data", tmp_path / "data")
    return tmp_path


def place(root, name):
    """Another root on the same aligned images."""
    (root / name / "data").mkdir(parents=True, exist_ok=True)
    if not (root / name / "data/align").exists():
        (root / name / "data/align").symlink_to(root / "a/data/align")
    return root / name


def digests(root):
    return [hashlib.sha256((root / path).read_bytes()).hexdigest() for path in OUTPUTS]


def test_learns_and_writes_its_outputs(root):
    here = place(root, "a")
    run(Params(train=Train(**{**vars(TINY), "epochs": 10})), here)
    metrics = json.loads((here / "metrics/train.json").read_text())
    assert (metrics["identities"], metrics["images"], metrics["steps"]) == (8, 80, 50)
    assert metrics["accuracy"] > 70  # chance is 12.5, and the images are augmented

    rows = list(csv.DictReader((here / "plots/train.csv").open()))
    assert [int(row["step"]) for row in rows] == list(range(1, 51))
    assert float(rows[-1]["loss"]) < 0.5 * float(rows[0]["loss"])
    assert float(rows[-1]["lr"]) < float(rows[0]["lr"]) == 0.05

    network, card = load_backbone(here / "data/train/backbone.safetensors")
    assert (card.backbone, card.embedding, card.identities, card.images, card.head) == ("test", 16, 8, 80, "cosface")
    data = FaceDataset(here / "data/align")
    with torch.no_grad():
        embeddings = nn.functional.normalize(network(normalise(torch.from_numpy(data.images))))
    same = torch.from_numpy(data.label[:, None] == data.label)
    cosines = embeddings @ embeddings.T
    assert cosines[same].mean() > cosines[~same].mean() + 0.5
    assert not any((root / "cache").rglob("*.pt"))  # a finished run leaves no checkpoint


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_runs_are_equal_and_a_seed_makes_another(root, precision):
    train = Train(**{**vars(TINY), "epochs": 1, "precision": precision})
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(Params(seed=seed, train=train), place(root, name))
    assert digests(root / "a") == digests(root / "b")
    assert digests(root / "a")[0] != digests(root / "c")[0]


@pytest.mark.parametrize("stop", [3, 5, 13])  # within an epoch of five steps, at its end, and later
def test_a_resumed_run_ends_with_the_same_bytes(root, monkeypatch, stop):
    train = Train(**{**vars(TINY), "epochs": 3, "checkpoint_minutes": 0.0})
    run(Params(train=train), place(root, "whole"))
    save = loop.save_checkpoint

    def save_and_stop(path, parts, curve, step):
        save(path, parts, curve, step)
        if step == stop:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save_checkpoint", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        run(Params(train=train), place(root, "killed"))
    assert not any((root / "killed" / path).exists() for path in OUTPUTS)
    steps = []
    monkeypatch.setattr(loop, "save_checkpoint", lambda path, parts, curve, step: steps.append(step))
    run(Params(train=train), root / "killed")
    assert steps == list(range(stop + 1, 16))
    assert digests(root / "killed") == digests(root / "whole")


def test_sigkill_in_the_middle(root):
    """The real thing: another process, killed while it trains, and this one going on where it stopped."""
    train = Train(**{**vars(TINY), "backbone": "iresnet_tiny", "epochs": 1, "checkpoint_minutes": 0.0})
    here = place(root, "killed")
    imports = "from pathlib import Path\nfrom stages.params import Params, Train\nfrom stages.train import run\n"
    program = f"{imports}run(Params(train={train!r}), Path({str(here)!r}))"
    checkout = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", program], cwd=checkout, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (found := list((root / "cache").rglob("checkpoint.pt"))) and time.monotonic() < deadline:
        assert process.poll() is None, "ended without a checkpoint"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (here / OUTPUTS[0]).exists(), "it had ended before it could be killed"
    assert 0 < torch.load(found[0], weights_only=True)["step"] < 5
    run(Params(train=train), here)
    run(Params(train=train), place(root, "whole"))
    assert digests(here) == digests(root / "whole")


def test_another_training_set_by_its_path(root):
    """The same shards elsewhere train the same network: the path is no part of the run's fingerprint."""
    run(Params(train=TINY), place(root, "a"))
    here = root / "b"
    for data in ("elsewhere", str(root / "a/data/align")):  # under the root, or anywhere
        if not Path(data).is_absolute():
            (here).mkdir()
            (here / data).symlink_to(root / "a/data/align")
        run(Params(train=Train(**{**vars(TINY), "data": data})), here)
        assert digests(here) == digests(root / "a")


def test_what_resumes_and_what_starts_anew(root):
    here = place(root, "a")
    data, cpu = FaceDataset(here / "data/align"), torch.device("cpu")

    def key(seed=0, **knobs):
        return loop.run_fingerprint(Params(seed=seed, train=Train(**{**vars(TINY), **knobs})), data, cpu)

    assert key() == key(workers=4, checkpoint_minutes=9.0, device="cpu")
    assert len({key(), key(seed=1), key(lr=0.2), key(threads=2), key(backbone="ir_18")}) == 5


def test_a_broken_checkpoint_says_so(root):
    here = place(root, "a")
    key = loop.run_fingerprint(Params(train=TINY), FaceDataset(here / "data/align"), torch.device("cpu"))
    (root / f"cache/train/{key}").mkdir(parents=True)
    (root / f"cache/train/{key}/checkpoint.pt").write_bytes(b"half")
    with pytest.raises(StoreError, match=r"not a readable checkpoint.*delete it"):
        run(Params(train=TINY), here)


def test_divergence_stops_and_leaves_no_output(root):
    here = place(root, "a")
    with pytest.raises(ParamsError, match=r"the loss is (nan|inf) in step \d+ of 20.*Lower train.lr \(1e\+30\)"):
        run(Params(train=Train(**{**vars(TINY), "lr": 1e30})), here)
    assert not any((here / path).exists() for path in OUTPUTS)


def test_fewer_images_than_a_batch(root):
    with pytest.raises(ParamsError, match=r"train.batch_size is 81, but there are only 80 images"):
        run(Params(train=Train(**{**vars(TINY), "batch_size": 81})), place(root, "a"))


def test_devices_that_are_not_there():
    with pytest.raises(ParamsError, match="fp16, which needs a GPU"):
        loop.prepare_device(Train(precision="fp16", device="cpu"))
    if not torch.cuda.is_available():
        with pytest.raises(ParamsError, match="sees no GPU"):
            loop.prepare_device(Train(device="cuda"))
