"""The built-in suite as the server starts it, whole or broken on purpose."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from app.runner.folder import all_events
from app.runner.suites import BUILTIN
from app.schemas.events import ArtifactEvent, MetricEvent, TestEvent
from tests.server import PATIENCE, environment
from tests.suites.breaks import Break

# Plugins of other people, which the suite does not need, would take as long to load as its tests take.
LEAN = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": "1"}


@dataclass
class Session:
    """A session of the suite that has ended."""

    code: int
    output: str
    seconds: float
    """Of the processor, so that a busy machine does not count."""
    tests: list[TestEvent]
    metrics: list[MetricEvent]
    artifacts: list[ArtifactEvent]

    def functions(self, *statuses: str) -> set[str]:
        """The test functions of which a case ended so."""
        return {
            test.test.partition("::")[2].partition("[")[0] for test in self.tests if test.status in statuses
        }


def session(folder: Path, *tests: str, model: str, hardware: str = "cpu", suite: Path = BUILTIN) -> Session:
    """Runs tests of a suite; what it tells and attaches goes into the folder."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "testdb_pytest", "-p", "testdb_pytest.suite"),
            *("-c", suite / "pytest.ini", "--rootdir", suite, "--basetemp", folder / "temporary"),
            *("--testdb-events", folder / "events.jsonl", "--testdb-artifacts", folder / "attached"),
            *("--testdb-run-id", "run", "--testdb-model", model, "--testdb-hardware", hardware),
            *tests,
        ],
        cwd=suite,
        env=environment(LEAN),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    events = list(all_events(folder / "events.jsonl"))
    return Session(
        done.returncode,
        done.stdout,
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        [event for event in events if isinstance(event, TestEvent)],
        [event for event in events if isinstance(event, MetricEvent)],
        [event for event in events if isinstance(event, ArtifactEvent)],
    )


def broken_copy(folder: Path, broken: Break) -> Path:
    """A copy of the suite in which the models have these faults."""
    suite = folder / "suite"
    shutil.copytree(BUILTIN, suite, ignore=shutil.ignore_patterns("__pycache__"))
    for name, old, new in broken.edits:
        file = suite / "tiny_models" / name
        source = file.read_text()
        assert source.count(old) == 1, f"{name} has no {old!r} any more, or several"
        file.write_text(source.replace(old, new))
    return suite


def python(folder: Path, *arguments: str | Path) -> str:
    """What Python prints in a folder."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment(LEAN),
        stdout=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
        check=True,
    ).stdout
