"""The suites and test cases of a JUnit XML file, placed in time and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any
from xml.etree.ElementTree import Element

from app.services.junit_text import (
    ROOTS,
    Warnings,
    error_text,
    joined,
    problem,
    quoted,
    shown,
    take_count,
    take_seconds,
    take_time,
    trimmed,
)
from app.vocabulary import StepStatus

MAX_STEP_NAME = 2000

_COUNTS = {StepStatus.FAILED: "failures", StepStatus.ERROR: "errors", StepStatus.SKIPPED: "skipped"}
_DECLARED = ("tests", *_COUNTS.values())
_PROBLEMS = {"error": StepStatus.ERROR, "failure": StepStatus.FAILED, "skipped": StepStatus.SKIPPED}
_RERUNS = ("flakyFailure", "flakyError", "rerunFailure", "rerunError")
_WORST_FIRST = (StepStatus.ERROR, StepStatus.FAILED, StepStatus.SKIPPED)
_STATED = {
    **dict.fromkeys(("notrun", "disabled", "skipped", "ignored", "suppressed"), StepStatus.SKIPPED),
    **dict.fromkeys(("failed", "failure"), StepStatus.FAILED),
    "error": StepStatus.ERROR,
}
_PARTS = ("properties", "property", "system-out", "system-err", "failure", "error")
_CASE_PARTS = frozenset((*_PARTS, *_PROBLEMS, *_RERUNS))
_SUITE_PARTS = frozenset((*_PARTS, *ROOTS, "testcase"))

Properties = dict[str, list[str]]


@dataclass(slots=True)
class Case:
    name: str
    """How its step is named, unless another case of the run has that name."""
    status: StepStatus
    duration: float | None
    timestamp: datetime | None
    error: str | None
    detail: dict[str, Any]
    """What a result object says of it under `test_details`."""
    started_at: datetime | None = None


@dataclass(slots=True, eq=False)
class Suite:
    """A `testsuite`, or the `testsuites` around them."""

    tag: str
    name: str
    parent: Suite | None
    path: str
    """The names down to the suite, which its cases name as theirs; no longer than a step's name."""
    index: int
    last: int
    """Suites are numbered in the order of the file: those inside this one are `index + 1` to `last`."""
    properties: Properties
    hosts: Properties
    problems: list[dict[str, Any]]
    """Failures and errors of the suite itself, outside of its cases."""
    time: float | None
    timestamp: datetime | None
    declared: dict[str, int]
    record: dict[str, Any]
    """What a result object says of it under `suites`."""
    cases: list[Case] = field(default_factory=list)
    started_at: datetime | None = None

    @property
    def outermost(self) -> bool:
        return self.tag == "testsuite" and (self.parent is None or self.parent.tag == "testsuites")

    @property
    def ancestry(self) -> list[Suite]:
        """The suites from the root down to this one."""
        chain = [self]
        while chain[-1].parent:
            chain.append(chain[-1].parent)
        return chain[::-1]


def read_suites(root: Element, now: datetime, warnings: Warnings) -> list[Suite]:
    """Every suite in the order of the file. A loop, as suites may be nested deeper than Python calls."""
    suites: list[Suite] = []
    waiting: list[tuple[Element, Suite | None]] = [(root, None)]
    while waiting:
        element, parent = waiting.pop()
        suite = _suite(element, parent, len(suites), warnings)
        suites.append(suite)
        waiting += [(child, suite) for child in reversed(element) if child.tag in ROOTS]
    for suite in reversed(suites):
        if suite.parent:
            suite.parent.last = max(suite.parent.last, suite.last)
    _place_in_time(suites, now, warnings)
    _count(suites, warnings)
    return suites


def shortened(text: str, warnings: Warnings, suffix: str = "") -> str:
    """A text that fits the name of a step; of a longer one the end gives way to a digest of it all."""
    if len(text) + len(suffix) <= MAX_STEP_NAME:
        return text + suffix
    warnings.add(f"a name longer than {MAX_STEP_NAME} characters was cut: {quoted(text)}")
    return f"{text[: MAX_STEP_NAME - 40]}…{sha256(text.encode()).hexdigest()[:16]}{suffix}"


def single(properties: Properties) -> dict[str, str | list[str]]:
    """A property that stands once as its value, any other as the list of its values."""
    return {name: values[0] if len(values) == 1 else values for name, values in properties.items()}


def timestamps(suites: Iterable[Suite]) -> Iterator[datetime]:
    for suite in suites:
        if suite.timestamp:
            yield suite.timestamp
        yield from (case.timestamp for case in suite.cases if case.timestamp)


def later(moment: datetime, seconds: float | None) -> datetime:
    try:
        return moment + timedelta(seconds=seconds or 0)
    except OverflowError:
        return moment


def _suite(element: Element, parent: Suite | None, index: int, warnings: Warnings) -> Suite:
    parts = _parts(element, _SUITE_PARTS, warnings)
    attributes = dict(element.attrib)
    raw_timestamp = attributes.get("timestamp")
    if "skips" in attributes and "skipped" not in attributes:  # as older versions of pytest call it
        attributes["skipped"] = attributes.pop("skips")
    name = attributes.pop("name", "")
    path = parent.path if parent else ""
    if element.tag == "testsuite" and name:
        path = shortened(f"{path}/{name}" if path else name, warnings)
    declared = {key: take_count(attributes, key, element.tag, warnings) for key in _DECLARED}
    timestamp = take_time(attributes, element.tag, warnings)
    hostname = attributes.pop("hostname", None)
    suite = Suite(
        tag=element.tag,
        name=name,
        parent=parent,
        path=path,
        index=index,
        last=index,
        properties=_properties(parts, warnings),
        hosts={"hostname": [hostname]} if hostname else {},
        problems=[problem(child, warnings) for child in element if child.tag in ("failure", "error")],
        time=take_seconds(attributes, element.tag, warnings),
        timestamp=timestamp,
        declared={key: value for key, value in declared.items() if value is not None},
        record={"name": name, "path": path, **dict.fromkeys((*_DECLARED, "duration"))},
    )
    suite.cases = [_case(case, path, warnings) for case in parts.get("testcase", ())]
    suite.record |= _present(
        timestamp=raw_timestamp if timestamp else None,
        hostname=hostname,
        package=attributes.pop("package", None),
        id=attributes.pop("id", None),
        properties=single(suite.properties),
        system_out=joined(parts.get("system-out", ())),
        system_err=joined(parts.get("system-err", ())),
        problems=suite.problems,
        attributes=attributes,
    )
    return suite


def _case(element: Element, path: str, warnings: Warnings) -> Case:
    parts = _parts(element, _CASE_PARTS, warnings)
    attributes = dict(element.attrib)
    name, classname = attributes.pop("name", ""), attributes.pop("classname", "")
    step_name = "::".join(part for part in (classname, name) if part)
    if not step_name:
        warnings.add("a test case has no name: its step is called 'unnamed'")
    duration = take_seconds(attributes, "testcase", warnings)
    timestamp = take_time(attributes, "testcase", warnings)
    problems = [problem(child, warnings) for child in element if child.tag in _PROBLEMS]
    status = _status(problems, attributes)
    telling = ("skipped",) if status is StepStatus.SKIPPED else ("failure", "error")
    texts = [text for found in problems if found["kind"] in telling and (text := error_text(found))]
    error = "\n".join(texts) or None
    detail = {
        "name": name,
        "classname": classname or None,
        "suite": path,
        "status": status.value,
        "duration_ms": None if duration is None else round(duration * 1000, 6),
        "error": error,
    } | _present(
        failures=problems,
        reruns=[problem(child, warnings) for child in element if child.tag in _RERUNS],
        system_out=joined(parts.get("system-out", ())),
        system_err=joined(parts.get("system-err", ())),
        properties=single(_properties(parts, warnings)),
        file=attributes.pop("file", None),
        line=take_count(attributes, "line", "testcase", warnings),
        assertions=take_count(attributes, "assertions", "testcase", warnings),
        attributes=attributes,
    )
    return Case(step_name or "unnamed", status, duration, timestamp, error, detail)


def _present(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value or value == 0}


def _status(problems: list[dict[str, Any]], attributes: dict[str, str]) -> StepStatus:
    """The worst of what the elements say and, as GoogleTest has it, the attributes."""
    found = {_PROBLEMS[item["kind"]] for item in problems}
    stated = (attributes.get(name, "").lower() for name in ("status", "result"))
    found |= {_STATED[text] for text in stated if text in _STATED}
    if attributes.get("disabled", "false").lower() not in ("false", "0", "no"):
        found.add(StepStatus.SKIPPED)
    return next((status for status in _WORST_FIRST if status in found), StepStatus.PASSED)


def _parts(element: Element, known: frozenset[str], warnings: Warnings) -> dict[str, list[Element]]:
    parts: dict[str, list[Element]] = {}
    texts = [element.text]
    for child in element:
        texts.append(child.tail)
        if child.tag in known:
            parts.setdefault(child.tag, []).append(child)
        else:
            warnings.add(f"unknown element {shown(child)} in <{element.tag}> was left out")
    if any(text and text.strip() for text in texts):
        warnings.add(f"text in <{element.tag}>, outside of the elements in it, was left out")
    return parts


def _properties(parts: dict[str, list[Element]], warnings: Warnings) -> Properties:
    properties: Properties = {}
    inside = [child for holder in parts.get("properties", ()) for child in holder]
    for element in (*inside, *parts.get("property", ())):
        if element.tag != "property":
            warnings.add(f"unknown element {shown(element)} in <properties> was left out")
            continue
        value, text = element.get("value"), trimmed("".join(element.itertext())) or ""
        if value is None:
            value = text
        elif text:
            warnings.add("the text of a <property> with a value was left out")
        for name in [name for name in element.attrib if name not in ("name", "value")]:
            warnings.add(f"the attribute {quoted(name)} of a <property> was left out")
        properties.setdefault(element.get("name", ""), []).append(value)
    return properties


def _place_in_time(suites: list[Suite], now: datetime, warnings: Warnings) -> None:
    """Lays suites and cases without a timestamp end to end after what stands before them."""
    clock = min(timestamps(suites), default=None)
    if clock is None:
        warnings.add("the file has no timestamp: the time of the import is taken as its start")
        clock = now
    around: list[Suite] = []
    for suite in suites:
        while around and around[-1].last < suite.index:
            before = around.pop()
            clock = max(clock, later(before.started_at or clock, before.time))
        around.append(suite)
        suite.started_at = clock = suite.timestamp or clock
        for case in suite.cases:
            case.started_at = clock = case.timestamp or clock
            clock = later(clock, case.duration)


def _count(suites: list[Suite], warnings: Warnings) -> None:
    """Adds to the records what was found, inner suites included, and how long it took."""
    totals = [Counter[str]() for _ in suites]
    times: list[list[float]] = [[] for _ in suites]
    for suite in reversed(suites):
        own, total, time = _tally(suite), totals[suite.index], times[suite.index]
        total.update(own)
        time += [case.duration for case in suite.cases if case.duration is not None]
        duration = suite.time if suite.time is not None else sum(time) if time else None
        suite.record |= {name: total[name] for name in _DECLARED} | {"duration": duration}
        _compare(suite, own, total, warnings)
        if suite.parent:
            totals[suite.parent.index].update(total)
            times[suite.parent.index] += [] if duration is None else [duration]


def _tally(suite: Suite) -> Counter[str]:
    """Counts cases by how they ended and, as some tools do, by each element that says so."""
    tally = Counter({"tests": len(suite.cases)})
    elements = list(suite.problems)
    for case in suite.cases:
        if case.status in _COUNTS:
            tally[_COUNTS[case.status]] += 1
            elements += case.detail.get("failures", ())
    tally.update(f"<{_COUNTS[_PROBLEMS[item['kind']]]}>" for item in elements)
    return tally


def _compare(suite: Suite, own: Counter[str], total: Counter[str], warnings: Warnings) -> None:
    for name, declared in suite.declared.items():
        found = {own[name], total[name]}
        if name != "tests":
            found |= {own[f"<{name}>"], total[f"<{name}>"]}
        if declared not in found:
            suite.record.setdefault("declared", {})[name] = declared
            warnings.add(
                f"suite {quoted(suite.path or suite.name)} declares {name}={declared}, found {total[name]}"
            )
