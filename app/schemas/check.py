"""What a check of the database found."""

from __future__ import annotations

from app.schemas.common import Answer


class Finding(Answer):
    """One kind of broken row in one table, with some of the keys."""

    table: str
    problem: str
    rows: int
    examples: list[str]
