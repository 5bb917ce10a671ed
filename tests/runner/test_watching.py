"""Watching runs: WebSocket and server-sent events, by many readers, slow ones and dead ones."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from sqlalchemy import event
from starlette.testclient import TestClient, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect
from websockets.sync.client import connect

from app.runner.watching import Watchers
from app.schemas.documents import RunDocument, RunPatch
from app.services.documents import create_run
from app.services.tracking import update_run
from tests.cli.helpers import options_of
from tests.routers.helpers import B, add, ok
from tests.runner.conftest import A, ended, start, until, waiting_in
from tests.server import Server, serving

STATUS = {
    "run_id", "status", "progress", "current_step", "model_name", "hardware", "test_type", "started_at",
    "elapsed_time", "estimated_remaining_time", "error",
}  # fmt: skip


def events(response: httpx2.Response) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines():
        if line.startswith("data:"):
            yield json.loads(line.removeprefix("data:"))


def until_closed(socket_: WebSocketTestSession) -> Iterator[dict[str, Any]]:
    """What the server sends until it closes the connection, as after the end of a run."""
    while True:
        message = socket_.receive()
        if message["type"] == "websocket.close":
            assert message["code"] == 1000
            return
        yield json.loads(message["text"])


def test_a_run_is_followed_to_its_end(tests: TestClient) -> None:
    run_id = start(tests, "many")
    with tests.websocket_connect(f"{A}/ws/{run_id}") as socket_:
        seen = list(until_closed(socket_))
    assert all(set(status) == STATUS for status in seen)
    assert seen[-1]["status"] == "completed"
    assert len(seen) > 3
    assert all(one != other for one, other in pairwise(seen))
    progress = [status["progress"] for status in seen]
    assert progress == sorted(progress)
    under_way = [status for status in seen if status["status"] == "running" and status["progress"]]
    assert all(status["estimated_remaining_time"] >= 0 for status in under_way)
    with tests.stream("GET", f"{A}/events/{run_id}") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert list(events(response)) == [seen[-1]]


def test_commands(tests: TestClient) -> None:
    run_id = start(tests, "slow")
    until(tests, run_id, waiting_in("test_waits"))
    with tests.websocket_connect(f"{A}/ws/{run_id}") as socket_:
        assert socket_.receive_json()["status"] == "running"
        for ping in ("ping", '"ping"', '{"type": "ping"}', '{"action": "PING"}'):
            socket_.send_text(ping)
            assert socket_.receive_json() == {"pong": True}
        socket_.send_text("status")
        assert socket_.receive_json()["run_id"] == run_id
        socket_.send_bytes(b"ping")
        assert socket_.receive_json() == {"pong": True}
        for odd in ("", "launch", "{}", "[1]", "\x00", "[" * 100_000):
            socket_.send_text(odd)
            assert "no such command" in socket_.receive_json()["error"]
        socket_.send_text("cancel")
        answers = list(until_closed(socket_))
        assert {"cancelled": True} in answers
        assert [item["status"] for item in answers if "status" in item][-1] == "cancelled"
    assert ok(tests.get(f"{A}/status/{run_id}"))["status"] == "cancelled"


def test_an_unknown_run(tests: TestClient) -> None:
    with tests.websocket_connect(f"{A}/ws/nobody") as socket_, pytest.raises(WebSocketDisconnect) as closed:
        socket_.receive_json()
    assert closed.value.code == 4404
    assert tests.get(f"{A}/events/nobody").status_code == 404
    assert tests.get(f"{A}/events/nobody?since=1").status_code == 422


def test_runs_that_are_recorded_from_elsewhere(tests: TestClient) -> None:
    add(tests, "r", status="running")
    with tests.websocket_connect(f"{A}/ws/r") as socket_:
        assert socket_.receive_json()["progress"] == 0
        ok(tests.patch(f"{B}/run/r", json={"progress": 0.5, "current_step": "Inference"}))
        status = socket_.receive_json()
        assert (status["progress"], status["current_step"]) == (0.5, "Inference")
        ok(tests.post(f"{B}/run/r/complete"))
        assert socket_.receive_json()["status"] == "completed"
        with pytest.raises(WebSocketDisconnect) as closed:
            socket_.receive_json()
    assert closed.value.code == 1000


def test_a_run_that_is_deleted_while_it_is_watched(tests: TestClient) -> None:
    add(tests, "r", status="running")
    with tests.websocket_connect(f"{A}/ws/r") as socket_:
        socket_.receive_json()
        ok(tests.delete(f"{B}/run/r"))
        with pytest.raises(WebSocketDisconnect):
            socket_.receive_json()


def test_a_hundred_readers_cost_one_query_a_change(tests: TestClient) -> None:
    add(tests, "r", status="running")
    app: Any = tests.app
    watchers: Watchers = app.state.watchers
    asked: list[str] = []

    @event.listens_for(app.state.database.engine, "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.lstrip().startswith("SELECT") and "FOR UPDATE" not in statement:
            asked.append(threading.current_thread().name)

    with ExitStack() as open_:
        readers = [open_.enter_context(tests.websocket_connect(f"{A}/ws/r")) for _ in range(100)]
        for reader in readers:
            assert reader.receive_json()["progress"] == 0
        before = len(asked)
        assert before < 20, "one that came later took what was known"
        for step in range(1, 6):
            ok(tests.patch(f"{B}/run/r", json={"progress": step / 10}))
            for reader in readers:
                assert reader.receive_json()["progress"] == step / 10
        # Each PATCH itself asks a few times, and a shared database is looked at every second.
        assert len(asked) - before < 5 * 25
        assert len(watchers._watched) == 1


@pytest.fixture
def server(url: str, suite: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving(tmp_path, *options_of(url), "--suites", str(suite)) as server:
        yield server


def test_a_reader_that_does_not_read_slows_nobody(server: Server) -> None:
    """The run, the server and other readers go on, and one that reads late finds the end."""
    with httpx2.Client(base_url=server.url, timeout=30) as client:
        run_id = start(client, "many")
        stuck = [_stuck(server, f"{A}/events/{run_id}") for _ in range(5)]
        with connect(f"{server.url.replace('http', 'ws')}{A}/ws/{run_id}", max_queue=1) as sleeper:
            assert ended(client, run_id)["status"] == "completed"
            assert client.get("/healthz").status_code == 200
            told = [json.loads(message) for message in sleeper]
        assert told[-1]["status"] == "completed"
        for reader in stuck:
            reader.close()


def _stuck(server: Server, path: str) -> socket.socket:
    parts = urlsplit(server.url)
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    reader.connect((parts.hostname, parts.port))
    reader.sendall(f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
    return reader


def test_a_server_that_stops_lets_its_readers_go(server: Server) -> None:
    with httpx2.Client(base_url=server.url, timeout=30) as client:
        ok(client.post(f"{B}/runs", json={"run_id": "r", "model_name": "m", "status": "running"}), 201)
        with client.stream("GET", f"{A}/events/r") as response:
            following = events(response)
            assert next(following)["status"] == "running"
            began = time.monotonic()
            server.process.terminate()
            assert list(following) == []
        assert server.process.wait(30) == 0
        assert time.monotonic() - began < 10, "not the time that requests in flight may take"


def test_one_that_reads_late_is_told_the_latest(database: Any) -> None:
    database.write(create_run, RunDocument(run_id="r", model_name="m", status="running"))

    async def watch() -> None:
        watchers = Watchers(database)
        quick, late = watchers.follow("r"), watchers.follow("r")
        assert (await anext(quick)).progress == (await anext(late)).progress == 0
        for step in range(1, 6):
            await asyncio.to_thread(database.write, update_run, "r", RunPatch(progress=step / 10))
            assert (await anext(quick)).progress == step / 10, "whoever does not read holds up nobody"
        assert (await anext(late)).progress == 0.5, "and is not told what is over"
        await quick.aclose()
        await late.aclose()

    asyncio.run(watch())


def test_readers_that_leave_are_forgotten(database: Any) -> None:
    database.write(create_run, RunDocument(run_id="r", model_name="m", status="running"))

    async def watch() -> None:
        watchers = Watchers(database)
        for _ in range(3):
            following = watchers.follow("r")
            assert (await anext(following)).status == "running"
            await following.aclose()
            assert watchers._watched == {}
        await asyncio.sleep(0.1)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(watch())
