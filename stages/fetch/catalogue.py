"""What can be fetched, and what one may do with it: `catalogue.yaml`, typed.

`python -m stages.fetch.catalogue` prints the tables of docs/data.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from stages.knobs import check

CATALOGUE = Path(__file__).with_name("catalogue.yaml")
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
def load(path: Path = CATALOGUE) -> dict[str, Entry]:
    """Read the catalogue: name -> entry, in its order.

    Raises:
        ParamsError: an unknown field, kind or licence, or a size that is none.
    """
    values = yaml.safe_load(path.read_text())
    licenses = {name: License(name, **terms) for name, terms in values["licenses"].items()}
    return {name: _entry(name, entry, licenses) for name, entry in values["entries"].items()}


def _entry(name: str, values: dict[str, Any], licenses: dict[str, License]) -> Entry:
    values = dict(values)
    check(values["kind"] in KINDS, f"catalogue, {name}: kind is {values['kind']!r}; one of {', '.join(KINDS)}")
    check(values["license"] in licenses, f"catalogue, {name}: license {values['license']!r} is not described")
    values["license"] = licenses[values["license"]]
    into, base = values["into"], values.pop("base", "")
    values["files"] = tuple(_file(into, file, spec, base) for file, spec in values.get("files", {}).items())
    if "archive" in values:
        spec = dict(values["archive"])
        values["archive"] = _file("archives", spec.pop("name"), spec)
    entry = Entry(name, **values)
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


def select(names: tuple[str, ...], kind: str, knob: str) -> list[Entry]:
    """The entries of these names.

    Raises:
        ParamsError: the catalogue has no such entry of this kind; the message names the knob.
    """
    entries = {name: entry for name, entry in load().items() if entry.kind == kind}
    for name in names:
        check(name in entries, f"{knob}: {name!r} is not in the catalogue; {', '.join(entries)} are")
    return [entries[name] for name in names]


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


if __name__ == "__main__":
    print(tables(), end="")
