"""What SQL of other people may be: one SELECT on the product's tables, of known constructs and functions.

A statement is read, every part of it is looked up in the lists here, and what runs is written anew from what
was read. So no text of a caller's own reaches an engine, and what nobody thought of is refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Table
from sqlglot import exp
from sqlglot.errors import SqlglotError

from app.db import patterns
from app.db.dialects import PLACE, Grammar, short, words
from app.db.sizes import GROWING, MAX_FORMAT, MAX_PADDING, MAX_REPLACEMENT, Sizes, grouping_sets
from app.errors import Invalid
from app.vocabulary import number_of

MAX_LENGTH = 20_000
MAX_DEPTH = 150
MAX_TABLES = 32
"""With a CTE's own as often as it is used: plans grow with them faster than any limit could stop it."""
MAX_COLUMNS = 200
MAX_GROUPINGS = 100
"""Hash tables of a statement: one for each grouping set, and one more for each DISTINCT in each of them."""


_QUERIES = (exp.Select, exp.SetOperation)
_NODES: frozenset[type[exp.Expr]] = frozenset(
    getattr(exp, name)
    for name in words(
        """
    Select Union Intersect Except Subquery With CTE TableAlias Table From Join Lateral Where Group
    Having Qualify Order Ordered Limit Offset Fetch LimitOptions Distinct Star Column Identifier Alias
    Literal Boolean Null Paren Tuple Placeholder And Or Not EQ NEQ GT GTE LT LTE Is In Between Like
    ILike SimilarTo RegexpLike RegexpILike Add Sub Mul Div IntDiv Mod Neg DPipe NullSafeEQ NullSafeNEQ
    Exists Any All Case If Cast TryCast DataType DataTypeParam Interval IntervalSpan Extract Var
    Substring Trim StrPosition Window WindowSpec Filter WithinGroup Anonymous Bracket Slice Array Values
    Unnest JSONExtract JSONExtractScalar JSONBExtract JSONBExtractScalar ArrayContainsAll
    ArrayContainedBy ArrayOverlaps CurrentDate CurrentTimestamp AtTimeZone Cube Rollup GroupingSets
    IgnoreNulls RespectNulls
    """
    )
)
_TYPES = frozenset(
    getattr(exp.DType, name)
    for name in words(
        """
    INT BIGINT SMALLINT TINYINT INT128 UINT UBIGINT TEXT VARCHAR CHAR DOUBLE FLOAT DECIMAL BOOLEAN DATE
    TIME TIMESTAMP TIMESTAMPNTZ TIMESTAMPTZ INTERVAL JSON JSONB UUID ARRAY LIST
    """
    )
)
# Engines answer these names, even quoted, where no column has them.
_NO_COLUMNS = re.compile("current_.*|session_user|system_user|user|localtime|localtimestamp|tableoid")
_IN_WINDOWS = frozenset(
    words(
        """
    row_number rank dense_rank percent_rank cume_dist ntile lag lead first_value last_value nth_value
    count sum avg min max stddev stddev_pop stddev_samp variance var_pop var_samp bool_and bool_or
    median
    """
    )
)
_SERIES = frozenset(("generate_series", "range"))
_TABLE_FUNCTIONS = _SERIES | {
    "unnest",
    *(f"{kind}_{what}" for kind in ("json", "jsonb") for what in ("each", "each_text", "object_keys")),
    *(f"{kind}_array_elements{text}" for kind in ("json", "jsonb") for text in ("", "_text")),
}
_WITH_PATHS = frozenset(
    words(
        """
    json_extract json_extract_string json_extract_path json_extract_path_text json_value json_exists
    json_type json_keys json_array_length json_each
    """
    )
)
_HARMLESS_FIELDS = frozenset(words("* name text time"))


@dataclass(frozen=True)
class Admitted:
    """A statement that may run, with `$1` for the first of its parameters.

    `fields` are the names behind a dot which, where nothing has such a column, must mean nothing else either.
    """

    sql: str
    parameters: list[Any]
    fields: frozenset[str]


def admit(
    grammar: Grammar,
    tables: Mapping[str, Table],
    sql: str,
    given: list[Any] | Mapping[str, Any],
    limit: int,
) -> Admitted:
    """The statement, written anew, which yields at most `limit` rows where that can be said of it.

    `tables` are those it may read, by name.

    `given` are the values for `?` in their order, or for `:name` by name. Raises Invalid.
    """
    if len(sql) > MAX_LENGTH:
        raise _refused(f"is longer than {MAX_LENGTH} characters; bind long values as parameters")
    try:
        statement = _only_query(grammar.parse(sql))
        for text in list(statement.find_all(exp.RawString)):
            text.replace(exp.Literal.string(text.this))
        if any(depth > MAX_DEPTH for depth in _depths(statement)):
            raise _refused("is nested too deeply")
        parameters = _bind(statement, given)
        _Check(grammar, frozenset(tables), parameters).statement(statement)
        if reason := Sizes(grammar, tables, parameters, _definition).bound(statement):
            raise _refused(reason)
        if grammar.inside:
            _shorten(statement, parameters)
        _hide(statement, tables)
        fields = _fields(statement) - grammar.functions.difference(GROWING) - _HARMLESS_FIELDS
        grammar.adapt(statement)
        _bound(statement, limit)
        columns = {column.name for table in tables.values() for column in table.columns}
        return Admitted(grammar.text(statement), parameters, fields - columns)
    except SqlglotError as error:
        raise _refused(f"cannot be read: {_plain(error)}") from error
    except RecursionError:
        raise _refused("is nested too deeply") from None
    except (AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise _refused("cannot be read") from error  # the parser is not ready for every nonsense


def _refused(reason: str) -> Invalid:
    return Invalid.of("sql", reason)


def _plain(error: SqlglotError) -> str:
    """The first line of what the parser says, without the colors that it marks places with."""
    return re.sub(r"\x1b\[\d*m", "", str(error).splitlines()[0]).replace("<class 'sqlglot.expressions.", "<")[
        :200
    ]


def _only_query(statements: list[exp.Expr | None]) -> exp.Expr:
    found = [statement for statement in statements if statement is not None]
    if len(found) != 1:
        raise _refused(f"must be one statement, not {len(found)}")
    statement = found[0].unnest() if isinstance(found[0], exp.Subquery) else found[0]
    if not isinstance(statement, _QUERIES):
        raise _refused("must be a SELECT, or WITH … SELECT; nothing else runs here")
    return statement


def _fields(statement: exp.Expr) -> frozenset[str]:
    """The names behind a dot. PostgreSQL reads `a.f` as `f(a)` when `a` has no column `f`."""
    return frozenset(column.name for column in statement.find_all(exp.Column) if column.table)


def _depths(statement: exp.Expr) -> Iterator[int]:
    depths = {id(statement): 0}
    for node in statement.walk(bfs=True):
        depth = depths[id(node)]
        yield depth
        depths.update((id(child), depth + 1) for child in node.iter_expressions())


def _bind(statement: exp.Expr, given: list[Any] | Mapping[str, Any]) -> list[Any]:
    """Puts `$1`, `$2`, … where the parameters are, and returns their values."""
    places = list(statement.find_all(exp.Placeholder, bfs=False))
    names = [str(place.this) if place.this else None for place in places]
    if isinstance(given, list):
        if any(names):
            raise Invalid.of("params", "must be an object, since the statement has parameters like :name")
        if len(places) != len(given):
            values, parameters = number_of(len(given), "value"), number_of(len(places), "parameter")
            raise Invalid.of("params", f"has {values} for {parameters}")
        for number, place in enumerate(sorted(places, key=lambda place: place.meta[PLACE]), 1):
            place.replace(exp.Var(this=f"${number}"))
        return given
    if None in names:
        raise Invalid.of("params", "must be an array, since the statement has parameters like ?")
    order = list(dict.fromkeys(str(name) for name in names))
    if missing := sorted(set(order) - set(given)):
        raise Invalid.of("params", f"has no value for :{missing[0]}")
    if unused := sorted(set(given) - set(order)):
        raise Invalid.of("params", f"has a value for :{unused[0]}, which the statement does not have")
    for place, name in zip(places, names, strict=True):
        place.replace(exp.Var(this=f"${order.index(str(name)) + 1}"))
    return [given[name] for name in order]


def _shorten(statement: exp.Expr, parameters: list[Any]) -> None:
    """Makes the engine refuse texts that it would compare with a pattern for too long."""
    found = [pair for node in statement.walk() if (pair := patterns.compared(node, parameters))]
    for text, _ in found:
        hole = exp.Null()
        text.replace(hole)
        hole.replace(short(text, patterns.MOST_COMPARED // sum(wide for _, wide in found)))


def _bound(statement: exp.Expr, limit: int) -> None:
    """Lowers the statement's limit; one that is computed stays, and the reader stops at its own."""
    own = statement.args.get("limit")
    if own is None:
        statement.set("limit", exp.Limit(expression=exp.Literal.number(limit)))
    elif isinstance(own, exp.Limit) and isinstance(own.expression, exp.Literal) and own.expression.is_int:
        own.set("expression", exp.Literal.number(min(limit, int(own.expression.this))))


class _Check:
    def __init__(self, grammar: Grammar, tables: frozenset[str], parameters: list[Any]) -> None:
        self._grammar = grammar
        self._tables = tables
        self._parameters = parameters
        self._sizes: dict[int, int] = {}

    def statement(self, statement: exp.Expr) -> None:
        """Raises Invalid; writes names that are not quoted in lower case."""
        nodes = list(statement.walk())
        for node in nodes:
            self._node(node)
        if sum(isinstance(node, exp.Cube | exp.Rollup | exp.GroupingSets) for node in nodes) > 1:
            raise _refused("has more than one of CUBE, ROLLUP and GROUPING SETS")
        sets = sum(map(grouping_sets, nodes))
        distinct = sum(isinstance(node, exp.Distinct) for node in nodes)
        if sets * (1 + distinct) > MAX_GROUPINGS:
            raise _refused(f"has more than {MAX_GROUPINGS} grouping sets, each as often as it has DISTINCT")
        if self._size(statement) > MAX_TABLES:
            raise _refused(f"reads more than {MAX_TABLES} tables, each as often as it is named")

    def _node(self, node: exp.Expr) -> None:
        if type(node) not in _NODES:
            raise _refused(f"has {_named(node)}, which is not allowed here")
        if self._grammar.inside and (reason := patterns.refused(node, self._parameters)):
            raise _refused(reason)
        match node:
            case exp.Anonymous():
                self._function(node)
            case exp.Table():
                self._table(node)
            case exp.DataType():
                if node.this not in _TYPES:
                    raise _refused(f"has the type {node.sql()}, which is not allowed here")
            case exp.DataTypeParam():
                if not node.this.is_int or int(node.this.this) > MAX_PADDING:
                    raise _refused(f"has a type longer than {MAX_PADDING}")
            case exp.Column():
                if _NO_COLUMNS.fullmatch(node.name.lower()) or node.args.get("db"):
                    raise _refused(f"has the name {node.sql()}, which is not allowed here")
            case exp.Identifier():
                if "\x00" in node.name or len(node.name) > 200:
                    raise _refused("has a name that is too long, or contains NUL")
                if not node.quoted:
                    node.set("this", node.name.lower())
            case exp.Literal():
                if "\x00" in node.this or not (
                    node.is_string or re.fullmatch(r"[\d.]{1,40}([eE][+-]?\d{1,4})?", node.this)
                ):
                    raise _refused("has a number of more than 40 digits, or a text with NUL")
            case exp.Var():
                if not re.fullmatch(r"\$?\w{1,40}", node.name):
                    raise _refused(f"has {node.name}, which is not allowed here")
            case exp.CTE():
                if node.alias.lower() in self._tables:
                    raise _refused(f"names a CTE {node.alias}, as a table is named")
            case exp.Star():
                if node.args.get("replace"):
                    raise _refused("has * REPLACE; name the columns instead")
            case exp.Select():
                if not 0 < len(node.expressions) <= MAX_COLUMNS:
                    raise _refused(f"must select 1 to {MAX_COLUMNS} columns")
                stars = sum(part.is_star for part in node.expressions)
                if stars > 1 + len(node.args.get("joins") or ()) + len(node.args.get("laterals") or ()):
                    raise _refused("has * more often than tables")
            case exp.JSONExtract() | exp.JSONExtractScalar():
                self._path(node.expression)
            case exp.Window():
                function = node.this.find(exp.Anonymous)
                if function is not None and function.name.lower() not in _IN_WINDOWS:
                    raise _refused(f"has {function.name} over a window, which is not allowed here")
            case exp.Cube():
                if len(node.expressions) > 5:
                    raise _refused("has a CUBE of more than 5 columns")

    def _function(self, node: exp.Anonymous) -> None:
        name = node.name.lower()
        if not isinstance(node.this, str) or name not in self._grammar.functions:
            raise _refused(f"calls {node.name}, which is not among the allowed functions")
        node.set("this", name)
        if name in _SERIES and not isinstance(node.parent, exp.Table | exp.Lateral):
            raise _refused(f"calls {name} outside FROM")
        if name in _SERIES and node.find(exp.Column, exp.Subquery, exp.Select):
            raise _refused(f"calls {name} with something else than constants")
        if name in ("lpad", "rpad"):
            length = node.expressions[1] if len(node.expressions) > 1 else None
            if not isinstance(length, exp.Literal) or not length.is_int or int(length.this) > MAX_PADDING:
                raise _refused(f"calls {name} with another length than a number up to {MAX_PADDING}")
        text = {"replace": 2, "regexp_replace": 2, "array_to_string": 1, "strftime": 1}.get(name)
        if text is not None:
            most = MAX_FORMAT if name == "strftime" else MAX_REPLACEMENT
            part = node.expressions[text] if len(node.expressions) > text else None
            if not isinstance(part, exp.Literal) or len(part.this) > most:
                raise _refused(f"calls {name} with another text than one of up to {most} characters")
        if name == "regexp_extract" and len(node.expressions) > 2 and not node.expressions[2].is_int:
            raise _refused(f"calls {name} with names of groups")
        if name in _WITH_PATHS:
            for path in node.expressions[1:]:
                self._path(path)

    def _path(self, path: exp.Expr) -> None:
        """Refuses what yields many parts of a document, as each may be as long as all of it."""
        if self._grammar.inside:
            value: Any = path.this if isinstance(path, exp.Literal) else None
            if isinstance(path, exp.Var) and path.name.startswith("$"):
                value = self._parameters[int(path.name[1:]) - 1]
            many = isinstance(value, list) or re.match(r"\s*\$.*(\*|\.\.)", str(value), re.DOTALL)
            given = isinstance(path, exp.Literal | exp.Var | exp.Neg) or path.find(exp.Column)
            if many or not given or path.find(exp.Array):
                raise _refused("has a path of JSON that is not one text or number, or has * or .. in it")

    def _table(self, node: exp.Table) -> None:
        if node.args.get("db") or node.args.get("catalog"):
            raise _refused("may name tables only as they are, without a schema")
        if isinstance(node.this, exp.Anonymous):
            if node.this.name.lower() not in _TABLE_FUNCTIONS:
                raise _refused(f"reads from {node.this.name}, which is not allowed here")
        elif not isinstance(node.this, exp.Identifier):
            raise _refused("may name tables only as they are, without a schema")
        elif node.name.lower() not in self._tables and _definition(node) is None:
            raise _refused(f"names {node.name}, which is not one of {', '.join(sorted(self._tables))}")

    def _size(self, node: exp.Expr) -> int:
        """How many tables are read, when a CTE counts as often as it is named."""
        if id(node) in self._sizes:
            return self._sizes[id(node)]
        self._sizes[id(node)] = 1  # what a recursive one finds in itself
        total = 0
        for table in node.find_all(exp.Table, exp.Unnest, exp.Values):
            if table.find_ancestor(exp.CTE) is (node if isinstance(node, exp.CTE) else None):
                cte = _definition(table) if isinstance(table, exp.Table) else None
                total += 1 if cte is None else max(1, self._size(cte))
        self._sizes[id(node)] = total
        return total


def _named(node: exp.Expr) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(node).__name__).upper()


def _hide(statement: exp.Expr, tables: Collection[str]) -> None:
    """Gives CTEs names that no table of an engine has."""
    for node in list(statement.walk()):
        if isinstance(node, exp.CTE):
            _rename(node.args["alias"])
        elif isinstance(node, exp.Table) and isinstance(node.this, exp.Identifier):
            if node.name.lower() not in tables:
                if not node.alias:
                    node.set("alias", exp.TableAlias(this=node.this.copy()))
                _rename(node)
            else:
                node.this.set("this", node.name.lower())


def _rename(named: exp.Expr) -> None:
    identifier = named.this
    named.set("this", exp.to_identifier(f"cte_{identifier.name}", quoted=True))


def _definition(table: exp.Table) -> exp.CTE | None:
    """The CTE that a table's name means where it stands: one before it, or of a query around it."""
    node: exp.Expr = table
    while (parent := node.parent) is not None:
        if isinstance(parent, exp.With):
            place = parent.expressions.index(node)
            seen = parent.expressions[: place + 1 if parent.recursive else place]
        elif (clause := parent.args.get("with_")) is not None and clause is not node:
            seen = clause.expressions
        else:
            seen = []
        for cte in reversed(seen):
            assert isinstance(cte, exp.CTE), "a WITH has nothing else"
            if cte.alias.lower() == table.name.lower():
                return cte
        node = parent.parent if isinstance(parent, exp.With) and parent.parent is not None else parent
    return None
