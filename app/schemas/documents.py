"""What clients send: whole runs (RunDocument), their parts, and updates."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    ValidationInfo,
    field_validator,
    model_validator,
)

from app.schemas.common import (
    MAX_ITEMS,
    MAX_KEY_BYTES,
    MAX_NAME,
    Count,
    Fraction,
    Hardware,
    Id,
    JsonObject,
    Name,
    Number,
    Request,
    Seconds,
    StepName,
    StepText,
    Tags,
    Text,
    Time,
)
from app.vocabulary import OUTCOMES, SERVER, TERMINAL, BatchStatus, RunStatus, StepStatus


def _run_status(value: Any) -> Any:
    return RunStatus.ERROR if value == "failed" else value


def check_results(results: dict[str, Any]) -> dict[str, Any]:
    """Refuses counts and test details that could not be counted."""
    for name in ("tests_passed", "tests_failed", "tests_skipped"):
        count = results.get(name, 0)
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count < 2**31:
            raise ValueError(f"{name} must be a whole number from 0 to {2**31 - 1}")
    details = results.get("test_details")
    if details is not None and not isinstance(details, list):
        raise ValueError("test_details must be a list of objects")
    for index, detail in enumerate(details or ()):
        status = detail.get("status") if isinstance(detail, dict) else None
        if not isinstance(status, str) or status.lower() not in OUTCOMES:
            raise ValueError(
                f"test_details[{index}].status must be one of passed, failed, skipped, error, not {status!r}"
            )
    return results


RESERVED = f"must not be {SERVER!r} while the run is live: POST /api/test/run starts one on the server"


def check_creator(creator: str | None, status: RunStatus) -> None:
    """Refuses a run that servers would take for one of their own."""
    if creator == SERVER and status not in TERMINAL:
        raise ValueError(RESERVED)


RunStatusIn = Annotated[RunStatus, BeforeValidator(_run_status)]
Results = Annotated[JsonObject, AfterValidator(check_results)]


class StepDocument(Request):
    """A phase or a test case. Without `started_at` it follows the step before it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"step_name": "test_inference[cpu]", "status": "passed", "duration": 0.2}]
        }
    )

    step_name: StepName = Field(validation_alias=AliasChoices("step_name", "name"))
    status: StepStatus | None = None
    progress: Fraction | None = None
    started_at: Time | None = None
    completed_at: Time | None = None
    duration: Seconds | None = Field(None, description="Seconds.")
    error: Text | None = None


class MetricDocument(Request):
    """One value of a series."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "metric_name": "cuda.latency",
                    "value": 4.2,
                    "unit": "ms",
                    "timestamp": "2026-01-31T12:00:00Z",
                }
            ]
        }
    )

    metric_name: Name = Field(validation_alias=AliasChoices("metric_name", "name"))
    value: Number = Field(validation_alias=AliasChoices("value", "metric_value"))
    unit: Text | None = Field(None, validation_alias=AliasChoices("unit", "metric_unit"))
    timestamp: Time | None = None


class ArtifactDocument(Request):
    """A file that a run left. The path is recorded, not read."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"artifact_path": "results/run.json", "artifact_type": "result"}]}
    )

    artifact_path: StepName = Field(validation_alias=AliasChoices("artifact_path", "path"))
    artifact_type: Name = Field("file", validation_alias=AliasChoices("artifact_type", "type"))
    description: Text | None = None
    created_at: Time | None = None


def _metrics_as_list(value: Any) -> Any:
    """`{name: number}` and `{name: {value, unit, timestamp}}` are short for a list."""
    if not isinstance(value, dict):
        return value
    return [
        {"metric_name": name, **item} if isinstance(item, dict) else {"metric_name": name, "value": item}
        for name, item in value.items()
    ]


def stand_once(names: list[str]) -> None:
    """Raises ValueError for a name that stands twice."""
    if len(set(names)) == len(names):
        return
    repeated = next((name for name, count in Counter(names).items() if count > 1), None)
    if repeated is not None:
        raise ValueError(f"{repeated!r} stands twice; each must have a name of its own")


def _names_stand_once(steps: list[StepDocument]) -> list[StepDocument]:
    stand_once([step.step_name for step in steps])
    return steps


def _paths_stand_once(artifacts: list[ArtifactDocument]) -> list[ArtifactDocument]:
    stand_once([artifact.artifact_path for artifact in artifacts])
    return artifacts


Steps = Annotated[list[StepDocument], AfterValidator(_names_stand_once)]
Artifacts = Annotated[list[ArtifactDocument], AfterValidator(_paths_stand_once)]


class RunDocument(Request):
    """A whole run: any of its columns and parts."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model_name": "bert-base-uncased",
                    "hardware": ["cpu", "cuda"],
                    "test_type": "basic",
                    "status": "completed",
                    "started_at": "2026-01-31T12:00:00Z",
                    "duration": 12.5,
                    "tags": {"branch": "main"},
                    "results": {"tests_passed": 2, "tests_failed": 1, "tests_skipped": 0},
                    "steps": [{"step_name": "test_inference[cpu]", "status": "passed", "duration": 0.2}],
                    "metrics": [{"metric_name": "cuda.latency", "value": 4.2, "unit": "ms"}],
                }
            ]
        }
    )

    run_id: Id | None = None
    model_name: Name
    hardware: Hardware = Field(default_factory=list)
    test_type: Name = "basic"
    timeout: Seconds | None = Field(None, description="Seconds.")
    save_results: StrictBool = True
    status: RunStatusIn = RunStatus.INITIALIZING
    progress: Fraction | None = None
    current_step: StepText | None = None
    started_at: Time | None = None
    completed_at: Time | None = None
    duration: Seconds | None = Field(None, description="Seconds.")
    error: Text | None = None
    result_file: Text | None = None
    creator: Text | None = None
    tags: Tags = Field(default_factory=dict)
    batch_id: Id | None = Field(None, description="A batch to add the run to; made when it does not exist.")
    results: Results | None = None
    steps: Steps = Field(default_factory=list, max_length=MAX_ITEMS)
    metrics: Annotated[list[MetricDocument], BeforeValidator(_metrics_as_list)] = Field(
        default_factory=list, max_length=MAX_ITEMS
    )
    artifacts: Artifacts = Field(default_factory=list, max_length=MAX_ITEMS)

    @field_validator("creator")
    @classmethod
    def _no_server(cls, creator: str | None, info: ValidationInfo) -> str | None:
        check_creator(creator, info.data.get("status", RunStatus.ERROR))
        return creator


def _latest_points(value: Any) -> Any:
    """The summaries of an export that lacks the series: each stands for its latest point."""
    if not isinstance(value, dict):
        return value
    return _metrics_as_list(
        {
            name: {key: item[key] for key in ("value", "unit", "timestamp") if key in item}
            if isinstance(item, dict)
            else item
            for name, item in value.items()
        }
    )


class RunRecord(RunDocument):
    """A run as an export holds it: RunDetail and the whole series of its metrics.

    It may have more parts than a request, as many requests may have brought them.
    """

    created_at: Time | None = None
    batch_ids: list[Id] | None = None
    steps: Steps = Field(default_factory=list)
    artifacts: Artifacts = Field(default_factory=list)
    metrics: Annotated[list[MetricDocument], BeforeValidator(_latest_points)] = Field(
        default_factory=list, validation_alias=AliasChoices("metric_series", "metrics")
    )

    @field_validator("creator")
    @classmethod
    def _no_server(cls, creator: str | None, info: ValidationInfo) -> str | None:
        """Taken as it is: the import ends what the exporting server had not."""
        return creator

    @model_validator(mode="before")
    @classmethod
    def _series_over_summary(cls, data: Any) -> Any:
        """An export holds each series whole beside its summary."""
        if not isinstance(data, dict):
            return data
        unused = "metrics" if data.get("metric_series") is not None else "metric_series"
        return {key: value for key, value in data.items() if key != unused}


class BatchRecord(Request):
    """A batch as an export holds it; of what is derived from its runs, only their number is read."""

    model_config = ConfigDict(extra="ignore")

    batch_id: Id
    description: Text | None = None
    run_count: Count = 0
    actual_run_count: Count | None = None
    started_at: Time | None = None
    completed_at: Time | None = None
    duration: Seconds | None = None
    status: BatchStatus = BatchStatus.INITIALIZING
    creator: Text | None = None
    created_at: Time | None = None


class RunPatch(Request):
    """A live update."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"status": "running", "progress": 0.25, "current_step": "Loading the model"}],
            "minProperties": 1,
        }
    )

    status: RunStatusIn | None = None
    progress: Fraction | None = None
    current_step: StepName | None = None
    error: Text | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("give at least one of status, progress, current_step, error")
        return self


def _names_fit(metrics: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Each is stored as `hardware.name`, which must be the name of a metric."""
    for hardware, values in metrics.items():
        for metric in values:
            name = f"{hardware}.{metric}"
            if len(name) > MAX_NAME or len(name.encode()) > MAX_KEY_BYTES:
                raise ValueError(
                    f"{name[:40]!r}… is too long: platform and name have at most {MAX_NAME} characters "
                    f"and {MAX_KEY_BYTES} bytes together"
                )
    return metrics


class Completion(Request):
    """How a run ended well. Counts, `test_details` and `performance_metrics` may also stand in `results`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "results": {
                        "test_details": [
                            {"method": "test_load", "status": "passed", "duration_ms": 120.0},
                            {"method": "test_batch", "status": "failed", "error": "shape mismatch"},
                        ]
                    },
                    "performance_metrics": {"cuda": {"latency": 4.2, "memory": 512.0}},
                    "result_file": "results/run.json",
                }
            ]
        }
    )

    results: Results | None = None
    tests_passed: Count | None = None
    tests_failed: Count | None = None
    tests_skipped: Count | None = None
    test_details: list[JsonObject] | None = Field(None, max_length=MAX_ITEMS)
    performance_metrics: Annotated[dict[Name, dict[Name, Number]], AfterValidator(_names_fit)] | None = None
    result_file: StepName | None = None

    @model_validator(mode="before")
    @classmethod
    def _metrics_of_results(cls, data: Any) -> Any:
        """`results.performance_metrics` is checked as the field of its own that it stands for."""
        if isinstance(data, dict) and isinstance(data.get("results"), dict):
            inner = data["results"].get("performance_metrics")
            if inner is not None and data.get("performance_metrics") is None:
                return {**data, "performance_metrics": inner}
        return data

    @model_validator(mode="after")
    def _one_result_object(self) -> Self:
        parts = {
            name: value
            for name in ("tests_passed", "tests_failed", "tests_skipped", "test_details")
            if (value := getattr(self, name)) is not None
        }
        if parts:
            self.results = check_results({**(self.results or {}), **parts})
        return self


class Ending(Request):
    """Why a run ended without completing."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"error": "out of memory"}]})

    error: Text | None = None


class BatchDocument(Request):
    """A new batch."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"description": "nightly", "run_ids": []}]})

    batch_id: Id | None = None
    description: Text | None = None
    creator: Text | None = None
    run_ids: list[Id] = Field(default_factory=list, max_length=MAX_ITEMS)


class BatchRuns(Request):
    """Runs to add to a batch."""

    run_ids: list[Id] = Field(min_length=1, max_length=MAX_ITEMS)
