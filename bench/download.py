"""A download that is killed at a random moment, a hundred times: are the bytes right, and what is fetched twice?

    python -m bench.download [--kills 100]

A process fetches files of 4 MB, one after the other, from a server on the loopback address, and is killed (SIGKILL)
when a random number of further bytes has been sent; the next process goes on. Prints one JSON line: `wrong` files;
`elsewhere`, requests that did not ask from the very byte after the last on disk; `twice`, bytes that were sent more
than once over all bytes; `mean_kb` and `worst_kb`, what a kill cost: bytes that had been sent and were not yet on
disk, most of them in the sockets' buffers.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import tempfile
import time
from pathlib import Path

from tests.fetch.server import Server

SIZE = 4 << 20  # bytes of a file
FILES = 10_000  # more than are ever fetched


def fetch(address: str, data: Path) -> None:
    """Fetch 0.bin, 1.bin, ... until killed."""
    from stages.fetch.catalogue import File
    from stages.fetch.download import Hashes, download

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for number in range(FILES):
        name = f"{number}.bin"
        with Hashes(data / "hashes.json") as hashes:
            download([File(name, (f"{address}/{name}",), SIZE)], data, hashes)


def measure(folder: Path, kills: int) -> dict[str, float | int]:
    """Kill the fetching process `kills` times."""
    rng = random.Random(0)
    served, data = folder / "served", folder / "data"
    served.mkdir()
    data.mkdir()
    content = rng.randbytes(SIZE)
    (served / "0.bin").write_bytes(content)
    for number in range(1, FILES):
        os.link(served / "0.bin", served / f"{number}.bin")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["stages.fetch.download"])
    worst = cost = elsewhere = 0
    with Server(served, pause=0.002) as server:

        def sent() -> int:
            return sum(server.sent.values())

        def on_disk() -> int:
            return sum(path.stat().st_size for path in data.iterdir() if path.name.endswith((".bin", ".bin.partial")))

        for _ in range(kills):
            asked = len(server.requests)
            partial = next(data.glob(".*.bin.partial"), None)
            held = partial.stat().st_size if partial else 0
            until = sent() + rng.randrange(1, SIZE)
            process = context.Process(target=fetch, args=(server.address, data))
            process.start()
            while sent() < until:
                time.sleep(0.0005)
            process.kill()
            process.join()
            time.sleep(0.05)  # the server notices
            if partial:
                span = server.requests[asked][1] or "bytes=0-"
                elsewhere += span != f"bytes={held}-"
            worst = max(worst, sent() - on_disk() - cost)
            cost = sent() - on_disk()
        files = [path for path in data.glob("*.bin") if not path.name.startswith(".")]
        wrong = sum(path.read_bytes() != content for path in files)
        for path in data.glob(".*.bin.partial"):
            wrong += not content.startswith(path.read_bytes())
        total = on_disk()
    return {
        "kills": kills,
        "files": len(files),
        "wrong": wrong,
        "elsewhere": elsewhere,
        "twice": round(cost / total, 4),
        "mean_kb": round(cost / kills / 1000),
        "worst_kb": round(worst / 1000),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), parser.parse_args().kills)))


if __name__ == "__main__":
    main()
