"""What stands in the XML of a test report: a tree that is safe to build, and its texts, numbers and times.

A number or time that cannot be read is left among the attributes, so that what the file says is kept all
the same, and is named in a warning.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any, BinaryIO
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers.expat import errors

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser, ParseError

from app.errors import Invalid, TooLarge
from app.schemas.common import MAX_VALUES, parse_time

ROOTS = ("testsuites", "testsuite")
MAX_DEPTH = 500
MAX_TAG = 16 << 20
"""Bytes of a tag, whose attributes are held in memory together."""
MAX_WARNINGS = 100
MAX_SECONDS = 1e9

# As much as pyexpat takes at once: expat looks at an unfinished token from its start again with each chunk.
_CHUNK = 1 << 20
_BAD_CHARACTER = (
    errors.codes[errors.XML_ERROR_INVALID_TOKEN],
    errors.codes[errors.XML_ERROR_BAD_CHAR_REF],
)
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\r"))
_CONTROL_REFERENCE = re.compile(
    rb"&#(?:0*(?:[0-8]|1[124-9]|2[0-9]|3[01])|x0*(?:[0-8bBcCeEfF]|1[0-9a-fA-F]));"
)
_SCHEMA_INSTANCE = "{http://www.w3.org/2001/XMLSchema-instance}"

_PLAIN = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?", re.ASCII)
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+", re.ASCII)
# GoogleTest writes the epoch, in its own zone, for a test that did not run.
_UNSET_CLOCK = datetime(1970, 1, 2, tzinfo=UTC)

_INSIDE_PROBLEM = {"stackTrace": "stack_trace", "system-out": "system_out", "system-err": "system_err"}


class Warnings:
    """What could not be kept, a line each; the same line is counted, not repeated."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._more = 0

    def add(self, message: str) -> None:
        if message in self._counts or len(self._counts) < MAX_WARNINGS:
            self._counts[message] = self._counts.get(message, 0) + 1
        else:
            self._more += 1

    def lines(self) -> list[str]:
        lines = [f"{message} ({n} times)" if n > 1 else message for message, n in self._counts.items()]
        return [*lines, f"… and {self._more} more"] if self._more else lines


def quoted(text: str) -> str:
    """A text of the file as a warning shows it."""
    return repr(text if len(text) <= 100 else f"{text[:100]}…")


def shown(element: Element) -> str:
    """An element as a warning names it; so long a name as to be a burden is cut."""
    return f"<{element.tag[:100]}>"


class _Target:
    """Builds the tree with plain names, and refuses as early as possible what no tree should be built of."""

    def __init__(self) -> None:
        self._builder = TreeBuilder()
        self._depth = 0
        self._size = 0
        self.data = self._builder.data
        self.close = self._builder.close

    def start(self, tag: str, attributes: dict[str, str]) -> Element:
        tag = tag.rpartition("}")[2]
        if self._depth == 0 and tag not in ROOTS:
            raise Invalid.of(
                "body", f"must be JUnit XML: its root is <{tag[:100]}>, not <testsuites> or <testsuite>."
            )
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Invalid.of("body", f"must be JUnit XML with elements nested at most {MAX_DEPTH} deep.")
        self._size += 1 + len(attributes)
        if self._size > MAX_VALUES:
            raise TooLarge(
                f"The file has more than {MAX_VALUES} elements and attributes; import it in parts."
            )
        for name in [name for name in attributes if "}" in name]:
            value = attributes.pop(name)
            if not name.startswith(_SCHEMA_INSTANCE):
                attributes.setdefault(name.rpartition("}")[2], value)
        return self._builder.start(tag, attributes)

    def end(self, tag: str) -> Element:
        self._depth -= 1
        return self._builder.end(tag.rpartition("}")[2])


def read_tree(stream: BinaryIO, warnings: Warnings) -> Element:
    """The root of a JUnit XML file. Raises Invalid, and nothing else, for whatever is not one."""
    origin = stream.tell() if stream.seekable() else None
    try:
        try:
            return _tree(_chunks(stream))
        except ParseError as error:
            if origin is None or error.code not in _BAD_CHARACTER:
                raise
            stream.seek(origin)
            head = stream.read(2)
            if b"\0" in head or head in (BOM_UTF16_LE, BOM_UTF16_BE):
                raise
            stream.seek(origin)
            return _tree(_without_controls(_chunks(stream), warnings))
    except DefusedXmlException as error:
        raise Invalid.of(
            "body", "must be JUnit XML without a document type declaration (DTD) or entities."
        ) from error
    except (ParseError, ValueError, LookupError) as error:
        raise Invalid.of("body", f"must be well-formed JUnit XML: {error}.") from error


def _tree(chunks: Iterable[bytes]) -> Element:
    parser = DefusedXMLParser(target=_Target(), forbid_dtd=True)
    fed = 0
    for chunk in chunks:
        parser.feed(chunk)
        fed += len(chunk)
        if fed - parser.parser.CurrentByteIndex > MAX_TAG:
            raise TooLarge(f"The file has a tag of more than {MAX_TAG >> 20} MiB; shorten its attributes.")
    root: Element = parser.close()
    return root


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    return iter(partial(stream.read, _CHUNK), b"")


def _without_controls(chunks: Iterator[bytes], warnings: Warnings) -> Iterator[bytes]:
    """Test tools write the colour codes of a terminal into their output, which no XML may hold."""
    removed, rest = 0, b""
    for chunk in chunks:
        chunk = rest + chunk
        # A reference that is cut by the end of the chunk waits for its other half.
        cut = chunk.rfind(b"&", -16)
        cut = len(chunk) if cut == -1 or b";" in chunk[cut:] else cut
        rest = chunk[cut:]
        plain = chunk[:cut].translate(None, _CONTROLS)
        clean, references = _CONTROL_REFERENCE.subn(b"", plain)
        removed += cut - len(plain) + references
        yield clean
    yield rest
    warnings.add(f"{removed} control characters that XML does not allow were left out")


def take_seconds(attributes: dict[str, str], tag: str, warnings: Warnings) -> float | None:
    text = attributes.get("time", "").strip()
    value = _seconds(text)
    if value is None and text:
        warnings.add(f"<{tag}>: time={quoted(text)} is not a number of seconds from 0 to {MAX_SECONDS:.0f}")
        return None
    attributes.pop("time", None)
    return value


def _seconds(text: str) -> float | None:
    if len(text) > 50:
        return None
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    elif _DECIMAL_COMMA.fullmatch(text):
        text = text.replace(",", ".")
    elif not _PLAIN.fullmatch(text):
        return None
    value = float(text)
    return value + 0.0 if 0 <= value <= MAX_SECONDS else None  # -0.0 + 0.0 is 0.0


def take_count(attributes: dict[str, str], name: str, tag: str, warnings: Warnings) -> int | None:
    text = attributes.get(name, "").strip()
    if text and not (text.isascii() and text.isdigit() and len(text) <= 9):
        warnings.add(f"<{tag}>: {name}={quoted(text)} is not a whole number")
        return None
    attributes.pop(name, None)
    return int(text) if text else None


def take_time(attributes: dict[str, str], tag: str, warnings: Warnings) -> datetime | None:
    text = attributes.get("timestamp", "")
    if not text.strip():
        attributes.pop("timestamp", None)
        return None
    try:
        moment: datetime = parse_time(text)
    except ValueError:
        warnings.add(f"<{tag}>: timestamp={quoted(text)} is not an ISO 8601 time")
        return None
    if moment < _UNSET_CLOCK:
        return None
    del attributes["timestamp"]
    return moment


def trimmed(text: str) -> str | None:
    """The text without the blank lines around it, otherwise as it stands; None when nothing else is there."""
    first = len(text) - len(text.lstrip())
    last = len(text.rstrip())
    if last <= first:
        return None
    end = text.find("\n", last)
    return text[text.rfind("\n", 0, first) + 1 : len(text) if end == -1 else end]


def joined(elements: Iterable[Element]) -> str | None:
    """The output that stands in several elements."""
    return "\n".join(text for element in elements if (text := "".join(element.itertext())).strip()) or None


def problem(element: Element, warnings: Warnings) -> dict[str, Any]:
    """A failure, an error, a skip or a rerun: all that its element says."""
    attributes = dict(element.attrib)
    own, inside = [element.text or ""], dict[str, list[Element]]()
    for child in element:
        if child.tag in _INSIDE_PROBLEM:
            inside.setdefault(child.tag, []).append(child)
        else:
            warnings.add(f"{shown(child)} in <{element.tag}>: only its text was kept")
            own.append("".join(child.itertext()))
        own.append(child.tail or "")
    found: dict[str, Any] = {
        "kind": element.tag,
        "type": attributes.pop("type", None) or None,
        "message": attributes.pop("message", None) or None,
        "text": trimmed("".join(own)),
    }
    for tag, group in inside.items():
        if text := joined(group):
            found[_INSIDE_PROBLEM[tag]] = trimmed(text) if tag == "stackTrace" else text
    return found | {"attributes": attributes} if attributes else found


def _flat(text: str) -> str:
    """The words alone. pytest puts an E before every line of the message when it stands in the text."""
    return " ".join(word for word in text.split() if word != "E")


def error_text(found: dict[str, Any]) -> str | None:
    """Type, message and text of a problem as one text: first what is wrong, and nothing twice."""
    text = found["text"] or found.get("stack_trace") or ""
    kind, message = found["type"] or "", found["message"] or ""
    if found["kind"] == "skipped":
        return trimmed(message) or trimmed(text)
    if kind in message or (not message and kind in text):
        kind = ""
    head = ": ".join(part for part in (kind, message) if part)
    if _flat(text).startswith((_flat(head), _flat(message or head))):
        head = ""
    return "\n".join(part for part in (head, text) if part) or None
