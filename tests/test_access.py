"""Who gets in: tokens and their scopes, addresses, and pages of other sites. Through a real server."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from socket import create_connection
from typing import Any

import httpx2
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import text
from starlette.testclient import TestClient
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from app.config import Settings
from app.main import create_app
from app.services.tokens import TokenFile
from app.vocabulary import Scope
from tests.cli.helpers import invoke, refused
from tests.plugin.sessions import session
from tests.routers.helpers import B
from tests.server import Server, serving

SCOPES = ["read", "write", "admin"]
OPEN = {"/healthz", "/readyz"}
SITE = "https://ci.example.com"


@dataclass
class Guarded:
    """A server that asks for tokens, and one of each scope."""

    server: Server
    client: httpx2.Client
    file: Path
    tokens: dict[str, str]

    def create(self, name: str, *options: str) -> str:
        result = invoke("token", "create", name, "--token-file", str(self.file), *options)
        assert result.exit_code == 0, result.output
        return result.stdout.strip()

    def ask(self, path: str, token: str | None = None, method: str = "GET", **given: Any) -> httpx2.Response:
        headers = given.pop("headers", {}) | ({"Authorization": f"Bearer {token}"} if token else {})
        return self.client.request(method, path, headers=headers, **given)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    options = ("--token-file", "tokens", "--log-level", "debug", "--log-format", "json")
    sites = ("--allowed-origins", SITE, "--allowed-hosts", "testdb.example.com,other")
    with (
        serving(folder, *options, *sites) as server,
        httpx2.Client(base_url=server.url, timeout=60) as client,
    ):
        found = Guarded(server, client, folder / "tokens", {})
        assert found.ask(f"{B}/runs").status_code == 200  # as long as there is no token
        found.tokens = {scope: found.create(scope, "--scope", scope) for scope in SCOPES}
        until(lambda: found.ask(f"{B}/runs").status_code == 401)
        yield found
        secrets = [token.removeprefix("testdb_") for token in found.tokens.values()]
        assert not [secret for secret in secrets if secret in server.logged()]


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


def refusal(response: httpx2.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.headers.get("www-authenticate") == "Bearer") == (status == 401)
    return str(response.json()["detail"])


def test_every_endpoint_asks_for_its_scope(guarded: Guarded) -> None:
    document = guarded.ask("/openapi.json").json()
    scheme = document["components"]["securitySchemes"]["token"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    needed = {}
    for path, methods in document["paths"].items():
        if path in OPEN:
            assert guarded.ask(path).status_code == 200
            assert not any("security" in operation for operation in methods.values())
            continue
        for method, operation in methods.items():
            ((scope,),) = [found["token"] for found in operation["security"]]
            needed[f"{method.upper()} {path}"] = scope
            url = re.sub(r"\{\w+\}", "x", path)
            refusal(guarded.ask(url, None, method), 401)
            for number, given in enumerate(SCOPES):
                response = guarded.ask(url, guarded.tokens[given], method)
                if number < SCOPES.index(scope):
                    assert f"needs {scope}" in refusal(response, 403)
                else:
                    assert response.status_code not in (401, 403, 500), (method, path)
            assert {"401", "403"} <= set(operation["responses"])
    assert guarded.ask("/docs").status_code == 200
    reads = {endpoint for endpoint, scope in needed.items() if scope == "read"}
    assert {endpoint for endpoint in reads if not endpoint.startswith("GET ")} <= {
        f"POST {B}/search",
        f"POST {B}/query",
    }
    assert all(needed[e] == "admin" for e in needed if e.startswith("DELETE") or "/export" in e)
    assert needed[f"POST {B}/import"] == needed["POST /api/test/run"] == "write"


def test_the_token_is_looked_at_before_the_body(guarded: Guarded) -> None:
    for token in (None, "testdb_wrong", guarded.tokens["read"] + "x", "ü"):
        headers = {"Authorization": f"Bearer {token}".encode()} if token else {}
        response = guarded.ask(f"{B}/runs?nonsense=1", method="POST", content=b"{", headers=headers)
        assert "token" in refusal(response, 401)
    for header in ("Basic YTpi", "Bearer", guarded.tokens["read"], f"Bearer {guarded.tokens['read']} x"):
        refusal(guarded.ask(f"{B}/runs", headers={"Authorization": header}), 401)
    assert guarded.ask(f"{B}/runs?token={guarded.tokens['read']}", headers={}).status_code == 401


def test_a_stranger_learns_only_whether_the_server_is_ready(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.token_file = tmp_path / "tokens"
    token = TokenFile(settings.token_file).create("r", Scope.READ, None)
    app = create_app(settings, lost="/a/path/of/the/machine")
    with TestClient(app) as client:

        def ask(given: str = "none") -> httpx2.Response:
            return client.get("/readyz", headers={"Authorization": f"Bearer {given}"})

        told = ask(token).json()
        assert told.pop("lost") == "/a/path/of/the/machine"
        monkeypatch.setattr(ScriptDirectory, "from_config", None)  # the migrations are not read anew
        assert told == ask().json() == client.get("/readyz").json()
        newer = text("UPDATE alembic_version SET version_num = '0999'")
        app.state.database.write(lambda session: session.execute(newer))
        assert "newer version" in refusal(ask(token), 503)
        for stranger in (ask(), client.get("/readyz")):
            assert refusal(stranger, 503) == "The server is not ready; ask with a token, and it says why."


def test_a_running_server_notices_the_end_of_a_token(guarded: Guarded) -> None:
    gone, short = (
        guarded.create("gone", "--scope", "read"),
        guarded.create("s", "--scope", "read", "--expires", "3s"),
    )
    until(lambda: guarded.ask(f"{B}/runs", short).status_code == 200)
    assert guarded.ask(f"{B}/runs", gone).status_code == 200
    assert invoke("token", "revoke", "gone", "--token-file", str(guarded.file)).exit_code == 0
    until(lambda: guarded.ask(f"{B}/runs", gone).status_code == 401)
    until(lambda: guarded.ask(f"{B}/runs", short).status_code == 401)
    assert guarded.ask(f"{B}/runs", guarded.tokens["read"]).status_code == 200


def test_a_websocket_asks_for_a_token(guarded: Guarded) -> None:
    document = {"run_id": "watched", "model_name": "m", "status": "running"}
    assert guarded.ask(f"{B}/runs", guarded.tokens["write"], "POST", json=document).status_code == 201
    address = guarded.server.url.replace("http", "ws", 1) + "/api/test/ws/watched"

    def watched(uri: str = address, **given: Any) -> tuple[str | None, Any]:
        place = httpx2.URL(guarded.server.url)
        line = create_connection((place.host, place.port or 80))
        with connect(uri, sock=line, **given) as socket:
            assert json.loads(socket.recv())["run_id"] == "watched"
            socket.send("cancel")
            return socket.subprotocol, json.loads(socket.recv())

    def header(scope: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {guarded.tokens[scope]}"}

    offered = [Subprotocol("testdb"), Subprotocol(f"bearer.{guarded.tokens['read']}")]
    told, answer = watched(subprotocols=offered)
    assert told == "testdb"
    assert "needs write" in answer["error"]
    assert "needs write" in watched(additional_headers=header("read"))[1]["error"]
    assert watched(additional_headers=header("write")) == (None, {"cancelled": False})
    wrong = [Subprotocol("testdb"), Subprotocol("bearer.wrong")]
    for status, given in (
        (401, {}),
        (401, {"subprotocols": wrong}),
        (401, {"uri": f"{address}?token={guarded.tokens['read']}"}),
        (403, {"additional_headers": header("admin"), "origin": "http://evil.example.com"}),
        (403, {"additional_headers": header("admin"), "uri": "ws://evil.example.com/api/test/ws/watched"}),
    ):
        with pytest.raises(InvalidStatus) as denied:
            watched(**given)
        assert denied.value.response.status_code == status
        assert json.loads(denied.value.response.body)["status"] == status
    assert "completing handshake" not in guarded.server.logged()


def test_pages_of_other_sites_are_refused(guarded: Guarded) -> None:
    port = httpx2.URL(guarded.server.url).port
    for host in (
        f"localhost:{port}",
        "LOCALHOST",
        "127.0.0.1",
        "[::1]:80",
        "testdb.example.com:443",
        "other.",
    ):
        for origin in (f"http://{host.lower()}", SITE, ""):
            headers = {"Host": host} | ({"Origin": origin} if origin else {})
            assert guarded.ask("/healthz", headers=headers).status_code == 200, headers
    for host in (
        "evil.example.com",
        "127.0.0.1.evil.example.com",
        "localhost.evil",
        "a@localhost",
        "1:2:3",
        ":80",
    ):
        assert "ALLOWED_HOSTS" in refusal(guarded.ask("/healthz", headers={"Host": host}), 403)
    for origin in (
        "http://evil.example.com",
        "null",
        f"http://localhost:{port}",
        SITE + ".evil",
        "127.0.0.1",
    ):
        headers = {"Origin": origin, "Content-Type": "text/plain"}
        response = guarded.ask(f"{B}/runs", guarded.tokens["write"], "POST", headers=headers, content=b"{}")
        assert "ALLOWED_ORIGINS" in refusal(response, 403)
        assert "access-control-allow-origin" not in response.headers
    both = [("Origin", "http://evil.example.com"), ("Origin", SITE)]
    for headers in (both, both[::-1]):
        refusal(guarded.client.get("/healthz", headers=headers), 403)


@pytest.mark.parametrize(
    ("site", "mode", "more", "method", "status"),
    [
        ("cross-site", "no-cors", {}, "GET", 403),
        ("cross-site", "no-cors", {"Sec-Fetch-Dest": "image"}, "GET", 403),
        ("same-site", "no-cors", {"Sec-Fetch-Dest": "script"}, "GET", 403),
        ("cross-site", "navigate", {"Sec-Fetch-Dest": "iframe"}, "GET", 403),
        ("cross-site", "navigate", {"Sec-Fetch-Dest": "document"}, "POST", 403),
        ("cross-site", "cors", {"Origin": "http://evil.example.com"}, "GET", 403),
        ("cross-site", "", {}, "GET", 403),
        ("cross-site", "cors", {"Origin": SITE}, "GET", 200),
        ("cross-site", "navigate", {"Sec-Fetch-Dest": "document"}, "GET", 200),
        ("same-site", "navigate", {}, "GET", 200),
        ("same-origin", "cors", {}, "GET", 200),
        ("same-origin", "no-cors", {"Sec-Fetch-Dest": "image"}, "GET", 200),
        ("none", "navigate", {"Sec-Fetch-Dest": "document"}, "GET", 200),
    ],
)
def test_what_a_page_loads_without_an_origin(
    guarded: Guarded, site: str, mode: str, more: dict[str, str], method: str, status: int
) -> None:
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, **more}
    for path in (f"{B}/runs", "/healthz", "/docs") if method == "GET" else (f"{B}/runs",):
        response = guarded.ask(path, guarded.tokens["read"], method, headers=headers)
        if status == 403:
            assert "page of another site" in refusal(response, 403)
        assert response.status_code == status


def test_no_answer_is_shown_in_a_page_or_taken_for_another_kind(guarded: Guarded) -> None:
    evil = {"Host": "evil.example.com"}
    paths = ("/docs", "/healthz", f"{B}/runs", "/nothing")
    for response in (*map(guarded.ask, paths), guarded.ask("/docs", headers=evil)):
        assert response.headers["x-frame-options"] == "DENY"
        assert response.headers["x-content-type-options"] == "nosniff"
    scripts = re.findall(r'(?:src|href)="([^"]+\.(?:js|css))"', guarded.ask("/docs").text)
    assert scripts
    for script in scripts:
        kind = guarded.ask(script).headers["content-type"]
        assert re.match("text/(css|javascript)|application/javascript", kind), "browsers insist on it"


def test_only_allowed_origins_get_cors_headers(guarded: Guarded) -> None:
    asks = {"Access-Control-Request-Method": "DELETE", "Access-Control-Request-Headers": "authorization"}
    allowed = guarded.ask(f"{B}/run/x", method="OPTIONS", headers={"Origin": SITE, **asks})
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == SITE
    answered = guarded.ask(f"{B}/runs", guarded.tokens["read"], headers={"Origin": SITE})
    assert answered.headers["access-control-allow-origin"] == SITE
    assert "access-control-allow-credentials" not in answered.headers
    assert "access-control-allow-origin" not in guarded.ask(f"{B}/runs", guarded.tokens["read"]).headers


def test_other_addresses_need_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    public = ("--host", "0.0.0.0")
    assert "testdb token create" in refused("serve", *public)
    assert list(tmp_path.iterdir()) == []
    with serving(tmp_path, env={"TESTDB_HOST": "0.0.0.0", "TESTDB_INSECURE": "true"}) as server:
        assert httpx2.get(f"{server.url}{B}/runs").status_code == 200
    assert invoke("token", "create", "x", "--scope", "read", "--expires", "1h").exit_code == 0
    with serving(tmp_path, *public) as server:
        assert httpx2.get(f"{server.url}{B}/runs").status_code == 401
        (tmp_path / "data" / "test_runs.duckdb.tokens").unlink()
        time.sleep(1.1)
        assert httpx2.get(f"{server.url}{B}/runs").status_code == 401
    assert invoke("token", "create", "x", "--scope", "read", "--expires", "1s").exit_code == 0
    time.sleep(1.1)
    assert "there is no token" in refused("serve", *public)


def test_a_refused_session_ends_as_it_would(guarded: Guarded, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_good(): pass\n")
    for token, said in ((guarded.tokens["read"], "needs write"), ("wrong", "unknown, revoked")):
        options = ("--testdb", guarded.server.url, "--testdb-spool", "spool")
        done = session(tmp_path, *options, env={"TESTDB_TOKEN": token})
        assert (done.code, done.output.count("testdb: ")) == (0, 1)
        assert said in done.told
    done = session(tmp_path, *options, "--testdb-token", guarded.tokens["write"])
    assert guarded.ask(f"{B}/run/{done.run_id}", guarded.tokens["read"]).json()["status"] == "completed"
