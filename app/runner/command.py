"""How a suite is started: the command and the environment of its pytest process."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from urllib.parse import quote, quote_plus

from app.runner.folder import RunFolder
from app.runner.suites import Suite, SuiteType
from app.services.launching import Job

UNMISTAKABLE = 8
"""Characters from which on a password stands in no text by chance."""
_WITHHELD = ("TESTDB", "PYTEST_", "PGPASS", "PGSERVICE", "PGSSL")


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


def child_environment(server: Mapping[str, str], passwords: Collection[str]) -> dict[str, str]:
    """The server's environment without its settings and passwords, and without what steers pytest.

    `passwords` are those of the database, which may stand in variables of other names, too.
    """
    kept = {
        name: value
        for name, value in server.items()
        if not name.upper().startswith(_WITHHELD) and not any(_tells(value, known) for known in passwords)
    }
    return kept | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}


def _tells(value: str, password: str) -> bool:
    """Whether a text holds the password; of a short one, whether it is it, or is an address with it."""
    forms = {password, quote(password, safe=""), quote_plus(password)}
    if len(password) >= UNMISTAKABLE:
        return any(form in value for form in forms)
    return value in forms or any(f":{form}@" in value or f"password={form}" in value for form in forms)
