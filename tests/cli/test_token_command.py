"""`testdb token`: what it prints, keeps and refuses."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path

import httpx2
import pytest

from app.config import Settings
from tests.cli.helpers import answer, invoke, refused
from tests.server import serving


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def created(*args: str) -> str:
    result = invoke("token", "create", *args)
    assert (result.exit_code, result.stderr) == (0, "")
    assert len(result.stdout.strip()) > 43
    return result.stdout.strip()


def test_a_token_is_printed_once_and_kept_as_a_hash(folder: Path) -> None:
    first, second = created("ci", "--scope", "write"), created("me", "--scope", "admin", "--expires", "90d")
    assert first != second
    file = folder / "data" / "test_runs.duckdb.tokens"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    kept = file.read_text()
    assert not [part for part in (first, second) if part in kept or part.removeprefix("testdb_") in kept]
    salts = [token["salt"] for token in json.loads(kept)["tokens"]]
    assert len(set(salts)) == 2
    assert all(len(salt) >= 32 for salt in salts)
    assert list(file.parent.iterdir()) == [file]
    listed = answer("token", "list")
    assert [(token["name"], token["scope"], bool(token["expires_at"])) for token in listed] == [
        ("ci", "write", False),
        ("me", "admin", True),
    ]
    shown = invoke("token", "list").stdout
    assert [line.split()[:2] for line in shown.splitlines()[1:]] == [["ci", "write"], ["me", "admin"]]
    assert not [salt for salt in salts if salt in shown + json.dumps(listed)]


def test_a_name_is_taken_until_it_is_revoked(folder: Path) -> None:
    created("ci", "--scope", "read")
    assert "revoke it" in refused("token", "create", "ci", "--scope", "read")
    result = invoke("token", "revoke", "ci")
    assert (result.exit_code, result.stdout) == (0, "Revoked ci.\n")
    assert "remove data/test_runs.duckdb.tokens" in result.stderr
    assert "no token 'ci'" in refused("token", "revoke", "ci")
    assert answer("token", "list") == []
    created("ci", "--scope", "read")


@pytest.mark.parametrize(
    "args",
    [["x", "--scope", "root"], ["a b", "--scope", "read"], ["", "--scope", "read"]]
    + [["x", "--scope", "read", "--expires", time] for time in ("90", "0d", "-1d", "1y", "99999d", "٣d", "")],
)
def test_wrong_usage(args: list[str]) -> None:
    refused("token", "create", *args, code=2)
    assert answer("token", "list") == []


def test_where_the_file_is(folder: Path) -> None:
    for options in (
        ["--db-path", "other.duckdb"],
        ["--database-url", "postgresql://u@127.0.0.1:1/x", "--results-dir", "shared"],
        ["--token-file", "own/tokens"],
    ):
        created("x", "--scope", "read", *options)
    for name in ("other.duckdb.tokens", "shared/.tokens", "own/tokens"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert Settings(db_path=Path("a/b.duckdb")).tokens_path == Path("a/b.duckdb.tokens")


def test_a_link_and_an_odd_umask(folder: Path) -> None:
    real, link = folder / "real", folder / "link"
    link.symlink_to(real)
    before = os.umask(0o777)
    try:
        created("a", "--scope", "read", "--token-file", str(link))
    finally:
        os.umask(before)
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    assert invoke("token", "revoke", "a", "--token-file", str(link)).exit_code == 0
    assert link.is_symlink()
    assert json.loads(real.read_text()) == {"tokens": []}


def test_a_broken_file_lets_nobody_in(folder: Path) -> None:
    file = folder / "tokens"
    file.write_text("{")
    assert "not a token file" in refused("token", "list", "--token-file", "tokens")
    file.unlink()
    created("x", "--scope", "read", "--token-file", "tokens")
    whole = file.read_text()
    for part in ("salt", "hash"):
        for damaged in ("zz", "é" * 32, "00" * 40):
            file.write_text(re.sub(f'"{part}": "[^"]*"', f'"{part}": "{damaged}"', whole))
            assert "not a token file" in refused("token", "list", "--token-file", "tokens")
    with serving(folder, "--token-file", "tokens") as server:
        response = httpx2.get(f"{server.url}/api/test/db/runs")
        told = "The token file cannot be read; the log of the server says why."
        assert (response.status_code, response.json()["detail"]) == (503, told)
        assert "nobody gets in: tokens is not a token file" in server.logged()


def test_commands_send_the_token(folder: Path) -> None:
    admin = created("a", "--scope", "admin", "--token-file", "t")
    reader = created("r", "--scope", "read", "--token-file", "t")
    with serving(folder, "--token-file", "t") as server:
        remote = ("--url", server.url)
        assert answer("runs", *remote, env={"TESTDB_TOKEN": reader}) == []
        assert answer("runs", *remote, "--token", reader, env={"TESTDB_TOKEN": "wrong"}) == []
        assert "asks for a token" in refused("runs", *remote)
        assert "unknown, revoked or expired" in refused("runs", *remote, "--token", "wrong")
        assert "needs admin" in refused("export", *remote, "--token", reader, "all.json")
        assert invoke("export", *remote, "--token", admin, "all.json").exit_code == 0
        assert "odd characters" in refused("runs", *remote, "--token", "se cret", code=2)
