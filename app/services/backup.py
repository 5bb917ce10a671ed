"""Backups: one zip file with the database, a manifest of its rows and checksums, and result files."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

from pydantic import BaseModel
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db import Database, utcnow
from app.db.copying import NOT_EMBEDDED, copy_database, replace_file
from app.db.engine import embedded_file, file_url
from app.db.opening import open_database
from app.errors import Conflict, Invalid, Unavailable
from app.models import Base
from app.schemas.check import Finding
from app.services import check
from app.services.alone import alone
from app.services.files import is_beside, work_folder

DATABASE, MANIFEST, RESULTS = "database", "manifest.json", "results"
PREFIX, RESTORING = ".backup-", ".restore-"
_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, RuntimeError, ValueError)
"""What comes of an archive that is damaged, or wants a password or a method that is not there."""

logger = logging.getLogger("testdb")

_writing = threading.Lock()  # one at a time: each needs room for the whole database


class Manifest(BaseModel):
    """What a backup holds: rows of each table, and the SHA-256 of each file."""

    format: Literal["test-suite-db-backup"] = "test-suite-db-backup"
    version: Literal[1] = 1
    created_at: datetime
    rows: dict[str, int]
    files: dict[str, str]


def write_backup(
    database: Database,
    stream: BinaryIO,
    folder: Path,
    results: Path | None,
    private: Collection[Path] = (),
) -> Manifest:
    """Writes a backup of one moment, with the result files if their directory is given.

    Before it is packed the copy of the database lies in `folder`. Of the directory neither the database nor
    `private` files are read. Raises Conflict for a database that is not embedded, Unavailable when there is
    no room.
    """
    own = [path.resolve() for path in (embedded_file(database.engine.url), *private) if path is not None]
    try:
        with (
            work_folder(folder, PREFIX) as work,
            zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        ):
            copy = work / DATABASE
            manifest = Manifest(created_at=utcnow(), rows=copy_database(database, copy), files={})
            manifest.files[DATABASE] = _pack(archive, copy, DATABASE)
            for path, name in _result_files(results, own) if results else ():
                with contextlib.suppress(FileNotFoundError):  # its run was deleted meanwhile
                    manifest.files[name] = _pack(archive, path, name)
            archive.writestr(MANIFEST, manifest.model_dump_json(indent=2))
    except OSError as error:
        raise Unavailable(f"The backup cannot be written: {error.strerror}.") from error
    return manifest


@contextmanager
def backup_file(
    database: Database, folder: Path, results: Path | None, private: Collection[Path] = ()
) -> Iterator[BinaryIO]:
    """A backup to read, in a file of the folder that has no name and so leaves nothing behind."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as stream:
            with alone(_writing, "Another backup is being written; send this again when it is done."):
                write_backup(database, stream, folder, results, private)
            stream.seek(0)
            yield stream
    except OSError as error:
        raise Unavailable(f"The export directory cannot be written: {error.strerror}.") from error


def read_manifest(backup: Path | BinaryIO) -> Manifest:
    """What a backup says of itself; raises Invalid for what is no backup."""
    try:
        with zipfile.ZipFile(backup) as archive:
            manifest = Manifest.model_validate_json(archive.read(MANIFEST))
            archive.getinfo(DATABASE if DATABASE in manifest.files else "")
            return manifest
    except _UNREADABLE as error:  # among them what does not fit the model
        name = backup.name if isinstance(backup, Path) else "backup"
        raise Invalid.of(name, "is not a backup, or not a whole one") from error


def restore(path: Path, url: str, results: Path, *, force: bool = False) -> tuple[Manifest, list[Finding]]:
    """Puts the database of a backup, and its result files, in place, after everything was verified.

    Returns, too, what is broken in the database, as it was when it was backed up.

    Raises Invalid for a backup that is not whole, Conflict for a database that is not embedded, or when it or
    a result file exists already, unless `force`, and Unavailable while a server has the database.
    """
    file = embedded_file(url)
    if file is None:
        raise Conflict(NOT_EMBEDDED)
    file = file.resolve()  # a link stays, and what it leads to is replaced
    manifest = read_manifest(path)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        results.mkdir(parents=True, exist_ok=True)
        with (
            work_folder(file.parent, RESTORING) as work,
            work_folder(results, RESTORING) as unpacked,
            zipfile.ZipFile(path) as archive,
        ):
            new = work / DATABASE
            moves = {}
            for name, digest in manifest.files.items():
                target = new if name == DATABASE else _below(unpacked, name)
                if _unpack(archive, name, target) != digest:
                    raise Invalid.of(path.name, f"is damaged: {name} is not what was backed up")
                if name != DATABASE:
                    moves[target] = _below(results, name)
            broken = _verify(new, manifest, path)
            taken = [str(place) for place in moves.values() if place.exists()]
            if taken and not force:
                raise Conflict(f"{taken[0]} exists already; --force replaces it.")
            for place in moves.values():
                _require_free(place)
            replace_file(new, file, force=force)
            for source, place in moves.items():
                place.parent.mkdir(parents=True, exist_ok=True)
                source.replace(place)
    except OSError as error:
        raise Unavailable(f"The backup cannot be restored: {error.strerror}.") from error
    return manifest, broken


def _result_files(results: Path, own: Collection[Path]) -> Iterator[tuple[Path, str]]:
    """The files of runs, and their names in the archive; not what is hidden there, or not for long."""
    for place, folders, files in os.walk(results):
        folders[:] = sorted(name for name in folders if not name.startswith(PREFIX))
        for file in sorted(files):
            path = Path(place, file)
            inside = path.relative_to(results).as_posix()
            passing = file.startswith(".") and file.endswith(".part")
            passing |= inside.count("/") == 1 and file == "events.jsonl"
            if passing or inside.startswith(".") or path.is_symlink() or not path.is_file():
                continue
            if any(is_beside(path, private) for private in own):
                continue
            try:
                inside.encode()
            except UnicodeEncodeError:
                logger.warning("not in the backup: %r, whose name is not UTF-8", inside)
                continue
            yield path, f"{RESULTS}/{inside}"


def _pack(archive: zipfile.ZipFile, path: Path, name: str) -> str:
    with path.open("rb") as source, archive.open(name, "w", force_zip64=True) as target:
        return _copy(source, target)  # type: ignore[arg-type]


def _unpack(archive: zipfile.ZipFile, name: str, path: Path) -> str | None:
    """The SHA-256 of what was unpacked; None when it cannot be read, or nothing can have its name."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(name) as source, path.open("xb") as target:
            digest = _copy(source, target)  # type: ignore[arg-type]
            target.flush()
            os.fsync(target.fileno())
    except _UNREADABLE:
        return None
    return digest


def _copy(source: BinaryIO, target: BinaryIO) -> str:
    """The SHA-256 of what was copied."""
    digest = hashlib.sha256()
    while chunk := source.read(1 << 20):
        digest.update(chunk)
        target.write(chunk)
    return digest.hexdigest()


def _below(folder: Path, name: str) -> Path:
    parts = PurePosixPath(name).parts
    if len(parts) < 2 or parts[0] != RESULTS or ".." in parts:
        raise Invalid.of(name, "is not a place for a result file")
    return folder.joinpath(*parts[1:])


def _require_free(place: Path) -> None:
    """Raises Conflict when no file can have the name: there is a folder, or a file in the place of one."""
    blocking = [place] if place.is_dir() else [above for above in place.parents if above.is_file()]
    if blocking:
        raise Conflict(f"{blocking[0]} is in the way of a result file; move it away.")


def _verify(file: Path, manifest: Manifest, path: Path) -> list[Finding]:
    database = open_database(file_url(file), create=False)
    try:
        rows, broken = database.read(_count), database.read(check.find_broken)
    finally:
        database.close()
    if any(manifest.rows.get(table) != count for table, count in rows.items()):
        raise Invalid.of(path.name, "is damaged: it has not the rows that were backed up")
    return broken


def _count(session: Session) -> dict[str, int]:
    return {
        table.name: session.scalar(select(func.count()).select_from(table)) or 0
        for table in Base.metadata.sorted_tables
    }
