"""Databases before their first use: made, upgraded with a copy kept, or refused untouched."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest
from sqlalchemy import Engine, text

from app.db import make_engine, migrate
from app.db.engine import embedded_file
from app.db.migrate import Revisions, prepare, require_current, revisions, upgrade
from app.errors import MigrationError, Unavailable
from tests.factories import contents, fill

HEAD = "0003"
NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"


@contextmanager
def engine_of(url: str) -> Iterator[Engine]:
    engine = make_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


def rows_and_revision(file: Path) -> tuple[object, str]:
    with engine_of(f"duckdb:///{file}") as engine, engine.connect() as connection:
        return contents(connection), connection.scalar(text("SELECT version_num FROM alembic_version")) or ""


def set_revision(url: str, revision: str) -> None:
    with engine_of(url) as engine, engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :new"), {"new": revision})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def everything(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A name with which no sentence about blocks and locks may be mistaken."""
    folder = tmp_path / "clock & lock ünï"
    folder.mkdir()
    return folder


@pytest.fixture
def file(folder: Path, duckdb_template: Path) -> Path:
    """A migrated file."""
    return Path(shutil.copy(duckdb_template, folder / "runs.duckdb"))


@pytest.fixture
def old_file(folder: Path) -> Path:
    """A filled file of an older version, whose last rows are only in its log, as after a crash."""
    file, original = folder / "runs.duckdb", folder / "original.duckdb"
    with engine_of(f"duckdb:///{original}") as engine:
        upgrade(engine, "0001")
        with engine.begin() as connection:
            fill(connection)
        for suffix in ("", ".wal"):
            shutil.copy(f"{original}{suffix}", f"{file}{suffix}")
    original.unlink()
    return file


def test_a_new_file_is_made_and_migrated(folder: Path) -> None:
    file = folder / "new" / "folders" / "runs.duckdb"
    assert prepare(f"duckdb:///{file}") is None
    assert names(file.parent) == ["runs.duckdb"]
    with engine_of(f"duckdb:///{file}") as engine:
        require_current(engine)
    assert prepare(f"duckdb:///{file}") is None
    assert names(file.parent) == ["runs.duckdb"]


def test_a_relative_path_is_below_the_working_directory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    prepare("duckdb:///data/runs.duckdb")
    assert names(folder / "data") == ["runs.duckdb"]


def test_a_current_file_is_left_as_it_is(file: Path) -> None:
    before = everything(file.parent)
    assert prepare(f"duckdb:///{file}") is None
    assert everything(file.parent) == before


def test_an_older_file_is_upgraded_and_a_copy_of_it_kept(old_file: Path) -> None:
    with engine_of(f"duckdb:///{old_file.with_name('expected.duckdb')}") as engine:
        upgrade(engine)
        with engine.begin() as connection:
            fill(connection)
            expected = contents(connection)
    old_file.with_name("expected.duckdb").unlink()

    copy = prepare(f"duckdb:///{old_file}")
    assert copy is not None
    assert re.fullmatch(r"runs\.duckdb\.0001-\d{8}T\d{6}\.bak", copy.name)
    assert names(old_file.parent) == ["runs.duckdb", copy.name]
    assert rows_and_revision(old_file) == (expected, HEAD)
    assert rows_and_revision(copy) == (expected, "0001")


def test_a_file_that_was_downgraded_to_nothing_is_migrated_again(file: Path) -> None:
    connection = duckdb.connect(str(file))
    for (table,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall():
        connection.execute(f"DELETE FROM {table}" if table == "alembic_version" else f"DROP TABLE {table}")
    connection.close()
    assert prepare(f"duckdb:///{file}") is None
    with engine_of(f"duckdb:///{file}") as engine:
        require_current(engine)


def test_a_file_of_a_newer_version_is_refused_untouched(file: Path) -> None:
    set_revision(f"duckdb:///{file}", "0999")
    before = everything(file.parent)
    for use in (prepare, migrate.migrate):
        with pytest.raises(MigrationError, match=r"0999.*newer version"):
            use(f"duckdb:///{file}")
    assert everything(file.parent) == before


def test_a_file_with_other_tables_is_refused_untouched_even_with_a_log(folder: Path) -> None:
    file = folder / "other.duckdb"
    with duckdb.connect(str(folder / "original")) as connection:
        connection.execute("CREATE TABLE sales (id INTEGER)")
        connection.execute("CHECKPOINT")
        connection.execute("INSERT INTO sales VALUES (1)")
        for suffix in ("", ".wal"):
            shutil.copy(f"{folder / 'original'}{suffix}", f"{file}{suffix}")
    (folder / "original").unlink()
    before = everything(folder)
    assert len(before) == 2
    with pytest.raises(MigrationError, match="other tables"):
        prepare(f"duckdb:///{file}")
    assert everything(folder) == before


@pytest.mark.parametrize("content", ["", "run,status\na,completed\n", "x" * 100_000])
def test_a_file_that_is_no_database_is_refused_untouched(folder: Path, content: str) -> None:
    file = folder / "block.duckdb"
    file.write_text(content)
    with pytest.raises(Unavailable, match="cannot be opened as a DuckDB database") as caught:
        prepare(f"duckdb:///{file}")
    assert str(file) in caught.value.detail
    assert "another process" not in caught.value.detail
    assert everything(folder) == {"block.duckdb": content.encode()}


def test_a_file_that_another_process_holds_is_unavailable(file: Path) -> None:
    script = (
        "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "open\n"
        for use in (prepare, migrate.migrate):
            with pytest.raises(Unavailable, match=r"held by another process.*--url"):
                use(f"duckdb:///{file}")
        holder.stdin.write("\n")
    assert prepare(f"duckdb:///{file}") is None


def test_a_folder_that_cannot_be_made_is_unavailable(folder: Path) -> None:
    (folder / "data").write_text("a file")
    with pytest.raises(Unavailable, match=r"data.* cannot be used \(.*choose another file"):
        prepare(f"duckdb:///{folder / 'data' / 'runs.duckdb'}")


def test_a_first_migration_that_fails_leaves_no_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(engine: Engine, revision: str = "head") -> None:
        upgrade(engine, "0001")
        raise RuntimeError("on purpose")

    monkeypatch.setattr(migrate, "upgrade", fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        prepare(f"duckdb:///{folder / 'runs.duckdb'}")
    assert names(folder) == []


def test_a_file_that_another_process_makes_meanwhile_is_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, duckdb_template: Path
) -> None:
    file = folder / "runs.duckdb"

    def slow(engine: Engine, revision: str = "head") -> None:
        upgrade(engine, revision)
        shutil.copy(duckdb_template, file)
        with engine_of(f"duckdb:///{file}") as other, other.begin() as connection:
            fill(connection, 1)

    monkeypatch.setattr(migrate, "upgrade", slow)
    assert prepare(f"duckdb:///{file}") is None
    rows, _revision = rows_and_revision(file)
    assert rows["test_runs"]  # type: ignore[index]
    assert names(folder) == ["runs.duckdb"]


def test_leftovers_of_a_killed_start_do_not_matter(
    folder: Path, old_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getpid", lambda: 7)
    for suffix in ("", ".wal"):
        Path(f"{old_file}{suffix}").rename(folder / f"runs.duckdb.new-7{suffix}")
    prepare(f"duckdb:///{folder / 'runs.duckdb'}")
    rows, revision = rows_and_revision(folder / "runs.duckdb")
    assert revision == HEAD
    assert not any(rows.values())  # type: ignore[attr-defined]
    assert names(folder) == ["runs.duckdb"]


@pytest.mark.parametrize("url", [NOWHERE, "duckdb:///:memory:"])
def test_only_files_are_prepared(url: str) -> None:
    assert prepare(url) is None


def test_migrate_applies_what_is_pending_once(empty_url: str) -> None:
    assert migrate.migrate(empty_url) == (None, HEAD, None)
    with engine_of(empty_url) as engine:
        require_current(engine)
    assert migrate.migrate(empty_url) == (HEAD, HEAD, None)


def test_migrate_tells_where_the_copy_is(old_file: Path) -> None:
    before, after, copy = migrate.migrate(f"duckdb:///{old_file}")
    assert (before, after) == ("0001", HEAD)
    assert copy is not None
    assert copy.exists()


def test_require_current_names_the_revisions_and_the_command(empty_url: str) -> None:
    with engine_of(empty_url) as engine:
        with pytest.raises(MigrationError, match=rf"\(none\).*{HEAD}.*testdb migrate"):
            require_current(engine)
        upgrade(engine, "0001")
        assert revisions(engine) == Revisions("0001", HEAD)
        with pytest.raises(MigrationError, match=rf"revision 0001 .*{HEAD}.*alembic upgrade head"):
            require_current(engine)
        upgrade(engine)
        require_current(engine)
    set_revision(empty_url, "0999")
    with engine_of(empty_url) as engine, pytest.raises(MigrationError, match=r"0999.*newer version"):
        require_current(engine)


def test_tables_that_no_migration_made_are_refused(empty_url: str) -> None:
    with engine_of(empty_url) as engine:
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE test_runs (id INTEGER)"))
        with pytest.raises(MigrationError, match="no migration made"):
            revisions(engine)
    with pytest.raises(MigrationError, match=r"another file|an empty database"):
        migrate.migrate(empty_url)


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with engine_of(NOWHERE) as engine, pytest.raises(Unavailable, match="does not answer"):
        require_current(engine)
    with pytest.raises(Unavailable, match="does not answer"):
        migrate.migrate(NOWHERE)


def test_the_file_of_a_url() -> None:
    assert embedded_file("duckdb:////data/runs.duckdb") == Path("/data/runs.duckdb")
    assert embedded_file("duckdb:///data/runs.duckdb") == Path("data/runs.duckdb")
    assert embedded_file("duckdb:///:memory:") is embedded_file("duckdb:///:memory:shared") is None
    assert embedded_file(NOWHERE) is None
