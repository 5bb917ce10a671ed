"""`python -m tests.crash --kills 200`: kills a server so often, and says what became of what it stored."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from tests.crash.kills import ENGINES, kill_often


@click.command()
@click.option("--kills", type=click.IntRange(1), default=200, show_default=True)
@click.option("--engine", type=click.Choice(list(ENGINES)), default="duckdb", show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
def main(kills: int, engine: str, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for kill, ledger in enumerate(kill_often(Path(folder), kills, engine=engine, seed=seed), 1):
            click.echo(
                f"{kill} kills, {ledger.answered} requests answered, {ledger.unanswered} not,"
                f" {len(ledger.wrong)} wrong"
            )
            if ledger.wrong:
                raise SystemExit("\n".join(ledger.wrong))


main()
