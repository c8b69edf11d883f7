import zipfile

import pytest

from stages.fetch.images import ImageArchive
from stages.store import StoreError

FILES = {"b/2.PNG": b"two", "a.jpg": b"one", "b/10.webp": b"ten", "LICENSE.txt": b"text"}


@pytest.fixture(params=["zip", "folder"])
def archive(tmp_path, request):
    path = tmp_path / "faces"
    if request.param == "zip":
        with zipfile.ZipFile(path, "w") as file:
            for name, content in FILES.items():
                file.writestr(name, content)
    else:
        for name, content in FILES.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    return path


def test_names_and_bytes(archive):
    images = ImageArchive(archive)
    assert images.names == ["a.jpg", "b/10.webp", "b/2.PNG"]
    assert (len(images), images.others) == (3, 1)
    assert {name: images.encoded(name) for name in images.names} == {name: FILES[name] for name in images.names}


def test_unknown_image(archive):
    with pytest.raises(StoreError, match=r"no image b/3\.png"):
        ImageArchive(archive).encoded("b/3.png")


def test_folder_digest_follows_names_and_bytes(tmp_path):
    digests = set()
    for name, content in (("1.png", b"a"), ("2.png", b"a"), ("2.png", b"b")):
        folder = tmp_path / str(len(digests))
        folder.mkdir()
        (folder / name).write_bytes(content)
        digests.add(ImageArchive(folder).digest())
    assert len(digests) == 3


def test_nothing_there(tmp_path):
    with pytest.raises(StoreError, match="no such folder or zip"):
        ImageArchive(tmp_path / "absent")
    with pytest.raises(StoreError, match="holds no image"):
        ImageArchive(tmp_path)
    (tmp_path / "broken.zip").write_bytes(b"PK")
    with pytest.raises(StoreError, match="truncated or not a zip"):
        ImageArchive(tmp_path / "broken.zip")


@pytest.mark.parametrize(
    ("name", "mode", "message"),
    [
        ("1/a.png", 0o120777, r"member 1/a\.png: a link"),
        ("/1/a.png", 0, "leads out of the archive"),
        ("1/../../a.png", 0, "leads out of the archive"),
        ("..", 0, "leads out of the archive"),
    ],
)
def test_links_and_paths_out_of_a_zip(tmp_path, name, mode, message):
    path = tmp_path / "faces.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("1/..b.png", b"fine")
        member = zipfile.ZipInfo(name)
        member.external_attr = mode << 16
        file.writestr(member, b"/etc/passwd")
    with pytest.raises(StoreError, match=message):
        ImageArchive(path)


def test_a_zip_bomb_is_not_inflated(tmp_path, monkeypatch):
    monkeypatch.setattr("stages.fetch.zips.MEMBER_LIMIT", 1000)
    path = tmp_path / "faces.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("1/a.png", bytes(1001))
    with pytest.raises(StoreError, match=r"member 1/a\.png: 1001 bytes is no image"):
        ImageArchive(path)
    content = path.read_bytes().replace((1001).to_bytes(4, "little"), (10).to_bytes(4, "little"))  # it lies about it
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"member 1/a\.png: broken"):
        ImageArchive(path).encoded("1/a.png")
