"""The official data and weights: which of the catalogue a run needs, what of it is there, and getting the rest.

A mirror that is a folder is linked, never copied: 24 GB of zips stay where they are.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from stages.fetch import digiface
from stages.fetch.catalogue import Entry, File, select
from stages.fetch.download import Hashes, download, problem
from stages.fetch.knobs import Fetch
from stages.knobs import ParamsError, check
from stages.store import StoreError, replacing
from stages.world.datasets import EPOCH, comment

EMBEDDED = "embedded"
THUMBNAIL = 30_000  # bytes of one of FFHQ's, about
FFHQ_NAMES = (
    "ffhq.zip",
    "ffhq",
    "thumbnails128x128.zip",
    "thumbnails128x128",
    "images1024x1024.zip",
    "images1024x1024",
)
CARD = ".linked.txt"  # in data/benchmarks, since DVC does not look into linked folders


@dataclass(frozen=True)
class Finding:
    """What is the case with one entry.

    state: present | missing | wrong | licence | by hand; detail: one line more; todo: bytes to fetch, about.
    """

    entry: Entry
    state: str
    detail: str = ""
    todo: int = 0


def wanted(knobs: Fetch) -> list[Entry]:
    """The entries that a run needs.

    Raises:
        ParamsError: the catalogue has no such entry.
    """
    entries = []
    for kind, names in (("source", (knobs.source,)), ("target", (knobs.target,)), ("benchmark", knobs.benchmarks)):
        knob = "fetch.benchmarks" if kind == "benchmark" else f"fetch.{kind}"
        entries += select(tuple(name for name in names if name != EMBEDDED), kind, knob)
    return entries + select(knobs.weights, "weights", "fetch.weights")


def check_licenses(entries: Iterable[Entry], accepted: Sequence[str]) -> None:
    """Stop where the user has not accepted the terms of something.

    Raises:
        ParamsError: with each licence, what it is for, where it stands, and how to accept it.
    """
    bound: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.license.accept and entry.license.name not in accepted:
            bound.setdefault(entry.license.name, []).append(entry)
    if bound:
        lines = [
            f"\n  {name}, of {', '.join(entry.name for entry in of)}: {of[0].license.terms}"
            for name, of in bound.items()
        ]
        names = ",".join([*accepted, *bound])
        raise ParamsError(
            f"read these terms{''.join(lines)}\nand accept them once: put [{names}] into fetch.accept_licenses of the "
            f"profile, or run `dvc exp run -S 'fetch.accept_licenses=[{names}]'`"
        )


def inspect(entries: Iterable[Entry], knobs: Fetch, data: Path, hashes: Hashes) -> list[Finding]:
    """What is there, missing, wrong or bound by a licence; every file that is there is read and verified."""
    findings = []
    for entry in entries:
        files = [(file, data / file.path) for file in entry.files]
        there = [(file, path) for file, path in files if path.is_file()]
        with ThreadPoolExecutor(max(knobs.parallel, 1)) as pool:
            faults = list(pool.map(lambda pair: problem(pair[0], pair[1], hashes), there))
        wrong = [f"{path}: {fault}" for (_, path), fault in zip(there, faults, strict=True) if fault]
        missing = [file for file, path in files if not path.is_file()]
        if entry.kind == "target":
            found = data / "target/target.zip"
            todo = 0 if _is_target(found, knobs.target_images) else knobs.target_images * THUMBNAIL
            missing = missing if todo else []
        else:
            todo = 0
        todo += entry.archive.size if entry.archive and missing else sum(file.size for file in missing)
        if wrong:
            finding = Finding(entry, "wrong", "; ".join(wrong), todo)
        elif entry.by_hand:
            fault = _unexpected(entry, data)
            finding = Finding(entry, "by hand", f"{fault}. {entry.by_hand}") if fault else Finding(entry, "present")
        elif entry.license.accept and entry.license.name not in knobs.accept_licenses:
            finding = Finding(entry, "licence", f"{entry.license.name}: {entry.license.terms}", todo)
        elif todo:
            detail = f"{len(there)} of {len(files)} files" if len(files) > 1 else ""
            finding = Finding(entry, "missing", detail, todo)
        else:
            finding = Finding(entry, "present")
        findings.append(finding)
    return findings


def get(entries: Sequence[Entry], knobs: Fetch, data: Path) -> None:
    """Bring all entries to their places: link what the mirror folder has, verify what is there, fetch the rest.

    Raises:
        ParamsError: a licence is not accepted, or the mirror is no folder and no address.
        StoreError: something is wrong or must be brought by hand (nothing has been fetched then), or cannot be fetched.
    """
    check_licenses(entries, knobs.accept_licenses)
    folder, address = mirror(knobs.mirror)
    if folder:
        for entry in entries:
            link_entry(entry, folder, data)
    hashes = Hashes(data / "hashes.json")
    findings = inspect(entries, knobs, data, hashes)
    faults = [finding for finding in findings if finding.state in ("wrong", "by hand")]
    if faults:
        lines = [f"\n  {finding.entry.name}: {finding.detail} ({finding.entry.page})" for finding in faults]
        raise StoreError(f"delete what is wrong and put there what only you can get:{''.join(lines)}")
    incomplete = [finding.entry for finding in findings if finding.state == "missing"]
    if address:  # a copy of data/ has what is unpacked or made here
        incomplete = [entry for entry in incomplete if not _from_mirror(entry, knobs, data, hashes, address)]
    archives = list({entry.archive.path: entry.archive for entry in incomplete if entry.archive}.values())
    plain = [file for entry in incomplete if not entry.archive for file in entry.files]
    download([*plain, *archives], data, hashes, mirror=address, parallel=knobs.parallel)
    for entry in incomplete:
        if entry.archive:
            unpack(entry, data, hashes)
        if entry.kind == "target":
            thumbnails(entry, knobs, data, address)
    for archive in archives:
        (data / archive.path).unlink()
    _write_card(data)


def _from_mirror(entry: Entry, knobs: Fetch, data: Path, hashes: Hashes, address: str) -> bool:
    """Take the files of an archive, or the whole target, from the mirror alone, if it has them."""
    files = [replace(file, places=()) for file in entry.files] if entry.archive else []
    if entry.kind == "target":
        files = [File("target/target.zip", (), knobs.target_images * THUMBNAIL)]
        if is_rendered(data / files[0].path):
            (data / files[0].path).unlink()
    try:
        download(files, data, hashes, mirror=address, parallel=knobs.parallel)
    except StoreError:
        return False
    return bool(files)


def mirror(value: str) -> tuple[Path | None, str]:
    """`fetch.mirror` as a folder or as an address.

    Raises:
        ParamsError: neither.
    """
    if not value or "://" in value:
        return None, value
    check(Path(value).is_dir(), f"fetch.mirror is {value!r}: no such folder; an address begins with https://")
    return Path(value).resolve(), ""


def link_entry(entry: Entry, folder: Path, data: Path) -> None:
    """Link what the folder has of an entry, by its path below data/, by that without its first part, or by its name."""
    for file in entry.files:
        if not os.path.lexists(data / file.path):
            path = Path(file.path)
            names = [path, path.relative_to(path.parts[0])] + ([Path(path.name)] if len(path.parts) == 2 else [])
            _link(folder, names, data / path)
    if entry.archive and not all((data / file.path).is_file() for file in entry.files):
        path = Path(entry.archive.path)
        _link(folder, [path, Path(path.name)], data / path)
    if entry.by_hand and not (data / entry.into).exists():
        path = Path(entry.into)
        _link(folder, [path, path.relative_to(path.parts[0])], data / path)
    if entry.kind == "target" and not _is_target(data / "target/target.zip", 0):
        _link(folder, [Path("target/target.zip"), *map(Path, FFHQ_NAMES)], data / "target/target.zip")


def _link(folder: Path, names: Iterable[Path], path: Path) -> None:
    """Link the first of the names that the folder has: hard where it can be, since DVC then keeps no second copy."""
    source = next((folder / name for name in names if (folder / name).exists()), None)
    if source is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), path)
    except OSError:  # a folder, or another disk
        path.symlink_to(source.resolve())


def unpack(entry: Entry, data: Path, hashes: Hashes) -> None:
    """Take an entry's missing files out of its archive.

    A member is known by its file name and written to the file's own path: what folders or links an archive names does
    not matter. It may be twice as large as the catalogue says.

    Raises:
        StoreError: the archive is broken or encrypted, or has no such member, several, or one that is too large.
    """
    assert entry.archive is not None
    path = data / entry.archive.path
    try:
        with zipfile.ZipFile(path) as archive:
            for file in entry.files:
                if not (data / file.path).is_file():
                    _unpack(archive, path, file, data / file.path, hashes)
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise StoreError(f"{path}: truncated or not a zip ({error}); delete it and fetch it again") from error


def _unpack(archive: zipfile.ZipFile, path: Path, file: File, target: Path, hashes: Hashes) -> None:
    name = Path(file.path).name
    members = [member for member in archive.infolist() if member.filename.split("/")[-1] == name]
    if len(members) != 1:
        raise StoreError(f"{path}: {len(members)} members are named {name}, where one was expected")
    member, limit = members[0], max(2 * file.size, 1 << 20)
    if member.flag_bits & 1:
        raise StoreError(f"{path}, member {member.filename}: encrypted; unpack it by hand to {target}")
    if member.file_size > limit:
        raise StoreError(
            f"{path}, member {member.filename}: {member.file_size} bytes, where about {file.size} are right"
        )
    with replacing(target) as partial:
        with archive.open(member) as packed, partial.open("wb") as content:
            shutil.copyfileobj(packed, content, 1 << 20)
        fault = problem(file, partial, hashes)
        if fault:
            raise StoreError(f"{path}, member {member.filename}: {fault}")


def thumbnails(entry: Entry, knobs: Fetch, data: Path, address: str) -> None:
    """Fetch the first of FFHQ's thumbnails by its own list, and put them into one archive.

    Raises:
        ParamsError: more are asked for than there are.
        StoreError: the list is not FFHQ's, or an image cannot be fetched.
    """
    listing = data / entry.files[0].path
    try:
        images = [image["thumbnail"] for image in json.loads(listing.read_text()).values()]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise StoreError(f"{listing}: not FFHQ's list of images ({error}); delete it and fetch it again") from error
    count = knobs.target_images
    check(count <= len(images), f"fetch.target_images is {count}, but FFHQ has {len(images)}")
    folder = f"target/.{entry.name}.partial"
    files = [
        File(f"{folder}/{number:05}.png", (_place(image["file_url"]),), image["file_size"], True, md5=image["file_md5"])
        for number, image in enumerate(images[:count])
    ]
    scratch = Hashes(data / folder / "hashes.json")
    download(files, data, scratch, mirror=address, parallel=max(knobs.parallel, 8), title="ffhq")
    with replacing(data / "target/target.zip") as partial, zipfile.ZipFile(partial, "w") as archive:
        archive.comment = _ffhq_stamp(count)
        for file in files:
            archive.writestr(zipfile.ZipInfo(Path(file.path).name, EPOCH), (data / file.path).read_bytes())
    shutil.rmtree(data / folder)


def _place(url: str) -> str:
    """Google Drive's addresses of files, as the downloader knows them."""
    return f"gdrive:{url.rpartition('id=')[2]}" if url.startswith("https://drive.google.com/") else url


def _ffhq_stamp(count: int) -> bytes:
    return f"ffhq {count}".encode()


def _is_target(path: Path, count: int) -> bool:
    """Whether a target of FFHQ's stands there: `count` thumbnails of our making, or whatever the user linked."""
    if path.is_dir():
        return True
    made = comment(path)
    if made.startswith("ffhq "):
        return made == _ffhq_stamp(count).decode() or not count
    return zipfile.is_zipfile(path) and not is_rendered(path)


def is_rendered(path: Path) -> bool:
    """Whether the embedded world made this zip."""
    stamp = comment(path)
    return len(stamp) == 64 and not stamp.strip("0123456789abcdef")


def _unexpected(entry: Entry, data: Path) -> str:
    """What does not stand there as `expect` says, or nothing ("")."""
    folder = data / entry.into
    for pattern, count in entry.expect.items():
        found = sum(1 for _ in folder.glob(pattern)) if folder.is_dir() else 0
        if found != count if count else not found:
            return f"{folder}/{pattern}: {found} files, where {count or 'some'} were expected"
    return ""


def _write_card(data: Path) -> None:
    """Say what linked benchmarks are, so that evaluate runs again when they change."""
    folder = data / "benchmarks"
    linked = sorted(path for path in folder.glob("*") if path.is_symlink() and path.is_dir())
    lines = []
    for path in linked:
        protocol = sorted(file for file in path.rglob("*.txt") if file.is_file())
        sizes = [f"{file.relative_to(path)} {file.stat().st_size}" for file in protocol]
        lines += [f"{path.name}: {', '.join(sizes)}\n"]
    if lines:
        with replacing(folder / CARD) as partial:
            partial.write_text("".join(lines))
    else:
        (folder / CARD).unlink(missing_ok=True)


def remove_stale(entries: Iterable[Entry], data: Path) -> None:
    """Remove what was fetched for other knobs, so that these alone decide what stands there.

    Zips of DigiFace-1M are left: rendering beside them is refused. Rendered ones make way for it.
    """
    entries = list(entries)
    keep = {file.path for entry in entries for file in entry.files} | {"target/target.zip"}
    for name in Hashes(data / "hashes.json").known:
        if name.startswith(("benchmarks/", "target/", "weights/")) and name not in keep:
            (data / name).unlink(missing_ok=True)
    if any(entry.kind == "source" for entry in entries):
        for path in (data / "source").glob("*.zip"):
            if is_rendered(path):
                path.unlink()


def survey_source(folder: Path, parallel: int) -> dict[str, int]:
    """Read every image of the source once and count what is odd; broken ones are left out from then on."""
    paths = sorted(folder.glob("*.zip"))
    todo = [path for path in paths if digiface.read_survey(path) is None]
    with tqdm(desc="survey", unit=" images", disable=not todo) as bar:
        for path in todo:
            digiface.survey(path, parallel, bar)
    surveys = [digiface.read_survey(path) or {} for path in paths]
    return {
        "source_broken_images": sum(len(found["broken"]) for found in surveys),
        "source_gray_images": sum(found["gray"] for found in surveys),
        "source_other_sizes": sum(found["other_sizes"] for found in surveys),
    }
