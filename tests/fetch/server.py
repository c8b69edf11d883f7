"""A server on the loopback address that holds small files in the official layouts, and misbehaves on request.

    with Server(folder) as server:
        server.faults["source/x.zip"] = ["drop", "429"]     # one fault a request, then it behaves
        requests.get(f"{server.address}/source/x.zip")

`<address>/<path>` is a file of the folder; `<address>/hub/<owner>/<repository>/resolve/main/<path>` is the same file
`hub/<owner>/<repository>/<path>` as a hub gives it: redirected to where the bytes are, with its SHA-256 in the headers.

Faults: `drop` ends the connection half-way, `wrong` changes a byte, `short` promises more than it sends, `slow` waits
between pieces, `429` and `503` ask to come back, `html` sends a web page, `ignore-range` sends everything again, `404`.
"""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PIECE = 1 << 14  # bytes


class Server:
    """Serve a folder until closed.

    Attributes:
        address: of the server.
        faults: path -> faults of its next requests.
        sent: path -> bytes of it that were sent, over all requests.
        requests: paths asked for, in order, with the Range header.
    """

    def __init__(self, folder: Path, pause: float = 0.0) -> None:
        self.folder = folder
        self.pause = pause  # seconds between two pieces
        self.faults: dict[str, list[str]] = {}
        self.sent: dict[str, int] = {}
        self.requests: list[tuple[str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_HEAD(self) -> None:
                outer.answer(self, body=False)

            def do_GET(self) -> None:
                outer.answer(self, body=True)

        self.server = _Quiet(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIECE)  # what is sent has nearly arrived
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request: BaseHTTPRequestHandler, body: bool) -> None:
        path = request.path.partition("?")[0].lstrip("/")
        hub = path.startswith("hub/")
        file = self.folder / path.replace("/resolve/main/", "/", 1)
        if not file.is_file():
            return _status(request, 404)
        content = file.read_bytes()
        if hub and "/resolve/main/" in path:
            location = f"{self.address}/{file.relative_to(self.folder).as_posix()}"
            digest = hashlib.sha256(content).hexdigest()
            headers = {"Location": location, "X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
            return _status(request, 302, headers)
        span = request.headers.get("Range")
        self.requests.append((path, span))
        faults = self.faults.get(path, [])
        fault = faults.pop(0) if faults else ""
        if fault in ("429", "503"):
            return _status(request, int(fault), {"Retry-After": "0"})
        if fault == "404":
            return _status(request, 404)
        if fault == "html":
            content, span = b"<html>quota exceeded</html>", None
        if fault == "wrong":
            content = bytes([content[0] ^ 1]) + content[1:]
        etag = f'"{hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()}"'
        begin, status = 0, 200
        if span and fault != "ignore-range" and request.headers.get("If-Range", etag) == etag:
            begin, status = int(span.removeprefix("bytes=").partition("-")[0]), 206
            if begin >= len(content):
                return _status(request, 416, {"Content-Range": f"bytes */{len(content)}"})
        rest = content[begin:]
        request.send_response(status)
        request.send_header("ETag", etag)
        request.send_header("Content-Type", "text/html" if fault == "html" else "application/octet-stream")
        request.send_header("Content-Length", str(len(rest) + (7 if fault == "short" else 0)))
        if status == 206:
            request.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        request.end_headers()
        if body:
            if fault in ("drop", "short"):
                request.close_connection = True
            self.send(request, path, rest[: len(rest) // 2] if fault == "drop" else rest, fault)

    def send(self, request: BaseHTTPRequestHandler, path: str, content: bytes, fault: str) -> None:
        for start in range(0, len(content), PIECE):
            piece = content[start : start + PIECE]
            try:
                request.wfile.write(piece)
            except OSError:
                request.close_connection = True
                return
            self.sent[path] = self.sent.get(path, 0) + len(piece)
            time.sleep(0.02 if fault == "slow" else self.pause)


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that was killed is no error."""


def _status(request: BaseHTTPRequestHandler, status: int, headers: dict[str, str] | None = None) -> None:
    request.send_response(status)
    for name, value in (headers or {}).items():
        request.send_header(name, value)
    request.send_header("Content-Length", "0")
    request.end_headers()
