"""The rules of the code that a machine can check."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from app.cli import main
from app.config import Settings
from app.main import create_app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SOURCES = sorted([*(ROOT / "app").rglob("*.py"), *(ROOT / "migrations").rglob("*.py")])
SERVICES = sorted((ROOT / "app" / "services").glob("*.py"))
ROUTERS = sorted((ROOT / "app" / "routers").glob("*.py"))
DIALECTS = re.compile("duckdb|postgres|psycopg", re.IGNORECASE)
# Where people are told what to write.
NAMES_FOR_PEOPLE = {"app/config.py", "app/cli/server.py", "app/__init__.py"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def texts(tree: ast.Module) -> Iterator[str]:
    """The string constants that are no docstrings, and the names."""
    prose = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            prose.add(id(node.value))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


@pytest.mark.parametrize("path", SERVICES, ids=name_of)
def test_a_service_knows_no_web_framework_and_never_commits(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not [name for name in imported(tree) if name.split(".")[0] in ("fastapi", "starlette")]
    called = {
        node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and hasattr(node.func, "attr")
    }
    assert not called & {"commit", "rollback", "begin"}


@pytest.mark.parametrize("path", ROUTERS, ids=name_of)
def test_a_router_has_no_query(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not [name for name in imported(tree) if name.split(".")[0] == "sqlalchemy" or name == "app.models"]


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_an_engine_is_named_in_its_layer_alone(path: Path) -> None:
    name = name_of(path)
    if name.startswith(("app/db/", "migrations/")) or name in NAMES_FOR_PEOPLE:
        pytest.skip("may name engines")
    # The helpers of app.db.ddl carry an engine in their own names.
    found = {text for text in texts(ast.parse(path.read_text())) if DIALECTS.search(text)}
    assert found <= {"duckdb_index", "postgresql_index", "postgresql_using"}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_module_is_small_and_says_what_it_is(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= 400
    assert ast.get_docstring(ast.parse(source)) or not source.strip()


def test_the_readme_has_every_endpoint() -> None:
    paths = create_app(Settings()).openapi()["paths"]
    wanted = [
        f"{method.upper()} {path.removeprefix('/api/test/db')}"
        for path, methods in paths.items()
        for method in methods
    ]
    assert len(wanted) > 25
    assert [endpoint for endpoint in wanted if f"`{endpoint}`" not in README] == []


def test_the_readme_has_every_setting() -> None:
    wanted = [f"`TESTDB_{name.upper()}` | `--{name.replace('_', '-')}`" for name in Settings.model_fields]
    assert [setting for setting in wanted if setting not in README] == []


def test_the_readme_has_every_command_and_option() -> None:
    missing = []
    for name, command in main.commands.items():
        row = re.search(rf"^\| `testdb {name}\b.*$", README, re.MULTILINE)
        if row is None:
            missing.append(name)
            continue
        for option in command.params:
            if isinstance(option, click.Option) and option.name not in Settings.model_fields:
                known = [*option.opts, *option.secondary_opts]
                if not any(f"`{text}`" in row[0] for text in known):
                    missing.append(f"{name} {known}")
    assert missing == []


def test_every_operation_is_described() -> None:
    for path, methods in create_app(Settings()).openapi()["paths"].items():
        for method, operation in methods.items():
            assert operation.get("description"), (method, path)
            if path != "/healthz":
                assert "422" in operation["responses"], (method, path)


def test_the_ci_script_finds_the_test_command_in_the_readme() -> None:
    block = README.split("<!-- test command -->")[1].split("```")[1]
    assert block.startswith("sh\n")
    assert "pytest" in block
    assert len(block.strip().splitlines()) == 2
