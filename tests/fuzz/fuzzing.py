"""Schemathesis at a real server: https://schemathesis.readthedocs.io"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cli.helpers import invoke, options_of
from tests.runner.suite import write_suite
from tests.server import Server, environment, serving

ACCESS = ["open", "none", "read", "write", "admin"]
"""A server without tokens; and one with tokens, asked without any or with one of each scope."""
PHASES = ["examples", "coverage", "fuzzing", "stateful"]
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
]
CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
SCHEMATHESIS = "import schemathesis.cli; schemathesis.cli.schemathesis()"


@contextmanager
def guarded_server(folder: Path, url: str, access: str) -> Iterator[tuple[Server, str | None]]:
    """A server on the database, and the token to ask it with."""
    suite, tokens = write_suite(folder / "suite"), folder / "tokens"
    made = {}
    for scope in () if access == "open" else ("read", "write", "admin"):
        made[scope] = invoke(
            "token", "create", scope, "--scope", scope, "--token-file", str(tokens)
        ).stdout.strip()
    options = ("--suites", str(suite), "--token-file", str(tokens), "--request-timeout", "5")
    with serving(folder, *options_of(url), *options) as server:
        yield server, made.get(access)


def fuzz(
    server: Server, token: str | None, *, phases: list[str], examples: int, seed: int
) -> subprocess.CompletedProcess[str]:
    """Every operation of the document, with valid and invalid requests; fails on an answer that is not
    documented."""
    options = {
        "--phases": ",".join(phases),
        "--checks": ",".join([*CHECKS, *(["ignored_auth"] if token else [])]),
        "--max-examples": str(examples),
        "--seed": str(seed),
        "--warnings": "off",
        **({"--header": f"Authorization: Bearer {token}"} if token else {}),
    }
    with tempfile.TemporaryDirectory() as folder:  # it leaves files behind
        return subprocess.run(
            [sys.executable, "-c", SCHEMATHESIS, "--config-file", str(CONFIGURATION), "run"]
            + [f"{server.url}/openapi.json", "--continue-on-failure"]
            + [text for option in options.items() for text in option],
            cwd=folder,
            env=environment() | {"COLUMNS": "110"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
