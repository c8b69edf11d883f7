import pytest

from stages.images.folders import Folders
from stages.store import StoreError

FILES = {
    "p2/10.jpg": b"c",
    "p2/1.png": b"b",
    "p10/b/x.png": b"e",
    "p10/b.png": b"d",
    "p10/c.png": b"f",
    "p1/0.png": b"a",
    "list.txt": b"text",
}


def test_a_folder_is_an_identity(tmp_path, write):
    path = write(tmp_path / "faces", FILES)
    faces = Folders(path)
    rows = zip(faces.identity.tolist(), faces.sample.tolist(), map(faces.encoded, range(6)), strict=True)
    assert list(rows) == [(0, 0, b"a"), (1, 0, b"d"), (1, 1, b"f"), (2, 0, b"e"), (3, 0, b"b"), (3, 1, b"c")]
    assert faces.where(0) == f"{path}, p1/0.png"
    assert faces.left_out == {"no image by suffix": 1}


def test_an_image_outside_of_every_folder(tmp_path, write):
    with pytest.raises(StoreError, match=r"b\.png lies in no identity's folder; <identity>/<image> was expected"):
        Folders(write(tmp_path / "flat", {"b.png": b"b", "a/0.png": b"a"}))
