"""What is done by one request at a time, as each takes much."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from app.errors import Busy

PATIENCE = 1.0
"""Seconds that a request waits for the one before it, holding a thread of the server."""


@contextmanager
def alone(lock: threading.Lock, told: str) -> Iterator[None]:
    """Holds the lock. Raises Busy, which says `told`, when another has it for too long."""
    if not lock.acquire(timeout=PATIENCE):
        raise Busy(told)
    try:
        yield
    finally:
        lock.release()
