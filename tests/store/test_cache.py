import os
import subprocess
import sys
from pathlib import Path

import pytest

from stages.store import StoreError, adding, entries, find, folder_of, locked, made, usable_cache
from stages.store.cache import cache_folder, listing

KEY, OTHER = "a" * 64, "b" * 64


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("R2R_CACHE", str(tmp_path / "cache"))


def add(key: str = KEY, content: bytes = b"content") -> None:
    with adding("align", key, "content.bin") as draft:
        draft.path.write_bytes(content)
        draft.numbers = {"images": 3}
        draft.keys = ["x", "y"]


def test_an_entry_is_found_with_all_it_says(tmp_path):
    assert find("align", KEY) is None
    add()
    entry = find("align", KEY)
    assert entry is not None
    assert (entry.path.read_bytes(), entry.numbers, list(entry.keys), entry.bytes) == (
        b"content",
        {"images": 3},
        ["x", "y"],
        7,
    )
    assert find("embed", KEY) is None
    entry.place(tmp_path / "data/0.bin")
    assert (tmp_path / "data/0.bin").samefile(entry.path)


def test_a_failed_one_leaves_nothing():
    with pytest.raises(IsADirectoryError), adding("align", KEY, "content.bin") as draft:
        draft.path.parent.read_bytes()
    assert find("align", KEY) is None
    assert list(entries("align")) == []


def test_changed_content_is_put_aside_and_named(capsys):
    add()
    entry = find("align", KEY)
    assert entry is not None
    entry.path.write_bytes(b"c0ntent")
    assert find("align", KEY) is None
    assert str(entry.path) in capsys.readouterr().err
    (aside,) = folder_of("align", KEY).parent.glob("*.bad-*")
    assert (aside / "content.bin").read_bytes() == b"c0ntent"
    add()
    assert find("align", KEY) is not None


def test_a_folder_is_an_entry_too(tmp_path):
    with adding("world", KEY, "content") as draft:
        (draft.path / "in").mkdir(parents=True)
        (draft.path / "in/x").write_text("x")
    entry = find("world", KEY)
    assert entry is not None
    entry.place(tmp_path / "data/set")
    assert (tmp_path / "data/set/in/x").read_text() == "x"
    assert made("world", [tmp_path / "data/set"]) == {tmp_path / "data/set"}
    (entry.path / "in/x").write_text("y")
    assert find("world", KEY) is None


def test_only_links_of_entries_are_proven_ours(tmp_path):
    add()
    entry = find("align", KEY)
    assert entry is not None
    ours, theirs, gone = tmp_path / "ours", tmp_path / "theirs", tmp_path / "gone"
    entry.place(ours)
    theirs.write_bytes(b"content")
    assert made("align", [ours, theirs, gone]) == {ours}
    assert made("embed", [ours]) == set()


def test_a_lock_is_held_by_one(tmp_path):
    with locked("align", KEY) as ours:
        assert ours
        with locked("align", KEY, wait=False) as second:
            assert not second
        with locked("align", OTHER, wait=False) as another:
            assert another
    with locked("align", KEY, wait=False) as again:
        assert again


def test_the_second_of_two_workspaces_waits():
    script = f"from stages.store import locked\nwith locked('align', '{KEY}') as ours: print('mine', ours)"
    with locked("align", KEY):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=-1, stderr=-1, text=True)
        assert process.stderr is not None
        assert "waiting" in process.stderr.readline()
        assert process.poll() is None
    assert process.communicate(timeout=30)[0] == "mine True\n"


def test_by_default_it_lies_beside_the_project(tmp_path, monkeypatch):
    monkeypatch.delenv("R2R_CACHE")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    project = tmp_path / "project"
    (project / "pretrain/encoder").mkdir(parents=True)
    (project / "dvc.yaml").touch()
    monkeypatch.chdir(project / "pretrain/encoder")
    assert cache_folder() == project / ".r2r"
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "dvc.yaml").touch()
    monkeypatch.chdir(checkout)
    monkeypatch.setenv("DVC_ROOT", str(project))
    assert cache_folder() == project / ".r2r"
    monkeypatch.delenv("DVC_ROOT")
    monkeypatch.chdir(tmp_path)
    assert cache_folder() == Path.home() / ".cache/render2real"


def test_a_cache_that_cannot_be_written_is_said_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("R2R_CACHE", str(tmp_path / "file/cache"))
    with pytest.raises(StoreError, match="set R2R_CACHE"):
        usable_cache()


def test_listing_counts_and_prunes_what_is_old():
    add(KEY)
    add(OTHER, b"x" * 2_000_000)
    assert any("align: 2 kept, 2.0 MB" in line for line in listing())
    os.utime(folder_of("align", OTHER), (0, 0))
    assert any("align: 1 kept, 0.0 MB, 1 removed" in line for line in listing(prune=30))
    assert find("align", KEY) is not None
    assert find("align", OTHER) is None


def test_what_was_got_from_outside_is_never_pruned(tmp_path):
    path = tmp_path / "cache/library/weights/by_hand.pth"
    path.parent.mkdir(parents=True)
    path.touch()
    os.utime(path.parent, (0, 0))
    assert any(line.startswith("library: 1 kept") for line in listing(prune=30))
    assert path.exists()
