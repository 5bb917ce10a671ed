"""What commands print for people."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.schemas.check import Finding
from app.schemas.runs import RunDetail, RunSummary

WIDE = 200  # columns where no terminal says how many it has

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


def stdout() -> Console:
    return Console(width=None if sys.stdout.isatty() else WIDE, highlight=False, soft_wrap=False)


def stderr() -> Console:
    return Console(stderr=True)


def _table(*columns: str, right: Sequence[str] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(
            column,
            justify="right" if column in right else "left",
            no_wrap=column in ("RUN", "STATUS", "STARTED"),
            overflow="fold",
        )
    return table


def _status(status: str) -> Text:
    return Text(status, style=_COLORS.get(status, ""))


def _time(time: datetime | None) -> str:
    return "" if time is None else f"{time:%Y-%m-%d %H:%M:%SZ}"


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2f}s" if seconds < 100 else f"{seconds:.0f}s"


def print_runs(runs: Sequence[RunSummary]) -> None:
    if not runs:
        stdout().print("No runs.")
        return
    right = ("PASSED", "FAILED", "SKIPPED", "DURATION")
    table = _table("RUN", "MODEL", "HARDWARE", "TYPE", "STATUS", *right, "STARTED", right=right)
    for run in runs:
        table.add_row(
            run.run_id,
            Text(run.model_name),
            Text(", ".join(run.hardware)),
            Text(run.test_type),
            _status(run.status),
            str(run.tests_passed),
            Text(str(run.tests_failed), style="red" if run.tests_failed else ""),
            str(run.tests_skipped),
            _seconds(run.duration),
            _time(run.started_at),
        )
    stdout().print(table)


def print_run(run: RunDetail) -> None:
    console = stdout()
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
            head.add_row(Text(name, style="bold"), Text(value) if isinstance(value, str) else value)
    console.print(head)
    if run.steps:
        table = _table("STEP", "STATUS", "DURATION", "ERROR", right=("DURATION",))
        for step in run.steps:
            first_line = (step.error or "").strip().partition("\n")[0]
            table.add_row(
                Text(step.step_name), _status(step.status), _seconds(step.duration), Text(first_line)
            )
        _section(table)
    if run.metrics:
        figures = ("LATEST", "MIN", "AVG", "MAX", "COUNT")
        table = _table("METRIC", *figures, "UNIT", right=figures)
        for name, metric in run.metrics.items():
            values = (metric.value, metric.min, metric.avg, metric.max)
            shown = ["" if value is None else f"{value:.6g}" for value in values]
            table.add_row(Text(name), *shown, str(metric.count), Text(metric.unit))
        _section(table)
    if run.artifacts:
        table = _table("ARTIFACT", "TYPE", "DESCRIPTION")
        for artifact in run.artifacts:
            table.add_row(
                Text(artifact.artifact_path), Text(artifact.artifact_type), Text(artifact.description or "")
            )
        _section(table)


def _section(table: Table) -> None:
    console = stdout()
    console.print()
    console.print(table)


def print_findings(findings: Sequence[Finding]) -> None:
    table = _table("TABLE", "PROBLEM", "ROWS", "FOR EXAMPLE", right=("ROWS",))
    for finding in findings:
        table.add_row(finding.table, finding.problem, str(finding.rows), Text(", ".join(finding.examples)))
    stdout().print(table)
