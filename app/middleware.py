"""What happens to every request: it is bounded in size, and logged."""

from __future__ import annotations

import logging
import re
import time
import uuid
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import TooLarge
from app.routers.problems import render_bug, render_error
from app.services.metrics import Requests

logger = logging.getLogger("testdb.requests")


class BodyLimit:
    """Answers 413 to a body of more than `limit` bytes, before it is read where its length is declared."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        error = TooLarge(f"The body is larger than {self._limit >> 20} MiB; send it in parts.")
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdigit() and int(declared) > self._limit:
            await render_error(error)(scope, receive, send)
            return
        size = 0

        async def bounded() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._limit:
                raise error
            return message

        await self._app(scope, bounded, send)


class RequestLog:
    """One log record a request, with its id; the id comes from `X-Request-ID` or is made, and is answered.

    What the server tells of its requests is counted here, too.
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
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
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
