"""What commands share: an option for each setting, made from the settings themselves; checks; JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import click
from pydantic import BaseModel, ValidationError

from app.client import Client, Local, Remote
from app.config import Settings
from app.db.engine import file_url, require_supported
from app.schemas.validation import field_errors

Model = TypeVar("Model", bound=BaseModel)
Command = TypeVar("Command", bound=Callable[..., Any])

DATABASE = ("db_path", "database_url")


def setting_options(*names: str, **more: Any) -> Callable[[Command], Command]:
    """Adds `--name` for each setting; what is not given comes from the environment or the default.

    `more` goes to each option as click takes it.
    """

    def decorate(command: Command) -> Command:
        for name in reversed(names):
            field = Settings.model_fields[name]
            command = click.option(
                f"--{name.replace('_', '-')}",
                name,
                default=None,
                is_flag=field.annotation is bool,
                type=_type_of(field.annotation),
                help=f"{field.description}  [env: TESTDB_{name.upper()}; default: {_shown(field.default)}]",
                **more,
            )(command)
        return command

    return decorate


def _type_of(annotation: Any) -> Any:
    if get_origin(annotation) is Literal:
        return click.Choice(get_args(annotation))
    if annotation in (Path, Path | None):
        return click.Path(path_type=Path)
    return annotation if annotation in (int, float, bool) else str


def _shown(default: Any) -> str:
    return "none" if default in (None, []) else str(default)


def load_settings(given: dict[str, Any]) -> Settings:
    """The settings with the given options on top; wrong ones are wrong usage."""
    chosen = {name: value for name, value in given.items() if value is not None}
    if chosen.get("db_path") is not None and chosen.get("database_url") is not None:
        raise click.UsageError("Give --db-path or --database-url, not both.")
    if "db_path" in chosen:
        chosen["database_url"] = None  # an option wins over the environment
    try:
        return Settings(**chosen)
    except ValidationError as error:
        found = field_errors(error.errors(include_url=False, include_input=False))[0]
    # Raised outside: what the chain of causes holds at exit makes the engine's library complain of leaks.
    raise click.UsageError(f"{found.field} (TESTDB_{found.field.upper()}): {found.message}")


_TOKEN = "testdb.token"


def _remember(ctx: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    ctx.meta[_TOKEN] = value


def target_options(command: Command) -> Command:
    """Adds the options that `connect` needs. It finds the token by itself: commands have no use for it."""
    command = setting_options("token", expose_value=False, callback=_remember)(command)
    return setting_options("url", *DATABASE)(command)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def connect(
    url: str | None, db_path: Path | None, database_url: str | None, *, create: bool = False
) -> Client:
    """The server at the URL, or the database; a named one wins over the environment."""
    if url is not None and (db_path is not None or database_url is not None):
        raise click.UsageError("Give --url, or a database with --db-path or --database-url, not both.")
    token = click.get_current_context().meta.get(_TOKEN)
    settings = load_settings({"url": url, "token": token, "db_path": db_path, "database_url": database_url})
    if settings.url and db_path is None and database_url is None:
        return Remote(settings.url, settings.token)
    private = [settings.tokens_path]
    return Local(settings.sqlalchemy_url, settings.results_dir, create=create, private=private)


def database_argument(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """The URL of a database that is given as one, or as the path of a file."""
    url = value if "://" in value else file_url(Path(value))
    try:
        require_supported(url)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return url


def checked(model: type[Model], **given: Any) -> Model:
    """The options as the model the server takes, too; what it refuses is wrong usage."""
    try:
        return model(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        found = field_errors(error.errors(include_url=False, include_input=False))[0]
    raise click.UsageError(f"--{found.field.replace('_', '-')}: {found.message}")


def print_json(answer: BaseModel | Sequence[BaseModel]) -> None:
    if isinstance(answer, BaseModel):
        click.echo(answer.model_dump_json(indent=2))
    else:
        # The models write NaN, which JSON does not have, as text.
        click.echo(json.dumps([json.loads(item.model_dump_json()) for item in answer], indent=2))
