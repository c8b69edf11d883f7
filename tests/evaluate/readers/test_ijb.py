import numpy as np
import pytest

from stages.evaluate.readers.ijb import read_ijb, read_integers
from stages.store import StoreError
from tests.evaluate.conftest import jpeg, lines


def test_rows_are_joined_by_name(ijb):
    found = read_ijb(ijb)
    assert found.name == "quality"
    assert len(found.images) == 17
    assert found.unused == 1
    for image, template, medium in zip(found.image, found.template, found.media, strict=True):
        number = int(found.images.names[image].split(".")[0])
        assert found.images.encoded(image) == jpeg(number)
        assert (template, medium) == ((number - 1) // 3 + 10, (number - 1) // 2 + 1)
        assert found.detector_scores[image] == np.float32(f"0.{50 + number}")
        assert found.images.landmarks.lines[image] == number
    assert len(found.same) == 15
    assert found.same[(found.first == 12) & (found.second == 15)].all()
    assert found.same.sum() == 3


def test_landmarks_are_joined_by_name(ijb):
    path = ijb / "meta/ijbx_name_5pts_score.txt"
    rows = path.read_text().splitlines()
    lines(path, [row.replace(" 38.3 ", f" {number}.5 ") for number, row in enumerate(rows, 1)])
    images = read_ijb(ijb).images
    for name, points in zip(images.names, images.landmarks.points, strict=True):
        assert points[0, 0] == float(f"{name.split('.')[0]}.5")


def test_the_galleries_of_ijb_b_are_s1_and_s2(ijb):
    for number in (1, 2):
        (ijb / f"meta/ijbx_1N_gallery_G{number}.csv").rename(ijb / f"meta/ijbx_1N_gallery_S{number}.csv")
    assert len(read_ijb(ijb).search.galleries) == 2


def test_search_protocol(ijb):
    search = read_ijb(ijb).search
    assert [gallery.tolist() for gallery in search.galleries] == [[[10, 1]], [[12, 2], [13, 3]]]
    assert search.probes.tolist() == [[11, 1], [14, 3], [15, 2]]  # a template counts once
    (ijb / "meta/ijbx_1N_probe_mixed.csv").unlink()
    assert read_ijb(ijb).search is None


@pytest.mark.parametrize(
    "rows",
    [
        ["12,2", "13,3"],
        ["TEMPLATE_ID,SUBJECT_ID", "12,2", "13,3"],
        ["SUBJECT_ID,TEMPLATE_ID", "2,12", "3,13"],
        ['"Subject_Id", "template_id",FILENAME', "2, 12,a.jpg", "3,13,b.jpg"],
        ["\ufeffTEMPLATE_ID,SUBJECT_ID", "12,2", "13,3", "13,3"],
    ],
    ids=["no heading", "heading", "other order", "other letters", "byte order mark"],
)
def test_columns_are_taken_by_name_or_come_in_their_order(ijb, rows):
    lines(ijb / "meta/ijbx_1N_gallery_G2.csv", rows)
    assert read_ijb(ijb).search.galleries[1].tolist() == [[12, 2], [13, 3]]


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("face_tid_mid", "3.jpg 10 ", "99.jpg 10 ", r"face_tid_mid\.txt, line 15: 99\.jpg has no landmarks"),
        ("face_tid_mid", "3.jpg 10 ", "3.jpg ten ", r"line 15: 'ten' is no integer"),
        ("face_tid_mid", "3.jpg 10 2\n", "3.jpg 10\n", r"line 15: 2 fields where 3"),
        ("template_pair_label", "10 12 0", "10 77 0", r"pair_label\.txt, line 2: template 77 has no image"),
        ("template_pair_label", "10 12 0", "9 12 0", r"line 2: template 9 has no image"),
        ("template_pair_label", "10 12 0", "10 12 2", r"line 2: label 2"),
        ("template_pair_label", "10 12 0", "10 12", r"line 2: 2 fields where 3"),
        ("template_pair_label", "10 12 0", "10 x 0", r"line 2: 'x' is no integer"),
        ("template_pair_label", "10 12 0\n", "\n", r"line 2: empty line"),
        ("template_pair_label", "10 12 0\n", "10 12 0\r\n", r"line 2: Windows line end"),
        ("name_5pts_score", " 0.52", " high", r"5pts_score\.txt, line 2: detector score 'high'"),
        ("name_5pts_score", "2.jpg 38.3", "2.jpg inf", r"line 2: landmarks"),
        ("1N_gallery_G2", "12,2", "88,2", r"G2\.csv, line 2: template 88 has no image"),
        ("1N_gallery_G2", "TEMPLATE_ID,SUB", "TEMPLATE,SUB", r"G2\.csv, line 1: heading .* name TEMPLATE_ID"),
        ("1N_gallery_G2", "12,2\n", "12,2\n12,9\n", r"G2\.csv, line 3: says of 12 something else than line 2"),
        ("1N_probe_mixed", "11,1,b.jpg", "11,2,b.jpg", r"mixed\.csv, line 3: says of 11 something else than line 2"),
        ("1N_probe_mixed", "11,1,b.jpg", "11,1", r"mixed\.csv, line 3: 2 fields where 3 stand in the first"),
        ("face_tid_mid", "3.jpg 10 2\n", "3.jpg 10 2\n3.jpg 10 9\n", r"line 16: says of .* than line 15"),
        (
            "template_pair_label",
            "10 12 0\n",
            "10 12 0\n12 10 1\n",
            r"line 3: pair 12 10 has another label than in line 2",
        ),
        ("name_5pts_score", "3.jpg 38", "2.jpg 38", r"line 3: says of 2\.jpg something else than line 2"),
    ],
)
def test_broken_lines_are_named(ijb, file, old, new, message):
    (path,) = (ijb / "meta").glob(f"ijbx_{file}.*")
    content = path.read_bytes()
    assert old.encode() in content
    path.write_bytes(content.replace(old.encode(), new.encode(), 1))
    with pytest.raises(StoreError, match=message):
        read_ijb(ijb)


def test_missing_files(ijb):
    lines(ijb / "meta/ijby_face_tid_mid.txt", ["1.jpg 1 1"])
    with pytest.raises(StoreError, match=r"meta: 2 files \*_face_tid_mid\.txt, where one"):
        read_ijb(ijb)
    (ijb / "meta/ijby_face_tid_mid.txt").unlink()
    (ijb / "loose_crop/4.jpg").unlink()
    with pytest.raises(StoreError, match=r"loose_crop: 1 of 17 images are missing, first 4\.jpg"):
        read_ijb(ijb)
    (ijb / "meta/ijbx_template_pair_label.txt").unlink()
    with pytest.raises(StoreError, match=r"pair_label\.txt: not found"):
        read_ijb(ijb)


def test_integers(tmp_path):
    assert read_integers(lines(tmp_path / "a", ["1 2", "3 -4"]), 2).tolist() == [[1, 2], [3, -4]]
    (tmp_path / "a").write_text("1 2\n3 4")
    assert read_integers(tmp_path / "a", 2).tolist() == [[1, 2], [3, 4]]
    with pytest.raises(StoreError, match="line 1: 2 fields where 3"):
        read_integers(tmp_path / "a", 3)


def test_lines_that_say_the_same_twice_are_one(ijb):
    wanted = read_ijb(ijb)
    for name in ("face_tid_mid", "name_5pts_score"):
        path = ijb / f"meta/ijbx_{name}.txt"
        lines(path, [*path.read_text().splitlines(), path.read_text().splitlines()[0]])
    found = read_ijb(ijb)
    assert len(found.images) == len(wanted.images)
    np.testing.assert_array_equal(found.images.landmarks.points, wanted.images.landmarks.points)


def test_a_heading_without_templates(ijb):
    lines(ijb / "meta/ijbx_1N_gallery_G2.csv", ["TEMPLATE_ID,SUBJECT_ID"])
    with pytest.raises(StoreError, match=r"G2\.csv: holds no template below its heading"):
        read_ijb(ijb)
