"""Exports over HTTP: what the file holds, where it may stand, that it stands there whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.config import Settings
from app.services import export, export_jobs, export_text, parts
from tests.routers import history
from tests.routers.conftest import serving
from tests.routers.helpers import DETAIL, B, add, every, ok, problem, run
from tests.routers.transfers import ended, file_of, start

Gate = Callable[[], AbstractContextManager[threading.Event]]
STARTED = {"export_id", "status", "message", "filename", "timestamp"}


def exported(client: TestClient, **body: Any) -> dict[str, Any]:
    """What the file of a new export says."""
    found: dict[str, Any] = json.loads(file_of(client, **body))
    return found


def names(folder: Path) -> set[str]:
    """What is in the folder and in the hidden one inside it, but for the states of exports."""
    hidden = folder / export_jobs.STATES
    unfinished = (file for file in hidden.glob("*") if file.suffix != ".json")
    return {file.name for file in (*folder.glob("*"), *unfinished) if file != hidden}


@pytest.fixture
def folder(api: TestClient) -> Path:
    """The export directory, which does not exist yet."""
    found: Path = api.app.state.settings.export_dir  # type: ignore[attr-defined]
    shutil.rmtree(found, ignore_errors=True)
    return found


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Holds exports up where their first page has been read, until the block ends."""

    @contextmanager
    def closed() -> Iterator[threading.Event]:
        reached, opened = threading.Event(), threading.Event()
        original = export.parts

        def waiting(*args: Any) -> Any:
            reached.set()
            assert opened.wait(30)
            return original(*args)

        with monkeypatch.context() as patch:
            patch.setattr(export, "parts", waiting)
            try:
                yield reached
            finally:
                opened.set()

    return closed


def rich(client: TestClient) -> None:
    """A run with everything, one with nothing, one shared by two batches, and an empty batch."""
    add(
        client,
        "full",
        hardware=["cpu", "cuda"],
        test_type="comprehensive",
        timeout=1.5,
        save_results=False,
        status="failed",
        progress=0.25,
        current_step="Späť",
        started_at="2026-01-02T03:04:05.678901+05:30",
        duration="NaN",
        error="line\nline",
        result_file="a/b.json",
        creator="ci",
        tags={"branch": "main", "empty": ""},
        batch_id="b1",
        results={"tests_passed": 2, "big": 2**70, "deep": [{"x": [None, True, 1.5]}]},
        steps=[
            {"step_name": "z", "status": "passed", "duration": 1.5},
            {"step_name": "a", "status": "failed", "error": "x"},
        ],
        metrics=[
            {"metric_name": "loss", "value": value, "unit": "u"} for value in (3, "NaN", 1e-300, "-Infinity")
        ],
        artifacts=[{"path": "b.txt"}, {"path": "a.txt", "type": "log", "description": "d"}],
    )
    add(client, "bare", started_at="2026-01-01T00:00:00Z")
    add(client, "shared", batch_id="b1", started_at="2026-01-03T00:00:00Z", status="completed")
    ok(client.post(f"{B}/batches", json={"batch_id": "b2", "description": "d", "run_ids": ["shared"]}), 201)
    ok(client.post(f"{B}/batches", json={"batch_id": "b0"}), 201)
    ok(client.post(f"{B}/batch/b1/complete"))


def test_an_export_holds_everything(api: TestClient, folder: Path) -> None:
    rich(api)
    before = datetime.now(UTC)
    response = api.post(f"{B}/export", json={"filename": "all.json"})
    begun = ok(response, 202)
    assert set(begun) == STARTED
    assert (begun["status"], begun["filename"]) == ("started", "all.json")
    assert begun["message"]
    assert before <= datetime.fromisoformat(begun["timestamp"]) <= datetime.now(UTC)

    state = ended(api, begun["export_id"])
    size = (folder / "all.json").stat().st_size
    assert state == {
        "export_id": begun["export_id"],
        "status": "completed",
        "filename": "all.json",
        "runs": 3,
        "batches": 3,
        "bytes": size,
        "error": None,
    }
    assert names(folder) == {"all.json"}

    file = api.get(f"{B}/exports/{begun['export_id']}/file")
    assert file.headers["content-type"] == "application/json"
    assert 'filename="all.json"' in file.headers["content-disposition"]
    assert file.content == (folder / "all.json").read_bytes()
    data = file.json()
    assert set(data) == {"format", "version", "exported_at", "runs", "batches"}
    assert (data["format"], data["version"]) == ("test-suite-db", 1)
    assert data["exported_at"].endswith("Z")
    assert before <= datetime.fromisoformat(data["exported_at"]) <= datetime.now(UTC)
    assert [item["run_id"] for item in data["runs"]] == ["shared", "full", "bare"]
    for item in data["runs"]:
        assert set(item) == DETAIL | {"metric_series"}
        assert item.pop("metric_series") == ok(api.get(f"{B}/run/{item['run_id']}/metrics"))
        assert item == run(api, item["run_id"])
    assert data["batches"] == ok(api.get(f"{B}/batches"))
    assert set(data["runs"][0]["batch_ids"]) == {"b1", "b2"}


def test_an_export_of_many_pages(api: TestClient) -> None:
    history.store(api, history.generate(330, datetime.now(UTC)))
    batches = [{"model_name": "m", "batch_id": f"b{n}"} for n in range(205)]
    ok(api.post(f"{B}/ingest", json=batches))
    data = exported(api)
    listed = [item for page in every(api, f"{B}/runs?limit=1000") for item in page]
    assert [item["run_id"] for item in data["runs"]] == [item["run_id"] for item in listed]
    assert [len(item["metric_series"]) for item in data["runs"]] == [item["metric_count"] for item in listed]
    assert data["batches"] == ok(api.get(f"{B}/batches?limit=1000"))
    for item in data["runs"][::37]:
        assert item.pop("metric_series") == ok(api.get(f"{B}/run/{item['run_id']}/metrics"))
        assert item == run(api, item["run_id"])


def test_averages_have_every_digit_of_those_that_are_shown(
    api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(7)
    metrics = [
        {"metric_name": f"m{n % 40}", "value": chance.uniform(-1, 1) * 10 ** chance.uniform(-3, 3)}
        for n in range(400)
    ]
    add(api, "r", metrics=metrics)
    add(api, "other", metrics=[{**metric, "timestamp": "2026-01-01T00:00:00Z"} for metric in metrics])
    of_file = {item["run_id"]: item["metrics"] for item in exported(api)["runs"]}
    assert of_file == {run_id: run(api, run_id)["metrics"] for run_id in ("r", "other")}
    monkeypatch.setattr(parts, "FEW_POINTS", 0)  # the engine sums up
    assert of_file["r"] == run(api, "r")["metrics"]


def test_long_runs_come_in_pieces(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    history.store(api, history.generate(20, datetime.now(UTC)))
    metrics = [{"metric_name": f"m{n % 3}", "value": n / 7} for n in range(23)]
    add(api, "long", metrics=metrics, steps=[{"step_name": f"s{n}", "status": "passed"} for n in range(50)])
    whole = exported(api)["runs"]
    assert len({item["run_id"] for item in whole}) > 20
    for held, points in ((7000, 10), (1, 23), (1, 1)):
        monkeypatch.setattr(export_text, "HELD", held)
        monkeypatch.setattr(export_text, "ROWS", points)
        assert exported(api)["runs"] == whole
        without = [{**item, "metrics": {}, "metric_series": []} for item in whole]
        assert exported(api, include_metrics=False)["runs"] == without


def test_every_value_comes_out_as_it_is(api: TestClient) -> None:
    values = [5e-324, -1.7976931348623157e308, 1e308, -0.0, 0.0, 3.0, 1e15, 1e16, -1e22, 0.1, 123456789.125]
    odd = "\x01\x1f\x7f\"\\/\n\t é 名 😀 \u2028 {}[]',:%s $1"
    times = ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "2026-01-02T03:04:05.000001Z"]
    add(
        api,
        "odd",
        model_name=odd,
        hardware=[odd, "cpu"],
        duration="Infinity",
        error=odd,
        tags={odd: odd},
        results={"text": odd, "big": 2**70, "tests_passed": 3},
        steps=[{"step_name": f"{n}{odd}", "started_at": time, "error": odd} for n, time in enumerate(times)],
        metrics=[{"metric_name": odd, "value": value, "timestamp": times[2]} for value in values]
        + [{"metric_name": "none", "value": value} for value in ("NaN", "Infinity", "-Infinity")],
        artifacts=[{"path": odd, "description": odd}],
    )
    (item,) = exported(api)["runs"]
    assert [repr(point["value"]) for point in item["metric_series"][: len(values)]] == list(map(repr, values))
    assert [point["value"] for point in item.pop("metric_series")[len(values) :]] == [
        "NaN", "Infinity", "-Infinity",
    ]  # fmt: skip
    assert [step["started_at"] for step in item["steps"]] == [times[0], times[2], times[1]]
    assert item == run(api, "odd")


def test_an_export_of_nothing(api: TestClient, folder: Path) -> None:
    begun = ok(api.post(f"{B}/export"), 202)
    assert re.fullmatch(r"[\w-]+\.json", begun["filename"])
    state = ended(api, begun["export_id"])
    assert (state["status"], state["runs"], state["batches"]) == ("completed", 0, 0)
    data = json.loads((folder / begun["filename"]).read_bytes())
    assert (data["runs"], data["batches"]) == ([], [])
    assert ok(api.post(f"{B}/export", json={}), 202)["filename"] != begun["filename"]


def test_what_is_left_out(api: TestClient) -> None:
    rich(api)
    whole = exported(api)

    def state_and_file(**flags: bool) -> tuple[int, int, dict[str, Any]]:
        state = ended(api, start(api, **flags)["export_id"])
        file = api.get(f"{B}/exports/{state['export_id']}/file").json()
        assert {name: file[name] for name in ("format", "version")} == {
            "format": "test-suite-db",
            "version": 1,
        }
        return state["runs"], state["batches"], file

    runs, batches, file = state_and_file(include_runs=False)
    assert (runs, batches, file["runs"], file["batches"]) == (0, 3, [], whole["batches"])
    runs, batches, file = state_and_file(include_batches=False)
    assert (runs, batches, file["batches"]) == (3, 0, [])
    alone = {"batch_id": None, "batch_ids": []}
    assert file["runs"] == [{**item, **alone} for item in whole["runs"]]
    runs, batches, file = state_and_file(include_metrics=False)
    assert (runs, batches, file["batches"]) == (3, 3, whole["batches"])
    assert file["runs"] == [{**item, "metrics": {}, "metric_series": []} for item in whole["runs"]]
    runs, batches, file = state_and_file(include_runs=False, include_batches=False, include_metrics=False)
    assert (runs, batches, file["runs"], file["batches"]) == (0, 0, [], [])


@pytest.mark.parametrize(
    "filename", ["a b.json", "ünïcode 名.json", "a..b", "x" * 200, "-rf", "no suffix", "~"]
)
def test_good_names(api: TestClient, folder: Path, filename: str) -> None:
    begun = start(api, filename=filename)
    assert begun["filename"] == filename
    assert ended(api, begun["export_id"])["status"] == "completed"
    assert names(folder) == {filename}
    assert api.get(f"{B}/exports/{begun['export_id']}/file").content == (folder / filename).read_bytes()


def test_bad_names(api: TestClient, folder: Path) -> None:
    bad = [
        "", ".", "..", "../x.json", "../../etc/passwd", "a/b.json", "/tmp/x.json", "./x.json", "a/../x.json",
        "..\\x.json", "a\\b.json", "C:\\x.json", "\\\\host\\x", "x\x00.json", "x\n.json", "x\x7f", ".hidden",
        ".part", "x" * 201, "名" * 67, str(folder / "x.json"), 7, ["x"], {"a": 1},
    ]  # fmt: skip
    before = names(folder.parent)
    for filename in bad:
        problem(api.post(f"{B}/export", json={"filename": filename, "overwrite": True}), 422, "filename")
    raw = '{"filename": "\\ud800.json"}'
    problem(api.post(f"{B}/export", content=raw, headers={"content-type": "application/json"}), 422)
    assert names(folder) == set()
    assert names(folder.parent) == before


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"overwrite": "perhaps"}, "overwrite"),
        ({"include_runs": None}, "include_runs"),
        ({"include_metrics": "x"}, "include_metrics"),
        ({"include_batch": True}, "include_batch"),
        ({"path": "x"}, "path"),
    ],
)
def test_bad_bodies(api: TestClient, folder: Path, body: dict[str, Any], field: str) -> None:
    problem(api.post(f"{B}/export", json=body), 422, field)
    assert names(folder) == set()


def test_links_and_folders_are_no_names(api: TestClient, folder: Path, tmp_path: Path) -> None:
    folder.mkdir(parents=True)
    outside = tmp_path / "outside.json"
    outside.write_text("mine")
    (folder / "link.json").symlink_to(outside)
    (folder / "inside.json").symlink_to(folder / "other.json")
    (folder / "dangling.json").symlink_to(tmp_path / "not-there.json")
    (folder / "loop.json").symlink_to(folder / "loop.json")
    (folder / "folder.json").mkdir()
    os.mkfifo(folder / "pipe.json")
    before = names(folder)
    for name in before:
        for overwrite in (False, True):
            response = api.post(f"{B}/export", json={"filename": name, "overwrite": overwrite})
            problem(response, 422, "filename")
    assert names(folder) == before
    assert outside.read_text() == "mine"
    assert not (tmp_path / "not-there.json").exists()


def test_an_existing_file_stays_unless_overwritten(api: TestClient, folder: Path) -> None:
    add(api)
    first = start(api, filename="x.json")
    ended(api, first["export_id"])
    (folder / "x.json").write_bytes(b"mine")
    body = problem(api.post(f"{B}/export", json={"filename": "x.json"}), 409)
    assert "x.json" in body["detail"]
    body = problem(api.post(f"{B}/export", json={"filename": "x.json", "overwrite": False}), 409)
    assert (folder / "x.json").read_bytes() == b"mine"
    state = ended(api, start(api, filename="x.json", overwrite=True)["export_id"])
    assert (state["status"], state["runs"]) == ("completed", 1)
    assert json.loads((folder / "x.json").read_bytes())["runs"][0]["run_id"] == "r"
    assert names(folder) == {"x.json"}


def test_one_export_at_a_time_writes_a_name(api: TestClient, folder: Path, gate: Gate) -> None:
    add(api)
    with gate() as reached:
        first = start(api, filename="x.json")
        assert reached.wait(30)
        for overwrite in (False, True):
            problem(api.post(f"{B}/export", json={"filename": "x.json", "overwrite": overwrite}), 409)
        second = start(api, filename="y.json")
        problem(api.get(f"{B}/exports/{first['export_id']}/file"), 409)
        problem(api.get(f"{B}/exports/{second['export_id']}/file"), 409)
        assert ok(api.get(f"{B}/exports/{first['export_id']}"))["status"] == "started"
        assert "x.json" not in names(folder)
    assert ended(api, first["export_id"])["status"] == "completed"
    assert ended(api, second["export_id"])["status"] == "completed"
    assert names(folder) == {"x.json", "y.json"}


def test_a_name_taken_meanwhile_is_not_overwritten(api: TestClient, folder: Path, gate: Gate) -> None:
    add(api)
    with gate() as reached:
        begun = start(api, filename="x.json")
        assert reached.wait(30)
        (folder / "x.json").write_bytes(b"mine")
    state = ended(api, begun["export_id"])
    assert state["status"] == "error"
    assert "x.json" in state["error"]
    assert (folder / "x.json").read_bytes() == b"mine"
    assert names(folder) == {"x.json"}


def test_a_link_made_meanwhile_leads_nowhere(
    api: TestClient, folder: Path, tmp_path: Path, gate: Gate
) -> None:
    add(api)
    outside = tmp_path / "outside.json"
    outside.write_text("mine")
    with gate() as reached:
        begun = start(api, filename="x.json", overwrite=True)
        assert reached.wait(30)
        (folder / "x.json").symlink_to(outside)
    assert ended(api, begun["export_id"])["status"] == "completed"
    assert outside.read_text() == "mine"
    assert not (folder / "x.json").is_symlink()
    (folder / "x.json").unlink()
    (folder / "x.json").symlink_to(outside)
    problem(api.get(f"{B}/exports/{begun['export_id']}/file"), 404)
    (folder / "x.json").unlink()
    problem(api.get(f"{B}/exports/{begun['export_id']}/file"), 404)


def half_written(session: Any, stream: Any, **_options: Any) -> None:
    stream.write(b'{"format": "test-suite-db", "runs": [')
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def disk_full(_descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("patched", [(export_jobs, "write_export", half_written), (os, "fsync", disk_full)])
def test_an_export_that_fails_leaves_nothing(
    api: TestClient, folder: Path, monkeypatch: pytest.MonkeyPatch, patched: tuple[Any, str, Any]
) -> None:
    add(api)
    ended(api, start(api, filename="old.json")["export_id"])
    old = (folder / "old.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(*patched)
        for body in ({"filename": "new.json"}, {"filename": "old.json", "overwrite": True}):
            begun = start(api, **body)
            state = ended(api, begun["export_id"])
            assert state["status"] == "error"
            assert "No space left" in state["error"]
            answer = problem(api.get(f"{B}/exports/{begun['export_id']}/file"), 409)
            assert state["error"] in answer["detail"]
    assert names(folder) == {"old.json"}
    assert (folder / "old.json").read_bytes() == old
    assert ended(api, start(api, filename="new.json")["export_id"])["status"] == "completed"


def test_a_broken_database_is_told_without_its_statements(client: TestClient, settings: Settings) -> None:
    add(client)
    with client.app.state.database.engine.begin() as connection:  # type: ignore[attr-defined]
        connection.exec_driver_sql("DROP TABLE test_run_metrics")
    state = ended(client, start(client)["export_id"])
    assert state["status"] == "error"
    on_duckdb = settings.sqlalchemy_url.startswith("duckdb")
    assert ("fault of the server" if on_duckdb else "run `testdb migrate`") in state["error"]
    assert "SELECT" not in state["error"]
    assert names(settings.export_dir) == set()


def test_unknown_exports(api: TestClient) -> None:
    for export_id in ("nope", "x" * 300, "..", "%00"):
        problem(api.get(f"{B}/exports/{export_id}"), 404)
        problem(api.get(f"{B}/exports/{export_id}/file"), 404)


def test_the_oldest_states_are_forgotten(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_jobs, "KEPT", 2)
    begun = []
    for _ in range(3):
        begun.append(start(client)["export_id"])
        ended(client, begun[-1])
    problem(client.get(f"{B}/exports/{begun[0]}"), 404)
    assert ended(client, begun[1])["status"] == ended(client, begun[2])["status"] == "completed"


def test_a_folder_that_cannot_be_made(settings: Settings, openapi: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    broken = settings.model_copy(update={"export_dir": tmp_path / "file" / "exports"})
    with serving(broken, openapi) as client:
        problem(client.post(f"{B}/export"), 503)


def test_an_export_sees_one_moment(api: TestClient, gate: Gate) -> None:
    history.store(api, history.generate(250, datetime.now(UTC)))
    before = exported(api)
    last = before["runs"][-1]["run_id"]
    with gate() as reached:
        begun = start(api)
        assert reached.wait(30)
        ok(api.delete(f"{B}/run/{last}"))
        ok(api.delete(f"{B}/batch/nightly"))
        for item in before["runs"][1::50]:
            ok(api.post(f"{B}/run/{item['run_id']}/metrics", json=[{"name": "new", "value": 1}]))
            ok(api.put(f"{B}/run/{item['run_id']}/tags", json={"new": "tag"}))
        add(api, "new", batch_id="new")
        add(api, "old", started_at="2001-01-01T00:00:00Z")
    state = ended(api, begun["export_id"])
    during = api.get(f"{B}/exports/{state['export_id']}/file").json()
    assert during["runs"] == before["runs"]
    assert during["batches"] == before["batches"]
    after = exported(api)
    assert {item["run_id"] for item in after["runs"]} == (
        {item["run_id"] for item in before["runs"]} - {last} | {"new", "old"}
    )


def test_a_stopping_server_leaves_nothing_half_made(
    settings: Settings, openapi: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = settings.export_dir
    with serving(settings, openapi) as client:
        history.store(client, history.generate(250, datetime.now(UTC)))
        ended(client, start(client, filename="whole.json")["export_id"])
        jobs = client.app.state.export_jobs  # type: ignore[attr-defined]
        reached, original = threading.Event(), export.parts

        def until_stopped(*args: Any) -> Any:
            reached.set()
            assert jobs._stopping.wait(30)
            return original(*args)

        monkeypatch.setattr(export, "parts", until_stopped)
        begun = [start(client, filename=name) for name in ("first.json", "queued.json")]
        overwriting = start(client, filename="whole.json", overwrite=True)
        assert reached.wait(30)
        whole = (folder / "whole.json").read_bytes()
    assert names(folder) == {"whole.json"}
    assert (folder / "whole.json").read_bytes() == whole
    assert jobs.state(begun[0]["export_id"]).status == "error"
    assert "stopped" in jobs.state(begun[0]["export_id"]).error
    assert {jobs.state(item["export_id"]).status for item in (begun[1], overwriting)} <= {"error", "started"}


def test_exports_outlive_their_server(settings: Settings, openapi: dict[str, Any]) -> None:
    with serving(settings, openapi) as client:
        add(client)
        state = ended(client, start(client, filename="x.json")["export_id"])
        content = client.get(f"{B}/exports/{state['export_id']}/file").content
    states = settings.export_dir / export_jobs.STATES
    cut_off = state | {"export_id": str(uuid.uuid4()), "status": "started"}
    (states / f"{cut_off['export_id']}.json").write_text(json.dumps(cut_off))
    (states / f"{cut_off['export_id']}.part").write_text("{")
    with serving(settings, openapi) as client:
        assert ended(client, state["export_id"]) == state
        assert client.get(f"{B}/exports/{state['export_id']}/file").content == content
        start(client)
        assert not list(states.glob(f"{cut_off['export_id']}.part")), "cleared away, though nobody asked"
        found = ok(client.get(f"{B}/exports/{cut_off['export_id']}"))
        assert (found["status"], found["error"]) == ("error", export_jobs.LOST)
