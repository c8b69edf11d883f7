from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from stages.images import Shards
from stages.params import Params, ParamsError
from stages.run.machine import Machine
from stages.store import StoreError, encode, write_shard
from stages.transfer import create
from stages.transfer.codeformer import Restoration, apply, load_codeformer
from stages.transfer.codeformer.knobs import Knobs
from stages.transfer.codeformer.method import WHOLE
from stages.transfer.codeformer.networks import CodeFormer, save_codeformer
from stages.transfer.codeformer.restoration import FFHQ_POINTS
from stages.transfer.points import points_in
from tests.transfer.codeformer.tiny import SIZES, tiny


@pytest.fixture
def root(tmp_path):
    """Two identities of three images, the last of another size, and a checkpoint."""
    rng = np.random.default_rng(0)
    images = [
        cv2.resize(rng.integers(0, 256, (4, 4, 3), np.uint8), size) for size in [(20, 20), (20, 20), (13, 18)] * 2
    ]
    numbers = {"identity": np.repeat([2, 5], 3), "sample": np.tile(np.arange(3), 2)}
    write_shard(tmp_path / "data/source/0.h5", numbers, [encode(image) for image in images])
    (tmp_path / "data/weights/codeformer").mkdir(parents=True)
    save_codeformer(tmp_path / "data/weights/codeformer/codeformer.pth", tiny(), **SIZES)
    return tmp_path


def params(**knobs) -> Params:
    return Params(method="codeformer", images_per_id=3, transfer=Knobs(**{"size": 32, "device": "cpu", **knobs}))


def test_the_knobs_reach_every_image(root):
    """Batch and neighbours change no bit."""
    network = load_codeformer(root / "data/weights/codeformer/codeformer.pth")
    source = Shards(root / "data/source")
    for knobs, settings in (
        ({}, Restoration()),
        ({"w": 1.0, "adain": False, "output": 24}, Restoration(w=1.0, adain=False, size=24)),
        ({"gray_threshold": 1e9}, Restoration(gray_threshold=1e9)),
    ):
        made = create(params(**knobs), root).portraits(2)
        assert made.sample.tolist() == [0, 1, 2]
        for row, image in enumerate(made.images):
            np.testing.assert_array_equal(image, apply(network, source.image(row)[None], settings)[0])
    single = create(replace(params(gray_threshold=1e9), images_per_id=1), root).portraits(2)
    np.testing.assert_array_equal(single.images[0], made.images[0])


def test_a_file_or_its_folder_may_be_named(root):
    folder = "data/weights/codeformer"
    images = [create(params(weights=name), root).portraits(2).images for name in (folder, f"{folder}/codeformer.pth")]
    for one, other in zip(*images, strict=True):
        np.testing.assert_array_equal(one, other)


class Detector:
    """Finds what it is told, in images one by one."""

    def __init__(self, landmarks):
        self.landmarks = iter(landmarks)

    def detect(self, images):
        assert len(images) == 1
        points = next(self.landmarks)
        return [Found([] if points is None else [points])]


class Found:
    def __init__(self, landmarks):
        self.landmarks = landmarks

    def __len__(self):
        return len(self.landmarks)


def test_the_unaligned_path_goes_by_the_detectors_points(root, monkeypatch):
    """Where there is no face, the whole image is put onto the template."""
    points = FFHQ_POINTS * 20 / 512 * 0.8 + 2
    images = np.stack([Shards(root / "data/source").image(row) for row in range(2)])
    detector = Detector([points, None])
    found = np.stack([points_in(image, detector, WHOLE) for image in images])
    np.testing.assert_array_equal(found[0], points)
    np.testing.assert_allclose(found[1], FFHQ_POINTS * 20 / 512)
    monkeypatch.setattr("stages.transfer.codeformer.method.MTCNN", lambda device: Detector([points, points, None]))
    # the odd size comes first
    made = create(params(alignment="unaligned", output=20), root).portraits(2).images
    network = load_codeformer(root / "data/weights/codeformer/codeformer.pth")
    np.testing.assert_array_equal(np.stack(made[:2]), apply(network, images, Restoration(size=20), found))
    assert made[2].shape == (20, 20, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"codeformer\.pth: no such .*sczhou/CodeFormer.* S-Lab licence 1\.0: not for commercial use"),
        (b"cut", r"codeformer\.pth: not a readable torch checkpoint"),
        (
            {"params_ema": {"x": torch.zeros(1)}, "sizes": SIZES},
            r"codeformer\.pth: not the weights of CodeFormer: .*miss",
        ),
        ({"state_dict": {"x": torch.zeros(1)}}, r"codeformer\.pth: no state_dict under 'params_ema' or 'params'"),
    ],
)
def test_broken_files_are_refused_by_name(root, content, message):
    path = root / "data/weights/codeformer/codeformer.pth"
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        torch.save(content, path)
    with pytest.raises(StoreError, match=message):
        create(params(), root).portraits(2)


def test_no_weights_say_where_they_come_from(root):
    with pytest.raises(
        StoreError, match=r"none: no weights of method codeformer; sczhou/CodeFormer's .* S-Lab licence"
    ):
        create(params(weights="none"), root)


def test_weights_of_another_size_are_refused(root):
    with pytest.raises(ParamsError, match=r"transfer\.size is 512, but .*codeformer is of 32 px"):
        create(params(size=512), root).portraits(2)


def test_knobs_out_of_range():
    for knobs, message in (({"w": 1.1}, "w is 1.1: at most 1"), ({"alignment": "x"}, "alignment is 'x': one of")):
        with pytest.raises(ParamsError, match=rf"transfer\.{message}"):
            Knobs(**knobs)
    with pytest.raises(ParamsError, match=r"images_per_id is 11, but .* 10 images"):
        params().transfer.check(replace(params(), images_per_id=11))


def test_the_side_of_what_is_made():
    assert [Knobs(**knobs).side for knobs in ({}, {"alignment": "unaligned"}, {"output": 112})] == [512, 1024, 112]


def test_an_image_takes_as_long_as_the_operations_of_the_weights_there_are(root, monkeypatch):
    """A transformer layer more of width d on t * t places: projections 4 d^2, MLP 4 d^2, attention 2 t * t d each."""
    monkeypatch.setattr(Machine, "seconds", lambda self, flops, device: flops)
    folder = root / "data/weights/codeformer"
    counts = [params().transfer.seconds(root, Machine())]
    (folder / "codeformer.pth").unlink()
    sizes = {**SIZES, "layers": 3}
    save_codeformer(folder / "codeformer.pth", CodeFormer(**sizes), **sizes)
    counts.append(params().transfer.seconds(root, Machine()))
    assert counts[1] - counts[0] == 2 * 64 * (8 * 16**2 + 2 * 64 * 16)
    (folder / "codeformer.pth").unlink()
    assert params().transfer.seconds(root, Machine()) == pytest.approx(810e9, rel=0.01)  # the official network
