"""runs, show, delete, check: straight on a database and through a server, with the same results."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from app.db import make_engine
from tests.cli.helpers import (
    AWKWARD,
    BATCHES,
    LONG,
    RUNS,
    START,
    TAGS,
    Twins,
    answer,
    ids,
    invoke,
    loads,
    names,
    newest_first,
    options_of,
    refused,
    same,
    same_refusal,
    without,
)
from tests.marks import ON_DUCKDB, ON_POSTGRESQL
from tests.server import PATIENCE, TESTDB, environment, run, serving

JUNIT = Path(__file__).parents[1] / "data" / "junit"
NOWHERE = "http://127.0.0.1:1"
COMMANDS = {
    "runs": ["runs"],
    "show": ["show", "r"],
    "import": ["import", "{file}"],
    "export": ["export", "out.json"],
    "delete": ["delete", "r", "--yes"],
    "check": ["check"],
}


@pytest.fixture(params=COMMANDS)
def command(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each data command, in an empty working directory."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return [part.format(file=JUNIT / "pytest.xml") for part in COMMANDS[request.param]]


# --- runs


@pytest.mark.parametrize("limit", [1, 1001, 5000])
def test_as_many_runs_as_asked_for_over_several_pages(history: Twins, limit: int) -> None:
    found = same(history.ways, "runs", "--limit", str(limit))
    assert names(found) == ids()[:limit]
    tags = {item["run_id"]: item["tags"] for item in found}
    assert tags == {run_id: TAGS.get(run_id, {}) for run_id in tags}


def test_twenty_runs_by_default(history: Twins) -> None:
    assert names(same(history.ways, "runs")) == ids()[:20]


def test_the_address_may_come_from_the_environment(history: Twins) -> None:
    expected = answer("runs", *history.remote)
    assert answer("runs", env={"TESTDB_URL": history.server}) == expected
    name = {"--db-path": "TESTDB_DB_PATH", "--database-url": "TESTDB_DATABASE_URL"}[history.direct[0]]
    assert answer("runs", env={name: history.direct[1]}) == expected


SECOND = (START + timedelta(seconds=100)).isoformat()
TAGGED = [run_id for run_id in ids() if run_id in TAGS]
FILTERS: list[tuple[list[str], list[str]]] = [
    *((["--status", status], ids(status=status)) for status in ("running", "completed")),
    (["--status", "failed"], ids(status="error")),
    (["--model", "model 3"], ids(model_name="model 3")),
    (["--model", "Model 3"], []),
    (["--model", RUNS[-1]["model_name"]], ids(model_name=RUNS[-1]["model_name"])),
    (["--test-type", "comprehensive"], ids(test_type="comprehensive")),
    (["--test-type", "[/]"], ids(test_type="[/]")),
    (["--hardware", "cuda"], [run["run_id"] for run in newest_first(RUNS) if "cuda" in run["hardware"]]),
    (["--batch", "batch-b"], [run_id for run_id in ids() if run_id in BATCHES["batch-b"]]),
    (["--tag", "nightly="], TAGGED),
    (["--tag", "branch=main"], [run_id for run_id in TAGGED if TAGS[run_id]["branch"] == "main"]),
    (["--tag", "branch=größe=1"], [run_id for run_id in TAGGED if TAGS[run_id]["branch"] != "main"]),
    (["--tag", "branch", "--tag", "nightly", "--batch", "batch-a"], ["run-0000", "run-0005"]),
    (["--since", SECOND, "--status", "timeout"], [i for i in ids(status="timeout") if i >= "run-0300"]),
    (["--until", SECOND], sorted(run["run_id"] for run in RUNS if run["started_at"].isoformat() < SECOND)),
    (["--since", "2026-01-01T02:00:00+02:00", "--until", "2026-01-01T00:00:01"], ids(started_at=START)),
    (["--since", "2026-01-02"], sorted(AWKWARD)),
    (["--model", "model 3", "--status", "error", "--hardware", "cuda", "--test-type", "comprehensive"],
     [*ids(model_name="model 3", status="error", hardware=["cuda"], test_type="comprehensive"),
      *ids(model_name="model 3", status="error", hardware=["cpu", "cuda"], test_type="comprehensive")]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "expected"), FILTERS, ids=[" ".join(options)[:40] for options, _ in FILTERS]
)
def test_filters(history: Twins, options: list[str], expected: list[str]) -> None:
    found = same(history.ways, "runs", "--limit", "1500", *options)
    assert sorted(names(found)) == sorted(expected)
    assert names(found) == [run_id for run_id in ids() if run_id in set(expected)]


def test_a_run_in_the_list_has_every_part(history: Twins) -> None:
    assert answer("runs", "--since", "2026-01-02", *history.direct)[0] == {
        "run_id": ":smile:",
        "model_name": RUNS[-1]["model_name"],
        "hardware": RUNS[-1]["hardware"],
        "test_type": "[/]",
        "status": "completed",
        "progress": 1.0,
        "current_step": None,
        "started_at": "2026-01-02T00:00:00Z",
        "completed_at": "2026-01-03T00:00:00Z",
        "duration": "NaN",
        "error": RUNS[-1]["error"],
        "creator": "ci",
        "tests_passed": 1,
        "tests_failed": 2,
        "tests_skipped": 3,
        "step_count": 3,
        "metric_count": 6,
        "artifact_count": 1,
        "batch_id": None,
        "batch_ids": [],
        "tags": {},
    }


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--since", "yesterday"], "--since"),
        (["--until", "2026-13-01"], "--until"),
        (["--batch", "no/batch"], "--batch"),
        (["--model", ""], "--model"),
        (["--tag", ""], "--tag"),
        (["--limit", "0"], "--limit"),
        (["--limit", "many"], "--limit"),
        (["--status", "done"], "--status"),
    ],
)
def test_a_filter_that_cannot_be_is_wrong_usage(history: Twins, options: list[str], named: str) -> None:
    assert named in same_refusal(history.ways, "runs", *options, code=2)


# --- show


@pytest.mark.parametrize("run_id", [*AWKWARD[:3], "run-0000", "run-0003"])
def test_show_says_everything_of_a_run(history: Twins, run_id: str) -> None:
    found = same(history.ways, "show", run_id)
    assert found["run_id"] == run_id
    if run_id in AWKWARD:
        assert found["duration"] == "NaN"
        assert found["metrics"]["mixed"] == {
            "value": 2.5, "unit": "µs", "timestamp": "2026-01-01T00:00:00Z",
            "count": 2, "min": 1.5, "max": 2.5, "avg": 2.0,
        }  # fmt: skip
        assert found["metrics"]["nan"]["value"] == "NaN"
        assert found["metrics"]["nan"]["count"] == 0
        assert [step["duration"] for step in found["steps"]] == ["Infinity", 0.5, None]
        assert found["results"] == {"ü": [1], "tests_passed": 1, "tests_failed": 2, "tests_skipped": 3}
    else:
        assert found["results"] is None
        assert found["metrics"] == {}
        assert found["tags"] == TAGS.get(run_id, {})


@pytest.mark.parametrize(
    "run_id",
    ["nobody", "", "..", "a/b", "../check", "run-0000?x=1", "run-0000#", "ü", "r" * 201],
)
def test_an_unknown_run_is_an_error(history: Twins, run_id: str) -> None:
    assert same_refusal(history.ways, "show", "--json", "--", run_id) == f"There is no run {run_id!r}."
    assert same_refusal(history.ways, "delete", "--yes", "--", run_id) == f"There is no run {run_id!r}."


# --- what people see


def printed(history: Twins, *args: str) -> str:
    direct, remote = (invoke(*args, *way) for way in history.ways)
    assert direct.exit_code == remote.exit_code == 0
    assert direct.stderr == remote.stderr == ""
    assert direct.stdout == remote.stdout
    return direct.stdout


def test_a_piped_list_is_whole_and_plain(history: Twins) -> None:
    shown = printed(history, "runs", "--limit", "8")
    lines = shown.splitlines()
    assert [line.split()[0] for line in lines] == ["RUN", *ids()[:8]]
    assert lines[0].split() == [
        "RUN", "MODEL", "HARDWARE", "TYPE", "STATUS", "PASSED", "FAILED", "SKIPPED", "DURATION", "STARTED",
    ]  # fmt: skip
    assert "\x1b" not in shown
    for line in lines[1:5]:  # the awkward ones
        assert ", ".join(RUNS[-1]["hardware"]) in line
        assert r"[red]not red[/red] :x:\x1b[31m\x07\nsecond line" in line
        assert "[/]" in line
        assert line.split()[-3:] == ["nan", "2026-01-02", "00:00:00Z"]
    assert LONG in shown
    assert all(line == line.rstrip() for line in lines)


def test_no_runs_are_said(history: Twins) -> None:
    assert printed(history, "runs", "--model", "none") == "No runs.\n"


def test_a_piped_run_is_whole_and_plain(history: Twins) -> None:
    shown = printed(history, "show", LONG)
    lines = shown.splitlines()
    assert lines[0] == f"Run        {LONG}"
    assert "\x1b" not in shown
    assert "Duration   nan" in lines
    assert "Tests      1 passed, 2 failed, 3 skipped" in lines
    assert "Error      first line" in lines
    assert r"           second line \x1b[2J" in lines
    assert [line.split() for line in lines if line.startswith("test_1[漢字-")] == [
        [r"test_1[漢字-\x1b]", "failed", "0.50s", "boom"]
    ]
    assert [line.split() for line in lines if line.startswith(("mixed", "nan"))] == [
        ["mixed", "2.5", "1.5", "2", "2.5", "2", "µs"],
        ["nan", "nan", "0", "µs"],
    ]
    assert any(line.split() == ["out/größe.log", "log"] for line in lines)


def test_the_error_of_a_step_is_what_pytest_marks(twins: Twins, tmp_path: Path) -> None:
    shown = "    def test():\n>       assert x == 2\nE       assert 1 == 2\nE        more\n\ntest.py:1: Error"
    steps = [
        {"step_name": name, "status": "failed", "error": error}
        for name, error in {"marked": shown, "plain": "boom\nEnd"}.items()
    ]
    runs = [{"run_id": "marked", "model_name": "marked", "steps": steps}]
    file = tmp_path / "all.json"
    file.write_text(json.dumps({"format": "test-suite-db", "version": 1, "runs": runs}))
    for way in twins.ways:
        answer("import", str(file), *way)
        said = re.findall(r"^(\S+) +failed +(.+)$", invoke("show", "marked", *way).stdout, re.MULTILINE)
        assert said == [("marked", "assert 1 == 2"), ("plain", "boom")]


@ON_DUCKDB
def test_a_pipe_of_a_narrow_terminal_is_not_cut(history: Twins, tmp_path: Path) -> None:
    shown = run("runs", *history.remote, folder=tmp_path, env={"COLUMNS": "80", "TERM": "xterm-256color"})
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == printed(history, "runs")


@ON_DUCKDB
def test_a_reader_that_goes_away_is_no_fault(history: Twins, tmp_path: Path) -> None:
    with subprocess.Popen(
        [*TESTDB, "runs", "--json", "--limit", "1500", *history.remote],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(2) == b"[\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        process.wait(PATIENCE)


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="there are no terminals here")
def test_a_terminal_sees_colours_and_nothing_of_the_data_reaches_it(history: Twins, tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [*TESTDB, "show", "a:x:b", *history.remote],
        cwd=tmp_path,
        env=environment({"COLUMNS": "100", "TERM": "xterm-256color", "COLORTERM": ""}),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
    )
    os.close(theirs)
    shown = b""
    while chunk := _read(ours):
        shown += chunk
    os.close(ours)
    assert process.wait(PATIENCE) == 0
    assert re.search(rb"\x1b\[32mcompleted *\x1b\[0m", shown)
    assert b"a:x:b" in shown
    assert b"\x1b[2J" not in shown
    assert b"\x07" not in shown


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other end was closed
        return b""


# --- delete


def test_delete_removes_runs_and_says_how_many_rows(twins: Twins, given: Callable[..., str]) -> None:
    files = [given(f"{n}.xml", f"deleted {n}") for n in range(4)]
    same(twins.ways, "import", *files, "--test-type", "deleted")

    def listed() -> list[str]:
        return names(same(twins.ways, "runs", "--test-type", "deleted"))

    run_ids = listed()
    assert len(run_ids) == 4

    told = [answer("delete", *run_ids[:2], "--dry-run", *way) for way in twins.ways]
    assert without(told[0], "timestamp") == without(told[1], "timestamp")
    assert [item["message"] for item in told[0]] == [f"Would delete run {i!r}: 3 rows." for i in run_ids[:2]]
    assert listed() == run_ids

    told = [answer("delete", *run_ids[:2], "--yes", *way) for way in twins.ways]
    assert without(told[0], "timestamp") == without(told[1], "timestamp")
    assert told[0][0]["deleted"]["test_runs"] == 1
    assert told[0][0]["deleted"]["test_run_steps"] == 1
    assert listed() == run_ids[2:]

    for way in twins.ways:
        result = invoke("delete", run_ids[2], run_ids[0], run_ids[3], "--yes", *way)
        assert result.exit_code == 1
        assert result.stdout.splitlines() == [f"Deleted run {i!r}: 3 rows." for i in run_ids[2:]]
        assert result.stderr == f"Error: There is no run {run_ids[0]!r}.\n"
    assert listed() == []


def test_delete_tells_as_json_what_it_removed_before_an_error(
    twins: Twins, given: Callable[..., str]
) -> None:
    same(twins.ways, "import", given("a.xml", "told as json"))
    (run_id,) = names(same(twins.ways, "runs", "--model", "told as json"))
    for way in twins.ways:
        result = invoke("delete", run_id, "nobody", "--yes", "--json", *way)
        assert result.exit_code == 1
        assert [item["message"] for item in loads(result.stdout)] == [f"Deleted run {run_id!r}: 3 rows."]
        assert result.stderr == "Error: There is no run 'nobody'.\n"


def test_delete_asks_first(twins: Twins, given: Callable[..., str]) -> None:
    same(twins.ways, "import", given("a.xml", "asked"))
    (run_id,) = names(same(twins.ways, "runs", "--model", "asked"))
    for way in twins.ways:
        for reply in ("\n", "", "maybe\nn\n"):
            result = invoke("delete", run_id, *way, given=reply)
            assert result.exit_code == 1
            assert result.stdout == ""
            assert result.stderr.startswith("Delete 1 run? [y/N]: ")
            assert "Aborted!" in result.stderr
        assert len(answer("runs", "--model", "asked", *way)) == 1
        result = invoke("delete", run_id, "--json", *way, given="y\n")
        assert result.exit_code == 0
        assert loads(result.stdout)[0]["status"] == "success"
        assert answer("runs", "--model", "asked", *way) == []


def test_delete_of_a_batch(twins: Twins, given: Callable[..., str]) -> None:
    for model in ("one", "two"):
        same(twins.ways, "import", given(f"{model}.xml", model), "--batch", f"deleted:{model}")
    for way in twins.ways:
        result = invoke("delete", "--batch", "deleted:one", *way, given="n\n")
        assert result.stderr.startswith("Delete batch deleted:one? ")
        result = invoke("delete", "--batch", "deleted:two", "--with-runs", *way, given="n\n")
        assert result.stderr.startswith("Delete batch deleted:two and its runs? ")
    for batch_id, options, left, rows in (("one", [], 1, 2), ("two", ["--with-runs"], 0, 5)):
        for verb, how in (("Would delete", "--dry-run"), ("Deleted", "--yes")):
            said = [
                answer("delete", "--batch", f"deleted:{batch_id}", how, *options, *way) for way in twins.ways
            ]
            assert without(said[0], "timestamp") == without(said[1], "timestamp")
            assert said[0][0]["message"] == f"{verb} batch 'deleted:{batch_id}': {rows} rows."
        assert len(same(twins.ways, "runs", "--model", batch_id)) == left
    assert (
        same_refusal(twins.ways, "delete", "--batch", "deleted:one", "--yes")
        == "There is no batch 'deleted:one'."
    )
    for batch_id in ("a/b", "..", "x?delete_runs=true"):
        assert (
            same_refusal(twins.ways, "delete", "--batch", batch_id, "--yes")
            == f"There is no batch {batch_id!r}."
        )


@pytest.mark.parametrize("args", [[], ["r", "--batch", "b"], ["r", "--with-runs"], ["--batch", ""]])
def test_wrong_usage_of_delete(tmp_path: Path, args: list[str]) -> None:
    said = refused("delete", *args, "--yes", "--db-path", str(tmp_path / "none.duckdb"), code=2)
    assert "--batch" in said


# --- check


def test_check_of_a_good_database(history: Twins) -> None:
    assert same(history.ways, "check") == []
    assert printed(history, "check") == "No broken rows.\n"


ODD_RUN = """
    INSERT INTO test_runs
        (run_id, model_name, hardware, test_type, save_results, status, progress, started_at, created_at)
    VALUES ('odd', 'm', ARRAY['cpu'], 't', true, :status, 1, :time, :time)
"""


@pytest.fixture
def odd(new_url: Callable[..., str]) -> str:
    """A database with a run that no command could have stored."""
    url = new_url()
    engine = make_engine(url)
    with engine.begin() as connection:
        connection.execute(text(ODD_RUN), {"status": "odd\x1b[2J", "time": START.replace(tzinfo=None)})
    engine.dispose()
    return url


FINDING = {
    "table": "test_runs",
    "problem": "status that is not in the vocabulary",
    "rows": 1,
    "examples": ["odd"],
}


def test_check_finds_broken_rows(odd: str) -> None:
    way = options_of(odd)
    assert answer("check", *way, code=1) == [FINDING]
    result = invoke("check", *way)
    assert (result.exit_code, result.stderr) == (1, "")
    head, row = result.stdout.splitlines()
    assert head.split() == ["TABLE", "PROBLEM", "ROWS", "FOR", "EXAMPLE"]
    assert row.split() == ["test_runs", *str(FINDING["problem"]).split(), "1", "odd"]
    for shown in (invoke("show", "odd", *way).stdout, invoke("runs", *way).stdout):
        assert "odd\\x1b[2J" in shown
        assert "\x1b" not in shown


@ON_POSTGRESQL
def test_check_finds_broken_rows_through_a_server(odd: str, tmp_path: Path) -> None:
    with serving(tmp_path, *options_of(odd)) as server:
        ways = options_of(odd), ("--url", server.url)
        assert same(ways, "check", code=1) == [FINDING]
        direct, remote = (invoke("check", *way) for way in ways)
        assert (direct.exit_code, direct.stdout) == (remote.exit_code, remote.stdout)
