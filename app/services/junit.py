"""Reads JUnit XML, as the test tools write it, into runs; says in warnings what could not be kept."""

from __future__ import annotations

import re
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO, Literal

from app.errors import Invalid
from app.schemas.common import MAX_ITEMS
from app.schemas.documents import RunDocument
from app.schemas.transfer import ImportOptions, Per
from app.services.junit_suites import (
    Case,
    Properties,
    Suite,
    later,
    read_suites,
    shortened,
    single,
    timestamps,
)
from app.services.junit_text import Warnings, error_text, quoted, read_tree
from app.vocabulary import RunStatus, StepStatus

MAX_NAME = 1000
MAX_HARDWARE_NAME = 200
MAX_INHERITED = 100_000_000

_NAMESPACE = uuid.UUID("5f0c1c39-3b7e-5d0a-9a53-6b1f5e3f1d0c")
_COLUMNS = ("model_name", "model", "hardware", "platform", "test_type", "creator")
"""Properties that are columns of the run, not tags."""


@dataclass
class Parsed:
    runs: list[RunDocument]
    warnings: list[str]


@dataclass
class _Group:
    """What becomes one run."""

    head: Suite
    suites: list[Suite]
    """Those whose cases belong to the run."""
    scope: list[Suite]
    """Those whose properties hold for it, in the order of the file."""
    recorded: list[Suite]
    """Those that its result object lists."""


def parse(stream: BinaryIO, options: ImportOptions, *, digest: str, now: datetime) -> Parsed:
    """The runs of a JUnit XML file. The same bytes (`digest`) with the same options give the same run ids.

    Raises Invalid for what is not well-formed JUnit XML.
    """
    warnings = Warnings()
    suites = read_suites(read_tree(stream, warnings), now, warnings)
    if not any(suite.cases for suite in suites):
        warnings.add("the file has no test case")
    whole = _Group(suites[0], suites, suites, suites)
    groups = list(_each_suite(suites, warnings)) if options.per is Per.SUITE else []
    seed = f"{digest} {options.model_dump_json(exclude_defaults=True)}"
    runs = [
        _run(group, options, str(uuid.uuid5(_NAMESPACE, f"{seed} {index}")), warnings)
        for index, group in enumerate(groups or [whole])
    ]
    return Parsed(runs, warnings.lines())


def _each_suite(suites: list[Suite], warnings: Warnings) -> Iterator[_Group]:
    """A group for each suite with test cases, or with an error of its own, which must not get lost.

    A suite around several of them is recorded with the first: what stands once in the file stays once.
    """
    recorded: set[int] = set()
    sizes: list[int] = []
    inherited = 0
    for suite in suites:
        around = sizes[suite.parent.index] if suite.parent else 0
        own = sum(50 + len(name) + sum(map(len, values)) for name, values in suite.properties.items())
        sizes.append(around + own)
        if suite.cases or suite.problems:
            inherited += around
            if inherited > MAX_INHERITED:
                raise Invalid.of(
                    "body", "must hand fewer properties down to its suites; import the file as one run."
                )
            scope = suite.ancestry
            yield _Group(suite, [suite], scope, [outer for outer in scope if outer.index not in recorded])
            recorded.update(outer.index for outer in scope)
    for suite in suites if recorded else ():
        if suite.index not in recorded:
            warnings.add(f"suite {quoted(suite.path)} has no test case and was left out")


def _run(group: _Group, options: ImportOptions, run_id: str, warnings: Warnings) -> RunDocument:
    pairs = [(suite, case) for suite in group.suites for case in suite.cases]
    if len(pairs) > MAX_ITEMS:
        raise Invalid.of("body", f"must have at most {MAX_ITEMS} test cases in a run, not {len(pairs)}.")
    names = _Names(warnings)
    step_names = [names.give(case.name, suite.path) for suite, case in pairs]
    counts = Counter(case.status for _, case in pairs)
    properties = _merged(group.scope, "properties")
    results: dict[str, Any] = {
        "tests_passed": counts[StepStatus.PASSED],
        "tests_failed": counts[StepStatus.FAILED] + counts[StepStatus.ERROR],
        "tests_skipped": counts[StepStatus.SKIPPED],
        "test_details": [
            {"method": name} | case.detail for name, (_, case) in zip(step_names, pairs, strict=True)
        ],
        "suites": [suite.record for suite in group.recorded if suite.tag == "testsuite"],
        "properties": single(properties),
    }
    results |= {suite.tag: suite.record for suite in group.recorded if suite.tag == "testsuites"}
    started_at = min(timestamps(group.suites), default=group.head.started_at)
    duration = _duration(group)
    problems = [found for suite in group.suites for found in suite.problems]
    return RunDocument.model_validate(
        {
            "run_id": run_id,
            "model_name": _model_name(group, options, warnings),
            "hardware": _hardware(properties, options, warnings),
            "test_type": options.test_type or _column(properties, "test_type", warnings) or "basic",
            "status": RunStatus.ERROR if problems else RunStatus.COMPLETED,
            "progress": 1.0,
            "started_at": started_at,
            "completed_at": _ended(started_at, duration),
            "duration": duration,
            "error": "\n".join(filter(None, map(error_text, problems))) or None,
            "creator": _column(properties, "creator", warnings),
            "tags": _tags(group, properties, options, warnings),
            "batch_id": options.batch_id,
            "results": results,
            "steps": [_step(name, case) for name, (_, case) in zip(step_names, pairs, strict=True)],
        }
    )


def _step(name: str, case: Case) -> dict[str, Any]:
    return {
        "step_name": name,
        "status": case.status,
        "started_at": case.started_at,
        "completed_at": _ended(case.started_at, case.duration),
        "duration": case.duration,
        "error": case.error,
    }


def _ended(started_at: datetime | None, duration: float | None) -> datetime | None:
    return None if started_at is None or duration is None else later(started_at, duration)


def _duration(group: _Group) -> float | None:
    if group.head.time is not None or len(group.suites) > 1:
        whole: float | None = group.head.record["duration"]
        return whole
    times = [case.duration for case in group.head.cases if case.duration is not None]
    return sum(times) if times else None


class _Names:
    """Names the steps of one run, each once, and the same way at the next import."""

    def __init__(self, warnings: Warnings) -> None:
        self._warnings = warnings
        self._taken: set[str] = set()
        self._next: dict[str, int] = {}

    def give(self, name: str, path: str) -> str:
        with_path = f"{path}::{name}" if path else name
        for text in (name, with_path):
            step_name = shortened(text, self._warnings)
            if step_name not in self._taken:
                break
        else:
            step_name = self._numbered(with_path)
            self._warnings.add(f"a suite has several test cases of the same name: {quoted(with_path)}")
        self._taken.add(step_name)
        return step_name

    def _numbered(self, text: str) -> str:
        number = self._next.get(text, 2)
        while (step_name := shortened(text, self._warnings, f" #{number}")) in self._taken:
            number += 1
        self._next[text] = number + 1
        return step_name


def _merged(suites: list[Suite], what: Literal["properties", "hosts"]) -> Properties:
    """The values that hold in these suites: an outer one's only where no inner one has the same property."""
    nearest: dict[str, int] = {}
    found: list[tuple[str, list[str]]] = []
    for suite in reversed(suites):
        for name, values in reversed(getattr(suite, what).items()):
            if not suite.index < nearest.get(name, -1) <= suite.last:
                found.append((name, values))
            nearest[name] = suite.index
    merged: dict[str, dict[str, None]] = {}
    for name, values in reversed(found):
        merged.setdefault(name, {}).update(dict.fromkeys(values))
    return {name: list(values) for name, values in merged.items()}


def _model_name(group: _Group, options: ImportOptions, warnings: Warnings) -> str:
    if options.model_name:
        return options.model_name
    one_suite = options.per is Per.SUITE and len(group.suites) == 1
    by_property = [
        value
        for suite in (reversed(group.scope) if one_suite else group.scope)
        for name in ("model_name", "model")
        for value in suite.properties.get(name, ())
    ]
    outermost = [suite.name for suite in group.scope if suite.outermost]
    around = [suite.name for suite in group.scope[:1] if not suite.outermost]
    by_suite = [*outermost, *around] if len(outermost) == 1 else [*around, *outermost]
    for name in (*by_property, *by_suite):
        if name.strip():
            return _cut(name, "model name", warnings)
    warnings.add("nothing in the file names the model: it is called 'junit'")
    return "junit"


def _cut(text: str, what: str, warnings: Warnings) -> str:
    if len(text) > MAX_NAME:
        warnings.add(f"the {what} {quoted(text)} was cut to {MAX_NAME} characters")
    return text[:MAX_NAME]


def _column(properties: Properties, name: str, warnings: Warnings) -> str | None:
    values = [value for value in properties.get(name, ()) if value.strip()]
    if len(values) > 1:
        warnings.add(f"the property {name!r} has several values: the first is taken")
    return _cut(values[0], name, warnings) if values else None


def _hardware(properties: Properties, options: ImportOptions, warnings: Warnings) -> list[str]:
    if options.hardware is not None:
        return options.hardware
    for name in ("hardware", "platform"):
        values = [part for value in properties.get(name, ()) for part in re.split(r"[,\s]+", value) if part]
        for value in values:
            if len(value) > MAX_HARDWARE_NAME:
                warnings.add(f"the {name} {quoted(value)} is longer than {MAX_HARDWARE_NAME}: left out")
        if fitting := [value for value in values if len(value) <= MAX_HARDWARE_NAME]:
            return fitting
    return []


def _tags(
    group: _Group, properties: Properties, options: ImportOptions, warnings: Warnings
) -> dict[str, str]:
    tags = {}
    for name, values in (_merged(group.scope, "hosts") | properties).items():
        value = ", ".join(values)
        if name in _COLUMNS:
            continue
        if not name:
            warnings.add(f"a property without a name is no tag: its value is {quoted(value)}")
        elif max(len(name), len(value)) > MAX_NAME:
            warnings.add(f"the property {quoted(name)} is longer than {MAX_NAME} characters: it is no tag")
        else:
            tags[name] = value
    return tags | options.tags
