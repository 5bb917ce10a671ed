"""Three servers on one PostgreSQL and one results directory: whichever is asked, it is one product."""

from __future__ import annotations

import itertools
import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import text
from websockets.sync.client import connect

from app.db import make_engine
from app.services.export_jobs import LOST, STATES
from tests.postgres import Databases
from tests.routers.helpers import B, ok
from tests.routers.transfers import ended as exported
from tests.routers.transfers import start as export
from tests.runner.conftest import A, ended, processes, start, until, waiting_in
from tests.runner.suite import FILES
from tests.server import Server, serving

SUITE = """
import os, time
import pytest

def test_quick():
    with open({executions!r}, "a") as file:
        file.write(os.environ["MARKER_OF_THE_TEST"] + "\\n")

@pytest.mark.parametrize("number", range(4))
def test_step(number): time.sleep(0.5)

def test_waits(): time.sleep(60)
"""
STUBBORN = """
import signal, time

def test_stubborn():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)
"""
TYPES = {"quick": "test_it.py::test_quick", "steps": "test_it.py", "stubborn": "test_stubborn.py"}


@dataclass
class Several:
    """Servers that share everything."""

    url: str
    folder: Path
    servers: list[Server] = field(default_factory=list)
    clients: list[httpx2.Client] = field(default_factory=list)

    @property
    def executions(self) -> Path:
        return self.folder / "executions.txt"

    def marker(self, name: str) -> str:
        return f"marker-{self.folder}-{name}"

    @contextmanager
    def one_more(self, name: str) -> Iterator[tuple[Server, httpx2.Client]]:
        """A server whose suite has a model of its name beside a common one."""
        suite = self.folder / name
        suite.mkdir()
        (suite / "pytest.ini").write_text(FILES["pytest.ini"])
        (suite / "test_it.py").write_text(SUITE.format(executions=str(self.executions)))
        (suite / "test_stubborn.py").write_text(STUBBORN)
        models = "".join(
            f'[[models]]\nname = "{model}"\ntype = "t"\nmodality = "m"\n' for model in ("alpha", name)
        )
        types = "".join(
            f'[[types]]\nid = "{type_id}"\nname = "{type_id}"\ntests = ["{tests}"]\n'
            for type_id, tests in TYPES.items()
        )
        (suite / "suite.toml").write_text(models + types)
        options = ("--database-url", self.url, "--suites", str(suite))
        env = {"MARKER_OF_THE_TEST": self.marker(name)}
        with (
            serving(self.folder, *options, env=env) as server,
            httpx2.Client(base_url=server.url, timeout=60) as client,
        ):
            yield server, client

    @contextmanager
    def exports_held_up(self) -> Iterator[None]:
        """Exports get no further than to their first run, until the block ends."""
        engine = make_engine(self.url)
        with engine.begin() as connection:
            connection.execute(text("LOCK TABLE test_run_metrics IN ACCESS EXCLUSIVE MODE"))
            yield
        engine.dispose()

    def at_once(
        self, count: int, call: Callable[[httpx2.Client, int], httpx2.Response]
    ) -> list[httpx2.Response]:
        """The answers to calls that go to the servers in turn, all at the same time."""
        turns = list(itertools.islice(itertools.cycle(self.clients), count))
        with ThreadPoolExecutor(count) as threads:
            return list(threads.map(call, turns, range(count)))


@pytest.fixture(scope="module")
def several(postgres_databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Several]:
    with ExitStack() as stack:
        url = stack.enter_context(postgres_databases.migrated())
        several = Several(url, tmp_path_factory.mktemp("servers"))
        for name in "abc":
            server, client = stack.enter_context(several.one_more(name))
            several.servers.append(server)
            several.clients.append(client)
        yield several


def statuses(answers: list[httpx2.Response]) -> Counter[int]:
    return Counter(answer.status_code for answer in answers)


def test_a_run_recorded_through_all_of_them_loses_nothing(several: Several) -> None:
    run = f"{B}/run/tracked"
    ok(several.clients[0].post(f"{B}/runs", json={"run_id": "tracked", "model_name": "m"}), 201)

    def report(client: httpx2.Client, number: int) -> httpx2.Response:
        for answer in (
            client.post(f"{run}/steps", json=[{"step_name": f"s{number}", "status": "passed"}]),
            client.post(f"{run}/metrics", json=[{"metric_name": "loss", "value": number}]),
            client.put(f"{run}/tags", json={f"t{number}": str(number)}),
            client.patch(run, json={"progress": number / 100}),
        ):
            assert answer.status_code in (200, 201), answer.text
        return answer

    several.at_once(15, report)
    for client in several.clients:
        found = ok(client.get(run))
        assert {step["step_name"] for step in found["steps"]} >= {f"s{number}" for number in range(15)}
        assert sorted(point["value"] for point in ok(client.get(f"{run}/metrics"))) == list(range(15))
        assert found["tags"] == {f"t{number}": str(number) for number in range(15)}


def test_one_id_sent_to_all_of_them_at_once_is_one_run(several: Several) -> None:
    body = {
        "model_name": "m",
        "steps": [{"step_name": "s", "status": "passed"}],
        "metrics": [{"metric_name": "loss", "value": value} for value in range(3)],
    }
    put = several.at_once(12, lambda client, _: client.put(f"{B}/run/put", json=body))
    assert statuses(put) == {201: 1, 200: 11}
    posted = several.at_once(
        12, lambda client, _: client.post(f"{B}/runs", json={"run_id": "posted", **body})
    )
    assert statuses(posted) == {201: 1, 409: 11}
    for client in several.clients:
        for run_id in ("put", "posted"):
            assert len(ok(client.get(f"{B}/run/{run_id}"))["steps"]) == 1
            assert len(ok(client.get(f"{B}/run/{run_id}/metrics"))) == 3


def test_one_runs_it_another_shows_it_the_third_cancels_it(several: Several) -> None:
    run_id = start(several.clients[2], "steps", model_name="c")
    until(several.clients[0], run_id, lambda status: status["status"] == "running")
    with connect(f"{several.servers[1].url.replace('http', 'ws')}{A}/ws/{run_id}") as watching:
        seen = []
        for message in watching:
            seen.append(json.loads(message))
            if str(seen[-1]["current_step"]).endswith("test_waits"):
                break
        assert len({status["progress"] for status in seen}) >= 3, "it was shown on its way"
        server = several.servers[2].process.pid
        assert len(processes(several.marker("c"))) > 1
        answer = ok(several.clients[0].post(f"{A}/cancel/{run_id}"))
        assert processes(several.marker("c")) == [server]
        assert answer == {"run_id": run_id, "cancelled": True}
        assert [json.loads(message)["status"] for message in watching][-1] == "cancelled"
        assert watching.close_code == 1000
    for client in several.clients:
        assert ok(client.post(f"{A}/cancel/{run_id}"))["cancelled"] is False
        assert ok(client.get(f"{A}/results/{run_id}"))["status"] == "cancelled"


def test_each_queued_run_is_executed_once(several: Several) -> None:
    several.executions.unlink(missing_ok=True)
    queued = several.at_once(
        12,
        lambda client, _: client.post(f"{A}/run", json={"model_name": "alpha", "test_type": "quick"}),
    )
    run_ids = [ok(answer, 202)["run_id"] for answer in queued]
    for run_id, client in zip(run_ids, itertools.cycle(several.clients)):
        assert ended(client, run_id)["status"] == "completed"
        result = ok(client.get(f"{A}/results/{run_id}"))
        assert result["results"]["tests_passed"] == 1
        assert Path(result["result_file"]).is_file()
    lines = several.executions.read_text().splitlines()
    assert len(lines) == len(run_ids)
    assert set(lines) == {several.marker(name) for name in "abc"}, "they share the work"


def test_an_export_started_at_one_is_read_at_the_others(several: Several) -> None:
    first, *others = several.clients
    assert first.put(f"{B}/run/exported", json={"model_name": "m"}).status_code in (200, 201)
    with several.exports_held_up():
        answers = several.at_once(
            6,
            lambda client, _: client.post(f"{B}/export", json={"filename": "x.json", "overwrite": True}),
        )
        assert statuses(answers) == {202: 1, 409: 5}
        begun = export(first, filename="y.json")
        for client in others:
            assert ok(client.get(f"{B}/exports/{begun['export_id']}"))["status"] == "started"
            assert client.get(f"{B}/exports/{begun['export_id']}/file").status_code == 409
    state = exported(others[0], begun["export_id"])
    assert (state["status"], state["error"]) == ("completed", None)
    assert state["runs"] > 0
    files = [client.get(f"{B}/exports/{begun['export_id']}/file") for client in several.clients]
    assert {file.status_code for file in files} == {200}
    assert len({file.content for file in files}) == 1
    assert "exported" in [run["run_id"] for run in files[0].json()["runs"]]


def test_what_a_killed_server_worked_on_is_ended_once(several: Several) -> None:
    exports = several.folder / "data" / "exports"
    with several.one_more("d") as (dying, client):
        run_id, stubborn = (start(client, kind, model_name="d") for kind in ("steps", "stubborn"))
        until(client, run_id, waiting_in("test_waits"))
        until(client, stubborn, waiting_in("test_stubborn"))
        ok(client.post(f"{B}/run/{run_id}/metrics", json=[{"metric_name": "own", "value": 1}]))
        with several.exports_held_up():
            begun = export(client, filename="dying.json")
            end = time.monotonic() + 10
            while not (parts := list((exports / STATES).glob("*.part"))):
                assert time.monotonic() < end
                time.sleep(0.02)
            for other in several.clients:
                assert ok(other.get(f"{B}/exports/{begun['export_id']}"))["status"] == "started"
            dying.stop(signal.SIGKILL)
        assert len(processes(several.marker("d"))) > 0
        assert ok(several.clients[0].post(f"{A}/cancel/{stubborn}"))["cancelled"] is True
        assert processes(several.marker("d")) == []
        told = {json.dumps(exported(other, begun["export_id"])) for other in several.clients}
        assert [(state["status"], state["error"]) for state in map(json.loads, told)] == [("error", LOST)]
        assert not any(part.exists() for part in parts)
        again = export(several.clients[1], filename="dying.json")
        assert exported(several.clients[2], again["export_id"])["status"] == "completed"
    for other in several.clients:
        status = ended(other, run_id)
        assert (status["status"], status["error"]) == ("error", "server stopped")
    steps = Counter(
        (step["step_name"], step["status"])
        for step in ok(several.clients[0].get(f"{B}/run/{run_id}"))["steps"]
    )
    assert steps["test_it.py::test_step[3]", "passed"] == steps["Error", "error"] == 1
    logs = "".join(server.logged() for server in several.servers)
    assert logs.count(f"run {run_id} ended as error") == 1
