"""What the export file says of runs: texts that the engine writes, one for each run and member."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Integer,
    Select,
    String,
    Text,
    and_,
    bindparam,
    case,
    cast,
    func,
    literal_column,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.orm import Session

from app.db.functions import finite, latest, mean
from app.db.json_text import json_list, json_member, json_members, json_object, json_value, place
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

FEW = 250
"""Runs that are measured together."""
HELD = 8_000_000
"""Characters, about, of the runs whose texts are held at a time; a single run may have more."""
ROWS = 20_000
"""Steps or points at a time of such a run."""


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
    def name(self) -> str:
        return str(self.model.__tablename__)

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


@dataclass
class Part:
    """Runs whose texts are held at a time, how many characters these have, and where the rows are."""

    run_ids: list[str]
    length: int = 0
    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By the table, the first and the last place of its rows."""

    @property
    def too_long(self) -> bool:
        return self.length > HELD

    def add(self, table: str, length: int, first: int, last: int) -> None:
        self.length += length
        known = self.places.get(table, (first, last))
        self.places[table] = min(known[0], first), max(known[1], last)

    def join(self, other: Part) -> None:
        self.run_ids += other.run_ids
        self.length += other.length
        for table, place_ in other.places.items():
            self.add(table, 0, *place_)

    def values(self) -> dict[str, Any]:
        """The parameters of `_of_part` for all tables."""
        found: dict[str, Any] = {"run_ids": self.run_ids}
        for table in TABLES:
            first, last = self.places.get(table.name, (0, 0))
            found |= {f"{table.name}_first": first, f"{table.name}_last": last}
        return found


def parts(session: Session, run_ids: Sequence[str], size: int = FEW) -> Iterator[Part]:
    """The runs, in their order, as many at a time as can be held; `size` of them are measured together."""
    held = Part([])
    for part in _measured(session, run_ids, size):
        if held.run_ids and held.length + part.length > HELD:
            yield held
            held = Part([])
        if part.too_long and len(part.run_ids) > 1:
            yield from parts(session, part.run_ids, max(1, len(part.run_ids) * HELD // (2 * part.length)))
        else:
            held.join(part)
    if held.run_ids:
        yield held


def _measured(session: Session, run_ids: Sequence[str], size: int) -> list[Part]:
    found = [Part(list(run_ids[start : start + size])) for start in range(0, len(run_ids), size)]
    numbers = [number for number, part in enumerate(found) for _ in part.run_ids]
    for table, statement in _MEASURING.items():
        for number, *measures in session.execute(statement, {"run_ids": list(run_ids), "numbers": numbers}):
            found[number].add(table.name, *map(int, measures))
    return found


def _measuring(table: Table) -> Select[Any]:
    at = place(table.run_id)
    return (
        select(_NUMBERED.c.number, table.length, func.min(at), func.max(at))
        .join_from(_NUMBERED, table.model, _NUMBERED.c.run_id == table.run_id)
        .group_by(_NUMBERED.c.number)
    )


_RUN_IDS = func.unnest(bindparam("run_ids", type_=ARRAY(String))).label("run_id")
_NUMBERED = select(
    _RUN_IDS, func.unnest(bindparam("numbers", type_=ARRAY(Integer))).label("number")
).subquery()
_MEASURING = {table: _measuring(table) for table in TABLES}
_PART = select(_RUN_IDS).cte("part")


def _of_part(table: Table) -> Any:
    """What holds for the rows of a part's runs alone; most others are passed over unread."""
    where = place(table.run_id).between(bindparam(f"{table.name}_first"), bindparam(f"{table.name}_last"))
    return table.run_id.in_(select(_PART.c.run_id)) & where


def _columns() -> Select[Any]:
    """The members that are columns of the run."""
    columns = {column.key: json_value(column) for column in TestRun.__table__.columns}
    return select(RUN.run_id, json_members(**columns)).where(_of_part(RUN))


def _results() -> Select[Any]:
    """The stored result object, with the counts where it does not have them."""
    result = TestRunResult.__table__.c
    stored = cast(result.result_data, Text)
    counts = {name: result[name] for name in ("tests_passed", "tests_failed", "tests_skipped")}
    agreed = [
        func.coalesce(cast(result.result_data[name], Text), "") == cast(count, Text)
        for name, count in counts.items()
    ]
    counted = json_object(**{name: json_value(count) for name, count in counts.items()})
    both = func.concat("[", stored, ",", counted, "]")
    # PostgreSQL looks up no member of an object that has a NUL in it.
    text = case((func.strpos(stored, "\\u0000") > 0, both), (and_(*agreed), stored), else_=both)
    return select(RESULT.run_id, text).where(_of_part(RESULT))


def _steps() -> Select[Any]:
    step = TestRunStep.__table__.c
    return _listed(STEP, _step(step), step.started_at, step.step_name)


def _tags() -> Select[Any]:
    tag = TestRunTag.__table__.c
    return _listed(TAG, json_member(tag.tag_name, json_value(tag.tag_value)), tag.tag_name)


def _artifacts() -> Select[Any]:
    artifact = TestRunArtifact.__table__.c
    item = _object(artifact, "artifact_type artifact_path description created_at")
    return _listed(ARTIFACT, item, artifact.created_at, artifact.artifact_path)


def _batch_ids() -> Select[Any]:
    """The newest first; what refers to no batch is not shown."""
    batch, membership = BatchTestRun.__table__.c, TestRunBatch.__table__.c
    item = json_value(membership.batch_id)
    listed = _listed(MEMBERSHIP, item, batch.started_at.desc(), batch.batch_id)
    return listed.join(BatchTestRun, batch.batch_id == membership.batch_id)


def _summaries() -> Select[Any]:
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
        avg=json_value(mean(value, *(key.desc() for key in newest))),
    )
    summaries = (
        select(point.run_id, point.metric_name, json_member(point.metric_name, summary).label("text"))
        .where(_of_part(METRIC))
        .group_by(point.run_id, point.metric_name)
        .subquery()
        .c
    )
    texts = select(summaries.run_id, json_list(summaries.text, summaries.metric_name))
    return texts.group_by(summaries.run_id)


def _series() -> Select[Any]:
    """The points in the order they were recorded."""
    point = TestRunMetric.__table__.c
    return _listed(METRIC, _point(point), point.id)


def _piece(table: Table, item: Callable[[Any], ColumnElement[str]], first: Any, second: Any) -> Any:
    """Of one run, the rows behind one of them, and the two keys of the last of these."""
    keys = tuple_(bindparam("first", type_=first.type), bindparam("second", type_=second.type))
    behind = select(*table.model.__table__.c).where(_of_part(table), tuple_(first, second) > keys)
    few = behind.order_by(first, second).limit(bindparam("rows")).subquery().c
    first, second = few[first.key], few[second.key]
    return select(json_list(item(few), first, second), func.max(first), latest(second, first, second))


def _point(point: Any) -> ColumnElement[str]:
    return json_object(
        metric_name=json_value(point.metric_name),
        value=json_value(point.metric_value),
        unit=json_value(point.metric_unit),
        timestamp=json_value(point.timestamp),
    )


def _step(step: Any) -> ColumnElement[str]:
    return _object(step, "step_name status progress started_at completed_at duration error")


def _object(columns: Any, names: str) -> ColumnElement[str]:
    return json_object(**{name: json_value(columns[name]) for name in names.split()})


def _listed(table: Table, item: ColumnElement[str], *order: Any) -> Select[Any]:
    return select(table.run_id, json_list(item, *order)).where(_of_part(table)).group_by(table.run_id)


STEPS, SERIES = "steps", "metric_series"
MEMBERS = {
    "columns": _columns(),
    "results": _results(),
    STEPS: _steps(),
    "metrics": _summaries(),
    "tags": _tags(),
    "artifacts": _artifacts(),
    "batch_ids": _batch_ids(),
    SERIES: _series(),
}
"""The statement of each: the run's id, and the inside of the list or object; a run may have none."""

_PIECES = {
    STEPS: (
        _piece(STEP, _step, TestRunStep.__table__.c.started_at, TestRunStep.__table__.c.step_name),
        (datetime.min, ""),
    ),
    SERIES: (
        _piece(METRIC, _point, TestRunMetric.__table__.c.id, TestRunMetric.__table__.c.metric_name),
        (-1 << 63, ""),
    ),
}
"""The statement of each member that comes in pieces, and two keys before those of any row."""


@lru_cache
def _whole(members: tuple[str, ...]) -> Select[Any]:
    """For each run of a part the insides of members; those between the results and the steps are one text.

    The members are parts of one statement, so the engine may work on several at the same time.
    """
    found = union_all(
        *(MEMBERS[name].add_columns(literal_column(f"'{name}'", Text).label("member")) for name in members)
    ).subquery()
    run_id, text, member = found.c

    def inside(name: str) -> ColumnElement[str]:
        return func.coalesce(func.max(case((member == literal_column(f"'{name}'"), text))), "")

    batch_ids = inside("batch_ids")
    newest = func.coalesce(func.nullif(func.split_part(batch_ids, ",", 1), ""), "null")
    between = func.concat(
        '"metrics":{', inside("metrics"), '},"tags":{', inside("tags"),
        '},"artifacts":[', inside("artifacts"), '],"batch_id":', newest, ',"batch_ids":[', batch_ids, "]",
    )  # fmt: skip
    texts = (inside("columns"), inside("results"), between, inside(STEPS), inside(SERIES))
    return select(run_id, *texts).group_by(run_id)


def run_texts(session: Session, part: Part, members: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """The runs of the part: all but the last two members, and the insides of these, the steps and series."""
    rows = session.execute(_whole(tuple(members)), part.values())
    texts = {run_id: text for run_id, *text in rows}
    for run_id in part.run_ids:
        columns, results, between, steps, series = texts.pop(run_id)
        if results.startswith("["):  # the counts are others than those of the object, and win
            stored, counted = json.loads(results)
            results = json.dumps(stored | counted)
        yield f'{columns},"results":{results or "null"},{between}', steps, series


def in_pieces(session: Session, part: Part, member: str) -> Iterator[str]:
    """The inside of a long list of the part's only run."""
    statement, (first, second) = _PIECES[member]
    comma = ""
    while True:
        key = {"first": first, "second": second, "rows": ROWS}
        text, first, second = session.execute(statement, part.values() | key).one()
        if text is None:
            return
        yield comma + text
        comma = ","
