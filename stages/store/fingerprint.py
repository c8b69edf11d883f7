"""What a derived file was made from, in 64 digits: all that could change its bytes, and nothing else."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import tokenize
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from stages.store.files import file_digest

PACKAGE = Path(__file__).parent.parent


def fingerprint(*parts: Any, code: Sequence[str] = ()) -> str:
    """Identity of a derived file: 64 hex digits over what it is made from.

    Args:
        parts: JSON values, arrays, dataclasses or paths (a path counts by its content, never by its name or date).
            Knobs with `auto` resolved: what `auto` came to is what changes bytes.
        code: files of this package that make it (`"align/warp"`), and no more than these. Comments, docstrings and
            blank lines do not count.

    Raises:
        TypeError: a part of another kind, which could not be told from others by its text.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            digest.update(file_digest(part).encode())
        else:
            value = asdict(part) if is_dataclass(part) and not isinstance(part, type) else part
            digest.update(json.dumps(value, sort_keys=True, default=_plain).encode())
        digest.update(b"\0")
    for name in code:
        path = (PACKAGE / name).with_suffix(".py")
        digest.update(f"{name}\0{code_digest(path)}\0".encode())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """A value that JSON does not know, as one that it does."""
    if isinstance(value, np.ndarray):
        content = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return {"dtype": value.dtype.str, "shape": value.shape, "content": content}
    if isinstance(value, np.generic):
        return value.item()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} {value!r}: no part of a fingerprint")


@cache
def code_digest(path: Path) -> str:
    """SHA-256 of a module's code, without comments, docstrings and blank lines; the same under every Python."""
    return hashlib.sha256(bare_code(path.read_text(encoding="utf-8")).encode()).hexdigest()


def bare_code(source: str) -> str:
    """The lines of a module without comments, docstrings and blank lines."""
    lines = source.splitlines()
    cut = [
        (token.start[0], token.start[1], token.end[1])
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    ]
    for row, begin, end in cut:
        lines[row - 1] = lines[row - 1][:begin] + lines[row - 1][end:]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                lines[first.lineno - 1 : first.end_lineno] = [""] * ((first.end_lineno or 0) - first.lineno + 1)
    return "\n".join(line.rstrip() for line in lines if line.strip())
