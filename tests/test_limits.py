"""How much, how many and how slowly: what a server takes over a real socket, and what it says to the rest."""

from __future__ import annotations

import gzip
import json
import re
import select
import socket
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx2
import pytest

from app.schemas.common import MAX_ITEMS
from tests.routers.helpers import B
from tests.server import TESTDB, Server, serving

PATIENCE = 1.0
PLACES = 3
BODY = 8 << 20
HEAD = f"POST {B}/runs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
BOMBS = {
    "billion laughs": f'<!DOCTYPE x [<!ENTITY l0 "lol">{LAUGHS}]><testsuite name="&l9;"/>',
    "quadratic": f'<!DOCTYPE x [<!ENTITY a "{"a" * 50_000}">]><testsuite name="{"&a;" * 50_000}"/>',
    "file": '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><testsuite name="x">&e;</testsuite>',
    "parameter": '<!DOCTYPE x [<!ENTITY % p SYSTEM "http://127.0.0.1:9/x"> %p;]><testsuite name="x"/>',
}

LISTS = b"[],"


def unpacking(head: bytes, unit: bytes, tail: bytes, size: int = 12 << 20) -> bytes:
    """A few kilobytes that become `size` bytes of JSON or XML."""
    packer = zlib.compressobj(1, wbits=31)
    block = unit * ((1 << 20) // len(unit))
    parts = [packer.compress(part) for part in (head, *[block] * (size >> 20), tail)]
    return b"".join([*parts, packer.flush()])


MANY_VALUES = {
    "question": ("POST", "/search", b'{"query":[' + LISTS * (2 << 20) + b"[]]}", "at most 4 MiB"),
    "document": (
        "PUT",
        "/run/r",
        b'{"model_name":"m","results":{"a":[' + LISTS * (10 << 20) + b"[]]}}",
        "more than 3000000 values",
    ),
    "array": ("POST", "/ingest", unpacking(b'[{"results":{"a":[', LISTS, b"[]]}}]"), "values"),
    "line": (
        "POST",
        "/ingest?",
        unpacking(b'{"results":{"a":[', LISTS, b"[]]}}"),
        "more than 3000000 values",
    ),
    "points": ("POST", "/run/r/metrics", unpacking(b"[", b'{"a":1,"b":1},', b"{}]", 30 << 20), "values"),
    "events": ("POST", "/run/r/events", unpacking(b'{"event":[', LISTS, b"[]]}"), "values"),
    "export": ("POST", "/import", unpacking(b'{"x":{"y":[', LISTS, b"[]]}}"), "values"),
    "elements": (
        "POST",
        "/import",
        unpacking(
            b"<testsuite>",
            b"<a %s/>" % b" ".join(b'%c=""' % letter for letter in b"bcdefghi"),
            b"</testsuite>",
            16 << 20,
        ),
        "more than 3000000 elements",
    ),
    "tag": ("POST", "/import", unpacking(b'<testsuite a="', b"x", b'"/>', 20 << 20), "more than 16 MiB"),
}
"""Method, path, body, and what is said of it; a path that ends with a question mark takes lines."""


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the limits that it has by itself."""
    with serving(tmp_path_factory.mktemp("roomy")) as server:
        yield server
        assert "Traceback" not in server.logged()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    options = (
        "--request-timeout",
        str(PATIENCE),
        "--max-requests",
        str(PLACES),
        "--max-body-mb",
        str(BODY >> 20),
    )
    with serving(tmp_path_factory.mktemp("limits"), *options) as server:
        yield server
        assert "Traceback" not in server.logged()


@contextmanager
def connected(
    server: Server, sent: str | bytes = b"", *, receives: int | None = None
) -> Iterator[socket.socket]:
    """A connection on which this was sent; `receives` is how much it takes before it is read."""
    url = httpx2.URL(server.url)
    with socket.socket() as connection:
        connection.settimeout(20)
        if receives is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
        connection.connect((url.host, url.port or 80))
        connection.sendall(sent.encode("latin-1") if isinstance(sent, str) else sent)
        yield connection


def answered(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of what the server says until it closes; 0 when it says nothing."""
    said = b""
    while chunk := connection.recv(65536):
        said += chunk
    if not said:
        return 0, {}, b""
    head, _, body = said.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return (
        int(status.split()[1]),
        {n.lower(): v for n, _, v in (line.partition(": ") for line in lines)},
        body,
    )


def problem(connection: socket.socket, status: int) -> str:
    found, headers, body = answered(connection)
    assert found == status, body
    assert headers["content-type"] == "application/problem+json"
    assert headers["connection"] == "close"
    told = json.loads(body)
    assert told["status"] == status
    return str(told["detail"])


def dripping(connection: socket.socket, part: bytes) -> None:
    """Sends the part again and again, a fifth of the patience apart, until the server answers."""
    end = time.monotonic() + 5 * PATIENCE
    while not select.select([connection], [], [], PATIENCE / 5)[0]:
        assert time.monotonic() < end
        connection.sendall(part)


def test_a_client_that_sends_slowly_is_told_so(server: Server) -> None:
    began = time.monotonic()
    with ExitStack() as stack:
        silent, head, body = (
            stack.enter_context(connected(server, sent))
            for sent in ("", HEAD, f"{HEAD}Content-Length: 100\r\n\r\n{{")
        )
        slow_head = stack.enter_context(connected(server, HEAD))
        dripping(slow_head, b"X: y\r\n")
        slow_body = stack.enter_context(connected(server, f"{HEAD}Content-Length: 9000\r\n\r\n"))
        dripping(slow_body, b" ")
        assert answered(silent)[0] == 0
        assert "headers arrive too slowly" in problem(head, 408)
        assert "body arrives too slowly" in problem(body, 408)
        assert "headers" in problem(slow_head, 408)
        assert "body" in problem(slow_body, 408)
    assert time.monotonic() - began < 8 * PATIENCE


def test_a_large_body_may_take_longer_than_a_pause(server: Server) -> None:
    document = json.dumps({"run_id": "steady", "model_name": "m", "error": "x" * 30_000}).encode()
    with connected(
        server, f"{HEAD}Connection: close\r\nContent-Length: {len(document)}\r\n\r\n"
    ) as connection:
        for start in range(0, len(document), 5000):
            connection.sendall(document[start : start + 5000])
            time.sleep(PATIENCE / 4)
        assert answered(connection)[0] == 201


def test_a_client_that_is_answered_early_may_go_on_sending(server: Server) -> None:
    rest = b"x" * 300_000
    with connected(
        server, f"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(rest)}\r\n\r\n"
    ) as sent:
        said = b""
        while not said.endswith(b"}"):
            said += sent.recv(4096)
        assert said.startswith(b"HTTP/1.1 404 ")
        sent.sendall(rest)
        sent.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert answered(sent)[0] == 200


def test_more_requests_than_places(server: Server) -> None:
    busy = f"{HEAD}Content-Length: 9\r\n\r\n"
    with ExitStack() as stack:
        for _ in range(PLACES):
            stack.enter_context(connected(server, busy))
        time.sleep(0.3)
        refused = httpx2.get(f"{server.url}{B}/runs")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.headers["content-type"] == "application/problem+json"
        assert httpx2.get(f"{server.url}/healthz").status_code == 200
    end = time.monotonic() + 5 * PATIENCE
    while httpx2.get(f"{server.url}{B}/runs").status_code != 200:
        assert time.monotonic() < end


def taking(connection: socket.socket, size: int) -> Iterator[bytes]:
    """What the server sends, in parts of at most so many bytes, a fifth of the patience apart."""
    while part := connection.recv(size):
        yield part
        time.sleep(PATIENCE / 5)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux tells that nothing is taken")
def test_clients_that_take_nothing_lose_their_places(server: Server) -> None:
    large = "GET /swagger/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n"
    with ExitStack() as stack:
        reading = stack.enter_context(
            connected(server, f"{large}Connection: close\r\n\r\n", receives=1 << 16)
        )
        for _ in range(PLACES - 1):
            stack.enter_context(connected(server, f"{large}\r\n" * 20, receives=4096))
        taken = sum(map(len, taking(reading, 1 << 17)))
        end = time.monotonic() + 10 * PATIENCE
        for _ in range(PLACES):
            stack.enter_context(connected(server, f"{large}\r\n" * 20, receives=4096))
        time.sleep(PATIENCE / 2)
        while httpx2.get(f"{server.url}{B}/runs").status_code != 200:
            assert time.monotonic() < end
    assert taken > 1_600_000


def test_idle_connections_leave_descriptors_for_the_database(tmp_path: Path) -> None:
    few = ("sh", "-c", 'ulimit -n 200; exec "$@"', "sh", *TESTDB, "serve")
    with serving(tmp_path, command=few) as server, ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(connected(server))
        for n in range(5):
            document = {"model_name": "m", "error": "x" * 200_000}
            response = httpx2.put(f"{server.url}{B}/run/r{n}", json=document, timeout=20)
            assert response.status_code == 201, response.text
        assert len(list(Path(f"/proc/{server.process.pid}/fd").iterdir())) < 150
        busy = f"{HEAD}Content-Length: 9\r\n\r\n"
        for _ in range(100):
            stack.enter_context(connected(server, busy))
        with connected(server) as late:
            assert "connections at work" in problem(late, 503)


def test_headers(server: Server) -> None:
    with connected(server, f"GET / HTTP/1.1\r\nHost: localhost\r\nX: {'a' * 70_000}") as connection:
        assert "64 KiB" in problem(connection, 431)
    large = {"X": "a" * 66_000}
    assert httpx2.get(f"{server.url}/healthz", headers=large).status_code == 431
    assert httpx2.get(f"{server.url}/healthz", headers={"X": "a" * 30_000}).status_code == 200
    with connected(server, "NONSENSE\r\n\r\n") as connection:
        assert "not a valid HTTP request" in problem(connection, 400)


@pytest.mark.parametrize("path", [f"{B}/runs", "/nowhere"], ids=["read", "answered without it"])
@pytest.mark.parametrize("line", [f"X: {'a' * 998}\r\n", "0" * 1003], ids=["lines", "one line"])
def test_lines_of_and_behind_chunks(server: Server, path: str, line: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    last = "0\r\nX: " if line.startswith("0") else "0\r\n"
    with connected(server, f"{head}Transfer-Encoding: chunked\r\n\r\n{last}") as connection:
        if path == "/nowhere":
            while not connection.recv(4096).endswith(b"}"):
                pass
        for _ in range(20):
            connection.sendall(line.encode() * 20)
            if select.select([connection], [], [], 0.02)[0]:
                break
        assert "64 KiB" in problem(connection, 431)


def most(server: Server) -> int:
    """Bytes of memory that the server had at its largest."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10


def test_what_unpacks_to_much_takes_no_memory(server: Server) -> None:
    packer, mebibyte = zlib.compressobj(9, wbits=31), bytes(1 << 20)
    bomb = b"".join(packer.compress(mebibyte) for _ in range(512)) + packer.flush()
    assert len(bomb) < 1 << 20
    before = most(server)
    for path in ("/ingest", "/import", "/run/x/metrics", "/run/x/events"):
        headers = {"Content-Type": "application/json"}
        response = httpx2.post(f"{server.url}{B}{path}", content=bomb, headers=headers, timeout=60)
        assert response.status_code == 413, response.text
    assert most(server) - before < 64 << 20


@pytest.mark.parametrize("kind", MANY_VALUES)
def test_many_values_take_no_memory(roomy: Server, kind: str) -> None:
    method, path, body, said = MANY_VALUES[kind]
    media_type = "application/x-ndjson" if path.endswith("?") else "application/json"
    before = most(roomy)
    response = httpx2.request(
        method, f"{roomy.url}{B}{path}", content=body, headers={"Content-Type": media_type}, timeout=60
    )
    assert response.status_code == 413, response.text
    assert said in response.json()["detail"]
    assert most(roomy) - before < 400 << 20


def test_what_slow_clients_send_is_held_up_to_a_limit(roomy: Server) -> None:
    """Nine bodies, of which the last bytes are still on their way."""
    size = 63 << 20
    before = most(roomy)
    with ExitStack() as stack:
        sending = [
            stack.enter_context(connected(roomy, f"{HEAD}Content-Length: {size}\r\n\r\n")) for _ in range(9)
        ]
        for connection in sending:
            with suppress(OSError):  # it may be answered before
                connection.sendall(bytes(size - 1))
        (refused,) = select.select(sending, [], [], 20)[0]
        assert refused.recv(12) == b"HTTP/1.1 503"
        small = httpx2.post(f"{roomy.url}{B}/runs", json={"model_name": "small"})
        assert small.status_code == 201
    assert most(roomy) - before < 700 << 20


def test_large_answers_are_kept_for_slow_clients_up_to_a_limit(roomy: Server) -> None:
    document = {"model_name": "m", "results": {"text": "x" * (60 << 20)}}
    assert httpx2.put(f"{roomy.url}{B}/run/large", json=document, timeout=60).status_code == 201
    ask = f"GET {B}/run/large HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with ExitStack() as stack:
        clients = [stack.enter_context(connected(roomy, ask, receives=4096)) for _ in range(10)]
        said = Counter(client.recv(12) for client in clients)
        assert said == {b"HTTP/1.1 200": 8, b"HTTP/1.1 503": 2}
        assert httpx2.get(f"{roomy.url}{B}/runs").status_code == 200


def test_signs_in_a_text_are_no_values(roomy: Server) -> None:
    text = ',[{\\"' * 1_200_000
    for path, body in (("/runs", {"model_name": "m", "error": text}), ("/ingest", [{"model_name": text}])):
        response = httpx2.post(f"{roomy.url}{B}{path}", json=body, timeout=60)
        assert response.status_code == (201 if path == "/runs" else 422)


@pytest.mark.parametrize("kind", ["application/json", "application/x-ndjson"])
def test_more_runs_than_a_request_may_hold(roomy: Server, kind: str) -> None:
    runs = [b'{"model_name":"a"}'] * (MAX_ITEMS + 1)
    body = b"\n".join(runs) if kind.endswith("ndjson") else b"[" + b",".join(runs) + b"]"
    response = httpx2.post(
        f"{roomy.url}{B}/ingest", content=gzip.compress(body, 1), headers={"Content-Type": kind}, timeout=60
    )
    assert response.status_code == 422
    assert f"at most {MAX_ITEMS} runs" in response.json()["detail"]
    assert httpx2.get(f"{roomy.url}{B}/runs?model_name=a").json() == []


def test_what_follows_a_gzip_stream_is_not_waited_for(server: Server) -> None:
    head = f"{HEAD.replace('/runs', '/ingest')}Connection: close\r\nContent-Length: {BODY}\r\n\r\n"
    with connected(server, head) as connection:
        connection.sendall(gzip.compress(b"[]") + bytes(100_000))
        status, _, body = answered(connection)
    assert status == 422
    assert "goes on behind its gzip stream" in json.loads(body)["detail"]


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_xml_bombs(server: Server, bomb: str, pack: type[bytes]) -> None:
    began = time.monotonic()
    response = httpx2.post(f"{server.url}{B}/import", content=pack(BOMBS[bomb].encode()), timeout=60)
    assert response.status_code == 422
    assert "root:" not in response.text
    assert time.monotonic() - began < 5


def test_what_is_nested_too_deeply(server: Server) -> None:
    for depth in (101, 100_000):
        nested = '{"run_id": "deep", "model_name": "m", "results": {"a": ' + "[" * depth + "]" * depth + "}}"
        for path, body in (("/runs", nested), ("/ingest", f"[{nested}]")):
            response = httpx2.post(
                f"{server.url}{B}{path}", content=body, headers={"Content-Type": "application/json"}
            )
            assert response.status_code == 422
            assert re.search("deep|recursion", response.json()["detail"])
    assert httpx2.get(f"{server.url}{B}/run/deep").status_code == 404


def test_no_path_leads_out(server: Server, tmp_path: Path) -> None:
    artifact = tmp_path / "secret.txt"
    artifact.write_text("very secret")
    document = {"run_id": "leak", "model_name": "m", "result_file": str(artifact)}
    document["artifacts"] = [{"artifact_path": str(artifact)}]  # type: ignore[assignment]
    assert httpx2.post(f"{server.url}{B}/runs", json=document).status_code == 201
    up = "%2e%2e%2f" * 12
    for target in (
        f"{B}/exports/{up}etc%2fpasswd/file",
        f"{B}/exports/../../../../../../../../etc/passwd",
        f"{B}/exports/%2fetc%2fpasswd/file",
        f"{B}/exports/x%00/file",
        f"{B}/exports/..%5c..%5cx/file",
        f"{B}/run/leak/artifacts/{artifact}",
        f"{B}/run/{up}{artifact}",
        f"/docs/{up}etc/passwd",
        f"/{up}etc/passwd",
        str(artifact),
    ):
        request = f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        with connected(server, request) as connection:
            status, _, body = answered(connection)
        assert status in (404, 405), target
        assert b"root:" not in body
        assert b"very secret" not in body
    for name in (
        "CON",
        "nul.json",
        "com1.tar.json",
        "LPT9",
        "a.",
        "a ",
        "a:b",
        "C:x",
        "a?",
        'a"b',
        "a|b",
        "NUL .",
    ):
        response = httpx2.post(f"{server.url}{B}/export", json={"filename": name, "overwrite": True})
        assert response.status_code == 422, name
