"""What the server tells those who watch it, in the text format of Prometheus (version 0.0.4)."""

from __future__ import annotations

import os
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.database import Database
from app.db.functions import count_if
from app.errors import Unavailable
from app.models import TestRun
from app.schemas.retention import RetentionRun
from app.vocabulary import SERVER, TERMINAL, RunStatus

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Of the histogram, in seconds."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"
"""Methods and addresses that the API does not have; a client must not be able to invent series."""


class Requests:
    """The requests of this process since it started. Thread-safe."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._buckets: dict[str, list[int]] = {}
        self._seconds: Counter[str] = Counter()
        self._lock = threading.Lock()

    def note(self, method: str, route: str | None, status: int | None, seconds: float) -> None:
        """Counts a request; the route is a template, None for an address that the API does not have."""
        route = route or OTHER
        key = (method if method in METHODS else OTHER, route, str(status or "none"))
        place = bisect_left(BOUNDS, seconds)
        with self._lock:
            self._counts[key] += 1
            self._buckets.setdefault(route, [0] * (len(BOUNDS) + 1))[place] += 1
            self._seconds[route] += seconds  # type: ignore[assignment]

    def families(self) -> Iterator[Family]:
        """How many there were, and how long they took."""
        with self._lock:
            counts, seconds = dict(self._counts), dict(self._seconds)
            buckets = {route: list(found) for route, found in self._buckets.items()}
        yield Family(
            "testdb_http_requests_total",
            "counter",
            "Requests that were answered, since the process started.",
            [
                Sample(count, {"method": method, "route": route, "status": status})
                for (method, route, status), count in sorted(counts.items())
            ],
        )
        samples = []
        for route, found in sorted(buckets.items()):
            for bound, count in zip((*BOUNDS, "+Inf"), accumulate(found), strict=True):
                samples.append(Sample(count, {"route": route, "le": str(bound)}, "_bucket"))
            samples.append(Sample(seconds[route], {"route": route}, "_sum"))
            samples.append(Sample(sum(found), {"route": route}, "_count"))
        yield Family(
            "testdb_http_request_duration_seconds",
            "histogram",
            "Time from a request to the end of its answer; streams end with what they tell of.",
            samples,
        )


@dataclass(frozen=True)
class Sample:
    value: float
    labels: Mapping[str, str]
    suffix: str = ""


@dataclass(frozen=True)
class Family:
    """A metric: its name, type, meaning and values."""

    name: str
    kind: str
    text: str
    samples: Iterable[Sample]

    def lines(self) -> Iterator[str]:
        """The family as text."""
        yield f"# HELP {self.name} {self.text}"
        yield f"# TYPE {self.name} {self.kind}"
        for sample in self.samples:
            labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in sample.labels.items())
            yield f"{self.name}{sample.suffix}{f'{{{labels}}}' if labels else ''} {sample.value}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def gauge(name: str, text: str, value: float) -> Family:
    """A metric with one value."""
    return Family(name, "gauge", text, [Sample(value, {})])


def exposition(database: Database, requests: Requests, last: RetentionRun | None) -> str:
    """Everything there is to tell. A database that does not answer is told as such, and only that of it."""
    families = [*requests.families(), *_of_database(database), *_of_retention(last), *_of_process()]
    return "".join(f"{line}\n" for family in families for line in family.lines())


def _of_database(database: Database) -> list[Family]:
    up = ("testdb_database_up", "Whether the database answers.")
    try:
        counts, queued = database.read(_runs)
        size = database.size()
    except Unavailable:
        return [gauge(*up, 0)]
    live = sum(count for status, count in counts.items() if status not in TERMINAL)
    return [
        gauge(*up, 1),
        gauge("testdb_database_size_bytes", "Size of the database on disk.", size),
        Family(
            "testdb_runs",
            "gauge",
            "Runs in the database, by status.",
            [Sample(count, {"status": status}) for status, count in counts.items()],
        ),
        gauge("testdb_runs_live", "Runs that have not ended.", live),
        gauge("testdb_runs_queued", "Runs that wait for a server to run them.", queued),
    ]


def _runs(session: Session) -> tuple[dict[str, int], int]:
    """The runs by status, and how many are queued."""
    own = count_if(TestRun.creator == SERVER)
    rows = session.execute(
        select(TestRun.status, func.count(), own).group_by(TestRun.status).order_by(TestRun.status)
    ).all()
    counts: dict[str, int] = {status.value: 0 for status in RunStatus}
    counts |= {status: count for status, count, _own in rows}
    return counts, sum(own for status, _count, own in rows if status == RunStatus.INITIALIZING)


def _of_retention(last: RetentionRun | None) -> list[Family]:
    if last is None:
        return []
    at = last.at.timestamp()
    return [
        gauge("testdb_retention_last_start_time_seconds", "When a server last pruned by itself.", at),
        gauge("testdb_retention_last_deleted_runs", "Runs that went then.", last.runs),
        gauge("testdb_retention_last_duration_seconds", "How long it took.", last.seconds),
        gauge("testdb_retention_last_failed", "Whether it ended with an error.", int(last.error is not None)),
    ]


def _of_process() -> list[Family]:
    """Of this process, where the system tells."""
    try:
        # What follows the command, which may hold blanks: the third field is the first here.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        boot = next(
            int(line.split()[1])
            for line in Path("/proc/stat").read_text().splitlines()
            if line.startswith("btime ")
        )
        descriptors = sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1  # one is that of this look
    except (OSError, StopIteration):
        return []
    start = boot + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    memory = int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    return [
        gauge("process_start_time_seconds", "When the process started, in seconds since 1970.", start),
        gauge("process_resident_memory_bytes", "Memory that the process has in RAM.", memory),
        gauge("process_open_fds", "Open file descriptors.", descriptors),
        gauge("process_threads", "Threads, of every library.", int(fields[17])),
    ]
