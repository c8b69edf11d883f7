"""What fetching and rendering cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stages.fetch import embedded, library
from stages.fetch.catalogue import format_size
from stages.fetch.download import SPARE, Hashes, free_space
from stages.run.machine import Machine, Work
from stages.store.cache import folder_of, read_entry

if TYPE_CHECKING:
    from stages.params import Params

__all__ = ["SPARE", "cost", "findings", "format_size", "free_space", "work"]

BANDWIDTH = 50e6  # bytes a second of a download
RENDERED = 25.0  # images a second and core, bench/world.py

Finding = tuple[str, str, int, str]  # thing; present | missing | wrong | licence | by hand; bytes to fetch; detail


def findings(params: Params, root: Path) -> list[Finding]:
    """What is there, missing, wrong or bound by a licence, of all that the profile reads and does not make."""
    knobs, kept = params.fetch, library.folder()
    entries, sets = library.wanted(knobs, root)
    found = [(f"fetch.{kind}", "present", 0, str(path)) for kind, path in sets.items()]
    if given := library.mirror(knobs.mirror)[0]:
        found.append(("fetch.mirror", "present", 0, str(given)))
    for finding in library.inspect(entries, knobs, kept, Hashes(kept / "hashes.json")):
        found.append((finding.entry.name, finding.state, finding.todo, finding.detail))
    return found


def work(params: Params, root: Path = Path(".")) -> tuple[int, int]:
    """Images to render that the cache does not hold, and bytes to fetch, about."""
    parts = [part for part in embedded.datasets(params, root) if not read_entry(folder_of("fetch", part.fingerprint))]
    return sum(part.images for part in parts), sum(todo for _, _, todo, _ in findings(params, root))


def cost(params: Params, root: Path, machine: Machine) -> Work:
    """About how long it takes: what is to be fetched, and what is to be rendered."""
    images, todo = work(params, root)
    what = [f"{format_size(todo)} at {format_size(BANDWIDTH)}/s"] if todo else []
    what += [f"{images:,} rendered images"] if images else []
    return Work(todo / BANDWIDTH + images / RENDERED / machine.cores, " and ".join(what) or "all is there")
