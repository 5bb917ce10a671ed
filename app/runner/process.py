"""A command under a supervisor: with a time limit, its output kept, and nothing left of it behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.runner.supervisor import PATIENCE, tasks

SUPERVISOR = Path(__file__).with_name("supervisor.py")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int | None
    """Its exit code; None when a signal ended it, or it never ran."""
    signal: int | None
    ended_by: str | None
    """`timeout`, `stop` (it was asked for) or `server` (which died); None when it ended by itself."""
    tail: str
    """The end of what it printed."""
    output_bytes: int
    error: str | None
    """Why it could not be started."""
    duration: float
    """Seconds."""


class Process:
    """Starts a command in a process group of its own. Thread-safe.

    The supervisor, a small process between the server and the command, ends the whole group when the time is
    over, when it is told to, and when the server dies.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        output: Path,
        timeout: float | None,
        grace: float,
        max_output: int,
    ) -> None:
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._ended: Ended | None = None
        self._supervisor = subprocess.Popen(
            [sys.executable, "-I", "-S", str(SUPERVISOR)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env={"PATH": os.defpath},
        )
        orders = {
            "argv": list(command),
            "cwd": str(cwd),
            "env": dict(env),
            "output": str(output),
            "timeout": timeout,
            "grace": grace,
            "max_output": max_output,
        }
        self._say(json.dumps(orders))

    @property
    def pid(self) -> int:
        """The process id of the supervisor."""
        return self._supervisor.pid

    def stop(self) -> None:
        """Asks for the end of the group, and returns at once."""
        with self._lock:
            if self._ended is None:
                self._say("stop")

    def wait(self, timeout: float | None = None) -> Ended | None:
        """How it ended, once all of its processes are gone; None when they are not after so many seconds."""
        try:
            self._supervisor.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        with self._lock:
            if self._ended is None:
                self._ended = self._told()
        return self._ended

    def _say(self, line: str) -> None:
        assert self._supervisor.stdin is not None
        with contextlib.suppress(OSError):  # it is gone already; `wait` will say how
            self._supervisor.stdin.write(line.encode() + b"\n")
            self._supervisor.stdin.flush()

    def _told(self) -> Ended:
        assert self._supervisor.stdin is not None
        assert self._supervisor.stdout is not None
        with contextlib.suppress(OSError):
            self._supervisor.stdin.close()
        with self._supervisor.stdout as answer:
            line = answer.readline()
        duration = time.monotonic() - self._started
        try:
            return Ended(**json.loads(line), duration=duration)
        except (ValueError, TypeError):
            code = self._supervisor.returncode
            _kill_session(self.pid)
            return Ended(
                code=None,
                signal=-code if code < 0 else None,
                ended_by=None,
                tail="",
                output_bytes=0,
                error="its supervisor was killed",
                duration=duration,
            )


def _kill_session(session: int) -> None:
    """Kills what a supervisor that was killed itself could not: all but what left its session."""
    patience = time.monotonic() + PATIENCE
    while time.monotonic() < patience:
        left = [task for task in tasks() if task.session == session and not task.gone]
        if not left:
            return
        for task in left:
            with contextlib.suppress(OSError):
                os.kill(task.pid, signal.SIGKILL)
        time.sleep(0.01)
