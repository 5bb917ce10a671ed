"""Disks that are full or broken: nothing acknowledged is lost, and the server says what to do."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import resource
import shutil
import signal
import time
import zipfile
from pathlib import Path

import httpx2
import pytest

from app.db import make_engine
from app.db.migrate import upgrade
from app.db.opening import open_database
from tests.cli.helpers import answer, names, refused
from tests.crash.damage import killed, store
from tests.crash.disk import BROKEN, FULL, Call, Disk, make_disk
from tests.crash.ledger import API
from tests.factories import contents, fill
from tests.server import PATIENCE, TESTDB, Server, run, serving

FILE = "test_runs.duckdb"
CAPABILITIES = "-dac_override,-dac_read_search"
OBEYING = (
    ("setpriv", f"--inh-caps={CAPABILITIES}", f"--bounding-set={CAPABILITIES}") if os.geteuid() == 0 else ()
)
"""What makes root obey the modes of files, too."""


def put(server: Server, run_id: str, **fields: object) -> httpx2.Response:
    return httpx2.put(f"{server.url}{API}/run/{run_id}", json={"model_name": "m", **fields}, timeout=PATIENCE)


def listed(server: Server) -> list[str]:
    return sorted(item["run_id"] for item in httpx2.get(f"{server.url}{API}/runs").json())


def test_a_full_disk_is_said_and_passes(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        assert put(server, "before").status_code == 201
        log = tmp_path / "data" / f"{FILE}.wal"
        full = log.stat().st_size + 1000
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (full, resource.RLIM_INFINITY))
        for _ in range(3):
            full_disk = put(server, "large", error="x" * 10_000)
            assert full_disk.status_code == 503
            assert "make room" in full_disk.json()["detail"]
        assert listed(server) == ["before"]
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, unlimited)
        assert put(server, "large", error="x" * 10_000).status_code == 201
        assert httpx2.get(f"{server.url}/readyz").status_code == 200
        server.stop(signal.SIGKILL)
    with serving(tmp_path) as server:
        assert listed(server) == ["before", "large"]
        assert httpx2.get(f"{server.url}{API}/check").json() == []


def test_a_temporary_directory_without_room_is_said_and_passes(tmp_path: Path) -> None:
    runs = json.dumps([{"model_name": "m", "error": "x" * 3_000_000}]).encode()
    with serving(tmp_path) as server, httpx2.Client(timeout=PATIENCE) as client:

        def answers() -> list[httpx2.Response]:
            bodies = ({"content": runs}, {"content": gzip.compress(runs)}, {"files": {"file": runs}})
            return [client.post(f"{server.url}{API}/ingest", **body) for body in bodies]  # type: ignore[arg-type]

        unlimited = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (2 << 20, unlimited[1]))
        for refusal in answers():
            assert refusal.status_code == 503
            assert "make room there" in refusal.json()["detail"]
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, unlimited)
        assert [answer.status_code for answer in answers()] == [200] * 3


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler to break a disk")
    return make_disk(tmp_path)


LARGE = 17_000_000
"""Characters of results after which the next commit checkpoints."""
FAULTS: list[tuple[Call, int, str, int]] = [
    ("sync", BROKEN, "*.wal", 10),
    ("sync", BROKEN, "*.duckdb", LARGE),
    ("write", FULL, "*.duckdb", LARGE),
]


def test_a_disk_that_fails_ends_the_server_and_the_next_start_recovers(tmp_path: Path, disk: Disk) -> None:
    stored: set[str] = set()
    unknown: set[str] = set()
    for number, (call, error, pattern, size) in enumerate(FAULTS):
        with serving(tmp_path, env=disk.env) as server:
            assert stored <= set(listed(server)) <= stored | unknown
            assert put(server, f"stored-{number}").status_code == 201
            stored.add(f"stored-{number}")
            disk.fail(call, error, pattern)
            for name in (f"{number}-{turn}" for turn in range(3)):
                try:
                    put(server, name, results={"x": "x" * size}).raise_for_status()
                except httpx2.HTTPError:  # of which the engine may tell only the next that asks
                    unknown.add(name)
                else:
                    stored.add(name)
                if server.process.poll() is not None:
                    break
            assert server.process.wait(PATIENCE) == 70
            assert "the next start recovers what was committed" in server.logged()
            assert "Traceback" not in server.logged()
        disk.recover()
    with serving(tmp_path, env=disk.env) as server:
        assert put(server, "last").status_code == 201
        disk.fail("sync", BROKEN, "*.duckdb")
        assert server.stop() == 0, "nothing is lost"
        assert "The log stays beside the file, and the next start takes it over" in server.logged()
        assert "Traceback" not in server.logged()
    disk.recover()
    with serving(tmp_path) as server:
        assert stored | {"last"} <= set(listed(server)) <= stored | unknown | {"last"}
        assert httpx2.get(f"{server.url}{API}/check").json() == []


def test_a_disk_that_is_full_from_the_start(tmp_path: Path, disk: Disk) -> None:
    """What was stored can be read, and each thing that needs room says so, and leaves nothing."""
    exports = tmp_path / "data" / "exports"
    exports.mkdir(parents=True)
    killed(store, tmp_path / "data" / FILE, {"before": 10})
    disk.fail("write", FULL, "*/data/*")
    with serving(tmp_path, env=disk.env) as server, httpx2.Client(timeout=PATIENCE) as client:
        api = server.url + API

        def no_room(response: httpx2.Response) -> None:
            assert response.status_code == 503
            assert "No space left on device" in response.json()["detail"]
            assert str(tmp_path) not in response.text

        def exported() -> dict[str, object]:
            started = client.post(f"{api}/export", json={"filename": "all.json"}).raise_for_status().json()
            for _ in range(PATIENCE * 20):
                state: dict[str, object] = client.get(f"{api}/exports/{started['export_id']}").json()
                if state["status"] != "started":
                    return state
                time.sleep(0.05)
            raise AssertionError("The export does not end.")

        no_room(put(server, "after"))
        no_room(client.post(f"{api}/export"))
        no_room(client.post(f"{api}/backup"))
        for pattern in ("*/database", "*/database.wal"):
            disk.fail("write", FULL, pattern)
            no_room(client.post(f"{api}/backup"))
        disk.fail("write", FULL, "*.part")
        assert exported()["error"] == "The file cannot be written: No space left on device."
        assert [path.suffix for path in exports.rglob("*") if path.is_file()] == [".json"], "a state"
        disk.recover()
        assert listed(server) == ["before"]
        assert put(server, "after").status_code == 201
        assert exported()["runs"] == 2
        assert client.post(f"{api}/backup").is_success
        assert client.get(f"{api}/check").json() == []
        assert "Traceback" not in server.logged()


def test_a_migration_without_room_changes_nothing(tmp_path: Path, disk: Disk) -> None:
    """Neither a file nor a copy of it is left half; the log of the older file is part of the copy."""
    file, log = tmp_path / "runs.duckdb", tmp_path / "runs.duckdb.wal"

    def refused_for_room() -> None:
        tried = run("migrate", "--db-path", str(file), folder=tmp_path, env=disk.env)
        assert tried.returncode == 1
        sentence = "cannot be written (No space left on device); make room for it, then run this again."
        assert tried.stderr == f"Error: {file} {sentence}\n"

    disk.fail("write", FULL, "*/runs.duckdb*")
    refused_for_room()
    assert list(tmp_path.glob("runs.duckdb*")) == []
    disk.recover()
    engine = make_engine(f"duckdb:///{file}")
    upgrade(engine, "0001")
    with engine.begin() as connection:
        fill(connection)
        expected = contents(connection)
    for name in (FILE, f"{FILE}.wal"):
        shutil.copy(tmp_path / name.replace(FILE, file.name), tmp_path / name)
    engine.dispose()
    logless = file.read_bytes()
    for pattern, content in [("*.bak.part", logless), ("*.wal", logless), ("*.duckdb", None)]:
        if content is None:
            shutil.copy(tmp_path / FILE, file)
            shutil.copy(tmp_path / f"{FILE}.wal", log)
        disk.fail("write", FULL, pattern)
        refused_for_room()
        for copy in tmp_path.glob("*.bak*"):
            assert copy.read_bytes() == content
            copy.unlink()
    disk.recover()
    database = open_database(f"duckdb:///{file}")
    assert database.read(lambda session: contents(session.connection())) == expected
    database.close()
    (kept,) = tmp_path.glob("*.bak*")
    copied = make_engine(f"duckdb:///{kept}")
    with copied.connect() as connection:
        assert contents(connection) == expected
    copied.dispose()


def test_a_folder_that_becomes_read_only_is_said_and_passes(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with serving(tmp_path, command=(*OBEYING, *TESTDB, "serve")) as server:
        data.chmod(0o555)  # the engine makes its log with the first commit
        for _ in range(2):
            refusal = put(server, "early")
            assert refusal.status_code == 503
            assert "make it and its folder writable again" in refusal.json()["detail"]
        assert listed(server) == []
        data.chmod(0o755)
        assert put(server, "later").status_code == 201
        server.stop(signal.SIGKILL)
    with serving(tmp_path) as server:
        assert listed(server) == ["later"]


def test_a_file_that_is_not_in_its_place_is_not_written(tmp_path: Path, duckdb_template: Path) -> None:
    """What is acknowledged then would be gone with the process. Reading, and saving it, goes on."""
    data, away = tmp_path / "data", tmp_path / "away"
    with serving(tmp_path) as server:

        def not_written() -> None:
            for refusal in (put(server, "lost"), httpx2.get(f"{server.url}/readyz")):
                assert refusal.status_code == 503
                assert "moved, removed or replaced" in refusal.json()["detail"]
                assert str(tmp_path) not in refusal.text
            assert "testdb_database_up 1" in httpx2.get(f"{server.url}/metrics").raise_for_status().text
            assert listed(server) == sorted(stored)

        stored: list[str] = []
        for number, place in enumerate([data, data / FILE, data / FILE]):
            stored.append(f"stored-{number}")
            assert put(server, stored[-1]).status_code == 201
            place.rename(away)
            if number == 2:
                shutil.copy(duckdb_template, place)
            not_written()
            away.rename(place)
        assert put(server, "back").status_code == 201
        (data / FILE).unlink()
        stored.append("back")
        not_written()
        saved = httpx2.post(f"{server.url}{API}/backup", timeout=PATIENCE).raise_for_status().content
        assert server.stop() == 0
        assert "Traceback" not in server.logged()
    (tmp_path / "saved.zip").write_bytes(saved)
    options = ("--results-dir", str(tmp_path / "results"), "--db-path", str(tmp_path / "new.duckdb"))
    answer("restore", str(tmp_path / "saved.zip"), *options)
    assert sorted(names(answer("runs", *options[2:]))) == sorted(stored)


@pytest.mark.parametrize(
    ("closed", "mode", "file"),
    [
        ("runs.duckdb", 0o444, "runs.duckdb"),
        ("", 0o555, "runs.duckdb"),
        ("", 0o555, "new.duckdb"),
        ("", 0o555, "folder/new.duckdb"),
    ],
)
def test_a_start_on_what_is_read_only_is_refused(
    duckdb_template: Path, tmp_path: Path, closed: str, mode: int, file: str
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    shutil.copy(duckdb_template, folder / "runs.duckdb")
    before = (folder / "runs.duckdb").read_bytes()
    (folder / closed).chmod(mode)
    command = (*OBEYING, *TESTDB)
    start = run("serve", "--port", "0", "--db-path", str(folder / file), folder=tmp_path, command=command)
    assert start.returncode == 1
    assert start.stderr.startswith(
        f"Error: {folder / file} cannot be used (Permission denied); make the file "
    )
    assert start.stderr.count("\n") == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"runs.duckdb": before}
    folder.chmod(0o755)


def test_a_file_with_two_names_is_refused(tmp_path: Path, duckdb_template: Path) -> None:
    file, other = tmp_path / "runs.duckdb", tmp_path / "other.duckdb"
    shutil.copy(duckdb_template, file)
    other.hardlink_to(file)
    assert "hard link" in refused("serve", "--db-path", str(file))
    other.unlink()
    assert answer("runs", "--db-path", str(file)) == []


def test_a_folder_is_refused_as_what_it_is(tmp_path: Path) -> None:
    for command in ("serve", "runs"):
        assert f"{tmp_path} is not a file" in refused(command, "--db-path", str(tmp_path))


def test_a_start_that_was_killed_leaves_no_second_name(tmp_path: Path, duckdb_template: Path) -> None:
    file = tmp_path / "runs[1].duckdb"
    shutil.copy(duckdb_template, file)
    (tmp_path / "runs[1].duckdb.new-7").hardlink_to(file)
    assert answer("runs", "--db-path", str(file)) == []


@pytest.mark.parametrize("logged", [True, False])
def test_no_room_for_the_copy_of_an_older_file(tmp_path: Path, logged: bool) -> None:
    file, original = tmp_path / "runs.duckdb", tmp_path / "original.duckdb"
    engine = make_engine(f"duckdb:///{original}")
    upgrade(engine, "0001")
    if logged:  # as after a crash
        shutil.copy(f"{original}.wal", f"{file}.wal")
        shutil.copy(original, file)
    engine.dispose()
    if not logged:
        shutil.copy(original, file)
    before = file.read_bytes()
    command = ("sh", "-c", 'ulimit -f 8; exec "$@"', "sh", *TESTDB)
    done = run("migrate", "--db-path", str(file), folder=tmp_path, command=command)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: {file} cannot be ")
    assert "File too large" in done.stderr
    assert done.stderr.count("\n") == 1
    assert file.read_bytes() == before
    assert list(tmp_path.glob("*.bak")) == []
    done = run("migrate", "--db-path", str(file), folder=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_server_never_opens_its_own_file(tmp_path: Path) -> None:
    """That would give up the lock on it: a second server could take it.

    Not even where the directories are those of the database, whose files are nobody's either.
    """
    hook = """
import os, sys
def watch(event, args):
    if event == "open" and isinstance(args[0], (str, bytes)) and os.path.exists("watched"):
        if os.fsdecode(args[0]).endswith("test_runs.duckdb"):
            os.write(2, b"OPENED\\n")
sys.addaudithook(watch)
"""
    (tmp_path / "sitecustomize.py").write_text(hook)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    folders = {"TESTDB_RESULTS_DIR": "data", "TESTDB_EXPORT_DIR": "data", "TESTDB_TOKEN_FILE": "data/secret"}
    env = {"PYTHONPATH": path} | folders
    with serving(tmp_path, env=env) as server, httpx2.Client(timeout=PATIENCE) as client:
        assert "OPENED" not in server.logged()
        (tmp_path / "watched").touch()
        assert put(server, "r").status_code == 201
        api = server.url + API
        for method, address in [
            ("POST", f"{api}/export"),
            ("GET", f"{api}/check"),
            ("GET", f"{server.url}/readyz"),
            ("POST", f"{api}/backup?with_results=true"),
            ("GET", f"{server.url}/metrics"),
        ]:
            assert client.request(method, address).is_success
        for path, body in [("prune", {"older_than": "1d"}), ("query", {"sql": "SELECT 1 AS a"})]:
            assert client.post(f"{api}/{path}", json=body).is_success
        for name in ("test_runs.duckdb", "test_runs.duckdb.wal", "test_runs.duckdb.tokens", "secret"):
            over = client.post(f"{api}/export", json={"filename": name, "overwrite": True})
            assert over.status_code == 422
        packed = client.post(f"{api}/backup?with_results=true").content
        names = zipfile.ZipFile(io.BytesIO(packed)).namelist()
        assert [re.sub("-.*", "", name) for name in names] == ["database", "results/test", "manifest.json"]
        second = run("serve", "--port", "0", folder=tmp_path, env=env)
        assert "held by another process" in second.stderr
        assert server.stop() == 0
        assert second.stderr.count("OPENED") > 0, "the hook works"
        assert "OPENED" not in server.logged()
