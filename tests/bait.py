"""A file and an address that tell who opens them, whatever language that is written in."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

IN_OPEN = 0x20


@dataclass(frozen=True)
class Bait:
    folder: Path
    """Has a file `passwd`."""
    url: str
    _events: int
    _listener: socket.socket

    def taken(self) -> bool:
        """Whether anybody opened the folder, a file of it or a connection since the last call."""
        taken = []
        with suppress(BlockingIOError):
            taken.append(os.read(self._events, 1 << 16))
        with suppress(BlockingIOError):
            taken.append(self._listener.accept()[0].close())
        return bool(taken)


@contextmanager
def laid(folder: Path) -> Iterator[Bait]:
    """Bait in the folder, on Linux."""
    (folder / "passwd").write_text("root:x:0\n")
    libc = ctypes.CDLL(None, use_errno=True)
    events = libc.inotify_init1(os.O_NONBLOCK)
    assert libc.inotify_add_watch(events, bytes(folder), IN_OPEN) >= 0, os.strerror(ctypes.get_errno())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        try:
            yield Bait(folder, f"http://127.0.0.1:{listener.getsockname()[1]}", events, listener)
        finally:
            os.close(events)
