"""What the server says of batches."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from app.schemas.common import Answer, AnyFloat, QueryTime, Request
from app.vocabulary import BatchStatus


class BatchQuery(Request):
    """Which batches, and which page of them."""

    status: BatchStatus | None = None
    since: QueryTime | None = Field(None, description="Started at this time or later.")
    until: QueryTime | None = Field(None, description="Started before this time.")
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    cursor: str | None = Field(None, description="Opaque; taken from the `Link` header of the page before.")
    count: bool = Field(False, description="Adds the header `X-Total-Count`.")


class BatchSummary(Answer):
    """A batch and sums over its runs."""

    batch_id: str
    description: str | None
    run_count: int
    started_at: datetime
    completed_at: datetime | None
    duration: AnyFloat | None
    status: str
    creator: str | None
    created_at: datetime
    actual_run_count: int
    completed_runs: int
    failed_runs: int
    cancelled_runs: int
    total_tests_passed: int
    total_tests_failed: int
    total_tests_skipped: int


class BatchRun(Answer):
    """A run of a batch."""

    run_id: str
    model_name: str
    hardware: list[str]
    status: str
    started_at: datetime
    completed_at: datetime | None
    duration: AnyFloat | None
    tests_passed: int
    tests_failed: int
    tests_skipped: int


class BatchDetail(BatchSummary):
    runs: list[BatchRun]
