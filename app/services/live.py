"""How far a run is, and how it ended, for those who watch it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.db.types import utcnow
from app.errors import Conflict
from app.models import TestRunResult
from app.schemas.common import build
from app.schemas.runner import LiveResults, LiveStatus
from app.services.documents import seconds_between
from app.services.parts import counted
from app.services.runs import require_run
from app.vocabulary import TERMINAL, RunStatus


@dataclass(frozen=True)
class Snapshot:
    """A run at one moment: what changes only when the run does."""

    run_id: str
    status: str
    progress: float
    current_step: str | None
    model_name: str
    hardware: list[str]
    test_type: str
    started_at: datetime
    duration: float | None
    error: str | None

    @property
    def ended(self) -> bool:
        return self.status in TERMINAL

    def at(self, now: datetime) -> LiveStatus:
        """The status as it is told at that time; with the times that pass by themselves."""
        elapsed = seconds_between(self.started_at, now)
        remaining = None
        if self.status == RunStatus.RUNNING and self.progress > 0:
            remaining = elapsed * (1 - self.progress) / self.progress
        if self.ended and self.duration is not None:
            elapsed = self.duration
        told = asdict(self)
        del told["duration"]
        return build(LiveStatus, **told, elapsed_time=elapsed, estimated_remaining_time=remaining)


def snapshot(session: Session, run_id: str) -> Snapshot:
    """The run as it is; one query. Raises NotFound."""
    run = require_run(session, run_id)
    return Snapshot(**{field.name: getattr(run, field.name) for field in fields(Snapshot)})


def live_status(session: Session, run_id: str) -> LiveStatus:
    """How far the run is. Raises NotFound."""
    return snapshot(session, run_id).at(utcnow())


def live_results(session: Session, run_id: str) -> LiveResults:
    """How a run ended; raises NotFound, and Conflict while it has not."""
    run = require_run(session, run_id)
    if run.status not in TERMINAL:
        raise Conflict(f"Run {run_id!r} is {run.status}; ask /api/test/status/{run_id} how far it is.")
    stored = session.get(TestRunResult, run_id)
    columns: dict[str, Any] = {
        name: getattr(run, name) for name in LiveResults.model_fields if name != "results"
    }
    results = stored and counted(
        stored.result_data, stored.tests_passed, stored.tests_failed, stored.tests_skipped
    )
    return build(LiveResults, **columns, results=results)
