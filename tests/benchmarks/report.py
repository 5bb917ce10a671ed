"""The results as a table and as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.contest import Samples, ratio

Spread = tuple[float, float, float]


@dataclass(frozen=True)
class Result:
    """One case on one engine: the samples by contestant, the one that is judged first."""

    engine: str
    case: str
    samples: dict[str, Samples]

    def document(self) -> dict[str, Any]:
        own, *others = self.samples
        return {
            "engine": self.engine,
            "case": self.case,
            "contestants": {name: samples.summary() for name, samples in self.samples.items()},
            "ratios": {f"{own} / {other}": ratio(self.samples[own], self.samples[other]) for other in others},
        }


def show(results: Sequence[Result], engine: str) -> None:
    """Prints a table: medians, with least and greatest in brackets."""
    table = Table(title=f"{engine}: medians of the rounds, (least to greatest)")
    table.add_column("case")
    for heading in (
        "contestant",
        "ms",
        "a second",
        "CPU ms",
        "memory +MB",
        "reads beside, ms",
        "server takes",
    ):
        table.add_column(heading, justify="right")
    for result in results:
        own = next(iter(result.samples))
        for name, samples in result.samples.items():
            label = result.case if name == own else ""
            summary = samples.summary()
            if "failure" in summary:
                table.add_row(label, name, summary["failure"])
                continue
            compared = None if name == own else ratio(result.samples[own], samples)
            table.add_row(
                label,
                name,
                _spread(summary["ms"]),
                _number(summary["per_second"]),
                _number(summary["cpu_ms"][0]),
                _number(summary["grew_mb"]) if name == own else "",
                _spread(summary["read_ms"]),
                f"{_spread(compared)} ×" if compared else "",
            )
        table.add_section()
    width = None if os.isatty(1) else 150
    Console(width=width).print(table)


def write(results: Sequence[Result], file: Path, settings: dict[str, Any]) -> None:
    """Writes everything, with what it was measured on."""
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    document = {"settings": settings, "machine": machine, "results": [item.document() for item in results]}
    file.write_text(json.dumps(document, indent=2, default=str) + "\n")


def _spread(values: Spread | None) -> str:
    if values is None:
        return ""
    median, least, greatest = map(_number, values)
    return median if least == greatest else f"{median} ({least} to {greatest})"


def _number(value: float) -> str:
    """Three significant digits."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
