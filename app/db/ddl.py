"""Marks on tables and indexes that say on which engine a physical object exists.

An index helps one engine and costs another: DuckDB has no ordered index and looks children up by one column;
PostgreSQL serves that look-up from the primary key, and needs B-trees for newest-first pages.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Index, MetaData
from sqlalchemy.schema import SchemaItem

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    # DuckDB forgets names of constraints and gives them these.
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
}

NO_PHYSICAL_KEY = {"physical_key": False}
"""`Table.info` of an append-only table whose primary key DuckDB leaves out: maintaining it halves the insert
rate and triples the space (measured at 10 million rows)."""


def duckdb_index(name: str, *columns: Any, **kwargs: Any) -> Index:
    """An index that exists on DuckDB alone."""
    return Index(name, *columns, info={"only": "duckdb"}, **kwargs).ddl_if(dialect="duckdb")


def postgresql_index(name: str, *columns: Any, **kwargs: Any) -> Index:
    """An index that exists on PostgreSQL alone."""
    return Index(name, *columns, info={"only": "postgresql"}, **kwargs).ddl_if(dialect="postgresql")


def belongs_to(item: SchemaItem, dialect_name: str) -> bool:
    """Whether the object exists on the engine; Alembic's autogenerate asks it for each one."""
    return bool(item.info.get("only", dialect_name) == dialect_name)


def make_metadata() -> MetaData:
    return MetaData(naming_convention=NAMING_CONVENTION)
