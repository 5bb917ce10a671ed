"""What must neither harm a recorded session nor spoil what is recorded of it."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.plugin.sessions import Stub, begun, session, wait_for, write

RERUN = """
attempts = []
def test_flaky(record_metric, record_property, record_artifact):
    attempts.append(1)
    record_metric("metric", len(attempts))
    record_property("property", len(attempts))
    record_artifact(f"file-{len(attempts)}")
    assert len(attempts) == 3
"""
CLOCK = """
import time, pytest
from unittest import mock
@pytest.fixture(scope="module", autouse=True)
def no_clock():
    with mock.patch("time.time"): yield
def test_one(record_metric): record_metric("m", 1)
def test_two(): pass
"""
HOMELESS = "import os\nos.path.expanduser = lambda path: path\n"
LONG = "def test_long():\n    print('printed ' * 5000)\n{body}    assert 0, 'the needle'\n"


def of_kind(stub: Stub, kind: str) -> list[dict[str, Any]]:
    return [event for event in stub.events() if event["event"] == kind]


@pytest.mark.parametrize("workers", [(), ("-n", "1")])
def test_each_attempt_records_its_own(stub: Stub, tmp_path: Path, workers: tuple[str, ...]) -> None:
    write(tmp_path, test_it=RERUN)
    options = ("--testdb", stub.address, "--testdb-spool", "spool")
    assert session(tmp_path, *options, "--reruns", "3", *workers).code == 0
    metrics = [(event["name"], event["value"]) for event in of_kind(stub, "metric")]
    assert sorted(metrics) == [(name, number) for name in ("metric", "property") for number in (1, 2, 3)]
    assert [Path(event["path"]).name for event in of_kind(stub, "artifact")] == [
        f"file-{n}" for n in (1, 2, 3)
    ]


@pytest.mark.parametrize(
    ("options", "env"),
    [
        (("--testdb-token", "geheim\nnis"), {}),
        ((), {"TESTDB_TOKEN": "geheim\x01"}),
        ((), {"TESTDB_TOKEN": "geheimü"}),
    ],
)
def test_a_token_that_no_header_holds_is_not_shown(
    stub: Stub, tmp_path: Path, options: tuple[str, ...], env: dict[str, str]
) -> None:
    write(tmp_path, test_it="def test(): pass\n")
    done = session(tmp_path, "--testdb", stub.address, *options, env=env)
    assert done.code == 4
    assert "--testdb-token: the token has" in done.output
    assert "geheim" not in done.output


def test_white_space_around_a_token_is_no_part_of_it(stub: Stub, tmp_path: Path) -> None:
    write(tmp_path, test_it="def test(): pass\n")
    session(tmp_path, "--testdb", stub.address, "--testdb-spool", "spool", "--testdb-token", "geheim\r\n")
    assert {headers["Authorization"] for _path, headers, _body in stub.requests} == {"Bearer geheim"}


def test_a_clock_that_tests_replace(stub: Stub, tmp_path: Path) -> None:
    write(tmp_path, test_it=CLOCK)
    assert session(tmp_path, "--testdb", stub.address, "--testdb-spool", "spool").code == 0
    assert [event["status"] for event in of_kind(stub, "test")] == ["passed", "passed"]
    (metric,) = of_kind(stub, "metric")
    assert metric["time"] > 1_700_000_000
    assert of_kind(stub, "finished")[0]["status"] == "completed"


@pytest.mark.parametrize("options", [(), ("--testdb-spool", "~/spool")])
def test_a_user_without_a_home(stub: Stub, tmp_path: Path, options: tuple[str, ...]) -> None:
    write(tmp_path, test_it="def test(): pass\n", conftest=HOMELESS)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    env = {"TMPDIR": str(temporary), "XDG_STATE_HOME": ""}
    done = session(tmp_path, "--testdb", stub.address, *options, env=env)
    assert (done.code, done.told[:12]) == (0, "recorded run")


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_maxfail(stub: Stub, tmp_path: Path, workers: tuple[str, ...]) -> None:
    tests = "import pytest\n@pytest.mark.parametrize('n', range(40))\ndef test(n): assert n != 2\n"
    write(tmp_path, test_it=tests)
    session(tmp_path, "--testdb", stub.address, "--testdb-spool", "spool", *workers, "--maxfail=1")
    (finished,) = of_kind(stub, "finished")
    assert finished["status"] == "completed"
    assert finished["error"].startswith("stopping after 1 failures; ")
    assert finished["error"].endswith(" of 40 tests were run")


def test_wrong_usage_has_its_reason(stub: Stub, tmp_path: Path) -> None:
    write(tmp_path)
    assert session(tmp_path, "--testdb", stub.address, "--testdb-spool", "spool", "nothing.py").code == 4
    (finished,) = of_kind(stub, "finished")
    assert (finished["status"], finished["error"]) == ("error", "file or directory not found: nothing.py")


def test_a_long_failure_keeps_its_message(stub: Stub, tmp_path: Path) -> None:
    body = "".join(f"    number_{n} = 'a long line of source'\n" for n in range(600))
    write(tmp_path, test_it=LONG.format(body=body))
    session(tmp_path, "--testdb", stub.address, "--testdb-spool", "spool")
    (test,) = of_kind(stub, "test")
    assert len(test["error"]) <= 20_000
    assert test["error"].startswith("def test_long():")
    assert "AssertionError: the needle" in test["error"]
    assert "--- Captured stdout call ---\nprinted" in test["error"]


@pytest.mark.slow
def test_a_test_longer_than_a_server_keeps_a_connection(
    recording: str, api: httpx2.Client, tmp_path: Path
) -> None:
    """Everything arrives while the session lasts: the run is never sent again as a whole."""
    tests = "import time\ndef test_a(): pass\ndef test_b(): time.sleep(7)\ndef test_c(): time.sleep(60)\n"
    write(tmp_path, test_it=tests)
    process = begun(tmp_path, "--testdb", recording, "--testdb-spool", "spool")
    try:
        wait_for(lambda: any((tmp_path / "spool").glob("*.jsonl")))
        (spool,) = (tmp_path / "spool").glob("*.jsonl")
        run_id = json.loads(spool.read_text().splitlines()[0])["run_id"]
        url = f"db/run/{run_id}"
        wait_for(lambda: "test_c" in (api.get(url).json().get("current_step") or ""), 20)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
