"""What was seen as tables, and what it means."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from math import sqrt
from pathlib import Path
from statistics import linear_regression, median, pvariance

import click
from rich import box
from rich.console import Console
from rich.table import Table

from tests.load.clients import BUSY, WAITS, Answered
from tests.load.sampling import Sample

MIB = 1 << 20
WARM = 0.3
"""Part of the time that is the warm-up."""
ENOUGH = 20
"""Samples without which nothing is said of what grows, and requests that a percentile must have above it."""
SLOPE = 1.0
"""MiB a minute that memory may grow in the second half, beyond two standard errors: checkpoints free some."""
GROWTH = 0.15
"""Part of its memory that the server may grow by after the warm-up."""
MORE = 5
"""Handles or threads that the end may have more than the time after the warm-up: of requests under way."""
LONGEST = 10.0
"""Seconds that one request may take."""
MARGIN = 100
"""Milliseconds by which a request may always get slower."""
PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}


def verdict(answers: Sequence[Answered], samples: Sequence[Sample]) -> list[str]:
    """Everything that is not as it should be, a line each."""
    wrong = [f"{count} × {what}" for what, count in _errors(answers).items()]
    slow = [answer for answer in answers if answer.seconds > LONGEST and answer.kind not in WAITS]
    wrong += [f"{answer.kind} took {answer.seconds:.1f} s" for answer in slow]
    if len(samples) < ENOUGH:
        return wrong
    wrong += _slower(answers, samples[-1].at)
    slope, error = memory_slope(samples)
    if slope - 2 * error > SLOPE:
        wrong.append(f"memory grows by {slope:.2f} MiB a minute in the second half")
    if (growth := memory_growth(samples)) > GROWTH:
        wrong.append(f"memory grew by {growth:.0%} after the warm-up")
    for what, count in COUNTED.items():
        warm, end = _middle_and_end([count(sample) for sample in samples])
        if end > warm + MORE:
            wrong.append(f"{what} grew from {warm:g} to {end:g}")
    return wrong


COUNTED: dict[str, Callable[[Sample], int]] = {
    "handles": lambda sample: sample.handles,
    "threads": lambda sample: sample.threads,
}


def memory_slope(samples: Sequence[Sample]) -> tuple[float, float]:
    """MiB a minute, by least squares over the second half, and the standard error of that."""
    half = samples[len(samples) // 2 :]
    times, sizes = [sample.at / 60 for sample in half], [sample.memory / MIB for sample in half]
    slope, start = linear_regression(times, sizes)
    left = sum((size - start - slope * time) ** 2 for time, size in zip(times, sizes, strict=True))
    return slope, sqrt(left / (len(half) - 2) / (len(half) * pvariance(times)))


def memory_growth(samples: Sequence[Sample]) -> float:
    """Memory at the end as a part of the memory after the warm-up, less one."""
    warm, end = _middle_and_end([sample.memory for sample in samples])
    return end / warm - 1


def _middle_and_end(values: Sequence[float]) -> tuple[float, float]:
    """Medians of the tenth of the values after the warm-up, and of the last tenth."""
    start, some = int(len(values) * WARM), max(1, len(values) // 10)
    return median(values[start : start + some]), median(values[-some:])


def _errors(answers: Sequence[Answered]) -> Counter[str]:
    return Counter(f"{answer.kind}: {answer.status}" for answer in answers if answer.wrong)


def _slower(answers: Sequence[Answered], seconds: float) -> list[str]:
    """Kinds that took far longer in the last third than in the one before, by each known percentile."""
    _, before, after = map(_by_kind, _thirds(answers, seconds))
    found = []
    for kind in before.keys() & after.keys() - set(WAITS):
        was, now = (sorted(1000 * answer.seconds for answer in third[kind]) for third in (before, after))
        for name in ("p50", "p95"):
            part = PERCENTILES[name]
            if (1 - part) * min(len(was), len(now)) >= ENOUGH:
                old, new = percentile(was, part), percentile(now, part)
                if new > 2 * old + MARGIN:
                    found.append(f"{kind} got slower: {name} {old:.0f} ms, then {new:.0f} ms")
    return found


def _thirds(answers: Sequence[Answered], seconds: float) -> list[list[Answered]]:
    """The answers by the third of the time in which they were sent."""
    found: list[list[Answered]] = [[], [], []]
    for answer in answers:
        found[min(2, int(3 * answer.at / seconds))].append(answer)
    return found


def _by_kind(answers: Sequence[Answered]) -> dict[str, list[Answered]]:
    kinds: dict[str, list[Answered]] = defaultdict(list)
    for answer in answers:
        kinds[answer.kind].append(answer)
    return kinds


def percentile(values: Sequence[float], part: float) -> float:
    """Of sorted values, the one below which this part of them is."""
    return values[min(len(values) - 1, int(len(values) * part))]


def latencies(answers: Sequence[Answered]) -> dict[str, dict[str, float]]:
    """By kind: requests, milliseconds by percentile, refused as busy, wrong."""
    found = {}
    for kind, group in sorted(_by_kind(answers).items()):
        values = sorted(1000 * answer.seconds for answer in group)
        found[kind] = {
            "requests": len(group),
            **{name: percentile(values, part) for name, part in PERCENTILES.items()},
            "busy": sum(answer.status == BUSY for answer in group),
            "wrong": sum(answer.wrong for answer in group),
        }
    return found


def line(sample: Sample) -> str:
    """A sample for those who wait."""
    return (
        f"{sample.at:5.0f} s  {sample.memory / MIB:6.1f} MiB  {sample.handles} handles  "
        f"{sample.threads} threads  {sample.cpu:.2f} CPU  "
        f"database {sample.database / MIB:.1f} MiB  log {sample.log / MIB:.1f} MiB"
    )


def show(answers: Sequence[Answered], samples: Sequence[Sample]) -> None:
    """Prints the latencies, what grew, and the first words of each kind of error."""
    table = Table("request", box=box.SIMPLE)
    for name in ("requests", *PERCENTILES, "busy", "wrong"):
        table.add_column(name, justify="right")
    for kind, figures in latencies(answers).items():
        table.add_row(
            kind,
            *(f"{value:.1f}" if name in PERCENTILES else f"{value:g}" for name, value in figures.items()),
        )
    Console(width=110).print(table)
    if len(samples) >= ENOUGH:
        slope, error = memory_slope(samples)
        click.echo(
            f"Memory: {slope:+.2f} ± {error:.2f} MiB a minute in the second half, "
            f"{memory_growth(samples):+.1%} after the warm-up"
        )
        for what, count in COUNTED.items():
            warm, end = _middle_and_end([count(sample) for sample in samples])
            click.echo(f"{what.title()}: {warm:g} after the warm-up, {end:g} at the end")
    for said in {(a.kind, a.status): a.said for a in answers if a.wrong}.values():
        click.echo(said)
    wrong = verdict(answers, samples)
    click.echo("\n".join(f"WRONG: {what}" for what in wrong) or "All is well.")


def write(file: Path, answers: Sequence[Answered], samples: Sequence[Sample]) -> None:
    """Writes all figures as JSON."""
    document = {
        "samples": [asdict(sample) for sample in samples],
        "latencies": latencies(answers),
        "thirds": [latencies(third) for third in _thirds(answers, samples[-1].at)],
        "wrong": verdict(answers, samples),
    }
    file.write_text(json.dumps(document, indent=2))
