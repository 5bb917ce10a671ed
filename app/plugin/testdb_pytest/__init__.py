"""pytest plugin of the Test Suite Database: records any session. Off unless `--testdb` is given.

It stands beside the product's package, not in it, and imports nothing of it: a project under test may have a
package of the same name. What costs time is imported only when a session is recorded.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Literal

import pytest

ACTIVE = "TESTDB_RECORDING"
"""Set in the environment while a session is recorded: sessions that its tests start are not."""

METRICS = pytest.StashKey[list[list[Any]]]()
ARTIFACTS = pytest.StashKey[list[list[Any]]]()
ATTACHES = pytest.StashKey[bool]()
"""Whether the session, or that of its controller, is recorded."""
KEEP = pytest.StashKey[Callable[[str], str]]()
"""Copies a file that a test attached to where it stays; returns its new path."""

OPTIONS = (
    ("model", "NAME", False, "Model that the session tests.  [default: the name of the root folder]"),
    ("hardware", "PLATFORM", True, "Platform that the session runs on; repeatable.  [default: cpu]"),
    ("test-type", "TYPE", False, "Test type.  [default: basic]"),
    ("tag", "NAME=VALUE", True, "Tag for the run; repeatable."),
    ("batch", "ID", False, "Batch to put the run in; made when it does not exist."),
    ("token", "TOKEN", False, "Token for the server."),
    ("spool", "DIR", False, "Folder that keeps what could not be sent."),
)


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    _keep_paths_apart(pluginmanager.get_plugin("pytestconfig"))
    group = parser.getgroup("testdb", "recording into a Test Suite Database")
    group.addoption(
        "--testdb",
        metavar="URL|FILE",
        help="Record this session: address of a server, or a DuckDB file.  [env: TESTDB]",
    )
    parser.addini("testdb", "Address of a server, or a DuckDB file, that sessions are recorded in.")
    for name, metavar, many, description in OPTIONS:
        key = f"testdb_{name.replace('-', '_')}"
        group.addoption(
            f"--testdb-{name}",
            metavar=metavar,
            action="append" if many else "store",
            help=f"{description}  [env: {key.upper()}]",
        )
        kind: Literal["linelist", "string"] = "linelist" if many else "string"
        parser.addini(key, description, type=kind)


def _keep_paths_apart(config: pytest.Config | None) -> None:
    """Starts pytest anew with `--testdb-spool=DIR` where it was called with `--testdb-spool DIR`.

    It looks for its configuration before it knows the options of plugins, and so takes a path that exists,
    and stands alone, for a place of tests: the project's own configuration would not be found. A program that
    calls pytest is left alone: its work must not be done twice.
    """
    program = Path(sys.argv[0])
    is_pytest = program.name in ("pytest", "py.test") or program.parts[-2:] == ("pytest", "__main__.py")
    if config is None or not is_pytest or config.invocation_params.args != tuple(sys.argv[1:]):
        return
    joined = sys.orig_argv[:1]
    for argument in sys.orig_argv[1:]:
        if joined[-1] in ("--testdb", "--testdb-spool") and Path(argument).exists():
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    if joined != sys.orig_argv:
        os.execv(sys.executable, [sys.executable, *joined[1:]])


def option(config: pytest.Config, key: str) -> Any:
    """The value given on the command line, else by the environment, else in the ini file; else None or []."""
    given = config.getoption(key)
    if given:
        return given
    told = os.environ.get(key.upper(), "").strip()
    many = isinstance(ini := config.getini(key), list)
    if told:
        return [part.strip() for part in told.replace("\n", ",").split(",") if part.strip()] if many else told
    return ini or ([] if many else None)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):  # its controller records
        config.stash[ATTACHES] = True
    elif option(config, "testdb") and ACTIVE not in os.environ and not _only_shows(config):
        try:
            from testdb_pytest.session import record
        except ImportError as error:  # of what only POSIX systems have
            raise pytest.UsageError(f"--testdb cannot be used here: {error}") from error
        record(config)


def _only_shows(config: pytest.Config) -> bool:
    """Whether the session runs no test, only tells about them."""
    names = ("collectonly", "showfixtures", "show_fixtures_per_test", "setupplan", "cacheshow", "markers")
    return any(getattr(config.option, name, None) for name in (*names, "help", "version"))


def now(clock: Callable[[], float] = time.time) -> float:
    """The time, also while a test has put another clock in its place."""
    return clock()


def _attach(request: pytest.FixtureRequest, key: pytest.StashKey[list[list[Any]]], row: list[Any]) -> None:
    """Keeps the row for the test's report, in a session that is recorded."""
    config = request.config
    if config.stash.get(ATTACHES, False):
        # Under xdist it must pass for UTF-8.
        row = [
            part.encode(errors="backslashreplace").decode() if isinstance(part, str) else part for part in row
        ]
        request.node.stash.setdefault(key, []).append(row)
        if not config.pluginmanager.has_plugin("testdb-attaching"):  # suites without it shall not pay for it
            config.pluginmanager.register(_Attaching(), "testdb-attaching")


def _encodable(value: Any) -> Any:
    """The text as UTF-8 can say it: a worker of xdist could not send any other."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


class _Attaching:
    """Puts what the fixtures took on the test's last report, with which it reaches a controller, too."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if call.when == "teardown":
            vars(report)["testdb_metrics"] = item.stash.get(METRICS, [])
            vars(report)["testdb_artifacts"] = item.stash.get(ARTIFACTS, [])
            item.stash[METRICS], item.stash[ARTIFACTS] = [], []  # the test may be run again
        return report


@pytest.fixture
def record_metric(request: pytest.FixtureRequest) -> Callable[..., None]:
    """`record_metric(name, value, unit="")` records a number of this test; nothing without `--testdb`."""

    def record(name: str, value: float, unit: str = "") -> None:
        if not isinstance(name, str) or not isinstance(unit, str):
            raise TypeError("record_metric(name, value, unit): name and unit must be texts")
        if not name or len(name) > 1000:
            raise ValueError("record_metric(name, …): the name must have 1 to 1000 characters")
        if isinstance(value, bool) or not hasattr(type(value), "__float__"):
            raise TypeError(f"record_metric({name!r}, …): the value must be a number, not {value!r}")
        number = float(value)
        taken = number if math.isfinite(number) else _text_of(number)
        _attach(request, METRICS, [name, taken, unit, now()])

    return record


@pytest.fixture
def record_artifact(request: pytest.FixtureRequest) -> Callable[..., None]:
    """`record_artifact(path, type="file", description=None)` records a file that this test made."""

    def record(path: str | os.PathLike[str], type: str = "file", description: str | None = None) -> None:
        if not isinstance(type, str) or not isinstance(description, str | None):
            raise TypeError("record_artifact(path, type, description): type and description must be texts")
        keep = request.config.stash.get(KEEP, str)
        _attach(request, ARTIFACTS, [keep(str(Path(path).absolute())), type, description, now()])

    return record


def _text_of(number: float) -> str:
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
