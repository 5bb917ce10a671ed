"""How long the texts may become that a statement makes.

An engine computes some thousand rows at once, which nothing interrupts, and what it makes of them is in
memory together. So what a statement makes of one row is bounded before it runs: each function's result by its
arguments, and what it reads by a length that the embedded engine is made to check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sqlalchemy import ARRAY, JSON, String, Table
from sqlglot import exp

from app.db.dialects import Grammar, short, words

MOST = 160_000
"""Bytes that all parts of a statement make of one row."""
LENGTHS = (64_000, 32_000, 16_000, 8_000, 4_000, 2_000)
"""Bytes: what a text may have before others are made of it; the more are made, the less."""
MAX_PADDING = 1000
MAX_REPLACEMENT = 10
MAX_FORMAT = 100
_NUMBER = 40
_ESCAPED = 6
"""Bytes that JSON may write for one."""

COLLECTING = frozenset(
    words(
        """
    string_agg array_agg list group_concat listagg histogram json_agg jsonb_agg json_object_agg
    jsonb_object_agg
    """
    )
)
_JSON = frozenset(
    words(
        """
    json_build_object json_build_array json_object json_array to_json jsonb_build_object
    jsonb_build_array to_jsonb
    """
    )
)
_SPLITTING = frozenset(("string_split", "str_split", "string_to_array"))
GROWING = frozenset(("concat", "concat_ws", "replace", "regexp_replace", "array_to_string"))
GROWING |= COLLECTING | _JSON | _SPLITTING
"""Functions whose results may be longer than what they are made of."""
_CUTTING = {"left": 1, "right": 1, "lpad": 1, "rpad": 1, "substr": 2, "substring": 2}
"""Which argument says how many characters the result has."""
_CHOOSING = frozenset(
    words(
        """
    coalesce ifnull nullif greatest least min max any_value first last mode first_value last_value nth_value
    lag lead arg_max arg_min max_by min_by
    """
    )
)
_SMALL = frozenset(
    words(
        """
    count sum avg stddev stddev_pop stddev_samp variance var_pop var_samp corr covar_pop covar_samp
    regr_slope regr_intercept regr_r2 regr_count bool_and bool_or bit_and bit_or
    row_number rank dense_rank percent_rank cume_dist ntile grouping abs ceil ceiling floor round trunc sign
    sqrt cbrt exp ln log log2 log10 sin cos tan asin acos atan atan2 degrees radians pi mod power pow
    width_bucket length char_length character_length octet_length bit_length strlen len strpos instr position
    starts_with contains prefix suffix md5 ascii chr now date_trunc date_part age extract to_timestamp
    make_date make_timestamp make_time array_length cardinality array_position json_array_length json_typeof
    generate_series range count_if countif count_star bool_xor product fsum favg kurtosis skewness
    mad approx_count_distinct sem isnan isinf isfinite even regexp_matches regexp_full_match
    list_contains list_has array_contains array_has list_position list_indexof year month day hour minute
    second quarter week weekday isodow dayofweek dayofmonth dayofyear dayname monthname yearweek isoyear
    epoch epoch_ms epoch_us epoch_ns date_diff datediff date_sub datesub date_add last_day strptime
    try_strptime time_bucket to_days to_hours to_minutes to_seconds to_months to_years to_weeks millisecond
    microsecond json_exists json_type json_valid json_contains date_bin justify_hours justify_days
    justify_interval every jsonb_array_length jsonb_typeof jsonb_path_exists regexp_like regexp_count
    num_nulls num_nonnulls div scale array_lower array_upper hashtext make_interval statement_timestamp
    transaction_timestamp date to_number to_date
    """
    )
)
_FIXED = (
    *(exp.Predicate, exp.Connector, exp.Not, exp.Neg, exp.Sub, exp.Mul, exp.Div, exp.IntDiv, exp.Mod),
    *(exp.Extract, exp.StrPosition, exp.Interval, exp.CurrentDate, exp.CurrentTimestamp, exp.AtTimeZone),
    *(exp.Boolean, exp.Null, exp.DataType),
)
_MATCHING = (exp.Like, exp.ILike, exp.RegexpLike, exp.RegexpILike, exp.SimilarTo)
_QUERIES = (exp.Select, exp.SetOperation)
_READ = (exp.Column, exp.JSONExtract, exp.JSONExtractScalar)
_READING = COLLECTING | {
    "json_extract",
    "json_extract_string",
    "json_extract_path",
    "json_extract_path_text",
    "json_value",
}
_LONG_TYPES = frozenset(getattr(exp.DType, name) for name in words("TEXT VARCHAR CHAR JSON JSONB ARRAY LIST"))


class Sizes:
    """Bounds a statement, where `$1` stands for the first of the parameters.

    `definition` finds the CTE that a table's name means.
    """

    def __init__(
        self,
        grammar: Grammar,
        tables: Mapping[str, Table],
        parameters: list[Any],
        definition: Callable[[exp.Table], exp.CTE | None],
    ) -> None:
        columns = [column for table in tables.values() for column in table.columns]
        self._texts = {column.name for column in columns if isinstance(column.type, String | ARRAY | JSON)}
        self._numbers = {column.name for column in columns} - self._texts
        self._rows: set[str] = set()
        self._grammar = grammar
        self._parameters = parameters
        self._definition = definition
        self._longest = LENGTHS[-1]
        self._known: dict[int, int] = {}

    def bound(self, statement: exp.Expr) -> str | None:
        """Makes the engine check what the bounds rest on; returns why the statement is too much, if it is."""
        self._learn(statement)
        for self._longest in LENGTHS:
            self._known.clear()
            made = self._made(statement, {})
            if made <= MOST:
                break
        else:
            return f"may make texts of {made} bytes of one row, more than {MOST}; take left(…, n) of some"
        return self._check(statement) if self._grammar.inside else None

    def _learn(self, statement: exp.Expr) -> None:
        """Which names mean something else in this statement than in the tables."""
        defined: dict[str, list[exp.Expr]] = {}
        for node in statement.find_all(exp.Alias):
            defined.setdefault(node.alias.lower(), []).append(node.this)
        small = {name for name, parts in defined.items() if all(self._of(part) <= _NUMBER for part in parts)}
        for alias in statement.find_all(exp.TableAlias):
            defined.update({column.name.lower(): [] for column in alias.columns})
            small.difference_update(column.name.lower() for column in alias.columns)
        self._numbers = (self._numbers - defined.keys()) | (small - self._texts)
        self._texts -= defined.keys()
        for source in statement.find_all(exp.Table, exp.Subquery):
            if not isinstance(source.this, exp.Anonymous):
                self._rows.add(source.alias_or_name.lower())

    def _made(self, query: exp.Expr, known: dict[int, int]) -> int:
        """Bytes, where a CTE counts as often as it is named."""
        if id(query) not in known:
            known[id(query)] = 0  # what a recursive one finds in itself
            nodes = list(query.walk(prune=lambda node: isinstance(node, exp.CTE)))
            ctes = [cte for node in nodes if isinstance(node, exp.Table) and (cte := self._definition(node))]
            known[id(query)] = sum(map(self._cost, nodes)) + sum(self._made(cte.this, known) for cte in ctes)
        return known[id(query)]

    def _cost(self, node: exp.Expr) -> int:
        if _is_projection(node):
            part = node.unalias()
            stored = isinstance(part, exp.Column) and part.name.lower() in self._texts
            return 0 if stored or part.is_star else self._of(part)
        if isinstance(node.parent, exp.Alias):
            return 0
        if isinstance(node, _MATCHING) or _called(node) in _SMALL:
            return self._sum(node) // 4  # which takes no memory, but time
        return self._of(node) if self._makes(node) else 0

    def _makes(self, node: exp.Expr) -> bool:
        """Whether the part's value is a new one, and not one of those below it."""
        if isinstance(node, exp.Cast):
            return not isinstance(node.this, exp.Column | exp.Literal | exp.Var)
        if isinstance(node, exp.Bracket):
            return node.find(exp.Slice) is not None
        if isinstance(node, exp.Distinct | exp.Order):
            return isinstance(node.parent, exp.Anonymous | exp.WithinGroup)
        return self._grows(node) or isinstance(node, exp.Anonymous | exp.Substring | exp.Trim)

    def _of(self, node: exp.Expr) -> int:
        if id(node) not in self._known:
            self._known[id(node)] = self._size(node)
        return self._known[id(node)]

    def _size(self, node: exp.Expr) -> int:
        """Bytes of the part's value in one row, at most."""
        match node:
            case exp.Literal():
                return len(node.this.encode())
            case exp.Var():
                return _bytes(self._parameters[int(node.name[1:]) - 1]) if node.name[:1] == "$" else 0
            case exp.Column():
                name = node.name.lower()
                if name in self._rows:
                    return MOST // 4
                return _NUMBER if name in self._numbers else self._longest
            case exp.Anonymous():
                return self._result(node)
            case exp.Cast():
                factor = _ESCAPED if node.to.this in (exp.DType.JSON, exp.DType.JSONB) else 2
                return factor * self._of(node.this) if node.to.this in _LONG_TYPES else _NUMBER
            case exp.Substring():
                return self._cut(node.this, node.args.get("length"))
            case exp.Add() if min(self._of(node.left), self._of(node.right)) <= _NUMBER:
                return _NUMBER
            case exp.Window() | exp.Filter() | exp.WithinGroup() | exp.Bracket() | exp.Trim():
                return self._of(node.this)
            case exp.JSONExtract() | exp.JSONExtractScalar():
                return self._of(node.this)
            case exp.Case():
                chosen = [branch.args["true"] for branch in node.args["ifs"]]
                return self._longest_of([*chosen, *filter(None, [node.args.get("default")])])
            case exp.Array() | exp.Tuple():
                return self._sum(node) + 16 * len(node.expressions)
        if isinstance(node, (*_QUERIES, exp.Subquery)):
            return self._longest
        if isinstance(node, _FIXED):
            return _NUMBER
        return self._sum(node)

    def _sum(self, node: exp.Expr) -> int:
        return sum(map(self._of, node.iter_expressions()))

    def _longest_of(self, nodes: list[exp.Expr]) -> int:
        return max(map(self._of, nodes), default=0)

    def _result(self, call: exp.Anonymous) -> int:
        name, args = call.name, call.expressions
        if name in _SMALL:
            return _NUMBER
        if name in _CUTTING and len(args) > _CUTTING[name]:
            return self._cut(args[0], args[_CUTTING[name]])
        if name == "strftime":
            return 16 * MAX_FORMAT
        if name in _CHOOSING:
            return self._longest_of(args)
        size = self._sum(call)
        if name in _JSON or name == "json_object_agg":
            return _ESCAPED * (size + len(args))
        if name in _SPLITTING:
            return 17 * size
        if name == "translate":
            return 4 * size
        if name == "array_to_string" and len(args) > 1:
            return self._of(args[0]) * (1 + self._of(args[1]))
        if name == "concat_ws" and args:
            return size + len(args) * self._of(args[0])
        if name == "replace" and len(args) > 2:
            return self._of(args[0]) * max(1, self._of(args[2]))
        if name == "regexp_replace" and len(args) > 2:
            times = 1 if len(args) == 3 else self._of(args[0]) + 1
            groups = str(args[2].this).count("\\")
            return self._of(args[0]) * (1 + groups) + times * self._of(args[2])
        return size

    def _cut(self, text: exp.Expr, length: exp.Expr | None) -> int:
        most = max(self._of(text), 4 * MAX_PADDING)
        return min(4 * int(length.this), most) if isinstance(length, exp.Literal) and length.is_int else most

    def _check(self, statement: exp.Expr) -> str | None:
        for node in statement.walk():
            if isinstance(node, exp.Literal | exp.Var) and self._given(node) > self._longest:
                return f"is given a text of more than {self._longest} bytes"
        parts = {id(part): part for part in (*self._read(statement), *self._left(statement))}
        for part in parts.values():
            query: exp.Expr | None = part.find_ancestor(*_QUERIES)
            while query is not None and query.parent is not None:
                query = query.parent
                if id(query) in parts:
                    return "makes a text of texts that subqueries in subqueries make"
        for part in parts.values():
            hole = exp.Null()
            part.replace(hole)
            hole.replace(short(part, self._longest))
        return None

    def _given(self, node: exp.Expr) -> int:
        if isinstance(node, exp.Var) and node.name[:1] == "$" and _is_list(node):
            value = self._parameters[int(node.name[1:]) - 1]
            return max(map(_bytes, value), default=0) if isinstance(value, list) else _bytes(value)
        return self._of(node)

    def _read(self, statement: exp.Expr) -> Iterator[exp.Expr]:
        """Of what longer texts are made."""
        for node in statement.walk():
            if self._grows(node):
                for child in node.iter_expressions():
                    yield from self._unbounded(child)

    def _grows(self, node: exp.Expr) -> bool:
        if isinstance(node, exp.Anonymous):
            if node.name in ("replace", "regexp_replace"):
                return len(node.expressions) > 2 and self._of(node.expressions[2]) > 1
            return node.name in GROWING - COLLECTING
        if isinstance(node, exp.Add):
            return self._of(node) > _NUMBER
        if isinstance(node, exp.Tuple):
            return not isinstance(node.parent, exp.Predicate | exp.Values | exp.Ordered)
        return isinstance(node, exp.DPipe | exp.Array)

    def _unbounded(self, node: exp.Expr) -> Iterator[exp.Expr]:
        if isinstance(node, (*_QUERIES, exp.Subquery)):
            parts = [part.unalias() for select in _selects(node) for part in select.expressions]
            yield from [node] if any(part.is_star for part in parts) else parts
        elif isinstance(node, _READ) or _called(node) in _READING:
            if self._of(node) > _NUMBER:
                yield node
        elif _called(node) in _CUTTING and self._of(node) < self._longest:
            return
        elif not isinstance(node, _FIXED) and _called(node) not in _SMALL:
            for child in node.iter_expressions():
                yield from self._unbounded(child)

    def _left(self, statement: exp.Expr) -> Iterator[exp.Expr]:
        """What queries within the statement make."""
        for select in statement.find_all(exp.Select):
            if select.find_ancestor(exp.Select, exp.CTE) is not None:
                for part in select.expressions:
                    yield from self._too_much(part.unalias())

    def _too_much(self, part: exp.Expr) -> Iterator[exp.Expr]:
        rows = next((node for node in part.find_all(exp.Anonymous) if node.name == "unnest"), None)
        if rows is not None:
            for arg in rows.expressions:
                yield from self._too_much(arg)
        elif self._of(part) > self._longest or any(
            node.name in COLLECTING for node in part.find_all(exp.Anonymous)
        ):
            yield part


def _called(node: exp.Expr) -> str:
    """The function that makes an aggregate or a window, or that is called."""
    while isinstance(node, exp.Window | exp.Filter | exp.WithinGroup):
        node = node.this
    return node.name if isinstance(node, exp.Anonymous) else ""


def _is_projection(node: exp.Expr) -> bool:
    return isinstance(node.parent, exp.Select) and node.arg_key == "expressions"


def _is_list(parameter: exp.Expr) -> bool:
    """Whether its items are looked at one by one."""
    user = parameter.parent
    while isinstance(user, exp.Paren | exp.Cast):
        user = user.parent
    return isinstance(user, exp.Any | exp.All | exp.Unnest) or (
        user is not None and _called(user) == "unnest"
    )


def _selects(query: exp.Expr) -> Iterator[exp.Expr]:
    query = query.unnest()
    if isinstance(query, exp.SetOperation):
        yield from (*_selects(query.left), *_selects(query.right))
    else:
        yield query


def _bytes(value: Any) -> int:
    if isinstance(value, list):
        return sum(map(_bytes, value)) + 16 * len(value)
    return len(value.encode()) if isinstance(value, str) else _NUMBER


def grouping_sets(node: exp.Expr) -> int:
    """How many the node stands for."""
    match node:
        case exp.Cube():
            return 1 << min(len(node.expressions), 10)
        case exp.Rollup() | exp.GroupingSets():
            return 1 + len(node.expressions)
    return 0
