"""Servers that are slow, gone or broken: the session is as without them, and nothing is lost or doubled."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.db import Database
from tests.cli.helpers import invoke
from tests.plugin.sessions import Stub, begun, senders, session, wait_for, write
from tests.server import free_port

TESTS = """
def test_a(record_metric): record_metric("m", 1.0)
def test_b(): pass
"""
SLOW = """
import pytest, time
@pytest.mark.parametrize("number", range(40))
def test_one(number, record_metric):
    record_metric("m", number)
    time.sleep(0.05)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write(tmp_path, test_it=TESTS)


def spooled(project: Path) -> list[str]:
    return sorted(path.name for path in (project / "spool").glob("*"))


def recorded(api: httpx2.Client, run_id: str) -> dict[str, Any]:
    run: dict[str, Any] = api.get(f"/db/run/{run_id}").raise_for_status().json()
    return run


def test_everything_is_sent_live(stub: Stub, project: Path) -> None:
    done = session(project, "--testdb", stub.address, "--testdb-spool", "spool")
    assert done.code == 0
    assert done.told == f"recorded run {done.run_id} at {stub.address}"
    assert spooled(project) == []
    assert {path for path, _headers, _body in stub.requests} == {f"/api/test/db/run/{done.run_id}/events"}
    kinds = [event["event"] for event in stub.events()]
    assert (kinds[0], kinds[1], kinds[-1]) == ("session", "collected", "finished")
    assert [event["test"] for event in stub.events() if event["event"] == "test"] == [
        "test_it.py::test_a",
        "test_it.py::test_b",
    ]


def test_a_server_that_is_gone(project: Path) -> None:
    began = time.monotonic()
    done = session(project, "--testdb", f"http://127.0.0.1:{free_port()}", "--testdb-spool", "spool")
    assert (done.code, time.monotonic() - began < 8) == (0, True)
    (name,) = spooled(project)
    assert "not sent" in done.told
    assert "refused" in done.told
    assert f"testdb import {project / 'spool' / name}" in done.told


def test_a_server_that_breaks_down_is_replaced_by_the_whole(stub: Stub, tmp_path: Path) -> None:
    stub.fail_from = 2
    done = session(write(tmp_path, test_it=SLOW), "--testdb", stub.address, "--testdb-spool", "spool")
    assert done.code == 0
    assert "500" in done.told
    (name,) = spooled(tmp_path)
    assert stub.imports == [(tmp_path / "spool" / name).read_bytes()], "tried once, whole"
    live = [path for path, _headers, _body in stub.requests if path.endswith("/events")]
    assert len(live) == 3, "after a failure nothing is sent live"


def test_a_server_that_hangs_is_not_waited_for(stub: Stub, project: Path) -> None:
    stub.delay = 60
    began = time.monotonic()
    done = session(project, "--testdb", stub.address, "--testdb-spool", "spool")
    assert done.code == 0
    assert time.monotonic() - began < 12
    assert len(spooled(project)) == 1
    wait_for(lambda: not senders(str(project)))


def test_a_server_that_is_slow_slows_no_test(stub: Stub, tmp_path: Path) -> None:
    stub.delay = 1.5
    project = write(tmp_path, test_it=SLOW)
    done = session(project, "--testdb", stub.address, "--testdb-spool", "spool", "--durations", "3")
    assert done.code == 0
    durations = [event["duration"] for event in stub.events() if event["event"] == "test"]
    assert len(durations) == 40
    assert max(durations) < 1


def test_the_next_session_sends_what_was_left(recording: str, api: httpx2.Client, project: Path) -> None:
    spool = ("--testdb-spool", "spool")
    for _ in range(3):
        assert "not sent" in session(project, "--testdb", f"http://127.0.0.1:{free_port()}", *spool).told
    left = [name.removesuffix(".jsonl") for name in spooled(project)]
    done = session(project, "--testdb", recording, *spool)
    assert done.told.endswith("; sent 3 earlier sessions")
    assert spooled(project) == []
    for run_id in (*left, done.run_id):
        run = recorded(api, run_id)
        assert (run["status"], run["results"]["tests_passed"], run["metrics"]["m"]["count"]) == (
            "completed",
            2,
            1,
        )


def test_what_arrived_and_what_is_sent_again_is_one(
    recording: str, api: httpx2.Client, tmp_path: Path
) -> None:
    """The server dies for the session in its middle; the import afterwards doubles nothing."""
    project = write(tmp_path, test_it=SLOW)
    proxy = _Proxy(recording)
    done = session(project, "--testdb", proxy.start(), "--testdb-spool", "spool")
    assert done.code == 0
    (name,) = spooled(project)
    run_id = name.removesuffix(".jsonl")
    before = recorded(api, run_id)
    assert before["status"] == "running"
    assert 0 < before["metrics"]["m"]["count"] < 40
    for _ in range(2):
        assert invoke("import", str(project / "spool" / name), "--url", recording).exit_code == 0
        after = recorded(api, run_id)
        assert (after["status"], after["results"]["tests_passed"]) == ("completed", 40)
        assert after["metrics"]["m"]["count"] == 40
        assert len(after["steps"]) == 41
        assert after["created_at"] == before["created_at"]


class _Proxy:
    """Passes two requests on, and then takes no more."""

    def __init__(self, target: str) -> None:
        self._target = httpx2.URL(target)
        self._listener = socket.create_server(("127.0.0.1", 0))

    def start(self) -> str:
        threading.Thread(target=self._serve, daemon=True).start()
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _serve(self) -> None:
        with (
            self._listener,
            self._listener.accept()[0] as client,
            socket.create_connection((self._target.host, self._target.port)) as upstream,
        ):
            for _ in range(2):
                upstream.sendall(_request(client))
                client.sendall(upstream.recv(65536))


def _request(client: socket.socket) -> bytes:
    """One whole request."""
    taken = b""
    while b"\r\n\r\n" not in taken:
        taken += client.recv(65536)
    head, _, body = taken.partition(b"\r\n\r\n")
    found = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    while found and len(body) < int(found[1]):
        body += client.recv(65536)
    return head + b"\r\n\r\n" + body


def test_a_leftover_that_is_refused_is_tried_no_more(recording: str, project: Path) -> None:
    (project / "spool").mkdir()
    start = {"event": "session", "time": 1.0, "format": "testdb-spool", "version": 99, "run_id": "r"}
    (project / "spool" / "odd.jsonl").write_text(
        json.dumps(start).replace(", ", ",").replace(": ", ":") + "\n"
    )
    (project / "spool" / "other.jsonl").write_text("nothing of ours\n")
    done = session(project, "--testdb", recording, "--testdb-spool", "spool")
    assert "earlier" not in done.told
    assert spooled(project) == ["odd.rejected", "other.jsonl"]


def test_a_session_that_is_alive_is_left_alone(recording: str, api: httpx2.Client, tmp_path: Path) -> None:
    project = write(tmp_path, test_it=TESTS, test_slow=SLOW)
    spool = ("--testdb-spool", "spool")
    other = begun(project, "--testdb", f"http://127.0.0.1:{free_port()}", *spool, "test_slow.py")
    wait_for(lambda: spooled(project))
    live = spooled(project)
    done = session(project, "--testdb", recording, *spool, "test_it.py")
    assert "earlier" not in done.told
    assert spooled(project) == live
    assert other.wait(30) == 0


def test_a_duckdb_file(project: Path, tmp_path: Path) -> None:
    done = session(project, "--testdb", "runs.duckdb", "--testdb-spool", "spool")
    assert done.told == f"recorded run {done.run_id} at {project / 'runs.duckdb'}"
    assert spooled(project) == []
    shown = json.loads(
        invoke("show", done.run_id, "--json", "--db-path", str(project / "runs.duckdb")).stdout
    )
    assert (shown["status"], shown["results"]["tests_passed"]) == ("completed", 2)
    again = session(project, "--testdb", "runs.duckdb", "--testdb-spool", "spool")
    assert again.run_id != done.run_id


def test_a_file_that_another_process_holds(project: Path, duckdb_template: Path) -> None:
    file = shutil.copy(duckdb_template, project / "runs.duckdb")
    held = Database(f"duckdb:///{file}")
    held.ping()
    running = begun(project, "--testdb", "runs.duckdb", "--testdb-spool", "spool")
    time.sleep(4)
    assert running.poll() is None, "it waits for its turn"
    held.close()
    assert running.wait(30) == 0
    assert "recorded run" in (project / "output").read_text()
    assert spooled(project) == []


def test_a_folder_that_cannot_be_written(stub: Stub, project: Path) -> None:
    (project / "spool").write_text("a file")
    done = session(project, "--testdb", stub.address, "--testdb-spool", "spool")
    assert done.code == 0
    assert "not recorded (recording could not start" in done.told
    assert stub.requests == []


def test_the_token_is_sent_and_nowhere_else(stub: Stub, tmp_path: Path) -> None:
    project = write(tmp_path, test_it=SLOW)
    running = begun(
        project, "--testdb", stub.address, "--testdb-token", "very-secret", "--testdb-spool", "spool"
    )
    wait_for(lambda: len(stub.requests) > 1)
    for sender in senders(str(project)):
        assert b"very-secret" not in Path(f"/proc/{sender}/cmdline").read_bytes()
        assert b"very-secret" not in Path(f"/proc/{sender}/environ").read_bytes()
    for file in (project / "spool").iterdir():
        assert "very-secret" not in file.read_text()
    running.wait(30)
    assert "very-secret" not in (project / "output").read_text()
    assert {headers["Authorization"] for _path, headers, _body in stub.requests} == {"Bearer very-secret"}


BREAKS = """
import os, signal, sys, time
def test_good(): pass
def test_exits(): os._exit(0)
def test_crashes():
    import faulthandler
    faulthandler.disable()
    os.kill(os.getpid(), signal.SIGSEGV)
def test_waits(): time.sleep(60)
def test_forks():
    if os.fork() == 0:
        time.sleep(4)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def only_run(api: httpx2.Client, model: str) -> dict[str, Any]:
    def found() -> list[dict[str, Any]]:
        runs: list[dict[str, Any]] = api.get("/db/runs", params={"model_name": model}).json()
        return [run for run in runs if run["status"] != "running"]

    wait_for(found)
    (run,) = found()
    return run


@pytest.mark.parametrize("how", ["exits", "crashes", "forks", "waits"])
@pytest.mark.parametrize("target", ["server", "file"])
def test_a_session_that_breaks_off(
    recording: str, api: httpx2.Client, tmp_path: Path, how: str, target: str
) -> None:
    project = write(tmp_path, test_it=BREAKS)
    model = f"breaks-{how}-{tmp_path.name}"
    running = begun(
        project,
        *("--testdb", recording if target == "server" else "runs.duckdb", "--testdb-model", model),
        *("--testdb-spool", "spool", "-k", f"good or {how}"),
    )
    if how == "waits":
        file = _spool_file(project)
        wait_for(lambda: "test_waits" in file.read_text())
        running.send_signal(signal.SIGKILL)
    running.wait(30)
    wait_for(lambda: not spooled(project))
    if target == "server":
        run = only_run(api, model)
    else:
        wait_for(lambda: not senders(str(project)))
        listed = invoke("runs", "--json", "--db-path", str(project / "runs.duckdb"))
        (run,) = json.loads(listed.stdout)
    assert run["status"] == "error"
    assert run["error"] == (
        f"The test session broke off without an end, while running test_it.py::test_{how}."
    )
    assert (run["tests_passed"], run["tests_failed"]) == (1, 1)


def _spool_file(project: Path) -> Path:
    wait_for(lambda: spooled(project))
    return project / "spool" / spooled(project)[0]


def test_a_session_and_its_sender_that_are_killed_are_sent_later(
    recording: str, api: httpx2.Client, tmp_path: Path
) -> None:
    project = write(tmp_path, test_it=BREAKS)
    running = begun(project, "--testdb", recording, "--testdb-spool", "spool", "-k", "good or waits")
    file = _spool_file(project)
    wait_for(lambda: "test_waits" in file.read_text())
    for sender in senders(str(project)):
        os.kill(sender, signal.SIGKILL)
    running.kill()
    running.wait()
    with file.open("a") as stream:
        stream.write('{"event":"te')
    session(project, "--testdb", recording, "--testdb-spool", "spool", "-k", "good")
    assert spooled(project) == []
    run = recorded(api, file.stem)
    assert (run["status"], run["results"]["tests_passed"]) == ("error", 1)
    assert "while running test_it.py::test_waits" in run["error"]


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_a_spool_file_is_imported_by_the_command(tmp_path: Path, project: Path, packed: bool) -> None:
    session(project, "--testdb", f"http://127.0.0.1:{free_port()}", "--testdb-spool", "spool")
    file = _spool_file(project)
    if packed:
        file = Path(shutil.move(file, f"{file}.gz"))
        file.write_bytes(gzip.compress(file.read_bytes()))
    database = ("--db-path", str(tmp_path / "runs.duckdb"))
    done = invoke("import", str(file), "--tag", "by=hand", "--batch", "late", "--model", "m", *database)
    assert done.exit_code == 0, done.output
    assert "1 run from spool" in done.stdout
    assert "model_name was not used" in done.stderr
    (run,) = json.loads(invoke("runs", "--json", *database).stdout)
    assert (run["tags"]["by"], run["batch_id"], run["model_name"]) == ("hand", "late", project.name)
