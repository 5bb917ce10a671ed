"""The usual shape of documents, read several times as fast as the models of `app.schemas.documents`.

What is accepted here means the same there; what is not may still be a document, written in one of the other
ways that those models take. So a reader tries this first, and has the models decide on the rest, and word the
errors.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec

from app.schemas.common import ID_PATTERN, MAX_ITEMS, MAX_KEY_BYTES, MAX_TAG_BYTES, check_json
from app.schemas.documents import check_creator, check_results, stand_once
from app.vocabulary import RunStatus, StepStatus

_BYTES = 4
"""The most that UTF-8 takes for a character."""

Id = Annotated[str, msgspec.Meta(pattern=rf"\A(?!\.{{1,2}}\Z){ID_PATTERN}\Z")]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_KEY_BYTES // _BYTES)]
StepText = Annotated[str, msgspec.Meta(max_length=MAX_KEY_BYTES // _BYTES)]
Platform = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
TagName = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TAG_BYTES // _BYTES)]
TagValue = Annotated[str, msgspec.Meta(max_length=MAX_TAG_BYTES // _BYTES)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]


class Plain(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """Base of the structures; they refuse times that are not in UTC."""


class PlainMetric(Plain):
    """As MetricDocument."""

    metric_name: Name
    value: float
    unit: str | None = None
    timestamp: datetime | None = None

    def __post_init__(self) -> None:
        _utc(self.timestamp)


class PlainStep(Plain):
    """As StepDocument."""

    step_name: Name
    status: StepStatus | None = None
    progress: Fraction | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    duration: Seconds | None = None
    error: str | None = None

    def __post_init__(self) -> None:
        _utc(self.started_at)
        _utc(self.completed_at)


class PlainArtifact(Plain):
    """As ArtifactDocument."""

    artifact_path: Name
    artifact_type: Name = "file"
    description: str | None = None
    created_at: datetime | None = None

    def __post_init__(self) -> None:
        _utc(self.created_at)


class PlainRun(Plain, kw_only=True):
    """As RunDocument."""

    run_id: Id | None = None
    model_name: Name
    hardware: list[Platform] = []
    test_type: Name = "basic"
    timeout: Seconds | None = None
    save_results: bool = True
    status: RunStatus = RunStatus.INITIALIZING
    progress: Fraction | None = None
    current_step: StepText | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    duration: Seconds | None = None
    error: str | None = None
    result_file: str | None = None
    creator: str | None = None
    tags: dict[TagName, TagValue | None] = {}
    batch_id: Id | None = None
    results: dict[str, Any] | None = None
    steps: Annotated[list[PlainStep], msgspec.Meta(max_length=MAX_ITEMS)] = []
    metrics: Annotated[list[PlainMetric], msgspec.Meta(max_length=MAX_ITEMS)] = []
    artifacts: Annotated[list[PlainArtifact], msgspec.Meta(max_length=MAX_ITEMS)] = []

    def __post_init__(self) -> None:
        _utc(self.started_at)
        _utc(self.completed_at)
        check_creator(self.creator, self.status)
        self.hardware = list(dict.fromkeys(self.hardware))
        if self.results is not None:
            check_results(check_json(self.results))
        stand_once([step.step_name for step in self.steps])
        stand_once([artifact.artifact_path for artifact in self.artifacts])


_NUL = b"\\u0000"
"""How JSON writes it; as it is, it cannot stand in JSON."""
_FINER = re.compile(rb":\d\d\.\d{7}")
"""A time finer than microseconds, which would be rounded here; the models cut it off."""


class Reader:
    """Reads JSON as a type of plain structures."""

    def __init__(self, type_: Any) -> None:
        self._decoder = msgspec.json.Decoder(type_)

    def read(self, body: bytes) -> Any:
        """The structures; None for what is not plain."""
        if _NUL in body or _FINER.search(body):
            return None
        try:
            return self._decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None


def _utc(time: datetime | None) -> None:
    if time is not None and time.tzinfo is not UTC:
        raise ValueError("must be in UTC")
