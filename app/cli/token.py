"""The commands that make, list and revoke tokens for the server."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import click

from app.cli import tables
from app.cli.options import DATABASE, json_option, load_settings, print_json, setting_options
from app.schemas.common import is_id
from app.services.tokens import TokenFile
from app.vocabulary import Scope

Command = TypeVar("Command", bound=Callable[..., Any])

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
LONGEST = timedelta(days=36_500)


class _Lifetime(click.ParamType[timedelta]):
    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        found = re.fullmatch(r"([1-9]\d{0,7})([smhdw])", value, re.ASCII)
        if found and (lifetime := timedelta(**{UNITS[found[2]]: int(found[1])})) <= LONGEST:
            return lifetime
        return self.fail("must be a number with s, m, h, d or w, for example 90d; at most 36500d", param, ctx)


def _file_options(command: Command) -> Command:
    """The settings that say where the tokens are."""
    return setting_options("token_file", "results_dir", *DATABASE)(command)


@click.group()
def token() -> None:
    """Make, list and revoke tokens for the server.

    As soon as there is a token the server asks for one; it notices changes by itself. When it is on another
    machine, run this there.
    """


@token.command()
@click.argument("name")
@click.option(
    "--scope",
    type=click.Choice([scope.value for scope in Scope]),
    required=True,
    help="What it allows: read; write also records, imports and runs tests; admin also deletes and exports.",
)
@click.option("--expires", type=_Lifetime(), metavar="TIME", help="How long it counts, as 90d or 12h.")
@_file_options
def create(name: str, scope: str, expires: timedelta | None, **given: Any) -> None:
    """Make a token and print it, this once: it is stored as a hash."""
    if not is_id(name):
        raise click.UsageError("NAME: must be 1 to 200 letters, digits and ._:-")
    click.echo(_file(given).create(name, Scope(scope), expires))


@token.command("list")
@_file_options
@json_option
def list_tokens(as_json: bool, **given: Any) -> None:
    """List the tokens: names, scopes and times, not what they are."""
    found = _file(given).tokens()
    if as_json:
        print_json(found)
    else:
        tables.print_tokens(found)


@token.command()
@click.argument("name")
@_file_options
def revoke(name: str, **given: Any) -> None:
    """Take a token back; a running server refuses it within a second."""
    file = _file(given)
    file.revoke(name)
    click.echo(f"Revoked {name}.")
    if not file.tokens():
        click.echo(f"No token is left, so nobody gets in; remove {file.path} to let in everybody.", err=True)


def _file(given: dict[str, Path | str | None]) -> TokenFile:
    return TokenFile(load_settings(given).tokens_path)


commands = (token,)
