"""Everything special about DuckDB: the dialect (reflection, DDL) and Alembic's implementation.

duckdb-engine derives from the PostgreSQL dialect and asks PostgreSQL's catalog, which DuckDB only imitates.
Here the questions go to DuckDB's own catalog functions (https://duckdb.org/docs/stable/sql/meta/duckdb_table_functions).
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any, ClassVar

import duckdb
from alembic.ddl.impl import DefaultImpl
from alembic.operations.batch import BatchOperationsImpl
from duckdb_engine import Dialect as DuckDBEngineDialect
from sqlalchemy import exc, types
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.base import PGCompiler, PGDDLCompiler
from sqlalchemy.dialects.postgresql.psycopg2 import PGExecutionContext_psycopg2
from sqlalchemy.engine import Connection, Row
from sqlalchemy.engine.cursor import FullyBufferedCursorFetchStrategy
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.engine.reflection import Inspector, cache
from sqlalchemy.schema import Constraint, ForeignKeyConstraint, PrimaryKeyConstraint

# Set before any file is opened: a foreign file could otherwise make the engine download code.
CONNECT_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "allocator_background_threads": True,  # otherwise memory that is free stays with the process
}

_TYPES: dict[str, type[types.TypeEngine[Any]]] = {
    "BIGINT": types.BigInteger,
    "BLOB": types.LargeBinary,
    "BOOLEAN": types.Boolean,
    "DATE": types.Date,
    "DOUBLE": types.Double,
    "FLOAT": types.REAL,
    "INTEGER": types.Integer,
    "JSON": types.JSON,
    "SMALLINT": types.SmallInteger,
    "TIME": types.Time,
    "TIMESTAMP": types.DateTime,
    "UUID": types.Uuid,
    "VARCHAR": types.String,
}


def parse_type(name: str) -> types.TypeEngine[Any]:
    """The SQLAlchemy type of a type name as DuckDB writes it, such as `VARCHAR[]` or `DECIMAL(18,3)`."""
    if array := re.fullmatch(r"(.+?)((?:\[\])+)", name):
        return types.ARRAY(parse_type(array[1]), dimensions=len(array[2]) // 2)
    if name == "TIMESTAMP WITH TIME ZONE":
        return types.DateTime(timezone=True)
    if decimal := re.fullmatch(r"DECIMAL\((\d+),(\d+)\)", name):
        return types.Numeric(int(decimal[1]), int(decimal[2]))
    return _TYPES.get(name, types.NullType)()


class DuckDBCompiler(PGCompiler):
    def for_update_clause(self, select: Any, **kw: Any) -> str:
        return ""  # DuckDB has no row locks; the write lock of the process stands in.


class DuckDBExecutionContext(PGExecutionContext_psycopg2):
    def post_exec(self) -> None:
        super().post_exec()  # type: ignore[no-untyped-call]
        # A DuckDB connection has one result: the next statement would silently take the rest of it away.
        streamed = self.execution_options.get("stream_results") or self.execution_options.get("yield_per")
        if not streamed and self.cursor.description is not None:
            self.cursor_fetch_strategy = FullyBufferedCursorFetchStrategy(self.cursor)


class DuckDBDDLCompiler(PGDDLCompiler):
    def visit_foreign_key_constraint(self, constraint: ForeignKeyConstraint, **kw: Any) -> None:  # type: ignore[override]
        return None  # DuckDB cannot delete children and parent in one transaction while they refer.

    def visit_primary_key_constraint(self, constraint: PrimaryKeyConstraint, **kw: Any) -> str | None:  # type: ignore[override]
        if not constraint.table.info.get("physical_key", True):
            return None
        return str(super().visit_primary_key_constraint(constraint, **kw))  # type: ignore[no-untyped-call]


class DuckDBDialect(DuckDBEngineDialect):  # type: ignore[misc]
    """duckdb-engine with native reflection, cached statements, and the DDL that DuckDB can live with."""

    supports_statement_cache = True
    inspector = Inspector
    statement_compiler = DuckDBCompiler
    ddl_compiler = DuckDBDDLCompiler
    execution_ctx_cls = DuckDBExecutionContext
    single_writer: ClassVar[bool] = True
    """One process owns the file and its writers would conflict: units of work that write take turns."""

    has_index = DefaultDialect.has_index

    def connect(self, *args: Any, **kwargs: Any) -> Any:
        connection = super().connect(*args, **kwargs)
        # It would print a bar on stdout for every statement that takes two seconds.
        connection.execute("SET enable_progress_bar = false")
        return connection

    def do_begin(self, connection: Any) -> None:
        # The execution option `postgresql_readonly` sets the attribute, as it does on PostgreSQL.
        readonly = getattr(connection, "readonly", False)
        connection.execute("BEGIN TRANSACTION READ ONLY" if readonly else "BEGIN TRANSACTION")

    def do_rollback(self, connection: Any) -> None:
        # A fatal error was raised when it happened; after it the engine answers nothing.
        with suppress(duckdb.FatalException):
            super().do_rollback(connection)

    def _get_default_schema_name(self, connection: Connection) -> str:
        return "main"

    def _catalog(
        self,
        connection: Connection,
        function: str,
        columns: str,
        schema: str | None,
        name: str | None = None,
        *,
        name_column: str = "table_name",
        tail: str = "",
    ) -> list[Any]:
        database, schema = self.identifier_preparer._separate(schema)
        statement = (
            f"SELECT {columns} FROM {function}() WHERE database_name = coalesce($1, current_database())"
            f" AND schema_name = coalesce($2, current_schema()) AND ($3 IS NULL OR {name_column} = $3) {tail}"
        )
        return list(connection.exec_driver_sql(statement, (database, schema, name)).all())

    def has_table(
        self, connection: Connection, table_name: str, schema: str | None = None, **kw: Any
    ) -> bool:
        # A view has columns, too, and counts as a table here, as SQLAlchemy documents.
        return bool(self._catalog(connection, "duckdb_columns", "1", schema, table_name, tail="LIMIT 1"))

    def has_sequence(
        self, connection: Connection, sequence_name: str, schema: str | None = None, **kw: Any
    ) -> bool:
        return sequence_name in self.get_sequence_names(connection, schema)

    def get_sequence_names(self, connection: Connection, schema: str | None = None, **kw: Any) -> list[str]:
        rows = self._catalog(
            connection, "duckdb_sequences", "sequence_name", schema, name_column="sequence_name"
        )
        return [row[0] for row in rows]

    @cache
    def get_table_names(self, connection: Connection, schema: str | None = None, **kw: Any) -> list[str]:
        rows = self._catalog(
            connection, "duckdb_tables", "table_name", schema, tail="AND NOT temporary ORDER BY 1"
        )
        return [row[0] for row in rows]

    @cache
    def get_temp_table_names(self, connection: Connection, schema: str | None = None, **kw: Any) -> list[str]:
        rows = self._catalog(connection, "duckdb_tables", "table_name", "temp.main", tail="ORDER BY 1")
        return [row[0] for row in rows]

    @cache
    def get_view_names(self, connection: Connection, schema: str | None = None, **kw: Any) -> list[str]:
        rows = self._catalog(
            connection,
            "duckdb_views",
            "view_name",
            schema,
            name_column="view_name",
            tail="AND NOT internal ORDER BY 1",
        )
        return [row[0] for row in rows]

    def get_temp_view_names(self, connection: Connection, schema: str | None = None, **kw: Any) -> list[str]:
        return []

    def get_materialized_view_names(
        self, connection: Connection, schema: str | None = None, **kw: Any
    ) -> list[str]:
        return []

    @cache
    def get_view_definition(
        self, connection: Connection, view_name: str, schema: str | None = None, **kw: Any
    ) -> str:
        rows = self._catalog(connection, "duckdb_views", "sql", schema, view_name, name_column="view_name")
        if not rows:
            raise exc.NoSuchTableError(view_name)
        return str(rows[0][0])

    @cache
    def get_columns(
        self, connection: Connection, table_name: str, schema: str | None = None, **kw: Any
    ) -> list[dict[str, Any]]:
        rows = self._catalog(
            connection,
            "duckdb_columns",
            "column_name, data_type, is_nullable, column_default, comment",
            schema,
            table_name,
            tail="ORDER BY column_index",
        )
        if not rows:
            raise exc.NoSuchTableError(table_name)
        return [
            {
                "name": name,
                "type": parse_type(data_type),
                "nullable": nullable,
                "default": None if default == "NULL" else default,
                "autoincrement": False,  # else a copy of the table would be made with PostgreSQL's SERIAL
                "comment": comment,
            }
            for name, data_type, nullable, default, comment in rows
        ]

    @cache
    def _constraints(
        self, connection: Connection, table_name: str, schema: str | None = None, **kw: Any
    ) -> list[Row[Any]]:
        if not self.has_table(connection, table_name, schema):
            raise exc.NoSuchTableError(table_name)
        return self._catalog(
            connection,
            "duckdb_constraints",
            "constraint_type AS kind, constraint_name AS name, constraint_column_names AS columns,"
            " referenced_table, referenced_column_names AS referenced_columns, expression",
            schema,
            table_name,
            tail="ORDER BY constraint_index",
        )

    @cache
    def get_pk_constraint(
        self, connection: Connection, table_name: str, schema: str | None = None, **kw: Any
    ) -> dict[str, Any]:
        for row in self._constraints(connection, table_name, schema, **kw):
            if row.kind == "PRIMARY KEY":
                return {"name": row.name, "constrained_columns": list(row.columns)}
        return {"name": None, "constrained_columns": []}

    @cache
    def get_foreign_keys(
        self, connection: Connection, table_name: str, schema: str | None = None, **kw: Any
    ) -> list[dict[str, Any]]:
        return [
            {
                "name": row.name,
                "constrained_columns": list(row.columns),
                "referred_schema": schema,
                "referred_table": row.referenced_table,
                "referred_columns": list(row.referenced_columns),
                "options": {},
            }
            for row in self._constraints(connection, table_name, schema, **kw)
            if row.kind == "FOREIGN KEY"
        ]

    @cache
    def get_unique_constraints(
        self, connection: Connection, table_name: str, schema: str | None = None, **kw: Any
    ) -> list[dict[str, Any]]:
        return [
            {"name": row.name, "column_names": list(row.columns)}
            for row in self._constraints(connection, table_name, schema, **kw)
            if row.kind == "UNIQUE"
        ]

    @cache
    def get_check_constraints(
        self, connection: Connection, table_name: str, schema: str | None = None, **kw: Any
    ) -> list[dict[str, Any]]:
        return [
            {"name": row.name, "sqltext": row.expression}
            for row in self._constraints(connection, table_name, schema, **kw)
            if row.kind == "CHECK"
        ]

    @cache
    def get_indexes(
        self, connection: Connection, table_name: str, schema: str | None = None, **kw: Any
    ) -> list[dict[str, Any]]:
        columns = {column["name"] for column in self.get_columns(connection, table_name, schema, **kw)}
        rows = self._catalog(
            connection,
            "duckdb_indexes",
            "index_name, is_unique, expressions::VARCHAR[]",
            schema,
            table_name,
            tail="ORDER BY 1",
        )
        indexes = []
        for name, unique, raw in rows:
            expressions = [
                expression[1:-1].replace('""', '"') if expression.startswith('"') else expression
                for expression in raw
            ]
            names = [e if e in columns else None for e in expressions]
            index = {"name": name, "unique": unique, "column_names": names}
            if None in names:
                index["expressions"] = expressions
            indexes.append(index)
        return indexes

    @cache
    def get_table_comment(
        self, connection: Connection, table_name: str, schema: str | None = None, **kw: Any
    ) -> dict[str, Any]:
        if not self.has_table(connection, table_name, schema):
            raise exc.NoSuchTableError(table_name)
        rows = self._catalog(connection, "duckdb_tables", "comment", schema, table_name)
        return {"text": rows[0][0] if rows else None}  # a view has none

    def get_table_options(
        self, connection: Connection, table_name: str, schema: str | None = None, **kw: Any
    ) -> dict[str, Any]:
        return {}

    # PostgreSQL's versions ask its catalog for many tables at once; the default asks the methods above.
    get_multi_columns = DefaultDialect.get_multi_columns
    get_multi_pk_constraint = DefaultDialect.get_multi_pk_constraint
    get_multi_foreign_keys = DefaultDialect.get_multi_foreign_keys
    get_multi_unique_constraints = DefaultDialect.get_multi_unique_constraints
    get_multi_check_constraints = DefaultDialect.get_multi_check_constraints
    get_multi_indexes = DefaultDialect.get_multi_indexes
    get_multi_table_comment = DefaultDialect.get_multi_table_comment
    get_multi_table_options = DefaultDialect.get_multi_table_options


class DuckDBImpl(DefaultImpl):
    """Alembic on DuckDB: DDL is transactional, and a table is altered by copying it (batch mode)."""

    __dialect__ = "duckdb"
    transactional_ddl = True

    def requires_recreate_in_batch(self, batch_op: BatchOperationsImpl) -> bool:
        # DuckDB refuses most ALTERs of a table that an index depends on.
        return True

    def add_constraint(self, const: Constraint, **kw: Any) -> None:
        if not isinstance(const, ForeignKeyConstraint):
            super().add_constraint(const, **kw)

    def drop_constraint(self, const: Constraint, **kw: Any) -> None:
        if not isinstance(const, ForeignKeyConstraint):
            super().drop_constraint(const, **kw)

    def correct_for_autogen_foreignkeys(
        self, conn_fks: set[ForeignKeyConstraint], metadata_fks: set[ForeignKeyConstraint]
    ) -> None:
        conn_fks.clear()
        metadata_fks.clear()

    def compare_server_default(
        self,
        inspector_column: Any,
        metadata_column: Any,
        rendered_metadata_default: str | None,
        rendered_inspector_default: str | None,
    ) -> bool:
        return _plain(rendered_metadata_default) != _plain(rendered_inspector_default)


def _plain(default: str | None) -> str | None:
    """A default without the casts, brackets and quotes that the engine adds when it stores it."""
    if default is None:
        return None
    cast = re.fullmatch(r"CAST\((.*) AS .*\)", default, re.IGNORECASE)
    return (cast[1] if cast else default).strip("()' ").replace("''", "'")


def register() -> None:
    """Makes `duckdb://` URLs use this dialect in place of duckdb-engine's own."""
    registry.register("duckdb", __name__, DuckDBDialect.__name__)
    registry.register("duckdb.duckdb_engine", __name__, DuckDBDialect.__name__)
