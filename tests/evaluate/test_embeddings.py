"""Crops, views and the cache."""

import io

import numpy as np
import pytest
import torch
from tqdm import tqdm

from stages.align.knobs import Align
from stages.align.warp import ARCFACE_POINTS
from stages.evaluate import embeddings
from stages.evaluate.benchmarks import Images, Landmarks
from stages.evaluate.embeddings import Network, crop_mode, embed, load, load_network, short_side
from stages.knobs import ParamsError
from stages.store import StoreError, encode
from stages.train.backbones import load_backbone

ALIGN = Align()


def images(tmp_path, pictures, **more) -> Images:
    encoded = [encode(picture) for picture in pictures]
    return Images([f"{n}.png" for n in range(len(encoded))], encoded.__getitem__, "digest", **more)


def pictures(count, height=112, width=112):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


class Spy:
    """A network that gives the mean colours of the left and right half, and counts its calls."""

    def __init__(self):
        self.calls = 0
        self.network = Network("spy", "digest", "rgb", "cpu", self)

    def __call__(self, batch):
        self.calls += 1
        halves = batch.reshape(len(batch), 112, 2, 56, 3).mean((1, 3)).reshape(len(batch), 6)
        return halves.astype(np.float32)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_views_and_batches(tmp_path, cache, batch_size):
    shown = pictures(5)
    spy = Spy()
    found = embed(spy.network, images(tmp_path, shown, aligned=True), flip=True, align=None, batch_size=batch_size)
    halves = shown.reshape(5, 112, 2, 56, 3).mean((1, 3))
    np.testing.assert_allclose(found.views[0], halves.reshape(5, 6), rtol=1e-6)
    np.testing.assert_allclose(found.views[1], halves[:, ::-1].reshape(5, 6), rtol=1e-6)
    assert found.found.all()


def test_the_cache_answers_for_the_same_network_images_and_crop_only(tmp_path):
    spy, shown = Spy(), images(tmp_path, pictures(4), aligned=True)
    arguments = {"flip": True, "align": None, "batch_size": 2}
    first = embed(spy.network, shown, **arguments)
    calls = spy.calls
    again = embed(spy.network, shown, **arguments)
    assert spy.calls == calls
    np.testing.assert_array_equal(first.views, again.views)
    others = [
        (Network("spy", "other", "rgb", "cpu", spy), shown, arguments),
        (Network("spy", "digest", "bgr", "cpu", spy), shown, arguments),
        (Network("spy", "digest", "rgb", "cuda", spy), shown, arguments),
        (spy.network, Images(shown.names, shown.encoded, "other", aligned=True), arguments),
        (spy.network, Images(shown.names, shown.encoded, "digest"), arguments),
        (spy.network, shown, {**arguments, "flip": False}),
    ]
    for network, other, more in others:
        before = spy.calls
        embed(network, other, **more)
        assert spy.calls > before


def test_the_bar_counts_images_that_are_in_the_cache(tmp_path):
    shown = images(tmp_path, pictures(3), aligned=True)
    for _ in range(2):
        with tqdm(disable=False, file=io.StringIO()) as bar:
            embed(Spy().network, shown, flip=False, align=None, batch_size=2, bar=bar)
            assert bar.n == 3


def test_a_damaged_cache_is_computed_again(tmp_path, cache):
    spy, shown = Spy(), images(tmp_path, pictures(2), aligned=True)
    first = embed(spy.network, shown, flip=False, align=None, batch_size=2)
    (path,) = (cache / "evaluate").glob("*/content.h5")
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:100])
    np.testing.assert_array_equal(embed(spy.network, shown, flip=False, align=None, batch_size=2).views, first.views)


def test_an_embedding_that_is_not_finite_names_its_image(tmp_path, cache):
    def broken(batch):
        return np.where(np.arange(len(batch))[:, None] == 1, np.nan, np.ones((len(batch), 4))).astype(np.float32)

    with pytest.raises(StoreError, match=r"its embedding of 1\.png is not finite"):
        embed(
            Network("net.onnx", "d", "rgb", "cpu", broken),
            images(tmp_path, pictures(3), aligned=True),
            flip=False,
            align=None,
            batch_size=3,
        )
    assert not list((cache / "evaluate").rglob("*.h5"))


def test_crop_modes(tmp_path):
    shown = pictures(1, 150, 112)
    points = Landmarks(np.float32(ARCFACE_POINTS[None] + [0, 20]), tmp_path / "lmk.txt", np.array([7]))
    given = images(tmp_path, pictures(1), aligned=True)
    landmarks = images(tmp_path, shown, landmarks=points)
    plain = images(tmp_path, shown)
    assert [crop_mode(*case) for case in ((given, ALIGN), (landmarks, ALIGN), (plain, ALIGN), (plain, None))] == [
        "given",
        "landmarks",
        "detection",
        "centre",
    ]
    np.testing.assert_array_equal(load(landmarks, [0], ALIGN)[0][0], shown[0, 20:132])
    np.testing.assert_array_equal(load(plain, [0], None)[0][0], shown[0, 19:131])


def test_an_image_without_a_face_is_cropped_to_its_centre_and_counted(tmp_path):
    shown = np.full((1, 150, 112, 3), 90, np.uint8)
    shown[0, 19:131] = 91
    crops, found = load(images(tmp_path, shown), [0], ALIGN)
    assert not found.any()
    assert (crops == 91).all()


@pytest.mark.parametrize(("shift", "broken"), [(0, False), (-70, False), (-150, True), (150, True)])
def test_landmarks_outside(tmp_path, shift, broken):
    points = np.float32(ARCFACE_POINTS[None] + [shift, 0])
    shown = images(tmp_path, pictures(1), landmarks=Landmarks(points, tmp_path / "lmk.txt", np.array([7])))
    if not broken:
        load(shown, [0], ALIGN)
        return
    with pytest.raises(StoreError, match=r"lmk\.txt, line 7: landmarks .* lie outside of 0\.png \(112 x 112 px\)"):
        load(shown, [0], ALIGN)


def test_bin_images_of_another_size_are_scaled_by_their_short_side(tmp_path):
    assert short_side(np.zeros((224, 224, 3), np.uint8), 112).shape == (112, 112, 3)
    for size in range(30, 300, 7):
        assert short_side(np.zeros((size, size, 3), np.uint8), 112).shape == (112, 112, 3)
    assert short_side(np.zeros((100, 112, 3), np.uint8), 112).shape == (100, 112, 3)  # the width has it
    ramp = np.tile(np.uint8(4 * np.arange(56))[None, :, None], (56, 1, 3))
    np.testing.assert_array_equal(short_side(ramp, 112)[56, 8:104, 0], 2 * np.arange(8, 104) - 1)
    with pytest.raises(StoreError, match=r"0\.png: 149 x 112 px is not square"):
        load(images(tmp_path, pictures(1, 150, 200), aligned=True), [0], None)


def test_channel_order(backbone, tmp_path):
    batch = pictures(3)
    network, card = load_backbone(backbone)
    assert card.channels == "rgb"
    with torch.inference_mode():
        rgb, bgr = (
            network((torch.from_numpy(x.astype(np.float32)).permute(0, 3, 1, 2) - 127.5) / 127.5).numpy()
            for x in (batch, batch[..., ::-1].copy())
        )
    np.testing.assert_allclose(load_network(backbone).forward(batch), rgb, atol=1e-5 * np.abs(rgb).max())
    np.testing.assert_allclose(load_network(backbone, "bgr").forward(batch), bgr, atol=1e-5 * np.abs(rgb).max())
    assert np.abs(rgb - bgr).max() > 0.1 * np.abs(rgb).max()
    with pytest.raises(ParamsError, match="'gray'"):
        load_network(backbone, "gray")


def test_an_onnx_encoder_gives_what_its_network_gives(backbone, tmp_path):
    network, _ = load_backbone(backbone)
    path = tmp_path / "encoder.onnx"
    torch.onnx.export(
        network,
        (torch.zeros(1, 3, 112, 112),),
        path,
        dynamo=False,
        input_names=["data"],
        dynamic_axes={"data": {0: "n"}},
    )
    batch = pictures(2)
    for channels in ("rgb", "bgr"):
        wanted = load_network(backbone, channels).forward(batch)
        found = load_network(path, channels).forward(batch)
        np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


def test_the_detector_has_the_knobs_of_align_and_is_made_once():
    found = embeddings._detector(Align(min_face=40, factor=0.5))
    assert found is embeddings._detector(Align(min_face=40, factor=0.5))
    assert (found.min_face, found.factor) == (40, 0.5)


def test_the_knobs_of_align_matter_where_a_face_is_sought(tmp_path):
    spy, shown = Spy(), pictures(1, 60, 60)
    for one, seen in ((images(tmp_path, shown), 2), (images(tmp_path, pictures(1), aligned=True), 1)):
        before = spy.calls
        for align in (Align(), Align(min_face=40)):
            embed(spy.network, one, flip=False, align=align, batch_size=2)
        assert spy.calls - before == seen


def test_few_photographs_are_in_memory_at_a_time(tmp_path, monkeypatch):
    held = []

    def spy(decoded, detector):
        held.append(len(decoded))
        return align_images(decoded, detector)

    align_images = embeddings.align_images
    monkeypatch.setattr(embeddings, "align_images", spy)
    monkeypatch.setattr(embeddings, "FEW", 2)
    shown = images(tmp_path, pictures(5, 30, 40))
    crops, found = load(shown, range(5), ALIGN)
    assert held == [2, 2, 1]
    assert len(found) == 5
    np.testing.assert_array_equal(crops, load(shown, range(5), None)[0])  # no face in any


@pytest.fixture
def torch_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_threads_show_in_no_bit(backbone, monkeypatch, torch_threads):
    """torch shares an operation out by its threads, and sums in another order then."""
    forward, batch, found = load_network(backbone, device="cpu").forward, pictures(20), []
    for count in (1, 3):
        torch_threads(count)
        monkeypatch.setattr(embeddings, "cores", lambda count=count: count)
        found.append(forward(batch))
    assert found[0].shape[0] == 20
    np.testing.assert_array_equal(*found)
