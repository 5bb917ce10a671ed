"""Tokens for the server: made, listed and revoked in a file of hashes, and looked up by a running server."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import logging
import os
import secrets
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from app.db.types import utcnow
from app.errors import Conflict, Forbidden, NotFound, Unauthorized, Unavailable
from app.schemas.common import Answer
from app.services.files import atomic_file
from app.vocabulary import Scope

logger = logging.getLogger("testdb")

LOOK = 1.0
"""Seconds between two looks whether the file has changed."""


class TokenInfo(Answer):
    """What may be shown of a token."""

    name: str
    scope: Scope
    created_at: datetime
    expires_at: datetime | None

    @property
    def expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= utcnow()


class _Stored(BaseModel):
    about: TokenInfo
    salt: str = Field(pattern="^[0-9a-f]{32}$")
    hash: str = Field(pattern="^[0-9a-f]{64}$")

    def is_of(self, token: str) -> bool:
        return hmac.compare_digest(self.hash, _hash(token, self.salt))


class _Content(BaseModel):
    tokens: list[_Stored]


class TokenFile:
    """The tokens in a file that its owner alone can read. Methods raise Unavailable for a broken one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, name: str, scope: Scope, lifetime: timedelta | None) -> str:
        """A new token, which is stored nowhere. Raises Conflict for a name that is taken."""
        token, salt, now = f"testdb_{secrets.token_urlsafe(32)}", secrets.token_hex(16), utcnow()
        with self._locked():
            kept = self.stored()
            if any(other.about.name == name for other in kept):
                raise Conflict(f"There is a token {name!r} already; revoke it, or choose another name.")
            about = TokenInfo(
                name=name,
                scope=scope,
                created_at=now,
                expires_at=None if lifetime is None else now + lifetime,
            )
            self._write([*kept, _Stored(about=about, salt=salt, hash=_hash(token, salt))])
        return token

    def revoke(self, name: str) -> None:
        """Raises NotFound."""
        with self._locked():
            stored = self.stored()
            kept = [token for token in stored if token.about.name != name]
            if len(kept) == len(stored):
                raise NotFound(f"There is no token {name!r} in {self.path}.")
            self._write(kept)

    def tokens(self) -> list[TokenInfo]:
        """The tokens in the order they were made, those that have expired too; none when there is no file."""
        return [token.about for token in self.stored()]

    def stored(self) -> list[_Stored]:
        """The same, with their hashes."""
        try:
            return _Content.model_validate_json(self.path.read_bytes()).tokens
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise Unavailable(f"The token file {self.path} cannot be read: {error.strerror}.") from error
        except ValidationError as error:
            raise Unavailable(
                f"{self.path} is not a token file; move it away and create tokens anew."
            ) from error

    def version(self) -> tuple[int, int, int] | None:
        """Something that changes with the file; None when there is none."""
        try:
            found = self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise Unavailable(f"The token file {self.path} cannot be read: {error.strerror}.") from error
        return found.st_mtime_ns, found.st_size, found.st_ino

    @property
    def _real(self) -> Path:
        """Where a link leads to: a server may know the file by its own name."""
        return Path(os.path.realpath(self.path))

    def _write(self, tokens: list[_Stored]) -> None:
        with atomic_file(self._real, overwrite=True, mode=0o600) as stream:
            os.fchmod(stream.fileno(), 0o600)  # a umask may have taken its owner's right to read it
            stream.write(_Content(tokens=tokens).model_dump_json(indent=2).encode() + b"\n")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One command at a time changes the file. The folder is locked, as the file is replaced."""
        parent = self._real.parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
            folder = os.open(parent, os.O_RDONLY)
        except OSError as error:
            raise Unavailable(f"{parent} cannot be used: {error.strerror}.") from error
        try:
            with contextlib.suppress(OSError):  # not every shared file system can lock a folder
                fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)


class Access:
    """Who may do what on a running server: everybody everything as long as there is no token file.

    With `always`, nobody anything without a token, also when the file is gone. A change of the file counts
    within a second. Belongs to one thread, that of the event loop.
    """

    def __init__(self, file: TokenFile, *, always: bool) -> None:
        self._file = file
        self._always = always
        self._tokens: list[_Stored] = []
        self._version: tuple[int, int, int] | None = None
        self._next_look = 0.0

    def admit(self, token: str | None, scope: Scope) -> None:
        """Raises Unauthorized without a token that counts, Forbidden for one whose scope is too small."""
        self._look()
        if self._version is None and not self._always:
            return
        if token is None:
            raise Unauthorized(
                "This server asks for a token: send it as `Authorization: Bearer TOKEN`, or give commands "
                "TESTDB_TOKEN. Its operator makes one with `testdb token create`."
            )
        given = [stored for stored in self._tokens if stored.is_of(token)]
        if not given or given[0].about.expired:
            raise Unauthorized("The token is unknown, revoked or expired; ask the operator for a new one.")
        about = given[0].about
        if not about.scope.covers(scope):
            raise Forbidden(
                f"The token {about.name!r} has the scope {about.scope}, and this needs {scope}; "
                "ask the operator for a token of that scope."
            )

    def _look(self) -> None:
        now = time.monotonic()
        if now < self._next_look:
            return
        try:
            version = self._file.version()
            if version != self._version:
                # In this order: a file that cannot be read must not pass for one that has not changed.
                self._tokens = self._file.stored()
                self._version = version
        except Unavailable as error:
            logger.error("nobody gets in: %s", error.detail)
            raise Unavailable("The token file cannot be read; the log of the server says why.") from error
        self._next_look = now + LOOK


def _hash(token: str, salt: str) -> str:
    # Fast on purpose: a token is 256 random bits, which nobody can guess however fast the hash is, and it is
    # computed in every request. A slow hash protects what people choose themselves.
    return hashlib.blake2b(token.encode(), salt=bytes.fromhex(salt), digest_size=32).hexdigest()
