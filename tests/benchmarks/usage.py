"""What processes used, as the kernel counts it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

ENDED = (FileNotFoundError, ProcessLookupError)
"""What is raised for a process, or a thread, that ended just now."""
TICK = 1 / os.sysconf("SC_CLK_TCK")


def cpu_seconds(roots: Iterable[int]) -> float:
    """Seconds of CPU that the processes and all their children have used, the ended ones too."""
    ticks = 0
    for root in roots:
        for pid in _family(root):
            with suppress(*ENDED):
                ticks += sum(map(int, _stat(pid)[11:15]))
    return ticks * TICK


def forget_peak(pid: int) -> int:
    """Makes `peak` count from now; the bytes that are resident now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return _status(pid, "VmRSS")


def peak(pid: int) -> int:
    """The most bytes that were resident at once."""
    return _status(pid, "VmHWM")


def parent(pid: int) -> int:
    return int(_stat(pid)[1])


def _stat(pid: int) -> list[str]:
    """The fields from the state on: the name before them may have spaces."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    raise KeyError(name)


def _family(root: int) -> list[int]:
    found = [root]
    for pid in found:
        with suppress(*ENDED):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                with suppress(*ENDED):
                    found += map(int, (thread / "children").read_text().split())
    return found
