import struct

import numpy as np
import pytest

from stages.images import read_faces, records
from stages.images.records import Records
from stages.store import StoreError
from tests.images.forms import MAGIC, PEOPLE, packed, people, record, split, write_faces, write_rec


@pytest.fixture
def rec(tmp_path):
    return write_faces(tmp_path / "faces")


def content(faces):
    return list(zip(faces.identity.tolist(), faces.sample.tolist(), map(faces.encoded, range(len(faces))), strict=True))


def test_images_and_labels(rec):
    wanted = sorted((label, key, image) for key, (label, image) in enumerate(people(), 1))
    assert content(Records(rec)) == wanted
    assert content(read_faces(rec.parent)) == wanted


def test_it_is_known_by_its_content(rec):
    wanted = content(read_faces(rec.parent))
    assert content(read_faces(rec.rename(rec.with_suffix(".record")))) == wanted


def test_looking_at_blocks_changes_nothing(rec, monkeypatch):
    whole = Records(rec)
    monkeypatch.setattr(records, "BLOCK", 2)
    assert content(Records(rec)) == content(whole)
    assert Records(rec).digest() == whole.digest()


@pytest.mark.parametrize("off", [-2, -1, 1, 2])
@pytest.mark.parametrize("array", [False, True])
def test_a_count_that_float32_rounded(tmp_path, off, array):  # case 05
    """Beyond 2^24 images: the end is where records have no file, whatever record 0 says."""
    images = [(float(label), b"%d%d" % (label, k)) for label in range(3) for k in range(2)]
    packs = [record(packed(0, image, (label, 1.0)) if array else packed(label, image)) for label, image in images]
    ranges = [record(packed(0, b"", (1.0 + 2 * label, 3.0 + 2 * label))) for label in range(3)]
    all_records = [record(packed(0, b"", (7.0 + off, 10.0 + off))), *packs, *ranges]
    faces = Records(write_rec(tmp_path, dict(enumerate(all_records))))
    assert content(faces) == [(k // 2, k + 1, images[k][1]) for k in range(6)]


def test_a_count_beyond_the_rounding(tmp_path):
    packs = {key: record(packed(key, b"x")) for key in range(1, 5)} | {5: record(packed(0, b"", (1.0, 5.0)))}
    for count, works in ((5, True), (7, True), (8, False), (2, False), (float("nan"), False), (float("inf"), False)):
        path = write_rec(tmp_path / str(count), {0: record(packed(0, b"", (count, 6.0))), **packs})
        if works:
            assert len(Records(path)) == 4
        else:
            with pytest.raises(StoreError, match=r"record 0 promises .* images, and train\.idx lists 4 up to record 4"):
                Records(path)


def test_label_arrays_without_a_header_record(tmp_path):
    images = {key: record(packed(0, b"%d" % key, (label, 1.0))) for key, label in enumerate((5, 5, 3))}
    assert content(Records(write_rec(tmp_path, images))) == [(3, 2, b"2"), (5, 0, b"0"), (5, 1, b"1")]


def test_ranges_without_their_header_are_no_images(tmp_path):
    path = write_rec(tmp_path, {1: record(packed(1, b"a")), 2: record(packed(0, b"", (1.0, 2.0)))})
    with pytest.raises(StoreError, match="record 2: holds no image"):
        Records(path)


def test_without_identity_records_every_record_is_an_image(tmp_path):
    images = {key: record(packed(label, b"png%d" % key)) for key, label in ((0, 5), (9, 3), (4, 5))}
    assert content(Records(write_rec(tmp_path, images))) == [(3, 9, b"png9"), (5, 0, b"png0"), (5, 4, b"png4")]


@pytest.mark.parametrize("middle", [0, 1, 3])
def test_content_with_the_magic_number_comes_in_parts(tmp_path, middle):
    magic = struct.pack("<I", MAGIC)
    image = b"JPEG" + magic + b"abcdefgh" * middle + magic * middle + b"end"
    parts = split(packed(2, image))
    assert parts.count(magic) == 2 + middle
    found = Records(write_rec(tmp_path, {0: parts, 1: record(packed(3, b"next"))}))
    assert (found.encoded(0), found.encoded(1)) == (image, b"next")


def test_a_record_shorter_than_what_is_looked_at_may_end_the_file(tmp_path):
    found = Records(write_rec(tmp_path, {0: record(packed(1, b"x" * 9)), 1: record(packed(2, b"y"))}))
    assert found.identity.tolist() == [1, 2]


def broken(path, change):
    rec, index = path, path.with_suffix(".idx")
    lines = index.read_text().splitlines()
    if change == "truncated":
        rec.write_bytes(rec.read_bytes()[:-200])
    elif change == "cut in the last image":
        offset = int(lines[len(people())].split()[1])
        rec.write_bytes(rec.read_bytes()[: offset + 100])
        index.write_text("\n".join(lines[: len(people()) + 1]))
    elif change == "another index":
        index.write_text("\n".join(f"{line}4" if line[0] == "2" else line for line in lines))
    elif change == "beyond the end":
        index.write_text("\n".join([*lines[:-1], "9\t99999999"]))
    elif change == "negative":
        index.write_text("\n".join([*lines[:-1], "9\t-4"]))
    elif change == "an image is not listed":
        index.write_text("\n".join(line for line in lines if not line.startswith("3\t")))
    elif change == "the first image is not listed":
        index.write_text("\n".join(line for line in lines if not line.startswith("1\t")))
    elif change == "one image twice, one not":
        index.write_text("\n".join(line.replace("3\t", "4\t") if line.startswith("3\t") else line for line in lines))
    elif change == "the end is not listed":
        index.write_text("\n".join(lines[:6]))
    elif change == "no numbers":
        index.write_text("a b\n")
    elif change == "three columns":
        index.write_text("1 2 3\n")
    elif change == "no index":
        index.unlink()
    elif change == "empty":
        rec.write_bytes(b"")
    return rec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("truncated", r"train\.rec, record \d: none begins at byte \d+, .* the \.rec is truncated"),
        ("cut in the last image", r"train\.rec, record 6: its \d+ bytes are not all there; the file is truncated"),
        ("another index", r"record 2: none begins at byte"),
        ("beyond the end", r"record 9: none begins at byte 99999999"),
        ("negative", r"record 9: none begins at byte -4"),
        ("an image is not listed", r"record 0 promises 6 images, and train\.idx lists 5 up to record 6"),
        ("the first image is not listed", r"record 0 promises 6 images, and train\.idx lists 5 up to record 6"),
        ("one image twice, one not", r"record 0 promises 6 images, and train\.idx lists 6 up to record 6"),
        ("the end is not listed", r"record 0 promises 6 images, and train\.idx lists 5 up to record 5"),
        ("no numbers", r"train\.idx: not lines of key and offset"),
        ("three columns", r"train\.idx: not lines of key and offset"),
        ("no index", r"train\.idx: not found"),
        ("empty", r"train\.rec: 0 bytes and 10 records"),
    ],
)
def test_broken_files_are_named(rec, change, message):
    with pytest.raises(StoreError, match=message):
        Records(broken(rec, change))


@pytest.mark.parametrize("label", [-1.0, 0.5, float("nan"), float("inf"), 1e12])
def test_labels_that_are_no_identities(tmp_path, label):
    path = write_rec(tmp_path, {1: record(packed(4, b"a")), 2: record(packed(label, b"b"))})
    with pytest.raises(StoreError, match=r"record 2: label .* is no identity"):
        Records(path)


def test_a_set_without_images(tmp_path):
    with pytest.raises(StoreError, match="holds no image"):
        Records(write_rec(tmp_path, {0: record(packed(0, b"", (1.0, 1.0)))}))


def test_a_flag_beyond_the_record(tmp_path):
    start = struct.pack("<IfQQf", 1 << 31, 0, 0, 0, 7.0) + b"image"
    with pytest.raises(StoreError, match="record 1: its 33 bytes are not all there"):
        Records(write_rec(tmp_path, {1: record(start)}))


@pytest.mark.parametrize(
    ("kinds", "works"), [((1, 3), True), ((1, 2, 3), True), ((1, 1), False), ((1, 0), False), ((1, 2), False)]
)
def test_parts_must_follow_each_other(tmp_path, kinds, works):
    parts = [packed(1, b"abcd"), b"efgh", b"ijkl"]
    joined = b"".join(record(part, kind) for part, kind in zip(parts, kinds, strict=False))
    found = Records(write_rec(tmp_path, {1: joined}))
    if works:
        assert found.encoded(0).startswith(b"abcd")
    else:
        with pytest.raises(StoreError, match="record 1: its parts do not follow each other"):
            found.encoded(0)


def test_a_record_too_large_for_an_image(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "MEMBER_LIMIT", 40)
    found = Records(write_rec(tmp_path, {1: split(packed(1, b"abcd" + struct.pack("<I", MAGIC) + b"a" * 30))}))
    with pytest.raises(StoreError, match="record 1: more than 40 bytes"):
        found.encoded(0)


def test_identities_are_those_that_were_written(tmp_path):
    found = Records(write_faces(tmp_path))
    assert dict(zip(*np.unique(found.identity, return_counts=True), strict=True)) == PEOPLE
