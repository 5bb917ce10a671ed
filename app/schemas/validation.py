"""Pydantic's findings as the errors of the product: a field and a message."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from app.errors import FieldError, Invalid, TooLarge
from app.schemas.common import MAX_VALUES

MAX_ERRORS = 100
_PORTION = 1 << 16
_PLAIN = re.compile(rb"[^\\]")

T = TypeVar("T")


def field_path(location: Sequence[str | int], prefix: str = "") -> str:
    """`("steps", 2, "status")` as `steps[2].status`."""
    path = prefix
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part != "[key]":  # the name itself is wrong; it stands before
            path += f".{part}" if path else part
    return path or "body"


def field_errors(errors: Iterable[Mapping[str, Any]], prefix: str = "") -> list[FieldError]:
    """What is wrong, without an echo of the input. At most the first 100 findings."""
    found = []
    for error in errors:
        message = str(error["msg"]).removeprefix("Value error, ")
        if error["type"] == "extra_forbidden":
            message = "is not known; check its spelling"
        found.append(FieldError(field_path(error["loc"], prefix), message))
        if len(found) == MAX_ERRORS:
            break
    return found


def invalid(error: ValidationError, prefix: str = "") -> Invalid:
    """The error to raise for input that a model refused."""
    return Invalid(field_errors(error.errors(include_url=False, include_input=False), prefix))


def is_json(media_type: str) -> bool:
    """Whether a body of this media type is JSON."""
    return re.fullmatch(r"application/([\w.-]+\+)?json", media_type) is not None


def few_values(text: bytes, most: int = MAX_VALUES) -> bytes:
    """The JSON text, unless it has so many values that they would take many times its size in memory.

    Raises TooLarge.
    """
    if len(text) > most and _count_values(text) > most:
        raise TooLarge(f"The body has more than {most} values in one piece; send it in parts.")
    return text


def _count_values(text: bytes) -> int:
    """The commas and brackets outside of strings: each value but the outermost follows one of them."""
    found, inside, at = 0, 0, 0
    strings = b"\x00" not in text  # in UTF-16 other bytes look like quotes
    while at < len(text):
        last = _PLAIN.search(text, at + _PORTION)  # so that no escape is cut apart
        end = last.end() if last else len(text)
        plain = text[at:end]
        if strings:
            parts = plain.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')
            plain = b"".join(parts[inside::2])
            inside ^= len(parts) % 2 == 0
        found += sum(map(plain.count, (b",", b"[", b"{")))
        at = end
    return found


def checked_json(adapter: TypeAdapter[T], body: bytes) -> T:
    """What the adapter makes of a JSON text. Raises Invalid."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Invalid.of("body", "is not valid JSON in UTF-8, or is nested too deeply") from error
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise invalid(error) from error
