"""Search: every word must occur somewhere in a run."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, exists, func, or_, select
from sqlalchemy.orm import Session

from app.db.functions import Expression, contains_text, joined_lines
from app.models import TestRun, TestRunTag
from app.schemas.runs import RunFilters, RunQuery, RunSummary, SearchRequest
from app.services.paging import Page
from app.services.runs import list_runs

FEW_WORDS = 5
"""Up to this many words are looked up one by one, which is faster; DuckDB plans hundreds for minutes."""

_COLUMNS: tuple[Expression, ...] = (
    TestRun.run_id,
    TestRun.model_name,
    func.array_to_string(TestRun.hardware, "\n"),
    TestRun.test_type,
    TestRun.status,
    TestRun.current_step,
    TestRun.error,
    TestRun.creator,
)


def search_runs(
    session: Session, request: SearchRequest, *, cursor: str | None = None, count: bool = False
) -> Page[RunSummary]:
    """One page of the runs in which every word occurs, without regard to case, newest first."""
    filters = {name: getattr(request, name) for name in RunFilters.model_fields}
    query = RunQuery.model_construct(**filters, limit=request.limit, cursor=cursor, count=count)
    words = list(dict.fromkeys(request.query.split()))
    found = [_occurs(word) for word in words] if len(words) <= FEW_WORDS else [_all_occur(words)]
    return list_runs(session, query, *found)


def _occurs(word: str) -> ColumnElement[bool]:
    of_tag = joined_lines(TestRunTag.tag_name, TestRunTag.tag_value)
    return or_(
        contains_text(joined_lines(*_COLUMNS), word),
        exists().where(TestRunTag.run_id == TestRun.run_id, contains_text(of_tag, word)),
    )


def _all_occur(words: Sequence[str]) -> ColumnElement[bool]:
    """The run's whole text is put together once, and each word looked up in it."""
    # The aggregate gives one row, also for a run without tags. A subquery without any table could not be sent
    # to shards: its functions would have to be immutable, which `concat_ws` is not.
    of_tags = func.string_agg(joined_lines(TestRunTag.tag_name, TestRunTag.tag_value), "\n")
    run = (
        select(joined_lines(*_COLUMNS, of_tags).label("text"))
        .where(TestRunTag.run_id == TestRun.run_id)
        .correlate(TestRun)
        .subquery()
    )
    return exists().where(*(contains_text(run.c.text, word) for word in words))
