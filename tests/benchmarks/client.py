"""A plain HTTP client that costs little itself: bodies are encoded before, connections stay open."""

from __future__ import annotations

import http.client
import json
import threading
import time
from typing import Any
from urllib.parse import urlsplit

JSON = "application/json"
NDJSON = "application/x-ndjson"
ARROW = "application/vnd.apache.arrow.stream"
PATIENCE = 600
IDLE = 2
"""Seconds after which a connection is made anew: servers close those that rest for five."""


class Refused(Exception):
    """An answer of 400 or above; `status` is its number."""

    def __init__(self, status: int, what: str) -> None:
        super().__init__(what)
        self.status = status


class Client:
    """Requests to one server; each thread has a connection of its own."""

    def __init__(self, url: str) -> None:
        self._host = urlsplit(url).netloc
        self._local = threading.local()
        self._connections: list[http.client.HTTPConnection] = []

    def close(self) -> None:
        """Closes the connections of all threads."""
        for connection in self._connections:
            connection.close()

    def send(self, method: str, path: str, body: bytes | None = None, kind: str = JSON) -> bytes:
        """The body of the answer. Raises Refused."""
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = http.client.HTTPConnection(self._host, timeout=PATIENCE)
            self._connections.append(connection)
        if time.monotonic() - getattr(self._local, "used", 0) > IDLE:
            connection.close()
        try:
            connection.request(method, path, body, {"Content-Type": kind} if body is not None else {})
            answer = connection.getresponse()
            content: bytes = answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()  # whatever it was in the middle of
            raise
        self._local.used = time.monotonic()
        if answer.status >= 400:
            raise Refused(answer.status, f"{method} {path}: {answer.status} {content[:500]!r}")
        return content

    def ask(self, method: str, path: str, document: Any = None) -> Any:
        """The answer to a JSON document, decoded."""
        body = None if document is None else json.dumps(document).encode()
        return json.loads(self.send(method, path, body))
