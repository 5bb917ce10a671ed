"""Request bodies of bounded size: JSON in memory, bulk as files; gzip is undone there."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import BinaryIO, cast

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope

from app.errors import Busy, Invalid, NoRoom, TooLarge
from app.middleware import SMALL
from app.schemas.common import MAX_VALUES
from app.schemas.validation import few_values

IN_MEMORY = 1 << 20
GZIP = b"\x1f\x8b"
MOST_HELD = 512 << 20
"""Bytes of JSON in memory, of all requests together: slow clients could hold them for hours."""


class Held:
    """The bytes of JSON in memory. Belongs to one thread, that of the event loop."""

    size = 0


class JsonRequest(Request):
    """A request whose `body`, which is read whole, has at most `limit` bytes and few values.

    Reading it raises TooLarge, or Busy where others are sending too much. It counts as held until `release`.
    What is read as a `stream` has the limit of the application.
    """

    def __init__(self, scope: Scope, receive: Receive, *, limit: int) -> None:
        super().__init__(scope, receive)
        self._limit = limit
        self._held = 0

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            chunks, size = [], 0
            if (declared := self.headers.get("content-length", "")).isdigit():
                self._require_small(int(declared))
            async for chunk in self.stream():
                size += len(chunk)
                self._require_small(size)
                self._hold(len(chunk))
                chunks.append(chunk)
            body = b"".join(chunks)
            self._body = body if size <= MAX_VALUES else await run_in_threadpool(few_values, body)
        return self._body

    def _hold(self, more: int) -> None:
        held = cast(Held, self.app.state.held)
        held.size += more
        self._held += more
        if held.size > MOST_HELD and self._held > SMALL:
            raise Busy(f"The server is being sent {MOST_HELD >> 20} MiB of JSON already; come back later.")

    def release(self) -> None:
        """The body is not needed any more."""
        cast(Held, self.app.state.held).size -= self._held
        self._held = 0

    def _require_small(self, size: int) -> None:
        if size > self._limit:
            raise TooLarge(
                f"A JSON body of this endpoint has at most {self._limit >> 20} MiB; send it in parts, "
                "whole runs to /api/test/db/ingest."
            )


@asynccontextmanager
async def received(request: Request) -> AsyncIterator[BinaryIO]:
    """The body, or the file of a form, decompressed, as a seekable stream.

    Raises TooLarge beyond the setting `max_body_mb`, Invalid for broken gzip or a form without a file, NoRoom
    when it cannot be put on the disk.
    """
    limit = request.app.state.settings.max_body_mb << 20
    with tempfile.SpooledTemporaryFile(IN_MEMORY) as spooled:
        stream = cast(BinaryIO, spooled)
        writer = _Writer(stream, limit)
        with _room():
            async for chunk in _chunks(request):
                await writer.write(chunk)
            writer.finish()
            stream.seek(0)
        yield stream


def media_type(request: Request) -> str:
    """What the client says the body is, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NoRoom(
            f"The server cannot keep the body in its temporary directory ({error.strerror or error}); "
            "make room there, or name another one in TMPDIR, then send the request again."
        ) from error


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    if media_type(request) != "multipart/form-data":
        async for chunk in request.stream():
            yield chunk
        return
    try:
        form = await request.form(max_files=1, max_fields=10)
    except HTTPException as error:
        raise Invalid.of("body", f"is not a form with one file: {error.detail}") from error
    try:
        files = [value for value in form.values() if isinstance(value, UploadFile)]
        if not files:
            raise Invalid.of("file", "is missing from the form")
        while chunk := await files[0].read(IN_MEMORY):
            yield chunk
    finally:
        await form.close()


class _Writer:
    """Writes plain or gzip chunks to a file, whichever the first two bytes say."""

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self._start = b""
        self._gunzip: zlib._Decompress | None = None
        self._size = 0

    async def write(self, chunk: bytes) -> None:
        """Others wait neither for the disk nor for what a chunk becomes, a thousand times as large."""
        if self._size == 0 and self._gunzip is None:
            self._start += chunk
            if len(self._start) < len(GZIP):
                return
            chunk, self._start = self._start, b""
            if chunk.startswith(GZIP):
                self._gunzip = zlib.decompressobj(wbits=31)
        if self._gunzip is not None:
            await run_in_threadpool(self._unpack, self._gunzip, chunk)
        elif self._size + len(chunk) > IN_MEMORY:
            await run_in_threadpool(self._append, chunk)
        else:
            self._append(chunk)

    def finish(self) -> None:
        if self._gunzip is None:
            self._append(self._start)
        elif not self._gunzip.eof:
            raise Invalid.of("body", "is not a complete gzip stream")

    def _unpack(self, gunzip: zlib._Decompress, chunk: bytes) -> None:
        try:
            while chunk and not gunzip.eof:
                self._append(gunzip.decompress(chunk, IN_MEMORY))
                chunk = gunzip.unconsumed_tail
        except zlib.error as error:
            raise Invalid.of("body", "is not a valid gzip stream") from error
        if chunk or gunzip.unused_data:
            raise Invalid.of("body", "goes on behind its gzip stream; send one of one member")

    def _append(self, plain: bytes) -> None:
        self._size += len(plain)
        if self._size > self._limit:
            raise TooLarge(f"The decompressed body is larger than {self._limit >> 20} MiB; send it in parts.")
        self._stream.write(plain)
