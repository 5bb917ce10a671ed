"""SQL of the caller's own, and its answer."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, StrictBool, StrictFloat, StrictInt, StrictStr

from app.schemas.common import Answer, Request, Whole, plain_text

MAX_ROWS = 10_000

_Text = Annotated[StrictStr, Field(max_length=20_000), AfterValidator(plain_text)]
_Whole = Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)]
_Scalar = StrictBool | _Whole | StrictFloat | _Text | None
_Value = _Scalar | Annotated[list[_Scalar], Field(max_length=1000)]


class SqlQuery(Request):
    """One SELECT, and the values of its parameters."""

    sql: str = Field(
        description="One SELECT, or WITH … SELECT, on the eight tables.",
        examples=["SELECT model_name, count(*) AS runs FROM test_runs WHERE status = :status GROUP BY 1"],
    )
    params: Annotated[list[_Value], Field(max_length=100)] | dict[str, _Value] = Field(
        default_factory=list,
        description="An array for `?` in the statement, an object for `:name`. They are bound, never pasted.",
        examples=[{"status": "completed"}],
    )
    limit: Whole = Field(1000, ge=1, le=MAX_ROWS, description="Most rows that are answered.")


class SqlColumn(Answer):
    name: str
    type: str = Field(
        description="`text`, `integer`, `number`, `boolean`, `timestamp`, `date`, `time`, `interval` "
        "(seconds) or `json`, with `[]` behind it for a list."
    )


class SqlAnswer(Answer):
    """Rows, each an array in the order of the columns."""

    columns: list[SqlColumn]
    rows: list[list[Any]]
    truncated: bool = Field(description="Whether there were more rows than the limit.")
    elapsed_ms: float
