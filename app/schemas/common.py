"""Field types and base models shared by everything that goes over the wire."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
)

MAX_JSON_DEPTH = 100
MAX_ITEMS = 100_000
MAX_VALUES = 3_000_000
"""Values of a JSON text, or elements and attributes of an XML one, that are held in memory together."""
MAX_NAME = 1000
MAX_KEY_BYTES = 2400
"""What PostgreSQL can index together with a run's id."""
MAX_TAG_BYTES = 1300
"""Of a tag's name, and of its value: one index holds both."""
_ISO_TIME = re.compile(r"[0-9W-]+([T ][0-9:.,]+(Z|[+-][0-9:.]+)?)?")
ID_PATTERN = r"[A-Za-z0-9._:\-]{1,200}"


class Answer(BaseModel):
    """Base of what the server sends: NaN and infinities go out as strings, times with a `Z`."""

    model_config = ConfigDict(ser_json_inf_nan="strings", from_attributes=True)


AnswerT = TypeVar("AnswerT", bound=Answer)


def build(answer: type[AnswerT], **values: Any) -> AnswerT:
    """An answer from values of the database, which need no validation."""
    return cast(AnswerT, answer.model_construct(**values))


class Request(BaseModel):
    """Base of what a client sends: an unknown field is an error."""

    model_config = ConfigDict(extra="forbid")


def plain_text(value: str) -> str:
    """Refuses what no database stores as text: NUL, lone surrogates. Raises ValueError."""
    if "\x00" in value:
        raise ValueError("must not contain a NUL character")
    _encodable(value)
    return value


def _plain(size: int) -> Callable[[str], str]:
    """`plain_text` that also refuses more than so many bytes."""

    def check(value: str) -> str:
        if value.isascii() and len(value) <= size and "\x00" not in value:
            return value
        if len(plain_text(value).encode()) > size:
            raise ValueError(f"must be at most {size} bytes long in UTF-8")
        return value

    return check


def _encodable(value: str) -> None:
    # JSON can say "\ud800", UTF-8 cannot.
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError("contains half of a surrogate pair") from error


def is_id(value: str) -> bool:
    """Whether a run or batch could have this id."""
    return re.fullmatch(ID_PATTERN, value) is not None and value not in (".", "..")


def _not_dots(value: str) -> str:
    if value in (".", ".."):
        raise ValueError("must not be '.' or '..'")
    return value


def number(value: Any) -> Any:
    """A number, or one of the strings `"NaN"`, `"Infinity"`, `"-Infinity"`; no guesses."""
    if isinstance(value, bool):
        raise ValueError("must be a number, not a boolean")
    if isinstance(value, str) and value not in ("NaN", "Infinity", "-Infinity"):
        raise ValueError('must be a number, or one of the strings "NaN", "Infinity", "-Infinity"')
    if isinstance(value, float) and not math.isfinite(value):
        # JSON has no such literal; or the number was too large and became infinite when it was read.
        raise ValueError('must fit a 64-bit float, or be one of the strings "NaN", "Infinity", "-Infinity"')
    if isinstance(value, int):
        try:
            return float(value)
        except OverflowError as error:
            raise ValueError("is too large for a 64-bit float") from error
    return value


def _integer(value: Any) -> Any:
    if isinstance(value, bool | str):
        raise ValueError("must be a whole number")
    return value


def duration(text: str) -> timedelta:
    """The length of a text such as `90d`, `12h`, `30m` or `45s`. Raises ValueError."""
    found = re.fullmatch(r"([0-9]{1,9})([dhms])", text, re.ASCII)
    if found is None:
        raise ValueError("must be a whole number and its unit d, h, m or s, for example 90d")
    length = int(found[1]) * _UNITS[found[2]]
    if not timedelta(0) < length <= _LONGEST:
        raise ValueError("must be longer than nothing and at most 36500d")
    return length


_UNITS = {
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
}
_LONGEST = timedelta(days=36500)


def _duration(text: str) -> str:
    duration(text)
    return text


def _not_negative(value: float) -> float:
    if value < 0:
        raise ValueError("must not be negative")
    return value


def parse_time(value: Any) -> Any:
    """An ISO 8601 text as an aware UTC datetime; a naive time is UTC. Raises ValueError."""
    # Python takes any character between date and time, and a NUL at the end.
    if isinstance(value, str) and _ISO_TIME.fullmatch(text := value.strip().upper()):
        try:
            value = datetime.fromisoformat(text)
        except ValueError as error:
            raise ValueError("must be an ISO 8601 time such as 2026-01-31T12:00:00Z") from error
    if not isinstance(value, datetime):
        raise ValueError("must be an ISO 8601 time such as 2026-01-31T12:00:00Z")
    if value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("is outside the years 1 to 9999 in UTC") from error


def _query_time(value: Any) -> Any:
    """A `+` that was not percent-encoded reaches the server as a space: `…T10:00:00 02:00` means `+02:00`."""
    if isinstance(value, str):
        return re.sub(r"(T[\d:.]+) (\d\d:?\d\d)$", r"\1+\2", value)
    return value


def _platforms(value: Any) -> Any:
    """One platform or a list of them, each once, in the given order."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return list(dict.fromkeys(value))
    return value


def _tag_text(value: Any) -> Any:
    """Numbers and booleans are written as JSON writes them."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be a text, a finite number or a boolean")
    return json.dumps(value) if isinstance(value, bool | int | float) else value


def check_json(value: Any, depth: int = 0) -> Any:
    """Refuses what not every engine stores: deep nesting, NaN, lone surrogates. Raises ValueError."""
    if depth > MAX_JSON_DEPTH:
        raise ValueError(f"is nested deeper than {MAX_JSON_DEPTH} levels")
    if isinstance(value, dict):
        for key, item in value.items():
            check_json(key, depth)
            check_json(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            check_json(item, depth + 1)
    elif isinstance(value, str):
        _encodable(value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError('must not contain NaN or infinities; write them as the strings "NaN", "Infinity"')
    return value


_NUMBER_SCHEMA = {"anyOf": [{"type": "number"}, {"type": "string", "enum": ["NaN", "Infinity", "-Infinity"]}]}
_SECONDS_SCHEMA = {
    "anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "enum": ["NaN", "Infinity"]}]
}
_PLATFORM_SCHEMA: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": 200}
_TIME_SCHEMA = {"type": "string", "format": "date-time"}

Text = Annotated[str, AfterValidator(plain_text)]
Name = Annotated[
    str, StringConstraints(min_length=1, max_length=MAX_NAME), AfterValidator(_plain(MAX_KEY_BYTES))
]
StepName = Annotated[
    str, StringConstraints(min_length=1, max_length=2000), AfterValidator(_plain(MAX_KEY_BYTES))
]
StepText = Annotated[str, StringConstraints(max_length=2000), AfterValidator(_plain(MAX_KEY_BYTES))]
Id = Annotated[str, StringConstraints(pattern=f"^{ID_PATTERN}$"), AfterValidator(_not_dots)]
Number = Annotated[float, BeforeValidator(number), WithJsonSchema(_NUMBER_SCHEMA)]
AnyFloat = Annotated[float, WithJsonSchema(_NUMBER_SCHEMA)]
"""A number of an answer that may not be finite."""
Seconds = Annotated[
    float, BeforeValidator(number), AfterValidator(_not_negative), WithJsonSchema(_SECONDS_SCHEMA)
]
Fraction = Annotated[float, Field(ge=0, le=1), BeforeValidator(number)]
Whole = Annotated[int, BeforeValidator(_integer)]
Count = Annotated[Whole, Field(ge=0, le=2**31 - 1)]
Time = Annotated[datetime, BeforeValidator(parse_time), WithJsonSchema(_TIME_SCHEMA)]
QueryTime = Annotated[
    datetime, BeforeValidator(parse_time), BeforeValidator(_query_time), WithJsonSchema(_TIME_SCHEMA)
]
Duration = Annotated[
    str, AfterValidator(_duration), WithJsonSchema({"type": "string", "pattern": "^[0-9]{1,9}[dhms]$"})
]
"""A length of time as `duration` reads it."""
Hardware = Annotated[
    list[Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(plain_text)]],
    BeforeValidator(_platforms),
    WithJsonSchema({"anyOf": [_PLATFORM_SCHEMA, {"type": "array", "items": _PLATFORM_SCHEMA}]}),
]
TagName = Annotated[
    str, StringConstraints(min_length=1, max_length=MAX_NAME), AfterValidator(_plain(MAX_TAG_BYTES))
]
TagValue = Annotated[
    str,
    StringConstraints(max_length=MAX_NAME),
    BeforeValidator(_tag_text),
    AfterValidator(_plain(MAX_TAG_BYTES)),
]
Tags = dict[TagName, TagValue | None]
JsonObject = Annotated[dict[str, Any], AfterValidator(check_json)]
