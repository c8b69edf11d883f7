"""Each bench runs once, at its smallest size; the libraries that two of them measure against are stood in for."""

import json
import subprocess
import sys
import types
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from stages.transfer import knobs_of

ROOT = Path(__file__).parent.parent.parent


def numbers(output: str) -> dict:
    """Of the one JSON line that a bench prints, all of them finite."""
    (line,) = output.strip().splitlines()
    found = json.loads(line)
    assert all(np.isfinite(value) for value in found.values() if isinstance(value, (int, float)))
    return found


def test_arc2face(monkeypatch, capsys):
    from bench import arc2face

    monkeypatch.setitem(arc2face.SIDES, "cpu", (64,))
    arc2face.main(steps=1, batch=1, repeats=1)
    found = numbers(capsys.readouterr().out)
    assert (found["size"], found["batch"]) == (96, 1)
    assert found["images_per_second"] > 0


def test_download(tmp_path):
    from bench import download

    found = download.measure(tmp_path, kills=2)
    assert (found["kills"], found["wrong"], found["elsewhere"]) == (2, 0, 0)


def test_evaluate():
    done = subprocess.run(
        [sys.executable, "-m", "bench.evaluate", "0.0005"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 4


class Flat:
    """What the bench uses of faiss' IndexFlatIP."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension

    def add(self, vectors: np.ndarray) -> None:
        self.vectors = vectors

    def search(self, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        cosines = vectors @ self.vectors.T
        order = np.argsort(-cosines, axis=1)[:, :k]
        return np.take_along_axis(cosines, order, 1), order


def test_filter(monkeypatch, capsys):
    from bench import filter as bench

    monkeypatch.setitem(sys.modules, "faiss", types.SimpleNamespace(IndexFlatIP=Flat))
    monkeypatch.setattr(sys, "argv", ["filter", "50"])
    bench.main()
    found = numbers(capsys.readouterr().out)
    assert (found["identities"], found["same_nearest"]) == (50, 1)


class Peer:
    """facenet-pytorch's MTCNN, as far as the bench calls it, by our own."""

    def __init__(self, keep_all: bool, device: str) -> None:
        from stages.align.mtcnn import MTCNN

        self.mtcnn = MTCNN(device=device)

    def detect(self, images: np.ndarray, landmarks: bool) -> list:
        found = [
            (faces.boxes, faces.scores, faces.landmarks) if len(faces) else (None, None, None)
            for faces in self.mtcnn.detect(images if images.ndim == 4 else [images])
        ]
        return [list(column) for column in zip(*found, strict=True)] if images.ndim == 4 else list(found[0])


def test_mtcnn(tmp_path, monkeypatch, capsys):
    import skimage.data

    from bench import mtcnn

    cv2.imwrite(str(tmp_path / "a.png"), skimage.data.astronaut()[:256, 100:356, ::-1])
    monkeypatch.setitem(sys.modules, "facenet_pytorch", types.SimpleNamespace(MTCNN=Peer))
    monkeypatch.setattr(sys, "argv", ["mtcnn", str(tmp_path), "--images", "1", "--turns", "1"])
    mtcnn.main()
    found = numbers(capsys.readouterr().out)
    assert (found["images"], found["faces"], found["images_of_another_count"], found["box_px"]) == (1, 1, 0, 0)


def test_read(monkeypatch, capsys):
    from bench import read

    monkeypatch.setattr(read, "REPEATS", 1)
    monkeypatch.setenv("R2R_CACHE", "put back by monkeypatch: the bench sets its own")
    read.main(40)
    found = numbers(capsys.readouterr().out)
    assert all(found[form]["images_per_second"] > 0 for form in found if form.startswith(("source", "training")))


def test_train(monkeypatch):
    from bench import train

    monkeypatch.setenv("R2R_CACHE", "put back by monkeypatch: the bench sets its own")
    monkeypatch.setitem(train.BATCH, "iresnet_tiny", 4)
    monkeypatch.setattr(train, "REPEATS", 1)
    found = train.main(["iresnet_tiny"], "fp32", steps=1, side=64, classes=(16, 20), images=128)
    label = "iresnet_tiny_20"
    assert {f"{label}_ms", f"{label}_to_plain", f"{label}_of_matmul", "loader_to_pil", "recipe_digiface_us"} < set(
        found
    )
    assert min(found.values()) > 0
    assert found["head_20_mb"] > found["head_16_mb"] > 3 * 4 * 512 * 16 / 2**20


def test_world(monkeypatch, capsys):
    from bench import world

    monkeypatch.setattr(world, "IDENTITIES", 1)
    monkeypatch.setattr(world, "IMAGES", 1)
    monkeypatch.setattr(world, "compile_s", lambda: 0.0)  # a minute of compilation
    world.main()
    found = numbers(capsys.readouterr().out)
    assert min(found["raster_per_s"], found["camera_per_s"]) > 0


@pytest.mark.parametrize("path", sorted((ROOT / "bench").glob("*.py")), ids=lambda path: path.stem)
def test_every_bench_has_its_test(path):
    assert f"test_{path.stem}" in globals()


def test_synthesize(monkeypatch, tmp_path, capsys):
    from bench import synthesize

    monkeypatch.setenv("R2R_CACHE", str(tmp_path))  # the bench sets its own, which goes with the test
    synthesize.main(images="10,20", width=4, blocks=2, side=32)
    found = numbers(capsys.readouterr().out)
    assert len(found["peak_mib"]) == 2
    assert found["of_network"] > 0


def test_transfer(monkeypatch, capsys):
    from bench import arc2face, transfer

    monkeypatch.setitem(arc2face.SIDES, "cpu", (64,))
    small = {"vsait": {"dimension": 16, "hidden": 4, "filters": 2}, "decent": {}, "unsb": {}}
    knobs = {method: partial(knobs_of(method), blocks=2, width=4, **sizes) for method, sizes in small.items()}
    monkeypatch.setattr(transfer, "knobs_of", knobs.get)
    transfer.main(train=True, batch=2, side=32, repeats=1, threads=1)
    found = numbers(capsys.readouterr().out)
    rates = ("steps_per_second", "to_plain", "batched")
    assert all(found[f"{method}_{rate}"] > 0 for method in small for rate in rates)

    tiny = {
        name: replace(one, size=32, build=partial(one.build, 4, 2))
        for name, one in transfer.INFERENCE.items()
        if name in ("vsait", "decent", "unsb-1", "unsb-5")
    }
    monkeypatch.setattr(transfer, "INFERENCE", {"codeformer": tiny["vsait"], **tiny})
    transfer.main(batch=1, repeats=1, threads=1)
    found = numbers(capsys.readouterr().out)
    assert found["unsb-5_gflop"] > 4 * found["unsb-1_gflop"] > 0
    assert found["codeformer_to_codeformer"] == 1


def test_methods(monkeypatch, capsys):
    """Four methods, two seeds each, whose look alone orders the accuracy; a running experiment is left out."""
    from bench import methods

    def row(method: str, seed: int, accuracy: float, look: float, **more: object) -> dict:
        names = ("random", "age", "pose", "metrics/evaluate.json:profile", "groups.mean")
        judged = {"look_to_target": look, "frechet_to_target": 1.0, "identity_consistency": look % 2, "diversity": 0.5}
        judged |= {f"source_{name}": 2.5 for name in ("look_to_target", "frechet_to_target", "diversity")}
        none = {"profile": "embedded", "Experiment": f"{method}-{seed}", "State": None, "method": method, "seed": seed}
        return dict.fromkeys(names, accuracy) | (judged if method != "none" else {}) | none | more

    shown = [row(m, seed, a + seed, a / -10) for m, a in (("a", 80.0), ("b", 70.0), ("c", 60.0)) for seed in (0, 1)]
    shown += [row("none", 0, 50.0, 0.0), row("a", 2, 0.0, 0.0, State="Running"), {**shown[0], "Experiment": None}]
    monkeypatch.setattr(methods.dvc.api, "exp_show", lambda: shown)
    methods.main()
    found = numbers(capsys.readouterr().out)
    assert found["rows"]["a"]["accuracy"] == [80.5, 0.5]
    assert found["rows"]["none"]["identity_consistency"] == [1.0, 0.0]
    assert found["rank_correlation"]["look_to_target"] == 1.0
    assert found["rank_correlation"]["frechet_to_target"] < 1.0


def test_variation(monkeypatch, capsys):
    from bench import variation

    monkeypatch.setattr(variation, "PEOPLE", 2)
    monkeypatch.setattr(variation, "IMAGES", 2)
    monkeypatch.setattr(variation, "SETS", {name: variation.SETS[name] for name in ("Syn1", "Syn2")})
    variation.main()
    assert numbers(capsys.readouterr().out)["Syn2"]["pair"] > 0
