import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import numpy as np
import pytest
from tqdm import tqdm

from stages.fetch import download as module
from stages.fetch.catalogue import File
from stages.fetch.download import Hashes, check_disk, download, locate
from stages.store import StoreError
from tests.fetch.server import Server

ROOT = Path(__file__).parents[2]
CONTENT = np.random.default_rng(0).bytes(300_000)
NAME = "weights/thing.bin"


@pytest.fixture
def server(tmp_path):
    (tmp_path / "served/weights").mkdir(parents=True)
    (tmp_path / "served" / NAME).write_bytes(CONTENT)
    with Server(tmp_path / "served") as server:
        yield server


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """Seconds that the downloader would have waited."""
    waited = []
    monkeypatch.setattr(module._Transfer, "rest", lambda self, seconds: waited.append(seconds))
    monkeypatch.setattr(module, "CHUNK", 1 << 14)
    return waited


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


def thing(server, **fields):
    return File(NAME, (f"{server.address}/{NAME}",), len(CONTENT), **fields)


def get(file, data, **options):
    with Hashes(data / "hashes.json") as hashes:
        download([file], data, hashes, **options)


def whole(data):
    folder = data / "weights"
    return [path.name for path in folder.iterdir()] == ["thing.bin"] and (folder / "thing.bin").read_bytes() == CONTENT


def test_a_file_arrives_whole_and_its_hash_is_recorded(server, data):
    get(thing(server), data)
    assert whole(data)
    assert json.loads((data / "hashes.json").read_text()) == {NAME: hashlib.sha256(CONTENT).hexdigest()}


def test_what_is_there_is_not_fetched_again(server, data):
    get(thing(server), data)
    get(thing(server), data)
    assert len(server.requests) == 1


@pytest.mark.parametrize("faults", [["drop"], ["drop"] * 20, ["short"], ["429", "503"], ["slow"], ["wrong"]])
def test_faults_that_pass_are_survived(server, data, faults):
    server.faults[NAME] = list(faults)
    get(thing(server, sha256=hashlib.sha256(CONTENT).hexdigest()), data)
    assert whole(data)
    assert server.faults[NAME] == []


def test_a_dropped_connection_costs_no_byte_twice(server, data):
    server.faults[NAME] = ["drop"] * 5
    get(thing(server), data)
    assert whole(data)
    assert server.sent[NAME] == len(CONTENT)
    assert [span for _, span in server.requests][:2] == [None, f"bytes={len(CONTENT) // 2}-"]


def test_a_place_without_ranges_is_read_from_the_start(server, data):
    server.faults[NAME] = ["drop", "ignore-range"]
    get(thing(server), data)
    assert whole(data)


def test_another_version_on_the_server_starts_anew(server, data, no_waiting, monkeypatch):
    other = CONTENT[::-1]
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    server.faults[NAME] = ["drop", "404"]
    with pytest.raises(StoreError, match="404"):
        get(thing(server), data)
    (server.folder / NAME).write_bytes(other)
    get(thing(server), data)
    assert (data / NAME).read_bytes() == other


def test_retry_after_is_honoured(server, data, no_waiting, monkeypatch):
    for value, seconds in (("7", 7), (formatdate(time.time() + 100, usegmt=True), 100), ("99999", module.LONGEST_WAIT)):
        assert min(module._retry_after(value), module.LONGEST_WAIT) == pytest.approx(seconds, abs=2)
    assert module._retry_after("soon") is None
    monkeypatch.setattr(module, "_retry_after", lambda value: 7.0)
    server.faults[NAME] = ["429"]
    get(thing(server), data)
    assert no_waiting == [7.0]


def test_waits_grow_and_end(server, data, no_waiting, monkeypatch):
    monkeypatch.setattr(module, "_retry_after", lambda value: None)
    server.faults[NAME] = ["503"] * 99
    with pytest.raises(StoreError, match=rf"answers 503 .*\({module.ATTEMPTS} times\)"):
        get(thing(server), data)
    assert no_waiting == [1, 3, 7, 15, 31]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sha256": "0" * 64}, "SHA-256 is .*, where 0+ was published"),
        ({"md5": "0" * 32}, "MD5 is .*, where 0+ was published"),
        ({"exact": True, "sha256": ""}, "offers 300000 bytes, where 300001 were published"),
    ],
)
def test_a_wrong_file_never_stands_under_its_name(server, data, fields, message):
    file = thing(server, **fields)
    if file.exact:
        file = replace(file, size=len(CONTENT) + 1)
    with pytest.raises(StoreError, match=message):
        get(file, data)
    assert list((data / "weights").iterdir()) == []
    assert not (data / "hashes.json").exists()


def test_a_recorded_hash_is_enforced(server, data):
    get(thing(server), data)
    (data / NAME).unlink()
    (server.folder / NAME).write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(StoreError, match=r"was recorded in .*hashes\.json"):
        get(thing(server), data)


def test_places_are_tried_in_order_and_each_refusal_is_named(server, data):
    file = thing(server)
    places = (f"{server.address}/absent", *file.places)
    server.faults[NAME] = ["html"]
    with pytest.raises(StoreError, match=r"(?s)absent: answers 404.*thing\.bin: answers with a web page"):
        get(replace(file, places=places), data)
    get(replace(file, places=places), data)
    assert whole(data)


def test_a_mirror_is_tried_first(server, data):
    get(File(NAME, (f"{server.address}/absent",), 1), data, mirror=f"{server.address}/")
    assert whole(data)


def test_the_hub_says_the_hash(server, data, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", f"{server.address}/hub")
    (server.folder / "hub/owner/name/sub").mkdir(parents=True)
    (server.folder / "hub/owner/name/sub/thing.bin").write_bytes(CONTENT)
    file = File(NAME, ("hf:owner/name/sub/thing.bin",), 1)
    server.faults["hub/owner/name/sub/thing.bin"] = ["wrong", "wrong"]
    with pytest.raises(StoreError, match="was published"):
        get(file, data)
    get(file, data)
    assert whole(data)


def test_places_become_addresses(monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert locate("hf:a/b/c/d.bin")[0] == "https://huggingface.co/a/b/resolve/main/c/d.bin"
    assert "id=ID&" in locate("gdrive:ID")[0]
    assert locate("https://x/y")[0] == "https://x/y"


def test_a_full_disk_stops_before_the_first_byte(server, data, monkeypatch):
    monkeypatch.setattr(module, "free_space", lambda path: module.SPARE + len(CONTENT) - 1)
    with pytest.raises(StoreError, match="are free; make room"):
        get(thing(server), data)
    assert server.requests == []
    check_disk(data, len(CONTENT) - 1)


def test_one_failure_ends_the_others_and_keeps_what_has_arrived(server, data, monkeypatch):
    monkeypatch.undo()
    (server.folder / "slow.bin").write_bytes(bytes(4 << 20))
    server.pause = 0.01
    slow = File("slow.bin", (f"{server.address}/slow.bin",), 4 << 20)
    begin = time.perf_counter()
    with pytest.raises(StoreError, match=r"absent\.bin"):
        download([slow, File("absent.bin", (f"{server.address}/absent.bin",), 1)], data, Hashes(data / "hashes.json"))
    assert time.perf_counter() - begin < 10  # the slow one alone takes longer than it is waited for
    assert not (data / "slow.bin").exists()


KILLED = """
import sys
from pathlib import Path
from stages.fetch.catalogue import File
from stages.fetch.download import Hashes, download
address, data = sys.argv[1], Path(sys.argv[2])
download([File("weights/thing.bin", (address + "/weights/thing.bin",), 300000)], data, Hashes(data / "hashes.json"))
"""


def test_a_killed_download_goes_on(server, data, monkeypatch):
    monkeypatch.undo()
    server.pause = 0.05
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", KILLED, server.address, data], env=environment)
    partial = data / "weights/.thing.bin.partial"
    while not (partial.is_file() and partial.stat().st_size) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    arrived = partial.stat().st_size
    assert 0 < arrived < len(CONTENT)
    server.pause = 0.0
    get(thing(server), data)
    assert whole(data)
    assert server.requests[-1][1] == f"bytes={arrived}-"


def test_hashes_are_written_once(server, data, monkeypatch):
    written = []
    monkeypatch.setattr(module, "write_json", lambda path, values: written.append(len(values)))
    files = [replace(thing(server), path=f"{number}.bin") for number in range(5)]
    with Hashes(data / "hashes.json") as hashes:
        download(files, data, hashes)
    assert written == [5]
    hashes._saved = dict(hashes.known)
    with hashes:
        get(thing(server), data)
    assert written == [5, 1]


def test_no_network_is_said_at_once(data, monkeypatch):
    monkeypatch.undo()
    places = ("http://127.0.0.1:9/thing.bin", "hf:owner/name/thing.bin")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    begin = time.perf_counter()
    with pytest.raises(StoreError, match=r"(?s)thing\.bin: no place answers: is there a netw.*r2r fetch --from DIR"):
        download([File(NAME, places, 1)], data, Hashes(data / "hashes.json"))
    assert time.perf_counter() - begin < 5
    assert not list(data.rglob("*.bin"))


def test_a_silent_host_is_passed_over(server, data, no_waiting):
    file = thing(server)
    get(replace(file, places=("http://127.0.0.1:9/thing.bin", *file.places)), data)
    assert whole(data)
    assert no_waiting == [1]


def test_a_host_that_was_heard_is_waited_for(data, no_waiting, tmp_path):
    (tmp_path / "served").mkdir()
    with Server(tmp_path / "served") as server:
        address = server.address
    heard = {address.removeprefix("http://")}
    transfer = module._Transfer(File(NAME, (), 1), data / NAME, Hashes(data / "h"), tqdm(), threading.Event(), heard, 1)
    with pytest.raises(module.Refused, match=rf"\({module.ATTEMPTS} times\)"):
        transfer.fetch(f"{address}/{NAME}")
    assert no_waiting == [1, 3, 7, 15, 31]


def test_a_disk_that_becomes_full_names_the_file(server, data, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module._Transfer, "append", full)
    with pytest.raises(StoreError, match=r"weights/thing\.bin: the disk is full"):
        get(thing(server), data)
