"""Exports and imports."""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field, StrictBool

from app.schemas.common import Answer, Hardware, Id, Name, Request


class Per(StrEnum):
    """What becomes one run: a whole file, or each suite that has tests of its own."""

    FILE = "file"
    SUITE = "suite"


_DEVICE = r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])( *\..*)?"
_SPECIAL = re.compile(rf".*[. ]|.*[<>:\"|?*].*|{_DEVICE}", re.IGNORECASE)
"""Names that a system or a program takes for something else, now or where the file is copied to."""


def _plain_file_name(value: str) -> str:
    bad = (
        "/" in value
        or "\\" in value
        or value.startswith(".")
        or any(ord(character) < 32 or ord(character) == 127 for character in value)
        or _SPECIAL.fullmatch(value)
        or len(value.encode("utf-8", "replace")) > 200
    )
    if bad:
        raise ValueError(
            "must be a plain file name: no folder, no leading dot, no dot or space at its end, none "
            'of <>:"|?*, no name of a device, at most 200 bytes'
        )
    return value


class ExportRequest(Request):
    filename: Annotated[str, Field(min_length=1), AfterValidator(_plain_file_name)] | None = Field(
        None, description="Plain name inside the export directory; made from the time when left out."
    )
    include_runs: StrictBool = True
    include_metrics: StrictBool = True
    include_batches: StrictBool = True
    overwrite: StrictBool = False


class ExportStarted(Answer):
    export_id: str
    status: str
    message: str
    filename: str
    timestamp: datetime


class ExportState(Answer):
    export_id: str
    status: str = Field(description="started, completed or error")
    filename: str
    runs: int
    batches: int
    bytes: int
    error: str | None


def _named(tags: list[str]) -> list[str]:
    if any(tag.startswith("=") for tag in tags):
        raise ValueError("must be name=value; the name must not be empty")
    return tags


class ImportOptions(Request):
    """What an import sets on the runs of a JUnit file; `tag` and `batch_id` also hold for other formats."""

    model_name: Name | None = None
    hardware: Hardware | None = None
    test_type: Name | None = None
    tag: Annotated[list[Name], AfterValidator(_named)] = Field(
        default_factory=list, description="`name=value`, repeatable."
    )
    batch_id: Id | None = None
    per: Per = Per.FILE

    @property
    def tags(self) -> dict[str, str]:
        """The `name=value` texts by name; a text without `=` is a tag with an empty value."""
        pairs = (text.partition("=") for text in self.tag)
        return {name: value for name, _equals, value in pairs}


class Imported(Answer):
    format: str
    runs: int
    warnings: list[str]
