"""Which scope an endpoint needs: `dependencies=[READ]` on a route of a router with `route_class=Guarded`."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from inspect import iscoroutinefunction
from typing import Any, cast

from fastapi import Request, Response, Security, WebSocket
from fastapi.openapi.models import HTTPBearer
from fastapi.routing import APIRoute
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from app.errors import AppError
from app.routers.problems import responses
from app.routers.uploads import JsonRequest
from app.routers.writers import Writers
from app.services.tokens import Access
from app.vocabulary import Scope

SUBPROTOCOL = "testdb"
"""What a browser offers beside its token, and is answered: a WebSocket of a browser has no headers."""
_BEARER_SUBPROTOCOL = "bearer."


class _Token(SecurityBase):
    """The scheme in the OpenAPI document; `Guarded` looks at the token."""

    model = HTTPBearer(description="Made with `testdb token create`; needed as soon as there are tokens.")
    scheme_name = "token"

    async def __call__(self) -> None:
        return None


_TOKEN = _Token()
READ = Security(_TOKEN, scopes=[Scope.READ])
WRITE = Security(_TOKEN, scopes=[Scope.WRITE])
ADMIN = Security(_TOKEN, scopes=[Scope.ADMIN])


_LARGEST_JSON = {Scope.READ: 4 << 20, Scope.WRITE: 64 << 20, Scope.ADMIN: 4 << 20}
"""Bytes; only who records sends what is large by itself: a run with all of its parts."""


class Guarded(APIRoute):
    """A route that looks at the token before it reads anything else of the request, bounds its JSON,
    and lets writers wait for their turn without a thread."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **given: Any) -> None:
        reads = READ in (given.get("dependencies") or ()) or "GET" in (given.get("methods") or ())
        # Whoever writes can meet other writers of the same rows each time it is tried.
        always = responses(401) if reads else responses(401, 409)
        given["responses"] = always | (given.get("responses") or {})
        super().__init__(path, endpoint, **given)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        (scope,) = (Scope(name) for found in self.dependencies for name in getattr(found, "scopes", ()))
        # What is asynchronous takes the body in parts, and its turn when it has it.
        writes = scope is not Scope.READ and "GET" not in (self.methods or ())
        queues = writes and not iscoroutinefunction(self.endpoint)

        async def guarded(request: Request) -> Response:
            admit(request, scope)
            request = JsonRequest(request.scope, request.receive, limit=_LARGEST_JSON[scope])
            try:
                if not queues:
                    return await handle(request)
                await request.body()  # so that nobody waits for a slow client
                async with cast(Writers, request.app.state.writers).turn():
                    return await handle(request)
            finally:
                request.release()

        return guarded


def admit(connection: HTTPConnection, scope: Scope) -> None:
    """Raises Unauthorized or Forbidden for whom the token that came along does not allow so much."""
    access = cast(Access, connection.app.state.access)
    access.admit(_token_of(connection), scope)


def admits(connection: HTTPConnection, scope: Scope) -> bool:
    """Whether `admit` would let it pass."""
    try:
        admit(connection, scope)
    except AppError:
        return False
    return True


def _token_of(connection: HTTPConnection) -> str | None:
    found = re.fullmatch(r"bearer +(\S+)", connection.headers.get("authorization", ""), re.IGNORECASE)
    if found is not None:
        return found[1]
    if isinstance(connection, WebSocket):
        for offered in connection.scope["subprotocols"]:
            if offered.startswith(_BEARER_SUBPROTOCOL):
                return str(offered).removeprefix(_BEARER_SUBPROTOCOL)
    return None
