from dataclasses import replace

import numpy as np
import pytest
import torch

from stages import synthesize
from stages.align.mtcnn import Detections
from stages.align.warp import ARCFACE_POINTS, similarity, warp
from stages.images import Shards
from stages.params import Params, ParamsError
from stages.run.machine import Machine
from stages.store import StoreError, encode, write_shard
from stages.transfer import create
from stages.transfer.ddim import Inversion, apply, load_prior
from stages.transfer.ddim.knobs import EVALUATION, OFFICIAL_FLOPS, Knobs, prior_flops
from stages.transfer.points import points_in
from stages.transfer.unpaired import flops
from tests.transfer.ddim.tiny import write_prior

WEIGHTS = "data/weights/ddpm-celebahq"


@pytest.fixture
def root(tmp_path):
    """Two identities of three images, the last of another size, and a prior of 8 px."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in [(20, 20), (20, 20), (18, 13)] * 2]
    numbers = {"identity": np.repeat([2, 5], 3), "sample": np.tile(np.arange(3), 2)}
    write_shard(tmp_path / "data/source/0.h5", numbers, [encode(image) for image in images])
    write_shard(tmp_path / "data/filter.h5", {"identity": np.array([2, 5]), "chosen": np.ones(2, bool)})
    write_prior(tmp_path / WEIGHTS)
    return tmp_path


def params(**knobs) -> Params:
    return Params(method="ddim", images_per_id=3, transfer=Knobs(**{"steps": 3, "device": "cpu"} | knobs))


class Detector:
    """Finds one face in an image of 20 px and none in others; sees one at a time."""

    points = ARCFACE_POINTS / 7 + 2

    def detect(self, images):
        (image,) = images
        k = int(image.shape == (20, 20, 3))
        return [Detections(np.zeros((k, 4)), np.ones(k), np.repeat(self.points[None], k, axis=0))]


@pytest.fixture
def detector(monkeypatch):
    monkeypatch.setattr("stages.transfer.ddim.method.MTCNN", lambda device: Detector())
    return Detector()


@pytest.mark.parametrize(
    ("knobs", "settings", "side"),
    [
        ({}, Inversion(3), 8),
        ({"steps": 4, "depth": 0.5, "size": 12}, Inversion(4, 0.5, size=12), 12),
        ({"precision": "bf16"}, Inversion(3, precision="bf16"), 8),
    ],
)
def test_every_image_there_and_back_by_itself(root, knobs, settings, side):
    """The knobs reach the inversion; neighbours change no bit."""
    made = create(params(**knobs), root).portraits(2)
    assert made.sample.tolist() == [0, 1, 2]
    prior, source = load_prior(root / WEIGHTS), Shards(root / "data/source")
    for number, image in enumerate(made.images):
        assert image.shape == (side, side, 3)
        np.testing.assert_array_equal(image, apply(prior, source.image(number)[None], settings)[0])
    single = create(replace(params(**knobs), images_per_id=1), root).portraits(2)
    np.testing.assert_array_equal(single.images[0], made.images[0])


def test_faces_are_brought_to_the_recognisers_template(root, detector):
    made = create(params(face="arcface", size=30), root).portraits(5)
    prior, source = load_prior(root / WEIGHTS), Shards(root / "data/source")
    for number, image in enumerate(made.images):
        shown = source.image(3 + number)
        face = warp(shown, similarity(points_in(shown, detector)[None])[0])
        np.testing.assert_array_equal(image, apply(prior, face[None], Inversion(3, size=30))[0])


def test_faces_are_cut_as_ffhqs_and_put_back(root, detector):
    made = create(params(face="ffhq"), root).portraits(5)
    prior, source = load_prior(root / WEIGHTS), Shards(root / "data/source")
    for number, image in enumerate(made.images):
        shown = source.image(3 + number)
        assert image.shape == shown.shape
        wanted = apply(prior, shown[None], Inversion(3), points_in(shown, detector)[None])[0]
        np.testing.assert_array_equal(image, wanted)


def test_an_image_without_a_face_counts_as_its_centred_square(detector):
    matrix = similarity(points_in(np.zeros((40, 60, 3), np.uint8), detector)[None])[0]
    corners = matrix @ [[9.5, 49.5], [-0.5, 39.5], [1, 1]]
    np.testing.assert_allclose(corners, [[-0.5, 111.5], [-0.5, 111.5]], atol=1e-6)


def test_synthesize_makes_the_same_images(root):
    chosen = params()
    synthesize.run(replace(chosen, synthesize=synthesize.Synthesize(workers=1)), root)
    made, method = Shards(root / "data/synthesize"), create(chosen, root)
    assert len(made) == 6
    np.testing.assert_array_equal(made.image(4), method.portraits(5).images[1])


@pytest.mark.parametrize(
    ("part", "content", "message"),
    [
        ("", None, "no weights of method ddim"),
        ("unet/config.json", None, "no unet/config.json"),
        ("unet/diffusion_pytorch_model.safetensors", b"cut", "unet: not a readable UNet2DModel"),
        ("scheduler/scheduler_config.json", b"{", "no JSON"),
    ],
)
def test_wrong_weights_are_refused_by_name(root, part, content, message):
    path = root / WEIGHTS / part
    if content is None:
        path.rename(root / "away")
    else:
        path.write_bytes(content)
    with pytest.raises(StoreError, match=rf"ddpm-celebahq.*{message}.*google/ddpm-ema-celebahq-256, .*Apache 2\.0"):
        create(params(), root).portraits(2)


def test_knobs_that_do_not_fit():
    for knobs, message in (
        ({"depth": 0}, r"transfer\.depth is 0.*greater than 0"),
        ({"depth": 1.5}, r"transfer\.depth is 1\.5: at most 1"),
        ({"face": "dlib"}, r"transfer\.face is 'dlib'"),
    ):
        with pytest.raises(ParamsError, match=message):
            Knobs(**knobs)
    with pytest.raises(ParamsError, match=r"images_per_id is 11, but method ddim .* 10 images"):
        params().transfer.check(replace(params(), images_per_id=11))


def test_more_steps_than_the_prior_has(root):
    with pytest.raises(ParamsError, match=r"transfer\.steps is 1001, but .*ddpm-celebahq was trained with 1000"):
        create(params(steps=1001), root).portraits(2)


def test_an_image_takes_as_long_as_its_evaluations(root, monkeypatch):
    """Ten of twenty steps there, and ten back; on a CPU no evaluation is faster than a small one."""
    monkeypatch.setattr(Machine, "seconds", lambda self, flops, device, precision: flops)
    knobs, prior = Knobs(steps=20, depth=0.5), load_prior(root / WEIGHTS)
    once = flops(prior.unet, torch.zeros(1, 3, 8, 8), torch.tensor(1))
    assert knobs.seconds(root, Machine()) == 20 * once
    assert knobs.seconds(root / "none", Machine()) == 20 * OFFICIAL_FLOPS
    monkeypatch.setattr(Machine, "seconds", lambda *_: 0.0)
    assert knobs.seconds(root, Machine()) == 20 * EVALUATION
    monkeypatch.setattr(Machine, "on_gpu", lambda *_: True)
    assert knobs.seconds(root, Machine()) == 0


def test_the_autoencoder_counts_once(tmp_path):
    prior = load_prior(write_prior(tmp_path, "vae"))
    assert prior_flops(tmp_path) == (
        flops(prior.unet, torch.zeros(1, 4, 8, 8), torch.tensor(1)),
        flops(prior.autoencoder, torch.zeros(1, 3, 16, 16)),
    )
