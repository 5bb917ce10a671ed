"""Memory of the C library that is free serves every thread."""

from __future__ import annotations

import ctypes
import os

_M_ARENA_MAX = -8


def share_arenas() -> None:
    """Keeps glibc at two arenas (mallopt(3)), where the operator has not chosen; works before threads start.

    By default it makes eight a core, and what is free in one of them serves no other: the memory of a server
    whose threads take turns would grow for hours.
    """
    if "CS_GNU_LIBC_VERSION" in os.confstr_names and "MALLOC_ARENA_MAX" not in os.environ:
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)
