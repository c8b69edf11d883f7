import zipfile

import pytest

from stages.evaluate.readers.lfw import read_lfw
from stages.store import StoreError
from tests.evaluate.conftest import jpeg, lines

NUMBERED = ["2 1", "Ann_Lee\t1\t2", "Ann_Lee\t2\tBo\t11", "Bo\t11\t3", "Bo\t3\tAnn_Lee\t1"]
NAMED = ["2 1", "Ann_Lee\ta.jpg\tb.jpg", "Ann_Lee\tb.jpg\tBo\t11.jpg", "Bo\t11.jpg\tc.jpg", "Bo\tc.jpg\tAnn_Lee\ta.jpg"]
FILES = {
    "numbered": ["Ann_Lee/Ann_Lee_0001.jpg", "Ann_Lee/Ann_Lee_0002.jpg", "Bo/Bo_0011.jpg", "Bo/Bo_0003.jpg"],
    "named": ["Ann_Lee/a.jpg", "Ann_Lee/b.jpg", "Bo/11.jpg", "Bo/c.jpg"],
}


@pytest.fixture(params=["folder", "zip"])
def archive(request, tmp_path):
    """Makes the archive of some files."""

    def make(names, top=""):
        path = tmp_path / ("lfw" if request.param == "folder" else "lfw.zip")
        if request.param == "zip":
            with zipfile.ZipFile(path, "w") as file:
                for number, name in enumerate(names):
                    file.writestr(top + name, jpeg(number))
        else:
            for number, name in enumerate(names):
                (path / top / name).parent.mkdir(parents=True, exist_ok=True)
                (path / top / name).write_bytes(jpeg(number))
        return path

    return make


@pytest.mark.parametrize("top", ["", "lfw/"])
@pytest.mark.parametrize(("layout", "rows"), [("numbered", NUMBERED), ("named", NAMED)])
def test_pairs_and_their_images(tmp_path, archive, layout, rows, top):
    found = read_lfw(lines(tmp_path / "pairs.txt", rows), archive(FILES[layout], top))
    assert found.name == "lfw"
    assert found.folds == 2
    assert found.same.tolist() == [True, False, True, False]
    sides = [[found.images.encoded(n) for n in side] for side in zip(found.first, found.second, strict=True)]
    assert sides == [[jpeg(a), jpeg(b)] for a, b in ((0, 1), (1, 2), (2, 3), (3, 0))]
    assert not found.images.aligned


@pytest.mark.parametrize("suffix", [".png", ".JPG", ".jpeg", ".webp"])
@pytest.mark.parametrize(("layout", "rows"), [("numbered", NUMBERED), ("named", NAMED)])
def test_a_copy_with_other_suffixes(tmp_path, archive, layout, rows, suffix):
    wanted = read_lfw(lines(tmp_path / "pairs.txt", rows), archive([n[:-4] + suffix for n in FILES[layout]], "copy/"))
    sides = [[wanted.images.encoded(n) for n in side] for side in zip(wanted.first, wanted.second, strict=True)]
    assert sides == [[jpeg(a), jpeg(b)] for a, b in ((0, 1), (1, 2), (2, 3), (3, 0))]


def test_a_name_that_stands_for_two_images_is_an_error(tmp_path, archive):
    both = archive([f"{tree}/{name}" for tree in ("masked", "orig") for name in FILES["numbered"]])
    message = r"line 2: Ann_Lee/Ann_Lee_0001 stands for masked/Ann_Lee/Ann_Lee_0001\.jpg and orig/"
    with pytest.raises(StoreError, match=message):
        read_lfw(lines(tmp_path / "pairs.txt", NUMBERED), both)


def test_two_images_of_a_name_that_no_pair_asks_for(tmp_path, archive):
    unused = archive([*FILES["numbered"], "old/Cy/Cy_0001.jpg", "new/Cy/Cy_0001.jpg"])
    assert len(read_lfw(lines(tmp_path / "pairs.txt", NUMBERED), unused).images) == 4


def test_a_heading_of_one_number_is_one_fold(tmp_path, archive):
    found = read_lfw(lines(tmp_path / "pairs.txt", ["2", *NUMBERED[1::2], *NUMBERED[2::2]]), archive(FILES["numbered"]))
    assert found.folds == 1
    assert found.same.tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*NUMBERED[:3], *NUMBERED[4:]], "3 pairs, where the heading says 2 folds of 1"),
        (["two 1", *NUMBERED[1:]], r"pairs\.txt, line 1: heading"),
        ([*NUMBERED[:2], "Bo\t3\t11", *NUMBERED[3:]], r"line 3: 3 fields, where an impostor pair"),
        ([*NUMBERED[:4], "Bo\t3\tAnn_Lee\t9"], r"line 5: .* has no image Ann_Lee/Ann_Lee_0009;"),
        ([*NUMBERED[:2], "", *NUMBERED[2:]], r"line 3: empty line"),
        ([*NUMBERED[:2], "Bo\t3\tBo\t11", *NUMBERED[3:]], r"line 3: an impostor pair of one person, Bo"),
    ],
)
def test_broken_lines_are_named(tmp_path, archive, rows, message):
    with pytest.raises(StoreError, match=message):
        read_lfw(lines(tmp_path / "pairs.txt", rows), archive(FILES["numbered"]))


def test_the_digest_depends_on_the_images_that_are_used(tmp_path, archive):
    path = archive(FILES["numbered"])
    digests = {
        read_lfw(lines(tmp_path / "pairs.txt", rows), path).images.digest
        for rows in (NUMBERED, ["1 1", *NUMBERED[1:3]], NUMBERED)
    }
    assert len(digests) == 2
