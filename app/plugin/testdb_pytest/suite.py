"""Tests of models: the fixtures `model_name` and `hardware`, as a server's runner gives them.

Loaded with `-p testdb_pytest.suite`, by the runner or by hand:
`pytest -p testdb_pytest.suite --testdb-model NAME --testdb-hardware cpu`.
"""

from __future__ import annotations

import os
import shutil
import signal
import uuid
from pathlib import Path
from typing import NoReturn

import pytest

from testdb_pytest import ACTIVE, ATTACHES, KEEP, option
from testdb_pytest.recorder import Recorder, Sink


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("testdb")
    group.addoption("--testdb-events", metavar="FILE", help="Append what happens to this file.")
    group.addoption("--testdb-run-id", metavar="ID", help="The run that the session is.")
    group.addoption("--testdb-artifacts", metavar="DIR", help="Folder for files that tests attach.")


def pytest_configure(config: pytest.Config) -> None:
    if (folder := config.getoption("--testdb-artifacts")) is not None:
        config.stash[KEEP] = Keeper(Path(folder)).keep
    events = config.getoption("--testdb-events")
    if events is None or hasattr(config, "workerinput"):
        return
    os.environ[ACTIVE] = config.getoption("--testdb-run-id") or str(uuid.uuid4())
    recorder = Recorder(Sink(events))
    recorder.begin(
        format="testdb-spool",
        version=1,
        run_id=os.environ[ACTIVE],
        model_name=option(config, "testdb_model") or "suite",
        hardware=platforms(config),
    )
    config.pluginmanager.register(recorder, "testdb-recorder")
    config.stash[ATTACHES] = True
    _end_on_sigterm(config)
    config.add_cleanup(recorder.close)


def platforms(config: pytest.Config) -> list[str]:
    return list(dict.fromkeys(option(config, "testdb_hardware"))) or ["cpu"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "hardware" in metafunc.fixturenames:
        marks = metafunc.definition.iter_markers("parametrize")
        if not any(
            "hardware" in str(mark.args[0]).replace(" ", "").split(",") for mark in marks if mark.args
        ):
            metafunc.parametrize("hardware", platforms(metafunc.config), indirect=True)


@pytest.fixture
def hardware(request: pytest.FixtureRequest) -> str:
    """The platform to test on: each test that uses it runs once for each platform of the run."""
    return str(request.param)


@pytest.fixture(scope="session")
def model_name(pytestconfig: pytest.Config) -> str:
    """The model to test."""
    name = option(pytestconfig, "testdb_model")
    if not name:
        raise pytest.UsageError("the tests need a model: give --testdb-model NAME")
    return str(name)


class Keeper:
    """Copies attached files to where they stay: the folders of tests are removed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, path: str) -> str:
        source = Path(path)
        self._folder.mkdir(parents=True, exist_ok=True)
        target = self._free(source.name)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy2(source, target)
        return str(target)

    def _free(self, name: str) -> Path:
        stem, dot, ending = name.partition(".")
        target, number = self._folder / name, 2
        while target.exists():
            target = self._folder / f"{stem}-{number}{dot}{ending}"
            number += 1
        return target


def _end_on_sigterm(config: pytest.Config) -> None:
    """The first SIGTERM ends the session as an interruption, with its teardowns; the second at once."""

    def interrupt(*_: object) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise KeyboardInterrupt("terminated")

    before = signal.signal(signal.SIGTERM, interrupt)
    config.add_cleanup(lambda: _restore(before))


def _restore(handler: object) -> None:
    signal.signal(signal.SIGTERM, handler)  # type: ignore[arg-type]
