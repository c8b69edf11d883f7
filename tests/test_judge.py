"""The figures against loops, with an encoder and images whose answers are known."""

import json
import shutil
import zipfile
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data

from stages import judge
from stages.align.faces import Aligned, align_images, detector
from stages.align.knobs import Align
from stages.embed.encoder import Encoder
from stages.images import Shards
from stages.judge import Judge, Seen, diversity, others_cosines, separation
from stages.measures import frechet
from stages.params import Params
from stages.store import Shard, StoreError, encode, write_shard

ENCODER = Path(__file__).parents[1] / "stages/embed/encoder.onnx"
PARAMS = Params(method="arc2face", judge=Judge(encoder=str(ENCODER), ids=3), align=Align(device="cpu"))
CHOSEN = [7, 2, 4, 1]  # of filter; judged are 7, 4 and 1


def unit(*shape: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def seen(embeddings: np.ndarray, spread: float = 1.0, without_face: int = 0) -> Seen:
    return Seen(embeddings, embeddings[:, :2] ** 2, spread, without_face)


def test_diversity_is_the_double_loop():
    x = unit(5, 4)
    cosines = [float(x[i] @ x[j]) for i in range(5) for j in range(5) if i != j]
    assert diversity(x) == pytest.approx(1 - sum(cosines) / 20, abs=1e-12)
    assert diversity(np.repeat(x[:1], 3, axis=0)) == pytest.approx(0, abs=1e-12)
    assert diversity(np.eye(3)) == pytest.approx(1)
    assert isnan(diversity(x[:1]))


def test_a_colour_that_changes_is_told_from_a_look_that_all_take_on():
    source = [[0.2, 0.3, 0.4], [0.4, 0.3, 0.4], [0.2, 0.3, 0.9], [0.5, 0.5, 0.5], [0.1, 0.1, 0.1]]
    moves = [[0.1, -0.1, 0.05]] * 4 + [[0.1, -0.1, 0.25]]  # the last one alone goes further
    before, after = (
        [Seen(unit(3, 4), np.array(colour) + np.array([[-0.01], [0], [0.01]]), 1.0, 0) for colour in colours]
        for colours in (source, np.add(source, moves))
    )
    found = judge.colours(before, after)
    assert found["colour_change_max"] == pytest.approx(255 * 0.2)
    assert found["colour_change"] == pytest.approx(255 * 0.2 / 5)
    distances = [255 * np.linalg.norm(np.subtract(a, b)) for i, a in enumerate(source) for b in source[:i]]
    assert found["source_colour_difference"] == pytest.approx(np.mean(distances))


def test_an_image_is_compared_with_the_others_only():
    x = unit(4, 3)
    for i, cosine in enumerate(others_cosines(x)):
        mean = np.mean([x[j] for j in range(4) if j != i], axis=0)
        assert cosine == pytest.approx(x[i] @ mean / np.linalg.norm(mean), abs=1e-12)
    assert np.isnan(others_cosines(x[:1])).all()


def test_separation_is_over_pairs_of_prototypes():
    people = [seen(unit(3, 4, seed=k)) for k in range(4)]
    prototypes = [person.embeddings.mean(axis=0) for person in people]
    cosines = [p @ q / np.linalg.norm(p) / np.linalg.norm(q) for i, p in enumerate(prototypes) for q in prototypes[:i]]
    assert len(cosines) == 6
    found = separation(people)
    assert found["impostor_mean"] == pytest.approx(np.mean(cosines), abs=1e-12)
    assert found["impostor_max"] == pytest.approx(max(cosines), abs=1e-12)


def pictures(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.tile(rng.integers(1, 256, (count, 1, 6, 1), np.uint8), (1, 6, 1, 3))


def write_set(folder, count: int, seed: int) -> None:
    keys = [(identity, sample) for identity in range(9) for sample in range(count)]
    images = [encode(image) for identity in range(9) for image in pictures(count, seed + identity)]
    identity, sample = np.array(keys, np.int64).T
    write_shard(folder / "0.h5", {"identity": identity, "sample": sample}, images)


@dataclass(frozen=True)
class Walk:
    """Asks for the source image after next."""

    images: int

    def asked(self, identity: int, embeddings: np.ndarray) -> np.ndarray:
        return embeddings[(np.arange(self.images) + 2) % len(embeddings)]


class Pixels:
    """An encoder that reads an image's embedding off its pixels."""

    seen = 0

    def __init__(self, path: Path) -> None:
        pass

    def embed(self, images: np.ndarray) -> np.ndarray:
        Pixels.seen += len(images)
        return np.stack([image[0, :, 0].astype(np.float32) for image in images])


def taken_as_they_are(images, mtcnn) -> Aligned:
    """No face where the first pixel is 0."""
    found = np.array([image[0, 0, 0] != 0 for image in images])
    n = len(images)
    return Aligned(np.stack(images), found, found.astype(np.float32), np.zeros((n, 5, 2), np.float32))


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A judge who reads embeddings off pixels; four images of an identity in each domain, and 40 of the target."""
    monkeypatch.setattr(judge, "Encoder", Pixels)
    monkeypatch.setattr(judge, "align_images", taken_as_they_are)
    monkeypatch.setattr(judge, "detector", lambda align: None)
    monkeypatch.setattr(Pixels, "seen", 0)
    monkeypatch.setattr(judge, "create", lambda params, root: Walk(generated(root)))
    write_set(tmp_path / "data/source", 4, 100)
    write_set(tmp_path / "data/synthesize", 4, 200)
    (tmp_path / "data/target").mkdir()
    with zipfile.ZipFile(tmp_path / "data/target/target.zip", "w") as file:
        for k in range(40):
            file.writestr(f"{k:02}.png", encode(pictures(1, 77 + k)[0]))
    identity = np.array([*CHOSEN, 8])
    write_shard(tmp_path / "data/filter.h5", {"identity": identity, "chosen": identity < 8})
    return tmp_path


def generated(root) -> int:
    with Shard(root / "data/synthesize/0.h5") as shard:
        return int(shard["sample"].max()) + 1


def judged(root, params: Params = PARAMS) -> dict[str, float]:
    judge.run(params, root)
    return json.loads((root / "metrics/judge.json").read_text())


def reference(images: np.ndarray) -> np.ndarray:
    x = images[:, 0, :, 0].astype(float)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_the_figures_are_the_loops(root):
    figures, identities = judged(root), [7, 4, 1]
    source = {i: pictures(4, 100 + i) for i in identities}
    made = {i: pictures(4, 200 + i) for i in identities}
    target = np.concatenate([pictures(1, 77 + k) for k in np.linspace(0, 39, 12).round().astype(int)])
    assert (figures["judged_identities"], figures["judged_images"]) == (3, 12)
    x, y = ({i: reference(some[i]) for i in identities} for some in (source, made))
    cosines = [y[i][k] @ x[i][(k + 2) % 4] for i in identities for k in range(4)]
    assert figures["identity_consistency"] == pytest.approx(np.mean(cosines), abs=6e-5)
    cosines = [cosine for i in identities for cosine in others_cosines(x[i])]
    assert figures["source_identity_consistency"] == pytest.approx(np.mean(cosines), abs=6e-5)
    for prefix, images in (("", made), ("source_", source)):
        some = {i: reference(images[i]) for i in identities}
        expected = {
            "diversity": np.mean([diversity(x) for x in some.values()]),
            **separation([seen(x) for x in some.values()]),
            "pixel_diversity": np.mean([x.std(axis=0).mean() for x in images.values()]),
            "frechet_to_target": frechet(np.concatenate(list(some.values())), reference(target)),
            "without_face": 0,
        }
        for name, value in expected.items():
            assert figures[f"{prefix}{name}"] == pytest.approx(value, abs=6e-5), name


def test_looks_are_measured_in_the_targets_standard_deviations():
    rng = np.random.default_rng(0)
    some, target = rng.normal(size=(9, 10)), rng.normal(size=(12, 10)) * np.arange(1, 11)
    people = [Seen(unit(len(part), 4), part, 1.0, 0) for part in (some[:4], some[4:])]
    found = judge.figures(people, np.zeros(9), Seen(unit(12, 4, seed=1), target, 1.0, 0), 9)
    rows = target[np.linspace(0, 11, 9).round().astype(int)]
    assert found["look_to_target"] == pytest.approx(frechet(some / target.std(axis=0), rows / target.std(axis=0)))


def test_the_domains_are_compared_by_equally_many_images(root, monkeypatch):
    write_set(root / "data/source", 9, 100)
    write_set(root / "data/synthesize", 3, 200)
    sizes = []
    monkeypatch.setattr(judge, "frechet", lambda a, b: sizes.append((len(a), len(b))) or 0.0)
    judged(root, replace(PARAMS, judge=replace(PARAMS.judge, ids=2)))  # 18 source images, 6 generated, 6 of the target
    assert sizes == [(6, 6)] * 4


def test_images_without_a_face_are_counted(root):
    images = pictures(4, 200)
    images[1:3, 0, 0] = 0
    columns = {"identity": np.repeat([1, 2, 4, 7], 4), "sample": np.tile(np.arange(4), 4)}
    write_shard(root / "data/synthesize/0.h5", columns, [encode(image) for image in images] * 4)
    figures = judged(root)
    assert (figures["without_face"], figures["source_without_face"]) == (6, 0)


def test_what_needs_two_images_is_left_out_where_there_is_one(root):
    write_set(root / "data/synthesize", 1, 200)
    figures = judged(root)
    assert "diversity" not in figures
    assert figures["source_diversity"] > 0


def test_only_what_changed_is_seen_again(root, code):
    def again(params: Params = PARAMS) -> int:
        Pixels.seen = 0
        judged(root, params)
        return Pixels.seen

    assert again() == 3 * (4 + 4) + 12
    shutil.rmtree(root / "data/judge")  # as DVC does before a stage
    code.add("judge", "# a remark\n")
    assert again() == 0
    assert again(replace(PARAMS, judge=replace(PARAMS.judge, ids=4))) == 4 + 4 + 16  # 2 is new, and of the target more
    write_set(root / "data/synthesize", 4, 300)
    assert again() == 3 * 4
    code.add("align/warp", "X = 1\n")
    assert again() == 3 * (4 + 4) + 12


def test_images_that_are_the_source_itself_are_judged_too(root):
    """A part of each domain then has one fingerprint, and stands in both places."""
    shutil.copyfile(root / "data/source/0.h5", root / "data/synthesize/0.h5")
    figures = judged(root)
    assert figures["diversity"] == figures["source_diversity"]
    assert {path.name for path in (root / "data/judge").iterdir()} == {"source", "synthesize", "target.h5"}


def test_a_method_that_makes_no_images_is_not_judged(tmp_path):
    judge.run(Params(method="none"), tmp_path)
    (only,) = (tmp_path / "data/judge").iterdir()
    assert only.read_text() == "method none makes no images\n"
    assert json.loads((tmp_path / "metrics/judge.json").read_text()) == {"judged_images": 0}


def test_a_missing_encoder_names_its_knob(root):
    with pytest.raises(StoreError, match=r"away\.onnx: no such encoder; set judge\.encoder"):
        judge.run(replace(PARAMS, judge=Judge(encoder="away.onnx")), root)
    assert not (root / "data/judge").exists()


def test_looks_are_statistics_of_an_image_alone():
    rng = np.random.default_rng(0)
    smooth = np.full((64, 48, 3), (10, 120, 250), np.uint8)
    noisy = smooth + rng.integers(0, 5, smooth.shape, np.uint8)
    looks = judge.look(np.stack([smooth, noisy]))
    assert looks.shape == (2, 10)
    np.testing.assert_array_equal(looks, np.concatenate([judge.look(smooth[None]), judge.look(noisy[None])]))
    np.testing.assert_allclose(looks[0], [10 / 255, 120 / 255, 250 / 255, 0, 0, 0, *[np.log(1 / 255)] * 4], atol=1e-4)
    np.testing.assert_allclose(looks[1, 3:6], noisy.reshape(-1, 3).std(axis=0) / 255, rtol=1e-3)
    # White noise has most of its power in the finest octave, and ever less as one goes down.
    assert (np.diff(looks[1, 6:]) < 0).all()


def test_a_wave_is_seen_in_its_octave():
    x = np.arange(128)
    waves = [np.sin(2 * np.pi * x / period) for period in (4, 8, 16, 32)]
    images = [np.repeat(np.tile(128 + 60 * wave, (128, 1))[..., None], 3, axis=2).astype(np.uint8) for wave in waves]
    contrasts = judge.look(np.stack(images))[:, 6:]
    assert contrasts.argmax(axis=1).tolist() == [0, 1, 2, 3]


def test_an_image_is_aligned_and_embedded_as_embed_does(tmp_path):
    portrait = cv2.resize(skimage.data.astronaut()[0:240, 100:340], (112, 112), interpolation=cv2.INTER_AREA)
    bricks = np.repeat(skimage.data.brick()[:112, :112, None], 3, axis=2)
    images = [portrait, bricks, portrait[:, ::-1].copy()]
    columns = {"identity": np.full(3, 5), "sample": np.arange(3)}
    write_shard(tmp_path / "0.h5", columns, [encode(image) for image in images])
    found = judge._judge(PARAMS, tmp_path, {"source": Shards(tmp_path)})(("source", 5)).columns
    assert found["found"].tolist() == [True, False, True]
    aligned = align_images(images, detector(PARAMS.align)).images
    expected = Encoder(ENCODER).embed(aligned)
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found["embedding"], expected, atol=1e-6)
    np.testing.assert_array_equal(found["look"], judge.look(aligned))
    np.testing.assert_allclose(found["spread"], np.std(aligned.astype(float), axis=0).mean())
