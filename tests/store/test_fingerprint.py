from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from stages.store import fingerprint
from stages.store.fingerprint import bare_code


@dataclass(frozen=True)
class Knobs:
    x: float = 1.0


def test_it_covers_parameters_content_and_code(tmp_path):
    path = tmp_path / "input"
    path.write_text("a")
    first = fingerprint({"x": 1}, path, Knobs(), code=["store/codec"])
    assert first == fingerprint({"x": 1}, path, Knobs(), code=["store/codec"])
    assert first != fingerprint({"x": 2}, path, Knobs(), code=["store/codec"])
    assert first != fingerprint({"x": 1}, path, Knobs(2.0), code=["store/codec"])
    assert first != fingerprint({"x": 1}, path, Knobs(), code=["store/shard"])
    path.write_text("b")
    assert first != fingerprint({"x": 1}, path, Knobs(), code=["store/codec"])


def test_the_order_of_a_mapping_does_not_count():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})


def test_long_arrays_that_print_alike_are_told_apart():
    a = np.zeros(5000)
    b = a.copy()
    b[2500] = 1
    assert repr(a) == repr(b)
    assert fingerprint(a) != fingerprint(b)
    assert fingerprint([a]) != fingerprint([a.astype(np.float32)])
    assert fingerprint(a) != fingerprint(a.reshape(50, 100))
    assert fingerprint(np.int64(3)) == fingerprint(3)


def test_what_has_no_text_of_its_own_is_refused():
    with pytest.raises(TypeError, match="no part of a fingerprint"):
        fingerprint(object())


CODE = '''"""A module."""

# a remark
import os  # another


class A:
    """What it is.

    At length.
    """

    def f(self, x):
        """What it does."""

        return f"{x} # no remark" + "# nor this"
'''


def test_comments_docstrings_and_blank_lines_are_no_code():
    lines = bare_code(CODE).splitlines()
    assert lines == ["import os", "class A:", "    def f(self, x):", '        return f"{x} # no remark" + "# nor this"']
    assert bare_code(CODE.replace("# no remark", "# a remark")) != bare_code(CODE)


def test_every_module_stays_code_without_its_comments():
    for path in Path("stages").rglob("*.py"):
        compile(bare_code(path.read_text()) or "0", str(path), "exec", dont_inherit=True, optimize=0) if _has_bodies(
            path
        ) else None


def _has_bodies(path: Path) -> bool:
    """Whether no function consists of its docstring alone, as a protocol's do."""
    import ast

    nodes = ast.walk(ast.parse(path.read_text()))
    kinds = (ast.FunctionDef, ast.ClassDef)
    return all(len(node.body) > 1 or ast.get_docstring(node) is None for node in nodes if isinstance(node, kinds))
