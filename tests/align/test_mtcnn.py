import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stages.align import mtcnn as module
from stages.align.mtcnn import MTCNN, crops, level, load_official, suppress
from tests.align import reference


@pytest.fixture(scope="module")
def mtcnn():
    return MTCNN()


def images_of(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


def inputs(n, h, w):
    return torch.randn(n, 3, h, w, generator=torch.Generator().manual_seed(0)).contiguous(
        memory_format=torch.channels_last
    )


def test_parameters_and_names_of_the_official_networks(mtcnn):
    counts = [sum(p.numel() for p in net.parameters()) for net in (mtcnn.pnet, mtcnn.rnet, mtcnn.onet)]
    assert counts == [6632, 100178, 389040]
    assert [key for key in mtcnn.rnet.state_dict() if key.endswith("weight")] == [
        "features.conv1.weight",
        "features.prelu1.weight",
        "features.conv2.weight",
        "features.prelu2.weight",
        "features.conv3.weight",
        "features.prelu3.weight",
        "features.conv4.weight",
        "features.prelu4.weight",
        "conv5_1.weight",
        "conv5_2.weight",
    ]
    assert mtcnn.onet.state_dict()["conv6_3.weight"].shape == (10, 256)


@pytest.mark.parametrize(("name", "sizes"), [("pnet", (31, 40)), ("rnet", (24, 24)), ("onet", (48, 48))])
def test_networks_equal_the_loop_over_the_files_arrays(mtcnn, name, sizes):
    x = inputs(2, *sizes)
    ours = getattr(mtcnn, name)(x)
    for row in range(2):
        expected = getattr(reference, name)(x[row].permute(1, 2, 0).double().numpy())
        for a, b in zip(ours, expected, strict=True):
            a = a[row] if a[row].ndim < 3 else a[row].permute(1, 2, 0)
            np.testing.assert_allclose(a.numpy(), b, atol=2e-5)


@pytest.mark.parametrize("kernel", [2, 3])
@pytest.mark.parametrize("size", [(9, 8), (8, 11), (23, 21)])
def test_pooling_equals_torchs(kernel, size):
    x = inputs(3, *size)
    assert torch.equal(module._MaxPool(kernel)(x), F.max_pool2d(x, kernel, 2, ceil_mode=True))


def test_prelu_equals_torchs():
    layer, x = module._PReLU(3), inputs(4, 7, 6)
    layer.weight.data = torch.tensor([-0.5, 0.1, 1.5])
    assert torch.equal(layer(x), F.prelu(x, layer.weight))


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("pnet", "13b6e2c6d49be93cf0eb957a139daa5c8ba4d6b162ccc644ff2125c19a73f524"),
        ("rnet", "5073c2b622b16c4cd7acca5408838f9b8e703c39a9bfb4f14382c23a756d0ef2"),
        ("onet", "112f10e8fa59867395794dbcb6f5c49c239365d4dcc91703841e0231bf1197c7"),
    ],
)
def test_the_weights_are_those_of_the_package(name, digest):
    """SHA-256 over the arrays of mtcnn 1.0.0's `assets/weights/*.lz4`, one after the other."""
    content = b"".join(np.ascontiguousarray(array).tobytes() for array in reference.official_weights(name))
    assert hashlib.sha256(content).hexdigest() == digest


def test_weights_of_another_network_do_not_load():
    with pytest.raises((ValueError, RuntimeError)):
        load_official(module.RNet(), "onet")


@pytest.mark.parametrize("size", [(112, 112), (61, 97), (700, 1100)])
def test_level_is_area_interpolation(size):
    images = images_of(2, *size)
    floats = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    for height, width in ((13, 14), (40, 33)):
        expected = (F.interpolate(floats, (height, width), mode="area") - 127.5) / 128
        torch.testing.assert_close(level(images, height, width, range(height)), expected, rtol=0, atol=2e-7)
        assert torch.equal(
            level(images, height, width, range(5, 9)), level(images, height, width, range(height))[:, :, 5:9]
        )


def test_crops_are_the_means_of_their_windows():
    images = images_of(3, 50, 70)
    begin, end = np.array([[3, 5], [0, 0], [60, 40], [7, 9]]), np.array([[40, 31], [70, 50], [62, 41], [8, 50]])
    image = np.array([2, 0, 1, 1])
    made = crops(images, image, begin, end, 24)
    for row in range(4):
        (x0, y0), (x1, y1) = begin[row], end[row]
        expected = reference.resize(images[image[row], y0:y1, x0:x1], 24, 24)
        np.testing.assert_allclose(made[row].permute(1, 2, 0).numpy(), expected, atol=2e-7)


def boxes_of(n, seed=0):
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 60, (n, 2))
    boxes = np.concatenate([corner, corner + rng.integers(8, 40, (n, 2))], 1).astype(np.float32)
    return torch.from_numpy(boxes), torch.from_numpy(rng.random(n, np.float32)), torch.from_numpy(rng.integers(0, 4, n))


@pytest.mark.parametrize("inclusive", [False, True])
@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_suppression_equals_the_loop_in_every_group(inclusive, threshold):
    boxes, scores, groups = boxes_of(120)
    kept = suppress(boxes, scores, groups, threshold, inclusive=inclusive).tolist()
    for group in range(4):
        rows = (groups == group).nonzero()[:, 0]
        expected = reference.suppress(boxes[rows].numpy(), scores[rows].numpy(), threshold, inclusive)
        assert [i for i in kept if groups[i] == group] == rows[expected].tolist()


def test_suppression_of_nothing():
    assert suppress(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), 0.5).tolist() == []


def test_detections_equal_the_loop(mtcnn, photograph, portraits):
    two = np.concatenate(
        [photograph[20:200:2, 160:290:2], photograph[20:200:2, 290:160:-2]], 1
    )  # 90 x 130 px, mirrored
    for image, faces in ((portraits[0], 1), (two, 2)):
        found = mtcnn.detect([image])[0]
        boxes, scores, landmarks = reference.detect(image)
        assert len(found) == len(boxes) == faces
        np.testing.assert_allclose(found.boxes, boxes, atol=1e-2)
        np.testing.assert_allclose(found.scores, scores, atol=1e-4)
        np.testing.assert_allclose(found.landmarks, landmarks, atol=1e-2)


def test_landmarks_lie_where_eyes_nose_and_mouth_are(mtcnn, photograph):
    """Read off the photograph by hand, to 6 px of a face of 110."""
    points = [(205, 102), (246, 103), (224, 128), (203, 139), (244, 142)]
    np.testing.assert_allclose(mtcnn.detect([photograph])[0].landmarks[0], points, atol=6)


def test_an_image_is_detected_the_same_in_any_batch(mtcnn, portraits, photograph, faceless):
    images = [*portraits, faceless, photograph[:200, 100:300], *portraits[::-1], np.zeros((10, 300, 3), np.uint8)]
    together = mtcnn.detect(images)
    for batch in (1, 2, 5):
        apart = [face for i in range(0, len(images), batch) for face in mtcnn.detect(images[i : i + batch])]
        for a, b in zip(together, apart, strict=True):
            assert np.array_equal(a.boxes, b.boxes)
            assert np.array_equal(a.scores, b.scores)
            assert np.array_equal(a.landmarks, b.landmarks)


@pytest.mark.parametrize("height", [89, 90])
@pytest.mark.parametrize("at_once", [{"level": 1 << 11}, {"level": 12 * 79}, {"pixels": 1}, {"rnet": 3, "onet": 2}])
def test_bands_and_batches_change_no_box(photograph, height, at_once):
    """A band of 2^11 cells has 25 of 54 rows of the first level; one of 12 rows is the least."""
    mtcnn, pieces = MTCNN(), MTCNN()
    pieces.at_once = {**pieces.at_once, **at_once}
    image = np.concatenate([photograph[20:200:2, 160:290:2], photograph[20:200:2, 290:160:-2]], 1)[:height]
    for a, b in zip(mtcnn.detect([image, image]), pieces.detect([image, image]), strict=True):
        assert len(a) == len(b) == 2
        np.testing.assert_allclose(a.boxes, b.boxes, atol=1e-3)
        np.testing.assert_allclose(a.landmarks, b.landmarks, atol=1e-3)


PEAK = """
import resource, sys
import numpy as np
from stages.align.mtcnn import MTCNN
mtcnn = MTCNN()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
mtcnn.detect([np.zeros((100, 100, 3), np.uint8)])
before = peak()
images = np.random.default_rng(0).integers(0, 256, (2, 3000, 4000, 3), np.uint8)
mtcnn.detect(images)
print(before, peak())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts KiB on Linux")
def test_memory_of_12_megapixels():
    """Two photographs: half a GB, they and their copies included, over what the libraries take."""
    done = subprocess.run([sys.executable, "-c", PEAK], stdout=subprocess.PIPE, text=True, check=True)
    before, peak = map(float, done.stdout.split())
    assert peak < 1.5
    assert peak - before < 0.5


def test_the_largest_face_comes_first(mtcnn, photograph):
    small = photograph[0:240:2, 100:340:2]
    image = np.zeros((240, 360, 3), np.uint8)
    image[:120, :120], image[:, 120:] = small, photograph[:240, 100:340]
    boxes = mtcnn.detect([image])[0].boxes
    sizes = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    assert len(boxes) >= 2
    assert (np.diff(sizes) <= 0).all()


def test_nothing_is_found_where_nothing_is(mtcnn, faceless):
    empty = [faceless, np.zeros((112, 112, 3), np.uint8), np.zeros((19, 200, 3), np.uint8)]
    assert [len(faces) for faces in mtcnn.detect(empty)] == [0, 0, 0]
    assert mtcnn.detect(empty)[0].landmarks.shape == (0, 5, 2)
    assert mtcnn.detect([]) == []


def test_thresholds_and_smallest_face_count(portraits):
    assert len(MTCNN(thresholds=(0.6, 0.7, 1.0)).detect(portraits[:1])[0]) == 0
    assert len(MTCNN(min_face=100).detect(portraits[4:5])[0]) == 0  # its face is 35 px wide
    assert MTCNN(min_face=40, factor=0.5).scales(160, 200) == [0.3, 0.15, 0.075]
