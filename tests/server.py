"""`testdb serve` as its users start it: a process of its own, on a free port."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx2

TESTDB = (sys.executable, "-m", "app.cli")
PATIENCE = 60
"""Seconds that a process gets to start or to end, on however busy a machine."""


@dataclass(frozen=True)
class Server:
    """A server that answers, or did before it was stopped."""

    url: str
    process: subprocess.Popen[bytes]
    output: IO[bytes]

    def logged(self) -> str:
        """What it printed so far."""
        return _read(self.output)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Sends a signal and waits for the end; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@contextmanager
def serving(
    folder: Path,
    *options: str,
    env: Mapping[str, str] | None = None,
    command: Sequence[str] = (*TESTDB, "serve"),
) -> Iterator[Server]:
    """A server with `folder` as its working directory. It is stopped at the end, and must end well then."""
    with tempfile.TemporaryFile() as output:
        chosen = "--port" in options or "TESTDB_PORT" in (env or {})
        given = options if chosen else (*options, "--port", "0")
        process = subprocess.Popen(
            [*command, *given], cwd=folder, env=environment(env), stdout=output, stderr=output
        )
        try:
            yield Server(_answering(process, output), process, output)
            if process.poll() is None:
                process.terminate()
                assert process.wait(PATIENCE) == 0, _read(output)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def run(
    *args: str,
    folder: Path,
    env: Mapping[str, str] | None = None,
    command: Sequence[str] = TESTDB,
    given: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself, as a process, with its output piped."""
    return subprocess.run(
        [*command, *args],
        cwd=folder,
        env=environment(env),
        input=given,
        stdin=subprocess.DEVNULL if given is None else None,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def environment(given: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment without settings from outside, and the given ones."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("TESTDB_")}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)  # each process would compile the product anew
    return kept | {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"} | dict(given or {})


def free_port() -> int:
    """A port that nobody listens on, just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answering(process: subprocess.Popen[bytes], output: IO[bytes]) -> str:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        assert process.poll() is None, f"The server ended with {process.returncode}: {_read(output)}"
        if told := re.search(r"running on (http://[\w.:\[\]]+)", _read(output)):
            httpx2.get(f"{told[1]}/readyz", timeout=PATIENCE).raise_for_status()
            return told[1]
        time.sleep(0.02)
    raise AssertionError(f"The server did not start in {PATIENCE} seconds: {_read(output)}")


def _read(output: IO[bytes]) -> str:
    # The process writes at the offset that it shares with this file, which must not move.
    return os.pread(output.fileno(), os.fstat(output.fileno()).st_size, 0).decode()
