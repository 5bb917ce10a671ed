"""What a move of a whole database says when it is done."""

from __future__ import annotations

from pydantic import BaseModel, Field


class MovedTable(BaseModel):
    """What both databases have in a table."""

    rows: int = Field(description="How many rows it has.")
    checksum: str = Field(description="Of all rows in the order of their keys, in hexadecimal digits.")


class Moved(BaseModel):
    """A move that ended, verified."""

    tables: dict[str, MovedTable] = Field(description="Each table, parents first.")
    rows: int = Field(description="The rows of all tables.")
    already_there: int = Field(description="Those that a move before this one had brought.")
    seconds: float = Field(description="How long it took.")
