"""What is recognised as what."""

import pickle

import pytest

from stages.evaluate.benchmarks import Groups, Pairs, Templates
from stages.evaluate.readers import read_benchmarks
from stages.store import StoreError
from tests.evaluate.conftest import jpeg, lines


def write_bin(path):
    path.write_bytes(pickle.dumps(([jpeg(1), jpeg(2)] * 3, [True, False, True])))


def test_a_folder_of_benchmarks(bin_file, ijb, rfw):
    (bin_file.parent / "random.json").write_text("{}")  # the card of the embedded world
    (bin_file.parent / ".DS_Store").write_bytes(b"of a file browser")
    found = read_benchmarks(bin_file.parent)
    assert [(part.name, type(part)) for part in found] == [
        ("groups", Groups),
        ("quality", Templates),
        ("random", Pairs),
    ]


def test_a_folder_with_its_pairs(tmp_path):
    for name in ("A/A_0001.jpg", "A/A_0002.jpg", "B/B_0001.jpg"):
        (tmp_path / "lfw" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "lfw" / name).write_bytes(jpeg(0))
    lines(tmp_path / "lfw/pairs.txt", ["1 1", "A 1 2", "A 1 B 1"])
    (found,) = read_benchmarks(tmp_path / "lfw")
    assert found.name == "lfw"


def test_cfps_own_folders(tmp_path):
    for letter in "FP":
        lines(tmp_path / f"cfp/Protocol/Pair_list_{letter}.txt", [f"{n} ../Data/{letter}{n}.jpg" for n in (1, 2)])
        for n in (1, 2):
            (tmp_path / "cfp/Data").mkdir(exist_ok=True)
            (tmp_path / f"cfp/Data/{letter}{n}.jpg").write_bytes(jpeg(n))
    for protocol in ("FF", "FP"):
        for kind in ("same", "diff"):
            lines(tmp_path / f"cfp/Protocol/Split/{protocol}/01/{kind}.txt", ["1,2" if kind == "same" else "2,2"])
    assert [found.name for found in read_benchmarks(tmp_path / "cfp")] == ["cfp_ff", "cfp_fp"]


def test_bins_beside_groups_of_people(tmp_path):
    for name in ("lfw", "agedb_30", "African_test", "Asian_test", "cfp_fp", "my_test"):
        write_bin(tmp_path / f"{name}.bin")
    found = read_benchmarks(tmp_path)
    assert [part.name for part in found] == ["rfw", "agedb_30", "cfp_fp", "lfw", "my_test"]
    assert list(found[0].groups) == ["African", "Asian"]


def test_bins_beside_another_layout(ijb):
    write_bin(ijb / "lfw.bin")
    assert [part.name for part in read_benchmarks(ijb)] == ["quality", "lfw"]


@pytest.mark.parametrize("inside", [False, True])
def test_an_unpacked_faces_emore(tmp_path, capsys, inside):
    folder = tmp_path / "faces_emore"
    folder.mkdir()
    for name in ("lfw.bin", "cfp_fp.bin", "agedb_30.BIN"):
        write_bin(folder / name)
    for name in ("property", "train.rec", "train.idx", "Thumbs.db", "._lfw.bin"):
        (folder / name).write_bytes(b"not asked for")
    (folder / "__MACOSX").mkdir()
    assert [part.name for part in read_benchmarks(tmp_path if inside else folder)] == ["agedb_30", "cfp_fp", "lfw"]
    assert (
        f"{folder}: 3 files that are no benchmark are left out: property, train.idx, train.rec\n"
        in capsys.readouterr().err
    )


def test_the_cards_of_the_embedded_world_are_not_foreign(bin_file, ijb, capsys):
    for name in ("random", "quality"):
        (bin_file.parent / f"{name}.json").write_text("{}")
    read_benchmarks(bin_file.parent)
    assert not capsys.readouterr().err
    (bin_file.parent / "mine.json").write_text("{}")
    read_benchmarks(bin_file.parent)
    assert "1 files that are no benchmark are left out: mine.json" in capsys.readouterr().err


def test_what_is_no_benchmark(tmp_path, bin_file):
    with pytest.raises(StoreError, match="not found"):
        read_benchmarks(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="run `r2r fetch`"):
        read_benchmarks(tmp_path / "empty")
    (tmp_path / "a.zip").write_bytes(b"")
    with pytest.raises(StoreError, match=r"needs --pairs pairs\.txt"):
        read_benchmarks(tmp_path / "a.zip")
    (bin_file.parent / "half").mkdir()
    (bin_file.parent / "half/loose_crop").mkdir()
    with pytest.raises(StoreError, match=r"half/loose_crop: no benchmark is known in this form"):
        read_benchmarks(bin_file.parent)
