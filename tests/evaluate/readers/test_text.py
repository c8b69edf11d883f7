import pytest

from stages.evaluate.readers.text import read_rows
from stages.store import StoreError


def test_rows(tmp_path):
    (tmp_path / "a.txt").write_text("a b\tc\nd e f")
    assert read_rows(tmp_path / "a.txt", (3,)) == [["a", "b", "c"], ["d", "e", "f"]]
    assert read_rows(tmp_path / "a.txt", (1, 2), "\t") == [["a b", "c"], ["d e f"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a b\n\nc d\n", r"a\.txt, line 2: empty line; remove it"),
        (b"a b\nc d\n\n", r"line 3: empty line"),
        (b"a b\n \nc d\n", r"line 2: empty line"),
        (b"a b\nc d\r\n", r"line 2: Windows line end; .*sed -i"),
        (b"a b\nc d e\n", r"line 2: 3 fields where 2 were expected"),
        (b"a b\nc \xff\n", r"line 2: not UTF-8"),
        (b"", r"line 1: empty line"),
    ],
)
def test_broken_lines_are_named(tmp_path, content, message):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(StoreError, match=message):
        read_rows(tmp_path / "a.txt", (2,))


def test_no_such_file(tmp_path):
    with pytest.raises(StoreError, match=r"a\.txt: not found"):
        read_rows(tmp_path / "a.txt", (2,))
