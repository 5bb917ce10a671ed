"""The Test API: what can be run here, starting runs, and their live status."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StrictBool

from app.schemas.common import Answer, AnyFloat, Hardware, Id, Name, Request, TagName, TagValue, Text, number
from app.schemas.documents import RunStatusIn

MAX_TIMEOUT = 86_400
DEFAULT_TIMEOUT = 300.0


def _some_platform(hardware: list[str]) -> list[str]:
    if not hardware:
        raise ValueError("must name a platform; GET /api/test/hardware lists what is available")
    return hardware


TimeLimit = Annotated[float, Field(ge=1, le=MAX_TIMEOUT), BeforeValidator(number)]


class _Selection(Request):
    hardware: Annotated[Hardware, AfterValidator(_some_platform)] = Field(default_factory=lambda: ["cpu"])
    test_type: Name = "basic"
    timeout: TimeLimit | None = Field(
        DEFAULT_TIMEOUT, description="Seconds the run may take; null: no limit."
    )
    save_results: StrictBool = Field(True, description="Whether a result file is written.")
    tags: dict[TagName, TagValue] = Field(default_factory=dict)


class LaunchRequest(_Selection):
    """A run to start."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model_name": "tiny-mlp", "hardware": ["cpu"], "test_type": "basic"}]
        }
    )

    model_name: Name
    batch_id: Id | None = Field(None, description="A batch to put the run in; made when it does not exist.")


class BatchLaunchRequest(_Selection):
    """A batch to start: one run a model."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"description": "nightly", "models": ["tiny-mlp", "tiny-cnn"]}]}
    )

    description: Text | None = None
    models: list[Name] = Field(min_length=1, max_length=1000)


class Launched(Answer):
    run_id: str
    status: str
    message: str
    started_at: datetime


class BatchLaunched(Answer):
    batch_id: str
    run_ids: list[str]


class LiveStatus(Answer):
    """How far a run is. Times are seconds."""

    run_id: str
    status: str
    progress: float
    current_step: str | None
    model_name: str
    hardware: list[str]
    test_type: str
    started_at: datetime
    elapsed_time: AnyFloat = Field(description="Since the start; of an ended run, its duration.")
    estimated_remaining_time: float | None = Field(
        description="What is left at the pace so far; null unless the run is running and has got somewhere."
    )
    error: str | None


class LiveResults(Answer):
    """How a run ended."""

    run_id: str
    status: str
    model_name: str
    hardware: list[str]
    test_type: str
    started_at: datetime
    completed_at: datetime | None
    duration: AnyFloat | None
    results: dict[str, Any] | None
    error: str | None
    result_file: str | None


class RunnableModel(Answer):
    name: str
    type: str
    modality: str


class RunnablePlatform(Answer):
    name: str
    available: bool
    type: str
    description: str = Field(description="What was found, or what is missing.")


class RunnableType(Answer):
    id: str
    name: str
    description: str
    methods: list[str] = Field(description="The tests that it selects.")


class Cancelled(Answer):
    run_id: str
    cancelled: bool = Field(description="Whether this ended the run; all its processes are gone then.")


class LatestQuery(Request):
    """Which runs."""

    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    status: RunStatusIn | None = None
