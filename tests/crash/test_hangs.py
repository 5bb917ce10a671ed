"""A PostgreSQL that neither answers nor hangs up: the server says so, and goes on when it does again."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import make_url

from tests.conftest import migrate_once
from tests.crash.kills import API
from tests.postgres import postgres_cluster
from tests.server import PATIENCE, serving

MANY = 45
"""More than the server has threads."""


@contextmanager
def frozen(url: str) -> Iterator[None]:
    """Stops every process of a cluster for the time of the block."""
    folder = Path(str(make_url(url).query["host"]), "data")
    first = int((folder / "postmaster.pid").read_text().split()[0])
    os.kill(first, signal.SIGSTOP)  # which from then on starts no others
    others = [int(pid) for pid in Path(f"/proc/{first}/task/{first}/children").read_text().split()]
    for pid in others:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in [*others, first]:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes as Linux tells them")
def test_a_database_server_that_hangs_for_a_while(tmp_path: Path) -> None:
    with postgres_cluster() as started, started() as url:
        migrate_once(url)
        options = ("--database-url", f"{url}&connect_timeout=2")
        with serving(tmp_path, *options) as server, httpx2.Client(timeout=PATIENCE) as client:
            run = f"{server.url}{API}/run/r"

            def write(_number: int) -> int:
                return httpx2.put(run, json={"model_name": "m"}, timeout=PATIENCE).status_code

            with ThreadPoolExecutor(MANY) as threads:
                assert set(threads.map(write, range(MANY))) == {200, 201}
                with frozen(url):
                    answers = threads.map(write, range(MANY))
                    began = time.monotonic()
                    ready = client.get(f"{server.url}/readyz")
                    assert ready.status_code == 503
                    assert "The database does not answer: " in ready.json()["detail"]
                    assert time.monotonic() - began < PATIENCE / 2
                    assert client.get(f"{server.url}/healthz").status_code == 200
                    assert Counter(answers) == {503: MANY}
                assert set(threads.map(write, range(MANY))) == {200}
            assert client.get(f"{server.url}/readyz").status_code == 200
            assert "Traceback" not in server.logged()
