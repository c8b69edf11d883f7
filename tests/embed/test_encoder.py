"""Encoders in the forms in which people export them, against the layer done by hand."""

import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

from stages.embed.encoder import Encoder, by_names, read_form
from stages.store import StoreError
from stages.store.fingerprint import PACKAGE
from tests.embed.onnx_files import WEIGHTS, by_hand, one_layer

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 112, 112, 3), np.uint8)
INSIDE = (("Sub", 127.5, "{}minus0"), ("Mul", 1 / 127.5, "{}mul0"))


def inside(prefix: str) -> list[tuple[str, float, str]]:
    return [(operator, constant, name.format(prefix)) for operator, constant, name in INSIDE]


FORMS = {
    "plain": {},
    "batch of 1": {"shape": (1, 3, 112, 112)},
    "batch of 32": {"shape": (32, 3, 112, 112)},
    "batch of 2": {"shape": (2, 3, 112, 112)},
    "height, width, channels": {"shape": ("n", 112, 112, 3)},
    "one image, channels last": {"shape": (1, 112, 112, 3)},
    "open sizes": {"shape": ("n", 3, "h", "w")},
    "open sizes and channels": {"shape": ("n", "c", "h", "w")},
    "open sizes, channels last": {"shape": ("n", "h", "w", 3)},
    "half precision": {"dtype": TensorProto.FLOAT16, "out": TensorProto.FLOAT16},
    "double precision": {"dtype": TensorProto.DOUBLE, "out": TensorProto.DOUBLE},
    "embedding and norm": {"outputs": ("embedding", "norm")},
    "norm and embedding": {"outputs": ("norm", "embedding")},
    "map and embedding": {"outputs": ("map", "embedding")},
    "a batch that is promised and not kept": {"reshape": (1, 147)},
    "normalises, MXNet's names": {"steps": inside("_")},
    "normalises, torch's names": {"steps": inside("/pre/")},
    "normalises, no names": {"steps": [(*step[:2], "") for step in INSIDE]},
    "normalises by 1 / 255, then to both sides": {
        "steps": [("Div", 255.0, "a"), ("Sub", 0.5, "b"), ("Div", 0.5, "c")],
    },
    "pixels in whole numbers": {"dtype": TensorProto.UINT8, "steps": inside("_")},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_gives_the_same(tmp_path, form):
    encoder = Encoder(one_layer(tmp_path / "a.onnx", **form))
    half = form.get("dtype") == TensorProto.FLOAT16
    for count in (5, 1, 2):
        found = encoder.embed(IMAGES[:count])
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, by_hand(IMAGES[:count]), atol=2e-2 if half else 1e-4)
    assert encoder.dimension == 16


@pytest.mark.parametrize("act", ["_2", "_prelu"])
def test_nodes_whose_names_alone_look_like_a_normalisation(tmp_path, act):
    """A leaky ReLU of Mul and Sub is no normalisation, whatever its nodes are called."""
    path = one_layer(tmp_path / "a.onnx", act=act)
    neutral = one_layer(tmp_path / "b.onnx", act="")
    assert by_names(path)
    assert not read_form(path).normalises
    pooled = by_hand_with_slope(IMAGES)
    np.testing.assert_allclose(Encoder(path).embed(IMAGES), pooled, atol=1e-4)
    assert not by_names(neutral)


def by_hand_with_slope(images: np.ndarray) -> np.ndarray:
    values = (images.astype(np.float64) - 127.5) / 127.5
    pooled = values.reshape(-1, 7, 16, 7, 16, 3).mean(axis=(2, 4)).transpose(0, 3, 1, 2).reshape(len(images), -1)
    return np.where(pooled > 0, pooled, 0.25 * pooled) @ WEIGHTS


def test_whole_numbers_are_pixels_as_they_are(tmp_path):
    plain, whole = (one_layer(tmp_path / f"{kind}.onnx", dtype=kind) for kind in (TensorProto.FLOAT, TensorProto.UINT8))
    assert not read_form(plain).normalises
    assert read_form(whole).normalises
    shift = -127.5 * by_hand(np.zeros((1, 112, 112, 3), np.uint8))
    np.testing.assert_allclose(Encoder(whole).embed(IMAGES), by_hand(IMAGES) * 127.5 + shift, atol=1e-2)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"shape": ("n", 3, 128, 128)}, r"takes x \[n, 3, 128, 128\] of float32; \[n, 3, 112, 112\] or"),
        ({"shape": ("n", 1, 112, 112)}, r"takes x \[n, 1, 112, 112\]"),
        ({"dtype": TensorProto.INT8}, r"of int8; float32, float16, float64 or uint8"),
        ({"outputs": ("norm",)}, r"gives norm \[n, 1\] of float32; an output \[n, d\]"),
        ({"outputs": ("map", "norm")}, r"gives map \[n, 3, 7, 7\] of float32 and norm"),
        ({"reshape": (2, -1)}, r"does not take images of 112 x 112 px"),
    ],
)
def test_what_is_no_encoder_is_refused_by_a_sentence(tmp_path, form, message):
    path = one_layer(tmp_path / "a.onnx", **form)
    with pytest.raises(StoreError, match=rf"a\.onnx: .*{message}"):
        Encoder(path)


def test_files_that_are_none(tmp_path):
    with pytest.raises(StoreError, match=r"embed\.encoder"):
        Encoder(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(StoreError, match=r"text\.onnx: not an ONNX file"):
        Encoder(tmp_path / "text.onnx")


def test_the_projects_own_encoder_is_fed_as_insightface_feeds_it():
    """RGB, (x - 127.5) / 127.5, channels first, by onnxruntime alone."""
    path = PACKAGE / "embed/encoder.onnx"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    values = ((IMAGES.astype(np.float32) - 127.5) / 127.5).transpose(0, 3, 1, 2)
    (wanted,) = session.run(None, {session.get_inputs()[0].name: np.ascontiguousarray(values)})
    encoder = Encoder(path)
    np.testing.assert_allclose(encoder.embed(IMAGES), wanted, atol=1e-5)
    assert np.abs(encoder.embed(IMAGES[..., ::-1]) - wanted).max() > 0.1
    assert (encoder.dimension, encoder.device) == (wanted.shape[1], "cpu")


def test_an_embedding_depends_on_its_image_alone():
    path = PACKAGE / "embed/encoder.onnx"
    encoder = Encoder(path, threads=1)
    together = encoder.embed(IMAGES)
    np.testing.assert_array_equal(np.concatenate([encoder.embed(IMAGES[:2]), encoder.embed(IMAGES[2:])]), together)
    np.testing.assert_array_equal(Encoder(path, threads=2).embed(IMAGES[::-1])[::-1], together)


def test_what_reads_onnx_is_loaded_where_an_encoder_is():
    code = "import sys, stages.embed.encoder; print({'insightface', 'onnxruntime', 'onnx'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
