"""Compares this server with the bare engine, and with MLflow's tracking server, on the same work.

    python -m tests.benchmarks [--engine both] [--runs 10000] [--only NAME]... [--quick] [--json FILE]

Prints a table for each engine. MLflow works on SQLite beside DuckDB, and on PostgreSQL beside PostgreSQL; it
is installed into a virtual environment of its own.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import click

from tests.benchmarks import cases, report
from tests.benchmarks.contest import Case, Contestant, race
from tests.benchmarks.engines import DuckDB, Engine, PostgreSQL, engine
from tests.benchmarks.mlflow import install, mlflow_server
from tests.benchmarks.report import Result
from tests.benchmarks.servers import Starter, product

SMALL = 10_000
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "test-suite-db" / "mlflow"


@click.command(help=__doc__)
@click.option("--engine", "chosen", type=click.Choice([DuckDB.name, PostgreSQL.name, "both"]), default="both")
@click.option("--runs", type=click.IntRange(1), default=SMALL, show_default=True, help="Size of the history.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--only", multiple=True, type=click.Choice(cases.NAMES), help="Only this case; repeatable.")
@click.option("--quick", is_flag=True, help="One round, and each operation once.")
@click.option("--mlflow/--no-mlflow", "with_mlflow", default=True, help="With or without MLflow.")
@click.option("--mlflow-venv", type=click.Path(path_type=Path), default=CACHE, show_default=True)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
def main(
    chosen: str,
    runs: int,
    rounds: int,
    only: tuple[str, ...],
    quick: bool,
    with_mlflow: bool,
    mlflow_venv: Path,
    json_file: Path | None,
) -> None:
    rounds = 1 if quick else rounds
    command = install(mlflow_venv) if with_mlflow else None
    compared = cases.chosen(only, quick=quick)
    grown = [
        case
        for case in cases.chosen((), quick=quick)
        if case.name in cases.GROWING and (cases.GROWTH in only or not only)
    ]
    results: list[Result] = []
    for name in [DuckDB.name, PostgreSQL.name] if chosen == "both" else [chosen]:
        with tempfile.TemporaryDirectory() as folder, engine(name, Path(folder) / name) as place:
            found: list[Result] = []
            try:
                if compared:
                    with contestants(place, runs, command) as racing:
                        found += compare(place, compared, racing, rounds)
                if grown:
                    with sizes(place, runs) as racing:
                        found += compare(place, grown, racing, rounds, title="growth: ")
                if cases.START in only or not only:
                    with starters(place, runs) as racing:
                        found += compare(place, [Case(cases.START, 1)], racing, rounds)
            finally:  # what was measured, whatever ended it
                report.show(found, name)
                results += found
                if json_file:
                    report.write(results, json_file, {"runs": runs, "rounds": rounds, "quick": quick})


def compare(
    place: Engine, racing_in: Sequence[Case], racing: Sequence[Contestant], rounds: int, title: str = ""
) -> Iterator[Result]:
    for case in racing_in:
        click.echo(f"{place.name} {title}{case.name}", err=True)
        yield Result(place.name, title + case.name, race(case, racing, rounds))


@contextmanager
def contestants(place: Engine, runs: int, mlflow: Path | None) -> Iterator[list[Contestant]]:
    """The server, the limit and MLflow, each on a copy of the history."""
    with ExitStack() as stack:
        server = product("server", place.folder / "server", place.database("served", runs), place.pids)
        racing: list[Contestant] = [stack.enter_context(server)]
        racing.append(stack.enter_context(closing(place.limit(place.database("limit", runs)))))
        if mlflow is not None:
            store = place.mlflow_store("mlflow")
            history = history_file(place, runs)
            folder = place.folder / "mlflow"
            racing.append(stack.enter_context(mlflow_server(mlflow, folder, store, history, place.pids)))
        yield racing


def history_file(place: Engine, runs: int) -> Path:
    """The history as a DuckDB file, whatever the engine."""
    folder = place.folder / "history"
    folder.mkdir()
    DuckDB(folder).database("history", runs)
    return folder / "history.duckdb"


@contextmanager
def sizes(place: Engine, runs: int) -> Iterator[list[Contestant]]:
    """Servers on the history and on one of ten thousand runs, or a tenth when it is no larger itself."""
    small = SMALL if runs > SMALL else max(runs // 10, 1)
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                product(f"{size} runs", place.folder / name, place.database(name, size), place.pids)
            )
            for name, size in (("large", runs), ("small", small))
        ]


@contextmanager
def starters(place: Engine, runs: int) -> Iterator[list[Contestant]]:
    with ExitStack() as stack:
        racing: list[Contestant] = []
        for name, size in (("started", runs), ("empty", 0)):
            starter = Starter(f"{size} runs", place.folder, place.database(name, size), os.getpid())
            stack.callback(starter.stop)
            racing.append(starter)
        yield racing


if __name__ == "__main__":
    main()
