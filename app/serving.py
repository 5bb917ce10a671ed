"""The web server of the product."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import uvicorn
from fastapi import FastAPI, Response
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from app.errors import HeadersTooLarge, TooSlow
from app.middleware import MAX_HEAD
from app.routers.problems import render, render_error

logger = logging.getLogger("testdb.requests")


class Server(uvicorn.Server):
    """uvicorn, which ends the streams of those who watch runs before it waits for requests in flight."""

    def __init__(self, app: FastAPI, *, request_timeout: float, **config: Any) -> None:
        class Connection(_Connection):
            patience = request_timeout

        limits: dict[str, Any] = {
            "http": Connection,
            "h11_max_incomplete_event_size": MAX_HEAD,
            "ws_max_size": MAX_HEAD,
        }
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


class _Connection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's, whichever it chose, which bounds the time and the size of what comes before a body."""

    patience: float
    """Seconds from the connection, or the first byte of a later request, to the end of the headers."""
    _waits: asyncio.TimerHandle | None = None
    _got = 0

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._waits = self.loop.call_later(self.patience, self._give_up)

    def data_received(self, data: bytes) -> None:
        self._got += len(data)
        super().data_received(data)
        if self._is_under_way():
            self._got = 0
            self._stop_waiting()
            return
        if self.cycle is not None and self.cycle.more_body:
            self._got = 0  # the rest of a body, of a request that was answered without it
        elif self._got > MAX_HEAD:
            self.send_400_response("")
        if self._waits is None and not self.transport.is_closing():
            self._waits = self.loop.call_later(self.patience, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

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
