"""What the server says of runs, and how a client selects them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints

from app.schemas.common import MAX_NAME, Answer, AnyFloat, Id, Name, QueryTime, Request, Whole, plain_text
from app.schemas.documents import RunStatusIn

Limit = Annotated[int, Field(ge=1, le=1000)]
TagFilter = Annotated[
    str, StringConstraints(min_length=1, max_length=2 * MAX_NAME + 1), AfterValidator(plain_text)
]
MAX_TAG_FILTERS = 20
"""Each is a condition in SQL, which an engine plans for longer than it counts them."""


class RunFilters(Request):
    """Which runs. Every filter that is given must hold."""

    status: RunStatusIn | None = Field(None, description="The run's status; `failed` means `error`.")
    model_name: Name | None = None
    test_type: Name | None = None
    hardware: Name | None = Field(None, description="Runs that used this platform.")
    batch_id: Id | None = None
    tag: list[TagFilter] = Field(
        default_factory=list, max_length=MAX_TAG_FILTERS, description="`name` or `name=value`; all must hold."
    )
    since: QueryTime | None = Field(None, description="Started at this time or later.")
    until: QueryTime | None = Field(None, description="Started before this time.")


class RunQuery(RunFilters):
    """The filters and one page of what they select."""

    limit: Limit = 100
    cursor: str | None = Field(None, description="Opaque; taken from the `Link` header of the page before.")
    count: bool = Field(False, description="Adds the header `X-Total-Count`.")


def _some_word(query: str) -> str:
    if not query.split():
        raise ValueError("must contain a word to look for")
    return query


class SearchRequest(RunFilters):
    """Words to look for, and filters."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"query": "bert out of memory", "limit": 20}]})

    query: Annotated[
        str,
        StringConstraints(min_length=1, max_length=1000),
        AfterValidator(plain_text),
        AfterValidator(_some_word),
    ]
    limit: Annotated[Whole, Field(ge=1, le=1000)] = 100


class RunSummary(Answer):
    """A run in a list."""

    run_id: str
    model_name: str
    hardware: list[str]
    test_type: str
    status: str
    progress: float
    current_step: str | None
    started_at: datetime
    completed_at: datetime | None
    duration: AnyFloat | None
    error: str | None
    creator: str | None
    tests_passed: int
    tests_failed: int
    tests_skipped: int
    step_count: int
    metric_count: int
    artifact_count: int
    batch_id: str | None = Field(description="The newest batch.")
    batch_ids: list[str] = Field(description="Newest first.")
    tags: dict[str, str]


class Step(Answer):
    step_name: str
    status: str
    progress: float
    started_at: datetime
    completed_at: datetime | None
    duration: AnyFloat | None
    error: str | None


class MetricSummary(Answer):
    """A series: its latest point, and figures over its finite values."""

    value: AnyFloat
    unit: str
    timestamp: datetime
    count: int
    min: float | None
    max: float | None
    avg: float | None


class MetricPoint(Answer):
    metric_name: str
    value: AnyFloat
    unit: str
    timestamp: datetime


class Artifact(Answer):
    artifact_type: str
    artifact_path: str
    description: str | None
    created_at: datetime


class RunDetail(Answer):
    """A run with everything it has; long series are summed up (see `/run/{run_id}/metrics`)."""

    run_id: str
    model_name: str
    hardware: list[str]
    test_type: str
    timeout: AnyFloat | None
    save_results: bool
    status: str
    progress: float
    current_step: str | None
    started_at: datetime
    completed_at: datetime | None
    duration: AnyFloat | None
    error: str | None
    result_file: str | None
    creator: str | None
    created_at: datetime
    results: dict[str, Any] | None
    steps: list[Step]
    metrics: dict[str, MetricSummary]
    tags: dict[str, str]
    artifacts: list[Artifact]
    batch_id: str | None
    batch_ids: list[str]


class MetricQuery(Request):
    """One page of a run's series."""

    name: Name | None = Field(None, description="Only this metric.")
    limit: Annotated[int, Field(ge=1, le=100_000)] = 1000
    cursor: str | None = Field(None, description="Opaque; taken from the `Link` header of the page before.")


class Appended(Answer):
    """Items that were appended or updated."""

    run_id: str
    stored: int


class Stored(Answer):
    """Rows stored by an ingest."""

    runs: int = 0
    steps: int = 0
    metrics: int = 0
    tags: int = 0
    artifacts: int = 0


class Deleted(Answer):
    """What a deletion removed, or would remove."""

    status: str = "success"
    message: str
    timestamp: datetime
    deleted: dict[str, int] = Field(description="Rows by table.")
