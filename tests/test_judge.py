"""The figures against loops, with an encoder and images whose answers are known."""

import zipfile
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data

from stages.align import Images, align_images, detector
from stages.embed import Encoder
from stages.fetch.images import ImageArchive
from stages.params import Align, Params, Synthesize
from stages.store import StoreError, encode
from stages.synthesize import judge
from stages.synthesize.judge import Judge, Seen, diversity, others_cosines, separation

ENCODER = Path(__file__).parents[2] / "stages/embed/encoder.onnx"
PARAMS = Params(synthesize=Synthesize(judge=str(ENCODER)), align=Align(device="cpu"))


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


@dataclass(frozen=True)
class Walk:
    """Asks for the source image after next."""

    images: int

    def asked(self, identity: int, embeddings: np.ndarray) -> np.ndarray:
        return embeddings[(np.arange(self.images) + 2) % len(embeddings)]


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """A judge who reads an image's embedding off its pixels, and who finds no face where the first pixel is 0."""

    def see(self, images):
        x = np.stack([image[0, :, 0].astype(float) for image in images])
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        return seen(x, float(len(images)), sum(image[0, 0, 0] == 0 for image in images))

    monkeypatch.setattr(Judge, "__init__", lambda self, target: setattr(self, "target", target))
    monkeypatch.setattr(Judge, "see", see)
    target = tmp_path / "target"
    target.mkdir()
    for k in range(40):
        (target / f"{k:02}.png").write_bytes(encode(pictures(1, 77 + k)[0]))
    return Judge(ImageArchive(target))


def pictures(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.tile(rng.integers(1, 256, (count, 1, 6, 1), np.uint8), (1, 6, 1, 3))


def domain(seed: int, count: int) -> Images:
    images = {identity: pictures(count, seed + identity) for identity in range(9)}
    return Images(lambda i: list(range(count)), lambda i, k: images[i][k], lambda _: [])


def reference(images: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    x = {identity: some[:, 0, :, 0].astype(float) for identity, some in images.items()}
    return {identity: some / np.linalg.norm(some, axis=1, keepdims=True) for identity, some in x.items()}


def test_the_figures_are_the_loops(made_up):
    identities = [7, 2, 4]
    source = reference({i: pictures(4, 100 + i) for i in identities})
    made = reference({i: pictures(4, 200 + i) for i in identities})
    target = np.concatenate(
        [reference({0: pictures(1, 77 + k)})[0] for k in np.linspace(0, 39, 12).round().astype(int)]
    )
    figures = made_up(Walk(4), identities, domain(100, 4), domain(200, 4))
    assert (figures["judged_identities"], figures["judged_images"]) == (3, 12)
    cosines = [made[i][k] @ source[i][(k + 2) % 4] for i in identities for k in range(4)]
    assert figures["identity_consistency"] == pytest.approx(np.mean(cosines), abs=6e-5)
    cosines = [cosine for i in identities for cosine in others_cosines(source[i])]
    assert figures["source_identity_consistency"] == pytest.approx(np.mean(cosines), abs=6e-5)
    for prefix, some in (("", made), ("source_", source)):
        assert figures[f"{prefix}diversity"] == pytest.approx(np.mean([diversity(x) for x in some.values()]), abs=6e-5)
        assert figures[f"{prefix}impostor_max"] == pytest.approx(
            separation([seen(x) for x in some.values()])["impostor_max"], abs=6e-5
        )
        cloud = np.concatenate([some[i] for i in identities])
        assert figures[f"{prefix}frechet_to_target"] == pytest.approx(judge.frechet(cloud, target), abs=6e-5)
        looks, scale = cloud[:, :2] ** 2, (target[:, :2] ** 2).std(axis=0)
        distance = judge.frechet(looks / scale, target[:, :2] ** 2 / scale)
        assert figures[f"{prefix}look_to_target"] == pytest.approx(distance, abs=6e-5)
        assert figures[f"{prefix}pixel_diversity"] == 4


def test_the_domains_are_compared_by_equally_many_images(made_up, monkeypatch):
    sizes = []
    monkeypatch.setattr(judge, "frechet", lambda a, b: sizes.append((len(a), len(b))) or 0.0)
    made_up(Walk(3), [1, 2], domain(100, 9), domain(200, 3))  # 18 source images, 6 generated, 40 target
    assert sizes == [(6, 6)] * 4


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


def test_images_without_a_face_are_counted(made_up):
    def read(identity, sample):
        image = pictures(3, 200 + identity)[sample]
        image[0, 0] *= sample > 0
        return image

    figures = made_up(Walk(3), [1, 2], domain(100, 3), replace(domain(200, 3), read=read))
    assert (figures["without_face"], figures["source_without_face"]) == (2, 0)


def test_what_needs_two_images_is_left_out_where_there_is_one(made_up):
    figures = made_up(Walk(1), [1, 2], domain(100, 3), domain(200, 1))
    assert "diversity" not in figures
    assert figures["source_diversity"] > 0


def test_seen_is_aligned_and_embedded_as_embed_does(tmp_path):
    target = tmp_path / "data/target/target.zip"
    target.parent.mkdir(parents=True)
    with zipfile.ZipFile(target, "w") as file:
        file.writestr("0.png", encode(pictures(1, 0)[0]))
    portrait = cv2.resize(skimage.data.astronaut()[0:240, 100:340], (112, 112), interpolation=cv2.INTER_AREA)
    bricks = np.repeat(skimage.data.brick()[:112, :112, None], 3, axis=2)
    found = Judge(PARAMS, tmp_path).see([portrait, bricks, portrait[:, ::-1].copy()])
    assert found.without_face == 1
    aligned = align_images([portrait, bricks, portrait[:, ::-1].copy()], detector(PARAMS.align)).images
    expected = Encoder(ENCODER).embed(aligned)
    np.testing.assert_allclose(found.embeddings, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_array_equal(found.looks, judge.look(aligned))
    assert found.spread == pytest.approx(np.std(aligned.astype(float), axis=0).mean())


def test_a_missing_encoder_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"away\.onnx: no such encoder; set synthesize\.judge"):
        Judge(Params(synthesize=Synthesize(judge="away.onnx")), tmp_path)
