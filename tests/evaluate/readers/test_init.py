"""What is recognised as what."""

import pytest

from stages.evaluate.benchmarks import Groups, Pairs, Templates
from stages.evaluate.readers import read_benchmarks
from stages.store import StoreError
from tests.evaluate.conftest import jpeg, lines


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
            lines(tmp_path / f"cfp/Protocol/Split/{protocol}/01/{kind}.txt", ["1,2"])
    assert [found.name for found in read_benchmarks(tmp_path / "cfp")] == ["cfp_ff", "cfp_fp"]


def test_what_is_no_benchmark(tmp_path, bin_file):
    with pytest.raises(StoreError, match="not found"):
        read_benchmarks(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="run `r2r fetch`"):
        read_benchmarks(tmp_path / "empty")
    (tmp_path / "a.zip").write_bytes(b"")
    with pytest.raises(StoreError, match=r"needs --pairs pairs\.txt"):
        read_benchmarks(tmp_path / "a.zip")
    (bin_file.parent / "notes.txt").write_text("")
    with pytest.raises(StoreError, match=r"notes\.txt: no benchmark is known in this form"):
        read_benchmarks(bin_file.parent)
