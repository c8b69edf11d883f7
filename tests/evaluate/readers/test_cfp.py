import pytest

from stages.evaluate.readers.cfp import read_cfp
from stages.store import StoreError
from tests.evaluate.conftest import jpeg, lines


@pytest.fixture
def root(tmp_path):
    for letter, kind in (("F", "frontal"), ("P", "profile")):
        names = [f"Data/Images/{person:03}/{kind}/{n:02}.jpg" for person in (1, 2) for n in (1, 2)]
        for number, name in enumerate(names):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(jpeg(10 * (letter == "P") + number))
        rows = [f"{number} ../{name}" for number, name in enumerate(names, 1)]
        lines(tmp_path / "Protocol" / f"Pair_list_{letter}.txt", rows)
    for protocol in ("FF", "FP"):
        for fold in ("01", "02"):
            folder = tmp_path / "Protocol" / "Split" / protocol / fold
            lines(folder / "same.txt", ["1,2", "4,3"])
            lines(folder / "diff.txt", [f"2,{int(fold) + 2}", "1,4"])
    return tmp_path


def test_both_protocols(root):
    frontal, profile = read_cfp(root)
    assert (frontal.name, profile.name) == ("cfp_ff", "cfp_fp")
    assert profile.folds == 2
    assert profile.same.tolist() == [True, True, False, False] * 2
    wanted = [(1, 2), (4, 3), (2, 3), (1, 4), (1, 2), (4, 3), (2, 4), (1, 4)]
    for found, base in ((frontal, 0), (profile, 10)):
        for (left, right), a, b in zip(wanted, found.first, found.second, strict=True):
            assert found.images.encoded(a) == jpeg(left - 1)
            assert found.images.encoded(b) == jpeg(base + right - 1)


@pytest.mark.parametrize(
    ("file", "rows", "message"),
    [
        ("Split/FP/02/diff.txt", ["1,4", "0,1"], r"diff\.txt, line 2: image number '0'"),
        ("Split/FP/02/diff.txt", ["1,5", "1,1"], r"diff\.txt, line 1: image number '5'; it must be between 1 and 4"),
        ("Split/FF/01/same.txt", ["1 2", "1,2"], r"same\.txt, line 1: 1 fields"),
        ("Split/FF/01/same.txt", ["1,2"], "folds of"),
        ("Split/FF/01/same.txt", ["1,2", "4,1"], r"diff\.txt, line 2: the pair 1,4 stands in a same\.txt"),
        ("Pair_list_P.txt", ["2 ../a.jpg"], r"Pair_list_P\.txt, line 1: image number 2"),
    ],
)
def test_broken_lines_are_named(root, file, rows, message):
    lines(root / "Protocol" / file, rows)
    with pytest.raises(StoreError, match=message):
        read_cfp(root)


def test_missing_files(root):
    (root / "Data/Images/002/profile/01.jpg").unlink()
    with pytest.raises(StoreError, match=r"1 of 6 images are missing, first Data/Images/002/profile/01\.jpg"):
        read_cfp(root)
    (root / "Protocol/Split/FF/02/same.txt").unlink()
    with pytest.raises(StoreError, match=r"same\.txt: not found"):
        read_cfp(root)
