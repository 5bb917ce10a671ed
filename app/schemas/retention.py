"""What goes when it is old, and when that was last seen to."""

from __future__ import annotations

from datetime import datetime

from pydantic import ConfigDict, Field, StrictBool

from app.schemas.common import Answer, Duration, Request
from app.schemas.runs import TagFilter


class PruneRequest(Request):
    """Which runs go: those that ended, started so long ago or earlier, and have none of the tags."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"older_than": "90d", "keep_tags": ["release"], "dry_run": True}]}
    )

    older_than: Duration = Field(description="A whole number and its unit: `90d`, `12h`, `30m` or `45s`.")
    keep_tags: list[TagFilter] = Field(
        default_factory=list, description="`name` or `name=value`; a run with any of them stays."
    )
    dry_run: StrictBool = Field(False, description="Only says what would go.")


class RetentionRun(Answer):
    """One time that a server pruned by itself."""

    at: datetime = Field(description="When it began.")
    runs: int = Field(description="How many runs it deleted.")
    seconds: float
    error: str | None = Field(description="Why it did not get to its end.")


class RetentionState(Answer):
    """What this server prunes by itself, and the last time that it, or another one beside it, did."""

    retention: str | None = Field(description="Age at which runs go; null: never.")
    keep_tags: list[str]
    every: str
    last: RetentionRun | None
