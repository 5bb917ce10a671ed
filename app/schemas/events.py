"""What a test session tells while it runs: one JSON object a line.

The stream of a session is one file (the spool). A server's runner reads it while the suite runs, the pytest
plugin sends it in parts, and `import` takes it whole. Times are seconds since 1970 (float, UTC), durations
are seconds. The first line is the `session`; the last, unless the session broke off, is `finished`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, TypeAdapter, ValidationError

from app.schemas.common import (
    Count,
    Fraction,
    Hardware,
    Id,
    Name,
    Number,
    Request,
    Seconds,
    StepName,
    TagName,
    TagValue,
    Text,
)
from app.schemas.validation import few_values, invalid
from app.vocabulary import RunStatus, StepStatus

FORMAT = "testdb-spool"
VERSION = 1


def _moment(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be seconds since 1970")
    try:
        return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise ValueError("is outside the years 1 to 9999") from error


Moment = Annotated[datetime, BeforeValidator(_moment)]


class _Event(Request):
    time: Moment


class SessionEvent(_Event):
    """The run that the session is; always the first line of its stream."""

    event: Literal["session"]
    format: Literal["testdb-spool"]
    version: Literal[1]
    run_id: Id
    model_name: Name
    hardware: Hardware = Field(default_factory=list)
    test_type: Name = "basic"
    creator: Text | None = None
    batch_id: Id | None = None
    tags: dict[TagName, TagValue] = Field(default_factory=dict)


class CollectedEvent(_Event):
    """How many tests the session is about to run."""

    event: Literal["collected"]
    count: Count


class StartedEvent(_Event):
    """A test begins."""

    event: Literal["started"]
    test: StepName


class TestEvent(_Event):
    """A test is over, its teardown included; `time` is its end."""

    __test__ = False

    event: Literal["test"]
    test: StepName
    status: Literal[StepStatus.PASSED, StepStatus.FAILED, StepStatus.SKIPPED, StepStatus.ERROR]
    started: Moment
    duration: Seconds
    error: Text | None = Field(None, description="Why it failed or was skipped.")
    progress: Fraction | None = Field(None, description="How much of the session is done.")


class MetricEvent(_Event):
    event: Literal["metric"]
    name: Name
    value: Number
    unit: Annotated[Text, StringConstraints(max_length=200)] = ""


class ArtifactEvent(_Event):
    event: Literal["artifact"]
    path: StepName
    type: Name = "file"
    description: Text | None = None


class FinishedEvent(_Event):
    """The session is over; `error` says why where it did not run to its end."""

    event: Literal["finished"]
    status: Literal[RunStatus.COMPLETED, RunStatus.ERROR, RunStatus.CANCELLED]
    error: Text | None = None


Event = SessionEvent | CollectedEvent | StartedEvent | TestEvent | MetricEvent | ArtifactEvent | FinishedEvent

_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


def parse_event(line: bytes, place: str = "") -> Event:
    """The event of a line; raises Invalid, which says where: `place` and the field."""
    try:
        return _EVENT.validate_json(few_values(line))
    except ValidationError as error:
        raise invalid(error, place) from error
