"""Keeps a server busy with work of every kind, and says whether anything grows, slows down or fails.

python -m tests.load [--minutes 10] [--engine duckdb] [--json FILE]
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from tests.benchmarks.engines import DuckDB, PostgreSQL, engine
from tests.load import report
from tests.load.clients import Load, clients
from tests.load.sampling import Sample, sample
from tests.runner.suite import write_suite
from tests.server import serving


@click.command(help=__doc__)
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=10, show_default=True)
@click.option("--engine", "name", type=click.Choice([DuckDB.name, PostgreSQL.name]), default=DuckDB.name)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
def main(minutes: float, name: str, json_file: Path | None) -> None:
    seconds = 60 * minutes
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory() as temporary, engine(name, Path(temporary) / name) as place:
        suite, url = write_suite(place.folder / "suite"), place.database("load", 0)
        with serving(place.folder, "--database-url", url, "--suites", str(suite)) as server:
            load = Load(server.url)
            with clients(load):
                for found in sample(server.process.pid, place.pids, url, seconds, min(10, seconds / 2)):
                    click.echo(report.line(found), err=True)
                    samples.append(found)
    report.show(load.answers, samples)
    if json_file:
        report.write(json_file, load.answers, samples)
    if report.verdict(load.answers, samples):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
