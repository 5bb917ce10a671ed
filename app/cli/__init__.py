"""The `testdb` command."""

from __future__ import annotations

import errno
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from app import __version__
from app.cli.arenas import share_arenas
from app.errors import AppError

share_arenas()

# Importing the database engine starts threads of it.
from app.cli import data, move, query, run, server, shard, token  # noqa: E402


class _Commands(click.Group):
    """Errors of the product end a command with their one sentence and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _termination_interrupts():
                return super().invoke(ctx)
        except AppError as error:
            raise click.ClickException(error.detail) from error
        except OSError as error:
            if error.errno == errno.EPIPE:  # `testdb runs | head`; the framework ends quietly
                raise
            raise click.ClickException(
                f"{error.filename or 'input/output'}: {error.strerror or error}"
            ) from error


@contextmanager
def _termination_interrupts() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does: nothing half is left behind."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # which alone may set it
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="testdb")
def main() -> None:
    """The history of test runs: serve it, fill it, ask it.

    Commands that touch data work through a running server (--url) or straight on a database that nothing else
    holds (--db-path, --database-url). Every setting has an environment variable, too; an option wins over it.
    """


for module in (server, run, data, query, move, shard, token):
    for command in module.commands:
        main.add_command(command)
