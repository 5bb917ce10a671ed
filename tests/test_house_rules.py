"""The rules of the code that a machine can check."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import click
import pytest
import testdb_pytest

from app.cli import main
from app.config import Settings
from app.main import create_app
from app.routers.sockets import router

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SOURCES = sorted([*(ROOT / "app").rglob("*.py"), *(ROOT / "migrations").rglob("*.py")])
SERVICES = sorted((ROOT / "app" / "services").glob("*.py"))
PLUGIN = sorted((ROOT / "app" / "plugin").rglob("*.py"))
ROUTERS = sorted((ROOT / "app" / "routers").glob("*.py"))
ENGINES = re.compile("duckdb|postgres|psycopg", re.IGNORECASE)
MAY_NAME_ENGINES: dict[str, set[str]] = {
    # What people are told to write.
    "app/config.py": {
        "data/test_runs.duckdb",
        "The embedded DuckDB file; it is created when it does not exist.",
        "SQLAlchemy URL of the database, for example `postgresql://user@host/name`; wins over `db_path`.",
    },
    "app/plugin/testdb_pytest/__init__.py": {
        "Address of a server, or a DuckDB file, that sessions are recorded in.",
        "Record this session: address of a server, or a DuckDB file.  [env: TESTDB]",
    },
    "app/plugin/testdb_pytest/session.py": {
        "--testdb takes the http:// address of a server, or the path of a DuckDB file",
    },
    # The helpers of app.db.ddl for indexes that one engine has.
    "app/models.py": {"duckdb_index", "postgresql_index", "postgresql_using"},
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(tree: ast.Module) -> set[str]:
    """The modules, and the names that are taken from them."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def names(tree: ast.Module) -> set[str]:
    """Every identifier."""
    found = {part for name in imported(tree) for part in name.split(".")}
    for node in ast.walk(tree):
        for attribute in ("id", "attr", "arg", "name"):
            value = getattr(node, attribute, None)
            if isinstance(value, str):
                found.add(value)
    return found


def constants(tree: ast.Module) -> set[str]:
    """Every text that is no docstring, and no other text that stands alone."""
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose
    }


@pytest.mark.parametrize("path", SERVICES, ids=name_of)
def test_a_service_knows_no_web_framework_and_never_commits(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not {name.split(".")[0] for name in imported(tree)} & {"fastapi", "starlette", "uvicorn"}
    assert not {name for name in imported(tree) if name.startswith(("app.routers", "app.cli", "app.main"))}
    assert not names(tree) & {"commit", "rollback", "begin", "sessionmaker", "create_engine", "make_engine"}


@pytest.mark.parametrize("path", ROUTERS, ids=name_of)
def test_a_router_has_no_query_and_no_session(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not {name for name in imported(tree) if name.startswith(("sqlalchemy", "app.models"))}
    assert not names(tree) & {"select", "session", "Session", "execute", "commit", "rollback", "transaction"}


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if not name_of(path).startswith(("app/db/", "migrations/"))],
    ids=name_of,
)
def test_an_engine_is_named_in_its_layer_alone(path: Path) -> None:
    tree = ast.parse(path.read_text())
    found = {text for text in names(tree) | constants(tree) if ENGINES.search(text)}
    assert found <= MAY_NAME_ENGINES.get(name_of(path), set())


def test_the_exceptions_are_needed() -> None:
    for name, texts in MAY_NAME_ENGINES.items():
        tree = ast.parse((ROOT / name).read_text())
        assert texts <= names(tree) | constants(tree)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_module_is_small_and_says_what_it_is(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= 400
    assert ast.get_docstring(ast.parse(source)) or not source.strip()


def test_nothing_is_left_to_do() -> None:
    left = re.compile(r"\b(?:TO" + "DO|FIX" + "ME|XX" + "X|HA" + r"CK)\b")
    files = [*SOURCES, *(ROOT / "tests").rglob("*.py"), ROOT / "README.md", ROOT / "pyproject.toml"]
    assert [name_of(path) for path in files if left.search(path.read_text())] == []


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


def test_the_readme_has_every_option_of_the_plugin() -> None:
    options = [""] + [f"-{name}" for name, *_ in testdb_pytest.OPTIONS]
    assert len(options) > 7
    missing = []
    for option in options:
        key = f"testdb{option.replace('-', '_')}"
        if f"| `--testdb{option}` | `{key.upper()}` | `{key}` |" not in README:
            missing.append(option)
    assert missing == []


def test_the_readme_has_every_websocket() -> None:
    sockets = [route.path for route in router.routes]
    assert sockets
    assert [path for path in sockets if f"`WS {path}`" not in README] == []


@pytest.mark.parametrize("path", PLUGIN, ids=name_of)
def test_the_plugin_needs_nothing_but_pytest(path: Path) -> None:
    """The sender loads the product, in its own process, for a target that is a file."""
    needed = {name.split(".")[0] for name in imported(ast.parse(path.read_text()))}
    others = {"pytest", "testdb_pytest", "__future__"} | ({"app"} if path.name == "sender.py" else set())
    assert needed <= set(sys.stdlib_module_names) | others


def test_every_operation_is_described() -> None:
    for path, methods in create_app(Settings()).openapi()["paths"].items():
        for method, operation in methods.items():
            assert operation.get("summary"), (method, path)
            assert operation.get("description"), (method, path)
            if path != "/healthz":  # it neither takes nor asks anything
                invalid = operation["responses"]["422"]["content"]
                assert set(invalid) == {"application/problem+json"}, (method, path)


def test_the_ci_script_finds_the_test_command_in_the_readme() -> None:
    block = README.split("<!-- test command -->")[1].split("```")[1]
    assert block.startswith("sh\n")
    assert "pytest" in block
    assert len(block.strip().splitlines()) == 2
