import io

import cv2
import numpy as np
import pytest
from PIL import Image

from stages.store import StoreError, decode, encode


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
@pytest.mark.parametrize("codec", ["PNG", "JPEG", "WEBP"])
def test_pixels_are_pillows(codec, mode):
    if codec == "JPEG" and mode in ("P", "RGBA"):
        mode = "RGB"  # JPEG has no such images
    coarse = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((70, 51)).convert(mode)
    file = io.BytesIO()
    picture.save(file, codec, lossless=True)
    found = decode(file.getvalue())
    np.testing.assert_array_equal(found, np.asarray(Image.open(file).convert("RGB")))
    for share in (0, 0.5, 0.99):
        with pytest.raises(StoreError, match=r"a\.img: does not decode"):
            decode(file.getvalue()[: int(share * len(file.getvalue()))], "a.img")


@pytest.mark.parametrize("codec", ["jpeg", "webp"])
def test_quality_trades_bytes_for_error(codec):
    image = cv2.resize(np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8), (64, 64))
    coarse, fine = (encode(image, codec, quality) for quality in (20, 95))
    errors = [np.abs(decode(encoded).astype(int) - image).mean() for encoded in (coarse, fine)]
    assert len(coarse) < 0.7 * len(fine)
    assert errors[0] > 2 * errors[1]
    assert errors[1] < 3


def test_an_orientation_in_the_file_is_not_applied():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 16, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=95, exif=exif)
    np.testing.assert_array_equal(decode(file.getvalue()), np.asarray(Image.open(file)))


def test_an_image_too_large_for_the_decoder_is_named(monkeypatch):
    def refuse(*_: object) -> None:
        raise cv2.error("size exceeds CV_IO_MAX_IMAGE_PIXELS")

    monkeypatch.setattr(cv2, "imdecode", refuse)
    with pytest.raises(StoreError, match=r"a\.png: too large to decode"):
        decode(b"huge", "a.png")
