"""What a session's hooks tell, as events: one line of JSON each."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from testdb_pytest import now
from testdb_pytest.texts import MAX_CAPTURED, MAX_ERROR, identifier, name, plain, shortened

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_quoted = json.encoder.encode_basestring_ascii


class Sink:
    """A file that lines are appended to, each at once: what was told survives the end of the process."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._process = os.getpid()
        self.problem: str | None = None
        """Why nothing more is recorded, once a line could not be written."""

    @property
    def file(self) -> int:
        return self._file

    def write(self, event: dict[str, Any]) -> None:
        self.write_line(_encode(event))

    def write_line(self, text: str) -> None:
        """Writes an event that is JSON already: encoding a dict is what a session would notice."""
        if self.problem is None and os.getpid() == self._process:  # a test may fork, and its child go on
            line = text.encode() + b"\n"
            try:
                if os.write(self._file, line) != len(line):
                    raise OSError("the disk is full")
            except OSError as error:
                self.problem = error.strerror or str(error)

    def close(self) -> None:
        os.close(self._file)


@dataclass(slots=True)
class _Test:
    """A test that is under way."""

    name: str
    started: float
    ended: float = 0.0
    duration: float = 0.0
    failed: bool = False
    broken: bool = False
    """Its setup or teardown failed."""
    skipped: bool = False
    rerun: bool = False
    texts: list[str] = field(default_factory=list)
    captured: dict[tuple[str, str], None] = field(default_factory=dict)
    """What was printed, each once: a later report repeats it."""


class Recorder:
    """The hooks of a recorded session. None of them raises: what cannot be told ends the recording."""

    def __init__(self, sink: Sink, on_finish: Callable[[], None] = lambda: None) -> None:
        self._sink = sink
        self._on_finish = on_finish
        self._tests: dict[tuple[str, Any], _Test] = {}
        self._quoted_ids: dict[str, str] = {}
        self._times: dict[str, int] = {}
        self._attempts: dict[str, int] = {}
        self._properties_told: dict[str, int] = {}
        """Of tests that are run again: the reports of the next attempt bring those of this one, too."""
        self._count = 0
        self._done = 0
        self._collect_errors = 0
        self._first_collect_error = ""
        self._interruption: str | None = None
        self._stopped: str | None = None
        """Why pytest, or xdist, stopped by itself."""
        self._internal_error: str | None = None
        self._finished = False

    def begin(self, **fields: Any) -> None:
        self._sink.write({"event": "session", "time": now(), **fields})

    # --- collection

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if session.items:
            self._collected(len(session.items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: list[str]) -> None:
        if not self._count:
            self._collected(len(ids))

    def _collected(self, count: int) -> None:
        self._count = count
        self._sink.write({"event": "collected", "time": now(), "count": count})

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if not report.passed:
            try:
                self._tell_collector(report)
            except Exception as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        # Another plugin may have put anything on a report.
        self._sink.problem = f"{type(error).__name__}: {error}"

    def _tell_collector(self, report: pytest.CollectReport) -> None:
        moment, text = now(), shortened(_text(report))
        if report.failed:
            self._collect_errors += 1
            self._first_collect_error = self._first_collect_error or _last_line(text)
        self._tell_test(
            _quoted(identifier(report.nodeid or "collection")),
            "error" if report.failed else "skipped",
            moment,
            moment,
            0.0,
            text,
        )

    # --- tests

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        try:
            self._tell_start(nodeid)
        except Exception as error:
            self._give_up(error)

    def _tell_start(self, nodeid: str) -> None:
        if nodeid not in self._times:
            test = self._quoted_ids[nodeid] = _quoted(identifier(nodeid))
            self._sink.write_line(f'{{"event":"started","time":{now():.6f},"test":{test}}}')

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        try:
            self._take(report)
        except Exception as error:
            self._give_up(error)

    def _take(self, report: pytest.TestReport) -> None:
        nodeid, when, duration = report.nodeid, report.when, report.duration
        more = vars(report)  # what is only there sometimes
        key = (nodeid, more.get("node"))
        test = self._tests.get(key)
        if test is None:
            started = getattr(report, "start", 0.0) or now() - duration
            test = self._tests[key] = _Test(nodeid, started)
        test.ended = getattr(report, "stop", 0.0) or now()
        if "context" not in more:  # of a subtest, whose time is a part of its test's
            test.duration += duration
        if report.outcome != "passed" or "wasxfail" in more:
            _judge(test, report)
        if when not in ("setup", "call"):  # a worker of xdist that crashed tells "???", and no more
            del self._tests[key]
            if report.user_properties or "testdb_metrics" in more:
                self._tell_properties(report, test)
            self._end(test)

    def _end(self, test: _Test) -> None:
        error = _error(test) if test.texts else None
        if test.rerun:
            number = self._attempts[test.name] = self._attempts.get(test.name, 0) + 1
            attempt = _quoted(identifier(test.name, f" (attempt {number})"))
            self._tell_test(attempt, "failed", test.started, test.ended, test.duration, error)
            return
        times = self._times[test.name] = self._times.get(test.name, 0) + 1
        self._done += 1
        status = "passed"
        if test.failed:
            status = "failed"
        elif test.broken:
            status = "error"
        elif test.skipped:
            status = "skipped"
        quoted = self._quoted_ids.pop(test.name, None)
        if quoted is None:  # it was not told that it begins, or it stands here again
            quoted = _quoted(identifier(test.name, f" #{times}" if times > 1 else ""))
        self._tell_test(quoted, status, test.started, test.ended, test.duration, error)

    def _tell_test(
        self, quoted: str, status: str, started: float, ended: float, duration: float, error: str | None
    ) -> None:
        told = f',"error":{_quoted(error)}' if error else ""
        if self._count:
            told += f',"progress":{min(1.0, self._done / self._count):.4f}'
        self._sink.write_line(
            f'{{"event":"test","time":{ended:.6f},"test":{quoted},"status":"{status}",'
            f'"started":{started:.6f},"duration":{max(0.0, duration):.9f}{told}}}'
        )

    def _tell_properties(self, report: pytest.TestReport, test: _Test) -> None:
        for metric, value, unit, moment in getattr(report, "testdb_metrics", ()):
            self._tell_metric(metric, value, unit, moment)
        for path, kind, description, moment in getattr(report, "testdb_artifacts", ()):
            event = {
                "event": "artifact",
                "time": moment,
                "path": identifier(path),
                "type": name(kind) or "file",
            }
            if description is not None:
                event["description"] = shortened(str(description))
            self._sink.write(event)
        told = self._properties_told.pop(test.name, 0)
        if test.rerun:
            self._properties_told[test.name] = len(report.user_properties)
        for key, value in report.user_properties[told:]:
            if (
                isinstance(value, int | float)
                and not isinstance(value, bool)
                and isinstance(key, str)
                and key
            ):
                self._tell_metric(key, _number(value), "", report.stop)

    def _tell_metric(self, metric: str, value: float | str, unit: str, moment: float) -> None:
        self._sink.write(
            {
                "event": "metric",
                "time": moment,
                "name": name(metric),
                "value": value,
                "unit": plain(unit)[:200],
            }
        )

    # --- the end

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        text = plain(str(excinfo.value))
        if excinfo.typename == "Interrupted":  # pytest's own, or that of xdist, which is another class
            self._stopped = text
        else:
            self._interruption = text or excinfo.typename

    def pytest_internalerror(self, excrepr: object) -> None:
        self._internal_error = shortened(str(excrepr))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int | pytest.ExitCode) -> None:
        try:
            self._finish(*self._verdict(session, int(exitstatus)))
        except Exception as error:
            self._give_up(error)

    def close(self) -> None:
        """Ends the stream, if the session did not come to its end."""
        if not self._finished:
            self._finish("error", self._internal_error or "The session ended before its tests did.")

    def _verdict(self, session: pytest.Session, status: int) -> tuple[str, str | None]:
        """The run's status and what is to be said of its end, by pytest's exit codes."""
        if self._interruption is not None:
            return "cancelled", f"interrupted: {self._interruption}"
        if self._collect_errors and status != 1:
            errors = f"{self._collect_errors} error{'s'[: self._collect_errors != 1]} while collecting"
            return "error", f"{errors}: {self._first_collect_error}"
        stopped = str(session.shouldfail or session.shouldstop or self._stopped or "")
        # For --maxfail xdist interrupts the session, where pytest alone fails it.
        if status in (0, 1) or (status == 2 and stopped.startswith("stopping after ")):
            if stopped and self._done < self._count:
                return "completed", plain(f"{stopped}; {self._done} of {self._count} tests were run")
            return "completed", None
        if status == 5:
            return "error", "no test was run"
        if status == 2:
            return "cancelled", plain(stopped or "interrupted")
        if status == 4 and isinstance(error := sys.exception(), pytest.UsageError):
            return "error", shortened(" ".join(map(str, error.args)))
        return "error", self._internal_error or f"pytest ended with exit code {status}"

    def _finish(self, status: str, error: str | None) -> None:
        self._finished = True
        event = {"event": "finished", "time": now(), "status": status}
        if error:
            event["error"] = error
        self._sink.write(event)
        self._on_finish()


def _judge(test: _Test, report: pytest.TestReport) -> None:
    """Takes a report that is more than a plain pass."""
    expected: str | None = getattr(report, "wasxfail", None)
    outcome: str = report.outcome
    if outcome == "rerun":  # by pytest-rerunfailures
        test.rerun = True
        test.texts.append(_text(report))
    elif report.failed:
        if report.when == "call":
            test.failed = True
        else:
            test.broken = True
        test.texts.append(_text(report))
        test.captured |= dict.fromkeys((title, text) for title, text in report.sections if text)
    elif report.skipped:
        test.skipped = True
        test.texts.append(
            f"xfail: {expected}".removesuffix(": ") if expected is not None else _reason(report)
        )
    elif expected is not None and report.when == "call":
        test.texts.append(f"xpass: {expected}".removesuffix(": "))


def _text(report: pytest.TestReport | pytest.CollectReport) -> str:
    return _reason(report) if report.skipped else report.longreprtext or str(report.longrepr or "")


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return report.longreprtext


def _error(test: _Test) -> str:
    """What went wrong, and what was printed; however long that is, it does not push out the former."""
    for_texts = MAX_ERROR - (MAX_CAPTURED if test.captured else 0)
    error = "\n\n".join(shortened(text, for_texts // len(test.texts) - 2) for text in test.texts)
    captured = "".join(f"\n\n--- {title} ---\n{text}" for title, text in test.captured)
    return error + shortened(captured, MAX_ERROR - len(error))


def _last_line(text: str) -> str:
    return next((line.removeprefix("E ").strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _number(value: float) -> float | str:
    try:
        number = float(value)
    except OverflowError:
        return "Infinity" if value > 0 else "-Infinity"
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
