"""Sends the spool file of a session while it is written. A process of its own, started with the session.

It reads its orders as one line of JSON from its standard input, which stays silent and open as long as the
session lives, and in the end writes one line of JSON to its standard output. It needs the standard library
alone, unless the target is a file.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import select
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

PAUSE = 0.25  # seconds between two portions
TIMEOUT = 5.0  # seconds in which a server must answer
IDLE = 1.0  # seconds after which a connection is not used again
LINES, BYTES = 2000, 1 << 20  # of a portion, at most
RETRY = 0.3  # seconds before a file that another process holds is tried again
HELD = 10.0  # seconds for which it is tried
PASSING = (401, 403, 404, 408, 429)
"""Refusals that may pass; after any other one a file of an earlier session is not tried again."""


STARTED, ENDED, FINISHED = b'{"event":"started"', b'{"event":"test"', b'{"event":"finished"'


class NotSent(Exception):
    """Why something could not be sent, in a few words."""

    def __init__(self, reason: str, *, hopeless: bool = False) -> None:
        super().__init__(reason)
        self.hopeless = hopeless


class Server:
    """A server that takes sessions over HTTP. No proxy stands between: it would have to be trusted."""

    live = True

    def __init__(self, orders: dict[str, Any], deadline: Deadline) -> None:
        self._parts = urlsplit(orders["target"])
        self._headers = {"Content-Type": "application/x-ndjson"}
        if orders["token"]:
            self._headers["Authorization"] = f"Bearer {orders['token']}"
        self._deadline = deadline
        self._connection: http.client.HTTPConnection | None = None
        self._used = 0.0

    def send_portion(self, run_id: str, lines: bytes) -> None:
        self._post(f"/api/test/db/run/{run_id}/events", lines)

    def send_file(self, file: Path) -> None:
        with file.open("rb") as stream:
            self._post("/api/test/db/import", stream)

    def _post(self, path: str, body: bytes | BinaryIO) -> None:
        try:
            connection = self._connected()
            connection.request("POST", self._parts.path.rstrip("/") + path, body, self._headers)
            response = connection.getresponse()
            answer = response.read(10_000)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._close()
            raise NotSent(_said(error)) from error
        if response.status // 100 != 2:
            self._close()
            detail = ""
            with contextlib.suppress(ValueError, AttributeError):
                detail = str(json.loads(answer).get("detail", ""))[:300]
            hopeless = response.status // 100 == 4 and response.status not in PASSING
            raise NotSent(f"the server answered {response.status} {detail}".strip(), hopeless=hopeless)

    def _connected(self) -> http.client.HTTPConnection:
        limit = self._deadline.bounded(TIMEOUT)
        if self._connection is not None and self._stale():
            self._close()
        self._used = time.monotonic()
        if self._connection is None:
            host, port = self._parts.hostname or "", self._parts.port
            if self._parts.scheme == "https":
                self._connection = http.client.HTTPSConnection(host, port, timeout=limit)
            else:
                self._connection = http.client.HTTPConnection(host, port, timeout=limit)
        elif self._connection.sock is not None:
            self._connection.sock.settimeout(limit)
        return self._connection

    def _stale(self) -> bool:
        """Whether the server may have closed the connection: a request on it would fail, and not for good."""
        sock = self._connection and self._connection.sock
        return bool(sock and (time.monotonic() - self._used > IDLE or select.select([sock], [], [], 0)[0]))

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class DatabaseFile:
    """A DuckDB file, which is opened for as long as a session takes to be stored."""

    live = False

    def __init__(self, orders: dict[str, Any]) -> None:
        self._path = Path(orders["target"])

    def send_file(self, file: Path) -> None:
        sys.path.insert(0, _product())
        try:
            from app.client import Local
            from app.db.engine import file_url
            from app.errors import AppError, Invalid, Unavailable
            from app.schemas.transfer import ImportOptions
        except ImportError as error:
            raise NotSent(f"the product cannot be loaded: {error}") from error
        until = time.monotonic() + HELD
        while True:
            try:
                with Local(file_url(self._path), create=True) as client:
                    client.import_file(file, ImportOptions(), lambda done, total: None)
                return
            except Unavailable as error:
                if time.monotonic() > until:
                    raise NotSent(error.detail) from error
                time.sleep(RETRY)
            except AppError as error:
                raise NotSent(error.detail, hopeless=isinstance(error, Invalid)) from error
            except Exception as error:
                raise NotSent(_said(error)) from error


def _product() -> str:
    """The folder that has the package of the product: beside this one when installed, else around it."""
    here = Path(__file__).resolve()
    found = (folder for folder in here.parents if (folder / "app" / "client.py").is_file())
    return str(next(found, here.parents[1]))


class Deadline:
    """When sending must be over; it is set at the end of the session."""

    def __init__(self) -> None:
        self._end: float | None = None

    def set(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def passed(self) -> bool:
        return self._end is not None and time.monotonic() > self._end

    def bounded(self, seconds: float) -> float:
        """So many seconds, or what is left."""
        return seconds if self._end is None else max(0.1, min(seconds, self._end - time.monotonic()))


class Sending:
    """Sends one session as it is written, and what earlier ones have left."""

    def __init__(self, orders: dict[str, Any]) -> None:
        self._deadline = Deadline()
        self._to: Server | DatabaseFile
        self._to = Server(orders, self._deadline) if orders["is_server"] else DatabaseFile(orders)
        self._run_id = orders["run_id"]
        self._patience = orders["patience"]
        self._file = Path(orders["file"])
        self._position = 0
        self._problem: str | None = None
        self._finished = False
        self._running: dict[str, None] = {}
        self.earlier = 0

    def run(self, lifeline: int) -> dict[str, Any]:
        """Returns what became of it: `sent`, or `problem`; and how many `earlier` sessions were sent."""
        parent = os.getppid()
        earlier = self._others()
        # A child of a test may hold the line open when the session has died: then the new parent tells.
        while not _speaks_or_ends(lifeline, PAUSE) and os.getppid() == parent:
            if self._to.live and self._problem is None and self._send_live():
                self._send_earlier(next(earlier, None))
        self._deadline.set(self._patience)
        with self._file.open("ab") as own:
            _lock(own)
            problem = self._send_rest()
            if problem is None:
                self._file.unlink()
        while problem is None and not self._deadline.passed() and (path := next(earlier, None)) is not None:
            self._send_earlier(path)
        return {"sent": problem is None, "problem": problem, "earlier": self.earlier}

    def _send_rest(self) -> str | None:
        """Sends what is left, or everything when it is not certain what has arrived; else says why not."""
        try:
            while self._to.live and self._problem is None and self._send_live():
                pass
            if not self._finished:
                self._break_off()
                while self._to.live and self._problem is None and self._send_live():
                    pass
            if not self._to.live or self._problem is not None:
                self._to.send_file(self._file)
        except NotSent as error:
            return str(error)
        except OSError as error:
            return _said(error)
        return None

    def _send_live(self) -> bool:
        """Whether there was something to send. After the first failure nothing more is sent before the end:
        it may have arrived all the same, and then only the whole session replaces it without doubles."""
        lines = self._portion()
        if not lines:
            return False
        assert isinstance(self._to, Server)
        try:
            self._to.send_portion(self._run_id, b"".join(self._telling(lines)))
        except NotSent as error:
            self._problem = str(error)
            return False
        return True

    def _telling(self, lines: list[bytes]) -> Iterator[bytes]:
        """The lines without the starts of tests that have ended by now: their ends say it all."""
        return (line for line in lines if not line.startswith(STARTED) or _test(line) in self._running)

    def _portion(self) -> list[bytes]:
        lines: list[bytes] = []
        size = 0
        with self._file.open("rb") as stream:
            stream.seek(self._position)
            while len(lines) < LINES and size < BYTES and (line := stream.readline()).endswith(b"\n"):
                lines.append(line)
                size += len(line)
        self._position += size
        self._note(lines)
        return lines

    def _note(self, lines: list[bytes]) -> None:
        for line in lines:
            if line.startswith(STARTED):
                self._running[_test(line)] = None
            elif line.startswith(ENDED):
                self._running.pop(_test(line), None)
            elif line.startswith(FINISHED):
                self._finished = True

    def _break_off(self) -> None:
        """Ends the stream of a session that has ended without a word; a line that was cut off goes."""
        while self._portion():
            pass
        if self._finished:
            return
        running = f", while running {', '.join(self._running)}" if self._running else ""
        event = {
            "event": "finished",
            "time": time.time(),
            "status": "error",
            "error": f"The test session broke off without an end{running}.",
        }
        with self._file.open("r+b") as stream:
            stream.truncate(self._position)
            stream.seek(self._position)
            stream.write(json.dumps(event).encode() + b"\n")

    def _others(self) -> Iterator[Path]:
        """The files of earlier sessions."""
        yield from sorted(path for path in self._file.parent.glob("*.jsonl") if path != self._file)

    def _send_earlier(self, path: Path | None) -> None:
        if path is None:
            return
        try:
            with path.open("r+b") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a session that lives sends its own
                if not stream.readline().startswith(b'{"event":"session"'):
                    return
                self._to.send_file(path)
                path.unlink()
                self.earlier += 1
        except NotSent as error:
            if error.hopeless:
                with contextlib.suppress(OSError):
                    path.rename(path.with_suffix(".rejected"))
        except OSError:
            return  # somebody else is at it, or it is gone


def _speaks_or_ends(lifeline: int, seconds: float) -> bool:
    """Whether anything came over the line, be it its end; waits so long for it."""
    return bool(select.select([lifeline], [], [], seconds)[0])


def _lock(own: BinaryIO) -> None:
    """Keeps other sessions from the file; a child of a test may hold the lock of the session that died."""
    for _ in range(10):
        with contextlib.suppress(OSError):
            fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(0.05)


def _test(line: bytes) -> str:
    return str(json.loads(line)["test"])


def _said(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return text if isinstance(error, OSError) and text else f"{type(error).__name__}: {text}"


def main() -> None:
    # Unbuffered: what follows the first line must stay visible to select.
    with os.fdopen(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as orders:
        told = json.loads(orders.readline())
    sys.stdout.write(json.dumps(Sending(told).run(sys.stdin.fileno())) + "\n")


if __name__ == "__main__":
    main()
