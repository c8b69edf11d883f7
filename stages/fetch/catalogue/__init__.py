"""What can be fetched, and what one may do with it: one file a kind, typed.

`python -m stages.fetch.catalogue` prints the tables of docs/data.md.

A file's path is relative to data/. A place is an https address, `hf:owner/repository/file` or `gdrive:id`; `base` and
the file's own name make its first place, `places` of a file or an archive come after it, in order. `size` in bytes is
exact and enforced; "3.4 GB" is about, for planning. `sha256` (or its beginning) and `md5` are the publisher's: none is
guessed. Where there is none, the hub's own statement is enforced, and what arrives first is recorded and enforced from
then on. `by_hand` says how to get what may not or cannot be fetched; `expect` is what must then stand in the folder
(glob: number of files, 0 is any from one).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from stages.knobs import check

FOLDER = Path(__file__).parent
KINDS = ("source", "target", "weights", "benchmark", "training")
UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}


@dataclass(frozen=True)
class License:
    """Terms of use."""

    name: str
    terms: str  # where they stand
    commercial: bool
    accept: bool  # by the user, once, in fetch.accept_licenses
    publish: str  # what one may publish


@dataclass(frozen=True)
class File:
    """A file, where it comes from and how it is known to be the right one.

    path: relative to data/; places: addresses, in the order in which they are tried; size: bytes; exact: whether the
    size is the publisher's, and not only about; sha256 (or its beginning), md5: the publisher's, or empty.
    """

    path: str
    places: tuple[str, ...]
    size: int
    exact: bool = False
    sha256: str = ""
    md5: str = ""


@dataclass(frozen=True)
class Entry:
    """One thing: its files, or how to get it by hand.

    archive: the zip that the files are members of; by_hand: instruction; expect: glob below data/`into` -> number of
    files that must stand there, 0 for any from one.
    """

    name: str
    what: str
    kind: str
    license: License
    page: str
    into: str
    files: tuple[File, ...] = ()
    archive: File | None = None
    by_hand: str = ""
    expect: dict[str, int] = field(default_factory=dict)
    note: str = ""

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return sum(file.size for file in self.files)


@cache
def load(folder: Path = FOLDER) -> dict[str, Entry]:
    """Read the catalogue: name -> entry, in its order.

    Raises:
        ParamsError: an unknown licence or place, or a size that is none.
    """
    texts = {name: yaml.safe_load((folder / f"{name}.yaml").read_text()) for name in ("licenses", *KINDS)}
    licenses = {name: License(name, **terms) for name, terms in texts["licenses"].items()}
    return {name: _entry(name, kind, values, licenses) for kind in KINDS for name, values in texts[kind].items()}


def _entry(name: str, kind: str, values: dict[str, Any], licenses: dict[str, License]) -> Entry:
    values = dict(values)
    check(values["license"] in licenses, f"catalogue, {name}: license {values['license']!r} is not described")
    values["license"] = licenses[values["license"]]
    into, base = values["into"], values.pop("base", "")
    values["files"] = tuple(_file(into, file, spec, base) for file, spec in values.get("files", {}).items())
    if "archive" in values:
        spec = dict(values["archive"])
        values["archive"] = _file("archives", spec.pop("name"), spec)
    entry = Entry(name, kind=kind, **values)
    reachable = all(file.places for file in ([entry.archive] if entry.archive else entry.files))
    check(bool(entry.by_hand) != bool(entry.files) and reachable, f"catalogue, {name}: either places or by_hand")
    return entry


def _file(into: str, name: str, spec: dict[str, Any], base: str = "") -> File:
    spec = dict(spec)
    places = ([base + name] if base else []) + spec.pop("places", [])
    size = spec.pop("size")
    exact = isinstance(size, int)
    return File(f"{into}/{name}", tuple(places), size if exact else parse_size(size), exact, **spec)


def parse_size(text: str) -> int:
    """`3.4 GB` as bytes."""
    match = re.fullmatch(r"([\d.]+) (B|kB|MB|GB)", text)
    check(match is not None, f"size {text!r}: a number and B, kB, MB or GB")
    assert match is not None
    return round(float(match[1]) * UNITS[match[2]])


def format_size(size: float) -> str:
    """Bytes as `3.4 GB`."""
    unit = next(name for name in ("GB", "MB", "kB", "B") if size >= UNITS[name] or name == "B")
    return f"{size / UNITS[unit]:.3g} {unit}"


def of_kind(kind: str) -> dict[str, Entry]:
    """The entries of a kind, by name."""
    return {name: entry for name, entry in load().items() if entry.kind == kind}


def tables() -> str:
    """The catalogue in Markdown."""
    lines = [
        "| name | what | size | licence | commercial | how |",
        "|---|---|---|---|---|---|",
    ]
    for entry in load().values():
        how = entry.by_hand or "fetched"
        size = format_size(entry.size) if entry.size else ""
        commercial = "yes" if entry.license.commercial else "no"
        cells = (f"[{entry.name}]({entry.page})", entry.what, size, entry.license.name, commercial, how)
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| licence | to accept | what one may publish |", "|---|---|---|"]
    for license in {entry.license.name: entry.license for entry in load().values()}.values():
        name = f"[{license.name}]({license.terms})" if license.terms.startswith("http") else license.name
        lines.append(f"| {name} | {'yes' if license.accept else ''} | {license.publish} |")
    return "\n".join(lines) + "\n"
