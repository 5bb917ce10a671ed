"""This product's server as a contestant, on either engine, in a process of its own."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import cached_property, partial
from itertools import count as counter
from pathlib import Path

from app.models import new_id
from tests.benchmarks import payloads
from tests.benchmarks.client import ARROW, JSON, NDJSON, Client
from tests.benchmarks.contest import Contestant, Load, Operation
from tests.server import serving

API = "/api/test/db"
WORD, MODEL, TAG = "team-7", "model-0", "branch=main"


class Product(Contestant):
    """A running server."""

    def __init__(self, name: str, url: str, pids: Sequence[int]) -> None:
        self.name = name
        self.pids = pids
        self.client = Client(url)
        self._chance = random.Random(1)

    def do_metrics_json_1000(self, count: int) -> list[Operation]:
        return self._metrics(count, payloads.as_json(payloads.points(1000)), JSON)

    def do_metrics_json_10000(self, count: int) -> list[Operation]:
        return self._metrics(count, payloads.as_json(payloads.points(10_000)), JSON)

    def do_metrics_arrow_10000(self, count: int) -> list[Operation]:
        return self._metrics(count, payloads.as_arrow(payloads.points(10_000)), ARROW)

    def do_ingest(self, count: int) -> list[Operation]:
        bodies = [
            payloads.as_lines(payloads.run(steps=10, metrics=10) for _ in range(500)) for _ in range(count)
        ]
        return [partial(self._post, "/ingest", body, NDJSON) for body in bodies]

    do_ingest_8_clients = do_ingest

    def do_create_run(self, count: int) -> list[Operation]:
        return [partial(self._post, "/runs", payloads.as_json(self._new())) for _ in range(count)]

    def do_log_metric(self, count: int) -> list[Operation]:
        return self._metrics(count, payloads.as_json(payloads.points(1)), JSON)

    def do_finish_run(self, count: int) -> list[Operation]:
        body = payloads.as_json({"results": {"tests_passed": 3, "tests_failed": 0, "tests_skipped": 0}})
        return [partial(self._post, f"/run/{self._create()}/complete", body) for _ in range(count)]

    def do_run_detail(self, count: int) -> list[Operation]:
        return [partial(self._get, f"/run/{self._chance.choice(self._detailed)}") for _ in range(count)]

    def do_list(self, count: int) -> list[Operation]:
        return [partial(self._get, "/runs?limit=100")] * count

    def do_list_filtered(self, count: int) -> list[Operation]:
        return [partial(self._get, f"/runs?status=completed&model_name={MODEL}&tag={TAG}")] * count

    def do_search(self, count: int) -> list[Operation]:
        return [partial(self._post, "/search", payloads.as_json({"query": WORD}))] * count

    def do_delete_run(self, count: int) -> list[Operation]:
        documents = [payloads.run(steps=10, metrics=20) for _ in range(count)]
        self._post("/ingest", payloads.as_lines(documents), NDJSON)
        return [partial(self._delete, f"/run/{document['run_id']}") for document in documents]

    def do_delete_batch(self, count: int) -> list[Operation]:
        batches = [new_id() for _ in range(count)]
        for batch_id in batches:
            documents = (payloads.run(steps=5, metrics=20, batch_id=batch_id) for _ in range(1000))
            self._post("/ingest", payloads.as_lines(documents), NDJSON)
        return [partial(self._delete, f"/batch/{batch_id}?delete_runs=true") for batch_id in batches]

    def do_stats_models(self, count: int) -> list[Operation]:
        return [partial(self._get, "/models/stats")] * count

    def do_stats_hardware(self, count: int) -> list[Operation]:
        return [partial(self._get, "/hardware/stats")] * count

    def do_performance(self, count: int) -> list[Operation]:
        return [partial(self._get, "/performance")] * count

    def do_export(self, count: int) -> list[Operation]:
        return [self._export] * count

    def read(self) -> None:
        self._get(f"/run/{self._detailed[0]}")

    def _get(self, path: str) -> bytes:
        return self.client.send("GET", API + path)

    def _post(self, path: str, body: bytes, kind: str = JSON) -> bytes:
        return self.client.send("POST", API + path, body, kind)

    def _delete(self, path: str) -> bytes:
        return self.client.send("DELETE", API + path)

    def _new(self) -> payloads.Row:
        tags = {"branch": "main", "commit": "0123456789"}
        return {"model_name": MODEL, "hardware": ["cuda"], "status": "running", "tags": tags}

    def _create(self) -> str:
        return str(json.loads(self._post("/runs", payloads.as_json(self._new())))["run_id"])

    def _metrics(self, count: int, body: bytes, kind: str) -> list[Operation]:
        return [partial(self._post, f"/run/{self._create()}/metrics", body, kind)] * count

    def _export(self) -> None:
        export_id = self.client.ask("POST", f"{API}/export", {"filename": "all.json", "overwrite": True})[
            "export_id"
        ]
        while (state := self.client.ask("GET", f"{API}/exports/{export_id}"))["status"] == "started":
            time.sleep(0.01)
        if state["status"] != "completed":
            raise RuntimeError(f"The export failed: {state['error']}")

    @cached_property
    def _detailed(self) -> list[str]:
        documents = [payloads.run(steps=10, metrics=20) for _ in range(50)]
        self._post("/ingest", payloads.as_lines(documents), NDJSON)
        return [document["run_id"] for document in documents]


@contextmanager
def product(name: str, folder: Path, url: str, engine_pids: Sequence[int]) -> Iterator[Product]:
    """A server on the database at `url`; `engine_pids` are the processes that work for it."""
    folder.mkdir()
    with serving(folder, "--database-url", url) as server:
        contestant = Product(name, server.url, [server.process.pid, *engine_pids])
        with closing(contestant.client):
            yield contestant


class Starter(Contestant):
    """Starts servers on a database; each is stopped before the next one starts."""

    _numbers = counter()

    def __init__(self, name: str, folder: Path, url: str, own_pid: int) -> None:
        self.name = name
        self.pids = [own_pid]
        self._folder = folder
        self._url = url
        self._running = ExitStack()

    def do_start(self, count: int) -> Load:
        self.stop()
        return Load([self._start], 1)

    def stop(self) -> None:
        self._running.close()

    def _start(self) -> None:
        folder = self._folder / f"start-{next(self._numbers)}"
        self._running.enter_context(product(self.name, folder, self._url, []))
