"""What is recorded of a session is what happened in it, as its own JUnit file says."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import httpx2
import pytest

from tests.plugin.sessions import junit_outcomes, recorded_outcomes, session, write

EVERYTHING = """
import pytest

@pytest.mark.parametrize("text", ["a b", "x/y::z", "ü漢", "", "[nested["])
def test_parametrized(text): pass

def test_fails():
    print("said before")
    assert [1, 2] == [1, 3]

@pytest.mark.skip(reason="not today")
def test_skipped(): pass

def test_skips_itself(): pytest.skip("on second thought")

@pytest.mark.xfail(reason="known")
def test_xfails(): assert 0

@pytest.mark.xfail(reason="thought so")
def test_xpasses(): pass

@pytest.mark.xfail(reason="strictly", strict=True)
def test_xpasses_strictly(): pass

@pytest.fixture
def broken_setup(): raise RuntimeError("setup is broken")

@pytest.fixture
def broken_teardown():
    yield
    raise RuntimeError("teardown is broken")

def test_setup(broken_setup): pass
def test_teardown(broken_teardown): pass
def test_fails_twice(broken_teardown): assert 0, "itself"

@pytest.fixture
def skipping(): pytest.skip("from a fixture")
def test_skipped_by_a_fixture(skipping): pass

class TestClass:
    class TestInner:
        def test_method(self): pass

import unittest
class Case(unittest.TestCase):
    def test_old(self): self.assertEqual(1, 2)
    @unittest.expectedFailure
    def test_expected(self): self.fail()
    @unittest.skip("old skip")
    def test_old_skip(self): pass

def test_subtests(subtests):
    with subtests.test("good"): pass
    with subtests.test("bad"): assert 0, "inside"

"""
ODD = """
import pytest
def test_text(): raise ValueError("nul \\x00 half \\ud800 color \\x1b[31mred\\x1b[0m")
@pytest.mark.parametrize("number", [1, 2], ids=["x" * 3000 + "a", "x" * 3000 + "b"])
def test_long(number): pass
def test_much():
    for line in range(10_000): print("line", line)
    assert 0
"""
SKIPPED_MODULE = 'import pytest\npytest.skip("the whole file", allow_module_level=True)\n'


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_every_outcome(recording: str, api: httpx2.Client, tmp_path: Path, workers: tuple[str, ...]) -> None:
    write(tmp_path, test_all=EVERYTHING, test_module=SKIPPED_MODULE)
    done = session(tmp_path, "--testdb", recording, "--junitxml", "junit.xml", *workers)
    assert done.code == 1
    run = api.get(f"/db/run/{done.run_id}").json()
    assert (run["status"], run["progress"], run["error"]) == ("completed", 1.0, None)
    expected = junit_outcomes(tmp_path / "junit.xml")
    assert len(expected) == 21
    assert recorded_outcomes(run["steps"]) == expected
    counts = Counter(expected.values())
    assert run["results"]["tests_passed"] == counts["passed"]
    assert run["results"]["tests_failed"] == counts["failed"] + counts["error"]
    assert run["results"]["tests_skipped"] == counts["skipped"]


def test_reasons(recording: str, api: httpx2.Client, tmp_path: Path) -> None:
    write(tmp_path, test_all=EVERYTHING)
    done = session(tmp_path, "--testdb", recording)
    steps = api.get(f"/db/run/{done.run_id}").json()["steps"]
    errors = {step["step_name"].removeprefix("test_all.py::"): step["error"] for step in steps}
    assert errors["TestClass::TestInner::test_method"] is None
    assert "assert [1, 2] == [1, 3]" in errors["test_fails"]
    assert "--- Captured stdout call ---\nsaid before" in errors["test_fails"]
    assert errors["test_skipped"] == "not today"
    assert errors["test_skips_itself"] == "on second thought"
    assert errors["test_skipped_by_a_fixture"] == "from a fixture"
    assert errors["test_xfails"] == "xfail: known"
    assert errors["test_xpasses"] == "xpass: thought so"
    assert "strictly" in errors["test_xpasses_strictly"]
    assert "setup is broken" in errors["test_setup"]
    assert "teardown is broken" in errors["test_teardown"]
    assert "itself" in errors["test_fails_twice"]
    assert "teardown is broken" in errors["test_fails_twice"]
    assert "inside" in errors["test_subtests"]
    assert "old skip" in errors["Case::test_old_skip"]


def test_odd_and_long_texts(recording: str, api: httpx2.Client, tmp_path: Path) -> None:
    write(tmp_path, test_it=ODD)
    done = session(tmp_path, "--testdb", recording)
    steps = api.get(f"/db/run/{done.run_id}").json()["steps"]
    assert [step["status"] for step in steps] == ["failed", "passed", "passed", "failed", "completed"]
    assert r"nul \x00 half \ud800 color red" in steps[0]["error"]
    assert len({steps[1]["step_name"], steps[2]["step_name"]}) == 2
    assert all(step["step_name"].startswith("test_it.py::test_long[xxx") for step in steps[1:3])
    error = steps[3]["error"]
    assert len(error) < 21_000
    assert "characters left out" in error
    assert error.rstrip().endswith("line 9999")


RERUNS = """
import pathlib
def test_flaky():
    file = pathlib.Path("count")
    count = int(file.read_text()) + 1 if file.exists() else 1
    file.write_text(str(count))
    assert count == 3, f"attempt {count} fails"
def test_hopeless(): assert 0, "always"
def test_good(): pass
"""


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_reruns_are_visible(
    recording: str, api: httpx2.Client, tmp_path: Path, workers: tuple[str, ...]
) -> None:
    write(tmp_path, test_it=RERUNS)
    done = session(tmp_path, "--testdb", recording, "--reruns", "2", "--junitxml", "junit.xml", *workers)
    run = api.get(f"/db/run/{done.run_id}").json()
    steps = {step["step_name"]: step for step in run["steps"]}
    assert steps["test_it.py::test_flaky"]["status"] == "passed"
    for number in (1, 2):
        attempt = steps[f"test_it.py::test_flaky (attempt {number})"]
        assert attempt["status"] == "failed"
        assert f"attempt {number} fails" in attempt["error"]
    assert steps["test_it.py::test_hopeless"]["status"] == "failed"
    assert "test_it.py::test_hopeless (attempt 2)" in steps
    assert recorded_outcomes(run["steps"]) == junit_outcomes(tmp_path / "junit.xml")
    assert (run["results"]["tests_passed"], run["results"]["tests_failed"]) == (2, 1)
    details = {item["method"]: item for item in run["results"]["test_details"]}
    assert details["test_it.py::test_flaky"]["attempts"] == 3
    assert "attempts" not in details["test_it.py::test_good"]


METRICS = """
import math, pytest
class Odd(float): pass
@pytest.mark.parametrize("number", range(4))
def test_metrics(number, record_metric):
    record_metric("latency", number, "ms")
    record_metric("nothing", math.nan)
    record_metric("much", float("inf"))
    record_metric("odd", Odd(1.5))
    record_metric("half \\ud800", 1)
def test_properties(record_property, record_testsuite_property):
    record_property("speed", 7)
    record_property("ratio", 0.5)
    record_property("huge", 10 ** 400)
    record_property("flag", True)
    record_property("text", "8")
@pytest.mark.parametrize("wrong", [True, "1", None, 1j])
def test_wrong(record_metric, wrong):
    with pytest.raises(TypeError):
        record_metric("x", wrong)
    with pytest.raises(ValueError):
        record_metric("", 1)
def test_artifacts(record_artifact, tmp_path):
    record_artifact(tmp_path / "plot.png", "plot", "A plot")
    record_artifact("relative.txt")
"""


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_metrics_and_artifacts(
    recording: str, api: httpx2.Client, tmp_path: Path, workers: tuple[str, ...]
) -> None:
    write(tmp_path, test_it=METRICS)
    done = session(tmp_path, "--testdb", recording, "--junitxml", "junit.xml", *workers)
    assert done.code == 0, done.output
    run = api.get(f"/db/run/{done.run_id}").json()
    assert set(run["metrics"]) == {
        *("latency", "nothing", "much", "odd", "half \\ud800", "speed", "ratio", "huge", "duration")
    }
    latency = run["metrics"]["latency"]
    assert (latency["count"], latency["min"], latency["max"], latency["unit"]) == (4, 0, 3, "ms")
    assert run["metrics"]["nothing"]["value"] == "NaN"
    assert run["metrics"]["much"]["value"] == run["metrics"]["huge"]["value"] == "Infinity"
    assert (run["metrics"]["speed"]["value"], run["metrics"]["ratio"]["value"]) == (7, 0.5)
    paths = {item["artifact_path"]: item for item in run["artifacts"]}
    assert str(tmp_path / "relative.txt") in paths
    assert {item["artifact_type"] for item in paths.values()} == {"plot", "file"}
    assert "latency" not in (tmp_path / "junit.xml").read_text(), "the session's own report is as without it"


def test_the_same_test_several_times(recording: str, api: httpx2.Client, tmp_path: Path) -> None:
    write(tmp_path, test_it="def test_a(): pass\n")
    done = session(tmp_path, "--testdb", recording, "-n", "2", "--dist", "each")
    run = api.get(f"/db/run/{done.run_id}").json()
    names = sorted(step["step_name"] for step in run["steps"])
    assert names == ["Completed", "test_it.py::test_a", "test_it.py::test_a #2"]
    assert run["results"]["tests_passed"] == 2
