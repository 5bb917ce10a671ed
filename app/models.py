"""The eight tables.

Every key is the run's id or starts with it, and no key comes from a sequence, so the tables can be sharded by
`run_id`. Foreign keys are declared everywhere and physical where the engine can cascade; the relationships
make `session.delete(run)` remove everything of a run on every engine.
"""

from __future__ import annotations

import threading
import time
import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    Boolean,
    Double,
    ForeignKey,
    Index,
    Integer,
    String,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, validates

from app.db.ddl import NO_PHYSICAL_KEY, duckdb_index, make_metadata, postgresql_index
from app.db.types import Key, UtcDateTime, utcnow


def new_id() -> str:
    """A random id (UUID4 text) for a run or batch."""
    return str(uuid.uuid4())


def is_new_id(text: str) -> bool:
    """Whether `new_id` could have made it."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


class _Counter:
    """Increasing 63-bit numbers near the nanoseconds since 1970; thread-safe."""

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()

    def take(self, count: int) -> range:
        with self._lock:
            start = max(self._last + 1, time.time_ns())
            self._last = start + count - 1
        return range(start, start + count)


_metric_ids = _Counter()


def new_metric_ids(count: int = 1) -> range:
    """`count` consecutive ids for metric rows, each larger than all before it in this process."""
    return _metric_ids.take(count)


class Base(DeclarativeBase):
    metadata = make_metadata()
    type_annotation_map = {
        str: String(),
        float: Double(),
        int: Integer(),
        bool: Boolean(),
        datetime: UtcDateTime(),
    }


def _run_key() -> Any:
    return mapped_column(Key, ForeignKey("test_runs.run_id", ondelete="CASCADE"), primary_key=True)


class TestRun(Base):
    """One run of a test suite against a model on some hardware."""

    __test__ = False  # not a test class, whatever pytest makes of its name
    __tablename__ = "test_runs"
    __table_args__ = (
        postgresql_index("ix_test_runs_newest", text("started_at DESC"), "run_id"),
        postgresql_index("ix_test_runs_model_newest", "model_name", "started_at"),
        postgresql_index("ix_test_runs_status_newest", "status", "started_at"),
        postgresql_index("ix_test_runs_hardware", "hardware", postgresql_using="gin"),
    )

    run_id: Mapped[str] = mapped_column(Key, primary_key=True, default=new_id)
    model_name: Mapped[str]
    hardware: Mapped[list[str]] = mapped_column(ARRAY(String), default=list)
    test_type: Mapped[str] = mapped_column(default="basic")
    timeout: Mapped[float | None]
    save_results: Mapped[bool] = mapped_column(default=True)
    status: Mapped[str] = mapped_column(default="initializing")
    progress: Mapped[float] = mapped_column(default=0.0)
    current_step: Mapped[str | None]
    started_at: Mapped[datetime] = mapped_column(default=utcnow)
    completed_at: Mapped[datetime | None]
    duration: Mapped[float | None]
    error: Mapped[str | None]
    result_file: Mapped[str | None]
    creator: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(default=utcnow)

    results: Mapped[TestRunResult | None] = relationship(back_populates="run", cascade="all, delete-orphan")
    steps: Mapped[list[TestRunStep]] = relationship(
        back_populates="run",
        cascade="all, delete-orphan",
        order_by="TestRunStep.started_at, TestRunStep.step_name",
    )
    metrics: Mapped[list[TestRunMetric]] = relationship(
        back_populates="run", cascade="all, delete-orphan", order_by="TestRunMetric.id"
    )
    tags: Mapped[list[TestRunTag]] = relationship(
        back_populates="run", cascade="all, delete-orphan", order_by="TestRunTag.tag_name"
    )
    artifacts: Mapped[list[TestRunArtifact]] = relationship(
        back_populates="run", cascade="all, delete-orphan", order_by="TestRunArtifact.artifact_path"
    )
    batches: Mapped[list[BatchTestRun]] = relationship(secondary="test_run_batch", back_populates="runs")

    @validates("hardware")
    def _one_platform_is_a_list(self, _key: str, value: str | list[str]) -> list[str]:
        return [value] if isinstance(value, str) else value

    def __repr__(self) -> str:
        return f"<TestRun {self.run_id} {self.model_name} {self.status}>"


class TestRunResult(Base):
    """The counts of a run and its whole result object."""

    __test__ = False
    __tablename__ = "test_run_results"

    run_id: Mapped[str] = _run_key()
    tests_passed: Mapped[int] = mapped_column(default=0)
    tests_failed: Mapped[int] = mapped_column(default=0)
    tests_skipped: Mapped[int] = mapped_column(default=0)
    result_data: Mapped[dict[str, Any]] = mapped_column(JSON(none_as_null=True), default=dict)

    run: Mapped[TestRun] = relationship(back_populates="results")


class TestRunStep(Base):
    """A phase of a run, or one test case: then `step_name` is the test's id and `status` its outcome."""

    __test__ = False
    __tablename__ = "test_run_steps"
    __table_args__ = (duckdb_index("ix_test_run_steps_run_id", "run_id"),)

    run_id: Mapped[str] = _run_key()
    step_name: Mapped[str] = mapped_column(Key, primary_key=True)
    status: Mapped[str] = mapped_column(default="pending")
    progress: Mapped[float] = mapped_column(default=0.0)
    started_at: Mapped[datetime] = mapped_column(default=utcnow)
    completed_at: Mapped[datetime | None]
    duration: Mapped[float | None]
    error: Mapped[str | None]

    run: Mapped[TestRun] = relationship(back_populates="steps")


class TestRunMetric(Base):
    """One value of a metric's series; only ever appended."""

    __test__ = False
    __tablename__ = "test_run_metrics"
    __table_args__ = (duckdb_index("ix_test_run_metrics_run_id", "run_id"), {"info": NO_PHYSICAL_KEY})

    run_id: Mapped[str] = _run_key()
    id: Mapped[int] = mapped_column(
        BigInteger, primary_key=True, autoincrement=False, default=lambda: new_metric_ids()[0]
    )
    metric_name: Mapped[str]
    metric_value: Mapped[float]
    metric_unit: Mapped[str] = mapped_column(default="")
    timestamp: Mapped[datetime] = mapped_column(default=utcnow)

    run: Mapped[TestRun] = relationship(back_populates="metrics")


class TestRunTag(Base):
    """A name and value that a run is found by."""

    __test__ = False
    __tablename__ = "test_run_tags"
    __table_args__ = (
        duckdb_index("ix_test_run_tags_run_id", "run_id"),
        postgresql_index("ix_test_run_tags_name_value", "tag_name", "tag_value"),
    )

    run_id: Mapped[str] = _run_key()
    tag_name: Mapped[str] = mapped_column(Key, primary_key=True)
    tag_value: Mapped[str] = mapped_column(default="")

    run: Mapped[TestRun] = relationship(back_populates="tags")


class BatchTestRun(Base):
    """A batch: runs that belong together, such as one night or one pipeline."""

    __test__ = False
    __tablename__ = "batch_test_runs"

    batch_id: Mapped[str] = mapped_column(Key, primary_key=True, default=new_id)
    description: Mapped[str | None]
    run_count: Mapped[int] = mapped_column(default=0)
    started_at: Mapped[datetime] = mapped_column(default=utcnow)
    completed_at: Mapped[datetime | None]
    duration: Mapped[float | None]
    status: Mapped[str] = mapped_column(default="initializing")
    creator: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(default=utcnow)

    runs: Mapped[list[TestRun]] = relationship(secondary="test_run_batch", back_populates="batches")

    def __repr__(self) -> str:
        return f"<BatchTestRun {self.batch_id} {self.status}>"


class TestRunBatch(Base):
    """Membership of a run in a batch; `run.batches` and `batch.runs` go through it."""

    __test__ = False
    __tablename__ = "test_run_batch"
    __table_args__ = (
        duckdb_index("ix_test_run_batch_run_id", "run_id"),
        Index("ix_test_run_batch_batch_id", "batch_id"),
    )

    run_id: Mapped[str] = _run_key()
    batch_id: Mapped[str] = mapped_column(
        Key, ForeignKey("batch_test_runs.batch_id", ondelete="CASCADE"), primary_key=True
    )


class TestRunArtifact(Base):
    """A file that a run left; the path is recorded as given."""

    __test__ = False
    __tablename__ = "test_run_artifacts"
    __table_args__ = (duckdb_index("ix_test_run_artifacts_run_id", "run_id"),)

    run_id: Mapped[str] = _run_key()
    artifact_path: Mapped[str] = mapped_column(Key, primary_key=True)
    artifact_type: Mapped[str] = mapped_column(default="file")
    description: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(default=utcnow)

    run: Mapped[TestRun] = relationship(back_populates="artifacts")
