"""Measuring contestants against each other: the same work in turns, so that a busy moment hits them all."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tests.benchmarks.client import Refused
from tests.benchmarks.usage import cpu_seconds, forget_peak, peak

Operation = Callable[[], object]


@dataclass(frozen=True)
class Load:
    """Work to time. It amounts to `items` of what the case counts, which may be a part of one."""

    operations: Sequence[Operation]
    items: float


@dataclass(frozen=True)
class Case:
    """An operation to compare: `count` of them a round, sent by so many clients at once."""

    name: str
    count: int
    clients: int = 1
    observed: bool = False
    """Whether small reads are sent, and timed, beside it."""


class Contestant:
    """Somebody who can do some of the cases: `do_list_filtered(count)` prepares `list-filtered`."""

    name: str
    pids: Sequence[int]
    """The processes that do the work, with their children; the first one's memory is watched."""
    alone = False
    """Whether it works with one connection, however many clients a case has."""

    def load(self, case: str, count: int) -> Load | None:
        """Prepares `count` operations; None for a case that this contestant does not have."""
        prepare: Callable[[int], Load | Sequence[Operation]] | None
        prepare = getattr(self, f"do_{case.replace('-', '_')}", None)
        if prepare is None:
            return None
        prepared = prepare(count)
        return prepared if isinstance(prepared, Load) else Load(prepared, len(prepared))

    def read(self) -> None:
        """One small read, beside other work."""
        raise NotImplementedError


@dataclass
class Samples:
    """A figure a round, for each item: seconds of wall time and of CPU; bytes that memory grew by."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    reads: list[float] = field(default_factory=list)
    """Seconds that each read beside it took."""
    failure: str = ""

    def summary(self) -> dict[str, Any]:
        """Medians with least and greatest, in milliseconds and MB."""
        if self.failure or not self.wall:
            return {"failure": self.failure or "nothing was measured"}
        return {
            "ms": spread([1e3 * value for value in self.wall]),
            "per_second": 1 / statistics.median(self.wall),
            "cpu_ms": spread([1e3 * value for value in self.cpu]),
            "grew_mb": max(self.memory) / 1e6,
            "read_ms": spread([1e3 * value for value in self.reads]) if self.reads else None,
        }


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, least and greatest."""
    return statistics.median(values), min(values), max(values)


def ratio(one: Samples, other: Samples) -> tuple[float, float, float] | None:
    """How many times the other's wall time the one takes, round by round."""
    if one.failure or other.failure or not one.wall or not other.wall:
        return None
    return spread([a / b for a, b in zip(one.wall, other.wall, strict=True)])


def race(case: Case, contestants: Sequence[Contestant], rounds: int) -> dict[str, Samples]:
    """Each contestant's samples, by its name; the order changes from round to round.

    A round before the first is not counted: it fills caches and prepares statements.
    """
    found = {contestant.name: Samples() for contestant in contestants}
    for number in range(-1, rounds):
        turn = number % len(contestants)
        for contestant in [*contestants[turn:], *contestants[:turn]]:
            samples = found[contestant.name]
            if samples.failure:
                continue
            try:
                load = contestant.load(case.name, case.count if number >= 0 else 1)
                if load is None:
                    samples.failure = "not offered"
                    continue
                _measure(case, contestant, load, samples if number >= 0 else Samples())
            except Refused as refused:
                samples.failure = "not supported" if refused.status in (415, 422) else str(refused)
    return found


def _measure(case: Case, contestant: Contestant, load: Load, samples: Samples) -> None:
    if case.observed:
        contestant.read()  # the first one may have to make what it reads
    before, used = forget_peak(contestant.pids[0]), cpu_seconds(contestant.pids)
    done = threading.Event()
    with ThreadPoolExecutor(case.clients + case.observed) as pool:
        reads = pool.submit(_read_along, contestant, done) if case.observed else None
        start = time.perf_counter()
        try:
            if case.clients == 1 or contestant.alone:
                for operation in load.operations:
                    operation()
            else:
                list(pool.map(lambda operation: operation(), load.operations))
            wall = time.perf_counter() - start
        finally:
            done.set()
        if reads is not None:
            samples.reads += reads.result()
    samples.wall.append(wall / load.items)
    samples.cpu.append((cpu_seconds(contestant.pids) - used) / load.items)
    samples.memory.append(peak(contestant.pids[0]) - before)


def _read_along(contestant: Contestant, done: threading.Event) -> list[float]:
    times = []
    while not done.is_set() or not times:
        start = time.perf_counter()
        contestant.read()
        times.append(time.perf_counter() - start)
        done.wait(0.005)
    return times
