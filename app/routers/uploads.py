"""Request bodies as files: large ones go to disk, gzip is undone, the size is bounded."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import BinaryIO, cast

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from app.errors import Invalid, TooLarge

IN_MEMORY = 1 << 20
GZIP = b"\x1f\x8b"


@asynccontextmanager
async def received(request: Request) -> AsyncIterator[BinaryIO]:
    """The body, or the file of a form, decompressed, as a seekable stream.

    Raises TooLarge beyond the setting `max_body_mb`, Invalid for broken gzip or a form without a file.
    """
    limit = request.app.state.settings.max_body_mb << 20
    with tempfile.SpooledTemporaryFile(IN_MEMORY) as spooled:
        stream = cast(BinaryIO, spooled)
        writer = _Writer(stream, limit)
        async for chunk in _chunks(request):
            writer.write(chunk)
        writer.finish()
        stream.seek(0)
        yield stream


def media_type(request: Request) -> str:
    """What the client says the body is, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


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

    def write(self, chunk: bytes) -> None:
        if self._size == 0 and self._gunzip is None:
            self._start += chunk
            if len(self._start) < len(GZIP):
                return
            chunk, self._start = self._start, b""
            if chunk.startswith(GZIP):
                self._gunzip = zlib.decompressobj(wbits=31)
        if self._gunzip is None:
            self._append(chunk)
            return
        try:
            while chunk:
                self._append(self._gunzip.decompress(chunk, IN_MEMORY))
                chunk = self._gunzip.unconsumed_tail
        except zlib.error as error:
            raise Invalid.of("body", "is not a valid gzip stream") from error

    def finish(self) -> None:
        if self._gunzip is None:
            self._append(self._start)
        elif not self._gunzip.eof or self._gunzip.unused_data:
            raise Invalid.of("body", "is not a complete gzip stream of one member")

    def _append(self, plain: bytes) -> None:
        self._size += len(plain)
        if self._size > self._limit:
            raise TooLarge(f"The decompressed body is larger than {self._limit >> 20} MiB; send it in parts.")
        self._stream.write(plain)
