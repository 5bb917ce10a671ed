"""A database of a process that was killed, random damage to it, and what a start then makes of it."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from app.db import Database
from app.db.committed import Committed, keep_head
from app.db.opening import open_database
from app.errors import AppError
from app.models import TestRun
from app.services import check
from tests import factories
from tests.server import PATIENCE

NAME = "runs.duckdb"
FILES = (NAME, f"{NAME}.wal", f"{NAME}.committed")
OLD = "old-"
"""Copies of the same files from before have this before their names."""

COMMITS = 40

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["app.cli", "tests.crash.damage"])


def killed(work: Callable[..., None], *args: object) -> None:
    """Runs what ends by killing itself, in a process of its own."""
    process = CONTEXT.Process(target=work, args=args)
    process.start()
    process.join(PATIENCE)
    assert process.exitcode == -signal.SIGKILL


def make(folder: Path) -> None:
    """Writes a history, of which a part is in the file and a part in the log, and is killed."""
    database = open_database(f"duckdb:///{folder / NAME}")

    def store(first: int) -> None:
        def work(session: Any) -> None:
            for model in factories.MODELS:
                session.execute(model.__table__.insert(), factories.rows(model, range(first, first + 5)))

        database.write(work)

    store(0)
    store(5)
    database.close()
    shutil.copy(folder / NAME, folder / f"{OLD}{NAME}")
    database = open_database(f"duckdb:///{folder / NAME}")
    store(10)
    database.close()
    database = open_database(f"duckdb:///{folder / NAME}")
    for number in range(15, 15 + 5 * COMMITS, 5):
        if number == 15 + 5 * (COMMITS // 2):
            for name in FILES[1:]:
                shutil.copy(folder / name, folder / f"{OLD}{name}")
        store(number)
    os.kill(os.getpid(), signal.SIGKILL)


def store(file: Path, sizes: dict[str, int], older: bool = False) -> None:
    """Stores runs with errors of so many characters, each in a commit of its own, and is killed.

    An `older` version does not migrate the file.
    """
    if older:
        keep_head(file)
        database = Database(f"duckdb:///{file}")
        database.ping()
        database.keep_note(Committed(file), None)
    else:
        database = open_database(f"duckdb:///{file}")
    for run_id, size in sizes.items():
        row = factories.row(TestRun, 0) | {"run_id": run_id, "completed_at": None, "error": "x" * size}
        database.write(lambda session, row=row: session.execute(TestRun.__table__.insert(), row))
    os.kill(os.getpid(), signal.SIGKILL)


def look(folder: Path, answer: Connection) -> None:
    """Opens the database as a server does, checks it, and sends what became of that, with all rows."""
    try:
        database = open_database(f"duckdb:///{folder / NAME}")
    except AppError as error:
        answer.send(("refused", error.detail))
        return
    except Exception:
        answer.send(("fault", traceback.format_exc()))
        return
    try:
        try:
            found = database.read(check.find_broken)
        except AppError as error:
            answer.send(("reported", error.detail))
            return
        rows = database.read(lambda session: factories.contents(session.connection()))
        answer.send(("opened", (str(found), rows)))
    except Exception:
        answer.send(("fault", traceback.format_exc()))
    finally:
        database.close()


def _truncated(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(path.stat().st_size))


def _flipped(path: Path, chance: random.Random, end: int | None = None, start: int = 0) -> None:
    place = chance.randrange(start, end or path.stat().st_size)
    with path.open("r+b") as stream:
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ (1 << chance.randrange(8))]))


def _zeroed(path: Path, chance: random.Random) -> None:
    size = path.stat().st_size
    place = chance.randrange(size)
    with path.open("r+b") as stream:
        stream.seek(place)
        stream.write(bytes(min(chance.randrange(1, 10_000), size - place)))


def _older(path: Path, _chance: random.Random) -> None:
    shutil.copy(path.with_name(OLD + path.name), path)


def _swapped(path: Path, _chance: random.Random) -> None:
    shutil.copy(path.with_name(f"other-{path.name}"), path)


REVISION = (3 * 4096 + 2 * 262_144, 3 * 4096 + 262_144)
"""End and start, in bytes, of the block behind the headers and the first block."""

MUTATIONS: dict[str, Callable[[Path, random.Random], object]] = {
    "log truncated": lambda folder, chance: _truncated(folder / FILES[1], chance),
    "log flipped in its header": lambda folder, chance: _flipped(folder / FILES[1], chance, 64),
    "log flipped": lambda folder, chance: _flipped(folder / FILES[1], chance),
    "log zeroed": lambda folder, chance: _zeroed(folder / FILES[1], chance),
    "log removed": lambda folder, _chance: (folder / FILES[1]).unlink(),
    "log older": lambda folder, chance: _older(folder / FILES[1], chance),
    "log of another": lambda folder, chance: _swapped(folder / FILES[1], chance),
    "file truncated": lambda folder, chance: _truncated(folder / NAME, chance),
    "file flipped in its headers": lambda folder, chance: _flipped(folder / NAME, chance, 3 * 4096),
    "file flipped in its revision": lambda folder, chance: _flipped(folder / NAME, chance, *REVISION),
    "file flipped": lambda folder, chance: _flipped(folder / NAME, chance),
    "file zeroed": lambda folder, chance: _zeroed(folder / NAME, chance),
    "file removed": lambda folder, _chance: (folder / NAME).unlink(),
    "file older": lambda folder, chance: _older(folder / NAME, chance),
    "file of another": lambda folder, chance: _swapped(folder / NAME, chance),
    "file and log older": lambda folder, chance: [_older(folder / name, chance) for name in FILES[:2]],
    "note removed": lambda folder, _chance: (folder / FILES[2]).unlink(),
    "note older": lambda folder, chance: _older(folder / FILES[2], chance),
    "note truncated": lambda folder, chance: _truncated(folder / FILES[2], chance),
    "note garbage": lambda folder, chance: (folder / FILES[2]).write_bytes(chance.randbytes(1000)),
}

CERTAIN = {
    **dict.fromkeys(["log truncated", "log removed", "log older", "log of another"], "refused"),
    **dict.fromkeys(["file flipped in its revision", "file removed"], "refused"),
    **dict.fromkeys(["file older", "file of another", "file and log older"], "refused"),
    **dict.fromkeys(["note removed", "note older"], "complete"),
    "note garbage": "refused",
}
"""What becomes of these; any other damage is refused, reported, or of nothing that is missing."""
