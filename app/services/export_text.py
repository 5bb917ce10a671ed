"""What the export file says of runs: texts that the engine writes, one for each run and table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Integer,
    Select,
    String,
    Text,
    bindparam,
    cast,
    func,
    select,
)
from sqlalchemy.orm import Session

from app.db.bulk import among
from app.db.functions import finite, mean
from app.db.json_text import json_list, json_member, json_members, json_object, json_value, latest, place
from app.models import (
    Base,
    BatchTestRun,
    TestRun,
    TestRunArtifact,
    TestRunBatch,
    TestRunMetric,
    TestRunResult,
    TestRunStep,
    TestRunTag,
)

RUNS = 4000
"""Runs whose texts are held at a time, if they are not too long together."""
HELD = 32_000_000
"""Characters, about, of the runs whose texts are held at a time; a single run may have more."""
POINTS = 20_000
"""Points at a time of the series of such a run."""


@dataclass(frozen=True)
class Table:
    """A table of runs, and how long the text of a row is: so many characters and a column of any length."""

    model: type[Base]
    characters: int
    long: Any = None

    @property
    def run_id(self) -> Any:
        return self.model.__table__.c.run_id

    @property
    def length(self) -> ColumnElement[int]:
        if self.long is None:
            return func.count() * self.characters
        return func.count() * self.characters + func.coalesce(func.sum(func.length(cast(self.long, Text))), 0)


TABLES = (
    RUN := Table(TestRun, 600, TestRun.error),
    RESULT := Table(TestRunResult, 100, TestRunResult.result_data),
    STEP := Table(TestRunStep, 200, TestRunStep.error),
    METRIC := Table(TestRunMetric, 150),
    TAG := Table(TestRunTag, 50),
    ARTIFACT := Table(TestRunArtifact, 200, TestRunArtifact.description),
    MEMBERSHIP := Table(TestRunBatch, 100),
)


class Part:
    """Runs whose texts are held at a time, how many characters these have, and where the rows are."""

    def __init__(self, run_ids: Sequence[str]) -> None:
        self.run_ids = run_ids
        self.length = 0
        self._places: dict[Table, tuple[int, int]] = {}

    @property
    def too_long(self) -> bool:
        return self.length > HELD

    def add(self, table: Table, length: int, first: int, last: int) -> None:
        self.length += length
        self._places[table] = first, last

    def conditions(self, table: Table) -> list[ColumnElement[bool]]:
        """What holds for the rows of these runs alone, most of the others being passed over unread."""
        first, last = self._places.get(table, (0, 0))
        return [among(table.run_id, self.run_ids), place(table.run_id).between(first, last)]


def parts(session: Session, run_ids: Sequence[str], size: int = RUNS) -> Iterator[Part]:
    """The runs, in their order, so many at a time that their texts can be held; at most `size`."""
    found = [Part(run_ids[start : start + size]) for start in range(0, len(run_ids), size)]
    numbers = [number for number, part in enumerate(found) for _ in part.run_ids]
    runs = select(
        func.unnest(bindparam(None, list(run_ids), ARRAY(String))).label("run_id"),
        func.unnest(bindparam(None, numbers, ARRAY(Integer))).label("number"),
    ).subquery()
    for table in TABLES:
        at = place(table.run_id)
        measured = select(runs.c.number, table.length, func.min(at), func.max(at)).join_from(
            table.model, runs, runs.c.run_id == table.run_id
        )
        for number, length, first, last in session.execute(measured.group_by(runs.c.number)):
            found[number].add(table, int(length), first, last)
    for part in found:
        if part.too_long and len(part.run_ids) > 1:
            yield from parts(session, part.run_ids, max(1, len(part.run_ids) * HELD // (2 * part.length)))
        else:
            yield part


Texts = dict[str, str]
"""By the run's id. A run without rows in the table has none."""


def run_texts(session: Session, part: Part) -> Texts:
    """The members of the run that are columns of its row."""
    columns = {column.key: json_value(column) for column in TestRun.__table__.columns}
    return _texts(session, select(RUN.run_id, json_members(**columns)).where(*part.conditions(RUN)))


def result_texts(session: Session, part: Part) -> Texts:
    """The stored result object, its counts as they are counted."""
    result = TestRunResult.__table__.c
    counts = [result.tests_passed, result.tests_failed, result.tests_skipped]
    agreed = [
        func.coalesce(cast(result.result_data[column.key], Text), "") == cast(column, Text)
        for column in counts
    ]
    statement = select(RESULT.run_id, cast(result.result_data, Text), *counts, *agreed)
    found = {}
    for run_id, text, passed, failed, skipped, *same in session.execute(
        statement.where(*part.conditions(RESULT))
    ):
        if not all(same):
            stored = json.loads(text)
            stored |= {"tests_passed": passed, "tests_failed": failed, "tests_skipped": skipped}
            text = json.dumps(stored)
        found[run_id] = text
    return found


def step_texts(session: Session, part: Part) -> Texts:
    """The steps, by their start."""
    step = TestRunStep.__table__.c
    item = _object(step, "step_name status progress started_at completed_at duration error")
    return _texts(session, _listed(STEP, item, step.started_at, step.step_name).where(*part.conditions(STEP)))


def tag_texts(session: Session, part: Part) -> Texts:
    tag = TestRunTag.__table__.c
    item = json_member(tag.tag_name, json_value(tag.tag_value))
    return _texts(session, _listed(TAG, item, tag.tag_name).where(*part.conditions(TAG)))


def artifact_texts(session: Session, part: Part) -> Texts:
    """The artifacts, by the time they were added."""
    artifact = TestRunArtifact.__table__.c
    item = _object(artifact, "artifact_type artifact_path description created_at")
    listed = _listed(ARTIFACT, item, artifact.created_at, artifact.artifact_path)
    return _texts(session, listed.where(*part.conditions(ARTIFACT)))


def batch_texts(session: Session, part: Part) -> Texts:
    """The ids of the batches, the newest first; what refers to no batch is not shown."""
    batch = BatchTestRun.__table__.c
    item = json_value(TestRunBatch.__table__.c.batch_id)
    listed = _listed(MEMBERSHIP, item, batch.started_at.desc(), batch.batch_id)
    joined = listed.join(BatchTestRun, batch.batch_id == TestRunBatch.__table__.c.batch_id)
    return _texts(session, joined.where(*part.conditions(MEMBERSHIP)))


def summary_texts(session: Session, part: Part) -> Texts:
    """For each metric by name the latest point and figures over the finite values."""
    point = TestRunMetric.__table__.c
    value = finite(point.metric_value)
    newest = (point.timestamp, point.id)
    summary = json_object(
        value=json_value(latest(point.metric_value, *newest)),
        unit=json_value(latest(point.metric_unit, *newest)),
        timestamp=json_value(func.max(point.timestamp)),
        count=json_value(func.count(value)),
        min=json_value(func.min(value)),
        max=json_value(func.max(value)),
        avg=json_value(mean(value)),
    )
    summaries = (
        select(point.run_id, point.metric_name, json_member(point.metric_name, summary).label("text"))
        .where(*part.conditions(METRIC))
        .group_by(point.run_id, point.metric_name)
        .subquery()
        .c
    )
    texts = select(summaries.run_id, json_list(summaries.text, summaries.metric_name))
    return _texts(session, texts.group_by(summaries.run_id))


def series_texts(session: Session, part: Part) -> Texts:
    """The points in the order they were recorded."""
    point = TestRunMetric.__table__.c
    return _texts(session, _listed(METRIC, _point(point), point.id).where(*part.conditions(METRIC)))


def series_in_pieces(session: Session, part: Part) -> Iterator[str]:
    """The same for one run, however many points it has."""
    point = TestRunMetric.__table__.c
    last: int | None = -1 << 63
    while True:
        points = select(*point).where(*part.conditions(METRIC), point.id > last).order_by(point.id)
        few = points.limit(POINTS).subquery().c
        text, last = session.execute(select(json_list(_point(few), few.id), func.max(few.id))).one()
        if last is None:
            return
        yield text


def _point(point: Any) -> ColumnElement[str]:
    return json_object(
        metric_name=json_value(point.metric_name),
        value=json_value(point.metric_value),
        unit=json_value(point.metric_unit),
        timestamp=json_value(point.timestamp),
    )


def _object(columns: Any, names: str) -> ColumnElement[str]:
    return json_object(**{name: json_value(columns[name]) for name in names.split()})


def _listed(table: Table, item: ColumnElement[str], *order: Any) -> Select[Any]:
    return select(table.run_id, json_list(item, *order)).group_by(table.run_id)


def _texts(session: Session, statement: Select[Any]) -> Texts:
    return dict(session.execute(statement).all())
