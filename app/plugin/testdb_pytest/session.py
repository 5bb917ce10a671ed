"""A session that is recorded: its options, its spool file, and the process that sends it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import uuid
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from testdb_pytest import ACTIVE, ATTACHES, option, texts
from testdb_pytest.environment import environment
from testdb_pytest.recorder import Recorder, Sink

SENDER = Path(__file__).with_name("sender.py")
HTTP_PATIENCE = 5.0
"""Seconds that sending may take after the end of a session."""
FILE_PATIENCE = 60.0
"""Seconds that storing in a file may take after the end of a session; nobody else can slow it."""


def record(config: pytest.Config) -> None:
    """Records the session from here on.

    Raises UsageError for a wrong option; whatever else goes wrong is only told at the end.
    """
    target = Target.of(str(option(config, "testdb")), config.invocation_params.dir)
    token = _token(config)
    description = _description(config)
    reporting = Reporting(config, target, token)
    config.pluginmanager.register(reporting, "testdb-reporting")
    try:
        reporting.start(description)
    except Exception as error:  # a session is never harmed by being recorded
        reason = getattr(error, "strerror", None) or str(error)
        reporting.problem = f"recording could not start: {reason}"


@dataclass(frozen=True)
class Target:
    """Where a session is recorded."""

    address: str
    is_server: bool

    @classmethod
    def of(cls, given: str, folder: Path) -> Target:
        if given.startswith(("http://", "https://")):
            try:
                parts = urlsplit(given)
                valid = parts.hostname and parts.port != 0
            except ValueError:
                valid = False
            if not valid:
                raise pytest.UsageError(f"--testdb: {given!r} is no address; write it as http://HOST:PORT")
            return cls(given.rstrip("/"), True)
        if "://" in given:
            raise pytest.UsageError(
                "--testdb takes the http:// address of a server, or the path of a DuckDB file"
            )
        return cls(str(folder / os.path.expanduser(given)), False)  # noqa: PTH111 - pathlib's raises

    @property
    def shown(self) -> str:
        """Without a password."""
        return re.sub(r"//[^/@]*@", "//", self.address) if self.is_server else self.address

    @property
    def patience(self) -> float:
        return HTTP_PATIENCE if self.is_server else FILE_PATIENCE


def _token(config: pytest.Config) -> str | None:
    """Raises UsageError for one that no header can hold; the message must not show it."""
    token = (option(config, "testdb_token") or "").strip()
    if not re.fullmatch("[!-~]*", token):
        raise pytest.UsageError("--testdb-token: the token has a space or other odd characters in it")
    return token or None


def _description(config: pytest.Config) -> dict[str, object]:
    """What the session event says of the run."""
    given = {}
    for text in option(config, "testdb_tag"):
        name, _, value = text.partition("=")
        if not name.strip():
            raise pytest.UsageError(f"--testdb-tag: {text!r} is not NAME=VALUE")
        given[name.strip()] = value
    hardware = list(dict.fromkeys(option(config, "testdb_hardware"))) or ["cpu"]
    if any(not platform.strip() or len(platform) > 200 for platform in hardware):
        raise pytest.UsageError("--testdb-hardware: a platform has 1 to 200 characters")
    batch = option(config, "testdb_batch")
    if batch and (not re.fullmatch(r"[A-Za-z0-9._:-]{1,200}", batch) or batch in (".", "..")):
        raise pytest.UsageError(f"--testdb-batch: {batch!r} must be 1 to 200 of letters, digits and ._:-")
    found, creator = environment(config.rootpath)
    return {
        "model_name": texts.name(option(config, "testdb_model") or config.rootpath.name or "tests"),
        "hardware": [texts.plain(platform) for platform in hardware],
        "test_type": texts.name(option(config, "testdb_test_type") or "basic"),
        "batch_id": batch or None,
        "creator": creator and texts.plain(creator),
        "tags": {texts.tag(name): texts.tag(value) for name, value in (found | given).items()},
    }


def _spool_folder(config: pytest.Config, target: Target) -> Path:
    """The folder that keeps what waits for this target; made when it does not exist. Raises OSError."""
    given = option(config, "testdb_spool")
    if given:
        folder = Path(config.invocation_params.dir, os.path.expanduser(given))  # noqa: PTH111
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    state = os.environ.get("XDG_STATE_HOME")
    with contextlib.suppress(RuntimeError):  # as of a user without a home
        state = state or str(Path.home() / ".local" / "state")
    inside = Path("testdb", "spool", sha256(target.address.encode()).hexdigest()[:16])
    user = os.getuid() if hasattr(os, "getuid") else "user"
    places = [Path(place) for place in (state, Path(tempfile.gettempdir(), f"testdb-{user}")) if place]
    for place in places:
        folder = place / inside
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if os.access(folder, os.W_OK | os.X_OK):
                return folder
    raise OSError(f"no spool folder can be made in {' or '.join(map(str, places))}")


class Reporting:
    """Starts recording, and says at the end what became of it."""

    def __init__(self, config: pytest.Config, target: Target, token: str | None) -> None:
        self.problem: str | None = None
        self._config = config
        self._target = target
        self._token = token
        self._run_id = str(uuid.uuid4())
        self._process = os.getpid()
        self._recorder: Recorder | None = None
        self._sink: Sink | None = None
        self._sender: subprocess.Popen[str] | None = None
        self._file: Path | None = None

    def start(self, description: dict[str, object]) -> None:
        """Raises OSError when the spool cannot be written."""
        folder = _spool_folder(self._config, self._target)
        self._file = folder / f"{self._run_id}.jsonl"
        self._sink = Sink(str(self._file))
        fcntl.flock(self._sink.file, fcntl.LOCK_EX)  # as long as it is held, the session lives
        self._recorder = Recorder(self._sink, self._send_the_rest)
        self._recorder.begin(format="testdb-spool", version=1, run_id=self._run_id, **description)
        os.environ[ACTIVE] = self._run_id
        self._config.pluginmanager.register(self._recorder, "testdb-recorder")
        self._config.stash[ATTACHES] = True
        # A file is opened by the whole product, which needs the environment's packages.
        alone = ["-I", "-S"] if self._target.is_server else ["-P"]
        self._sender = subprocess.Popen(
            [sys.executable, *alone, str(SENDER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            start_new_session=True,
            text=True,
        )
        assert self._sender.stdin is not None
        orders = {
            "target": self._target.address,
            "is_server": self._target.is_server,
            "token": self._token,
            "run_id": self._run_id,
            "file": str(self._file),
            "patience": self._target.patience,
        }
        self._sender.stdin.write(json.dumps(orders) + "\n")
        self._sender.stdin.flush()

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        if os.getpid() != self._process:  # a child of a test, which went on as if it were the session
            return
        if os.environ.get(ACTIVE) == self._run_id:
            del os.environ[ACTIVE]
        line = ""
        try:
            line = self._end()
        except Exception as error:  # a session is never harmed by being recorded
            line = f"not recorded: {error!r}"
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if terminal is not None:
            terminal.write_line(f"testdb: {line}")

    def _end(self) -> str:
        if self._recorder is not None and self._sink is not None:
            self._recorder.close()
            self.problem = self.problem or (
                self._sink.problem and f"recording was given up: {self._sink.problem}"
            )
            self._sink.close()
        told = self._result()
        earlier = told.get("earlier", 0)
        more = f"; sent {earlier} earlier session{'s'[: earlier != 1]}" if earlier else ""
        if told.get("sent") and self.problem is None:
            return f"recorded run {self._run_id} at {self._target.shown}{more}"
        reason = self.problem or told.get("problem") or "it takes too long"
        if self._file is None or not self._file.exists():
            return f"not recorded ({reason}){more}"
        return (
            f"not sent ({reason}); kept in {self._file}: "
            f"the next session or 'testdb import {self._file}' sends it{more}"
        )

    def _send_the_rest(self) -> None:
        """Tells the sender that nothing more will come; it goes on while pytest sums up."""
        if self._sender is not None and self._sender.stdin is not None:
            with contextlib.suppress(OSError, ValueError):
                self._sender.stdin.write("end\n")
                self._sender.stdin.flush()

    def _result(self) -> dict[str, object]:
        """What the sender says in the end; nothing, when it takes too long."""
        if self._sender is None:
            return {}
        lines: list[str] = []
        answered = threading.Event()

        def finish() -> None:
            assert self._sender is not None
            assert self._sender.stdout is not None
            with contextlib.suppress(OSError, ValueError):
                lines.append(self._sender.stdout.readline())
            answered.set()
            self._sender.wait()

        threading.Thread(target=finish, daemon=True).start()
        # Not the end of the process: it has nothing more to do.
        answered.wait(self._target.patience + 1)
        with contextlib.suppress(ValueError):
            return dict(json.loads(lines[0])) if lines else {}
        return {}
