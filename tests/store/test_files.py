import errno
import os

import pytest

from stages.store import StoreError, broken, emptied, file_digest, link, remove, replacing, write_json


def test_a_failed_write_keeps_the_old_file_and_leaves_no_partial_one(tmp_path):
    path = tmp_path / "out.json"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as partial:
            partial.write_text("half")
            raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("fault", "said"),
    [(errno.ENOSPC, "disk is full"), (errno.EMFILE, "ulimit -n"), (errno.EACCES, "no permission")],
)
def test_the_systems_faults_are_named_with_the_file(tmp_path, fault, said):
    def fail() -> None:
        with replacing(tmp_path / "out.bin"):
            raise OSError(fault, os.strerror(fault))

    with pytest.raises(StoreError, match=rf"out\.bin.*{said}"):
        fail()
    assert "delete it" not in str(broken(tmp_path, OSError(fault, ""), "delete it"))
    assert "delete it" in str(broken(tmp_path, OSError("no HDF5"), "delete it"))


def test_replacing_does_not_write_through_a_hard_link(tmp_path):
    cached, out = tmp_path / "cached", tmp_path / "out"
    cached.write_text("cached")
    out.hardlink_to(cached)
    write_json(out, {"new": 1})
    assert cached.read_text() == "cached"
    assert out.read_text() == '{\n  "new": 1\n}\n'


def test_an_emptied_folder_leaves_what_its_files_were_linked_to(tmp_path, capsys):
    folder, cached = tmp_path / "a/b", tmp_path / "cached"
    assert list(emptied(folder).iterdir()) == []
    (folder / "c").mkdir()
    (folder / "c/d").write_text("content")
    os.link(folder / "c/d", cached)
    cached.chmod(0o444)
    assert list(emptied(folder).iterdir()) == []
    assert cached.read_text() == "content"
    assert "1 files of an earlier run, d among them" in capsys.readouterr().err


def test_a_link_shares_bytes_and_replaces_what_was_there(tmp_path):
    source, place = tmp_path / "source", tmp_path / "new/place"
    source.write_text("a")
    link(source, place)
    link(source, place)
    assert place.samefile(source)
    other = tmp_path / "other"
    other.write_text("b")
    link(other, place)
    assert (place.read_text(), source.read_text()) == ("b", "a")
    folder = tmp_path / "folder"
    (folder / "in").mkdir(parents=True)
    (folder / "in/x").write_text("x")
    link(folder, tmp_path / "copy")
    assert (tmp_path / "copy/in/x").samefile(folder / "in/x")
    (folder / "in/x").unlink()
    link(folder, tmp_path / "copy")
    assert not (tmp_path / "copy/in/x").exists()


def test_without_hard_links_a_link_is_a_copy(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "another disk")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a").write_text("a")
    link(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "a"


def test_what_is_removed_is_said(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    remove(tmp_path / "a", "for a reason")
    assert not (tmp_path / "a").exists()
    assert f"{tmp_path / 'a'}: for a reason" in capsys.readouterr().err


def test_a_folders_digest_is_over_names_and_contents(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "in").mkdir(parents=True)
        (tmp_path / name / "in/x").write_text("x")
    assert file_digest(tmp_path / "a") == file_digest(tmp_path / "b")
    (tmp_path / "a/in/x").rename(tmp_path / "a/in/y")
    assert file_digest(tmp_path / "a") != file_digest(tmp_path / "b")
