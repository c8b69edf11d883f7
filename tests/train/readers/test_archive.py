import zipfile

import pytest

from stages.store import StoreError
from stages.train.readers.archive import Archive

FILES = {
    "p2/10.jpg": b"c",
    "p2/1.png": b"b",
    "p10/b/x.png": b"e",
    "p10/b.png": b"d",
    "p10/c.png": b"f",
    "p1/0.png": b"a",
}


@pytest.fixture(params=["zip", "folder"])
def archive(tmp_path, request):
    path = tmp_path / "faces.zip"
    if request.param == "zip":
        with zipfile.ZipFile(path, "w") as file:
            for name, content in {**FILES, "list.txt": b"text"}.items():
                file.writestr(name, content)
    else:
        for name, content in {**FILES, "list.txt": b"text"}.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    return path


def test_a_folder_is_an_identity(archive):
    found = Archive(archive)
    rows = zip(found.identity.tolist(), found.sample.tolist(), map(found.encoded, range(6)), strict=True)
    assert sorted(rows) == [(0, 0, b"a"), (1, 0, b"d"), (1, 1, b"f"), (2, 0, b"e"), (3, 0, b"b"), (3, 1, b"c")]
    assert found.where(0) == f"{archive}, p1/0.png"


def test_an_image_outside_of_every_folder(archive, tmp_path):
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat/a.png").write_bytes(b"a")
    with pytest.raises(StoreError, match=r"a\.png lies in no identity's folder"):
        Archive(tmp_path / "flat")


def test_the_fingerprint_of_a_folder_follows_names_and_sizes(tmp_path):
    prints = []
    for number, (name, content) in enumerate(
        [("1/a.png", b"a"), ("2/a.png", b"a"), ("1/a.png", b"ab"), ("1/a.png", b"a")]
    ):
        path = tmp_path / str(number) / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        prints += Archive(tmp_path / str(number)).fingerprints
    assert len(set(prints)) == 3
    assert prints[0] == prints[3]
