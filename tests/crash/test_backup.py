"""Backups: taken while a server runs and writes, verified, and put in place."""

from __future__ import annotations

import json
import os
import re
import threading
import zipfile
from pathlib import Path

import httpx2
import pytest

from app.db import Database, committed, copying
from app.models import TestRun
from app.services.files import work_folder
from tests.cli.helpers import answer, fill, invoke, refused
from tests.factories import contents
from tests.marks import ON_POSTGRESQL
from tests.server import PATIENCE, run, serving

API = "/api/test/db"


def rows(file: Path) -> object:
    database = Database(f"duckdb:///{file}")
    try:
        return database.read(lambda session: contents(session.connection()))
    finally:
        database.close()


def test_a_backup_of_a_server_that_is_written_is_one_moment(tmp_path: Path) -> None:
    """Each unit of work stores two runs: a moment has both, or none."""
    backup, copy = tmp_path / "all.zip", tmp_path / "new" / "copy.duckdb"
    stopping = threading.Event()
    stored: list[int] = []
    with serving(tmp_path) as server:

        def write() -> None:
            with httpx2.Client(timeout=PATIENCE) as client:
                while not stopping.is_set():
                    pair = [{"run_id": f"{len(stored)}-{n}", "model_name": "m"} for n in range(2)]
                    client.post(f"{server.url}{API}/ingest", json=pair).raise_for_status()
                    stored.append(len(stored))

        writer = threading.Thread(target=write)
        writer.start()
        try:
            while len(stored) < 20:
                stopping.wait(0.01)
            (tmp_path / "data" / "results" / "a").mkdir(parents=True)
            (tmp_path / "data" / "results" / "a" / "größe.json").write_text("{}")
            before = len(stored)
            manifest = answer("backup", str(backup), "--with-results", "--url", server.url)
            after = len(stored)
            assert "exists already" in refused("backup", str(backup), "--url", server.url)
        finally:
            stopping.set()
            writer.join()
        held = tmp_path / "data" / "test_runs.duckdb"
        options = ("--results-dir", str(tmp_path / "new" / "results"))
        assert "stop that" in refused("restore", str(backup), "--db-path", str(held), "--force", *options)
        assert list((tmp_path / "data" / "exports").iterdir()) == []
    assert 2 * before <= manifest["rows"]["test_runs"] <= 2 * (after + 1)
    done = invoke("restore", str(backup), "--db-path", str(copy), *options)
    assert done.exit_code == 0, done.output
    found = rows(copy)["test_runs"]  # type: ignore[index]
    ids = {row["run_id"] for row in found}
    assert len(ids) == manifest["rows"]["test_runs"]
    assert ids == {f"{n}-{half}" for n in range(len(ids) // 2) for half in range(2)}
    assert (tmp_path / "new" / "results" / "a" / "größe.json").read_text() == "{}"
    assert sorted(path.name for path in copy.parent.iterdir()) == ["copy.duckdb", "results"]


def test_a_restore_replaces_nothing_unless_told_and_only_by_what_is_whole(tmp_path: Path) -> None:
    file, other, backup = tmp_path / "a.duckdb", tmp_path / "it's.duckdb", tmp_path / "backup.zip"
    for path in (file, other):
        database = Database(f"duckdb:///{path}")
        database.close()
        assert invoke("migrate", "--db-path", str(path)).exit_code == 0
    fill(f"duckdb:///{other}")
    full, empty = rows(other), rows(file)
    assert answer("backup", str(backup), "--db-path", str(other))["rows"]["test_runs"] > 1000
    options = ("--db-path", str(file), "--results-dir", str(tmp_path / "results"))
    assert "--force" in refused("restore", str(backup), *options)
    with zipfile.ZipFile(backup) as archive:
        content, manifest = archive.read("database"), json.loads(archive.read("manifest.json"))
    outside = manifest | {"files": manifest["files"] | {"results/../../outside": ""}}
    fewer = manifest | {"rows": manifest["rows"] | {"test_runs": 1}}
    flipped = content[:-1000] + bytes([content[-1000] ^ 1]) + content[-999:]
    nothing: dict[str, object] = manifest | {"files": {}}
    odd = manifest | {"files": manifest["files"] | {"results/a\0b": ""}}
    crafted = [(manifest, flipped), *((told, content) for told in (outside, fewer, nothing, odd))]
    for told, stored in crafted:
        with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
            archive.writestr("database", stored)
            archive.writestr("manifest.json", json.dumps(told))
        assert (
            "bad.zip" in refused("restore", str(tmp_path / "bad.zip"), *options, "--force") or told is outside
        )
    with zipfile.ZipFile(backup) as archive:
        directory = archive.start_dir
    for place, byte in [(30 + len("database") + 20, 0b111), (directory + 10, 99)]:  # no such block, or method
        damaged = bytearray(backup.read_bytes())
        damaged[place] = byte
        (tmp_path / "bad.zip").write_bytes(damaged)
        assert "database is not what was backed up" in refused(
            "restore", str(tmp_path / "bad.zip"), *options, "--force"
        )
    half = tmp_path / "half.zip"
    half.write_bytes(backup.read_bytes()[:-5000])
    assert "not a whole one" in refused("restore", str(half), *options, "--force")
    assert rows(file) == empty
    answer("restore", str(backup), *options, "--force")
    assert rows(file) == full
    assert not (tmp_path.parent / "outside").exists()


def test_a_restore_spares_what_it_is_not_to_replace(tmp_path: Path) -> None:
    file, backup, results = tmp_path / "a.duckdb", tmp_path / "backup.zip", tmp_path / "results"
    (results / "r").mkdir(parents=True)
    (results / "r" / "x.json").write_text("{}")
    (results / "secret").touch()
    assert invoke("migrate", "--db-path", str(file)).exit_code == 0
    way = ("--db-path", str(file), "--results-dir", str(results))
    env = {"TESTDB_TOKEN_FILE": str(results / "secret")}
    done = run("backup", str(backup), *way, "--with-results", folder=tmp_path, env=env)
    assert done.stdout == f"{backup}: 0 runs, 0 batches and 1 result file\n"
    (tmp_path / "b.duckdb.wal").write_text("what was committed to a file that is away")
    other = ("--db-path", str(tmp_path / "b.duckdb"), "--results-dir", str(tmp_path / "others"))
    assert "b.duckdb.wal exists already" in refused("restore", str(backup), *other)
    link, before = tmp_path / "link.duckdb", file.stat().st_ino
    link.symlink_to(file)
    (results / "r" / "x.json").unlink()
    (results / "r" / "x.json").mkdir()
    way = ("--db-path", str(link), "--results-dir", str(results), "--force")
    assert "x.json is in the way" in refused("restore", str(backup), *way)
    assert file.stat().st_ino == before
    (results / "r" / "x.json").rmdir()
    answer("restore", str(backup), *way)
    assert link.is_symlink()
    assert file.stat().st_ino != before


def test_what_is_broken_is_backed_up_and_restored_with_a_warning(tmp_path: Path) -> None:
    file, backup = tmp_path / "a.duckdb", tmp_path / "backup.zip"
    assert invoke("migrate", "--db-path", str(file)).exit_code == 0
    database = Database(f"duckdb:///{file}")
    run = TestRun(run_id="r", model_name="m", status="odd")
    database.write(lambda session: session.add(run))
    database.close()
    answer("backup", str(backup), "--db-path", str(file))
    options = ("--db-path", str(tmp_path / "b.duckdb"), "--results-dir", str(tmp_path / "results"))
    done = invoke("restore", str(backup), *options)
    assert done.exit_code == 0, done.output
    assert done.stderr.startswith("Warning: test_runs: status that is not in the vocabulary (1 row")
    assert rows(tmp_path / "b.duckdb") == rows(file)


def test_result_files_that_come_and_go(tmp_path: Path) -> None:
    """Those of runs under way, of deleted runs, and of names that no zip file has."""
    results, stopping = tmp_path / "data" / "results", threading.Event()
    kept = {f"kept/{n}.txt" for n in range(50)} | {"kept/artifacts/events.jsonl", "kept/.coverage"}
    passing = ("kept/events.jsonl", "kept/.result.json.0.part", ".retention.json")
    for name in (*kept, *passing, "kept/odd\udcff.txt"):
        (results / name).parent.mkdir(parents=True, exist_ok=True)
        (results / name).write_text("x")
    gone = [results / f"gone-{n}" / "output.log" for n in range(200)]

    def come_and_go() -> None:
        while not stopping.is_set():
            for path in gone:
                path.parent.mkdir()
                path.touch()
            for path in gone:
                path.unlink()
                path.parent.rmdir()

    with serving(tmp_path) as server:
        other = threading.Thread(target=come_and_go)
        other.start()
        try:
            for n in range(5):
                backup = tmp_path / f"{n}.zip"
                manifest = answer("backup", str(backup), "--with-results", "--url", server.url)
                names = {name.removeprefix("results/") for name in manifest["files"]} - {"database"}
                assert {name for name in names if not name.startswith("gone")} == kept
        finally:
            stopping.set()
            other.join()
        assert "whose name is not UTF-8" in server.logged()


def test_a_restore_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, new, backup = tmp_path / "a.duckdb", tmp_path / "b.duckdb", tmp_path / "backup.zip"
    results = tmp_path / "results"
    (results / "r").mkdir(parents=True)
    (results / "r" / "result.json").touch()
    assert invoke("migrate", "--db-path", str(file)).exit_code == 0
    options = ("--with-results", "--results-dir", str(results))
    synced: list[str] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append(str(path.relative_to(tmp_path)) + (" new" * new.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    answer("backup", str(backup), "--db-path", str(file), *options)
    assert synced[-1] == ".", "the folder that has the new name"
    synced.clear()
    answer("restore", str(backup), "--db-path", str(new), "--results-dir", str(tmp_path / "others"))
    names = [re.sub(r"\.restore-\w+", "*", name) for name in synced]
    assert names == ["*/database", "others/*/r/result.json", "*/database", ". new"]


def test_nobody_opens_a_restored_file_before_the_old_log_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, backup = tmp_path / "a.duckdb", tmp_path / "backup.zip"
    way = ("--db-path", str(file))
    assert invoke("migrate", *way).exit_code == 0
    answer("backup", str(backup), *way)
    before, told = file.stat().st_ino, []

    def log_of(path: Path) -> Path:
        if file.stat().st_ino != before:
            told.append(run("runs", *way, folder=tmp_path).stderr)
        return committed.log_of(path)

    monkeypatch.setattr(copying, "log_of", log_of)
    answer("restore", str(backup), *way, "--results-dir", str(tmp_path / "results"), "--force")
    assert ["is held by another process" in said for said in told] == [True]


def test_what_killed_commands_left_goes_and_what_others_work_in_stays(tmp_path: Path) -> None:
    file, backup, results = tmp_path / "a.duckdb", tmp_path / "backup.zip", tmp_path / "results"
    way = ("--db-path", str(file), "--results-dir", str(results))
    assert invoke("migrate", "--db-path", str(file)).exit_code == 0
    for name in (".backup-left", ".restore-left", "results/.restore-left", ".restore", "restore-mine"):
        (tmp_path / name / "a").mkdir(parents=True)
    (tmp_path / ".restore-link").symlink_to(tmp_path / "restore-mine")
    with work_folder(tmp_path, ".restore-") as mine:
        (tmp_path / ".restore-left" / "a").mkdir(parents=True)
        answer("backup", str(backup), *way)
        answer("restore", str(backup), *way, "--force")
        assert mine.is_dir()
    found = {path.name for path in tmp_path.iterdir()} - {file.name, backup.name, "results"}
    assert found == {".restore", ".restore-link", "restore-mine"}
    assert (tmp_path / "restore-mine" / "a").is_dir()
    assert list(results.iterdir()) == []


@ON_POSTGRESQL
def test_a_server_database_has_its_own_tools(url: str, tmp_path: Path) -> None:
    file = tmp_path / "backup.zip"
    assert "pg_dump" in refused("backup", str(file), "--database-url", url)
    assert not file.exists()
