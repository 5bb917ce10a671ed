"""Damage to a killed server's file or log: it is refused or reported, or nothing is missing."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.db import make_engine
from app.db.committed import note_of
from app.db.migrate import config_file, upgrade
from app.db.opening import open_database
from tests.cli.helpers import answer, names, refused
from tests.crash import damage
from tests.crash.damage import CONTEXT, killed
from tests.server import PATIENCE, TESTDB, run, serving

ALEMBIC = (sys.executable, "-m", "alembic", "-c", str(config_file()), "upgrade", "head")
MUTATIONS = int(os.environ.get("DAMAGE", len(damage.MUTATIONS)))


def look(folder: Path) -> tuple[str, Any]:
    """What a process tells of the database; it has a few seconds for that."""
    here, there = CONTEXT.Pipe()
    process = CONTEXT.Process(target=damage.look, args=[folder, there])
    process.start()
    there.close()
    try:
        told: tuple[str, Any] = here.recv() if here.poll(PATIENCE) else ("fault", "it hangs")
    except EOFError:
        told = ("fault", "it crashed")
    process.join(PATIENCE)
    if process.is_alive():
        process.kill()
        told = ("fault", "it does not end")
    return told


def test_damage_is_never_silent(tmp_path: Path) -> None:
    for name in ("killed", "other"):
        (tmp_path / name).mkdir()
        killed(damage.make, tmp_path / name)
    whole = tmp_path / "whole"
    shutil.copytree(tmp_path / "killed", whole)
    kind, expected = look(whole)
    assert kind == "opened"
    assert len(expected[1]["test_runs"]) == 15 + 5 * damage.COMMITS
    outcomes: Counter[str] = Counter()
    wrong = []
    for number in range(MUTATIONS):
        chance = random.Random(number)
        name = list(damage.MUTATIONS)[number % len(damage.MUTATIONS)]
        folder = tmp_path / f"mutation-{number}"
        shutil.copytree(tmp_path / "killed", folder)
        for file in damage.FILES:
            shutil.copy(tmp_path / "other" / file, folder / f"other-{file}")
        damage.MUTATIONS[name](folder, chance)
        log = folder / damage.FILES[1]
        damaged = log.read_bytes() if log.exists() else None
        kind, told = look(folder)
        if kind == "opened":
            kind = "complete" if told == expected else "silent"
        outcomes[kind] += 1
        if kind in ("fault", "silent") or kind != damage.CERTAIN.get(name, kind):
            wrong.append((number, name, kind, told if kind == "fault" else None))
        if kind == "refused" and damaged is not None and name.startswith("log"):
            (copy,) = folder.glob(f"{log.name}.damaged-*")
            assert copy.read_bytes() == damaged == log.read_bytes()
        shutil.rmtree(folder)
    assert wrong == [], dict(outcomes)


@pytest.mark.parametrize(
    ("content", "refuses"), [(b"", False), (bytes(256), False), (b"{}", True), (b"\xff" * 256, True)]
)
def test_a_damaged_note_is_not_taken_for_none(
    tmp_path: Path, duckdb_template: Path, content: bytes, refuses: bool
) -> None:
    """One that is empty, or zeros, is what a power cut may leave."""
    file = tmp_path / "runs.duckdb"
    shutil.copy(duckdb_template, file)
    file.with_name("runs.duckdb.committed").write_bytes(content)
    if refuses:
        assert "runs.duckdb.committed is damaged" in refused("check", "--db-path", str(file))
    else:
        assert answer("check", "--db-path", str(file)) == []


@pytest.mark.parametrize("left", ["the note", "zeros", "nothing"])
def test_half_a_commit_is_no_damage(tmp_path: Path, left: str) -> None:
    """Killed in the middle of a commit, and again after one that is longer than what was left of that.

    After a power cut the note may be gone.
    """
    file, log = tmp_path / "runs.duckdb", tmp_path / "runs.duckdb.wal"
    note = tmp_path / "runs.duckdb.committed"
    killed(damage.store, file, {"first": 10})
    noted, size = note.read_bytes(), log.stat().st_size
    killed(damage.store, file, {"half": 100_000})
    note.write_bytes({"the note": noted, "zeros": bytes(len(noted)), "nothing": b""}[left])
    os.truncate(log, size + 50_000)
    killed(damage.store, file, {})
    killed(damage.store, file, {"long": 200_000})
    assert sorted(names(answer("runs", "--db-path", str(file)))) == ["first", "long"]
    assert answer("check", "--db-path", str(file)) == []


@pytest.mark.parametrize("command", [(*TESTDB, "migrate"), ALEMBIC])
def test_a_migration_does_not_fold_a_damaged_log(tmp_path: Path, command: tuple[str, ...]) -> None:
    """What is left would be the whole database from then on."""
    file, log = tmp_path / "runs.duckdb", tmp_path / "runs.duckdb.wal"
    engine = make_engine(f"duckdb:///{file}")
    upgrade(engine, "0001")
    engine.dispose()
    killed(damage.store, file, {"first": 10, "second": 10}, True)
    os.truncate(log, log.stat().st_size - 1)
    before = file.read_bytes(), log.read_bytes()
    done = run(folder=tmp_path, command=command, env={"TESTDB_DB_PATH": str(file)})
    assert done.returncode != 0
    assert f"{log} lacks 1 of " in done.stderr
    assert "Traceback" not in done.stderr
    assert (file.read_bytes(), log.read_bytes()) == before


def test_a_new_database_is_guarded_from_its_first_commit_on(tmp_path: Path) -> None:
    file, log = tmp_path / "runs.duckdb", tmp_path / "runs.duckdb.wal"
    killed(damage.store, file, {"first": 10, "second": 10})
    log.unlink()
    assert f"{log} lacks" in refused("check", "--db-path", str(file))


def test_a_server_refuses_until_the_loss_is_accepted(tmp_path: Path) -> None:
    """The first of two runs was checkpointed, the second is in the log, which is lost."""
    file, log = tmp_path / "data" / "test_runs.duckdb", tmp_path / "data" / "test_runs.duckdb.wal"
    for number in range(2):
        with serving(tmp_path) as server:
            path = f"{server.url}/api/test/db/run/run-{number}"
            httpx2.put(path, json={"model_name": "m"}).raise_for_status()
            if number:
                server.stop(signal.SIGKILL)
    size = log.stat().st_size
    os.truncate(log, size - 1)
    for command in (("serve", "--port", "0"), ("check",)):
        said = refused(*command, "--db-path", str(file))
        assert f"{log} lacks 1 of {size} bytes" in said
        assert "--accept-loss" in said
    (copy,) = file.parent.glob("*.damaged-*")
    assert copy.read_bytes() == log.read_bytes()
    with serving(tmp_path, "--accept-loss") as server:
        assert f"{log} lacks" in httpx2.get(f"{server.url}/readyz").json()["lost"]
        assert "started with what is left" in server.logged()
        found = httpx2.get(f"{server.url}/api/test/db/runs").json()
        assert [item["run_id"] for item in found] == ["run-0"]
    assert [item["run_id"] for item in answer("runs", "--db-path", str(file))] == ["run-0"]


def test_a_server_that_starts_as_a_command_ends_keeps_its_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.duckdb"
    database = open_database(f"duckdb:///{file}")
    with ExitStack() as started:
        let_go = database.engine.dispose

        def then_start() -> None:
            let_go()
            started.enter_context(serving(tmp_path, "--db-path", str(file)))

        monkeypatch.setattr(database.engine, "dispose", then_start)
        database.close()
        assert note_of(file).exists()
    assert not note_of(file).exists()
