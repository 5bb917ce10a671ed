"""The command that spreads a database over the nodes of a cluster."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from app.cli.options import DATABASE, json_option, load_settings, setting_options
from app.cli.tables import print_placements
from app.db import sharding
from app.models import Base


@click.command()
@setting_options(*DATABASE)
@click.option("--dry-run", is_flag=True, help="Print the SQL that would be run, and run nothing.")
@json_option
def shard(db_path: Path | None, database_url: str | None, dry_run: bool, as_json: bool) -> None:
    """Shard a migrated database by run, on a PostgreSQL with the extension Citus.

    Stop the servers first. What is sharded already stays as it is.
    """
    settings = load_settings({"db_path": db_path, "database_url": database_url})
    done = sharding.shard(settings.sqlalchemy_url, Base.metadata, dry_run=dry_run)
    if as_json:
        click.echo(json.dumps(asdict(done), indent=2))
    elif dry_run and done.statements:
        for statement in ("BEGIN", *done.statements, "COMMIT"):
            click.echo(f"{statement};")
    else:
        print_placements(done.placements)
        if not done.statements:
            click.echo("Already sharded; nothing to do.")


commands = (shard,)
