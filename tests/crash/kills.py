"""Kills a server again and again while clients write, and compares what it has then with its answers."""

from __future__ import annotations

import io
import random
import signal
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import httpx2
from sqlalchemy import text

from app.db import Database
from tests.server import PATIENCE, Server, serving

API = "/api/test/db"
RUNS, SUITES, STEPS, POINTS = 5, 3, 3, 4
STATES = Literal["sent", "stored", "deleting", "deleted"]


@dataclass
class Unit:
    """What one request stores, wholly or not at all."""

    rows: int
    state: STATES = "sent"
    parent: Unit | None = None
    """The unit whose runs these are children of; they go with it."""

    def allows(self, found: int) -> bool:
        if self.parent is not None and self.parent.state != "stored":
            return found in (0, self.rows)
        wanted = {"stored": {self.rows}, "deleted": {0}}
        return found in wanted.get(self.state, {0, self.rows})


@dataclass
class Ledger:
    """All that was ever sent, by the name of the unit, and whatever went wrong."""

    units: dict[str, Unit] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def compare(self, found: dict[str, int]) -> None:
        for name, unit in list(self.units.items()):
            count = found.pop(name, 0)
            if not unit.allows(count):
                self.wrong.append(f"{name}: {unit.state}, but {count} of {unit.rows} rows are there")
            elif unit.state == "sent":  # nobody was told; from now on it must stay as it is
                unit.state = "stored" if count else "deleted"
            elif unit.state == "deleting":
                unit.state = "deleted" if not count else "stored"
        self.wrong += [f"{name}: {count} rows that nobody sent" for name, count in found.items()]

    @property
    def stored(self) -> int:
        """How many units are known to be stored, or stored and deleted."""
        return sum(unit.state in ("stored", "deleted") for unit in list(self.units.values()))


class Writer:
    """A client that writes until the server is gone."""

    def __init__(self, ledger: Ledger, name: str, chance: random.Random) -> None:
        self._ledger, self._name, self._chance = ledger, name, chance
        self._mine: list[str] = []

    def write(self, url: str) -> None:
        with httpx2.Client(base_url=url + API, timeout=PATIENCE) as client:
            for number in range(1_000_000):
                acts = [self._ingest, self._import, self._steps, self._metrics, self._delete]
                act = self._chance.choices(acts, weights=[4, 2, 6, 6, 1])[0]
                try:
                    act(client, f"{self._name}-{number}")
                except httpx2.TransportError:
                    return

    def _send(self, client: httpx2.Client, name: str, unit: Unit, path: str, **request: object) -> None:
        self._ledger.units[name] = unit
        answer = client.post(path, **request)  # type: ignore[arg-type]
        if answer.is_success:
            unit.state = "stored"
        else:
            self._ledger.wrong.append(f"{name}: {answer.status_code} {answer.text}")

    def _ingest(self, client: httpx2.Client, name: str) -> None:
        runs = [
            {
                "run_id": f"{name}.{number}",
                "model_name": "m",
                "tags": {"unit": name},
                "batch_id": name,
                "steps": [{"step_name": "s", "status": "passed"}],
            }
            for number in range(RUNS)
        ]
        self._send(client, name, Unit(RUNS), "/ingest", json=runs)
        self._mine.append(name)

    def _import(self, client: httpx2.Client, name: str) -> None:
        suites = "".join(
            f'<testsuite name="{name}.{number}"><testcase name="t"/></testsuite>' for number in range(SUITES)
        )
        params = {"per": "suite", "tag": f"unit={name}"}
        body = f"<testsuites>{suites}</testsuites>"
        self._send(client, name, Unit(SUITES), "/import", params=params, content=body)

    def _steps(self, client: httpx2.Client, name: str) -> None:
        if self._mine:
            parent = self._chance.choice(self._mine)
            steps = [{"step_name": f"{name}/{number}", "status": "passed"} for number in range(STEPS)]
            unit = Unit(STEPS, parent=self._ledger.units[parent])
            self._send(client, name, unit, f"/run/{parent}.0/steps", json=steps)

    def _metrics(self, client: httpx2.Client, name: str) -> None:
        if self._mine:
            parent = self._chance.choice(self._mine)
            points = [{"metric_name": name, "value": number} for number in range(POINTS)]
            unit = Unit(POINTS, parent=self._ledger.units[parent])
            self._send(client, name, unit, f"/run/{parent}.1/metrics", json=points)

    def _delete(self, client: httpx2.Client, _name: str) -> None:
        if self._mine:
            name = self._mine.pop(self._chance.randrange(len(self._mine)))
            unit = self._ledger.units[name]
            unit.state = "deleting"
            client.delete(f"/batch/{name}", params={"delete_runs": True}).raise_for_status()
            unit.state = "deleted"


FOUND = """
    SELECT tag_value, count(*) FROM test_run_tags WHERE tag_name = 'unit' GROUP BY 1
    UNION ALL SELECT split_part(step_name, '/', 1), count(*) FROM test_run_steps
    WHERE step_name LIKE '%/%' AND run_id LIKE '%.0' GROUP BY 1
    UNION ALL SELECT metric_name, count(*) FROM test_run_metrics WHERE run_id LIKE '%.1' GROUP BY 1
"""


def found(server: Server, folder: Path) -> dict[str, int]:
    """Rows of each unit that the server has, read from a backup."""
    answer = httpx2.post(f"{server.url}{API}/backup", timeout=PATIENCE).raise_for_status()
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        copy = Path(archive.extract("database", folder))
    database = Database(f"duckdb:///{copy}")
    try:
        return {row[0]: row[1] for row in database.read(lambda session: session.execute(text(FOUND)).all())}
    finally:
        database.close()
        copy.unlink()


def kill_often(folder: Path, kills: int, *, writers: int = 4, seed: int = 1) -> Iterator[Ledger]:
    """Yields the ledger after each kill and the comparison that follows it."""
    ledger, chance = Ledger(), random.Random(seed)
    for kill in range(kills + 1):
        with serving(folder) as server:
            if kill:
                ledger.compare(found(server, folder))
                broken = httpx2.get(f"{server.url}{API}/check", timeout=PATIENCE).json()
                ledger.wrong += [str(finding) for finding in broken]
                yield ledger
            if kill < kills:
                with _writing(server, ledger, writers, f"k{kill}", chance):
                    known = ledger.stored
                    while ledger.stored < known + writers and not ledger.wrong:
                        time.sleep(0.01)
                    time.sleep(chance.uniform(0, 0.5))
                    server.stop(signal.SIGKILL)


@contextmanager
def _writing(
    server: Server, ledger: Ledger, writers: int, name: str, chance: random.Random
) -> Iterator[None]:
    clients = [Writer(ledger, f"{name}w{n}", random.Random(chance.random())) for n in range(writers)]
    threads = [threading.Thread(target=client.write, args=[server.url]) for client in clients]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join()
