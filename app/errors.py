"""Every error the product raises on purpose. `status` is the HTTP status a router answers with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class FieldError:
    """One thing wrong with the input: `field` is a path such as `steps[2].status`."""

    field: str
    message: str


class AppError(Exception):
    """Base of all. `detail` is one sentence that says what is wrong and what to do."""

    status = 500
    title = "Internal error"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class Unauthorized(AppError):
    """There is no token, or none that counts."""

    status = 401
    title = "Token needed"


class Forbidden(AppError):
    """The token's scope is too small, or the request comes from another site."""

    status = 403
    title = "Not allowed"


class NotFound(AppError):
    status = 404
    title = "Not found"


class Unprotected(AppError):
    """The server would let everybody who reaches it do everything."""

    title = "Not protected"


class TooSlow(AppError):
    """The client does not send what it has begun to send."""

    status = 408
    title = "Request too slow"


class Conflict(AppError):
    """The id exists already, or the object's state does not allow the request."""

    status = 409
    title = "Conflict"


class TooLarge(AppError):
    status = 413
    title = "Too large"


class HeadersTooLarge(AppError):
    status = 431
    title = "Headers too large"


class Invalid(AppError):
    """The input is not acceptable. Carries every field that is wrong."""

    status = 422
    title = "Invalid input"

    def __init__(self, errors: Sequence[FieldError]) -> None:
        first = errors[0]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        super().__init__(f"{first.field}: {first.message}{more}")
        self.errors = list(errors)

    @classmethod
    def of(cls, field: str, message: str) -> Invalid:
        return cls([FieldError(field, message)])


class Unavailable(AppError):
    """The database cannot be reached, or is busy for longer than a request may wait."""

    status = 503
    title = "Database not available"


class Busy(AppError):
    """More requests at once than the server takes, or than it takes of this kind."""

    status = 503
    title = "Server busy"


class NoRoom(AppError):
    """The server cannot put on its disk what a request brings."""

    status = 503
    title = "No room"


class NotAcceptable(AppError):
    """The answer has none of the media types that the client accepts."""

    status = 406
    title = "Not acceptable"


class DataLost(Unavailable):
    """The database does not hold what was committed to it."""

    title = "Database damaged"


class MigrationError(AppError):
    """The database's schema is not the one this version works with."""

    status = 503
    title = "Database not migrated"
