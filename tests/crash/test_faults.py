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
import subprocess
import zipfile
from pathlib import Path

import httpx2
import pytest

from app.db import make_engine
from app.db.migrate import upgrade
from tests.cli.helpers import answer, refused
from tests.server import PATIENCE, TESTDB, Server, run, serving

API = "/api/test/db"
FILE = "test_runs.duckdb"
NO_SYNC = """
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
int fdatasync(int fd) {
    if (access(getenv("BROKEN"), F_OK) == 0) { errno = EIO; return -1; }
    return syscall(SYS_fdatasync, fd);
}
"""


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


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler to break a disk")
def test_a_disk_that_fails_ends_the_server_and_the_next_start_recovers(tmp_path: Path) -> None:
    library, broken = tmp_path / "broken.so", tmp_path / "broken"
    subprocess.run(["cc", "-shared", "-fPIC", "-xc", "-", "-o", library], input=NO_SYNC.encode(), check=True)
    with serving(tmp_path, env={"LD_PRELOAD": str(library), "BROKEN": str(broken)}) as server:
        assert put(server, "before").status_code == 201
        broken.touch()
        with pytest.raises(httpx2.HTTPError):
            put(server, "unknown").raise_for_status()
        if server.process.poll() is None:  # the engine says it only to the next that asks
            with pytest.raises(httpx2.HTTPError):
                put(server, "later").raise_for_status()
        assert server.process.wait(PATIENCE) == 70
        assert "the next start recovers what was committed" in server.logged()
    broken.unlink()
    with serving(tmp_path) as server:
        assert set(listed(server)) - {"unknown"} == {"before"}
        assert httpx2.get(f"{server.url}{API}/check").json() == []


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
