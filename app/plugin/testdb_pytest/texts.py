"""Texts as the database stores them: bounded, without what no database takes."""

from __future__ import annotations

import re
from hashlib import sha256

MAX_ERROR = 20_000
MAX_CAPTURED = 8_000
"""Of an error, for what the test printed."""
MAX_ID = 2000
MAX_ID_BYTES = 2400
MAX_TAG = 1000
MAX_TAG_BYTES = 1300
MAX_NAME = 1000

_COLORS = re.compile(r"\x1b\[[0-9;]*m")


def plain(text: str) -> str:
    """The text without colours, NUL and lone surrogates, which are written out."""
    text = _COLORS.sub("", text).replace("\x00", "\\x00")
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode(errors="backslashreplace").decode()
    return text


def shortened(text: str, limit: int = MAX_ERROR) -> str:
    """An error text of bounded length: of a longer one the middle is left out."""
    text = plain(text)
    if len(text) <= limit:
        return text
    half = limit // 2 - 25  # for the words in between
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"


def identifier(text: str, suffix: str = "") -> str:
    """A test's id; of one that is too long the end gives way to a digest of it all."""
    if not suffix and len(text) <= MAX_ID and text.isascii() and text.isprintable():
        return text  # as nearly all are
    text = plain(text)
    if len(text) + len(suffix) <= MAX_ID and len((text + suffix).encode()) <= MAX_ID_BYTES:
        return text + suffix
    kept = text.encode()[: MAX_ID_BYTES - 60 - len(suffix)].decode(errors="ignore")[
        : MAX_ID - 40 - len(suffix)
    ]
    return f"{kept}…{sha256(text.encode()).hexdigest()[:16]}{suffix}"


def tag(text: str) -> str:
    """A tag's name or value, cut to what fits."""
    return plain(text).encode()[:MAX_TAG_BYTES].decode(errors="ignore")[:MAX_TAG]


def name(text: str) -> str:
    """A name, cut to what fits."""
    return plain(text).encode()[:MAX_ID_BYTES].decode(errors="ignore")[:MAX_NAME]
