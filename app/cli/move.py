"""The command that takes everything from one database to another: move."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import click

from app.cli import tables
from app.cli.data import progress
from app.cli.options import database_argument, json_option, print_json
from app.db import migrate as migrations
from app.db.database import Database
from app.db.engine import embedded_file, normalize_url, shown_url
from app.db.opening import open_database, open_to_read
from app.errors import AppError
from app.schemas.moving import Moved, MovedTable
from app.services import moving
from app.vocabulary import number_of


@click.command()
@click.argument("source", metavar="SOURCE_URL", callback=database_argument)
@click.argument("target", metavar="TARGET_URL", callback=database_argument)
@json_option
def move(source: str, target: str, as_json: bool) -> None:
    """Copy everything from a database to an empty one, and compare them.

    Each is a URL, or the path of a file; nothing else may hold them. The target is made or migrated first.
    When something ends the command, the same command goes on where it was.
    """
    if _place(source) == _place(target):
        raise click.UsageError("SOURCE_URL and TARGET_URL are the same database.")
    begun = time.monotonic()
    with _about(source), closing(open_to_read(source)) as origin:
        with _about(target):
            *_, copy = migrations.migrate(target)
        if copy is not None and not as_json:
            click.echo(f"The file as it was is kept as {copy}.")
        streams, already_there = _copy(origin, target, quiet=as_json)
    found = _verify(target, streams, quiet=as_json)
    moved = Moved(
        tables=found,
        rows=sum(table.rows for table in found.values()),
        already_there=already_there,
        seconds=round(time.monotonic() - begun, 3),
    )
    if as_json:
        print_json(moved)
        return
    tables.print_moved(moved)
    rows = number_of(moved.rows, "row")
    before = f", {already_there} of them before" if already_there else ""
    click.echo(f"\nMoved {rows} to {shown_url(target)} in {moved.seconds:.1f}s{before}; both are equal.")


def _copy(origin: Database, target: str, *, quiet: bool) -> tuple[list[moving.Stream], int]:
    total = origin.read(moving.count_rows)
    statements = [moving.in_key_order(model) for model in moving.MODELS]
    with origin.streams(statements) as results, progress("Moving", quiet=quiet) as report:
        streams = [moving.Stream(model, rows) for model, rows in zip(moving.MODELS, results, strict=True)]
        with _about(target), closing(open_to_read(target)) as there:
            already_there = done = there.read(moving.skip_moved, streams)
        with _about(target), closing(open_database(target)) as there:
            while rows := _page(there, streams):
                done += rows
                report(done, total)
    return streams, already_there


def _page(target: Database, streams: list[moving.Stream]) -> int:
    # No second try: by then the rows are taken from the source. The next move finds them there.
    with target.transaction() as session:
        return moving.copy_page(session, streams)


def _verify(target: str, streams: list[moving.Stream], *, quiet: bool) -> dict[str, MovedTable]:
    total, done = sum(stream.tally.rows for stream in streams), 0
    with progress("Comparing", quiet=quiet) as report, closing(open_to_read(target)) as there:

        def more(rows: int) -> None:
            nonlocal done
            done += rows
            report(done, total)

        return there.read(moving.verify, streams, more)


@contextmanager
def _about(url: str) -> Iterator[None]:
    """Says of which of the two databases an error is."""
    try:
        yield
    except AppError as error:
        if not error.detail.startswith(shown_url(url)):
            raise click.ClickException(f"{shown_url(url)}: {error.detail}") from error
        raise


def _place(url: str) -> object:
    file = embedded_file(url)
    return normalize_url(url) if file is None else file.resolve()


commands = (move,)
