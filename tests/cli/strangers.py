"""Servers that are none of ours, or behave as ours should not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any


@contextmanager
def stranger(respond: Callable[[str], bytes]) -> Iterator[str]:
    """A server that sends the bytes that `respond` gives for a path; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.close_connection = True
            self._take_body()
            self.wfile.write(respond(self.path.partition("?")[0]))

        do_POST = do_DELETE = do_GET

        def _take_body(self) -> None:
            if "Transfer-Encoding" not in self.headers:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                return
            while size := int(self.rfile.readline(), 16):
                self.rfile.read(size + 2)

        def log_message(self, *_args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def http(body: Any, status: str = "200 OK", kind: str = "application/json", **headers: str) -> bytes:
    """An answer; a body that is no text is sent as JSON."""
    content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    head = {"Content-Type": kind, "Content-Length": str(len(content)), "Connection": "close", **headers}
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in head.items()), "", ""]
    return "\r\n".join(lines).encode() + content


def exporting(status: str, error: str | None = None, file: bytes = b"") -> Callable[[str], bytes]:
    """What a server says that began an export and got so far; `file` is its answer when it is fetched."""
    counts = {"runs": 1, "batches": 0, "bytes": 9}
    state = {"export_id": "x", "status": status, "filename": "f", "error": error, **counts}
    answers = {
        "/api/test/db/runs": http([]),
        "/api/test/db/export": http({**state, "message": "m", "timestamp": "2026-01-01T00:00:00Z"}),
        "/api/test/db/exports/x": http(state),
        "/api/test/db/exports/x/file": file,
    }
    return answers.__getitem__
