"""Kills a server, or its database, again and again while clients write, and compares what is there then with
the answers."""

from __future__ import annotations

import io
import itertools
import random
import signal
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Set
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psycopg

from app.db import Database
from tests.conftest import migrate_once
from tests.crash.ledger import API, Ledger, State, Writer, found
from tests.postgres import postgres_cluster
from tests.server import PATIENCE, Server, serving

BUSY = 3
"""Answers that each client has at least before a kill."""


@dataclass(frozen=True)
class Round:
    """A server that runs, what its database holds, and how something is killed."""

    server: Server
    held: Callable[[], State]
    kill: Callable[[], object]
    away: Set[int] = frozenset()
    """The statuses that clients may see after that."""


Rounds = Callable[[], AbstractContextManager[Round]]


@contextmanager
def duckdb(folder: Path) -> Iterator[Rounds]:
    """Kills the server, whose process holds the database."""

    @contextmanager
    def start() -> Iterator[Round]:
        with serving(folder) as server:
            yield Round(server, lambda: _backed_up(server, folder), lambda: server.stop(signal.SIGKILL))

    yield start


@contextmanager
def postgresql(folder: Path) -> Iterator[Rounds]:
    """Kills the server, while the database stays, and the database, while the server stays, in turns."""
    with postgres_cluster() as started, ExitStack() as database, ExitStack() as process:
        url = database.enter_context(started())
        migrate_once(url)
        running: list[Server] = []

        @contextmanager
        def start_server() -> Iterator[Round]:
            process.close()
            _wait_for_the_killed(url)
            running[:] = [process.enter_context(serving(folder, "--database-url", url))]
            yield Round(running[0], lambda: _held(url), database.close, {503})

        @contextmanager
        def start_database() -> Iterator[Round]:
            database.enter_context(started())
            yield Round(running[0], lambda: _held(url), lambda: running[0].stop(signal.SIGKILL))

        turns = itertools.cycle([start_server, start_database])
        yield lambda: next(turns)()


ENGINES: dict[str, Callable[[Path], AbstractContextManager[Rounds]]] = {
    "duckdb": duckdb,
    "postgresql": postgresql,
}


def kill_often(
    folder: Path, kills: int, *, engine: str = "duckdb", writers: int = 4, seed: int = 1
) -> Iterator[Ledger]:
    """Yields the ledger after each kill and the comparison that follows it."""
    ledger, chance = Ledger(), random.Random(seed)
    clients: list[Writer] = []
    with ENGINES[engine](folder) as start:
        for kill in range(kills + 1):
            with start() as now:
                if kill:
                    held = now.held()
                    for client in clients:
                        ledger.take_over(client, held)
                    ledger.compare(held)
                    broken = httpx2.get(f"{now.server.url}{API}/check", timeout=PATIENCE).json()
                    ledger.wrong += [str(finding) for finding in broken]
                    yield ledger
                if kill < kills:
                    clients = [
                        Writer(f"k{kill}w{number}", random.Random(chance.random()), now.away)
                        for number in range(writers)
                    ]
                    with _writing(clients, now.server.url):
                        _wait_until_busy(clients)
                        time.sleep(chance.uniform(0, 0.5))
                        now.kill()


@contextmanager
def _writing(clients: list[Writer], url: str) -> Iterator[None]:
    threads = [threading.Thread(target=client.write, args=[url]) for client in clients]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join()


def _wait_until_busy(clients: list[Writer]) -> None:
    for _ in range(PATIENCE * 100):
        if all(client.answered >= BUSY for client in clients) or any(client.wrong for client in clients):
            return
        time.sleep(0.01)
    raise AssertionError("The server does not answer all of its clients.")


def _backed_up(server: Server, folder: Path) -> State:
    """What an embedded database holds: nobody else may open its file."""
    answer = httpx2.post(f"{server.url}{API}/backup", timeout=PATIENCE).raise_for_status()
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        copy = Path(archive.extract("database", folder))
    state = _held(f"duckdb:///{copy}")
    copy.unlink()
    return state


def _held(url: str) -> State:
    database = Database(url)
    try:
        return database.read(found)
    finally:
        database.close()


def _wait_for_the_killed(url: str) -> None:
    """A commit that a killed server has sent is carried out without it."""
    with psycopg.connect(url, autocommit=True) as connection:
        others = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
        for _ in range(PATIENCE * 20):
            if connection.execute(others).fetchone() == (1,):
                return
            time.sleep(0.05)
    raise AssertionError("The killed server's connections remain.")
