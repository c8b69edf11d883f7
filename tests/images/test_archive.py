import struct
import zipfile
import zlib

import pytest

from stages.images import Archive
from stages.store import StoreError, encode
from tests.images.forms import picture, write_tree, write_zip

FILES = {"b/2.PNG": b"two", "a.jpg": b"one", "b/10.webp": b"ten", "LICENSE.txt": b"text"}


@pytest.fixture
def archive(tmp_path, write):
    return Archive(write(tmp_path / "faces", FILES))


def test_names_and_bytes_by_row_and_by_name(archive):
    assert archive.names == ["a.jpg", "b/10.webp", "b/2.PNG"]
    assert (len(archive), archive.left_out) == (3, {"no image by suffix": 1})
    for row, name in enumerate(archive.names):
        assert archive.encoded(row) == archive.encoded(name) == FILES[name]
        assert archive.where(row) == archive.where(name) == f"{archive.path}, {name}"


@pytest.mark.parametrize("name", ["b/3.png", "", "a.jp", "zz.png"])
def test_unknown_image(archive, name):
    with pytest.raises(StoreError, match=f"no image {name}"):
        archive.encoded(name)


def test_the_digest_of_some_images(archive):
    assert archive.digest() == archive.digest([0, 1, 2]) == archive.digest(archive.names)
    assert len({archive.digest(rows) for rows in ([0], [1], [0, 1], [1, 0], [])}) == 5
    assert archive.digest(["b/2.PNG"]) == archive.digest([2])


def test_the_digest_follows_names_and_bytes(tmp_path, write):
    files = [{"1.png": b"a"}, {"2.png": b"a"}, {"2.png": b"b"}, {"2.png": b"b", "list.txt": b"text"}]
    digests = [Archive(write(tmp_path / str(number), some)).digest() for number, some in enumerate(files)]
    assert len(set(digests)) == 3
    assert digests[2] == digests[3]


def test_nothing_there(tmp_path):
    with pytest.raises(StoreError, match="no such folder or zip"):
        Archive(tmp_path / "absent")
    with pytest.raises(StoreError, match=r"holds no image \(\.png, \.jpg, \.\.\.\)$"):
        Archive(tmp_path)
    write_tree(tmp_path, {"a.txt": b"", ".b.png": b""})
    with pytest.raises(StoreError, match=r"holds no image .* but 1 x hidden or system, 1 x no image by suffix"):
        Archive(tmp_path)
    (tmp_path / "broken.zip").write_bytes(b"PK")
    with pytest.raises(StoreError, match="truncated or not a zip"):
        Archive(tmp_path / "broken.zip")


def test_an_image_that_is_gone(tmp_path):
    archive = Archive(write_tree(tmp_path / "set", FILES))
    (tmp_path / "set/a.jpg").unlink()
    with pytest.raises(StoreError, match=r"set/a\.jpg: cannot be read"):
        archive.encoded(0)


def test_an_image_too_large_to_decode_is_named(tmp_path, write):  # case 10
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")
    archive = Archive(write(tmp_path / "set", {"p0/0.png": encode(picture(0, 0)), "p1/0.png": png}))
    assert archive.image(0).shape == (112, 112, 3)
    with pytest.raises(StoreError, match=r"p1/0\.png: too large to decode"):
        archive.image("p1/0.png")


@pytest.mark.parametrize(
    ("name", "mode", "message"),
    [
        ("1/a.png", 0o120777, r"member 1/a\.png: a link"),
        ("p9", 0o120777, r"member p9: a link"),
        ("/1/a.png", 0, "leads out of the archive"),
        ("1/../../a.png", 0, "leads out of the archive"),
        ("1\\..\\..\\a.png", 0, "leads out of the archive"),
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
        Archive(path)


def test_a_zip_bomb_is_not_inflated(tmp_path, monkeypatch):
    monkeypatch.setattr("stages.images.zips.MEMBER_LIMIT", 1000)
    path = write_zip(tmp_path / "faces.zip", {"1/a.png": bytes(1001)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(StoreError, match=r"member 1/a\.png: 1001 bytes is no image"):
        Archive(path)
    content = path.read_bytes().replace((1001).to_bytes(4, "little"), (10).to_bytes(4, "little"))  # it lies about it
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"member 1/a\.png: broken"):
        Archive(path).encoded("1/a.png")


def test_a_large_member_that_is_no_image_does_not_matter(tmp_path, monkeypatch):
    monkeypatch.setattr("stages.images.zips.MEMBER_LIMIT", 1000)
    archive = Archive(write_zip(tmp_path / "faces.zip", {"1/a.png": b"a", "features.bin": bytes(1001)}))
    assert archive.names == ["1/a.png"]
