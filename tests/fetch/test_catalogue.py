import re
import shutil
from pathlib import Path

import pytest
import yaml

from stages.fetch.catalogue import FOLDER, KINDS, format_size, load, of_kind, parse_size, tables
from stages.knobs import ParamsError

ROOT = Path(__file__).parents[2]


def test_every_thing_has_a_place_or_an_instruction_and_a_check():
    for entry in load().values():
        if entry.by_hand:
            assert entry.expect
        for file in [entry.archive] if entry.archive else entry.files:
            assert file.size > 0
            for place in file.places:
                assert re.fullmatch(r"https?://\S+[^/]|hf:[^/]+/[^/]+/\S+|gdrive:[\w-]+", place), place


def test_no_two_files_share_a_path():
    paths = [file.path for entry in load().values() for file in entry.files]
    assert len(set(paths)) == len(paths)
    assert not any(path.startswith("/") or ".." in path for path in paths)


def test_the_eight_zips_promise_109999_identities():
    promises = [map(int, re.findall(r"(\d+)-(\d+)_", file.path)[0]) for file in load()["digiface-1m"].files]
    assert sum(last - first + 1 for first, last in promises) == 109_999


def test_hashes_are_hashes():
    for entry in load().values():
        for file in entry.files:
            assert re.fullmatch("([0-9a-f]{8,64})?", file.sha256)
            assert re.fullmatch("([0-9a-f]{32})?", file.md5)


def test_the_documentation_lists_it_as_it_is():
    assert tables() in (ROOT / "docs/data.md").read_text()


def test_sizes():
    assert parse_size("3.44 GB") == 3_440_000_000
    assert format_size(3_440_000_000) == "3.44 GB"
    assert format_size(0) == "0 B"
    with pytest.raises(ParamsError, match="size '3 TiB'"):
        parse_size("3 TiB")


def test_one_file_a_kind():
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == sorted([*KINDS, "licenses"])
    assert {entry.kind for entry in load().values()} == set(KINDS)
    assert list(of_kind("benchmark")) == ["insightface-bins", "ijbb", "ijbc", "rfw"]


@pytest.mark.parametrize("name", ["ijbb", "ijbc", "rfw", "webface"])
def test_what_is_not_given_out_freely_says_so(name):
    assert load()[name].by_hand.startswith("On application")
    if name.startswith("ijb"):
        assert "2023-03-14" in load()[name].by_hand


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"license": "none"}, "'none' is not described"),
        ({"base": ""}, "either places or by_hand"),
        ({"by_hand": "ask"}, "either places or by_hand"),
    ],
)
def test_a_broken_entry_is_named(tmp_path, change, message):
    shutil.copytree(FOLDER, tmp_path / "catalogue")
    path = tmp_path / "catalogue/weights.yaml"
    values = yaml.safe_load(path.read_text())
    values["lcm-lora"] |= change
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ParamsError, match=f"lcm-lora.*{message}"):
        load(path.parent)
