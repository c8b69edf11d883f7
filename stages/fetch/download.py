"""One downloader for every place: parallel, resumable after a kill, verified, moved into place only when whole.

A file grows beside its final name as `.<name>.partial`; what names the version that is being fetched (ETag or date)
stands in `.<name>.version.partial`. A later run asks for the rest of that very version (Range, If-Range) and starts
anew where the place has another one. A place that fails is tried again, later and later; after `ATTEMPTS` in a row
without a new byte the next place is tried, and after `SILENT` where its host has never answered: is there a network?
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import quote, urlsplit

import requests
import urllib3
from huggingface_hub import hf_hub_url
from huggingface_hub.utils import build_hf_headers
from tqdm import tqdm

from stages.fetch.catalogue import File, format_size
from stages.store import StoreError, write_json
from stages.store.files import writing

CHUNK = 1 << 17  # bytes at most; what a kill can lose of a file
ATTEMPTS = 6  # in a row without a new byte before the next place is tried
SILENT = 2  # of a host that has not answered yet
LONGEST_WAIT = 600.0  # seconds, even if the server asks for more
TIMEOUT = (5, 60)  # seconds to connect, and between two bytes
SPARE = 1 << 30  # bytes left free on the disk
AGAIN = {408, 425, 429, 500, 502, 503, 504}  # statuses that pass
GATED = "asks for a login: accept its terms at its page, and set HF_TOKEN"


class Refused(Exception):
    """This place will not give the file, however often it is asked."""


class Silent(Refused):
    """Nobody answers there."""


class Interrupted(Exception):
    """The place failed for now; `wait` is how many seconds it asks for, if it says."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class NotGiven(StoreError):
    """No place gives a file."""


@dataclass
class Hashes:
    """SHA-256 of what was fetched, recorded when it arrives first and enforced from then on.

    As a context it writes what it has learned to `path` at its end, once; otherwise it only compares.
    """

    path: Path

    def __post_init__(self) -> None:
        self.known: dict[str, str] = json.loads(self.path.read_text()) if self.path.is_file() else {}
        self._saved = dict(self.known)
        self._sums: dict[tuple[int, ...], dict[str, str]] = {}

    def __enter__(self) -> Hashes:
        return self

    def __exit__(self, *_: object) -> None:
        if self.known != self._saved:
            write_json(self.path, dict(sorted(self.known.items())))

    def of(self, path: Path) -> dict[str, str]:
        """SHA-256 and MD5 of a file's content, read once."""
        stat = path.stat()
        key = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if key not in self._sums:
            digests = {"sha256": hashlib.sha256(), "md5": hashlib.md5(usedforsecurity=False)}
            with path.open("rb") as content:
                while block := content.read(1 << 20):
                    for digest in digests.values():
                        digest.update(block)
            self._sums[key] = {name: digest.hexdigest() for name, digest in digests.items()}
        return self._sums[key]


def problem(file: File, path: Path, hashes: Hashes) -> str:
    """What is wrong with the file that stands at `path`, or nothing (""); a hash that is new is recorded."""
    size = path.stat().st_size
    if file.exact and size != file.size:
        return f"{size} bytes, where {file.size} were published"
    sums = hashes.of(path)
    if not sums["sha256"].startswith(file.sha256):
        return f"SHA-256 is {sums['sha256']}, where {file.sha256} was published"
    if file.md5 and sums["md5"] != file.md5:
        return f"MD5 is {sums['md5']}, where {file.md5} was published"
    recorded = hashes.known.setdefault(file.path, sums["sha256"])
    if recorded != sums["sha256"]:
        return f"SHA-256 is {sums['sha256']}, where {recorded} was recorded in {hashes.path}"
    return ""


def download(
    files: Sequence[File], folder: Path, hashes: Hashes, *, mirror: str = "", parallel: int = 4, title: str = "fetch"
) -> None:
    """Fetch what does not stand there yet.

    Args:
        files: what is wanted.
        folder: that their paths are relative to.
        hashes: of all that has been fetched.
        mirror: an address with the layout of data/, tried first; "" is none.
        parallel: files at a time.
        title: of the progress bar.

    Raises:
        NotGiven: no place gives a file; the message names each place and its reason.
        StoreError: the disk is too small (nothing has been fetched then) or full.
    """
    missing = [file for file in files if not (folder / file.path).is_file()]
    if not missing:
        return
    total = sum(file.size for file in missing)
    there = sum(_length(_partial_path(folder / file.path)) for file in missing)
    check_disk(folder, total - there)
    stop, heard = threading.Event(), set[str]()
    with (
        tqdm(total=total, initial=there, desc=title, unit="B", unit_scale=True) as bar,
        ThreadPoolExecutor(parallel) as pool,
    ):
        transfers = [_Transfer(file, folder / file.path, hashes, bar, stop, heard, file.size) for file in missing]
        running = [pool.submit(transfer.run, mirror) for transfer in transfers]
        try:
            done, _ = wait(running, return_when=FIRST_EXCEPTION)
        finally:  # of Ctrl-C too: what has arrived stays
            stop.set()
            pool.shutdown(cancel_futures=True)
    for future in done:
        future.result()


def check_disk(data: Path, needed: int) -> None:
    """Stop before the disk is full.

    Raises:
        StoreError: fewer than `needed` bytes and a spare gigabyte are free.
    """
    free = free_space(data)
    if needed > 0 and needed + SPARE > free:
        raise StoreError(
            f"{data}: {format_size(needed)} are to be fetched and {format_size(free)} are free; make room, or link it "
            "to a larger disk"
        )


def free_space(path: Path) -> int:
    """Bytes that are free where `path` is, or will be."""
    folder = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.is_dir())
    return shutil.disk_usage(folder).free


@dataclass
class _Transfer:
    """One file on its way.

    heard: hosts that have answered; expected: bytes of it that the bar counts on, corrected as soon as a place says.
    """

    file: File
    path: Path
    hashes: Hashes
    bar: tqdm
    stop: threading.Event
    heard: set[str]
    expected: int

    def __post_init__(self) -> None:
        self.partial = _partial_path(self.path)
        self.version = self.partial.with_name(f".{self.path.name}.version.partial")

    def run(self, mirror: str) -> None:
        """Fetch the file from the first place that gives it."""
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._run(mirror)

    def _run(self, mirror: str) -> None:
        reasons, silent = [], True
        for place in _places(self.file, mirror):
            try:
                return self.fetch(place)
            except Refused as error:
                reasons.append(f"\n  {place}: {error}")
                silent = silent and isinstance(error, Silent)
        what = "no place answers: is there a network?" if reasons and silent else "no place gives it;"
        raise NotGiven(
            f"{self.file.path}: {what} put it into a folder by hand, and link it by `r2r fetch --from DIR`"
            + "".join(reasons)
        )

    def fetch(self, place: str) -> None:
        """Fetch the file from one place, and move it to where it belongs.

        Raises:
            Refused: the place will not give the right file.
        """
        failures = wrong = 0
        host = urlsplit(locate(place)[0]).netloc
        while not self.stop.is_set():
            before = _length(self.partial)
            try:
                published = self.receive(place)
            except (Interrupted, requests.RequestException, urllib3.exceptions.HTTPError) as error:
                grown = _length(self.partial) > before
                failures = 0 if grown else failures + 1
                if failures == SILENT and host not in self.heard and not isinstance(error, Interrupted):
                    raise Silent(f"{error} ({SILENT} times)") from error
                if failures == ATTEMPTS:
                    raise Refused(f"{error} ({ATTEMPTS} times)") from error
                asked = error.wait if isinstance(error, Interrupted) else None
                self.rest(min(2.0**failures - 1 if asked is None else asked, LONGEST_WAIT))
                continue
            if self.stop.is_set():
                return
            fault = problem(published, self.partial, self.hashes)
            if not fault:
                with self.partial.open("rb") as content:
                    os.fsync(content.fileno())
                self.partial.replace(self.path)
                self.version.unlink(missing_ok=True)
                return
            self.start_anew()
            wrong += 1
            if wrong == 2:
                raise Refused(fault)

    def receive(self, place: str) -> File:
        """Fetch the rest of the file; returns it with what the hub publishes of it.

        Raises:
            Interrupted: it is not whole; asking again may help.
            Refused: asking again will not help.
            requests.RequestException, urllib3.exceptions.HTTPError: no connection, or not any more.
        """
        url, headers = locate(place)
        begin = 0
        if self.partial.is_file():
            version = self.version.read_text() if self.version.is_file() else ""
            if version:
                begin = _length(self.partial)
                headers |= {"Range": f"bytes={begin}-", "If-Range": version}
            else:
                self.start_anew()
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            self.heard.add(urlsplit(url).netloc)
            if response.status_code == 416 and begin:  # as long as the version there, or longer
                if response.headers.get("Content-Range") != f"bytes */{begin}":
                    self.start_anew()
                    raise Interrupted("holds fewer bytes than have arrived")
                return _published(self.file, response)
            _check_status(place, response)
            if response.status_code == 206:
                span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
                if not span or int(span[1]) != begin:
                    self.start_anew()
                    raise Interrupted("gives another part than asked for")
                size = int(span[2])
            else:
                size = int(response.headers.get("Content-Length", -1))
                self.start_anew()
                begin = 0
            if self.file.exact and size not in (-1, self.file.size):
                raise Refused(f"offers {size} bytes, where {self.file.size} were published")
            if begin == 0:
                self.version.write_text(_version(response))
            if size >= 0:
                self.bar.total = (self.bar.total or 0) + size - self.expected
                self.expected = size
            end = self.append(response, begin)
        if end < size and not self.stop.is_set():
            raise Interrupted(f"the connection ended after {end} of {size} bytes")
        return _published(self.file, response)

    def append(self, response: requests.Response, begin: int) -> int:
        """Write what arrives, unbuffered, so that a kill loses no more than a chunk; returns the file's length."""
        with self.partial.open("ab", buffering=0) as content:
            while chunk := response.raw.read1(CHUNK):  # what is there: iter_content loses the rest when it breaks off
                content.write(chunk)
                begin += len(chunk)
                self.bar.update(len(chunk))
                if self.stop.is_set():
                    break
        return begin

    def rest(self, seconds: float) -> None:
        """Wait before the place is asked again."""
        self.stop.wait(seconds)

    def start_anew(self) -> None:
        """Throw away what has arrived."""
        self.bar.update(-_length(self.partial))
        self.partial.unlink(missing_ok=True)
        self.version.unlink(missing_ok=True)


def _places(file: File, mirror: str) -> list[str]:
    return ([f"{mirror.rstrip('/')}/{quote(file.path)}"] if mirror else []) + list(file.places)


def _check_status(place: str, response: requests.Response) -> None:
    status = response.status_code
    if status in AGAIN:
        raise Interrupted(f"answers {status} {response.reason}", _retry_after(response.headers.get("Retry-After")))
    if status in (401, 403) and place.startswith("hf:"):
        raise Refused(GATED)
    if status not in (200, 206):
        raise Refused(f"answers {status} {response.reason}")
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise Refused("answers with a web page (a quota, or a login)")


def locate(place: str) -> tuple[str, dict[str, str]]:
    """The address of a place and the headers to ask with; the hub's is that of HF_ENDPOINT where set."""
    headers = {"Accept-Encoding": "identity"}  # the file as it is: its length counts
    scheme, _, rest = place.partition(":")
    if scheme == "hf":
        owner, name, path = rest.split("/", 2)
        url = hf_hub_url(f"{owner}/{name}", path, endpoint=os.environ.get("HF_ENDPOINT") or None)
        return url, headers | build_hf_headers()
    if scheme == "gdrive":
        return f"https://drive.usercontent.google.com/download?id={rest}&export=download&confirm=t", headers
    return place, headers


def _published(file: File, response: requests.Response) -> File:
    """The file with the SHA-256 that the hub states of a large file, where the catalogue has none."""
    for answer in [*response.history, response]:
        stated = answer.headers.get("X-Linked-Etag", "").strip('"')
        if re.fullmatch("[0-9a-f]{64}", stated) and not file.sha256:
            return File(file.path, file.places, file.size, file.exact, stated, file.md5)
    return file


def _version(response: requests.Response) -> str:
    """What If-Range may name: a strong ETag, or a date; "" is neither, and the file cannot be resumed."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")


def _partial_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for: a number, or a date."""
    if value is None:
        return None
    if value.isdigit():
        return float(value)
    with suppress(ValueError):
        return max((parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds(), 0.0)
    return None
