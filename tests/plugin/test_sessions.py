"""When a session is recorded, under which name, and how its end is told."""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.plugin.sessions import PYTEST, Stub, begun, session, wait_for, write
from tests.server import environment

TESTS = "def test_a(record_metric, record_artifact): record_metric('m', 1); record_artifact('x')\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return write(folder, test_it=TESTS)


def first(stub: Stub) -> dict[str, Any]:
    return stub.events()[0]


def test_it_is_off_unless_asked_for(project: Path) -> None:
    before = sorted(project.rglob("*.py"))
    code = (
        "import sys, pytest\n"
        "code = pytest.main(['-q', '-p', 'no:cacheprovider'])\n"
        "ours = [name for name in sys.modules if name.split('.')[0] in ('testdb_pytest', 'app')]\n"
        "print(ours, int(code))\n"
    )
    home = project / "home"
    env = {"HOME": str(home), "PATH": os.environ["PATH"]}
    done = subprocess.run([sys.executable, "-c", code], cwd=project, env=env, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "['testdb_pytest'] 0"
    assert "testdb:" not in done.stdout
    assert sorted(project.rglob("*.py")) == before
    assert not home.exists()


def test_a_project_may_have_a_package_of_the_same_name_as_the_product(stub: Stub, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").write_text("ours = True\n")
    write(tmp_path, test_it="import app\ndef test_it(): assert app.ours\n", conftest="")
    for target in (stub.address, "runs.duckdb"):
        done = session(
            tmp_path, "--testdb", target, "--testdb-spool", "spool", env={"PYTHONPATH": str(tmp_path)}
        )
        assert done.code == 0, done.output
        assert "recorded run" in done.told


@pytest.mark.parametrize(
    "options",
    [["--collect-only"], ["--fixtures"], ["--markers"], ["--help"], ["--version"], ["--setup-plan"]],
)
def test_a_session_that_runs_nothing_is_not_recorded(stub: Stub, project: Path, options: list[str]) -> None:
    done = session(project, "--testdb", stub.address, "--testdb-spool", "spool", *options)
    assert done.code == 0
    assert done.told == ""
    assert stub.requests == []


def test_where_the_options_come_from(stub: Stub, project: Path) -> None:
    (project / "pytest.ini").write_text(
        f"[pytest]\ntestdb = {stub.address}\ntestdb_model = by-ini\ntestdb_test_type = by-ini\n"
        "testdb_spool = spool\ntestdb_hardware = tpu\ntestdb_batch = by-ini\n"
        "testdb_tag =\n    from=ini\n    more=a=b\n"
    )
    session(project)
    event = first(stub)
    assert (event["model_name"], event["test_type"], event["batch_id"]) == ("by-ini",) * 3
    assert event["hardware"] == ["tpu"]
    assert event["tags"].items() >= {"from": "ini", "more": "a=b"}.items()
    stub.requests.clear()
    env = {"TESTDB_MODEL": "by-env", "TESTDB_TEST_TYPE": "by-env", "TESTDB_HARDWARE": "cpu, cuda"}
    env |= {"TESTDB_TAG": "from=env,other="}
    session(project, "--testdb-model", "by-option", "--testdb-tag", "from=option", env=env)
    event = first(stub)
    assert (event["model_name"], event["test_type"]) == ("by-option", "by-env")
    assert event["hardware"] == ["cpu", "cuda"]
    assert event["tags"]["from"] == "option"
    stub.requests.clear()
    (project / "pytest.ini").write_text("[pytest]\n")
    session(project, env={"TESTDB": stub.address, "TESTDB_SPOOL": "spool", "TESTDB_TAG": "from=env,other="})
    event = first(stub)
    assert (event["model_name"], event["hardware"], event["test_type"]) == ("project", ["cpu"], "basic")
    assert event["tags"].items() >= {"from": "env", "other": ""}.items()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--testdb-tag", "=x"], "--testdb-tag: '=x' is not NAME=VALUE"),
        (["--testdb-batch", "a b"], "--testdb-batch: 'a b' must be"),
        (["--testdb-hardware", " "], "--testdb-hardware: a platform has"),
        (["--testdb", "ftp://x"], "--testdb takes"),
        (["--testdb", "http://"], "--testdb: 'http://' is no address"),
        (["--testdb", "http://h:x"], "--testdb: 'http://h:x' is no address"),
    ],
)
def test_wrong_options(project: Path, options: list[str], reason: str) -> None:
    done = session(project, "--testdb", "runs.duckdb", "--testdb-spool", "spool", *options)
    assert done.code == 4
    assert reason in done.output
    assert "Traceback" not in done.output
    assert not (project / "spool").exists()


def test_the_environment_is_told_as_tags(stub: Stub, project: Path) -> None:
    subprocess.run(["git", "init", "-q", "-b", "trunk"], cwd=project, check=True)
    author = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run(["git", *author, "commit", "-q", "--allow-empty", "-m", "m"], cwd=project, check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=project, capture_output=True, text=True).stdout
    plain = dict.fromkeys(["GITHUB_ACTIONS", "GITLAB_CI", "JENKINS_URL"], "") | {"USER": "testdb"}
    session(project, "--testdb", stub.address, "--testdb-spool", "spool", env=plain)
    assert first(stub)["creator"] is None, "it is what servers call themselves"
    tags = first(stub)["tags"]
    assert tags["python"] == platform.python_version()
    assert tags["pytest"] == pytest.__version__
    assert tags["platform"].startswith(platform.system())
    assert (tags["git.commit"], tags["git.branch"]) == (commit.strip(), "trunk")
    stub.requests.clear()
    github = {
        "GITHUB_ACTIONS": "true", "GITHUB_JOB": "tests", "GITHUB_SHA": "abc", "GITHUB_REF_NAME": "main",
        "GITHUB_ACTOR": "somebody", "GITHUB_SERVER_URL": "https://example.org", "GITHUB_REPOSITORY": "a/b",
        "GITHUB_RUN_ID": "7",
    }  # fmt: skip
    session(project, "--testdb", stub.address, "--testdb-spool", "spool", env=github)
    event = first(stub)
    assert event["creator"] == "somebody"
    assert (
        event["tags"].items()
        >= {
            "ci": "github",
            "ci.job": "tests",
            "ci.url": "https://example.org/a/b/actions/runs/7",
            "git.commit": "abc",
            "git.branch": "main",
        }.items()
    )


@pytest.mark.parametrize("target", ["server", "file"])
def test_a_path_that_exists_does_not_hide_the_configuration(
    stub: Stub, tmp_path: Path, duckdb_template: Path, target: str
) -> None:
    for name in ("elsewhere", "project"):
        (tmp_path / name).mkdir()
    project = write(tmp_path / "project", test_it="import pytest\n@pytest.mark.slow\ndef test_a(): pass\n")
    (project / "pytest.ini").write_text(
        "[pytest]\nmarkers = slow\naddopts = --strict-markers -m 'not slow'\n"
    )
    (tmp_path / "elsewhere" / "runs.duckdb").touch()
    address = stub.address if target == "server" else str(tmp_path / "elsewhere" / "runs.duckdb")
    done = session(project, "--testdb", address, "--testdb-spool", str(tmp_path / "elsewhere"))
    assert "1 deselected" in done.output
    assert "testdb:" in done.output


def test_a_program_that_calls_pytest_runs_once(stub: Stub, project: Path) -> None:
    (project / "spool").mkdir()
    work = "import sys, pytest\nprint('work')\nsys.exit(pytest.main(sys.argv[1:]))\n"
    (project / "run.py").write_text(work)
    done = subprocess.run(
        [sys.executable, "run.py", "--testdb", stub.address, "--testdb-spool", "spool"],
        cwd=project,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.stdout.count("work") == 1
    assert "testdb: recorded run" in done.stdout


def test_beside_every_other_plugin_that_is_installed(stub: Stub, project: Path) -> None:
    done = subprocess.run(
        [*PYTEST, "--testdb", stub.address, "--testdb-spool", "spool"],
        cwd=project,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert "testdb: recorded run" in done.stdout
    assert stub.events()[-1]["status"] == "completed"


NESTED = """
import subprocess, sys
def test_outer(tmp_path):
    (tmp_path / "test_inner.py").write_text("def test_inner(): pass")
    command = [sys.executable, "-m", "pytest", "-q", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "testdb" not in done.stdout
"""


def test_sessions_that_tests_start_are_not_recorded(stub: Stub, tmp_path: Path) -> None:
    write(tmp_path, test_it=NESTED)
    done = session(tmp_path, env={"TESTDB": stub.address, "TESTDB_SPOOL": str(tmp_path / "spool")})
    assert done.code == 0, done.output
    assert len({event["run_id"] for event in stub.events() if event["event"] == "session"}) == 1
    assert not [event for event in stub.events() if "test_inner" in str(event)]


ENDS = """
import os, signal, pytest
def test_good(): pass
def test_bad(): assert 0
def test_interrupts(): raise KeyboardInterrupt
def test_leaves(): pytest.exit("that is enough", returncode=3)
@pytest.mark.parametrize("n", range(3))
def test_more(n): pass
"""


STOPPED = "stopping after 1 failures; 2 of 5 tests were run"
TROUBLE = """
import pytest
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item): raise Exception("internal trouble")
"""


@pytest.mark.parametrize(
    ("options", "status", "error", "progress"),
    [
        (["-k", "good"], "completed", None, 1.0),
        (["-k", "good or bad"], "completed", None, 1.0),
        (["-x", "-k", "good or bad or more"], "completed", STOPPED, 0.4),
        (["-k", "good or interrupts"], "cancelled", "interrupted: KeyboardInterrupt", 0.5),
        (["-k", "good or leaves"], "cancelled", "interrupted: that is enough", 0.5),
        (["-k", "nothing_at_all"], "error", "no test was run", 0.0),
        (["-k", "good", "-p", "internal"], "error", "internal trouble", None),
    ],
)  # fmt: skip
def test_how_a_session_ends(
    recording: str, api: httpx2.Client, tmp_path: Path, options: list[str], status: str, error: str | None,
    progress: float | None,
) -> None:  # fmt: skip
    write(tmp_path, test_it=ENDS, internal=TROUBLE)
    done = session(tmp_path, "--testdb", recording, "--testdb-spool", "spool", *options)
    run = api.get(f"/db/run/{done.run_id}").json()
    assert run["status"] == status
    if error is None or progress is not None:
        assert run["error"] == error
        assert run["progress"] == pytest.approx(progress)
    else:
        assert error in run["error"]


def test_collection_errors(recording: str, api: httpx2.Client, tmp_path: Path) -> None:
    write(tmp_path, test_it="def test_a(): pass\n", test_bad="import not_there_at_all\n")
    done = session(tmp_path, "--testdb", recording, "--testdb-spool", "spool")
    assert done.code == 2
    run = api.get(f"/db/run/{done.run_id}").json()
    assert run["status"] == "error"
    assert run["error"] == (
        "1 error while collecting: ModuleNotFoundError: No module named 'not_there_at_all'"
    )
    (step,) = [step for step in run["steps"] if step["step_name"] == "test_bad.py"]
    assert (step["status"], "not_there_at_all" in step["error"]) == ("error", True)


WAITS = "import time\ndef test_good(): pass\ndef test_waits(): time.sleep(60)\n"


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_ctrl_c(recording: str, api: httpx2.Client, tmp_path: Path, workers: tuple[str, ...]) -> None:
    write(tmp_path, test_it=WAITS)
    running = begun(tmp_path, "--testdb", recording, "--testdb-spool", "spool", *workers)
    spool = tmp_path / "spool"
    wait_for(
        lambda: spool.exists() and any('test_good","status' in file.read_text() for file in spool.iterdir())
    )
    running.send_signal(signal.SIGINT)
    assert running.wait(30) == 2
    found = re.search("recorded run ([0-9a-f-]+)", (tmp_path / "output").read_text())
    assert found
    run = api.get(f"/db/run/{found[1]}").json()
    assert (run["status"], run["error"]) == ("cancelled", "interrupted: KeyboardInterrupt")
    assert run["results"]["tests_passed"] == 1


def test_a_worker_that_crashes(recording: str, api: httpx2.Client, tmp_path: Path) -> None:
    write(tmp_path, test_it="import os\ndef test_good(): pass\ndef test_dies(): os._exit(1)\n")
    done = session(tmp_path, "--testdb", recording, "--testdb-spool", "spool", "-n", "2")
    run = api.get(f"/db/run/{done.run_id}").json()
    steps = {step["step_name"]: step for step in run["steps"]}
    assert steps["test_it.py::test_good"]["status"] == "passed"
    assert steps["test_it.py::test_dies"]["status"] == "error", "as the session's JUnit file has it"
    assert "crashed" in steps["test_it.py::test_dies"]["error"]
