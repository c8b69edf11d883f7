import json
import shutil
import zipfile
from dataclasses import replace

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from stages.align.faces import Aligned
from stages.embed import stage
from stages.embed.encoder import Encoder
from stages.embed.knobs import Embed
from stages.filter import Filter
from stages.params import Params
from stages.store import Shard, StoreError, encode, entries

SIZE = 112
INTS = np.random.default_rng(0)


class TinyIResNet(nn.Module):
    """The layers of an IResNet, few of each."""

    def __init__(self, dimension: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 4, 1, bias=False), nn.BatchNorm2d(6), nn.PReLU(6))
        self.block = nn.Sequential(
            nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, 1, 1, bias=False), nn.PReLU(6), nn.BatchNorm2d(6)
        )
        self.output = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(294, dimension), nn.BatchNorm1d(dimension))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.output(x + self.block(x))


@pytest.fixture(scope="session")
def onnx_file(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("encoder") / "encoder.onnx"
    export(TinyIResNet().eval(), path)
    return path


def export(network: nn.Module, path, size: int = SIZE) -> None:
    names = {"input_names": ["input"], "output_names": ["embedding"], "dynamic_axes": {"input": {0: "n"}}}
    with pytest.warns(DeprecationWarning, match="legacy"):  # its successor needs onnxscript
        torch.onnx.export(network, (torch.zeros(2, 3, size, size),), str(path), dynamo=False, **names)


def images(count: int, height: int = SIZE, width: int = SIZE) -> np.ndarray:
    """Noise over a level that differs by channel."""
    levels = np.array([30, 120, 220])
    return np.clip(levels + INTS.normal(0, 25, (count, height, width, 3)), 0, 255).astype(np.uint8)


def directly(path, batch: np.ndarray) -> np.ndarray:
    """Embed with onnxruntime alone: RGB, (x - 127.5) / 127.5, channels first."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    values = (batch.astype(np.float32) - 127.5) / 127.5
    return session.run(None, {"input": np.ascontiguousarray(values.transpose(0, 3, 1, 2))})[0]


@pytest.fixture
def root(tmp_path, onnx_file):
    """Two zips of 3 + 2 identities and a target of 4 images, of which one is 150 x 130."""
    source, target = tmp_path / "data/source", tmp_path / "data/target"
    source.mkdir(parents=True)
    target.mkdir()
    for first, last in ((0, 2), (10, 11)):
        with zipfile.ZipFile(source / f"subjects_{first}-{last}_3_imgs.zip", "w") as archive:
            for identity in range(first, last + 1):
                for sample, image in enumerate(images(3)):
                    archive.writestr(f"{identity}/{sample}.png", encode(image))
    with zipfile.ZipFile(target / "target.zip", "w") as archive:
        for number, image in enumerate([*images(3), images(1, 150, 130)[0]]):
            archive.writestr(f"{number}.png", encode(image))
    return tmp_path


@pytest.fixture
def params(onnx_file) -> Params:
    return Params(embed=Embed(encoder=str(onnx_file), batch_size=4))


def pictures(path, names) -> np.ndarray:
    with zipfile.ZipFile(path) as archive:
        read = [cv2.imdecode(np.frombuffer(archive.read(name), np.uint8), cv2.IMREAD_COLOR) for name in names]
    return np.stack([cv2.resize(image[..., ::-1], (SIZE, SIZE), interpolation=cv2.INTER_AREA) for image in read])


def test_run_embeds_every_image(root, params, onnx_file) -> None:
    stage.run(params, root)
    assert sorted(path.name for path in (root / "data/embed/source").iterdir()) == [
        "subjects_0-2_3_imgs.h5",
        "subjects_10-11_3_imgs.h5",
    ]
    with Shard(root / "data/embed/source/subjects_10-11_3_imgs.h5") as shard:
        keys = list(zip(shard["identity"].tolist(), shard["sample"].tolist(), strict=True))
        assert keys == [(10, 0), (10, 1), (10, 2), (11, 0), (11, 1), (11, 2)]
        assert [shard[name].dtype for name in ("identity", "sample", "embedding", "norm")] == ["i8", "i4", "f4", "f4"]
        raw = shard["embedding"] * shard["norm"][:, None]
        np.testing.assert_allclose(np.linalg.norm(shard["embedding"], axis=1), 1, atol=1e-6)
    names = [f"{identity}/{sample}.png" for identity, sample in keys]
    expected = directly(onnx_file, pictures(root / "data/source/subjects_10-11_3_imgs.zip", names))
    np.testing.assert_allclose(raw, expected, atol=1e-5)
    with Shard(root / "data/embed/target.h5") as shard:
        assert shard["name"].tolist() == [b"0.png", b"1.png", b"2.png", b"3.png"]
        raw = shard["embedding"] * shard["norm"][:, None]
    names = ["0.png", "1.png", "2.png", "3.png"]
    np.testing.assert_allclose(raw, directly(onnx_file, pictures(root / "data/target/target.zip", names)), atol=1e-5)


def test_run_aligns_first_when_asked(root, params, onnx_file, monkeypatch) -> None:
    """A detector that finds a face in all but the 150 x 130 image; an aligner that mirrors."""

    def mirror(images: list[np.ndarray], mtcnn: object) -> Aligned:
        small = np.stack([image[:SIZE, SIZE - 1 :: -1] for image in images])
        found = np.array([len(image) == SIZE for image in images])
        return Aligned(small, found, found.astype(np.float32), np.zeros((len(images), 5, 2), np.float32))

    monkeypatch.setattr(stage, "detector", lambda align: mirror)
    monkeypatch.setattr(stage, "align_images", mirror)
    stage.run(replace(params, embed=replace(params.embed, align=True)), root)
    with Shard(root / "data/embed/target.h5") as shard:
        assert shard["face"].tolist() == [True, True, True, False]
        raw = shard["embedding"][:3] * shard["norm"][:3, None]
    expected = pictures(root / "data/target/target.zip", ["0.png", "1.png", "2.png"])[:, :, ::-1]
    np.testing.assert_allclose(raw, directly(onnx_file, expected), atol=1e-5)
    metrics = json.loads((root / "metrics/embed.json").read_text())
    assert (metrics["source_without_face"], metrics["target_without_face"]) == (0, 1)


def test_metrics_are_those_of_a_loop(root, params) -> None:
    stage.run(params, root)
    rows: dict[int, list[np.ndarray]] = {}
    norms = []
    for path in sorted((root / "data/embed/source").iterdir()):
        with Shard(path) as shard:
            norms += shard["norm"].tolist()
            for identity, row in zip(shard["identity"].tolist(), shard["embedding"].astype(np.float64), strict=True):
                rows.setdefault(identity, []).append(row)
    prototypes = {one: np.mean(rows[one], 0) / np.linalg.norm(np.mean(rows[one], 0)) for one in rows}
    genuine = [row @ prototypes[one] for one in rows for row in rows[one]]
    impostor = [prototypes[a] @ prototypes[b] for a in rows for b in rows if a < b]
    metrics = json.loads((root / "metrics/embed.json").read_text())
    counts = {name: metrics[name] for name in ("identities", "source_images", "target_images", "dimension")}
    assert counts == {"identities": 5, "source_images": 15, "target_images": 4, "dimension": 8}
    assert metrics["source_norm"] == pytest.approx(np.mean(norms), abs=1e-3)
    assert metrics["genuine_cosine"] == pytest.approx(np.mean(genuine), abs=1e-3)
    assert metrics["impostor_cosine"] == pytest.approx(np.mean(impostor), abs=1e-3)


@pytest.fixture
def embedded(monkeypatch) -> list[int]:
    """The rows that were embedded."""
    original, rows = stage.embedder, []

    def embedder(params: Params, root):
        see = original(params, root)
        return lambda batch: rows.extend(batch.rows) or see(batch)

    monkeypatch.setattr(stage, "embedder", embedder)
    return rows


def shards(root) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((root / "data/embed").rglob("*.h5"))}


def test_how_images_are_batched_changes_no_byte(root, params, monkeypatch, tmp_path) -> None:
    stage.run(params, root)
    first = shards(root)
    shutil.rmtree(root / "data/embed")
    monkeypatch.setenv("R2R_CACHE", str(tmp_path / "another"))
    stage.run(replace(params, embed=replace(params.embed, batch_size=5)), root)
    assert shards(root) == first


def test_only_what_changed_is_embedded_again(root, params, embedded, code) -> None:
    def seen() -> int:
        embedded.clear()
        stage.run(params, root)
        return len(embedded)

    assert seen() == 19
    shutil.rmtree(root / "data/embed")  # as DVC does before a stage
    assert seen() == 0
    code.add("embed/stage", "# a remark\n")
    code.add("align/warp", "X = 1\n")  # nothing is aligned here
    params = replace(params, align=replace(params.align, min_face=30), filter=Filter(score="mean"), n_ids=4)
    assert seen() == 0
    with zipfile.ZipFile(root / "data/target/target.zip", "a") as archive:
        archive.writestr("4.png", encode(images(1)[0]))
    assert seen() == 5
    (root / "data/source/subjects_10-11_3_imgs.zip").rename(root / "data/source/subjects_10-12_3_imgs.zip")
    with zipfile.ZipFile(root / "data/source/subjects_10-12_3_imgs.zip", "a") as archive:
        archive.writestr("12/0.png", encode(images(1)[0]))
    assert seen() == 7
    assert sorted(shards(root)) == ["subjects_0-2_3_imgs.h5", "subjects_10-12_3_imgs.h5", "target.h5"]
    code.add("embed/encoder", "X = 1\n")
    assert seen() == 9 + 7 + 5


@pytest.mark.parametrize("value", [float("nan"), 0.0])
def test_an_embedding_that_is_none_names_the_image_and_keeps_what_is_right(
    root, params, monkeypatch, value: float
) -> None:
    original = Encoder.embed

    def broken(self: Encoder, batch: list[np.ndarray]) -> np.ndarray:
        raw = original(self, batch)
        if batch[0].shape == (SIZE, SIZE, 3) and len(batch) == 2:  # the last of the second zip
            raw[1:] = value
        return raw

    monkeypatch.setattr(Encoder, "embed", broken)
    with pytest.raises(StoreError, match=r"subjects_10-11_3_imgs\.zip, member 11/2\.png: .* norm .* right encoder"):
        stage.run(params, root)
    assert not (root / "data/embed").exists()
    assert not (root / "metrics").exists()
    assert len(list(entries("embed"))) == 1


def test_an_image_that_does_not_decode_is_named(root, params) -> None:
    with zipfile.ZipFile(root / "data/target/target.zip", "a") as archive:
        archive.writestr("4.png", b"no picture")
    with pytest.raises(StoreError, match=r"target\.zip, 4\.png: does not decode"):
        stage.run(params, root)


def test_a_missing_encoder_names_its_knob(root, params) -> None:
    with pytest.raises(StoreError, match=r"away\.onnx: no such encoder; set embed\.encoder"):
        stage.run(replace(params, embed=Embed(encoder="away.onnx")), root)
