"""Options, their environment variables, and what is wrong usage."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click
import pytest

from app import __version__
from app.cli import main
from app.cli.options import setting_options
from app.config import Settings
from tests.cli.helpers import answer, invoke, refused
from tests.cli.strangers import http, stranger
from tests.server import TESTDB, run

EMPTY = http([])
DATA_COMMANDS = ["runs", "show", "import", "export", "delete", "prune", "check"]
DATABASE = {"db_path", "database_url"}
SETTINGS_OF = {
    "serve": set(Settings.model_fields) - {"url", "token"},
    "migrate": DATABASE,
    **dict.fromkeys(DATA_COMMANDS, DATABASE | {"url", "token"}),
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that goes wrong here can leave a file in the checkout."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def file(tmp_path: Path, duckdb_template: Path) -> str:
    """An empty database."""
    file = tmp_path / "runs.duckdb"
    file.write_bytes(duckdb_template.read_bytes())
    return str(file)


def flat(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("name", main.commands)
def test_help_says_every_option_and_its_environment_variable(name: str) -> None:
    command = main.commands[name]
    for flag in ("--help", "-h"):
        result = invoke(name, flag)
        assert (result.exit_code, result.stderr) == (0, "")
    shown = flat(result.stdout)
    assert flat(command.help or "").partition(".")[0] in shown
    settings = set()
    for parameter in command.params:
        if not isinstance(parameter, click.Option):
            continue
        assert parameter.help
        # The terminal may break a line within a long word.
        assert parameter.help.replace(" ", "") in shown.replace(" ", "")
        assert all(re.search(rf"{re.escape(option)}\b", shown) for option in parameter.opts)
        if parameter.name in Settings.model_fields:
            settings.add(parameter.name)
            assert f"[env: TESTDB_{parameter.name.upper()};" in shown
    assert settings == SETTINGS_OF.get(name, settings)


def test_help_lists_every_command() -> None:
    shown = invoke("--help").stdout
    assert all(re.search(rf"^  {name} +\w", shown, re.MULTILINE) for name in main.commands)
    assert set(SETTINGS_OF) <= set(main.commands)
    assert "environment variable" in shown


def test_every_setting_has_an_option_and_a_description() -> None:
    assert set().union(*SETTINGS_OF.values()) == set(Settings.model_fields)
    assert all(field.description for field in Settings.model_fields.values())


def test_version() -> None:
    assert invoke("--version").stdout == f"testdb, version {__version__}\n"


def test_what_only_queries_need_is_not_loaded_before(tmp_path: Path) -> None:
    done = run("--version", folder=tmp_path, command=(sys.executable, "-X", "importtime", *TESTDB[1:]))
    assert "app.services.query" in done.stderr
    assert "sqlglot" not in done.stderr


@pytest.mark.parametrize(
    "args", [["nonsense"], ["runs", "--nonsense"], ["runs", "extra"], ["show"], ["--url", "x"]]
)
def test_what_does_not_exist_is_wrong_usage(args: list[str]) -> None:
    refused(*args, code=2)


# --- which database


def test_a_file_from_the_environment(file: str) -> None:
    assert answer("runs", env={"TESTDB_DB_PATH": file}) == []
    assert answer("runs", env={"TESTDB_DATABASE_URL": f"duckdb:///{file}"}) == []


def test_a_server_from_the_environment(file: str) -> None:
    with stranger(lambda _path: EMPTY) as url:
        assert answer("runs", env={"TESTDB_URL": url}) == []
        assert answer("runs", env={"TESTDB_URL": url, "TESTDB_DB_PATH": "none.duckdb"}) == []


def test_options_win_over_the_environment(file: str) -> None:
    nothing = {"TESTDB_DB_PATH": "no.duckdb"}
    nowhere = {"TESTDB_DATABASE_URL": "postgresql://127.0.0.1:1/no"}
    unreachable = {"TESTDB_URL": "http://127.0.0.1:1"}
    for env in (nothing, nowhere, unreachable, nothing | nowhere | unreachable):
        assert answer("runs", "--db-path", file, env=env) == []
        assert answer("runs", "--database-url", f"duckdb:///{file}", env=env) == []
        with stranger(lambda _path: EMPTY) as url:
            assert answer("runs", "--url", url, env=env) == []


def test_a_url_wins_over_a_path_in_the_environment(file: str) -> None:
    env = {"TESTDB_DB_PATH": "no.duckdb", "TESTDB_DATABASE_URL": f"duckdb:///{file}"}
    assert answer("runs", env=env) == []


def test_an_empty_variable_is_as_none(file: str) -> None:
    assert answer("runs", env={"TESTDB_URL": "", "TESTDB_DATABASE_URL": "", "TESTDB_DB_PATH": file}) == []


@pytest.mark.parametrize("other", [["--db-path", "x"], ["--database-url", "duckdb:///x"]])
def test_a_server_and_a_database_exclude_each_other(other: list[str]) -> None:
    for name in ("runs", "check"):
        said = refused(name, "--url", "http://127.0.0.1:1", *other, code=2)
        assert "--url" in said
        assert "not both" in said


@pytest.mark.parametrize("name", ["runs", "check", "migrate", "serve"])
def test_a_file_and_a_url_exclude_each_other(name: str) -> None:
    assert "not both" in refused(name, "--db-path", "x", "--database-url", "duckdb:///y", code=2)


# --- wrong settings


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "mysql://user:secret@host/name",
        "sqlite:///runs.db",
        "postgresql+psycopg2://user:secret@host/name",
        "postgresql+asyncpg://user:secret@host/name",
        "postgresql://user:secret@host:port/name",
        "http://127.0.0.1:8000",
    ],
)
def test_a_database_that_is_not_supported_is_wrong_usage(url: str) -> None:
    for name in ("runs", "migrate", "serve"):
        said = refused(name, "--database-url", url, code=2)
        assert said.startswith("database_url (TESTDB_DATABASE_URL): ")
        assert "postgresql://user:password@host/name" in said
        assert "secret" not in said
    assert "TESTDB_DATABASE_URL" in refused("runs", code=2, env={"TESTDB_DATABASE_URL": url})


def test_postgresql_without_its_driver_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.db.engine.find_spec", lambda _name: None)
    assert "test-suite-db[postgres]" in refused("runs", "--database-url", "postgresql://host/name", code=2)


def test_an_unknown_option_in_the_address_of_a_database_is_an_error() -> None:
    for name in ("runs", "migrate", "serve"):
        said = refused(name, "--database-url", "postgresql://user:secret@127.0.0.1:1/name?nonsense=1")
        assert "nonsense" in said
        assert "secret" not in said


@pytest.mark.parametrize("name", ["runs", "migrate", "serve"])
def test_a_database_in_memory_is_refused(name: str) -> None:
    for url in ("duckdb:///:memory:", "duckdb://"):
        assert "name a file" in refused(name, "--database-url", url, code=2)
    assert "name a file" in refused(name, "--db-path", ":memory:", code=2)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "localhost:8000", "ftp://host", "nonsense"])
def test_an_address_that_is_none_of_the_web_is_wrong_usage(url: str) -> None:
    said = refused("runs", "--url", url, code=2)
    assert said.startswith("url (TESTDB_URL): ")
    assert "http://" in said
    assert "http://" in refused("runs", code=2, env={"TESTDB_URL": url})


@pytest.mark.parametrize("url", ["http://127.0.0.1:port", "http://[", "http://", "http://a b"])
def test_an_address_that_leads_nowhere_is_an_error(url: str) -> None:
    refused("runs", "--url", url)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "http"),
        ("port", "65536"),
        ("port", "-1"),
        ("max_body_mb", "0"),
        ("max_body_mb", "a lot"),
        ("write_timeout", "0"),
        ("write_timeout", "soon"),
        ("shutdown_timeout", "-1"),
        ("log_level", "loud"),
        ("log_format", "xml"),
    ],
)
def test_a_wrong_setting_is_wrong_usage_and_named(name: str, value: str) -> None:
    variable, option = f"TESTDB_{name.upper()}", f"--{name.replace('_', '-')}"
    for command in ("serve", "runs", "migrate"):
        assert f"({variable})" in refused(command, code=2, env={variable: value})
    said = refused("serve", option, value, code=2)
    assert option in said or variable in said


def test_an_option_of_something_that_is_no_setting_is_a_fault() -> None:
    with pytest.raises(KeyError):
        setting_options("nonsense")(lambda: None)
