"""Runs one command to its end and leaves nothing of it behind. A script; it needs the standard library alone.

It reads one line of JSON from its standard input (`argv`, `cwd`, `env`, `output`, `timeout`, `grace`,
`max_output`) and writes one line of JSON to its standard output when nothing runs any more. In between, its
standard input is the life line: anything that arrives there asks it to stop, and so does a SIGTERM; its end
means that the server is no more.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

TAIL = 8192
CHUNK = 1 << 16
PATIENCE = 5.0
"""Seconds that killed processes get to vanish; one that hangs in the kernel may take longer."""

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


class Task(NamedTuple):
    """A process as /proc shows it."""

    pid: int
    state: str
    parent: int
    session: int

    @property
    def gone(self) -> bool:
        return self.state in "ZX"


def tasks() -> Iterator[Task]:
    """Every process that can be seen; none where there is no /proc."""
    with suppress(OSError):
        for name in os.listdir("/proc"):  # noqa: PTH208 - pathlib takes longer to import than this script runs
            if not name.isdigit():
                continue
            with suppress(OSError):
                file = os.open(f"/proc/{name}/stat", os.O_RDONLY)
                try:
                    # The name of the program stands in brackets, and may have brackets and spaces of its own.
                    state, parent, _, session = os.read(file, 4096).rpartition(b")")[2].split()[:4]
                finally:
                    os.close(file)
                yield Task(int(name), state.decode(), int(parent), int(session))


def prctl(option: int, value: int) -> None:
    """Asks the kernel, where it is one that can be asked."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), 0, 0, 0)


class Output:
    """What a command prints: the first and the last half of `limit` bytes in a file, the end as text."""

    def __init__(self, path: str, limit: int) -> None:
        self.total = 0
        self._problem: str | None = None
        self._head = limit // 2
        self._kept = limit - self._head
        self._left_out = 0
        self._last = bytearray()
        self._tail = b""
        self._file = -1
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        except OSError as error:
            self._problem = error.strerror

    def add(self, chunk: bytes) -> None:
        self.total += len(chunk)
        self._tail = (self._tail + chunk[-TAIL:])[-TAIL:]
        head, rest = chunk[: self._head], chunk[self._head :]
        self._head -= len(head)
        self._write(head)
        self._last += rest
        excess = max(0, len(self._last) - self._kept)
        self._left_out += excess
        del self._last[:excess]

    def close(self) -> None:
        if self._left_out:
            self._write(f"\n… {self._left_out} bytes left out …\n".encode())
        self._write(self._last)
        if self._file >= 0:
            with suppress(OSError):
                os.close(self._file)

    def text(self) -> str:
        """The end of the output. Says so when the file does not have it."""
        start = 0
        if self.total > TAIL:  # maybe in the middle of a character
            while start < 3 and self._tail[start] & 0xC0 == 0x80:
                start += 1
        text = self._tail[start:].decode(errors="replace")
        return f"{text}\n… the output could not be kept: {self._problem} …\n" if self._problem else text

    def _write(self, data: bytes | bytearray) -> None:
        rest = memoryview(data)
        try:
            while rest and self._problem is None:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:  # the command goes on, whatever the disk says
            self._problem = error.strerror


class Supervisor:
    """One command: started by `start`, seen to its end by `watch`, cleared away by `clear`."""

    def __init__(self, config: dict[str, Any], output: Output, wakeup: int) -> None:
        self.ended_by: str | None = None
        self.status: int | None = None
        self._config = config
        self._output = output
        self._wakeup = wakeup
        self._pipe = self._pid = -1
        self._until: float | None = None
        self._kill_at: float | None = None
        self._selector = selectors.DefaultSelector()
        self._selector.register(wakeup, selectors.EVENT_READ)

    def start(self) -> None:
        """Raises what Popen does when the command cannot be started."""
        own = os.getpid()

        def die_with_us() -> None:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != own:  # too late for the signal
                os._exit(1)

        self._pipe, into = os.pipe()
        os.set_blocking(self._pipe, False)
        try:
            process = subprocess.Popen(
                self._config["argv"],
                cwd=self._config["cwd"],
                env=self._config["env"],
                stdin=subprocess.DEVNULL,
                stdout=into,
                stderr=into,
                process_group=0,
                preexec_fn=die_with_us,
            )
        finally:
            os.close(into)
        process.returncode = 0  # its end is noticed here, not by Popen
        self._pid = process.pid
        if self._config["timeout"] is not None:
            self._until = time.monotonic() + self._config["timeout"]
        self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
        self._selector.register(self._pipe, selectors.EVENT_READ)

    def end(self, reason: str) -> None:
        """Asks the command to end; the first reason counts."""
        if self.ended_by is None:
            self.ended_by = reason
            self._kill_at = time.monotonic() + self._config["grace"]
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)  # a stopped process would never notice

    def watch(self) -> None:
        """Returns when the command itself has ended, however it came to that."""
        while not self._reaped():
            now = time.monotonic()
            if self._until is not None and now >= self._until:
                self._until = None
                self.end("timeout")
            if self._kill_at is not None and now >= self._kill_at:
                self._kill_at = None
                self._signal(signal.SIGKILL)
            times = [moment for moment in (self._until, self._kill_at) if moment is not None]
            for key, _ in self._selector.select(max(0.0, min(times) - now) if times else None):
                self._hear(key.fd)

    def clear(self) -> None:
        """Kills and reaps what the command left behind, then takes the output that is still on its way."""
        self._signal(signal.SIGKILL)
        patience = time.monotonic() + PATIENCE
        with suppress(ChildProcessError):  # no child is left
            while time.monotonic() < patience:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
                # What left the group became a child of ours, or becomes one when its parent is killed.
                for task in tasks():
                    if task.parent == os.getpid() and not task.gone:
                        with suppress(OSError):
                            os.kill(task.pid, signal.SIGKILL)
                time.sleep(0.01)
        while self._take() and time.monotonic() < patience:
            pass

    def _reaped(self) -> bool:
        """Whether the command has ended. Orphans, by now children of ours, are reaped on the way."""
        while self.status is None:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return False
            if pid == self._pid:
                self.status = status
        return True

    def _hear(self, file: int) -> None:
        if file == self._pipe:
            if not self._take():
                self._selector.unregister(self._pipe)
        elif file == self._wakeup:  # a child has ended, or we are asked to end it
            for number in os.read(self._wakeup, CHUNK):
                if number in (signal.SIGTERM, signal.SIGINT):
                    self.end("stop")
        else:
            said = os.read(file, CHUNK)
            self._selector.unregister(file)
            self.end("stop" if said else "server")

    def _take(self) -> bool:
        """Whether there was output to take; false at its end, and when there is none just now."""
        try:
            chunk = os.read(self._pipe, CHUNK)
        except BlockingIOError:
            return False
        self._output.add(chunk)
        return bool(chunk)

    def _signal(self, number: int) -> None:
        with suppress(OSError):
            os.killpg(self._pid, number)
        with suppress(OSError):
            if self.status is None and os.getpgid(self._pid) != self._pid:  # it has joined another group
                os.kill(self._pid, number)


def main() -> None:
    wakeup, notify = os.pipe()
    for end in (wakeup, notify):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(notify, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    with os.fdopen(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as orders:
        line = orders.readline()
    if not line.endswith(b"\n"):  # the server died over it
        return
    config = json.loads(line)
    output = Output(config["output"], config["max_output"])
    supervisor = Supervisor(config, output, wakeup)
    problem = None
    try:
        supervisor.start()
    except (OSError, ValueError) as error:
        problem = str(error)
    else:
        supervisor.watch()
        supervisor.clear()
    output.close()
    status = supervisor.status
    told = {
        "code": os.WEXITSTATUS(status) if status is not None and os.WIFEXITED(status) else None,
        "signal": os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else None,
        "ended_by": supervisor.ended_by,
        "tail": output.text(),
        "output_bytes": output.total,
        "error": problem,
    }
    with suppress(OSError):  # the server may be gone
        os.write(sys.stdout.fileno(), json.dumps(told).encode() + b"\n")


if __name__ == "__main__":
    main()
