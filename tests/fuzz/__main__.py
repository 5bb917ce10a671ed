"""Sends a server every kind of request that its OpenAPI document allows, and many that it does not.

python -m tests.fuzz [--engine duckdb] [--access admin] [--phases coverage,fuzzing] [--examples 20]
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from tests.benchmarks.engines import DuckDB, PostgreSQL, engine
from tests.fuzz.fuzzing import ACCESS, PHASES, fuzz, guarded_server


@click.command(help=__doc__)
@click.option("--engine", "engines", type=click.Choice([DuckDB.name, PostgreSQL.name]), multiple=True)
@click.option("--access", "accesses", type=click.Choice(ACCESS), multiple=True)
@click.option("--phases", default=",".join(PHASES), show_default=True)
@click.option("--examples", type=click.IntRange(1), default=20, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
def main(engines: tuple[str, ...], accesses: tuple[str, ...], phases: str, examples: int, seed: int) -> None:
    failed = False
    for name in engines or (DuckDB.name, PostgreSQL.name):
        with tempfile.TemporaryDirectory() as temporary, engine(name, Path(temporary) / name) as place:
            for access in accesses or ACCESS:
                folder = place.folder / access
                folder.mkdir()
                click.echo(f"=== {name}, {access}")
                with guarded_server(folder, place.database(access, 0), access) as (server, token):
                    done = fuzz(server, token, phases=phases.split(","), examples=examples, seed=seed)
                    click.echo(done.stdout)
                    failed = failed or done.returncode != 0 or "Traceback" in server.logged()
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
