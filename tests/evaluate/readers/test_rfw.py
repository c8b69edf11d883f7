import pickle

import numpy as np
import pytest

from stages.evaluate.readers import read_benchmarks
from stages.evaluate.readers.rfw import read_rfw
from stages.store import StoreError
from tests.evaluate.conftest import POINTS, jpeg


def test_groups_pairs_and_landmarks(rfw):
    found = read_rfw(rfw)
    assert found.name == "groups"
    assert list(found.groups) == ["African", "Asian"]
    asian = found.groups["Asian"]
    assert asian.same.tolist() == [person % 2 == 1 for person in range(10)]
    assert asian.images.encoded(asian.first[3]) == jpeg(104)
    assert asian.images.encoded(asian.second[3]) == jpeg(105)
    assert asian.images.encoded(asian.second[4]) == jpeg(105)  # an impostor pair with person 3
    points = np.array(POINTS.split(), np.float32).reshape(5, 2)
    np.testing.assert_array_equal(asian.images.landmarks.points, np.tile(points, (len(asian.images), 1, 1)))


def test_landmarks_are_joined_by_name(rfw):
    path = rfw / "txts/Asian/Asian_lmk.txt"
    rows = path.read_text().splitlines()
    rows[6] = rows[6].replace("\t38.3\t", "\t39.9\t")
    path.write_text("\n".join(rows[::-1]) + "\n")
    images = read_rfw(rfw).groups["Asian"].images
    moved = next(n for n, name in enumerate(images.names) if name.split("/")[-1] in rows[6])
    assert images.landmarks.points[moved, 0, 0] == np.float32(39.9)
    assert images.landmarks.lines[moved] == len(rows) - 6


def test_the_same_below_test(rfw):
    (rfw / "test").mkdir()
    for part in ("txts", "data"):
        (rfw / part).rename(rfw / "test" / part)
    (benchmark,) = read_benchmarks(rfw)
    assert list(benchmark.groups) == ["African", "Asian"]


def test_a_folder_of_bins_is_groups(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    for group in ("Indian", "African", "Martian"):
        (folder / f"{group}_test.bin").write_bytes(pickle.dumps(([jpeg(1), jpeg(2)] * 3, [True, False, True])))
    (benchmark,) = read_benchmarks(folder)
    assert (benchmark.name, list(benchmark.groups)) == ("mine", ["African", "Indian", "Martian"])
    (folder / "lfw.bin").write_bytes((folder / "Indian_test.bin").read_bytes())
    found = read_benchmarks(folder)
    assert [part.name for part in found] == ["rfw", "Martian_test", "lfw"]
    assert list(found[0].groups) == ["African", "Indian"]


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("pairs", "m.As1\t1\t2", "m.As1\t1", r"Asian_pairs\.txt, line 2: 2 fields where 3 or 4"),
        ("pairs", "m.As1\t1\t2", "m.As1\tone\t2", r"line 2: image number 'one'"),
        ("pairs", "m.As1\t1\t2", "m.As1\t1\t3", r"line 2: image m\.As1_0003\.jpg has no landmarks"),
        ("pairs", "m.As1\t1\t2", "m.As1\t1\t2\r", r"line 2: Windows line end"),
        ("pairs", "m.As1\t1\t2", "m.As1\t1\tm.As1\t2", r"line 2: an impostor pair of one person, m\.As1"),
        ("lmk", "m.As0_0002.jpg\t1\t38", "m.As0_0001.jpg\t1\t39", r"lmk\.txt, line 2: says of m\.As0_0001\.jpg"),
        ("lmk", "\t38.3", "\tnan", r"Asian_lmk\.txt, line 1: landmarks"),
        ("lmk", POINTS.replace(" ", "\t"), "\t".join(["5"] * 10), r"Asian_lmk\.txt, line 1: landmarks"),
        ("lmk", "\t38.3", "", r"line 1: 11 fields where 12"),
    ],
)
def test_broken_lines_are_named(rfw, file, old, new, message):
    path = rfw / f"txts/Asian/Asian_{file}.txt"
    path.write_bytes(path.read_bytes().replace(old.encode(), new.encode(), 1))
    with pytest.raises(StoreError, match=message):
        read_rfw(rfw)


def test_no_group(tmp_path):
    (tmp_path / "txts").mkdir()
    with pytest.raises(StoreError, match="txts: holds no group"):
        read_rfw(tmp_path)


def test_missing_image(rfw):
    (rfw / "data/African/m.Af3/m.Af3_0002.jpg").unlink()
    with pytest.raises(StoreError, match=r"images are missing, first data/African/m\.Af3/m\.Af3_0002\.jpg"):
        read_rfw(rfw)
