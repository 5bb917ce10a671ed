"""Spool files: the whole stream of a test session, imported as the run that it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import BinaryIO

from sqlalchemy.orm import Session

from app.errors import Invalid
from app.schemas.events import Event, FinishedEvent, SessionEvent, StartedEvent, TestEvent, parse_event
from app.schemas.transfer import Imported, ImportOptions, Per
from app.services.documents import chunks
from app.services.recording import begin_session, end_session, record_events
from app.vocabulary import RunStatus

Report = Callable[[int], None]
"""Called with the position reached in the file, in bytes."""

SPOOL = re.compile(rb"""\{\s*"event"\s*:""")
"""How a spool file begins."""

PORTION = 2000
"""Events stored at a time."""


def import_spool(
    session: Session, stream: BinaryIO, options: ImportOptions, report: Report = lambda position: None
) -> Imported:
    """Stores the run of a session, replacing what is known of it; one that broke off becomes an error.

    Raises Invalid with the line of the bad event.
    """
    stream.seek(0)
    warnings = unused(options, "a spool file")
    events = _events(stream, warnings)
    first = next(events, None)
    if not isinstance(first, SessionEvent):
        raise Invalid.of("[0]", "must be the session event that a spool file begins with")
    first.tags |= options.tags
    first.batch_id = options.batch_id or first.batch_id
    begin_session(session, first)
    running: dict[str, None] = {}
    last: Event = first
    for portion in chunks(events, PORTION):
        record_events(session, first.run_id, portion)
        for event in portion:
            if isinstance(event, StartedEvent):
                running[event.test] = None
            elif isinstance(event, TestEvent):
                running.pop(event.test, None)
        last = portion[-1]
        report(stream.tell())
    if isinstance(last, FinishedEvent):
        end_session(session, first.run_id, last.status, last.error, at=last.time)
    else:
        end_session(session, first.run_id, RunStatus.ERROR, broke_off(running), at=last.time)
    return Imported(format="spool", runs=1, warnings=warnings)


def broke_off(running: dict[str, None]) -> str:
    """What is said of a session that has no end, while these tests were running."""
    return "The test session broke off without an end" + (
        f", while running {', '.join(running)}." if running else "."
    )


def unused(options: ImportOptions, what: str) -> list[str]:
    """Warns of options that have no use for a file that itself says what its runs are."""
    given = [name for name in ("model_name", "hardware", "test_type") if getattr(options, name) is not None]
    warnings = [f"{name} was not used: {what} says it of each run" for name in given]
    if options.per != Per.FILE:
        warnings.append(f"per was not used: {what} holds whole runs")
    return warnings


def _events(stream: BinaryIO, warnings: list[str]) -> Iterator[Event]:
    for index, line in enumerate(iter(stream.readline, b"")):
        if not line.strip():
            continue
        try:
            yield parse_event(line, f"[{index}]")
        except Invalid:
            if line.endswith(b"\n"):
                raise
            warnings.append("the last line is cut off, and was left out")
