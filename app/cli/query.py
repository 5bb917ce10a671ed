"""The command for SQL: query."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from app.cli import tables
from app.cli.options import checked, connect, load_settings, target_options
from app.schemas.query import SqlQuery
from app.services.query import as_csv, as_json


@click.command()
@target_options
@click.argument("sql")
@click.option(
    "--param", "params", multiple=True, metavar="NAME=VALUE", help="The value of :NAME; repeatable."
)
@click.option("--limit", type=click.IntRange(1), default=1000, show_default=True, help="Most rows to show.")
@click.option("--csv", "output", flag_value="csv", help="Print CSV.")
@click.option("--json", "output", flag_value="json", help="Print JSON, for programs.")
def query(
    url: str | None,
    db_path: Path | None,
    database_url: str | None,
    sql: str,
    params: Sequence[str],
    limit: int,
    output: str | None,
) -> None:
    """Run one SELECT on the eight tables; `-` reads it from standard input.

    A parameter is a number, true, false, null or a JSON array where its value reads as one, else a text.
    """
    if sql == "-":
        sql = sys.stdin.read()
    request = checked(SqlQuery, sql=sql, params=_values(params), limit=limit)
    with connect(url, db_path, database_url) as client:
        answer = client.query(request, load_settings({}))
    if output == "json":
        click.echo(as_json(answer))
    elif output == "csv":
        click.echo(as_csv(answer), nl=False)
    else:
        tables.print_answer(answer)
        if answer.truncated:
            click.echo(f"There are more rows than {limit}; see --limit.", err=True)


def _values(params: Sequence[str]) -> dict[str, Any] | list[Any]:
    values = {}
    for param in params:
        name, separator, text = param.partition("=")
        if not separator or not name:
            raise click.UsageError(f"--param {param}: write it as NAME=VALUE.")
        values[name] = _value(text)
    return values or []


def _value(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if isinstance(value, dict | str) else value


commands = (query,)
