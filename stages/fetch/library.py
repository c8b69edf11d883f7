"""What was got from outside is kept for good: `library/` in the cache, with the layout of `data/`.

DVC empties the folders of `data/` before a stage fills them, so what was fetched, or linked by hand, stands here, and
`data/` has links to it. A folder of the user's is linked, never copied: 24 GB of zips stay where they are.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import zipfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from stages.fetch.catalogue import Entry, File, of_kind
from stages.fetch.download import Hashes, NotGiven, download, problem
from stages.fetch.embedded import EMBEDDED
from stages.fetch.knobs import Fetch
from stages.fetch.placing import FOLDERS, link_to, put_aside
from stages.images import Archive
from stages.images.digiface import read_survey, survey
from stages.knobs import ParamsError, check
from stages.store import StoreError, cache_folder, locked, replacing
from stages.store.cache import GOT

EPOCH = (1980, 1, 1, 0, 0, 0)  # the date of every member of a zip: the bytes depend on the content only
THUMBNAIL = 30_000  # bytes of one of FFHQ's, about
FFHQ = re.compile(r"(?:.*/)?\d{5}\.(?:png|jpg|webp)")  # names of its images
FFHQ_PLACES = (
    "target/target.zip",
    *(f"{name}{suffix}" for name in ("ffhq", "thumbnails128x128", "images1024x1024") for suffix in (".zip", "")),
)


@dataclass(frozen=True)
class Finding:
    """What is the case with one thing.

    state: present | missing | wrong | licence | by hand; detail: one line more; todo: bytes to fetch, about.
    """

    entry: Entry
    state: str
    detail: str = ""
    todo: int = 0


def folder() -> Path:
    """Where it is."""
    return cache_folder() / GOT


def wanted(knobs: Fetch, root: Path) -> tuple[list[Entry], dict[str, Path]]:
    """The catalogue's entries that a run needs, and the sets that `source` and `target` name by path, by kind.

    Raises:
        ParamsError: a name that is neither.
    """
    chosen, sets = [], {}
    for kind, names in (
        ("source", [knobs.source]),
        ("target", [knobs.target]),
        ("benchmark", knobs.benchmarks),
        ("weights", knobs.weights),
    ):
        known = of_kind(kind)
        knob = "fetch.benchmarks" if kind == "benchmark" else f"fetch.{kind}"
        for name in names:
            if name in known:
                chosen.append(known[name])
            elif kind in ("source", "target") and name != EMBEDDED:
                path = (root / Path(name).expanduser()).absolute()
                there = f"{EMBEDDED}, {', '.join(known)}, or the path of a set that is there"
                check(path.exists(), f"{knob} is {name!r}: {there}")
                own = [root.absolute() / "data" / folder for folder in FOLDERS]
                check(not {path, *path.parents} & {*own}, f"{knob} is {name!r}, which fetch fills itself: move the set")
                sets[kind] = path
            elif name != EMBEDDED or kind == "weights":
                check(False, f"{knob}: {name!r} is not in the catalogue; {', '.join(known)} are")
    return chosen, sets


def check_licenses(entries: Iterable[Entry], accepted: Sequence[str], profile: str) -> None:
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
        knob = f"'fetch.accept_licenses=[{','.join(dict.fromkeys([*accepted, *bound]))}]'"
        raise ParamsError(
            f"read these terms{''.join(lines)}\nand accept them: type `r2r params profile={profile} {knob}`, or give "
            f"an experiment `-S {knob}`; once for all, put it into conf/profile/{profile}.yaml"
        )


def puts(entry: Entry, knobs: Fetch) -> dict[str, str]:
    """Paths below data/ -> paths in the library, of what an entry puts there."""
    if entry.kind == "target":
        return {"target/target.zip": f"target/{entry.name}-{knobs.target_images}.zip"}
    paths = [file.path for file in entry.files] or [entry.into]
    if entry.kind == "source":
        paths += [Path(path).with_suffix(".survey.json").as_posix() for path in paths]
    return {path: path for path in paths}


def files_of(entry: Entry, knobs: Fetch) -> list[File]:
    """The files of an entry in the library; of the target, the archive that is made of it."""
    if entry.kind != "target":
        return list(entry.files)
    return [File(path, (), knobs.target_images * THUMBNAIL) for path in puts(entry, knobs).values()]


def wrong(entry: Entry, knobs: Fetch, library: Path, hashes: Hashes) -> list[tuple[Path, str]]:
    """The files of an entry that are not what they should be, and why."""
    there = [(file, library / file.path) for file in files_of(entry, knobs) if (library / file.path).is_file()]
    with ThreadPoolExecutor(knobs.parallel) as pool:
        faults = pool.map(lambda pair: problem(pair[0], pair[1], hashes), there)
        return [(path, fault) for (_, path), fault in zip(there, faults, strict=True) if fault]


def inspect(entries: Iterable[Entry], knobs: Fetch, library: Path, hashes: Hashes) -> list[Finding]:
    """What is there, missing, wrong or bound by a licence; every file that is there is read and verified."""
    findings = []
    for entry in entries:
        faults = [f"{path}: {fault}" for path, fault in wrong(entry, knobs, library, hashes)]
        files = files_of(entry, knobs)
        missing = [file for file in files if not (library / file.path).exists()]
        whole = [entry.archive] if entry.archive and missing else missing
        if entry.kind == "target" and missing:
            whole += [file for file in entry.files if not (library / file.path).is_file()]
        todo = sum(file.size for file in whole)
        if faults:
            finding = Finding(entry, "wrong", "; ".join(faults), todo)
        elif entry.by_hand:
            fault = unexpected(entry, library / entry.into)
            finding = Finding(entry, "by hand", f"{fault}. {entry.by_hand}") if fault else Finding(entry, "present")
        elif entry.license.accept and entry.license.name not in knobs.accept_licenses:
            finding = Finding(entry, "licence", f"{entry.license.name}: {entry.license.terms}", todo)
        elif todo:
            detail = f"{len(files) - len(missing)} of {len(files)} files" if len(files) > 1 else ""
            finding = Finding(entry, "missing", detail, todo)
        else:
            finding = Finding(entry, "present")
        findings.append(finding)
    return findings


def get(entries: Sequence[Entry], knobs: Fetch, data: Path) -> None:
    """Bring all entries into the library: link what the mirror folder or `data` has, verify all, fetch the rest.

    Raises:
        ParamsError: the mirror is no folder and no address, or its archive of the target has too few images.
        StoreError: something is wrong or must be brought by hand (nothing has been fetched then), or cannot be fetched.
    """
    library = folder()
    given, address = mirror(knobs.mirror)
    if not entries:
        return
    with locked(GOT, "fetch"), Hashes(library / "hashes.json") as hashes:
        faults = []
        for entry in entries:
            for path, fault in wrong(entry, knobs, library, hashes):
                put_aside(path, fault)
            faults += link_entry(entry, given, knobs, library, hashes) if given else []
            if not (entry.by_hand or entry.kind == "target"):  # what a former version fetched to there
                link_entry(entry, data, knobs, library, hashes)
        findings = inspect(entries, knobs, library, hashes)
        if faults:
            raise StoreError(
                "".join([f"wrong files in {given}; take them away", *(f"\n  {fault}" for fault in faults)])
            )
        if by_hand := [finding for finding in findings if finding.state == "by hand"]:
            lines = [f"\n  {found.entry.name}: {found.detail} ({found.entry.page})" for found in by_hand]
            names = " ".join(found.entry.name for found in by_hand)
            raise StoreError(
                f"only you can get these; put them into a folder DIR of yours, each under its name, and type once "
                f"`r2r fetch --from DIR {names}`{''.join(lines)}"
            )
        incomplete = [finding.entry for finding in findings if finding.state != "present"]
        if address:  # a copy of data/ has what is unpacked or made here
            incomplete = [entry for entry in incomplete if not _from_mirror(entry, knobs, library, hashes, address)]
        archives = list({entry.archive.path: entry.archive for entry in incomplete if entry.archive}.values())
        plain = [file for entry in incomplete if not entry.archive for file in entry.files]
        download([*plain, *archives], library, hashes, mirror=address, parallel=knobs.parallel)
        for entry in incomplete:
            if entry.archive:
                unpack(entry, library, hashes)
            if entry.kind == "target":
                thumbnails(entry, knobs, library)
        for archive in archives:
            (library / archive.path).unlink()
        inspect(entries, knobs, library, hashes)  # records what was made here


def _from_mirror(entry: Entry, knobs: Fetch, library: Path, hashes: Hashes, address: str) -> bool:
    """Take the files of an archive, or the whole target, from the mirror alone, if it has them."""
    try:
        if entry.kind == "target":
            scratch = library / "target/.mirror"
            file = File("target/target.zip", (), knobs.target_images * THUMBNAIL)
            download([file], scratch, Hashes(scratch / "hashes.json"), mirror=address, parallel=knobs.parallel)
            try:
                return take_target(entry, scratch / file.path, knobs, library)
            finally:
                shutil.rmtree(scratch)
        files = [replace(file, places=()) for file in entry.files] if entry.archive else []
        download(files, library, hashes, mirror=address, parallel=knobs.parallel)
        return bool(files)
    except NotGiven:
        return False


def mirror(value: str) -> tuple[Path | None, str]:
    """`fetch.mirror` as a folder or as an address.

    Raises:
        ParamsError: neither.
    """
    if not value or "://" in value:
        return None, value
    path = Path(value).expanduser()
    check(path.is_dir(), f"fetch.mirror is {value!r}: no such folder; an address begins with https://")
    return path.resolve(), ""


def link_entry(entry: Entry, place: Path, knobs: Fetch, library: Path, hashes: Hashes) -> list[str]:
    """Link what a folder has of an entry, by its path below data/, by that without its first part, or by its name.

    Returns:
        What is wrong with files that are there; they are not linked.
    """
    if entry.by_hand:
        _link_folder(entry, place, library)
        return []
    if entry.kind == "target":
        there = next((place / name for name in FFHQ_PLACES if (place / name).exists()), None)
        if there and not (library / files_of(entry, knobs)[0].path).exists():
            enough = take_target(entry, there, knobs, library)
            check(enough, f"fetch.target_images is {knobs.target_images}, but {there} has fewer images of {entry.name}")
    files = [file for file in entry.files if not (library / file.path).is_file()]
    faults = _link_files(files, place, library, hashes)
    if entry.archive and not all((library / file.path).is_file() for file in entry.files):
        faults += _link_files([entry.archive], place, library, hashes)
    return faults


def _link_files(files: Iterable[File], place: Path, library: Path, hashes: Hashes) -> list[str]:
    faults = []
    for file in files:
        path = Path(file.path)
        names = [path, path.relative_to(path.parts[0])] + ([Path(path.name)] if len(path.parts) == 2 else [])
        if source := next((place / name for name in names if (place / name).is_file()), None):
            if fault := problem(file, source, hashes):
                faults.append(f"{source}: {fault}")
            else:
                link_to(source, library / path)
    return faults


def _link_folder(entry: Entry, place: Path, library: Path) -> None:
    """Link a folder that was brought by hand; the given one itself, if it is unmistakably it."""
    if not unexpected(entry, library / entry.into):
        return
    path = Path(entry.into)
    names = [path, path.relative_to(path.parts[0]), Path(entry.name)]
    if not any(pattern.strip("*/") == "" for pattern in entry.expect):
        names.append(Path())
    there = [place / name for name in names if (place / name).is_dir()]
    for candidate in there:
        if not unexpected(entry, candidate):
            return link_to(candidate, library / path)
    if there and there[0] != place:
        print(f"{entry.name}: {unexpected(entry, there[0])}", file=sys.stderr)


def unexpected(entry: Entry, place: Path) -> str:
    """What does not stand in a folder as `expect` says, or nothing ("")."""
    for pattern, count in entry.expect.items():
        found = sum(1 for _ in place.glob(pattern)) if place.is_dir() else 0
        if found != count if count else not found:
            return f"{place}/{pattern}: {found} files, where {count or 'some'} were expected"
    return ""


def unpack(entry: Entry, library: Path, hashes: Hashes) -> None:
    """Take an entry's missing files out of its archive.

    A member is known by its file name and written to the file's own path: what folders or links an archive names does
    not matter. It may be twice as large as the catalogue says.

    Raises:
        StoreError: the archive is broken or encrypted, or has no such member, several, or one that is too large.
    """
    assert entry.archive is not None
    path = library / entry.archive.path
    try:
        with zipfile.ZipFile(path) as archive:
            for file in entry.files:
                if not (library / file.path).is_file():
                    _unpack(archive, path, file, library / file.path, hashes)
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


def thumbnails(entry: Entry, knobs: Fetch, library: Path) -> None:
    """Fetch the first of FFHQ's thumbnails by its own list, and put them into one archive.

    Raises:
        ParamsError: more are asked for than there are.
        StoreError: the list is not FFHQ's, or an image cannot be fetched.
    """
    listing = library / entry.files[0].path
    try:
        images = [image["thumbnail"] for image in json.loads(listing.read_text()).values()]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise StoreError(f"{listing}: not FFHQ's list of images ({error}); delete it and fetch it again") from error
    count = knobs.target_images
    check(count <= len(images), f"fetch.target_images is {count}, but FFHQ has {len(images)}")
    scratch = library / f"target/.{entry.name}"
    files = [
        File(f"{number:05}.png", (_place(image["file_url"]),), image["file_size"], True, md5=image["file_md5"])
        for number, image in enumerate(images[:count])
    ]
    hashes = Hashes(scratch / "hashes.json")  # of nothing: FFHQ states each image's MD5
    download(files, scratch, hashes, parallel=max(knobs.parallel, 8), title=entry.name)
    _write_target(entry, ((file.path, (scratch / file.path).read_bytes()) for file in files), knobs, library)
    shutil.rmtree(scratch)


def take_target(entry: Entry, path: Path, knobs: Fetch, library: Path) -> bool:
    """Make the target of the first `fetch.target_images` images of an archive of FFHQ's; no if it has too few."""
    images, count = Archive(path), knobs.target_images
    rows = sorted((Path(name).name, row) for row, name in enumerate(images.names) if FFHQ.fullmatch(name))
    if len(rows) < count:
        return False
    if len(images) == count:
        link_to(path, library / files_of(entry, knobs)[0].path)
    else:
        _write_target(entry, ((name, images.encoded(row)) for name, row in rows[:count]), knobs, library)
    return True


def _write_target(entry: Entry, images: Iterable[tuple[str, bytes]], knobs: Fetch, library: Path) -> None:
    path = library / files_of(entry, knobs)[0].path
    with replacing(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        for name, image in images:
            archive.writestr(zipfile.ZipInfo(name, EPOCH), image)


def _place(url: str) -> str:
    """Google Drive's addresses of files, as the downloader knows them."""
    return f"gdrive:{url.rpartition('id=')[2]}" if url.startswith("https://drive.google.com/") else url


def survey_source(entry: Entry, library: Path, parallel: int) -> dict[str, float]:
    """Read every image of the source once and count what is odd; broken ones are left out from then on."""
    paths = [library / file.path for file in entry.files]
    todo = [path for path in paths if read_survey(path) is None]
    with tqdm(desc="survey", unit=" images", disable=not todo) as bar:
        for path in todo:
            survey(path, parallel, bar)
    surveys = [read_survey(path) or {} for path in paths]
    return {
        "source_broken_images": sum(len(found["broken"]) for found in surveys),
        "source_gray_images": sum(found["gray"] for found in surveys),
        "source_other_sizes": sum(found["other_sizes"] for found in surveys),
    }
