"""What a server has and uses at a moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg

from tests.benchmarks.usage import cpu_seconds

EMBEDDED = "duckdb:///"


@dataclass(frozen=True)
class Sample:
    """Sizes are bytes; `cpu` is the cores that were busy since the sample before."""

    at: float
    memory: int
    handles: int
    threads: int
    cpu: float
    database: int
    log: int


def sample(pid: int, helpers: Sequence[int], url: str, seconds: float, every: float) -> Iterator[Sample]:
    """A sample of the process now and then, for so many seconds. `helpers` are processes that work for it."""
    start = last = time.monotonic()
    used = cpu_seconds([pid, *helpers])
    waiting = threading.Event()
    for number in range(1, int(seconds / every) + 1):
        waiting.wait(max(0.0, start + number * every - time.monotonic()))
        now, used_now = time.monotonic(), cpu_seconds([pid, *helpers])
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        yield Sample(
            now - start,
            int(status["VmRSS"].split()[0]) << 10,
            len(list(Path(f"/proc/{pid}/fd").iterdir())),
            int(status["Threads"]),
            (used_now - used) / (now - last),
            *sizes(url),
        )
        last, used = now, used_now


def sizes(url: str) -> tuple[int, int]:
    """Bytes of the database, and of the log beside an embedded file."""
    if url.startswith(EMBEDDED):
        file = url.removeprefix(EMBEDDED)
        return _size(file), _size(f"{file}.wal")
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    return (found[0] if found else 0), 0


def _size(name: str) -> int:
    with suppress(FileNotFoundError):
        return Path(name).stat().st_size
    return 0
