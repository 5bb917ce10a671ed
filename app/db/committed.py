"""Whether an embedded file and its write-ahead log still hold what was committed.

The engine opens a file whose log is cut, gone or exchanged without a word, with fewer rows. So what the last
commit left is noted beside it, in `<file>.committed`: the file's identity, how often it was checkpointed, and
length and checksum of its log. The note is not synced, which would double the cost of a commit: it outlives
the process, and after a power cut it may be older than the log, which is no damage.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import logging
import os
import shutil
import struct
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from app.db.duckdb import CONNECT_CONFIG
from app.errors import DataLost, Unavailable

logger = logging.getLogger("testdb")

_HEADER = 4096  # bytes of each of the three headers that a file begins with
_LENGTH = 256  # bytes of a note, always the same: it is written in place
_CHUNK = 1 << 20

_held: set[Path] = set()


@dataclass(frozen=True)
class _Note:
    """What a commit left. `checkpoint` counts them; `file` and `log` are in bytes, `crc` is of the log's."""

    database: str
    checkpoint: int
    file: int
    log: int
    crc: int


@dataclass(frozen=True)
class _Head:
    """What the headers of a file say."""

    database: str
    checkpoint: int


class Committed:
    """Notes what each commit left; made while the engine holds the file. For one thread at a time."""

    def __init__(self, file: Path) -> None:
        self._file = file.resolve()
        head = _heads.pop(self._file, None)
        self._database, self._checkpoint = (head.database, head.checkpoint) if head else ("", 0)
        self._log: int | None = None  # a descriptor: while it is open no other log gets the same inode
        self._inode, self._size, self._crc = 0, 0, 0
        self._place = self._file.stat()
        self._note = os.open(note_of(self._file), os.O_RDWR | os.O_CREAT, 0o644)
        _held.add(self._file)
        # The log may end in half a commit of a process that was killed, which the engine writes over. So a
        # note that is there holds until the next commit, and one made now is about nothing of the log yet.
        if not os.pread(self._note, _LENGTH, 0).strip(b"\0"):
            self.note(of_log=False)

    def require_in_place(self) -> None:
        """Raises Unavailable when the file is not under its name any more: what is written could be lost."""
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(self._file), self._place):  # noqa: PTH116 - as for the note
                return
        raise Unavailable(
            "The database file was moved, removed or replaced while it is in use, so nothing is written to "
            "it: put it back, or take a backup and stop the server."
        )

    def note(self, *, of_log: bool = True) -> None:
        """Notes the state of the log. It is called when no other commit is under way."""
        try:
            if of_log:
                self._follow()
            file = os.stat(self._file).st_size  # noqa: PTH116 - half the price of Path.stat, for each commit
            note = _Note(self._database, self._checkpoint, file, self._size, self._crc)
            os.pwrite(self._note, json.dumps(asdict(note)).encode().ljust(_LENGTH - 1) + b"\n", 0)
        except OSError as error:
            # The commit stands; only damage to it would be noticed later than it could be.
            logger.warning("%s cannot be written: %s", note_of(self._file), error.strerror)

    def _follow(self) -> None:
        """Reads what was added to the log. Closing it gives up the lock on it, but not that on the file."""
        try:
            found = os.stat(log_of(self._file))  # noqa: PTH116
        except FileNotFoundError:
            if self._log is not None:
                self._forget()
                self._checkpoint += 1
            return
        if self._log is None or found.st_ino != self._inode or found.st_size < self._size:
            self._forget()
            self._log = os.open(log_of(self._file), os.O_RDONLY)
            self._inode = found.st_ino
            head = os.pread(self._log, 128, 0)
            self._checkpoint = _checkpoint_of_log(head) or self._checkpoint
        while chunk := os.pread(self._log, _CHUNK, self._size):
            self._crc = zlib.crc32(chunk, self._crc)
            self._size += len(chunk)

    def _forget(self) -> None:
        if self._log is not None:
            os.close(self._log)
        self._log, self._inode, self._size, self._crc = None, 0, 0, 0

    def close(self) -> None:
        """Ends the notes, while the engine still holds the file; without a log there is nothing to note."""
        self._forget()
        os.close(self._note)
        _held.discard(self._file)
        if not log_of(self._file).exists():
            note_of(self._file).unlink(missing_ok=True)


_heads: dict[Path, _Head | None] = {}
"""What the headers said before the engine took the file: afterwards nobody in this process may open it."""


def log_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.wal")


def note_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.committed")


def require_whole(file: Path, *, accept_loss: bool = False) -> str | None:
    """Compares a file that is not open yet with what was committed.

    Raises DataLost, after it has copied a damaged log to `<log>.damaged-<time>`; with `accept_loss`, makes
    what is left usable and returns the sentence that says what is lost. Raises Unavailable for a file with
    several names. A file that somebody holds is left to the engine.
    """
    file = file.resolve()
    if file in _held:
        return None
    try:
        loss = _loss(file)
    except _Busy:
        return None
    if loss is None:
        return None
    copy = _copy_aside(log_of(file))
    kept = f" The log as it was found is kept as {copy}." if copy else ""
    if not accept_loss:
        raise DataLost(
            f"{loss}{kept} Restore a backup with `testdb restore`, or put the right files back; "
            "`testdb serve --accept-loss` goes on with what is left."
        )
    note_of(file).unlink(missing_ok=True)
    if file.exists():
        _fold(file)
    else:
        log_of(file).unlink(missing_ok=True)
    return loss + kept


class _Busy(Exception):
    """Another process has the file."""


def _loss(file: Path) -> str | None:
    try:
        note = _read_note(file)
    except ValueError:
        return f"{note_of(file)} is damaged: whether the log is whole cannot be said."
    if not file.exists():
        if note is None and not log_of(file).exists():
            return None
        return f"{file} is missing, but it was in use: {_log_text(file)} is there."
    _require_one_name(file)
    with _locked(file) as descriptor:
        head = _read_head(descriptor)
        if head is None:
            return None  # the engine says what is wrong with it
        differs = _differs(file, head, note) if note is not None and note.database else None
    return differs or _unreadable(file)


def keep_head(file: Path) -> None:
    """Reads what the headers of a file say, before the engine takes it; Committed notes it."""
    file = file.resolve()
    if file not in _held:
        with contextlib.suppress(_Busy), _locked(file) as descriptor:
            _heads[file] = _read_head(descriptor)


def _differs(file: Path, head: _Head, note: _Note) -> str | None:
    if head.database != note.database:
        return f"{file} is not the database that was in use here."
    if head.checkpoint < note.checkpoint:
        return f"{file} is an older copy of the database that was in use here."
    if head.checkpoint > note.checkpoint:
        return None  # what was noted is in the file by now
    # Only a checkpoint makes the file shorter.
    missing = note.file - file.stat().st_size
    if missing > 0:
        return f"{file} is damaged: {missing} bytes are missing at its end."
    size, crc = 0, 0
    with contextlib.suppress(FileNotFoundError), log_of(file).open("rb") as stream:
        while size < note.log and (chunk := stream.read(min(_CHUNK, note.log - size))):
            size, crc = size + len(chunk), zlib.crc32(chunk, crc)
    if size < note.log:
        return f"The log {log_of(file)} lacks {note.log - size} of {note.log} bytes that were committed."
    if crc != note.crc:
        return f"The log {log_of(file)} is damaged: it does not begin with what was committed."
    return None


def _unreadable(file: Path) -> str | None:
    """What the engine says of a log that it cannot read; it is asked without changing the file."""
    if not log_of(file).exists():
        return None
    try:
        duckdb.connect(str(file), read_only=True, config=CONNECT_CONFIG).close()
    except duckdb.Error as error:
        if "WAL" in str(error):
            return f"The log {log_of(file)} is damaged: the engine cannot read it."
    return None


def _require_one_name(file: Path) -> None:
    for rest in file.parent.glob(f"{glob.escape(file.name)}.new-*"):  # of a start that was killed
        if rest.samefile(file):
            rest.unlink()
    if not file.is_file():  # a folder has more than one name
        raise Unavailable(f"{file} is not a file; name a DuckDB file, which may not exist yet.")
    if file.stat().st_nlink > 1:
        raise Unavailable(
            f"{file} has another name, too (a hard link), under which a second process could write it; "
            "remove the other name, or copy the file."
        )


@contextlib.contextmanager
def locked_file(file: Path) -> Iterator[None]:
    """Keeps other processes from the file; raises Unavailable when one has it."""
    try:
        with _locked(file, os.O_RDWR, fcntl.LOCK_EX):
            yield
    except _Busy as error:
        raise Unavailable(f"{file} is held by another process; stop that first.") from error


@contextlib.contextmanager
def _locked(file: Path, mode: int = os.O_RDONLY, lock: int = fcntl.LOCK_SH) -> Iterator[int]:
    """A descriptor of the file while no other process has it; raises _Busy."""
    try:
        descriptor = os.open(file, mode)
    except OSError as error:
        raise _Busy from error  # the engine says it better
    try:
        try:
            fcntl.lockf(descriptor, lock | fcntl.LOCK_NB)
        except OSError as error:
            raise _Busy from error
        yield descriptor
    finally:
        os.close(descriptor)


def _read_note(file: Path) -> _Note | None:
    """The note; None when there is none, or none on the disk. Raises ValueError for a damaged one."""
    try:
        text = note_of(file).read_bytes()[:_LENGTH]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        logger.warning("%s cannot be read: whether the log is whole cannot be said", note_of(file))
        return None
    if not text.strip(b"\0"):  # as after a power cut
        return None
    try:
        return _Note(**json.loads(text))
    except TypeError as error:
        raise ValueError from error


def _read_head(descriptor: int) -> _Head | None:
    """What the headers say, if it is a file of the engine's."""
    main = os.pread(descriptor, _HEADER, 0)
    heads = [os.pread(descriptor, 16, start) for start in (_HEADER, 2 * _HEADER)]
    if main[8:12] != b"DUCK" or any(len(head) < 16 for head in heads):
        return None
    # The first is a checksum.
    checkpoint = max(struct.unpack("<8xQ", head)[0] for head in heads)
    return _Head(main[124:140].hex(), checkpoint)


def _checkpoint_of_log(head: bytes) -> int | None:
    """The checkpoint that a log follows: a field behind the identity, seven bits a byte."""
    start = head.find(b"g\0", 8)
    number, shift = 0, 0
    for byte in head[start + 2 :] if start > 0 else b"":
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return number
    return None


def _log_text(file: Path) -> str:
    return str(log_of(file) if log_of(file).exists() else note_of(file))


def _copy_aside(log: Path) -> Path | None:
    """Copies the log, once: a server that is started again and again must not fill the disk."""
    if not log.exists():
        return None
    time = datetime.fromtimestamp(log.stat().st_mtime, UTC)
    copy = log.with_name(f"{log.name}.damaged-{time:%Y%m%dT%H%M%S}")
    if not (copy.exists() and copy.stat().st_size == log.stat().st_size):
        shutil.copy2(log, copy)
    return copy


def _fold(file: Path) -> None:
    """Takes over what the engine can read of the log, and removes the rest."""
    with contextlib.suppress(duckdb.Error):  # if it can read nothing, the file alone is what is left
        duckdb.connect(str(file), config=CONNECT_CONFIG).close()
    log_of(file).unlink(missing_ok=True)
