"""Reads a large JSON object with memory for one item of its lists at a time.

Every item is parsed by Python's own parser: it takes integers of any size, and stops at deep nesting.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Collection, Iterator
from typing import Any, BinaryIO

from app.schemas.common import MAX_VALUES
from app.schemas.validation import few_values

CHUNK = 1 << 16
CUT_OFF = 12
"""So close to the end of the text read so far a literal, an escape or a number may go on behind it."""

SPARSE = 12
"""Characters that each value has, on average, in what is larger than most; an export has more."""

_SPACE = re.compile(r"[ \t\n\r]*")


class NotAList(ValueError):
    """The member is something else."""


def members(stream: BinaryIO, names: Collection[str]) -> dict[str, Any]:
    """The members with these names, as far as they exist. Raises ValueError for what is not JSON."""
    reader, found = _Reader(stream), {}
    for name in reader.names():
        if name in names:
            found[name] = reader.value()
            if len(found) == len(names):
                break
        else:
            reader.skip()
    return found


def items(stream: BinaryIO, name: str) -> Iterator[Any]:
    """The items of the list with this name. Raises ValueError where anything in the file is not JSON."""
    reader = _Reader(stream)
    for member in reader.names():
        if member != name:
            reader.skip()
        elif reader.peek() in "[":  # or at the end, which is told there
            yield from reader.items()
        else:
            raise NotAList(f"{name} is not a list")


def texts(stream: BinaryIO) -> Iterator[str]:
    """The items of a list that is the whole text, each as it is written. Raises ValueError as above."""
    reader = _Reader(stream)
    if reader.peek() != "[":
        raise NotAList("the text is not a list")
    yield from reader.texts()
    if reader.peek():
        raise ValueError("there is more after the end of the list")


def _not_json(constant: str) -> None:
    raise ValueError(f'{constant} is not JSON; write it as the string "{constant}"')


_DECODER = json.JSONDecoder(parse_constant=_not_json)


class _Reader:
    """Walks through the object; whoever asks for names must take or skip each value."""

    def __init__(self, stream: BinaryIO) -> None:
        stream.seek(0)
        self._stream = stream
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._text = ""
        self._from = 0
        self._at = 0
        self._ended = False

    def names(self) -> Iterator[str]:
        for _ in self._separated("{", "}"):
            name = self.value()
            if not isinstance(name, str):
                raise ValueError("a name must be a text")
            self._take(":")
            yield name
        if self.peek():
            raise ValueError("there is more after the end of the object")

    def items(self) -> Iterator[Any]:
        for _ in self._separated("[", "]"):
            yield self.value()

    def texts(self) -> Iterator[str]:
        for _ in self._separated("[", "]"):
            self.value()
            yield self._text[self._from : self._at]

    def skip(self) -> None:
        if self.peek() == "[":
            for _ in self.items():
                pass
        else:
            self.value()

    def value(self) -> Any:
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except RecursionError:
                raise ValueError("it is nested too deeply") from None
            except json.JSONDecodeError as error:
                near_the_end = error.pos + CUT_OFF >= len(self._text)
                if not (near_the_end or error.msg.startswith("Unterminated")) or not self._more():
                    raise ValueError(error.msg) from error
            else:
                if end + CUT_OFF < len(self._text) or not self._more():
                    self._from, self._at = self._at, end
                    return value

    def peek(self) -> str:
        """The next character that is not white space; nothing at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _separated(self, start: str, end: str) -> Iterator[None]:
        self._take(start)
        if self.peek() == end:
            self._take(end)
            return
        while True:
            yield
            if self._take("," + end) == end:
                return

    def _take(self, expected: str) -> str:
        found = self.peek()
        if not found:
            raise ValueError("it ends too early")
        if found not in expected:
            raise ValueError(f"{found!r} where {' or '.join(expected)} is expected")
        self._at += 1
        return found

    def _more(self) -> bool:
        """Reads on, twice as much each time: what needs several reads is parsed anew after each."""
        if self._ended:
            return False
        data = self._stream.read(max(CHUNK, len(self._text) - self._at))
        self._ended = not data
        self._text = self._text[self._at :] + self._decode(data, self._ended)
        self._at = 0
        if len(self._text) > MAX_VALUES:
            few_values(self._text.encode(), MAX_VALUES + len(self._text) // SPARSE)
        return True
