"""Real pytest sessions in folders of their own, and a server that only pretends."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tests.server import PATIENCE, environment

PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
UNUSED = {
    "hypothesispytest": None,
    "anyio": None,
    "schemathesis": None,
    "xdist": "-n",
    "rerunfailures": "--reruns",
}
"""Plugins that take long to load, and the options that need them."""


@dataclass
class Session:
    """A session that has ended."""

    code: int
    output: str

    @property
    def told(self) -> str:
        """What the plugin says in the end."""
        found = re.search(r"^testdb: (.*)$", self.output, re.MULTILINE)
        return found[1] if found else ""

    @property
    def run_id(self) -> str:
        found = re.search(r"recorded run ([0-9a-f-]{36})", self.told)
        assert found, self.output
        return found[1]


def session(folder: Path, *options: str, env: Mapping[str, str] | None = None) -> Session:
    """Runs pytest in the folder to its end."""
    done = subprocess.run(
        _command(options),
        cwd=folder,
        env=_outside(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
    )
    return Session(done.returncode, done.stdout)


def begun(folder: Path, *options: str) -> subprocess.Popen[str]:
    """A session that is still under way; it prints into the file `output` of the folder."""
    with (folder / "output").open("w") as output:
        return subprocess.Popen(
            _command(options), cwd=folder, env=_outside(None), stdout=output, stderr=output, text=True
        )


def _command(options: Sequence[str]) -> list[str]:
    unused = [f"-pno:{plugin}" for plugin, option in UNUSED.items() if option not in options]
    return [*PYTEST, *unused, *options]


def _outside(env: Mapping[str, str] | None) -> dict[str, str]:
    """The environment as a user's shell has it, not as this session's tests see it."""
    kept = {name: value for name, value in environment(env).items() if not name.startswith("PYTEST_")}
    kept.pop("TESTDB", None)
    return kept | dict(env or {})


def write(folder: Path, **files: str) -> Path:
    """Test files of a project; a configuration of its own keeps pytest from looking further up."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def junit_outcomes(file: Path) -> dict[str, str]:
    """The outcome of each test as pytest's own JUnit file has it, by classname and name."""
    outcomes: dict[str, str] = {}
    worst = ["passed", "skipped", "error", "failed"]
    for case in ElementTree.parse(file).iter("testcase"):
        kinds = {child.tag for child in case}
        status = "failed" if "failure" in kinds else "error" if "error" in kinds else "passed"
        status = "skipped" if status == "passed" and "skipped" in kinds else status
        key = f"{case.get('classname')}::{case.get('name')}"
        outcomes[key] = max(outcomes.get(key, "passed"), status, key=worst.index)
    return outcomes


def recorded_outcomes(steps: list[dict[str, Any]]) -> dict[str, str]:
    """The outcome of each test of a recorded run, by the names that JUnit files use; attempts left out."""
    outcomes = {}
    for step in steps:
        name, status = step["step_name"], step["status"]
        if name in ("Completed", "Error", "Cancelled") or re.search(r" \(attempt \d+\)$", name):
            continue
        file, _, inside = name.partition("::")
        if not inside:  # a module that was skipped, or could not be imported, whole
            outcomes[f"::{file.removesuffix('.py')}"] = status
            continue
        plain, bracket, parameters = inside.partition("[")
        parts = [file.removesuffix(".py").replace("/", "."), *plain.split("::")]
        outcomes[f"{'.'.join(parts[:-1])}::{parts[-1]}{bracket}{parameters}"] = status
    return outcomes


@dataclass
class Stub:
    """A server that takes anything, unless it is told to misbehave."""

    address: str = ""
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    status: int = 200
    """What it answers."""
    delay: float = 0.0
    """Seconds before it answers."""
    fail_from: int | None = None
    """The number of the request, from 0, from which on it answers 500."""
    ended: threading.Event = field(default_factory=threading.Event)

    def serve(self) -> ThreadingHTTPServer:
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if "chunked" in self.headers.get("Transfer-Encoding", ""):
                    body = self._chunks()
                stub.requests.append((self.path, dict(self.headers), body))
                stub.ended.wait(stub.delay)
                failing = stub.fail_from is not None and len(stub.requests) > stub.fail_from
                answer = b"{}"
                self.send_response(500 if failing else stub.status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def _chunks(self) -> bytes:
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self.address = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def events(self) -> list[dict[str, Any]]:
        """Every event that was sent live."""
        live = [body for path, _headers, body in self.requests if path.endswith("/events")]
        return [json.loads(line) for body in live for line in body.splitlines()]

    @property
    def imports(self) -> list[bytes]:
        return [body for path, _headers, body in self.requests if path.endswith("/import")]


def wait_for(what: Any, seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def senders(marker: str) -> list[int]:
    """The processes that still send for sessions with this text in their working directory."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                if "sender.py" in (path / "cmdline").read_text() and marker in os.readlink(path / "cwd"):  # noqa: PTH115
                    found.append(int(path.name))
            except OSError:
                continue
    return found
