"""Files on disk: written whole or not at all, read whether compressed or not."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import os
import shutil
import tempfile
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from app.db.copying import sync
from app.errors import Conflict, Invalid, Unavailable


@contextlib.contextmanager
def atomic_file(
    target: Path, *, overwrite: bool, part: Path | None = None, mode: int = 0o666
) -> Iterator[BinaryIO]:
    """A file that appears under its name whole, at the end of the block, or not at all.

    Until then it is `part`, on the same file system; a hidden file beside the target when not given. Of its
    `mode` the umask is taken away.
    Raises Conflict when the name is taken and `overwrite` is false, Unavailable when the folder cannot be
    written.
    """
    if target.exists() and not overwrite:
        raise _taken(target)
    part = part or target.with_name(f".{target.name[:40]}.{uuid.uuid4().hex}.part")
    publish: Callable[[Path, Path], object] = os.replace if overwrite else os.link
    try:
        try:
            stream = os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode), "w+b")
        except OSError as error:
            raise Unavailable(f"{target.name} cannot be written: {error.strerror}.") from error
        with stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        try:
            publish(part, target)
        except FileExistsError as error:
            raise _taken(target) from error
        with contextlib.suppress(OSError):  # not every file system syncs folders
            sync(target.parent)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def work_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder for the time of the block. Those that processes left there when they were killed go first.

    Raises OSError.
    """
    for left in parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError), _locked(left):  # another process still works in it
            shutil.rmtree(left)
    with tempfile.TemporaryDirectory(dir=parent, prefix=prefix) as name, _locked(Path(name)):
        yield Path(name)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def is_beside(path: Path, file: Path) -> bool:
    """Whether a path is that of the file, or of one that is kept beside it and has its name in front."""
    if not path.name.startswith(file.name):
        return False
    try:
        return path.parent.samefile(file.parent)
    except OSError:
        return False


def _taken(target: Path) -> Conflict:
    return Conflict(f"The file {target.name!r} exists already; remove it, or choose another name.")


@contextlib.contextmanager
def plain_stream(path: Path) -> Iterator[BinaryIO]:
    """The content of a file, decompressed if it is gzip. Raises Invalid for a broken one."""
    with path.open("rb") as stream:
        if stream.read(2) != b"\x1f\x8b":
            stream.seek(0)
            yield stream
            return
        stream.seek(0)
        try:
            with gzip.GzipFile(fileobj=stream) as plain:
                yield cast(BinaryIO, plain)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise Invalid.of(path.name, "is not a complete gzip file") from error
