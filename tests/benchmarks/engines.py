"""The databases of a benchmark: each contestant has its own copy of the same history."""

from __future__ import annotations

import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
from sqlalchemy import make_url

from app.db.migrate import migrate
from tests.benchmarks.data import fill
from tests.benchmarks.limits import DuckDBLimit, Limit, PostgreSQLLimit
from tests.benchmarks.usage import parent
from tests.postgres import postgres_server


class Engine(ABC):
    """Where databases are made."""

    name: str

    pids: Sequence[int] = ()
    """The processes that work for a server beside its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: dict[int, str] = {}

    def database(self, name: str, runs: int) -> str:
        """The URL of a new database with this many runs, made anew or copied from one like it."""
        if runs not in self._made:
            self._made[runs] = self._new(f"history_{runs}")
            migrate(self._made[runs])
            fill(self._made[runs], runs)
        return self._copy(self._made[runs], name)

    @abstractmethod
    def _new(self, name: str) -> str: ...

    @abstractmethod
    def _copy(self, url: str, name: str) -> str: ...

    @abstractmethod
    def limit(self, url: str) -> Limit:
        """A contestant that works straight on the database."""

    @abstractmethod
    def mlflow_store(self, name: str) -> str:
        """The URL of an empty database for MLflow, of the engine or its nearest relative."""


class DuckDB(Engine):
    name = "duckdb"

    def _new(self, name: str) -> str:
        return f"duckdb:///{self.folder / name}.duckdb"

    def _copy(self, url: str, name: str) -> str:
        shutil.copy(url.removeprefix("duckdb:///"), self.folder / f"{name}.duckdb")
        return self._new(name)

    def limit(self, url: str) -> Limit:
        return DuckDBLimit(Path(url.removeprefix("duckdb:///")))

    def mlflow_store(self, name: str) -> str:
        return f"sqlite:///{self.folder / name}.db"


class PostgreSQL(Engine):
    name = "postgresql"

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(folder)
        self._url = url
        self._names: list[str] = []
        with psycopg.connect(url) as connection:
            if connection.info.host.startswith("/"):  # a socket of this machine, so a process of it
                self.pids = [parent(connection.info.backend_pid)]

    def close(self) -> None:
        """Drops the databases: the server may be somebody else's."""
        with psycopg.connect(self._url, autocommit=True) as connection:
            for name in self._names:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _new(self, name: str) -> str:
        return self._create(name, "template0")

    def _copy(self, url: str, name: str) -> str:
        return self._create(name, str(make_url(url).database))

    def _create(self, name: str, template: str) -> str:
        name = f"benchmark_{name}_{uuid.uuid4().hex[:8]}"
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        self._names.append(name)
        return make_url(self._url).set(database=name).render_as_string(hide_password=False)

    def limit(self, url: str) -> Limit:
        return PostgreSQLLimit(url, self.pids, self.folder)

    def mlflow_store(self, name: str) -> str:
        return self._new(name)


@contextmanager
def engine(name: str, folder: Path) -> Iterator[Engine]:
    """The engine of that name, with `folder` for its files."""
    folder.mkdir()
    if name == DuckDB.name:
        yield DuckDB(folder)
    else:
        with postgres_server() as url, closing(PostgreSQL(folder, url)) as made:
            yield made
