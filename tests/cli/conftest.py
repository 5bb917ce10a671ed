"""The same rows twice: in a database that commands open themselves, and in one that a server has."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.cli.helpers import Twins, fill, options_of
from tests.postgres import Databases
from tests.server import serving


@pytest.fixture
def history(engine_name: str, request: pytest.FixtureRequest) -> Twins:
    """Twins with many runs, only to be read."""
    twins: Twins = request.getfixturevalue(f"_history_{engine_name}")
    return twins


@pytest.fixture
def twins(engine_name: str, request: pytest.FixtureRequest) -> Twins:
    """Twins to write to. Tests share them: each has runs of its own."""
    twins: Twins = request.getfixturevalue(f"_twins_{engine_name}")
    return twins


@pytest.fixture
def given(tmp_path: Path) -> Callable[..., str]:
    """Writes a JUnit file with a model of its own."""

    def write(name: str, model: str = "m", *, packed: bool = False) -> str:
        test = '<testcase name="a" time="1"/>'
        content = f'<testsuite name="{model}" timestamp="2026-02-03T04:05:06Z">{test}</testsuite>'.encode()
        file = tmp_path / name
        file.write_bytes(gzip.compress(content) if packed else content)
        return str(file)

    return write


@pytest.fixture(scope="session")
def _history_duckdb(duckdb_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    folder = tmp_path_factory.mktemp("history")
    with _serving_the_second(_files(duckdb_template, folder), folder, filled=True) as twins:
        yield twins


@pytest.fixture(scope="session")
def _twins_duckdb(duckdb_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    folder = tmp_path_factory.mktemp("twins")
    with _serving_the_second(_files(duckdb_template, folder), folder) as twins:
        yield twins


@pytest.fixture(scope="session")
def _history_postgresql(
    postgres_databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Twins]:
    with ExitStack() as lent:
        urls = [lent.enter_context(postgres_databases.migrated()) for _ in range(2)]
        folder = tmp_path_factory.mktemp("history")
        yield lent.enter_context(_serving_the_second(urls, folder, filled=True))


@pytest.fixture(scope="session")
def _twins_postgresql(
    postgres_databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Twins]:
    with ExitStack() as lent:
        urls = [lent.enter_context(postgres_databases.migrated()) for _ in range(2)]
        yield lent.enter_context(_serving_the_second(urls, tmp_path_factory.mktemp("twins")))


def _files(template: Path, folder: Path) -> list[str]:
    return [
        f"duckdb:///{shutil.copy(template, folder / name)}" for name in ("direct.duckdb", "served.duckdb")
    ]


@contextmanager
def _serving_the_second(urls: list[str], folder: Path, *, filled: bool = False) -> Iterator[Twins]:
    if filled:
        for url in urls:
            fill(url)
    with serving(folder, *options_of(urls[1])) as server:
        yield Twins((urls[0], urls[1]), server.url)
