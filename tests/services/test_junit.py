"""JUnit XML into runs: the files of the usual tools, a real pytest run, what is lost, and attacks."""

from __future__ import annotations

import codecs
import io
import json
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from app.errors import Invalid
from app.schemas.documents import RunDocument
from app.schemas.transfer import ImportOptions, Per
from app.services import junit, junit_text
from app.services.junit import Parsed, parse
from app.vocabulary import RunStatus

SAMPLES = Path(__file__).parent.parent / "data" / "junit"
NOW = datetime(2026, 5, 1, 8, 0, tzinfo=UTC)
NO_TIMESTAMP = "the file has no timestamp: the time of the import is taken as its start"
NO_CASE = "the file has no test case"
HEAD = 'timestamp="2026-03-01T10:00:00"'


def read(data: str | bytes, *, digest: str = "d" * 64, **options: Any) -> Parsed:
    data = data.encode() if isinstance(data, str) else data
    return parse(io.BytesIO(data), ImportOptions(**options), digest=digest, now=NOW)


def one(data: str | bytes, **options: Any) -> RunDocument:
    """The only run of a file that loses nothing."""
    parsed = read(data, **options)
    assert parsed.warnings == []
    assert len(parsed.runs) == 1
    return parsed.runs[0]


def sample(name: str) -> bytes:
    return (SAMPLES / name).read_bytes()


def suite(cases: str, attributes: str = "") -> str:
    return f'<testsuite name="s" {HEAD} {attributes}>{cases}</testsuite>'


def outcomes(run: RunDocument) -> list[tuple[str, str | None, float | None]]:
    return [(step.step_name, step.status and step.status.value, step.duration) for step in run.steps]


def counts(run: RunDocument) -> tuple[int, int, int]:
    assert run.results is not None
    passed, failed, skipped = (run.results[f"tests_{name}"] for name in ("passed", "failed", "skipped"))
    return passed, failed, skipped


def details(run: RunDocument) -> list[dict[str, Any]]:
    assert run.results is not None
    found: list[dict[str, Any]] = run.results["test_details"]
    return found


def at(seconds: float) -> datetime:
    return datetime(2026, 3, 1, 10, 0, tzinfo=UTC) + timedelta(seconds=seconds)


class TestSamples:
    """A file in the style of each tool, compared with what it says."""

    def test_pytest(self) -> None:
        run = one(sample("pytest.xml"))
        assert outcomes(run) == [
            ("tests.test_forward.TestForward::test_shape[bert.base-1.5-a/b]", "passed", 0.25),
            ("tests.test_forward.TestForward::test_values", "failed", 0.5),
            ("tests.test_forward::test_device", "error", 0.0),
            ("tests.test_forward::test_fp16", "skipped", 0.0),
            ("tests.test_forward::test_known", "skipped", 0.125),
            ("tests.test_forward::test_load", "passed", 0.1),
        ]
        assert counts(run) == (2, 2, 2)
        assert (run.model_name, run.hardware, run.test_type, run.creator) == (
            "bert-base-uncased",
            ["cpu", "cuda"],
            "nightly",
            "ci",
        )
        assert run.tags == {"branch": "main", "hostname": "gpu-box-1"}
        assert (run.status, run.progress, run.current_step) == (RunStatus.COMPLETED, 1.0, None)
        assert (run.started_at, run.completed_at, run.duration) == (at(0.5), at(1.75), 1.25)
        assert run.steps[1].error == (
            "AssertionError: assert [1.0, 2.5] == [1.0, 2.0]\n"
            "  \n"
            "  At index 1 diff: 2.5 != 2.0\n"
            "  Use -v to get more diff\n"
            "def test_values():\n"
            ">       assert [1.0, 2.5] == [1.0, 2.0]\n"
            "E       AssertionError: assert [1.0, 2.5] == [1.0, 2.0]\n"
            "E         \n"
            "E         At index 1 diff: 2.5 != 2.0\n"
            "E         Use -v to get more diff\n"
            "\n"
            "tests/test_forward.py:12: AssertionError"
        )
        assert run.steps[2].error == (
            'failed on setup with "RuntimeError: no device"\n'
            "@pytest.fixture\n"
            "    def device():\n"
            '>       raise RuntimeError("no device")\n'
            "E       RuntimeError: no device\n"
            "\n"
            "tests/test_forward.py:20: RuntimeError"
        )
        assert [step.error for step in run.steps[3:]] == ["no fp16 on this device", "known to diverge", None]
        assert [step.started_at for step in run.steps] == [
            at(seconds) for seconds in (0.5, 0.75, 1.25, 1.25, 1.25, 1.375)
        ]
        assert run.steps[1].completed_at == at(1.25)
        assert details(run)[0] == {
            "method": "tests.test_forward.TestForward::test_shape[bert.base-1.5-a/b]",
            "name": "test_shape[bert.base-1.5-a/b]",
            "classname": "tests.test_forward.TestForward",
            "suite": "pytest",
            "status": "passed",
            "duration_ms": 250.0,
            "error": None,
        }
        values = details(run)[1]
        assert values["properties"] == {"max_error": ["0.5", "0.25"]}
        assert values["system_out"].endswith(" ---------------------------------\nloading weights\n\n")
        assert values["failures"][0]["kind"] == "failure"
        assert values["failures"][0]["message"].splitlines()[2] == "  At index 1 diff: 2.5 != 2.0"
        assert run.results is not None
        assert run.results["testsuites"]["name"] == "pytest tests"
        assert run.results["suites"] == [
            {
                "name": "pytest",
                "path": "pytest",
                "tests": 6,
                "failures": 1,
                "errors": 1,
                "skipped": 2,
                "duration": 1.25,
                "timestamp": "2026-03-01T12:00:00.500000+02:00",
                "hostname": "gpu-box-1",
                "properties": run.results["properties"],
            }
        ]
        assert run.results["properties"] == {
            "model_name": "bert-base-uncased",
            "hardware": "cpu, cuda",
            "test_type": "nightly",
            "creator": "ci",
            "branch": "main",
        }

    def test_surefire(self) -> None:
        parsed = read(sample("surefire.xml"))
        (run,) = parsed.runs
        assert parsed.warnings == [NO_TIMESTAMP]
        suite_name = "com.example.InferenceTest"
        assert outcomes(run) == [
            (f"{suite_name}::loads", "passed", 0.015),
            (f"{suite_name}::recovers", "passed", 0.2),
            (f"{suite_name}::compares", "failed", 0.004),
            (f"{suite_name}::skips", "skipped", 0.0),
            (f"{suite_name}::throws", "error", 0.001),
            (suite_name, "passed", 0.0),
        ]
        assert counts(run) == (3, 2, 1)
        assert (run.started_at, run.duration) == (NOW, 1234.567)
        assert run.completed_at == NOW + timedelta(seconds=1234.567)
        assert run.tags == {"java.version": "17.0.9", "line.separator": "\n"}
        assert run.model_name == suite_name
        assert details(run)[1]["reruns"] == [
            {
                "kind": "flakyFailure",
                "type": "org.opentest4j.AssertionFailedError",
                "message": "expected: <3> but was: <4>",
                "text": None,
                "stack_trace": "org.opentest4j.AssertionFailedError: expected: <3> but was: <4>\n"
                "\tat com.example.InferenceTest.recovers(InferenceTest.java:10)",
                "system_out": "first try\n",
                "system_err": "slow\n",
            },
            {
                "kind": "flakyError",
                "type": "java.io.IOException",
                "message": "lost",
                "text": None,
                "stack_trace": "java.io.IOException: lost",
            },
        ]
        assert "failures" not in details(run)[1]
        assert [rerun["kind"] for rerun in details(run)[2]["reruns"]] == ["rerunFailure"]
        assert [rerun["kind"] for rerun in details(run)[4]["reruns"]] == ["rerunError"]
        assert details(run)[2]["system_out"] == "comparing\n"
        assert [step.error for step in run.steps] == [
            None,
            None,
            "org.opentest4j.AssertionFailedError: expected: <1> but was: <2>\n"
            "\tat com.example.InferenceTest.compares(InferenceTest.java:20)",
            "needs a GPU",
            "java.lang.NullPointerException\n\tat com.example.InferenceTest.throws(InferenceTest.java:30)",
            None,
        ]
        assert run.results is not None
        assert run.results["suites"][0]["attributes"] == {"version": "3.0"}
        assert "testsuites" not in run.results

    def test_gradle(self) -> None:
        run = one(sample("gradle.xml"))
        assert outcomes(run) == [
            ("org.example.TokenizerTest::splits words()", "passed", 0.031),
            ("org.example.TokenizerTest::joins words()", "failed", 0.022),
            ("org.example.TokenizerTest::not yet()", "skipped", 0.0),
        ]
        assert run.steps[1].error == (
            "org.opentest4j.AssertionFailedError: expected: <a b> but was: <ab>\n"
            "\tat org.example.TokenizerTest.joins(TokenizerTest.java:41)"
        )
        assert run.steps[2].error is None
        assert run.results is not None
        assert run.results["suites"][0]["system_out"] == "vocabulary loaded\n"
        assert "system_err" not in run.results["suites"][0]
        assert run.tags == {"hostname": "builder"}

    def test_googletest(self) -> None:
        run = one(sample("googletest.xml"))
        assert outcomes(run) == [
            ("Kernels::Add", "passed", 0.002),
            ("Kernels::Multiply", "failed", 0.003),
            ("Kernels::DISABLED_Later", "skipped", 0.0),
            ("Kernels::Skips", "skipped", 0.001),
            ("Sizes/SizedTest::Fits/0", "passed", 0.001),
        ]
        assert (run.model_name, run.tags, run.duration) == ("AllTests", {"seed": "7"}, 0.012)
        assert run.started_at == at(0.1), "the epoch of the disabled test must not be its start"
        assert [step.started_at for step in run.steps] == [
            at(0.101),
            at(0.104),
            at(0.107),
            at(0.11),
            at(0.111),
        ]
        assert run.steps[1].error == (
            "kernels_test.cc:10\nExpected equality of these values:\n  4\n  3\n"
            "kernels_test.cc:11\nFailed\nsecond"
        )
        assert len(details(run)[1]["failures"]) == 2
        assert details(run)[4]["attributes"] == {
            "value_param": "16",
            "status": "run",
            "result": "completed",
        }
        assert (details(run)[0]["file"], details(run)[0]["line"]) == ("kernels_test.cc", 3)
        assert details(run)[0]["properties"] == {"flops": "12"}
        assert details(run)[2]["attributes"]["timestamp"] == "1970-01-01T01:00:00.000"
        assert run.results is not None
        assert run.results["testsuites"]["attributes"] == {"disabled": "1", "ad_hoc": "yes"}

    def test_jest(self) -> None:
        run = one(sample("jest.xml"))
        assert outcomes(run) == [
            ('tokenizer splits "quoted" words::tokenizer splits "quoted" words', "passed", 0.005),
            ("tokenizer counts::tokenizer counts", "failed", 0.25),
            ("tokenizer todo::tokenizer todo", "skipped", 0.0),
            ("model › load works::model › load works", "passed", 0.5),
        ]
        assert (run.model_name, run.duration, run.completed_at) == ("jest tests", 2.5, at(2.5))
        assert run.steps[1].error is not None
        assert run.steps[1].error.startswith(
            "Error: expect(received).toBe(expected) // Object.is equality\n\n"
        )
        assert run.steps[3].started_at == at(1)

    def test_go_junit_report(self) -> None:
        run = one(sample("go-junit-report.xml"))
        assert outcomes(run) == [
            ("example.com/ml/infer::TestLoad", "passed", 0.06),
            ("example.com/ml/infer::TestInfer/batch=8", "failed", 0.1),
            ("example.com/ml/infer::TestGPU", "skipped", 0.0),
            ("example.com/ml/train::example.com/ml/infer::TestLoad", "passed", 0.04),
        ]
        assert run.steps[1].error == "Failed\n    infer_test.go:15: got 3\n        want 4"
        assert run.steps[2].error == "    infer_test.go:30: no GPU"
        assert run.tags == {
            "hostname": "runner-7, runner-8",
            "go.version": "go1.23.1 linux/amd64, go1.23.2 linux/amd64",
        }
        assert run.duration == pytest.approx(0.2)
        assert run.model_name == "example.com/ml/infer"
        assert details(run)[3]["method"] == "example.com/ml/train::example.com/ml/infer::TestLoad"
        assert details(run)[3]["suite"] == "example.com/ml/train"
        assert run.results is not None
        assert run.results["suites"][1]["id"] == "1"
        assert run.results["suites"][0]["system_out"] == "warming up"

    def test_go_junit_report_per_suite(self) -> None:
        first, second = read(sample("go-junit-report.xml"), per="suite").runs
        assert [step.step_name for step in second.steps] == ["example.com/ml/infer::TestLoad"]
        assert (first.model_name, second.model_name) == ("example.com/ml/infer", "example.com/ml/train")
        assert (first.tags["hostname"], second.tags["hostname"]) == ("runner-7", "runner-8")
        assert (counts(first), counts(second)) == ((1, 1, 1), (1, 0, 0))
        assert (first.duration, second.duration) == (0.16, 0.04)
        assert first.run_id != second.run_id


class TestRealPytest:
    """What pytest itself says of each test, beside what is read from its XML."""

    SUITE = """
import sys
import pytest

@pytest.fixture(scope="session", autouse=True)
def _session(record_testsuite_property):
    record_testsuite_property("model_name", "bert-base")
    record_testsuite_property("hardware", "cpu, cuda")
    record_testsuite_property("branch", "main")

@pytest.fixture
def no_device():
    raise RuntimeError("no device")

@pytest.fixture
def loses_device():
    yield
    raise RuntimeError("device lost")

@pytest.mark.parametrize("value", ["a.b", "c[d]", "e/f::g", "h i", "1.5", "ü", "<&>"])
def test_values(value):
    pass

class TestInner:
    @pytest.mark.parametrize("x", [1.5])
    def test_method(self, x):
        print("to stdout <&> ü")
        print("to stderr", file=sys.stderr)

    def test_compares(self):
        assert {"a": 1, "b": [1, 2]} == {"a": 1, "b": [1, 3]}, "two\\n  lines"

def test_setup(no_device): pass
def test_teardown(loses_device): pass
def test_fails_twice(loses_device): assert 0, "in the call"
def test_skip(): pytest.skip("no fp16 here")
@pytest.mark.skip(reason="marked; see [docs]")
def test_marked(): pass
@pytest.mark.xfail(reason="known to diverge")
def test_xfail(): assert 0
@pytest.mark.xfail(reason="fixed by now")
def test_xpass(): pass
@pytest.mark.xfail(reason="strictly", strict=True)
def test_xpass_strict(): pass
def test_property(record_property):
    record_property("loss", 0.5)
    record_property("loss", 0.25)
    record_property("note", "x=y")
def test_colours(): assert "\\x1b[31mred\\x1b[0m" == ""
"""
    CONFTEST = """
import json
import pathlib

FOUND = []

def pytest_runtest_logreport(report):
    if report.when == "call" or report.outcome != "passed":
        skipped = getattr(report, "wasxfail", "")
        if isinstance(report.longrepr, tuple):
            skipped = report.longrepr[2]
        outcome = "error" if report.failed and report.when != "call" else report.outcome
        FOUND.append([report.nodeid, report.when, outcome, report.longreprtext, skipped])

def pytest_sessionfinish(session):
    pathlib.Path(session.config.rootpath, "found.json").write_text(json.dumps(FOUND))
"""

    @pytest.fixture(params=["xunit1", "xunit2"])
    def made(self, request: pytest.FixtureRequest, tmp_path: Path) -> tuple[bytes, list[list[str]]]:
        (tmp_path / "pytest.ini").write_text("[pytest]\n")
        (tmp_path / "test_made.py").write_text(self.SUITE, encoding="utf-8")
        (tmp_path / "conftest.py").write_text(self.CONFTEST)
        options = ["-p", "no:cacheprovider", "-o", f"junit_family={request.param}", "-o", "junit_logging=all"]
        command = [sys.executable, "-m", "pytest", "-q", "-pno:schemathesis", *options, "--junitxml=out.xml"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 1, done.stdout + done.stderr
        return (tmp_path / "out.xml").read_bytes(), json.loads((tmp_path / "found.json").read_text())

    def test_every_outcome(self, made: tuple[bytes, list[list[str]]]) -> None:
        xml, found = made
        run = one(xml)
        expected = []
        for nodeid, when, outcome, text, skipped in found:
            if nodeid.endswith("::test_teardown") and when == "call":
                continue  # passed, but pytest then writes only the error of the teardown
            module, _, rest = nodeid.partition("::")
            classname, name = module.removesuffix(".py"), rest
            if rest.startswith("TestInner::"):
                classname, name = f"{classname}.TestInner", rest.removeprefix("TestInner::")
            step_name = f"{classname}::{name}"
            if nodeid.endswith("::test_fails_twice") and when == "teardown":
                step_name = f"pytest::{step_name}"
            expected.append((step_name, outcome, text, skipped.removeprefix("Skipped: ")))
        assert len(expected) == 20
        assert [(step.step_name, step.status) for step in run.steps] == [item[:2] for item in expected]
        for step, (name, outcome, text, reason) in zip(run.steps, expected, strict=True):
            if outcome in ("failed", "error"):
                # pytest writes characters that XML lacks as #x1B.
                assert text.replace("\x1b", "#x1B").strip("\n") in (step.error or ""), name
            else:
                assert step.error == (reason if outcome == "skipped" else None), name

    def test_the_rest(self, made: tuple[bytes, list[list[str]]]) -> None:
        run = one(made[0])
        by_name = {detail["name"]: detail for detail in details(run)}
        assert counts(run) == (10, 7, 3)
        assert by_name["test_property"]["properties"] == {"loss": ["0.5", "0.25"], "note": "x=y"}
        assert "to stdout <&> ü\n" in by_name["test_method[1.5]"]["system_out"]
        assert "to stderr\n" in by_name["test_method[1.5]"]["system_err"]
        assert (run.model_name, run.hardware, run.tags["branch"]) == ("bert-base", ["cpu", "cuda"], "main")
        assert run.started_at is not None
        assert abs(datetime.now(UTC) - run.started_at) < timedelta(minutes=5)
        assert run.completed_at == run.started_at + timedelta(seconds=run.duration or 0)


class TestRoots:
    def test_lone_suite_and_namespaces(self) -> None:
        run = one(
            f'<j:testsuite xmlns:j="urn:x" xmlns:k="urn:y" k:name="other" name="s" {HEAD} k:flavour="dark">'
            '<j:testcase j:name="a" classname="c" time="1"><j:failure message="no"/></j:testcase>'
            "</j:testsuite>"
        )
        assert outcomes(run) == [("c::a", "failed", 1.0)]
        assert run.results is not None
        assert run.results["suites"][0]["attributes"] == {"flavour": "dark"}
        assert run.model_name == "s"

    def test_cases_directly_in_testsuites(self) -> None:
        run = one(f'<testsuites name="all" {HEAD}><testcase name="a" time="1"/></testsuites>')
        assert (run.model_name, outcomes(run), run.duration) == ("all", [("a", "passed", 1.0)], 1.0)

    @pytest.mark.parametrize("per", list(Per))
    @pytest.mark.parametrize(
        "xml", ["<testsuites/>", '<testsuite name="m"/>', "<testsuites><testsuite/></testsuites>"]
    )
    def test_no_test_case(self, xml: str, per: Per) -> None:
        parsed = read(xml, per=per)
        (run,) = parsed.runs
        unnamed = [] if "name" in xml else ["nothing in the file names the model: it is called 'junit'"]
        assert parsed.warnings == [NO_TIMESTAMP, NO_CASE, *unnamed]
        assert counts(run) == (0, 0, 0)
        assert (run.status, run.steps, run.duration, run.completed_at) == (
            RunStatus.COMPLETED,
            [],
            None,
            None,
        )

    @pytest.mark.parametrize("depth", [3, 400])
    def test_nested_to_any_depth(self, depth: int) -> None:
        xml = "".join(f'<testsuite name="n{level}">' for level in range(depth))
        xml += f'<testcase name="deep" time="2" {HEAD}/>' + "</testsuite>" * depth
        for per in Per:
            run = one(xml, per=per)
            assert outcomes(run) == [("deep", "passed", 2.0)]
            assert run.model_name == "n0"
            assert run.results is not None
            assert len(run.results["suites"]) == depth
            assert run.results["suites"][0]["tests"] == 1
            assert run.results["suites"][0]["duration"] == 2.0

    def test_comments_and_instructions_are_ignored(self) -> None:
        assert outcomes(one(suite('<!-- a --><?b c?><testcase name="a"><!-- d --></testcase>'))) == [
            ("a", "passed", None)
        ]


class TestPerSuite:
    def test_nested(self) -> None:
        parsed = read(sample("nested.xml"), per="suite")
        foo, data, bar = parsed.runs
        assert parsed.warnings == [NO_TIMESTAMP]
        assert [[step.step_name for step in run.steps] for run in parsed.runs] == [
            ["FooTest::testPlain"],
            ["FooTest::testWithData with data set #0", "FooTest::testWithData with data set #1"],
            ["FooTest::testPlain"],
        ]
        assert [run.model_name for run in parsed.runs] == ["outer-model", "inner-model", "outer-model"]
        assert [run.tags for run in parsed.runs] == [
            {"branch": "main", "seed": "2"},
            {"branch": "main", "seed": "3"},
            {"branch": "main", "seed": "1"},
        ]
        assert [run.duration for run in parsed.runs] == [0.6, 0.5, 0.4]
        assert [counts(run) for run in parsed.runs] == [(1, 0, 0), (1, 1, 0), (1, 0, 0)]
        paths = [[item["path"] for item in (run.results or {})["suites"]] for run in parsed.runs]
        assert paths == [
            ["all", "all/FooTest"],
            ["all/FooTest/FooTest::testWithData"],
            ["all/BarTest"],
        ], "each suite is recorded once"
        assert data.results is not None
        assert data.results["properties"] == {
            "model": "outer-model",
            "branch": "main",
            "seed": "3",
            "model_name": "inner-model",
        }
        assert details(data)[1]["suite"] == "all/FooTest/FooTest::testWithData"
        assert (foo.started_at, data.started_at, bar.started_at) == (
            NOW,
            NOW + timedelta(seconds=0.1),
            NOW + timedelta(seconds=0.6),
        )

    def test_per_file(self) -> None:
        (run,) = read(sample("nested.xml")).runs
        assert (run.model_name, run.tags, run.duration) == (
            "outer-model",
            {"branch": "main", "seed": "3"},
            1.0,
        )
        assert [step.step_name for step in run.steps][-1] == "all/BarTest::FooTest::testPlain"
        assert (details(run)[0]["line"], details(run)[0]["assertions"]) == (9, 1)

    def test_model_without_property_is_the_outermost_suite(self) -> None:
        inner = '<testsuite name="in"><testcase name="a"/></testsuite>'
        xml = f'<testsuites name="all" {HEAD}><testsuite name="one">{inner}</testsuite>'
        xml += f'<testsuite name="two">{inner}</testsuite><testsuite>{inner}</testsuite></testsuites>'
        assert [run.model_name for run in read(xml, per="suite").runs] == ["one", "two", "all"]

    def test_suites_without_cases_are_named(self) -> None:
        xml = '<testsuite name="empty"/><testsuite name="s"><testcase name="a"/></testsuite>'
        parsed = read(f"<testsuites {HEAD}>{xml}</testsuites>", per="suite")
        assert len(parsed.runs) == 1
        assert parsed.warnings == ["suite 'empty' has no test case and was left out"]

    def test_a_suite_that_failed_before_its_cases_is_a_run(self) -> None:
        xml = f'<testsuites {HEAD}><testsuite name="broken"><error message="no import"/></testsuite>'
        xml += '<testsuite name="s"><testcase name="a"/></testsuite></testsuites>'
        parsed = read(xml, per="suite")
        assert [(run.model_name, run.status, run.error) for run in parsed.runs] == [
            ("broken", RunStatus.ERROR, "no import"),
            ("s", RunStatus.COMPLETED, None),
        ]


class TestRunIds:
    def test_same_bytes_and_options_give_the_same_ids(self) -> None:
        first, second = (read(sample("nested.xml"), per="suite", tag=["a=b"]) for _ in range(2))
        assert [run.run_id for run in first.runs] == [run.run_id for run in second.runs]
        assert len({run.run_id for run in first.runs}) == 3

    @pytest.mark.parametrize(
        "options",
        [
            {"digest": "e" * 64},
            {"per": "suite"},
            {"model_name": "m"},
            {"hardware": ["cpu"]},
            {"test_type": "t"},
            {"tag": ["a=b"]},
            {"batch_id": "b"},
        ],
    )
    def test_other_bytes_or_options_give_another_id(self, options: dict[str, Any]) -> None:
        assert read(suite(""), **options).runs[0].run_id != read(suite("")).runs[0].run_id


class TestColumnsAndTags:
    PROPERTIES = (
        '<properties><property name="model" value="by model"/>'
        '<property name="platform" value="cpu cuda,,tpu"/><property name="platform" value="cpu"/>'
        '<property name="test_type" value="slow"/>'
        '<property name="creator" value="eve"/><property name="branch" value="main"/>'
        '<property name="text">\n  in the\n  text\n</property><property name="twice" value="x"/>'
        '<property name="twice" value="y"/><property name="twice" value="x"/><property name="bare"/>'
        "</properties>"
    )

    def test_properties(self) -> None:
        run = one(suite(self.PROPERTIES + '<testcase name="a"/>', 'hostname="box"'))
        assert (run.model_name, run.hardware) == ("by model", ["cpu", "cuda", "tpu"])
        assert (run.test_type, run.creator) == ("slow", "eve")
        assert run.tags == {
            "hostname": "box",
            "branch": "main",
            "text": "  in the\n  text",
            "twice": "x, y",
            "bare": "",
        }
        assert run.results is not None
        assert run.results["properties"]["twice"] == ["x", "y"]
        assert run.results["suites"][0]["properties"]["twice"] == ["x", "y", "x"]

    def test_options_win(self) -> None:
        run = one(
            suite(self.PROPERTIES + '<testcase name="a"/>'),
            model_name="M",
            hardware=["rocm"],
            test_type="T",
            tag=["branch=dev=1", "flag", "new=", "twice=z"],
            batch_id="B",
        )
        assert (run.model_name, run.hardware, run.test_type, run.batch_id) == ("M", ["rocm"], "T", "B")
        assert run.tags == {
            "branch": "dev=1",
            "text": "  in the\n  text",
            "twice": "z",
            "bare": "",
            "flag": "",
            "new": "",
        }

    def test_hardware_before_platform_and_model_name_before_model(self) -> None:
        xml = (
            '<property name="platform" value="b"/><property name="hardware" value="a"/>'
            '<property name="model" value="n"/><property name="model_name" value="m"/>'
        )
        run = one(suite(xml + '<testcase name="a"/>'))
        assert (run.hardware, run.model_name) == (["a"], "m")

    def test_a_property_hostname_before_the_attribute(self) -> None:
        xml = '<properties><property name="hostname" value="p"/></properties><testcase name="a"/>'
        assert one(suite(xml, 'hostname="h"')).tags == {"hostname": "p"}

    def test_unfit_tags_stay_properties(self) -> None:
        long = "v" * 1001
        properties = f'<property name="long" value="{long}"/><property value="nameless"/>'
        properties += f'<property name="fits" value="{long[1:]}"/><property name="{long}" value="x"/>'
        parsed = read(suite(f'<properties>{properties}</properties><testcase name="a"/>'))
        (run,) = parsed.runs
        assert run.tags == {"fits": long[1:]}
        assert run.results is not None
        assert run.results["properties"] == {"long": long, "": "nameless", "fits": long[1:], long: "x"}
        assert parsed.warnings == [
            "the property 'long' is longer than 1000 characters: it is no tag",
            "a property without a name is no tag: its value is 'nameless'",
            f"the property '{'v' * 100}…' is longer than 1000 characters: it is no tag",
        ]

    def test_columns_too_long(self) -> None:
        properties = f'<property name="model" value="{"m" * 1001}"/>'
        properties += f'<property name="hardware" value="cpu {"h" * 201}"/>'
        properties += '<property name="test_type" value="a"/><property name="test_type" value="b"/>'
        parsed = read(suite(properties + '<testcase name="a"/>'))
        (run,) = parsed.runs
        assert (run.model_name, run.hardware, run.test_type) == ("m" * 1000, ["cpu"], "a")
        assert parsed.warnings == [
            f"the model name '{'m' * 100}…' was cut to 1000 characters",
            f"the hardware '{'h' * 100}…' is longer than 200: left out",
            "the property 'test_type' has several values: the first is taken",
        ]

    @pytest.mark.parametrize(
        ("xml", "name"),
        [
            ('<testsuites name="all"><testsuite name="one"/></testsuites>', "one"),
            ('<testsuites name="all"><testsuite/></testsuites>', "all"),
            ('<testsuites name="all"><testsuite name="one"/><testsuite name="two"/></testsuites>', "all"),
            ('<testsuites><testsuite name="one"/><testsuite name="two"/></testsuites>', "one"),
            ('<testsuite name="out"><testsuite name="in"/></testsuite>', "out"),
            ('<testsuite name=" "/>', "junit"),
        ],
    )
    def test_model_from_suites(self, xml: str, name: str) -> None:
        parsed = read(xml)
        assert parsed.runs[0].model_name == name
        unnamed = "nothing in the file names the model: it is called 'junit'" in parsed.warnings
        assert unnamed == (name == "junit")

    def test_tag_without_a_name(self) -> None:
        with pytest.raises(ValidationError, match="must be name=value"):
            read(suite(""), tag=["=x"])


class TestNames:
    def test_left_whole(self) -> None:
        name = "a.b/c[d-1.5] e::f  g"
        quoted = quoteattr(name)
        run = one(suite(f'<testcase classname="x.y z" name={quoted}/><testcase name={quoted} classname=""/>'))
        assert [step.step_name for step in run.steps] == [f"x.y z::{name}", name]
        assert (details(run)[1]["classname"], details(run)[1]["name"]) == (None, name)

    def test_again_in_another_suite(self) -> None:
        case = '<testcase classname="c" name="n"/>'
        run = one(suite(f'<testsuite name="in">{case}</testsuite><testsuite name="x">{case}</testsuite>'))
        assert [step.step_name for step in run.steps] == ["c::n", "s/x::c::n"]

    def test_again_in_the_same_suite(self) -> None:
        parsed = read(suite('<testcase classname="c" name="n"/>' * 4 + '<testcase name="s::c::n #2"/>'))
        assert [step.step_name for step in parsed.runs[0].steps] == [
            "c::n",
            "s::c::n",
            "s::c::n #2",
            "s::c::n #3",
            "s::s::c::n #2",
        ]
        assert parsed.warnings == ["a suite has several test cases of the same name: 's::c::n' (2 times)"]

    def test_too_long(self) -> None:
        long = "n" * 3000
        cases = [f'<testcase name="{long}{end}"/>' for end in "abaa"]
        first, second = read(suite("".join(cases))), read(suite("".join(cases)))
        names = [step.step_name for step in first.runs[0].steps]
        assert names == [step.step_name for step in second.runs[0].steps]
        assert len(set(names)) == 4
        assert all(name.startswith("n" * 1900) for name in names[:2])
        assert all(len(name) <= 2000 for name in names)
        assert [detail["name"] for detail in details(first.runs[0])] == [long + end for end in "abaa"]
        assert any("was cut" in warning for warning in first.warnings)

    def test_no_name(self) -> None:
        parsed = read(suite('<testcase time="1"/><testcase classname="c"/>'))
        assert [step.step_name for step in parsed.runs[0].steps] == ["unnamed", "c"]
        assert parsed.warnings == ["a test case has no name: its step is called 'unnamed'"]


class TestOutcomes:
    @pytest.mark.parametrize(
        ("attributes", "inside", "status", "error"),
        [
            ("", "", "passed", None),
            ("", '<failure message="m"/>', "failed", "m"),
            ("", "<failure/>", "failed", None),
            ("", '<failure message="m"><stackTrace>trace</stackTrace></failure>', "failed", "m\ntrace"),
            ("", '<failure type="T" message="m">text</failure>', "failed", "T: m\ntext"),
            ("", '<failure type="T" message="m">T: m\n  at x</failure>', "failed", "T: m\n  at x"),
            ("", '<failure type="T" message="T: m">more</failure>', "failed", "T: m\nmore"),
            ("", '<failure type="T" message="m">in m</failure>', "failed", "T: m\nin m"),
            ("", '<failure message="a b">a&#10; b c</failure>', "failed", "a\n b c"),
            ("", '<failure message="a&#10;b">E a\nE b</failure>', "failed", "E a\nE b"),
            ("", '<error type="T">\n\n  one\n\n two  \n \n</error>', "error", "T\n  one\n\n two  "),
            ("", "<failure>f</failure><error>e</error>", "error", "f\ne"),
            ("", "<error>e</error><failure>f</failure>", "error", "e\nf"),
            ("", "<skipped/><failure>f</failure>", "failed", "f"),
            ("", "<failure>one</failure><failure>two</failure>", "failed", "one\ntwo"),
            ("", '<skipped message="why">where</skipped>', "skipped", "why"),
            ("", "<skipped>\nwhy\n</skipped>", "skipped", "why"),
            ('status="notrun"', "", "skipped", None),
            ('status="DISABLED"', "", "skipped", None),
            ('status="skipped"', "", "skipped", None),
            ('disabled="true"', "", "skipped", None),
            ('disabled="false"', "", "passed", None),
            ('status="run"', "", "passed", None),
            ('status="failed"', "", "failed", None),
            ('status="run" result="suppressed"', "", "skipped", None),
            ('result="error"', "", "error", None),
            ('status="notrun"', "<failure>f</failure>", "failed", "f"),
            ("", "<flakyFailure/><flakyError/>", "passed", None),
            ("", "<failure>f</failure><rerunFailure/>", "failed", "f"),
        ],
    )
    def test_status_and_error(self, attributes: str, inside: str, status: str, error: str | None) -> None:
        run = one(suite(f'<testcase name="a" {attributes}>{inside}</testcase>'))
        (step,) = run.steps
        assert (step.status, step.error) == (status, error)
        assert (details(run)[0]["status"], details(run)[0]["error"]) == (status, error)
        assert counts(run) == (
            int(status == "passed"),
            int(status in ("failed", "error")),
            int(status == "skipped"),
        )
        assert run.status is RunStatus.COMPLETED

    def test_everything_of_a_case_is_kept(self) -> None:
        run = one(
            suite(
                '<testcase name="a" file="f.py" line="7" assertions="0" owner="eve">'
                "<system-out>one</system-out><system-err>bad</system-err><system-out> </system-out>"
                "<system-out>two\n</system-out>"
                '<failure type="T" message="m" lineno="3">f</failure><skipped/>'
                '<properties><property name="p" value="1"/></properties></testcase>'
            )
        )
        assert details(run) == [
            {
                "method": "a",
                "name": "a",
                "classname": None,
                "suite": "s",
                "status": "failed",
                "duration_ms": None,
                "error": "T: m\nf",
                "failures": [
                    {
                        "kind": "failure",
                        "type": "T",
                        "message": "m",
                        "text": "f",
                        "attributes": {"lineno": "3"},
                    },
                    {"kind": "skipped", "type": None, "message": None, "text": None},
                ],
                "system_out": "one\ntwo\n",
                "system_err": "bad",
                "properties": {"p": "1"},
                "file": "f.py",
                "line": 7,
                "assertions": 0,
                "attributes": {"owner": "eve"},
            }
        ]

    def test_error_of_a_suite(self) -> None:
        xml = '<error type="ImportError" message="no torch">trace</error><failure>f</failure>'
        run = one(suite('<testcase name="a"/>' + xml, 'tests="1" errors="1" failures="1"'))
        assert (run.status, run.error) == (RunStatus.ERROR, "ImportError: no torch\ntrace\nf")
        assert counts(run) == (1, 0, 0)
        assert run.results is not None
        assert run.results["suites"][0]["problems"][0] == {
            "kind": "error",
            "type": "ImportError",
            "message": "no torch",
            "text": "trace",
        }

    def test_suite_record(self) -> None:
        run = one(
            suite(
                "<testcase name='a'/><system-out>o</system-out><system-err>e</system-err>",
                'id="3" package="p" hostname="h" time="2" flakes="1"',
            )
        )
        assert run.results is not None
        assert run.results["suites"] == [
            {
                "name": "s",
                "path": "s",
                "tests": 1,
                "failures": 0,
                "errors": 0,
                "skipped": 0,
                "duration": 2.0,
                "timestamp": "2026-03-01T10:00:00",
                "hostname": "h",
                "package": "p",
                "id": "3",
                "system_out": "o",
                "system_err": "e",
                "attributes": {"flakes": "1"},
            }
        ]


class TestNumbersAndTimes:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("1.5", 1.5),
            (" 2 ", 2.0),
            (".5", 0.5),
            ("3.", 3.0),
            ("1e-3", 0.001),
            ("+1", 1.0),
            ("-0.0", 0.0),
            ("1,234.5", 1234.5),
            ("1,234,567", 1234567.0),
            ("0,123", 0.123),
            ("12,5", 12.5),
        ],
    )
    def test_durations(self, text: str, seconds: float) -> None:
        run = one(suite(f'<testcase name="a" time="{text}"/>'))
        assert run.steps[0].duration == seconds
        assert str(run.steps[0].duration) == str(seconds)
        assert run.duration == seconds
        assert run.steps[0].completed_at == at(seconds)
        assert details(run)[0]["duration_ms"] == seconds * 1000

    @pytest.mark.parametrize(
        "text",
        [
            "-1",
            "NaN",
            "inf",
            "-inf",
            "1e999",
            "1e10",
            "abc",
            "1_000",
            "1;5",
            "1,23,4.5",
            "٣",
            "0x10",
            "9" * 60,
        ],
    )
    def test_bad_durations(self, text: str) -> None:
        parsed = read(suite(f'<testcase name="a" time="{text}"/>'))
        (run,) = parsed.runs
        assert (run.steps[0].duration, run.steps[0].completed_at, run.duration) == (None, None, None)
        assert details(run)[0]["attributes"] == {"time": text}, "what cannot be read is still kept"
        assert parsed.warnings == [
            f"<testcase>: time={text!r} is not a number of seconds from 0 to 1000000000"
        ]

    def test_milliseconds(self) -> None:
        run = one(suite('<testcase name="a" time="0.0001234"/><testcase name="b" time="1.001"/>'))
        assert [detail["duration_ms"] for detail in details(run)] == [0.1234, 1001.0]

    @pytest.mark.parametrize("text", ["", " "])
    def test_missing_duration(self, text: str) -> None:
        run = one(suite(f'<testcase name="a" time="{text}"/>'))
        assert run.steps[0].duration is None

    @pytest.mark.parametrize("text", ["-1", "1.5", "many", "9" * 5000, "٣"])
    def test_bad_counts(self, text: str) -> None:
        parsed = read(suite(f'<testcase name="a" line="{text}"/>', f'tests="{text}"'))
        assert len(parsed.warnings) == 2
        assert all("is not a whole number" in warning for warning in parsed.warnings)
        assert details(parsed.runs[0])[0]["attributes"] == {"line": text}

    @pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "0001-01-01T00:00:00+14:00", "1700000000"])
    def test_bad_timestamps(self, text: str) -> None:
        parsed = read(f'<testsuite name="s" timestamp="{text}"><testcase name="a"/></testsuite>')
        assert parsed.warnings == [f"<testsuite>: timestamp={text!r} is not an ISO 8601 time", NO_TIMESTAMP]
        (run,) = parsed.runs
        assert run.started_at == NOW
        assert run.results is not None
        assert run.results["suites"][0]["attributes"] == {"timestamp": text}

    def test_the_end_of_time(self) -> None:
        run = one(
            '<testsuite name="s" timestamp="9999-12-31T23:59:59"><testcase name="a" time="1e9"/></testsuite>'
        )
        assert run.completed_at == run.started_at

    def test_end_to_end(self) -> None:
        xml = (
            "<testsuites>"
            f'<testsuite name="one" {HEAD} time="10"><testcase name="a" time="1"/><testcase name="b"/>'
            '<testcase name="c" time="2"/></testsuite>'
            '<testsuite name="two"><testcase name="d" time="1"/>'
            '<testcase name="e" timestamp="2026-03-01T12:00:30+02:00" time="5"/><testcase name="f"/>'
            '<testsuite name="in" time="3"><testcase name="g" time="1"/></testsuite></testsuite>'
            '<testsuite name="three"><testcase name="h" time="1"/></testsuite>'
            "</testsuites>"
        )
        run = one(xml)
        assert [(step.step_name, step.started_at) for step in run.steps] == [
            (name, at(seconds))
            for name, seconds in zip("abcdefgh", (0, 1, 1, 10, 30, 35, 35, 38), strict=True)
        ]
        assert (run.started_at, run.duration) == (at(0), 20.0)
        starts = {r.model_name: r.started_at for r in read(xml, per="suite").runs}
        assert (starts["one"], starts["three"]) == (at(0), at(38))

    def test_duration_of_a_suite_with_inner_ones(self) -> None:
        inner = '<testsuite name="in" time="5"><testcase name="b" time="1"/></testsuite>'
        xml = suite(f'<testcase name="a" time="2"/>{inner}')
        assert one(xml).duration == 7.0
        assert [run.duration for run in read(xml, per="suite").runs] == [2.0, 5.0]

    def test_naive_now_and_earliest_timestamp(self) -> None:
        early = '<testcase name="a" timestamp="2026-03-01T09:00:00Z"/>'
        assert one(suite(early)).started_at == at(-3600)


class TestDeclaredCounts:
    @pytest.mark.parametrize(
        ("attributes", "cases"),
        [
            ('tests="2" failures="1" errors="0" skipped="1"', "<failure/>|<skipped/>"),
            ('tests="1" failures="1" errors="1"', "<failure/><error/>"),
            ('tests="1" failures="2"', "<failure/><failure/>"),
            ('tests="1" skips="1"', "<skipped/>"),
        ],
    )
    def test_agree(self, attributes: str, cases: str) -> None:
        inside = "".join(f'<testcase name="{n}">{c}</testcase>' for n, c in enumerate(cases.split("|")))
        one(suite(inside, attributes))

    @pytest.mark.parametrize("declared", [1, 3])
    def test_own_or_those_inside(self, declared: int) -> None:
        inner = '<testsuite name="in" tests="2"><testcase name="b"/><testcase name="c"/></testsuite>'
        one(suite('<testcase name="a"/>' + inner, f'tests="{declared}"'))

    def test_skips_are_skipped(self) -> None:
        parsed = read(suite('<testcase name="a"><skipped/></testcase>', 'skips="2"'))
        assert parsed.warnings == ["suite 's' declares skipped=2, found 1"]

    def test_disagree(self) -> None:
        parsed = read(suite("<testcase name='a'/>", 'tests="2" failures="3" errors="0" skipped="1"'))
        assert parsed.warnings == [
            "suite 's' declares tests=2, found 1",
            "suite 's' declares failures=3, found 0",
            "suite 's' declares skipped=1, found 0",
        ]
        assert parsed.runs[0].results is not None
        record = parsed.runs[0].results["suites"][0]
        assert record["declared"] == {"tests": 2, "failures": 3, "skipped": 1}
        assert (record["tests"], record["failures"]) == (1, 0)

    def test_declared_nothing_but_found_some(self) -> None:
        parsed = read(suite("<testcase name='a'/>", 'tests="0"'))
        assert parsed.warnings == ["suite 's' declares tests=0, found 1"]


class TestWarnings:
    def test_unknown_elements_and_text(self) -> None:
        parsed = read(
            suite(
                '<testcase name="a">stray<metric x="1"/></testcase><testcase name="b"><metric/></testcase>'
                f"<properties><entry/></properties><coverage/><{'z' * 999}/>"
                '<property name="p" value="" kind="int">text</property>'
                "<testcase name='c'><failure>see <b>this</b> now</failure></testcase>"
            )
        )
        assert parsed.warnings == [
            "unknown element <coverage> in <testsuite> was left out",
            f"unknown element <{'z' * 100}> in <testsuite> was left out",
            "unknown element <entry> in <properties> was left out",
            "the text of a <property> with a value was left out",
            "the attribute 'kind' of a <property> was left out",
            "unknown element <metric> in <testcase> was left out (2 times)",
            "text in <testcase>, outside of the elements in it, was left out",
            "<b> in <failure>: only its text was kept",
        ]
        assert parsed.runs[0].steps[2].error == "see this now"
        assert parsed.runs[0].tags == {"p": ""}

    def test_at_most_a_hundred(self) -> None:
        parsed = read(suite("".join(f'<testcase name="{n}" time="x{n}"/>' for n in range(250))))
        assert len(parsed.warnings) == 101
        assert parsed.warnings[-1] == "… and 150 more"

    def test_control_characters(self) -> None:
        data = (
            b'<testsuite name="s\x01" %s><testcase name="a&#27;[b"><failure>\x1b[31mred&#x1B;[0m\x00\n&#x20;'
            % (HEAD.encode())
        )
        parsed = read(data + b"</failure></testcase></testsuite>")
        (run,) = parsed.runs
        assert (run.model_name, run.steps[0].step_name, run.steps[0].error) == ("s", "a[b", "[31mred[0m")
        assert parsed.warnings == ["5 control characters that XML does not allow were left out"]

    def test_a_reference_cut_by_the_end_of_a_chunk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for size in range(1, 30):
            monkeypatch.setattr(junit_text, "_CHUNK", size)
            parsed = read(suite('<testcase name="a&#x1b;b&amp;c&#9;d&#00031;"/>'))
            assert parsed.warnings == ["2 control characters that XML does not allow were left out"]
            assert [step.step_name for step in parsed.runs[0].steps] == ["ab&c\td"]

    def test_a_reference_in_plain_text_is_kept(self) -> None:
        run = one(suite('<testcase name="a"><failure><![CDATA[use &#27; here]]></failure></testcase>'))
        assert run.steps[0].error == "use &#27; here"


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
ATTACKS = {
    "billion laughs": f'<!DOCTYPE x [<!ENTITY l0 "lol">{LAUGHS}]><testsuite name="&l9;"/>',
    "external entity": '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
    '<testsuite><testcase name="a"><failure>&e;</failure></testcase></testsuite>',
    "parameter entity": '<!DOCTYPE x [<!ENTITY % p SYSTEM "file:///etc/passwd"> %p;]><testsuite/>',
    "DTD": "<!DOCTYPE testsuite><testsuite/>",
    "external DTD": '<!DOCTYPE testsuite SYSTEM "http://127.0.0.1:9/x.dtd"><testsuite/>',
    "HTML": "<!DOCTYPE html><html><body><p>Not found</body></html>",
}
NOT_XML = {
    "undefined entity": b"<testsuite name='&nbsp;'/>",
    "empty": b"",
    "blank": b" \n ",
    "not XML": b"PASSED tests/test_a.py",
    "JSON": b'{"runs": []}',
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
    "NUL": b"\x00" * 1000,
    "truncated": b'<testsuite><testcase name="a"/>',
    "truncated in a tag": b'<testsuite><testcase name="a',
    "two roots": b"<testsuite/><testsuite/>",
    "invalid UTF-8": b'<testsuite name="\xff\xfe"/>',
    "cut UTF-8": b'<testsuite name="\xc3"/>',
    "surrogate": b'<testsuite name="\xed\xa0\x80"/>',
    "surrogate reference": b'<testsuite name="&#xD800;"/>',
    "wrong encoding": b'<?xml version="1.0" encoding="utf-16"?><testsuite/>',
    "unknown encoding": b'<?xml version="1.0" encoding="klingon"?><testsuite name="\xe9"/>',
    "no text encoding": b'<?xml version="1.0" encoding="hex"?><testsuite name="\xe9"/>',
    "idna": b'<?xml version="1.0" encoding="idna"?><testsuite name="\xe9"/>',
    "multi-byte encoding": b'<?xml version="1.0" encoding="shift_jis"?><testsuite name="\x83\x5c"/>',
    "UTF-32": "<testsuite/>".encode("utf-32"),
    "UTF-16 with a control character": '<testsuite name="\x01"/>'.encode("utf-16"),
    "cut UTF-16": "<testsuite/>".encode("utf-16")[:-1],
    "unbound prefix": b"<a:testsuite/>",
    "attribute twice": b"<testsuite name='a' name='b'/>",
    "half a reference after the root": b"<testsuite name='\x01'/>&#2",
    "half references": b"<testsuite>\x01" + b"&" * 100_000 + b"</testsuite>",
}


class TestRefused:
    @pytest.mark.parametrize("name", list(ATTACKS))
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
    def test_dtd_and_entities(self, name: str, encoding: str) -> None:
        with pytest.raises(Invalid) as caught:
            read(ATTACKS[name].encode(encoding))
        assert caught.value.errors[0].field == "body"
        assert "without a document type declaration" in caught.value.errors[0].message
        assert "root:" not in str(caught.value)

    @pytest.mark.parametrize("name", list(NOT_XML))
    def test_not_well_formed(self, name: str) -> None:
        with pytest.raises(Invalid, match=r"^body: must be well-formed JUnit XML: .+\.$"):
            read(NOT_XML[name])

    def test_where_a_utf_16_file_is_broken(self) -> None:
        with pytest.raises(Invalid, match=r"\(invalid token\): line 2, column 17\.$"):
            read('<testsuite>\n<testcase name="a\x01"/></testsuite>'.encode("utf-16"))

    @pytest.mark.parametrize("tag", ["html", "testcase", "test-run", "assemblies", "TestSuite"])
    def test_another_root(self, tag: str) -> None:
        with pytest.raises(Invalid, match=f"its root is <{tag}>"):
            read(f"<{tag}><testsuite/></{tag}>")

    @pytest.mark.parametrize("tag", ["testsuite", "failure"])
    @pytest.mark.parametrize("end", ["", "closed"])
    def test_nested_absurdly(self, tag: str, end: str) -> None:
        xml = "<testsuite>" + f"<{tag}>" * 100_000 + (f"</{tag}>" * 100_000 + "</testsuite>" if end else "")
        with pytest.raises(Invalid, match="nested at most 500 deep"):
            read(xml)

    def test_more_cases_than_a_run_may_have(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(junit, "MAX_ITEMS", 2)
        case = '<testcase name="a"/>'
        xml = f"<testsuites><testsuite>{case * 2}</testsuite><testsuite>{case}</testsuite></testsuites>"
        assert [len(run.steps) for run in read(xml, per="suite").runs] == [2, 1]
        with pytest.raises(Invalid, match="at most 2 test cases in a run, not 3"):
            read(xml)

    def test_properties_that_multiply(self) -> None:
        value = "v" * 1_000_000
        inner = '<testsuite name="in"><testcase name="a"/></testsuite>' * 200
        xml = f'<testsuite name="s"><property name="p" value="{value}"/>{inner}</testsuite>'
        with pytest.raises(Invalid, match="fewer properties"):
            read(xml, per="suite")
        assert len(read(xml).runs[0].steps) == 200


class TestAccepted:
    @pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "iso-8859-1", "windows-1252"])
    def test_encodings(self, encoding: str) -> None:
        declared = encoding.removesuffix("-sig")
        xml = f'<?xml version="1.0" encoding="{declared}"?>' + suite('<testcase name="ä é"/>')
        assert outcomes(one(xml.encode(encoding))) == [("ä é", "passed", None)]

    def test_utf_16_without_a_declaration(self) -> None:
        data = codecs.BOM_UTF16_BE + suite('<testcase name="模型"/>').encode("utf-16-be")
        assert outcomes(one(data)) == [("模型", "passed", None)]

    def test_a_stream_that_cannot_seek(self) -> None:
        class Pipe(io.BytesIO):
            def seekable(self) -> bool:
                return False

            def tell(self) -> int:
                raise io.UnsupportedOperation

            def seek(self, *_: Any) -> int:
                raise io.UnsupportedOperation

        data = suite('<testcase name="a"/>').encode()
        parsed = parse(Pipe(data), ImportOptions(), digest="d", now=NOW)
        assert len(parsed.runs[0].steps) == 1
        with pytest.raises(Invalid, match="well-formed"):
            parse(Pipe(data.replace(b"a", b"\x1b")), ImportOptions(), digest="d", now=NOW)

    def test_from_where_the_stream_stands(self) -> None:
        stream = io.BytesIO(b"\xff\xfe\0\0" + suite('<testcase name="a\x1b"/>').encode())
        stream.seek(4)
        parsed = parse(stream, ImportOptions(), digest="d", now=NOW)
        assert [step.step_name for step in parsed.runs[0].steps] == ["a"]


def many(cases: int, suites: int) -> str:
    case = (
        '<testcase classname="tests.test_{s}.TestModel" name="test_forward[cuda-{n}.5]" time="0.0{n}">'
        "{x}</testcase>"
    )
    insides = ['<failure message="no">trace\n  more\nE no</failure>', "<system-out>log</system-out>", "", ""]
    parts = []
    for s in range(suites):
        inside = "".join(case.format(s=s, n=n, x=insides[n % 4]) for n in range(cases // suites))
        parts.append(f'<testsuite name="suite {s}" {HEAD}>{inside}</testsuite>')
    return "<testsuites>" + "".join(parts) + "</testsuites>"


@pytest.mark.parametrize(("cases", "suites"), [(20_000, 1), (5_000, 5_000)])
@pytest.mark.parametrize("per", list(Per))
def test_large_files_are_quick(cases: int, suites: int, per: Per) -> None:
    data = many(cases, suites).encode()
    start = time.perf_counter()
    parsed = read(data, per=per)
    took = time.perf_counter() - start
    assert sum(len(run.steps) for run in parsed.runs) == cases
    assert len(parsed.runs) == (suites if per is Per.SUITE else 1)
    assert took < 20, "takes about a second; what grows faster than the file takes minutes"


def test_the_same_name_often_is_quick() -> None:
    start = time.perf_counter()
    parsed = read(suite('<testcase name="a"/>' * 20_000))
    assert parsed.runs[0].steps[-1].step_name == "s::a #19999"
    assert time.perf_counter() - start < 20


_texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=8) | st.sampled_from(
    [
        "NaN",
        "inf",
        "-1",
        "1e308",
        "1,234.5",
        "a",
        "s",
        "2026-01-01T00:00:00Z",
        "0001-01-01",
        "notrun",
        "a\tb\nc",
    ]
)
_names = (
    "name classname time tests failures errors skipped skips disabled timestamp hostname id package "
    "value message type status result line file assertions"
)
_attributes = st.dictionaries(st.sampled_from(_names.split()), _texts, max_size=5)
_elements_of_reports = (
    "testsuite testcase properties property system-out system-err failure error skipped flakyFailure "
    "rerunError stackTrace testsuites other"
)
_tags = st.sampled_from(_elements_of_reports.split())


def _element(tag: str, attributes: dict[str, str], text: str, inside: list[str]) -> str:
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    written = "".join(f" {name}={quoteattr(value)}" for name, value in attributes.items())
    return f"<{tag}{written}>{escaped}{''.join(inside)}</{tag}>"


def _root(children: list[str]) -> str:
    return f"<testsuites>{''.join(children)}</testsuites>"


_elements = st.recursive(
    st.builds(_element, _tags, _attributes, _texts, st.just([])),
    lambda inner: st.builds(
        _element, st.just("testsuite") | _tags, _attributes, _texts, st.lists(inner, max_size=4)
    ),
    max_leaves=25,
)


@settings(max_examples=100, deadline=None)
@given(st.lists(_elements, max_size=4).map(_root))
def test_any_tree_becomes_runs(xml: str) -> None:
    whole, parts = read(xml), read(xml, per="suite")
    assert len(whole.runs) == 1
    assert sum(len(run.steps) for run in parts.runs) == len(whole.runs[0].steps)
    for run in (*whole.runs, *parts.runs):
        assert run.results is not None
        assert sum(counts(run)) == len(run.steps) == len(details(run))
        assert [step.step_name for step in run.steps] == [detail["method"] for detail in details(run)]
        assert run.results["suites"] is not None
        json.dumps(run.results, allow_nan=False)
        RunDocument.model_validate(run.model_dump())


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=200) | st.binary(max_size=60).map(lambda data: b"<testsuite>" + data + b"</testsuite>")
)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with suppress(Invalid):
        assert len(read(data).runs) == 1
