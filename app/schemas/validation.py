"""Pydantic's findings as the errors of the product: a field and a message."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from app.errors import FieldError, Invalid

MAX_ERRORS = 100

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
