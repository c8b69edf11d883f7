import struct

import numpy as np
import pytest

from stages.store import StoreError
from stages.train.readers import records
from stages.train.readers.records import Records
from tests.train.readers.conftest import MAGIC, PEOPLE, packed, people, record, split, write_faces, write_rec


def test_images_and_labels(rec):
    found, wanted = Records(rec), people()
    assert found.identity.tolist() == [label for label, _ in wanted]
    assert found.sample.tolist() == list(range(1, len(wanted) + 1))
    assert [found.encoded(row) for row in range(len(wanted))] == [image for _, image in wanted]


def test_looking_at_blocks_changes_nothing(rec, monkeypatch):
    whole = Records(rec)
    monkeypatch.setattr(records, "BLOCK", 2)
    parts = Records(rec)
    np.testing.assert_array_equal(parts.identity, whole.identity)
    assert parts.fingerprints == whole.fingerprints


def test_without_identity_records_every_record_is_an_image(tmp_path):
    images = {key: record(packed(label, b"png%d" % key)) for key, label in ((0, 5), (9, 3), (4, 5))}
    found = Records(write_rec(tmp_path, images))
    assert found.sample.tolist() == [0, 4, 9]
    assert found.identity.tolist() == [5, 5, 3]
    assert [found.encoded(row) for row in range(3)] == [b"png0", b"png4", b"png9"]


@pytest.mark.parametrize("middle", [0, 1, 3])
def test_content_with_the_magic_number_comes_in_parts(tmp_path, middle):
    magic = struct.pack("<I", MAGIC)
    image = b"JPEG" + magic + b"abcdefgh" * middle + magic * middle + b"end"
    content = split(packed(2, image))
    assert content.count(magic) == 2 + middle
    found = Records(write_rec(tmp_path, {0: content, 1: record(packed(3, b"next"))}))
    assert (found.encoded(0), found.encoded(1)) == (image, b"next")


def test_a_record_shorter_than_what_is_looked_at_may_end_the_file(tmp_path):
    found = Records(write_rec(tmp_path, {0: record(packed(1, b"x" * 9)), 1: record(packed(2, b""))}))
    assert found.identity.tolist() == [1, 2]


def test_the_fingerprint_follows_labels_keys_and_lengths(tmp_path):
    sets = [
        {1: (1, b"abcd"), 2: (2, b"abcd")},
        {1: (1, b"abcd"), 2: (3, b"abcd")},
        {1: (1, b"abcd"), 3: (2, b"abcd")},
        {1: (1, b"abcd"), 2: (2, b"abcde")},
    ]
    prints = []
    for number, images in enumerate([*sets, sets[0]]):
        content = {key: record(packed(label, image)) for key, (label, image) in images.items()}
        prints += Records(write_rec(tmp_path / str(number), content)).fingerprints
    assert len(set(prints)) == 4
    assert prints[0] == prints[4]


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
        ("an image is not listed", r"record 0 promises 6 images, and train\.idx lists 5"),
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
    content = struct.pack("<IfQQf", 1 << 31, 0, 0, 0, 7.0) + b"image"
    with pytest.raises(StoreError, match="record 1: its 33 bytes are not all there"):
        Records(write_rec(tmp_path, {1: record(content)}))


@pytest.mark.parametrize(
    ("kinds", "works"), [((1, 3), True), ((1, 2, 3), True), ((1, 1), False), ((1, 0), False), ((1, 2), False)]
)
def test_parts_must_follow_each_other(tmp_path, kinds, works):
    parts = [packed(1, b"abcd"), b"efgh", b"ijkl"]
    content = b"".join(record(part, kind) for part, kind in zip(parts, kinds, strict=False))
    found = Records(write_rec(tmp_path, {1: content}))
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
