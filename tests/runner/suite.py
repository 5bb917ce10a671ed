"""A suite whose tests end in every way that a suite can."""

from __future__ import annotations

from pathlib import Path

TESTS = {
    "good": "test_good.py",
    "mixed": "test_mixed.py",
    "slow": "test_slow.py",
    "stubborn": "test_ends.py::test_stubborn",
    "crash": "test_ends.py::test_crash",
    "killed": "test_ends.py::test_killed",
    "exit": "test_ends.py::test_exit",
    "leave": "test_ends.py::test_leave",
    "fork": "test_ends.py::test_fork",
    "noisy": "test_ends.py::test_noisy",
    "environment": "test_ends.py::test_environment",
    "broken": "test_broken.py",
    "many": "test_many.py",
    "measured": "test_measured.py",
}

FILES = {
    "pytest.ini": """
[pytest]
addopts = -pno:hypothesispytest -pno:anyio -pno:schemathesis -pno:xdist -pno:rerunfailures
""",
    "test_good.py": """
def test_metrics(model_name, hardware, record_metric):
    assert model_name in ("alpha", "beta")
    record_metric(f"{hardware}.latency", 1.5, "ms")
    record_metric(f"{hardware}.latency", 2.5, "ms")
    record_metric("odd", float("nan"))

def test_attached(tmp_path, record_artifact):
    (tmp_path / "plot.txt").write_text("a plot")
    record_artifact(tmp_path / "plot.txt", "plot", "What it looks like")
""",
    "test_mixed.py": """
import pytest

@pytest.mark.parametrize("text", ["a b", "x/y::z", "ü", ""])
def test_passes(text): pass

def test_fails():
    print("said before")
    assert [1, 2] == [1, 3]

@pytest.mark.skip(reason="not today")
def test_skipped(): pass

@pytest.mark.xfail(reason="known")
def test_known(): assert 0

@pytest.fixture
def broken():
    yield
    raise RuntimeError("teardown is broken")

def test_teardown(broken): pass
""",
    "test_slow.py": """
import time

def test_first(): pass

def test_waits(tmp_path_factory):
    for _ in range(600):
        time.sleep(0.1)
""",
    "test_ends.py": """
import os, signal, subprocess, sys, time

def test_stubborn():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    time.sleep(60)

def test_crash():
    import faulthandler
    faulthandler.disable()
    print("about to crash")
    os.kill(os.getpid(), signal.SIGSEGV)

def test_killed():
    os.kill(os.getpid(), signal.SIGKILL)

def test_exit():
    os._exit(7)

def test_leave():
    sys.exit("enough")

def test_fork():
    marker = os.environ["MARKER_OF_THE_TEST"]
    code = "import time; time.sleep(60)"
    for alone in (False, True):
        subprocess.Popen([sys.executable, "-c", code, marker], start_new_session=alone)

def test_noisy():
    for start in range(0, 1_000_000, 10_000):
        print("\\n".join(f"line {number}" for number in range(start, start + 10_000)))

def test_environment():
    withheld = ("TESTDB_D", "TESTDB_TOKEN", "PGPASS", "PGSSL")
    assert not [name for name in os.environ if name.startswith(withheld)]
    assert not [name for name, value in os.environ.items() if "very" in value and "secret" in value]
    assert os.environ["MARKER_OF_THE_TEST"]
    assert os.environ["HARMLESS"] == "secret"
""",
    "test_broken.py": "import a_module_that_is_not_there\n\ndef test_never(): pass\n",
    "test_measured.py": """
import pytest, time

@pytest.mark.parametrize("number", range(40))
def test_one(number, record_metric):
    record_metric("number", number)
    time.sleep(0.03)
""",
    "test_many.py": """
import pytest, time

@pytest.mark.parametrize("number", range(40))
def test_one(number): time.sleep(0.01)
""",
}


def write_suite(folder: Path) -> Path:
    """Makes the suite's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in FILES.items():
        (folder / name).write_text(text)
    models = "".join(
        f'[[models]]\nname = "{name}"\ntype = "t"\nmodality = "m"\n' for name in ("alpha", "beta")
    )
    types = "".join(
        f'[[types]]\nid = "{type_id}"\nname = "{type_id.title()}"\ntests = ["{tests}"]\n'
        for type_id, tests in TESTS.items()
    )
    (folder / "suite.toml").write_text(models + types)
    return folder
