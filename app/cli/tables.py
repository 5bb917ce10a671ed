"""What commands print for people."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from datetime import datetime

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.db.sharding import Placement
from app.schemas.check import Finding
from app.schemas.moving import Moved
from app.schemas.query import SqlAnswer
from app.schemas.retention import RetentionState
from app.schemas.runs import RunDetail, RunSummary
from app.services.query import cell
from app.services.tokens import TokenInfo
from app.vocabulary import number_of

WIDE = 1_000_000  # columns where no terminal says how many it has: nothing is folded or cut

_COLORS = {
    "completed": "green",
    "passed": "green",
    "running": "cyan",
    "error": "red",
    "failed": "red",
    "timeout": "red",
    "cancelled": "yellow",
    "skipped": "yellow",
}


def stderr() -> Console:
    return Console(stderr=True)


def _show(*parts: Table | str) -> None:
    """Prints the parts, with an empty line between them."""
    terminal = sys.stdout.isatty()
    # Ids and names are no markup, and `:x:` in them is no picture.
    console = Console(width=None if terminal else WIDE, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        for number, part in enumerate(parts):
            if number:
                console.print()
            console.print(part)
    text = captured.get()
    if not terminal:
        text = "\n".join(line.rstrip(" ") for line in text.split("\n"))  # without the padding of the table
    click.echo(text, nl=False)


def plain(value: str, *, lines: bool = False) -> str:
    """The value with its control characters made visible: they must not reach the terminal as such."""
    control = r"[\x00-\x08\x0b-\x1f\x7f-\x9f]" if lines else r"[\x00-\x1f\x7f-\x9f]"
    return re.sub(control, lambda found: repr(found[0])[1:-1], value)


def _text(value: str, style: str = "", *, lines: bool = False) -> Text:
    return Text(plain(value, lines=lines), style)


def _table(*columns: str, right: Sequence[str] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(
            column,
            justify="right" if column in right else "left",
            no_wrap=column in ("STATUS", "STARTED"),
            overflow="fold",
        )
    return table


def _status(status: str) -> Text:
    return _text(status, _COLORS.get(status, ""))


def _time(time: datetime | None) -> str:
    return "" if time is None else f"{time:%Y-%m-%d %H:%M:%SZ}"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if not math.isfinite(seconds):
        return str(seconds)
    return f"{seconds:.2f}s" if seconds < 100 else f"{seconds:.0f}s"


def print_runs(runs: Sequence[RunSummary]) -> None:
    if not runs:
        _show("No runs.")
        return
    right = ("PASSED", "FAILED", "SKIPPED", "DURATION")
    table = _table("RUN", "MODEL", "HARDWARE", "TYPE", "STATUS", *right, "STARTED", right=right)
    for run in runs:
        table.add_row(
            _text(run.run_id),
            _text(run.model_name),
            _text(", ".join(run.hardware)),
            _text(run.test_type),
            _status(run.status),
            str(run.tests_passed),
            Text(str(run.tests_failed), style="red" if run.tests_failed else ""),
            str(run.tests_skipped),
            _seconds(run.duration),
            _time(run.started_at),
        )
    _show(table)


def print_run(run: RunDetail) -> None:
    head = _table("", "")
    head.show_header = False
    counts = run.results or {}
    facts: list[tuple[str, str | Text]] = [
        ("Run", run.run_id),
        ("Model", run.model_name),
        ("Hardware", ", ".join(run.hardware)),
        ("Test type", run.test_type),
        ("Status", _status(run.status)),
        ("Step", run.current_step or ""),
        ("Started", _time(run.started_at)),
        ("Completed", _time(run.completed_at)),
        ("Duration", _seconds(run.duration)),
        ("Batches", ", ".join(run.batch_ids)),
        ("Tags", ", ".join(f"{name}={value}" for name, value in run.tags.items())),
        ("Error", run.error or ""),
    ]
    if counts:
        names = ("passed", "failed", "skipped")
        facts.append(("Tests", ", ".join(f"{counts[f'tests_{name}']} {name}" for name in names)))
    for name, value in facts:
        if value:
            head.add_row(
                Text(name, style="bold"), _text(value, lines=True) if isinstance(value, str) else value
            )
    parts = [head]
    if run.steps:
        table = _table("STEP", "STATUS", "DURATION", "ERROR", right=("DURATION",))
        for step in run.steps:
            table.add_row(
                _text(step.step_name),
                _status(step.status),
                _seconds(step.duration),
                _text(_gist(step.error or "")),
            )
        parts.append(table)
    if run.metrics:
        figures = ("LATEST", "MIN", "AVG", "MAX", "COUNT")
        table = _table("METRIC", *figures, "UNIT", right=figures)
        for name, metric in run.metrics.items():
            values = (metric.value, metric.min, metric.avg, metric.max)
            shown = ["" if value is None else f"{value:.6g}" for value in values]
            table.add_row(_text(name), *shown, str(metric.count), _text(metric.unit))
        parts.append(table)
    if run.artifacts:
        table = _table("ARTIFACT", "TYPE", "DESCRIPTION")
        for artifact in run.artifacts:
            table.add_row(
                _text(artifact.artifact_path),
                _text(artifact.artifact_type),
                _text(artifact.description or ""),
            )
        parts.append(table)
    _show(*parts)


def _gist(error: str) -> str:
    """The line that says most: of pytest's, which shows the code first, the one that it marks with an E."""
    lines = error.strip().split("\n")
    marked = (line[2:].strip() for line in lines if line.startswith("E  "))
    return next(filter(None, marked), lines[0])


def tell_retention(state: RetentionState | None) -> None:
    """Says on stderr what a server prunes by itself, if it does, and how the last time went."""
    if state is None or state.retention is None:
        return
    last = "not yet"
    if state.last is not None:
        went = f"{number_of(state.last.runs, 'run')} in {_seconds(state.last.seconds)}"
        last = f"last {_time(state.last.at)}, {went}"
        if state.last.error:
            last += f", then: {plain(state.last.error)}"
    click.echo(f"Retention: {state.retention}, every {state.every}; {last}", err=True)


def print_moved(moved: Moved) -> None:
    table = _table("TABLE", "ROWS", "CHECKSUM", right=("ROWS",))
    for name, found in moved.tables.items():
        table.add_row(name, str(found.rows), found.checksum)
    _show(table)


def print_answer(answer: SqlAnswer) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in answer.columns:
        right = column.type in ("integer", "number", "interval")
        table.add_column(_text(column.name), justify="right" if right else "left", overflow="fold")
    for row in answer.rows:
        table.add_row(*(_text(cell(value)) for value in row))
    _show(table)


def print_findings(findings: Sequence[Finding]) -> None:
    table = _table("TABLE", "PROBLEM", "ROWS", "FOR EXAMPLE", right=("ROWS",))
    for finding in findings:
        table.add_row(finding.table, finding.problem, str(finding.rows), _text(", ".join(finding.examples)))
    _show(table)


def print_tokens(tokens: Sequence[TokenInfo]) -> None:
    table = _table("NAME", "SCOPE", "CREATED", "EXPIRES")
    for token in tokens:
        until = "never" if token.expires_at is None else _time(token.expires_at)
        table.add_row(
            _text(token.name),
            token.scope,
            _time(token.created_at),
            f"{until}{' (over)' * token.expired}",
        )
    _show(table)


def print_placements(placements: Sequence[Placement]) -> None:
    table = _table("TABLE", "PLACED", "SHARDS", right=("SHARDS",))
    for placement in placements:
        placed = f"by {placement.column}" if placement.column else "on every node"
        table.add_row(_text(placement.table), placed, str(placement.shards))
    _show(table)
