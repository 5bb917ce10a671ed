"""Every answer to any request is one that the document promises; none is a fault."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.fuzz.fuzzing import PHASES, fuzz, guarded_server

THOROUGH = [("duckdb", "open"), ("postgresql", "admin")]
"""Where the edges of every schema are tried as well, which takes thousands of requests."""


@pytest.mark.slow
@pytest.mark.parametrize("access", ["open", "admin"])
def test_every_answer_is_as_documented(engine_name: str, url: str, access: str, tmp_path: Path) -> None:
    thorough = (engine_name, access) in THOROUGH
    phases = PHASES if thorough else ["fuzzing"]
    with guarded_server(tmp_path, url, access) as (server, token):
        done = fuzz(server, token, phases=phases, examples=1 if thorough else 3, seed=1)
        assert done.returncode == 0, done.stdout
        assert "Traceback" not in server.logged()
    figures = {name: int(re.search(pattern, done.stdout)[1]) for name, pattern in FIGURES.items()}  # type: ignore[index]
    assert figures["selected"] == figures["tested"] > 40
    assert figures["requests"] > (2000 if thorough else figures["tested"])


FIGURES = {"selected": r"Selected: (\d+)", "tested": r"Tested: (\d+)", "requests": r"(\d+) generated"}
