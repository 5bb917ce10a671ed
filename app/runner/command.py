"""How a suite is started: the command and the environment of its pytest process."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from app.runner.folder import RunFolder
from app.runner.suites import Suite, SuiteType
from app.services.launching import Job

_WITHHELD = ("TESTDB", "PYTEST_", "PGPASS", "PGSERVICE")


def pytest_command(suite: Suite, selected: SuiteType, job: Job, folder: RunFolder) -> list[str]:
    """The arguments; nothing of them ever passes through a shell."""
    return [
        *(sys.executable, "-m", "pytest"),
        *("-p", "testdb_pytest", "-p", "testdb_pytest.suite", "-p", "no:cacheprovider"),
        # What a test prints is in the output at once: a crash would take along what is only captured.
        "--capture=tee-sys",
        *("-c", str(suite.configuration), "--rootdir", str(suite.folder)),
        f"--testdb-events={folder.events}",
        f"--testdb-artifacts={folder.attached}",
        f"--testdb-run-id={job.run_id}",
        f"--testdb-model={job.model_name}",
        *(f"--testdb-hardware={platform}" for platform in job.hardware),
        *selected.tests,
    ]


def child_environment(server: Mapping[str, str]) -> dict[str, str]:
    """The server's environment without its settings and passwords, and without what steers pytest."""
    kept = {name: value for name, value in server.items() if not name.upper().startswith(_WITHHELD)}
    return kept | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
