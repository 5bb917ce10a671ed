"""What was seen as tables, and what it means."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import linear_regression, median

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
"""Samples without which nothing is said of what grows."""
SLOPE = 1.0
"""MiB a minute that memory may grow in the second half."""
GROWTH = 0.15
"""Part of its memory that the server may grow by after the warm-up."""
MORE = 5
"""Handles or threads that the end may have more than the time after the warm-up: of requests under way."""
LONGEST = 10.0
"""Seconds that one request may take."""


def verdict(answers: Sequence[Answered], samples: Sequence[Sample]) -> list[str]:
    """Everything that is not as it should be, a line each."""
    wrong = [f"{count} × {what}" for what, count in _errors(answers).items()]
    slow = [answer for answer in answers if answer.seconds > LONGEST and answer.kind not in WAITS]
    wrong += [f"{answer.kind} took {answer.seconds:.1f} s" for answer in slow]
    if len(samples) < ENOUGH:
        return wrong
    wrong += _slower(answers, samples[-1].at)
    if (slope := memory_slope(samples)) > SLOPE:
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


def memory_slope(samples: Sequence[Sample]) -> float:
    """MiB a minute, by least squares over the second half."""
    half = samples[len(samples) // 2 :]
    return linear_regression(
        [sample.at / 60 for sample in half], [sample.memory / MIB for sample in half]
    ).slope


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
    """Kinds whose 95th percentile is far higher in the last third than in the one before."""
    found = []
    for kind, group in _by_kind(answers).items():
        before = sorted(a.seconds for a in group if 1 / 3 < a.at / seconds <= 2 / 3)
        after = sorted(a.seconds for a in group if a.at / seconds > 2 / 3)
        if kind not in WAITS and min(len(before), len(after)) >= ENOUGH:
            was, now = percentile(before, 0.95), percentile(after, 0.95)
            if now > 2 * was + 0.1:
                found.append(f"{kind} got slower: p95 {1000 * was:.0f} ms, then {1000 * now:.0f} ms")
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


PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}


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
        click.echo(
            f"Memory: {memory_slope(samples):+.2f} MiB a minute in the second half, "
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
        "wrong": verdict(answers, samples),
    }
    file.write_text(json.dumps(document, indent=2))
