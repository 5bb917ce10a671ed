"""How SQL of other people is read: each engine's own grammar, and which functions of it they may call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from sqlalchemy import Dialect as Engine
from sqlglot import ErrorLevel, exp
from sqlglot.dialects.dialect import Dialect
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.dialects.postgres import Postgres
from sqlglot.generators.duckdb import DuckDBGenerator
from sqlglot.generators.postgres import PostgresGenerator
from sqlglot.parser import Parser
from sqlglot.parsers.duckdb import DuckDBParser
from sqlglot.parsers.postgres import PostgresParser
from sqlglot.tokenizer_core import TokenType

from app.db.patterns import MOST_PLACES, MOST_WIDE


def words(text: str) -> list[str]:
    return text.split()


# The parser would give well-known functions other names, and some other arguments; so they stay as written.
# Without lambdas and `alias: expression`, `->` is for JSON and `:name` a parameter everywhere.
_SPECIAL = ("CAST", "TRY_CAST", "EXTRACT", "SUBSTRING", "TRIM", "POSITION")


def _verbatim(_dialect: Dialect, path: exp.Expr | None) -> exp.Expr | None:
    return path


def _placeholder(parser: Parser) -> exp.Expr:
    """A `?` that knows its place, since a parsed statement has not the order of its text."""
    place = parser.expression(exp.Placeholder())
    place.meta[PLACE] = parser._prev.start
    return place


PLACE = "place"
_PLACEHOLDERS = {**Parser.PLACEHOLDER_PARSERS, TokenType.PLACEHOLDER: _placeholder}


def _keywords(keywords: dict[str, Any]) -> dict[str, Any]:
    """Without `?::`, so that a parameter can be cast."""
    return {text: token for text, token in keywords.items() if text != "?::"}


class _DuckDB(DuckDB):
    class Tokenizer(DuckDB.Tokenizer):
        KEYWORDS = _keywords(DuckDB.Tokenizer.KEYWORDS)

    class Generator(DuckDBGenerator):
        MULTI_ARG_DISTINCT = True

    to_json_path = _verbatim

    class Parser(DuckDBParser):
        FUNCTIONS: ClassVar[Any] = {}
        FUNCTION_PARSERS = {name: Parser.FUNCTION_PARSERS[name] for name in _SPECIAL}
        LAMBDAS: ClassVar[Any] = {}
        PLACEHOLDER_PARSERS = _PLACEHOLDERS
        _parse_expression = Parser._parse_expression


class _Postgres(Postgres):
    class Tokenizer(Postgres.Tokenizer):
        KEYWORDS = _keywords(Postgres.Tokenizer.KEYWORDS)

    class Generator(PostgresGenerator):
        MULTI_ARG_DISTINCT = True

    to_json_path = _verbatim

    class Parser(PostgresParser):
        PLACEHOLDER_PARSERS = {**PostgresParser.PLACEHOLDER_PARSERS, **_PLACEHOLDERS}
        JSON_OPERATORS = {
            **PostgresParser.JSON_OPERATORS,
            TokenType.ARROW: lambda _self, this, path: exp.JSONExtract(
                this=this, expression=path, only_json_types=True
            ),
            TokenType.DARROW: lambda _self, this, path: exp.JSONExtractScalar(
                this=this, expression=path, only_json_types=True
            ),
        }
        FUNCTIONS: ClassVar[Any] = {}
        FUNCTION_PARSERS = {name: Parser.FUNCTION_PARSERS[name] for name in _SPECIAL}
        LAMBDAS: ClassVar[Any] = {}


_COMMON = """
    count sum avg min max stddev stddev_pop stddev_samp variance var_pop var_samp corr covar_pop
    covar_samp regr_slope regr_intercept regr_r2 regr_count bool_and bool_or bit_and bit_or mode
    percentile_cont percentile_disc string_agg array_agg median row_number rank dense_rank percent_rank
    cume_dist ntile lag lead first_value last_value nth_value grouping coalesce nullif greatest least abs
    ceil ceiling floor round trunc sign sqrt cbrt exp ln log log10 sin cos tan asin acos atan atan2
    degrees radians pi mod power pow width_bucket lower upper length char_length character_length octet_length
    trim ltrim rtrim btrim left right substr substring strpos position replace translate reverse split_part
    starts_with concat concat_ws lpad rpad regexp_replace md5 ascii chr initcap now date_trunc date_part
    age extract to_timestamp make_date make_timestamp unnest array_length cardinality array_position
    array_to_string string_to_array json_array_length json_build_object json_build_array json_object_keys
    json_each json_extract_path json_extract_path_text json_typeof to_json generate_series
"""
_OF_DUCKDB = """
    any_value arg_max arg_min max_by min_by first last count_if countif count_star bool_xor product fsum
    favg kurtosis skewness entropy mad quantile quantile_cont quantile_disc approx_count_distinct
    approx_quantile list group_concat listagg histogram sem ifnull if isnan isinf isfinite log2 even
    contains prefix suffix strlen instr lcase ucase concat regexp_matches regexp_full_match regexp_extract
    string_split str_split list_contains list_has array_contains array_has list_position list_indexof len
    array_extract list_extract list_element array_slice list_slice range year month day hour minute second
    quarter week weekday isodow dayofweek dayofmonth dayofyear dayname monthname yearweek isoyear epoch
    epoch_ms epoch_us date_diff datediff date_sub datesub date_add last_day strftime strptime try_strptime
    time_bucket to_days to_hours to_minutes to_seconds to_months to_years to_weeks make_time epoch_ns
    millisecond microsecond json_extract json_extract_string json_value json_exists json_type json_keys
    json_valid json_contains json_object json_array json
"""
_OF_POSTGRESQL = """
    to_char to_number to_date date_bin justify_hours justify_days justify_interval every json_agg
    json_object_agg jsonb_agg jsonb_object_agg jsonb_array_length jsonb_build_object jsonb_build_array
    jsonb_each jsonb_each_text jsonb_object_keys jsonb_typeof jsonb_extract_path jsonb_extract_path_text
    to_jsonb jsonb_array_elements jsonb_array_elements_text jsonb_path_exists json_each_text
    json_array_elements json_array_elements_text json_array json_object regexp_match regexp_substr
    regexp_like regexp_count array_positions num_nulls num_nonnulls isfinite strpos bit_length any_value
    div scale array_lower array_upper hashtext make_interval statement_timestamp transaction_timestamp
    date
"""


@dataclass(frozen=True)
class Grammar:
    """An engine's SQL, as far as it is allowed."""

    dialect: Dialect
    functions: frozenset[str]
    inside: bool
    """Whether the engine works within this process."""

    def parse(self, sql: str) -> list[exp.Expr | None]:
        """The statements; raises sqlglot's errors, or RecursionError."""
        return self.dialect.parse(sql)

    def adapt(self, statement: exp.Expr) -> None:
        """Changes what would not mean the same on every engine: times are in UTC."""
        for node in reversed(list(statement.walk())):
            if isinstance(node, _ADAPTED):
                hole = exp.Null()
                node.replace(hole)
                hole.replace(_duckdb(node) if self.inside else _postgresql(node))

    def text(self, statement: exp.Expr) -> str:
        """The statement as the engine takes it; raises UnsupportedError."""
        return self.dialect.generate(
            statement,
            identify=True,
            comments=False,
            normalize_functions=False,
            unsupported_level=ErrorLevel.RAISE,
        )


def grammar_of(engine: Engine) -> Grammar:
    return _DUCKDB if engine.name == "duckdb" else _POSTGRESQL


_DUCKDB = Grammar(_DuckDB(), frozenset(f"{_COMMON} {_OF_DUCKDB}".split()), inside=True)
_POSTGRESQL = Grammar(_Postgres(), frozenset(f"{_COMMON} {_OF_POSTGRESQL}".split()), inside=False)


_OF_ARRAYS = (exp.ArrayContainsAll, exp.ArrayContainedBy, exp.ArrayOverlaps)
_ADAPTED = (
    *(exp.Anonymous, exp.AtTimeZone, exp.Cast, exp.CurrentDate, exp.CurrentTimestamp, exp.WithinGroup),
    *(exp.Like, exp.ILike),
    *_OF_ARRAYS,
)


def _call(name: str, *args: exp.Expr) -> exp.Anonymous:
    return exp.Anonymous(this=name, expressions=list(args))


def _postgresql(node: exp.Expr) -> exp.Expr:
    if isinstance(node, exp.Anonymous) and node.name.lower() == "median" and len(node.expressions) == 1:
        order = exp.Order(expressions=[exp.Ordered(this=node.expressions[0])])
        return exp.WithinGroup(this=_call("percentile_cont", exp.Literal.number("0.5")), expression=order)
    if isinstance(node, _OF_ARRAYS) and any(map(_has_texts, (node.this, node.expression))):
        # It compares arrays of one type, and the literal's is not that of a column.
        sides = (exp.cast(side.copy(), "varchar[]", copy=False) for side in (node.this, node.expression))
        return type(node)(**dict(zip(("this", "expression"), sides, strict=True)))
    return node


def _has_texts(array: exp.Expr) -> bool:
    items = array.expressions if isinstance(array, exp.Array) else []
    return bool(items) and all(isinstance(item, exp.Literal) and item.is_string for item in items)


def _at_utc(node: exp.Expr) -> exp.Expr:
    return exp.paren(exp.AtTimeZone(this=node, zone=exp.Literal.string("UTC")), copy=False)


def _duckdb(node: exp.Expr) -> exp.Expr:
    if isinstance(node, exp.CurrentTimestamp) or (
        isinstance(node, exp.Anonymous) and node.name.lower() == "now" and not node.expressions
    ):
        return _at_utc(_call("now"))
    if isinstance(node, exp.Like | exp.ILike):
        return _like(node)
    if isinstance(node, exp.WithinGroup) and node.this.name.lower().startswith("percentile_"):
        name = node.this.name.lower().replace("percentile", "quantile")
        order = node.expression.expressions
        return _call(name, order[0].this.copy(), exp.Order(this=node.this.expressions[0], expressions=order))
    if isinstance(node, exp.CurrentDate):
        return exp.cast(_at_utc(_call("now")), "date", copy=False)
    if isinstance(node, exp.AtTimeZone):
        return exp.AtTimeZone(this=_at_utc(node.this), zone=node.args["zone"])
    if isinstance(node, exp.Cast) and node.to.this == exp.DType.TIMESTAMPTZ:
        return _at_utc(node)
    return node


def _like(node: exp.Like | exp.ILike) -> exp.Expr:
    """The comparison as a regular expression, unless it is a plain one: the engine's own tries every way to
    match a pattern, which nothing interrupts."""
    pattern = node.expression
    if isinstance(node, exp.Like) and isinstance(pattern, exp.Literal) and "_" not in pattern.this:
        return node
    text = exp.Literal.string
    if not isinstance(pattern, exp.Literal | exp.Var):
        pattern = _tame(short(pattern, MOST_PLACES))  # it is read anew for each row
    escaped = _call("replace", _call("regexp_escape", pattern), text(r"\%"), text(".*"))
    flags = "s" if isinstance(node, exp.Like) else "si"
    return _call("regexp_full_match", node.this, _call("replace", escaped, text("_"), text(".")), text(flags))


def _tame(pattern: exp.Expr) -> exp.Expr:
    """The pattern of LIKE; where it has more wildcards than are matched in time, an error."""
    text = exp.Literal.string
    wild = _call("strlen", _call("regexp_replace", pattern.copy(), text("[^%_]"), text(""), text("g")))
    message = f"a computed pattern of LIKE has at most {MOST_WIDE} wildcards"
    too_many = exp.GT(this=wild, expression=exp.Literal.number(MOST_WIDE))
    return exp.Case(ifs=[exp.If(this=too_many, true=_call("error", text(message)))], default=pattern)


def short(part: exp.Expr, longest: int) -> exp.Expr:
    """The part, for DuckDB; where its text is longer than so many bytes, an error."""
    size = _call("strlen", exp.cast(part.copy(), "varchar", copy=False))
    message = f"a text of more than {longest} bytes cannot become part of others here; take left(…, n) of it"
    too_long = exp.GT(this=size, expression=exp.Literal.number(longest))
    failing = _call("error", exp.Literal.string(message))
    return exp.Case(ifs=[exp.If(this=too_long, true=failing)], default=part)
