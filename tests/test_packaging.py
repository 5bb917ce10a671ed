"""An installed wheel serves and migrates as the checkout does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the unpacked wheel; its dependencies come from this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    kept = (
        "app",
        "migrations",
        "tests",
        "pyproject.toml",
        "alembic.ini",
        "README.md",
        "LICENSE",
        "test_api_server.py",
    )
    source.mkdir()
    for name in kept:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source],
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(installed: Path, cwd: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TESTDB_")}
    environment["PYTHONPATH"] = str(installed)
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_in_it(installed: Path) -> None:
    for name in ("alembic.ini", "py.typed", "migrations/env.py", "migrations/script.py.mako"):
        assert (installed / "app" / name).is_file()
    checkout = {path.name for path in (ROOT / "migrations" / "versions").glob("*.py")}
    assert {path.name for path in (installed / "app" / "migrations" / "versions").glob("*.py")} == checkout
    assert sorted(path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")) == [
        "app"
    ]


def test_it_migrates(installed: Path, tmp_path: Path, empty_url: str) -> None:
    assert Path(run(installed, tmp_path, "-c", "import app; print(app.__file__)").strip()).is_relative_to(
        installed
    )
    assert "to 0002" in run(installed, tmp_path, "-m", "app.cli", "migrate", "--database-url", empty_url)
    config = run(installed, tmp_path, "-m", "app.cli", "migrate", "--print-config").strip()
    assert Path(config).is_relative_to(installed)
    alembic = ("-m", "alembic", "-c", config, "-x", f"url={empty_url}")
    assert "0002 (head)" in run(installed, tmp_path, *alembic, "current")
    assert "No new upgrade operations" in run(installed, tmp_path, *alembic, "check")
    run(installed, tmp_path, *alembic, "downgrade", "base")
    run(installed, tmp_path, *alembic, "upgrade", "head")
    assert "No new upgrade operations" in run(installed, tmp_path, *alembic, "check")


def test_it_answers(installed: Path, tmp_path: Path) -> None:
    script = (
        "from starlette.testclient import TestClient; from app.main import create_app\n"
        "with TestClient(create_app()) as client: print(client.get('/readyz').json()['status'])"
    )
    assert run(installed, tmp_path, "-c", script).strip() == "ready"
    assert (tmp_path / "data" / "test_runs.duckdb").is_file()
