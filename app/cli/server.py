"""Commands that run and set up a server: serve, migrate."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import click

from app.cli.options import DATABASE, load_settings, setting_options
from app.config import Settings
from app.db import migrate as migrations
from app.db.engine import shown_url
from app.db.opening import open_database
from app.errors import Unprotected
from app.logs import configure_logging
from app.services.tokens import TokenFile

_SERVER_SETTINGS = tuple(name for name in Settings.model_fields if name not in ("url", "token"))

FAILED = 70
"""The exit code when the database engine has failed for good: start the server anew."""


@click.command()
@setting_options(*_SERVER_SETTINGS)
@click.option(
    "--accept-loss", is_flag=True, help="Start on what is left of a database that has lost committed data."
)
def serve(accept_loss: bool, **given: Any) -> None:
    """Start the server.

    A new or older embedded file is made or migrated first (an older one is copied beside itself before); a
    PostgreSQL database must be migrated with `testdb migrate`.
    """
    # uvicorn finishes the requests in flight and then raises the signal again: that is a clean end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    settings = load_settings(given)
    _require_protection(settings)
    configure_logging(settings.log_level, settings.log_format)
    # Before the web framework starts: what is wrong is then said in one sentence.
    database = open_database(settings.sqlalchemy_url, accept_loss=accept_loss)
    database.close()
    from app.main import create_app
    from app.serving import Server

    if database.lost is not None:
        logging.getLogger("testdb").warning("started with what is left: %s", database.lost)
    logging.getLogger("testdb").info("serving %s", shown_url(settings.sqlalchemy_url))
    app = create_app(settings, lost=database.lost, on_fatal=_end)
    app.openapi()  # made now, not in the first request that needs it
    try:
        Server(
            app,
            host=settings.host,
            port=settings.port,
            request_timeout=settings.request_timeout,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=settings.shutdown_timeout,
        ).serve_forever()
    except SystemExit as end:  # it has said why, for example a port that is taken; its codes are its own
        sys.exit(1 if end.code else 0)


def _require_protection(settings: Settings) -> None:
    """Raises Unprotected where others could reach a server that lets everybody do everything."""
    if settings.loopback_only or settings.insecure:
        return
    if all(token.expired for token in TokenFile(settings.tokens_path).tokens()):
        raise Unprotected(
            f"Whoever reaches {settings.host} could do everything, as there is no token: make one with "
            "`testdb token create NAME --scope write`, listen on 127.0.0.1, or give --insecure."
        )


@click.command()
@setting_options(*DATABASE)
@click.option(
    "--print-config", is_flag=True, help="Print the path of the alembic.ini to use with `alembic -c`."
)
def migrate(db_path: Path | None, database_url: str | None, print_config: bool) -> None:
    """Bring a database to the revision this version needs; an embedded file is copied beside itself first."""
    if print_config:
        click.echo(migrations.config_file())
        return
    settings = load_settings({"db_path": db_path, "database_url": database_url})
    before, after, copy = migrations.migrate(settings.sqlalchemy_url)
    if copy is not None:
        click.echo(f"The file as it was is kept as {copy}.")
    if before == after:
        click.echo(f"Already at revision {after}; nothing to do.")
    else:
        click.echo(f"Migrated from revision {before or '(empty)'} to {after}.")


def _end(reason: str) -> None:
    """Ends the process at once: the engine would answer nothing more, and could not close the file."""
    logging.getLogger("testdb").critical(
        "the database has failed (%s); the server ends, and the next start recovers what was committed",
        reason,
    )
    logging.shutdown()
    os._exit(FAILED)


commands = (serve, migrate)
