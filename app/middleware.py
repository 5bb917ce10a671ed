"""What happens to every request: it is logged, refused from other sites, and bounded in number and size."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Iterable, Mapping
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.config import is_loopback
from app.errors import AppError, Busy, Forbidden, HeadersTooLarge, TooLarge, TooSlow
from app.routers.problems import render_bug, render_error
from app.services.metrics import Requests

logger = logging.getLogger("testdb.requests")


SLOWEST = 4096
"""Bytes a second that a body must not fall behind for long."""
MAX_HEAD = 64 << 10
"""Bytes of the first line and the headers of a request."""
MOST_ANSWERED = 512 << 20
"""Bytes of answers in memory, of all requests together."""
SMALL = 64 << 10
"""Bytes that always are taken or given, however much others have."""
TO_BROWSERS = {"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY"}
"""No answer is taken for something else than it is, or shown inside a page."""


class SameSite:
    """Answers 403 to pages of other sites, which a browser on this machine would let in.

    `Host` must be loopback, the address that was connected to, or one of `hosts`: a name of an attacker may
    lead to this machine. `Origin`, which browsers send with what a page may read or change, must be the same
    host or one of `origins`. What else a page loads, such as an image, has no `Origin`; by `Sec-Fetch-Site`
    it must not come from elsewhere, unless somebody followed a link.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str], origins: Iterable[str]) -> None:
        self._app = app
        self._hosts = {host.lower() for host in hosts}
        self._origins = {origin.lower().rstrip("/") for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and (error := self._problem(scope)) is not None:
            await render_error(error)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _problem(self, scope: Scope) -> AppError | None:
        size, hosts, origins, fetch = 0, [], [], {}
        for name, value in scope["headers"]:
            size += len(name) + len(value)
            if name == b"host":
                hosts.append(value.decode("latin-1").lower())
            elif name == b"origin":
                origins.append(value.decode("latin-1").lower())
            elif name.startswith(b"sec-fetch-"):
                fetch[name.removeprefix(b"sec-fetch-")] = value
        if size > MAX_HEAD:
            return HeadersTooLarge(f"The headers are larger than {MAX_HEAD >> 10} KiB; send fewer.")
        if len(hosts) > 1 or not all(self._knows(host, scope) for host in hosts):
            return Forbidden(
                "The server is not known by the name in the header Host; its operator can add the name to "
                "TESTDB_ALLOWED_HOSTS."
            )
        if not origins:
            if fetch.get(b"site") not in (b"cross-site", b"same-site") or _follows_link(scope, fetch):
                return None
        elif all(origin in self._origins or origin.partition("://")[2] in hosts for origin in origins):
            return None
        return Forbidden(
            "The request comes from a page of another site; the operator can add its origin to "
            "TESTDB_ALLOWED_ORIGINS."
        )

    def _knows(self, host: str, scope: Scope) -> bool:
        found = re.fullmatch(r"(?:\[([^\]]+)\]|([^:]+))(?::\d*)?", host)
        if found is None:
            return False
        name = (found[1] or found[2]).rstrip(".")
        address = (scope.get("server") or ("",))[0]
        return name == address or name in self._hosts or "*" in self._hosts or is_loopback(name)


def _follows_link(scope: Scope, fetch: Mapping[bytes, bytes]) -> bool:
    """Whether the answer is to be a page of its own, not a part of another one."""
    alone = fetch.get(b"dest", b"document") == b"document"
    return scope.get("method") == "GET" and fetch.get(b"mode") == b"navigate" and alone


class Places:
    """Answers 503 to more than `limit` requests at once; whether the process lives can always be asked."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit
        self._taken = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"] == "/healthz":
            await self._app(scope, receive, send)
            return
        if self._taken >= self._limit:
            error = Busy(f"The server answers {self._limit} requests already; send it again in a second.")
            await render_error(error)(scope, receive, send)
            return
        self._taken += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._taken -= 1


class BodyLimit:
    """Answers 413 to a body of more than `limit` bytes, before it is read where its length is declared.

    Answers 408 to one that pauses for more than `patience` seconds, or falls so far behind the slowest pace.
    """

    def __init__(self, app: ASGIApp, limit: int, patience: float) -> None:
        self._app = app
        self._limit = limit
        self._patience = patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        error = TooLarge(f"The body is larger than {self._limit >> 20} MiB; send it in parts.")
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdigit() and int(declared) > self._limit:
            await render_error(error)(scope, receive, send)
            return
        size, left, more = 0, self._patience, True

        async def bounded() -> Message:
            nonlocal size, left, more
            if not more:
                return await receive()  # which tells that the client has gone, whenever that is
            start = time.monotonic()
            try:
                async with asyncio.timeout(left):
                    message = await receive()
            except TimeoutError:
                raise TooSlow("The body arrives too slowly; send it faster, or in parts.") from None
            got = len(message.get("body", b""))
            left = min(self._patience, left - (time.monotonic() - start) + got / SLOWEST)
            more = message.get("more_body", False)
            size += got
            if size > self._limit:
                raise error
            return message

        await self._app(scope, bounded, send)


class Answers:
    """Answers 503 instead of a large body when those that are on their way take `limit` bytes already: slow
    clients could let the server keep any number of them."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit
        self._kept = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start: Message | None = None
        refused = False

        async def bounded(message: Message) -> None:
            nonlocal start, refused
            if refused:
                return
            if message["type"] == "http.response.start":
                start = message  # until it is known whether its body may follow
                return
            size = len(message.get("body", b""))
            if start is not None and size > SMALL and self._kept and self._kept + size > self._limit:
                refused = True
                error = Busy("Too many large answers are on their way; send the request again later.")
                await render_error(error)(scope, receive, send)
                return
            self._kept += size
            try:
                if start is not None:
                    first, start = start, None
                    await send(first)
                if size > SMALL and not message.get("more_body", False):
                    await send({**message, "more_body": True})
                    message = {"type": "http.response.body"}  # for which the server waits until that has gone
                await send(message)
            finally:
                self._kept -= size

        await self._app(scope, receive, bounded)


class RequestLog:
    """One log record a request, with its id; the id comes from `X-Request-ID` or is made, and is answered.

    What the server tells of its requests is counted here, too, and what every answer tells browsers is added.
    """

    def __init__(self, app: ASGIApp, requests: Requests) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if re.fullmatch(r"[\w.:-]{1,100}", given, re.ASCII) else uuid.uuid4().hex
        status: int | None = None
        start = time.perf_counter()

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(TO_BROWSERS | {"X-Request-ID": request_id})
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except ClientDisconnect:
            status = 499  # as other servers log it: there is nobody to answer, and it is no fault
        except Exception:
            if status is None:
                await render_bug()(scope, receive, noted)
            raise  # the server logs it
        finally:
            client, duration_ms = scope.get("client"), (time.perf_counter() - start) * 1000
            route = getattr(scope.get("route"), "path_format", None)
            self._requests.note(scope["method"], route, status, duration_ms / 1000)
            # It may hold a newline, and one request is one line of the log.
            path = quote(scope["path"], safe="/:@+,=")
            logger.info(
                "%s %s %s in %.1f ms",
                scope["method"],
                path,
                status,
                duration_ms,
                extra={
                    "method": scope["method"],
                    "path": path,
                    "status": status,
                    "duration_ms": round(duration_ms, 2),
                    "client": client[0] if client else None,
                    "request_id": request_id,
                },
            )
