"""Source, target, benchmarks and weights: `r2r fetch`.

What the knobs call `embedded` is rendered on the spot: `data/source/*.zip` (raster look), `data/target/target.zip`
(camera look) and `data/benchmarks/`. Names of the catalogue are got from their publishers, a mirror or a folder, and a
path names any set of faces, read in place. What was rendered or got is kept in the cache, and `data/` has links to it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stages.fetch import embedded, library
from stages.fetch.catalogue import Entry, load
from stages.fetch.embedded import EMBEDDED
from stages.fetch.placing import FOLDERS, Standing, link_to, members, put
from stages.images import Archive, read_faces
from stages.images.digiface import DigiFace
from stages.knobs import check
from stages.store import cache_folder, file_digest, fingerprint, usable_cache, write_json
from stages.store.cache import Numbers, folder_of, read_entry
from stages.store.manifest import CACHE, write_manifest
from stages.world.benchmarks import VALIDATION
from stages.world.datasets import make

if TYPE_CHECKING:
    from stages.params import Params


def run(params: Params, root: Path = Path(".")) -> None:
    """Make or get source, target, benchmarks and weights, link them into `data/`, and write `metrics/fetch.json`.

    Each folder gets a manifest (`stages.store.manifest`), by which those who read it see that a part of it is gone.

    Raises:
        ParamsError: a name that is not known, fewer identities than asked for, or a licence that is not accepted.
        StoreError: something foreign in the folders (nothing is written then), a rendering process that died, a file
            that is wrong or that no place gives, or one that only the user can get.
    """
    knobs, data, kept = params.fetch, root / "data", library.folder()
    entries, sets = library.wanted(knobs, root)
    library.check_licenses(entries, knobs.accept_licenses, params.profile)
    _check_sets(sets, params)
    parts = embedded.datasets(params, data)
    links = {data / place: kept / path for entry in entries for place, path in library.puts(entry, knobs).items()}
    if "source" in sets:
        links |= {data / "source" / name: path for name, path in members(sets["source"]).items()}
    if "target" in sets:
        links[data / "target/target.zip"] = sets["target"]
    known = {part.path: read_entry(folder_of("fetch", part.fingerprint)) for part in parts}
    standing = Standing(data, kept, links | {path: entry.path if entry else None for path, entry in known.items()})
    standing.check()
    usable_cache()

    library.get(entries, knobs, data)
    metrics: Numbers = {}
    for entry in entries:
        if entry.kind == "source":
            metrics |= library.survey_source(entry, kept, knobs.parallel)
    standing.clear()
    for name in FOLDERS:
        (data / name).mkdir(parents=True, exist_ok=True)
    for path, source in links.items():
        link_to(source, path)
    made = make(parts, knobs.workers)
    metrics |= embedded.numbers(parts, made) | _numbers(params, entries, data)
    _write_manifests(links, [*known], params, data)
    write_json(root / "metrics/fetch.json", metrics)


def get(names: list[str], params: Params, root: Path = Path(".")) -> None:
    """Get entries of the catalogue by name, beside the pipeline: training sets to compare with, weights to try.

    `validation` is rendered, as `data/validation/validation.bin`. The library keeps them; what a run does not name
    leaves `data/source` to `data/weights` when it runs next.

    Raises:
        ParamsError: no such entry, or a licence that is not accepted.
        StoreError: as `run`.
    """
    for name in names:
        check(name in (VALIDATION, *load()), f"{name}: not in the catalogue; {VALIDATION}, {', '.join(load())} are")
    if VALIDATION in names:
        part = embedded.validation(params, root / "data")
        (made,) = make([part], params.fetch.workers)
        link_to(made.path, part.path)
    entries = [load()[name] for name in names if name != VALIDATION]
    library.check_licenses(entries, params.fetch.accept_licenses, params.profile)
    library.get(entries, params.fetch, root / "data")
    for entry in entries:
        for place, path in library.puts(entry, params.fetch).items():
            if (library.folder() / path).exists():
                put(library.folder() / path, root / "data" / place)


def _check_sets(sets: dict[str, Path], params: Params) -> None:
    """Open what the knobs name by path."""
    if "source" in sets:
        _check_size(params, len(read_faces(sets["source"]).identities))
    if "target" in sets:
        Archive(sets["target"])


def _check_size(params: Params, identities: int) -> None:
    check(
        params.n_ids <= identities,
        f"n_ids is {params.n_ids}, but {params.fetch.source} has {identities} identities",
    )


def _numbers(params: Params, entries: list[Entry], data: Path) -> Numbers:
    """Look through what was not rendered, and count it."""
    numbers: Numbers = {}
    if params.fetch.source != EMBEDDED:
        faces = read_faces(data / "source")
        _check_size(params, len(faces.identities))
        numbers |= {"source_identities": len(faces.identities), "source_images": len(faces)}
        if isinstance(faces, DigiFace):
            numbers["source_identities_missing"] = faces.missing_identities
            numbers["source_images_missing"] = faces.missing_images
        numbers |= {f"source_left_out_{kind.replace(' ', '_')}": count for kind, count in faces.left_out.items()}
    if params.fetch.target != EMBEDDED:
        numbers["target_images"] = len(Archive(data / "target/target.zip"))
    for entry in entries:
        if entry.kind in ("weights", "benchmark"):
            numbers[f"{entry.name}_bytes"] = sum((data / file.path).stat().st_size for file in entry.files)
    return numbers


def _write_manifests(links: dict[Path, Path], rendered: list[Path], params: Params, data: Path) -> None:
    """Say of each folder what stands in it, and what linked folders hold, which DVC does not hash."""
    named = {"source": params.fetch.source, "target": params.fetch.target}
    for folder in map(data.joinpath, FOLDERS):
        files, where = [path for path in rendered if path.is_relative_to(folder)], {}
        for path, source in links.items():
            if path.is_relative_to(folder):
                files.append(path)
                if not source.is_relative_to(library.folder()):  # of a set that a knob names by its path
                    typed = Path(named[folder.name])
                    where[path] = str(typed if source.is_dir() else typed.parent / source.name)
                elif source.is_dir():
                    where[path] = CACHE + source.relative_to(cache_folder()).as_posix()
        linked = [path for path in where if path.is_symlink() and path.is_dir()]
        content = ""
        if linked and folder.name == "source":
            content = read_faces(folder).digest()
        elif linked and folder.name == "target":
            content = Archive(folder / "target.zip").digest()
        elif linked:  # the protocols, and not half a million images
            texts = [file for path in linked for file in sorted(path.rglob("*")) if file.suffix in (".txt", ".csv")]
            content = fingerprint([[file.relative_to(folder).as_posix(), file_digest(file)] for file in texts])
        names = {path: path.relative_to(folder).as_posix() for path in files}
        write_manifest(folder, names.values(), {names[path]: place for path, place in where.items()}, content)
