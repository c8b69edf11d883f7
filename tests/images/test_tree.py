import io
import os
import stat

import cv2
import numpy as np
import pytest
from PIL import Image

from stages.images import Archive, is_hidden, is_image, read_faces, walk
from stages.images.tree import Names
from stages.store import StoreError, decode
from tests.images.forms import write_tree, write_zip

PEOPLE = {f"p{person}/{k}.png": b"%d%d" % (person, k) for person in range(3) for k in range(2)}


def identities(path):
    return read_faces(path).identity.tolist()


def test_linked_identities_are_identities(tmp_path):  # case 01
    write_tree(tmp_path / "store", PEOPLE)
    write_tree(tmp_path / "some", {name: content for name, content in PEOPLE.items() if name[1] != "2"})
    (tmp_path / "some/p9").symlink_to(tmp_path / "store/p2")
    (tmp_path / "all").mkdir()
    for person in range(3):
        (tmp_path / f"all/p{person}").symlink_to(f"../store/p{person}")
    for folder in ("some", "all"):
        faces = read_faces(tmp_path / folder)
        assert faces.identity.tolist() == [0, 0, 1, 1, 2, 2]
        assert [faces.encoded(row) for row in range(6)] == list(PEOPLE.values())


def test_links_to_files_and_to_the_set_itself(tmp_path):
    write_tree(tmp_path / "store", {"a": b"one", "b": b"two"})  # as DVC's and git-annex's stores, without suffixes
    for name, target in {"p0/0.png": "a", "p0/1.png": "b", "p1/0.png": "a"}.items():  # one file may be two images
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).symlink_to(tmp_path / "store" / target)
    (tmp_path / "link").symlink_to("set")
    assert identities(tmp_path / "link") == [0, 0, 1]
    assert read_faces(tmp_path / "link").encoded(2) == b"one"


@pytest.mark.parametrize("target", [".", "..", "../..", "/"])
def test_loops_are_refused(tmp_path, target):
    folder = write_tree(tmp_path / "set", PEOPLE)
    (folder / "p0/again").symlink_to(target)
    with pytest.raises(StoreError, match=r"p0/again: a link that leads back to .*, in which it stands; remove it"):
        walk(folder)


def test_a_loop_from_outside_is_refused(tmp_path):
    folder = write_tree(tmp_path / "set", PEOPLE)
    write_tree(tmp_path / "other", {"deep/p3/0.png": b"3"})
    (tmp_path / "other/deep/up").symlink_to("..")
    (folder / "other").symlink_to("../other/deep")
    with pytest.raises(StoreError, match="other/up: a link that leads back"):
        walk(folder)


def test_a_folder_is_followed_once_and_where_it_stands(tmp_path):
    folder = write_tree(tmp_path / "set", PEOPLE)
    (folder / "a").symlink_to("p2")
    (folder / "z").symlink_to("p2")
    (folder / "p0/crossed").symlink_to("../p1")
    (folder / "p1/crossed").symlink_to("../p0")
    names, left_out = walk(folder)
    assert names == sorted(PEOPLE)
    assert left_out == {"folder linked again": 4}


def test_links_to_nothing_are_named(tmp_path):
    folder = write_tree(tmp_path / "set", PEOPLE)
    (folder / "p3").symlink_to("absent")
    with pytest.raises(StoreError, match=r"set/p3: a link to absent, which is not there"):
        walk(folder)
    (folder / "p3").unlink()
    (folder / "p3").symlink_to("p3")
    with pytest.raises(StoreError, match="set: cannot be read"):
        walk(folder)


NOISE = """.ipynb_checkpoints/0.png p0/@eaDir/0.png __MACOSX/p0/._0.png p0/._0.png .DS_Store p0/Thumbs.db desktop.ini
$RECYCLE.BIN/x/0.png #recycle/0.png .git/a/0.png p0/.0.png.partial lost+found/0.png"""


@pytest.mark.parametrize("name", NOISE.split())
def test_hidden_and_system_files_are_left_out_and_counted(tmp_path, write, name):  # cases 02 and 03
    faces = read_faces(write(tmp_path / "set", {**PEOPLE, name: b"\0\5\x16\7", "list.txt": b"text"}))
    assert faces.identity.tolist() == [0, 0, 1, 1, 2, 2]
    assert faces.left_out == {"hidden or system": 1, "no image by suffix": 1}


def test_hidden_is_a_name_and_not_the_place_of_a_set(tmp_path):
    assert identities(write_tree(tmp_path / ".cache/@eaDir", PEOPLE)) == [0, 0, 1, 1, 2, 2]
    assert not any(map(is_hidden, ["p0", "a.b", "_x", "@home", "recycle", "Thumbs.dbx"]))


@pytest.mark.parametrize(
    "names", [("a/1.jpg", "a/1.png"), ("a/1.jpg", "a/1.JPG"), ("a/1.k.png", "a/1.k.webp"), ("1.jpg", "1.jpeg")]
)
def test_equal_names_are_an_error(tmp_path, write, names):
    path = write(tmp_path / "set", {**dict.fromkeys(names, b"x"), "a/1.k.jpg.txt": b"", "a/0.jpg": b""})
    first, second = sorted(names)
    with pytest.raises(StoreError, match=f"{path}: {first} and {second} bear one name; keep one of them"):
        Archive(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_stands_twice_in_a_zip(tmp_path):
    import zipfile

    path = write_zip(tmp_path / "set.zip", PEOPLE)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("p1/0.png", b"other")
    with pytest.raises(StoreError, match=r"p1/0\.png and p1/0\.png bear one name"):
        read_faces(path)


def test_names_of_zips_from_elsewhere(tmp_path):
    path = write_zip(tmp_path / "set.zip", {"./p0/0.png": b"0", "p1\\0.png": b"1", "p1\\.hidden.png": b""})
    assert Archive(path).names == ["p0/0.png", "p1/0.png"]
    assert Archive(path).left_out == {"hidden or system": 1}


def test_every_suffix_that_decodes_is_an_image():
    image = cv2.resize(np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8), (32, 32))
    stored = {"gif": "GIF", "j2k": "JPEG2000", "jfif": "JPEG", "pnm": "PPM", "pxm": "PPM", "apng": "PNG"}
    written = "bmp dib jpeg jpg jpe jp2 png webp avif ppm sr ras tiff tif hdr pic"
    for suffix in [*written.split(), *stored]:
        buffer = io.BytesIO()
        if suffix in stored:
            Image.fromarray(image).save(buffer, stored[suffix])
            content = buffer.getvalue()
        else:
            light = (image / 255).astype(np.float32) if suffix in ("hdr", "pic") else image
            content = cv2.imencode(f".{suffix}", light[..., ::-1])[1].tobytes()
        assert np.abs(decode(content).astype(int) - image).mean() < 10, suffix
        assert is_image(f"a.{suffix}"), suffix
        assert is_image(f"a.b.{suffix.upper()}"), suffix
    assert not any(map(is_image, ["png", "a.txt", "a.png.txt", "a.", "a.pfm", "a.bin", "a.npy"]))


def test_what_cannot_be_read_is_the_systems_fault(tmp_path, monkeypatch):
    folder = write_tree(tmp_path / "set", PEOPLE)
    (folder / "p1").chmod(0)
    if os.access(folder / "p1", os.R_OK):  # root may read all
        monkeypatch.setattr("os.scandir", lambda path: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    try:
        with pytest.raises(StoreError, match="no permission"):
            walk(folder)
    finally:
        (folder / "p1").chmod(stat.S_IRWXU)


def test_names_are_a_small_list(tmp_path):
    names = ["a", "", "ä/ß.png", "x" * 1000, os.fsdecode(b"\xff\xfe.png")]
    held = Names(names)
    assert held == names
    assert held[4] == names[4]
    assert len(held) == 5
    assert Names([]) == []
