"""`testdb migrate`: what it does to databases of every age, and what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text

from app.db import make_engine
from app.db.engine import embedded_file
from app.db.migrate import config_file, revisions, upgrade
from tests.cli.helpers import Twins, invoke, options_of, refused
from tests.factories import contents, fill
from tests.marks import ON_DUCKDB
from tests.server import environment, run

HEAD = ScriptDirectory.from_config(Config(config_file())).get_current_head()
FIRST = "0001"


@contextmanager
def engine_of(url: str) -> Iterator[Engine]:
    engine = make_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


def files(url: str) -> list[str]:
    """The names of the files of the database."""
    file = embedded_file(url)
    return sorted(path.name for path in file.parent.glob(f"{file.name}*")) if file else []


def said(*args: str, **kwargs: dict[str, str]) -> list[str]:
    result = invoke("migrate", *args, env=kwargs.get("env"))
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout.splitlines()


def test_a_new_database_is_migrated_once(empty_url: str) -> None:
    assert said(*options_of(empty_url)) == [f"Migrated from revision (empty) to {HEAD}."]
    with engine_of(empty_url) as engine:
        assert revisions(engine).current == HEAD
    before = files(empty_url)
    assert said(*options_of(empty_url)) == [f"Already at revision {HEAD}; nothing to do."]
    assert files(empty_url) == before


def test_an_older_database_keeps_its_rows_and_a_file_is_copied_first(empty_url: str) -> None:
    with engine_of(empty_url) as engine:
        upgrade(engine, FIRST)
        with engine.begin() as connection:
            fill(connection)
            expected = contents(connection)
    *copied, migrated = said(*options_of(empty_url))
    assert migrated == f"Migrated from revision {FIRST} to {HEAD}."
    with engine_of(empty_url) as engine, engine.connect() as connection:
        assert contents(connection) == expected
    file = embedded_file(empty_url)
    if file is None:
        assert copied == []
        return
    match = re.fullmatch(r"The file as it was is kept as (.+\.bak)\.", copied[0])
    assert match
    assert sorted(files(empty_url)) == sorted([file.name, Path(match[1]).name])
    with engine_of(f"duckdb:///{match[1]}") as engine:
        assert revisions(engine).current == FIRST
        with engine.connect() as connection:
            assert contents(connection) == expected


def test_a_database_of_a_newer_version_is_refused_untouched(url: str) -> None:
    with engine_of(url) as engine, engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0999'"))
    file = embedded_file(url)
    before = file.read_bytes() if file else None
    message = refused("migrate", *options_of(url))
    assert "0999" in message
    assert "newer version" in message
    assert (file.read_bytes() if file else None) == before
    with engine_of(url) as engine, engine.connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "0999"


def test_the_database_may_come_from_the_environment(empty_url: str, tmp_path: Path) -> None:
    assert said(env={"TESTDB_DATABASE_URL": empty_url})[-1].startswith("Migrated")
    file = tmp_path / "folder" / "new.duckdb"
    assert said(env={"TESTDB_DB_PATH": str(file)})[-1].startswith("Migrated")
    assert file.exists()


@ON_DUCKDB
def test_a_file_that_a_server_holds_is_an_error(history: Twins) -> None:
    message = refused("migrate", *history.held)
    assert "held by another process" in message


def test_a_database_server_that_is_not_there_is_an_error() -> None:
    message = refused("migrate", "--database-url", "postgresql://someone:secret@127.0.0.1:1/nothing")
    assert "does not answer" in message
    assert "secret" not in message


@pytest.mark.parametrize("content", ["text", "folder", "other tables"])
def test_a_file_that_is_something_else_is_an_error(tmp_path: Path, content: str) -> None:
    file = tmp_path / "other"
    if content == "text":
        file.write_text("run,status\n")
    elif content == "folder":
        file.mkdir()
    else:
        with engine_of(f"duckdb:///{file}") as engine, engine.begin() as connection:
            connection.execute(text("CREATE TABLE sales (id INTEGER)"))
    assert str(file) in refused("migrate", "--db-path", str(file))
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    assert "data" in refused("migrate", "--db-path", str(tmp_path / "data" / "runs.duckdb"))


@ON_DUCKDB
def test_the_printed_configuration_works_with_alembic_from_anywhere(empty_url: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    printed = run("migrate", "--print-config", folder=tmp_path / "elsewhere")
    assert (printed.returncode, printed.stderr) == (0, "")
    config = Path(printed.stdout.removesuffix("\n"))
    assert config.name == "alembic.ini"
    assert config.is_file()
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert said(*options_of(empty_url))[-1].endswith(f" to {HEAD}.")
    current = subprocess.run(
        [sys.executable, "-m", "alembic", "-c", config, "current"],
        cwd=tmp_path / "elsewhere",
        env=environment({"TESTDB_DATABASE_URL": empty_url}),
        capture_output=True,
        text=True,
    )
    assert current.stdout.strip() == f"{HEAD} (head)", current.stderr
