"""What imports what in `stages`, read off the source: of each module, the modules it loads when it runs."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "stages"


def module_path(name: str) -> Path | None:
    """The file of a dotted module name, or none."""
    path = ROOT.joinpath(*name.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def dotted(path: Path) -> str:
    """The dotted name of a file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports(name: str) -> frozenset[str]:
    """The modules of `stages` that a module imports, at its top or in a function, but not for its types alone."""
    path = module_path(name)
    assert path is not None, name
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name.startswith("stages"))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("stages"):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if module_path(inner) else node.module)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return frozenset(found)


@cache
def closure(name: str) -> frozenset[str]:
    """All modules of `stages` that a module needs to run, itself and the packages they lie in included."""
    seen: set[str] = set()
    todo = [name]
    while todo:
        module = todo.pop()
        if module in seen or not module_path(module):
            continue
        seen.add(module)
        todo += imports(module)
        if (parent := module.rpartition(".")[0]) != "stages" and parent:
            todo.append(parent)
    return frozenset(seen - {"stages"})


def modules() -> list[str]:
    """All modules of `stages`."""
    return sorted(dotted(path) for path in PACKAGE.rglob("*.py"))
