"""Search: every word must occur somewhere in a run."""

from __future__ import annotations

from sqlalchemy import ColumnElement, exists, func, or_
from sqlalchemy.orm import Session

from app.db.functions import contains_text, joined_lines
from app.models import TestRun, TestRunTag
from app.schemas.runs import RunFilters, RunQuery, RunSummary, SearchRequest
from app.services.paging import Page
from app.services.runs import list_runs


def search_runs(
    session: Session, request: SearchRequest, *, cursor: str | None = None, count: bool = False
) -> Page[RunSummary]:
    """One page of the runs in which every word occurs, without regard to case, newest first."""
    filters = {name: getattr(request, name) for name in RunFilters.model_fields}
    query = RunQuery.model_construct(**filters, limit=request.limit, cursor=cursor, count=count)
    return list_runs(session, query, *(_occurs(word) for word in request.query.split()))


def _occurs(word: str) -> ColumnElement[bool]:
    of_run = joined_lines(
        TestRun.run_id,
        TestRun.model_name,
        func.array_to_string(TestRun.hardware, "\n"),
        TestRun.test_type,
        TestRun.status,
        TestRun.current_step,
        TestRun.error,
        TestRun.creator,
    )
    of_tag = joined_lines(TestRunTag.tag_name, TestRunTag.tag_value)
    return or_(
        contains_text(of_run, word),
        exists().where(TestRunTag.run_id == TestRun.run_id, contains_text(of_tag, word)),
    )
