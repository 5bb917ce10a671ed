"""The web server of the product."""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from typing import Any

import uvicorn
from fastapi import FastAPI


class Server(uvicorn.Server):
    """uvicorn, which ends the streams of those who watch runs before it waits for requests in flight."""

    def __init__(self, app: FastAPI, **config: Any) -> None:
        super().__init__(uvicorn.Config(app, **config))
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
