"""Databases and servers that are missing, taken, or something else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

import app.client
from app.db import make_engine
from tests.cli.helpers import (
    Twins,
    answer,
    ids,
    names,
    options_of,
    refused,
)
from tests.cli.strangers import http, stranger
from tests.marks import ON_DUCKDB, ON_POSTGRESQL

JUNIT = Path(__file__).parents[1] / "data" / "junit"
NOWHERE = "http://127.0.0.1:1"
COMMANDS = {
    "runs": ["runs"],
    "show": ["show", "r"],
    "import": ["import", "{file}"],
    "export": ["export", "out.json"],
    "delete": ["delete", "r", "--yes"],
    "prune": ["prune", "--older-than", "90d"],
    "check": ["check"],
}


@pytest.fixture(params=COMMANDS)
def command(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each data command, in an empty working directory."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return [part.format(file=JUNIT / "pytest.xml") for part in COMMANDS[request.param]]


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "import"], indirect=True)
def test_a_file_that_is_missing_is_an_error_and_not_made(command: list[str], tmp_path: Path) -> None:
    file = tmp_path / "folder" / "missing.duckdb"
    assert refused(*command, "--db-path", str(file)).startswith(f"There is no database at {file};")
    assert "data/test_runs.duckdb" in refused(*command)
    assert [path.name for path in tmp_path.iterdir()] == ["cwd"]
    assert list(Path.cwd().iterdir()) == []


@ON_DUCKDB
def test_a_file_that_a_server_holds_is_an_error_that_says_what_to_do(
    history: Twins, command: list[str]
) -> None:
    said = refused(*command, *history.held)
    assert "held by another process" in said
    assert "--url" in said
    assert list(Path.cwd().iterdir()) == []


@ON_DUCKDB
def test_a_file_that_is_taken_in_the_last_moment_is_the_same_error(
    history: Twins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.db.opening.prepare", lambda url: None)
    said = refused("runs", *history.held)
    assert "held by another process" in said
    assert "--url" in said


@ON_POSTGRESQL
def test_an_unmigrated_database_is_an_error(empty_url: str, command: list[str]) -> None:
    assert "`testdb migrate`" in refused(*command, *options_of(empty_url))


def test_a_database_server_that_is_not_there_is_an_error(command: list[str]) -> None:
    said = refused(*command, "--database-url", "postgresql://someone:secret@127.0.0.1:1/nothing")
    assert "does not answer" in said
    assert "secret" not in said


@pytest.mark.parametrize("name", ["text", "duckdb", "folder"])
def test_a_file_that_is_something_else_is_an_error(tmp_path: Path, name: str) -> None:
    file = tmp_path / "other"
    if name == "duckdb":
        engine = make_engine(f"duckdb:///{file}")
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE sales (id INTEGER)"))
        engine.dispose()
    elif name == "text":
        file.write_text("run,status\n")
    else:
        file.mkdir()
    said = refused("runs", "--db-path", str(file))
    assert str(file) in said


@pytest.mark.parametrize("address", [NOWHERE, "http://user:secret@127.0.0.1:1/below"])
def test_a_server_that_is_not_there_is_an_error(command: list[str], address: str) -> None:
    said = refused(*command, "--url", address)
    assert "does not answer" in said
    assert "http://127.0.0.1:1" in said
    assert "secret" not in said
    assert list(Path.cwd().iterdir()) == []


STRANGERS = {
    "a page": http("<html>welcome</html>", kind="text/html"),
    "nothing": http("", "204 No Content", "text/plain"),
    "other JSON": http({"hello": "world"}),
    "another list": http([{"hello": "world"}]),
    "a redirection": http("", "301 Moved", "text/html", Location="https://127.0.0.1:1/"),
    "no page": http("<html>none</html>", "404 Not Found", "text/html"),
    "another API": http({"detail": "Not Found"}, "404 Not Found"),
    "half a problem": http(["detail"], "500 Oops", "application/problem+json"),
    "broken off": http("[").replace(b"Content-Length: 1", b"Content-Length: 999"),
    "no HTTP": b"SSH-2.0-OpenSSH_9.9\r\n",
    "no answer": b"",
}


@pytest.mark.parametrize("sent", STRANGERS.values(), ids=STRANGERS)
def test_another_kind_of_server_is_an_error(command: list[str], sent: bytes) -> None:
    with stranger(lambda _path: sent) as url:
        said = refused(*command, "--url", url)
    assert url in said
    assert "is it" in said
    assert list(Path.cwd().iterdir()) == []


def test_pages_come_from_the_address_that_was_given(history: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy may have told the server another name for itself."""
    send = app.client.Remote._send

    def through_proxy(self: app.client.Remote, *args: Any, **kwargs: Any) -> Any:
        response = send(self, *args, **kwargs)
        if "link" in response.headers:
            response.headers["link"] = response.headers["link"].replace(
                "http://127.0.0.1", "https://inner.invalid"
            )
            assert "inner.invalid" in response.headers["link"]
        return response

    monkeypatch.setattr(app.client.Remote, "_send", through_proxy)
    assert names(answer("runs", "--limit", "1500", *history.remote)) == ids()[:1500]


def test_whatever_is_in_the_name_of_the_file(tmp_path: Path, duckdb_template: Path) -> None:
    for name in ("a b.duckdb", "100%20.duckdb", "what?x=1.duckdb", "größe#1@:+&.duckdb"):
        file = Path(shutil.copy(duckdb_template, tmp_path / name))
        assert answer("runs", "--db-path", str(file)) == []
        other = tmp_path / f"new {name}"
        answer("import", str(JUNIT / "pytest.xml"), "--db-path", str(other))
        assert other.exists()
