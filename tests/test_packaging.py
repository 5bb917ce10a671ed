"""An installed wheel serves and migrates as the checkout does."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import httpx2
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from app.db.migrate import config_file
from tests.server import environment, serving

ROOT = Path(__file__).parent.parent
SOURCES = [
    "app",
    "migrations",
    "tests",
    "pyproject.toml",
    "alembic.ini",
    "README.md",
    "LICENSE",
    "test_api_server.py",
]
HEAD = ScriptDirectory.from_config(Config(config_file())).get_current_head()


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that no build leaves anything in the checkout, and without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def installed(wheel: Path) -> Path:
    """A folder with the installed wheel; what it depends on comes from this environment."""
    site = wheel.parent / "site"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install"]
    done = subprocess.run(
        [*pip, "--no-deps", "--no-index", "--no-compile", "--target", site, wheel],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return site


def python(installed: Path, folder: Path, *arguments: str, env: dict[str, str] | None = None) -> str:
    """What Python prints that finds the installed wheel first, in a working directory elsewhere."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment({"PYTHONPATH": str(installed), **(env or {})}),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_in_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        described = archive.read(metadata).decode()
    code = {path.relative_to(ROOT).as_posix() for path in (ROOT / "app").rglob("*.py")}
    code = {name.removeprefix("app/plugin/") for name in code}
    suite = {"suite.toml", "pytest.ini", "tiny_models/weights/tiny-mlp.json"}
    versions = {path.name for path in (ROOT / "migrations" / "versions").glob("*.py")}
    assert versions
    scripts = {"env.py", "script.py.mako", *(f"versions/{name}" for name in versions)}
    migrations = {f"app/migrations/{name}" for name in scripts}
    assert names >= code | migrations | {"app/py.typed", "app/alembic.ini"}
    assert names >= {f"app/suites/builtin/{name}" for name in suite}
    tops = {name.split("/")[0] for name in names}
    assert tops == {"app", "testdb_pytest"}, "no tests, and no second copy of the migrations"
    assert "Name: test-suite-db" in described
    assert "# Test Suite Database" in described


ALEMBIC = """
import sys
from alembic.config import main
for command in ["current", "check", "downgrade base", "upgrade head", "check"]:
    main(["-c", sys.argv[1], *command.split()])
import app.main
print(app.main.__file__)
"""


def test_it_migrates(installed: Path, tmp_path: Path, empty_url: str) -> None:
    env = {"TESTDB_DATABASE_URL": empty_url}
    assert f" to {HEAD}." in python(installed, tmp_path, "-m", "app.cli", "migrate", env=env)
    config = python(installed, tmp_path, "-m", "app.cli", "migrate", "--print-config").strip()
    assert Path(config).is_relative_to(installed)
    *told, imported = python(installed, tmp_path, "-c", ALEMBIC, config, env=env).splitlines()
    assert told == [f"{HEAD} (head)", *["No new upgrade operations detected."] * 2]
    assert Path(imported).is_relative_to(installed)


def test_it_serves(installed: Path, tmp_path: Path) -> None:
    with serving(tmp_path, env={"PYTHONPATH": str(installed)}) as server:
        ready = httpx2.get(f"{server.url}/readyz").json()
        assert (ready["status"], ready["revision"]) == ("ready", HEAD)
        assert httpx2.get(f"{server.url}/docs").status_code == 200
        answer = httpx2.post(f"{server.url}/api/test/run", json={"model_name": "tiny-mlp"})
        run_id = answer.raise_for_status().json()["run_id"]
        while httpx2.get(f"{server.url}/api/test/results/{run_id}").status_code == 409:
            time.sleep(0.1)
        results = httpx2.get(f"{server.url}/api/test/results/{run_id}").json()
        assert (results["status"], results["results"]["tests_failed"]) == ("completed", 0), results
    assert (tmp_path / "data" / "test_runs.duckdb").is_file()
