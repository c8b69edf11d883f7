import pytest

from stages.store import StoreError
from stages.store.manifest import NAME, check_manifest, read_manifest, write_manifest


def test_a_part_that_is_gone_is_named_and_counted(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).touch()
    write_manifest(tmp_path, ["b", "a", "c/d"], {})
    with pytest.raises(StoreError, match=r"c/d: is gone, 1 of the 3 that fetch put there are; .*`r2r fetch`"):
        check_manifest(tmp_path)
    (tmp_path / "c").symlink_to("nowhere")
    with pytest.raises(StoreError, match="is gone"):
        check_manifest(tmp_path)
    (tmp_path / "c").unlink()
    (tmp_path / "c").mkdir()
    (tmp_path / "c/d").touch()
    check_manifest(tmp_path)


def test_a_folder_without_one_promises_nothing(tmp_path):
    check_manifest(tmp_path)
    check_manifest(tmp_path / "absent")
    assert read_manifest(tmp_path)["files"] == []


def test_an_empty_folder_says_so(tmp_path):
    write_manifest(tmp_path, [], {})
    assert (tmp_path / NAME).is_file()


def test_it_is_written_only_where_it_changes(tmp_path):
    write_manifest(tmp_path, ["a"], {"a": "path"}, "digest")
    before = (tmp_path / NAME).stat().st_ino
    write_manifest(tmp_path, ["a"], {"a": "path"}, "digest")
    assert (tmp_path / NAME).stat().st_ino == before
    assert read_manifest(tmp_path) == {"files": ["a"], "links": {"a": "path"}, "content": "digest"}


def test_links_to_folders_are_brought_back_in_any_checkout(tmp_path, monkeypatch):
    """DVC restores none."""
    monkeypatch.setenv("R2R_CACHE", str(tmp_path / "cache"))
    for place in ("mine", "cache/library/benchmarks/rfw", "out/data/benchmarks"):
        (tmp_path / place).mkdir(parents=True)
    folder = tmp_path / "out/data/benchmarks"
    links = {"set": "../mine", "rfw": "$R2R_CACHE/library/benchmarks/rfw"}
    write_manifest(folder, links, links)
    (folder / "set").symlink_to("moved")
    check_manifest(folder)
    assert (folder / "set").resolve() == tmp_path / "mine"
    assert (folder / "rfw").resolve() == tmp_path / "cache/library/benchmarks/rfw"
    (tmp_path / "mine").rmdir()
    with pytest.raises(StoreError, match="benchmarks/set: is gone, 1 of the 2"):
        check_manifest(folder)
