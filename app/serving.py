"""The web server of the product."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import sys
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import uvicorn
from fastapi import FastAPI, Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.errors import Busy, HeadersTooLarge, TooSlow
from app.middleware import MAX_HEAD
from app.routers.problems import render, render_error

logger = logging.getLogger("testdb.requests")

DESCRIPTORS = 1 << 14
"""Files and connections that the server wants to have open, where it may."""
RESERVED = 64
"""Of them those that are for neither a connection nor what it sends or is sent."""
BACKLOG = 2048
"""Connections that the system keeps until they are accepted."""


class Server(uvicorn.Server):
    """uvicorn, which ends the streams of those who watch runs before it waits for requests in flight."""

    def __init__(self, app: FastAPI, *, request_timeout: float, **config: Any) -> None:
        class Connection(_Connection):
            patience = request_timeout
            most = max(1, (_descriptors() - RESERVED) // 2)

        limits: dict[str, Any] = {
            "http": Connection,
            "ws_max_size": MAX_HEAD,
        }
        limits["backlog"] = min(BACKLOG, Connection.most)  # all of it may be accepted at once
        super().__init__(uvicorn.Config(app, **limits, **config))
        self._app = app

    def serve_forever(self) -> None:
        """Serves until a signal arrives; exits with a code when the server cannot start."""
        with suppress(KeyboardInterrupt):  # Ctrl-C, after everything has been stopped
            self.run()
        if not self.started:
            sys.exit(1)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.watchers.close()
        await super().shutdown(sockets)


def _descriptors() -> int:
    """How many the process may have open, once it has raised that number as far as it may and wants."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
    with suppress(ValueError, OSError):  # some systems have a lower limit of their own
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class _Connection(HttpToolsProtocol):
    """uvicorn's, which bounds the number of connections, the time and the size of what is around a body, and
    the time for which a client takes nothing of what it is sent."""

    patience: float
    """Seconds from the connection, or the first byte of a later request, to the end of the headers, and those
    that a client may take nothing."""
    most: int
    """Connections at once."""
    _since = 0.0
    _waits: asyncio.TimerHandle | None = None
    _got = 0
    """Bytes since the last headers, or part of a body, ended: more headers, or the lines of and behind
    chunks, all of which the parser keeps."""
    _answered: Any = None
    """The request that the application has; of several that came together uvicorn remembers the last."""

    def connection_made(  # type: ignore[override]
        self, transport: asyncio.Transport
    ) -> None:
        super().connection_made(transport)
        self._since = self.loop.time()
        self._waits = self.loop.call_later(self.patience, self._give_up)
        # Linux ends the connection then, also where it is only being closed.
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            milliseconds = max(1, min(int(self.patience * 1000), 2**31 - 1))
            transport.get_extra_info("socket").setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds
            )
        if len(self.connections) > self.most:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        self._got += len(data)
        super().data_received(data)
        if self.transport.get_protocol() is self and self._got > MAX_HEAD:
            self.send_400_response("")
        if self._is_under_way():
            self._stop_waiting()
        elif self._waits is None and not self.transport.is_closing():
            self._waits = self.loop.call_later(self.patience, self._give_up)

    def on_headers_complete(self) -> None:
        self._got = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._got = 0
        super().on_body(body)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        if self._answered is not None and not self._answered.response_complete:
            self._answered.disconnected = True
            self._answered.message_event.set()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def send_400_response(self, msg: str) -> None:
        """Instead of uvicorn's plain text."""
        if self._got > MAX_HEAD:
            error = HeadersTooLarge(f"The headers are larger than {MAX_HEAD >> 10} KiB; send fewer.")
            self._refuse(render_error(error))
        else:
            self._refuse(render(400, "Bad request", "This is not a valid HTTP request."))

    def _is_under_way(self) -> bool:
        """Whether the application has the request, or a WebSocket the connection."""
        if self.transport.get_protocol() is not self:
            return True
        return self.cycle is not None and not self.cycle.response_complete

    def _make_room(self) -> None:
        """Closes the oldest connection without a request; this one is told so when there is no other."""
        idle = (
            connection
            for connection in self.connections
            if isinstance(connection, _Connection) and connection._is_idle()
        )
        oldest = min(idle, key=lambda connection: connection._since, default=self)
        if oldest is self:
            self._refuse(
                render_error(Busy(f"The server has {self.most} connections at work; come back later."))
            )
        else:
            oldest.transport.abort()

    def _is_idle(self) -> bool:
        """Whether nobody misses the connection: there is no request, nor is an answer on its way."""
        flushed = not self.transport.is_closing() and not self.transport.get_write_buffer_size()
        return flushed and not self._is_under_way()

    def _stop_waiting(self) -> None:
        if self._waits is not None:
            self._waits.cancel()
            self._waits = None

    def _give_up(self) -> None:
        self._waits = None
        if self._got:
            self._refuse(render_error(TooSlow("The headers arrive too slowly; send them at once.")))
        else:
            self.transport.close()

    def _refuse(self, response: Response) -> None:
        """Answers without the application, unless it does already, and closes the connection."""
        if self.transport.is_closing():
            return
        logger.info(
            "%d to %s, whose request was not understood or not complete", response.status_code, self.client
        )
        if not self._is_under_way() or not self.cycle.response_started:
            response.headers["Connection"] = "close"
            lines = [f"HTTP/1.1 {response.status_code} {HTTPStatus(response.status_code).phrase}".encode()]
            lines += [name + b": " + value for name, value in response.raw_headers]
            self.transport.write(b"\r\n".join([*lines, b"", bytes(response.body)]))
        self.transport.close()
