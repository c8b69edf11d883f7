"""Protocol text files, line by line, with errors that name the file, the line and the remedy."""

from __future__ import annotations

from pathlib import Path

from stages.store import StoreError


def broken(path: Path, line: int, problem: str, remedy: str) -> StoreError:
    """The error of one line."""
    return StoreError(f"{path}, line {line}: {problem}; {remedy}")


def read_rows(path: Path, columns: tuple[int, ...], separator: str | None = None) -> list[list[str]]:
    """The fields of each line; row i is line i + 1.

    Args:
        path: a UTF-8 text file.
        columns: the numbers of fields that a line may have.
        separator: between fields; None is any white space.

    Raises:
        StoreError: no such file, no lines, an empty line, Windows line ends, or a line with another number of fields.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise StoreError(f"{path}: not found; the distribution is incomplete: unpack it again") from None
    if b"\r" in content:
        line = content[: content.index(b"\r")].count(b"\n") + 1
        raise broken(path, line, "Windows line end", f"convert the file once: sed -i 's/\\r$//' {path.name}")
    try:
        lines = content.decode().removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise broken(path, line, "not UTF-8 text", "the file is damaged or of another kind: unpack it again") from None
    rows = [text.split(separator) for text in lines]
    for number, row in enumerate(rows, 1):
        if not any(row):
            raise broken(path, number, "empty line", "remove it")
        if len(row) not in columns:
            expected = " or ".join(map(str, columns))
            remedy = "the file is damaged or of another format: unpack it again"
            raise broken(path, number, f"{len(row)} fields where {expected} were expected", remedy)
    return rows
