import cv2
import numpy as np
import onnx
import pytest
import torch
from insightface.model_zoo.arcface_onnx import ArcFaceONNX

from stages.train.backbones import Card, normalise, save_backbone
from stages.train.export import export
from tests.train.test_backbones import shuffled


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "backbone.safetensors"
    network = shuffled("iresnet_tiny")
    save_backbone(path, network, Card("iresnet_tiny", network.embedding))
    return path, network


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), np.uint8)


@pytest.mark.parametrize(("half", "tolerance"), [(False, 1e-4), (True, 2e-3)])
def test_insightface_reads_the_same_embeddings(tmp_path, backbone, images, half, tolerance):
    path, network = backbone
    export(path, tmp_path / "encoder.onnx", half)
    encoder = ArcFaceONNX(str(tmp_path / "encoder.onnx"))
    assert (encoder.input_mean, encoder.input_std) == (127.5, 127.5)  # no Sub and Mul taken for a normalisation
    assert encoder.input_size == (112, 112)
    with torch.no_grad():
        expected = network(normalise(torch.from_numpy(images))).numpy()
    embeddings = encoder.get_feat([cv2.cvtColor(image, cv2.COLOR_RGB2BGR) for image in images])  # it takes BGR
    assert embeddings.dtype == np.float32
    assert np.linalg.norm(embeddings - expected, axis=1).max() <= tolerance * np.linalg.norm(expected, axis=1).min()
    alone = encoder.get_feat([cv2.cvtColor(images[2], cv2.COLOR_RGB2BGR)])
    np.testing.assert_allclose(alone[0], embeddings[2], rtol=1e-4, atol=1e-4)


def test_half_stores_the_large_weights_as_float16(tmp_path, backbone):
    export(backbone[0], tmp_path / "encoder.onnx", half=True)
    graph = onnx.load(tmp_path / "encoder.onnx").graph
    large = [t for t in graph.initializer if np.prod(t.dims) >= 1024]
    assert large
    assert all(t.data_type == onnx.TensorProto.FLOAT16 for t in large)
    assert (tmp_path / "encoder.onnx").stat().st_size < 0.52 * backbone[0].stat().st_size


def test_the_same_bytes_again_and_input_as_insightface_names_it(tmp_path, backbone):
    for name in ("a.onnx", "b.onnx"):
        export(backbone[0], tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    graph = onnx.load(tmp_path / "a.onnx").graph
    assert [node.name for node in graph.input] == ["input.1"]
    batch, *rest = graph.input[0].type.tensor_type.shape.dim
    assert batch.dim_param == "None"
    assert [dim.dim_value for dim in rest] == [3, 112, 112]
    assert len(graph.output) == 1


def test_the_file_of_a_bgr_network_sees_rgb(tmp_path, backbone, images):
    _, network = backbone
    save_backbone(tmp_path / "bgr.safetensors", network, Card("iresnet_tiny", network.embedding, channels="bgr"))
    export(tmp_path / "bgr.safetensors", tmp_path / "encoder.onnx", half=False)
    with torch.no_grad():
        expected = network(normalise(torch.from_numpy(images), "bgr")).numpy()
    encoder = ArcFaceONNX(str(tmp_path / "encoder.onnx"))
    embeddings = encoder.get_feat([cv2.cvtColor(image, cv2.COLOR_RGB2BGR) for image in images])  # it feeds RGB
    np.testing.assert_allclose(embeddings, expected, rtol=1e-3, atol=1e-3)
