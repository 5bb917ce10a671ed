"""How far a run is, for those who watch it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from app.db.types import utcnow
from app.schemas.runner import LiveStatus
from app.services.documents import seconds_between
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
    hardware: tuple[str, ...]
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
        return LiveStatus(
            run_id=self.run_id,
            status=self.status,
            progress=self.progress,
            current_step=self.current_step,
            model_name=self.model_name,
            hardware=list(self.hardware),
            test_type=self.test_type,
            started_at=self.started_at,
            elapsed_time=elapsed,
            estimated_remaining_time=remaining,
            error=self.error,
        )


def snapshot(session: Session, run_id: str) -> Snapshot:
    """The run as it is; one query. Raises NotFound."""
    run = require_run(session, run_id)
    return Snapshot(
        run_id=run.run_id,
        status=run.status,
        progress=run.progress,
        current_step=run.current_step,
        model_name=run.model_name,
        hardware=tuple(run.hardware),
        test_type=run.test_type,
        started_at=run.started_at,
        duration=run.duration,
        error=run.error,
    )


def live_status(session: Session, run_id: str) -> LiveStatus:
    """How far the run is. Raises NotFound."""
    return snapshot(session, run_id).at(utcnow())
