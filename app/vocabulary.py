"""The words for states of runs, steps and batches, for what tokens allow, and for numbers of things."""

from __future__ import annotations

import re
from enum import StrEnum


class RunStatus(StrEnum):
    INITIALIZING = "initializing"
    RUNNING = "running"
    COMPLETED = "completed"
    ERROR = "error"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"

    @classmethod
    def _missing_(cls, value: object) -> RunStatus | None:
        return cls.ERROR if value == "failed" else None


TERMINAL = frozenset({RunStatus.COMPLETED, RunStatus.ERROR, RunStatus.TIMEOUT, RunStatus.CANCELLED})
FAILED = frozenset({RunStatus.ERROR, RunStatus.TIMEOUT})

SERVER = "testdb"
"""The creator of runs that servers run themselves; those of others are only listened to."""


class StepStatus(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    COMPLETED = "completed"
    ERROR = "error"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"

    @property
    def live(self) -> bool:
        return self in (StepStatus.PENDING, StepStatus.RUNNING)


TEST_ENDS = (
    StepStatus.PASSED,
    StepStatus.FAILED,
    StepStatus.SKIPPED,
    StepStatus.ERROR,
    StepStatus.TIMEOUT,
    StepStatus.CANCELLED,
)
"""How the step of a test case can end: by itself, or with its run."""

LAST_STEP = {
    RunStatus.COMPLETED: "Completed",
    RunStatus.ERROR: "Error",
    RunStatus.TIMEOUT: "Timeout",
    RunStatus.CANCELLED: "Cancelled",
}
"""The step that a run ends with."""


class Scope(StrEnum):
    """What a token allows; each includes those before it."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"

    def covers(self, other: Scope) -> bool:
        order = list(Scope)
        return order.index(self) >= order.index(other)


EARLIER_ATTEMPT = re.compile(r"(.+) \(attempt \d+\)", re.DOTALL)
"""The step of a test case's attempt that was not its last: the test was run again."""


class BatchStatus(StrEnum):
    INITIALIZING = "initializing"
    RUNNING = "running"
    COMPLETED = "completed"
    PARTIAL = "partial"
    ERROR = "error"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        return self not in (BatchStatus.INITIALIZING, BatchStatus.RUNNING)


OUTCOMES = {
    "passed": "passed",
    "pass": "passed",
    "success": "passed",
    "ok": "passed",
    "xpassed": "passed",
    "failed": "failed",
    "fail": "failed",
    "failure": "failed",
    "error": "failed",
    "timeout": "failed",
    "skipped": "skipped",
    "skip": "skipped",
    "xfailed": "skipped",
    "xfail": "skipped",
    "cancelled": "skipped",
}
"""How a test's status, as the tools of the field write it, counts: passed, failed or skipped."""


def number_of(count: int, noun: str) -> str:
    """`1 run`, `2 runs`, `2 batches`."""
    plural = "" if count == 1 else "es" if noun.endswith("ch") else "s"
    return f"{count} {noun}{plural}"
