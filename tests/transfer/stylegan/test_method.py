from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from stages.align.warp import ARCFACE_POINTS
from stages.images import Shards
from stages.params import Params, ParamsError
from stages.run.machine import Machine
from stages.store import StoreError, encode, write_shard
from stages.transfer import create
from stages.transfer.points import points_in
from stages.transfer.stylegan import Inversion, Projection, apply
from stages.transfer.stylegan import method as module
from stages.transfer.stylegan.files import load_inverter
from stages.transfer.stylegan.inversion import check_model
from stages.transfer.stylegan.knobs import STEP, Knobs
from stages.transfer.stylegan.perceptual import RandomFeatures
from tests.test_params import CONF
from tests.transfer.stylegan.test_files import write_inverter
from tests.transfer.stylegan.tiny import SIZES, generator

HYBRID = {"inversion": "hybrid", "space": "w+", "steps": 2}


@pytest.fixture
def root(tmp_path):
    """Two identities of three images, the last of another size, and an encoder's file."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in [(20, 20), (20, 20), (18, 13)] * 2]
    numbers = {"identity": np.repeat([2, 5], 3), "sample": np.tile(np.arange(3), 2)}
    write_shard(tmp_path / "data/source/0.h5", numbers, [encode(image) for image in images])
    write_inverter(tmp_path / "e4e.pt")
    return tmp_path


def params(**knobs) -> Params:
    block = Knobs(**{"weights": "e4e.pt", "points": "none", "device": "cpu"} | knobs)
    return Params(method="stylegan", images_per_id=3, transfer=block)


@pytest.mark.parametrize("knobs", [{}, HYBRID, {"inversion": "optimisation", "steps": 2}])
def test_every_image_for_itself(root, knobs):
    """Batch and neighbours change no bit, and it is `apply` of the official settings."""
    made = create(params(**knobs), root).portraits(2)
    assert made.sample.tolist() == [0, 1, 2]
    assert {image.shape for image in made.images} == {(16, 16, 3)}
    single = create(replace(params(**knobs), images_per_id=1), root).portraits(2)
    assert np.array_equal(single.images[0], made.images[0])
    settings = Inversion(
        knobs.get("inversion", "e4e"), Projection(knobs.get("space", "w"), steps=knobs.get("steps", 1000))
    )
    shown = Shards(root / "data/source").image(1)[None]
    wanted = apply(load_inverter(root / "e4e.pt"), shown, settings, perceptual=RandomFeatures())
    assert np.array_equal(made.images[1], wanted[0])


@pytest.mark.parametrize(("face", "size", "side"), [(8, 0, 8), (256, 0, 16), (256, 40, 40)])
def test_images_have_the_knobs_size(root, face, size, side):
    images = create(params(face=face, size=size), root).portraits(5).images
    assert {image.shape for image in images} == {(side, side, 3)}


def test_faces_are_cut_and_put_back(root, monkeypatch):
    """By the template's points, or the detector's where it finds some; an image keeps its size."""
    images = create(params(points="arcface"), root).portraits(2).images
    assert [image.shape for image in images] == [(20, 20, 3), (20, 20, 3), (18, 13, 3)]
    found = []

    class Detector:
        def __init__(self, device):
            assert device.type == "cpu"

        def detect(self, images):
            found.append(images[0].shape)
            return [type("Found", (list,), {"landmarks": ARCFACE_POINTS[None] / 112 * 10})([1] * (len(found) == 1))]

    monkeypatch.setattr(module, "MTCNN", Detector)
    detected = create(params(points="detected"), root).portraits(2).images
    assert sorted(found) == [(18, 13, 3), (20, 20, 3), (20, 20, 3)]  # one at a time
    same = [np.array_equal(*pair) for pair in zip(images, detected, strict=True)]
    assert sorted(same) == [False, True, True]


def test_the_template_lies_in_the_centred_square():
    np.testing.assert_allclose(points_in(np.empty((112, 112, 3)), None), ARCFACE_POINTS)
    points = points_in(np.empty((224, 324, 3)), None)
    np.testing.assert_allclose(points, ARCFACE_POINTS * 2 + 0.5 + np.array([50, 0]))


def test_a_folder_may_be_named(root):
    (root / "weights").mkdir()
    (root / "e4e.pt").rename(root / "weights/e4e_ffhq_encode.pt")
    assert len(create(params(weights="weights"), root).portraits(2).images) == 3


@pytest.mark.parametrize(
    ("change", "knobs", "message"),
    [
        ("gone", {}, r"e4e\.pt: no weights of method stylegan; .*omertov/encoder4editing.*not for commercial use"),
        ("cut", {}, r"e4e\.pt: not a readable torch checkpoint"),
        ("another", {}, r"e4e\.pt: no state_dict under 'state_dict'"),
        ("", {"inversion": "psp"}, r"e4e\.pt: inversion 'psp': .*E4EEncoder; .*r2r fetch psp.*commercial"),
        ("generator", HYBRID, r"e4e\.pt: inversion 'hybrid': the model has no encoder"),
        ("", {"perceptual": "none"}, r"vgg16-397923af\.pth: no such"),
    ],
)
def test_weights_that_do_not_do_are_refused_by_name(root, change, knobs, message):
    path = root / "e4e.pt"
    if change == "gone":
        path.unlink()
    elif change == "cut":
        path.write_bytes(b"cut")
    elif change:
        torch.save({"g_ema": generator().state_dict()} if change == "generator" else {"x": torch.zeros(1)}, path)
    with pytest.raises(StoreError, match=message):
        create(params(**knobs), root).portraits(2)


def test_a_generator_is_enough_for_optimisation(root):
    torch.save({"g_ema": generator().state_dict()}, root / "g.pt")
    chosen = params(weights="g.pt", inversion="optimisation", steps=1)
    assert len(create(chosen, root).portraits(2).images) == 3


def test_what_changes_an_image_changes_its_origin(root):
    def origin(**knobs):
        return create(params(**knobs), root).origin(2)

    before = origin()
    assert origin() == before
    assert origin(steps=3) != before
    (root / "lpips").mkdir()
    (root / "lpips/a").write_bytes(b"1")
    with_network = origin(perceptual="lpips")
    (root / "lpips/a").write_bytes(b"2")
    assert origin(perceptual="lpips") != with_network
    write_inverter(root / "e4e.pt", latent_avg=torch.ones(6, 8))
    assert origin() != before


def test_knobs_that_do_not_fit_each_other():
    with pytest.raises(ParamsError, match=r"transfer\.space is 'w': a hybrid"):
        params(inversion="hybrid").transfer.check(params())
    with pytest.raises(ParamsError, match=r"images_per_id is 11, but .* 10 images"):
        params().transfer.check(replace(params(), images_per_id=11))
    with pytest.raises(ParamsError, match=r"transfer\.inversion is 'x': one of"):
        Knobs(inversion="x")


def test_the_defaults_are_the_official_ones_and_those_of_conf():
    knobs, official = Knobs(), Projection()
    assert (knobs.inversion, knobs.face) == (Inversion().inversion, Inversion().face)
    for name in ("space", "steps", "ramp_up", "ramp_down", "exploration", "exploration_until", "noise_weight"):
        assert getattr(knobs, name) == getattr(official, name), name
    assert knobs.lr == official.rate
    assert Knobs(**yaml.safe_load((CONF / "method/stylegan.yaml").read_text())["transfer"]) == knobs


def test_an_image_takes_as_long_as_its_operations(root, monkeypatch):
    """A hybrid is an encoding and steps; painting takes at least the last convolution, and a step three paintings."""
    monkeypatch.setattr(Machine, "seconds", lambda self, flops, device: flops)
    monkeypatch.setattr(Machine, "on_gpu", lambda self, device: True)

    def count(**knobs):
        return params(**knobs).transfer.seconds(root, Machine())

    steps = [count(inversion="optimisation", steps=steps) for steps in (1, 3)]
    assert count() > 0
    assert count(**HYBRID) - count() == pytest.approx(steps[1] - steps[0])
    torch.save({"g_ema": generator().state_dict()}, root / "e4e.pt")
    painting = count(inversion="e4e")
    last = 2 * 9 * SIZES["channel_base"] ** 2  # 3 x 3, base / 16 channels to as many, at 16 x 16 places
    assert painting > last
    assert painting < steps[0] / 3
    monkeypatch.setattr(Machine, "seconds", lambda self, flops, device: 0.0)
    monkeypatch.setattr(Machine, "on_gpu", lambda self, device: False)
    assert count(**HYBRID) == 2 * STEP
    (root / "e4e.pt").unlink()
    assert count() == 0  # counted on the official networks


def test_the_shipped_file_does_what_the_profiles_ask():
    for profile in ("embedded", "smoke"):
        tuned = yaml.safe_load((CONF / f"tuned/{profile}/stylegan.yaml").read_text())["transfer"]
        knobs = Knobs(**tuned)
        knobs.check(Params(method="stylegan", images_per_id=4, transfer=knobs))
        model = load_inverter(CONF.parent / knobs.weights)
        check_model(model, Inversion(knobs.inversion, Projection(knobs.space)), RandomFeatures())
    assert model.generator.size == 64
    assert (CONF.parent / knobs.weights).stat().st_size < 9e6
