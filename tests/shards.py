"""What Citus refuses, looked for in a schema and in the statements that the product sends to PostgreSQL.

Citus decides by PostgreSQL's own plan of a statement: which columns it proves equal. So does this, from what
EXPLAIN says in PostgreSQL 17 or newer; the text of a statement is looked at only for what no plan shows.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, product
from typing import Any

from sqlalchemy import Connection, Engine, event, text

from app.db.sharding import KEY
from app.models import Base

DISTRIBUTED = {table.name for table in Base.metadata.sorted_tables if KEY in table.primary_key}
REFERENCE = set(Base.metadata.tables) - DISTRIBUTED

Node = dict[str, Any]

CONDITIONS = ("Index Cond", "Recheck Cond", "Hash Cond", "Merge Cond", "Join Filter", "Filter")
CAST = re.compile(r"::(?:text|character varying)(?:\[\])?| COLLATE \"\w+\"")
LITERAL = r"'(?:[^']|'')*'"
EQUALITY = re.compile(rf"(\w+\.\w+) = (\w+\.\w+|{LITERAL})")
HASHED = re.compile(r"(\w+\.\w+) = \(+hashed (SubPlan \d+)\)\.col1")


def schema_problems(connection: Connection) -> list[str]:
    """What stands in the way of distributing the tables by run."""
    return list(connection.scalars(text(SCHEMA), {"distributed": list(DISTRIBUTED), "key": KEY}))


SCHEMA = """
    WITH sharded AS (SELECT unnest(CAST(:distributed AS text[]))::regclass AS table)
    SELECT 'not unique within a run: ' || indexrelid::regclass FROM pg_index
    JOIN sharded ON indrelid = "table" WHERE indisunique AND NOT EXISTS (
        SELECT FROM pg_attribute
        WHERE attrelid = indrelid AND attname = :key AND attnum = ANY (CAST(indkey AS int2[]))
    )
    UNION ALL
    SELECT 'no key: ' || "table" FROM sharded
    WHERE NOT EXISTS (SELECT FROM pg_index WHERE indrelid = "table" AND indisprimary)
    UNION ALL
    SELECT 'numbered by the database: ' || attrelid::regclass || '.' || attname FROM pg_attribute
    JOIN sharded ON attrelid = "table" LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE attidentity <> '' OR pg_get_expr(adbin, adrelid) LIKE '%nextval%'
    UNION ALL
    SELECT 'a sequence: ' || oid::regclass FROM pg_class
    WHERE relkind = 'S' AND relnamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'refers to another run: ' || conname FROM pg_constraint JOIN sharded ON conrelid = "table"
    WHERE contype = 'f' AND confrelid IN (SELECT "table" FROM sharded) AND NOT EXISTS (
        SELECT FROM unnest(conkey, confkey) AS pair (here, there)
        JOIN pg_attribute AS mine ON mine.attrelid = conrelid AND mine.attnum = here AND mine.attname = :key
        JOIN pg_attribute AS its ON its.attrelid = confrelid AND its.attnum = there AND its.attname = :key
    )
    UNION ALL
    SELECT 'refers to a table of the shards from outside: ' || conname FROM pg_constraint
    WHERE contype = 'f' AND confrelid IN (SELECT "table" FROM sharded)
    AND conrelid NOT IN (SELECT "table" FROM sharded)
"""


@contextmanager
def statements_watched(engine: Engine) -> Iterator[dict[str, list[str]]]:
    """Every different statement that the engine sends inside the block, with what Citus would not take."""
    seen: dict[str, list[str]] = {}

    def look(
        _connection: Any, cursor: Any, statement: str, parameters: Any, _context: Any, many: bool
    ) -> None:
        if statement not in seen:
            seen[statement] = []
            with cursor.connection.cursor() as another:  # the same transaction: it sees the same tables
                seen[statement] = problems(another, statement, parameters[0] if many else parameters)

    event.listen(engine, "before_cursor_execute", look)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", look)


def problems(cursor: Any, statement: str, parameters: Any = None) -> list[str]:
    """What Citus would refuse in a statement, with the product's tables distributed."""
    found = list(_in_text(statement))
    if re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b", statement):
        cursor.execute(f"EXPLAIN (VERBOSE, COSTS OFF, FORMAT JSON) {statement}", parameters)
        (plan,) = cursor.fetchone()
        for nodes in _alternatives((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]):
            found += _in_plan(nodes)
    return found


def _in_text(statement: str) -> Iterator[str]:
    if re.search(r"\bSKIP LOCKED\b", statement):
        yield "SKIP LOCKED"
    if re.search(r"\b(GROUPING SETS|ROLLUP|CUBE)\b", statement):
        yield "grouping sets"
    changed = re.search(r"\bUPDATE (?:\w+ )?SET (.*?)(?: WHERE |\sRETURNING |$)", statement, re.DOTALL)
    if changed and re.search(rf"(^|, ){KEY} ?=", changed[1]):
        yield f"changes {KEY}"
    for start in re.finditer(r"\((?=SELECT\b)", statement):
        subquery = _own_text(statement[start.end() :])
        if not re.search(r"\bFROM\b", subquery) and not re.match(r"SELECT unnest\b", subquery):
            yield "subquery without a table, whose functions would have to be immutable"


def _own_text(rest: str) -> str:
    """What stands before the closing bracket, without what is in brackets."""
    depth, own = 0, ""
    for character in rest:
        depth += (character == "(") - (character == ")")
        if depth < 0:
            break
        own += character if depth == 0 else ""
    return own


def _in_plan(nodes: list[Node]) -> Iterator[str]:
    tables = {node["Alias"]: node["Relation Name"] for node in nodes if "Relation Name" in node}
    shards = sorted(alias for alias, table in tables.items() if table in DISTRIBUTED)
    classes = _classes(nodes)
    same = {frozenset(classes.get(f"{alias}.{KEY}", {alias})) for alias in shards}
    if len(same) > 1:
        yield f"{', '.join(shards)} are not joined on {KEY}"
    locks = any(node["Node Type"] == "LockRows" for node in nodes)
    if locks and not all(any(member.startswith("'") for member in members) for members in same):
        yield "locks rows of more than one run"
    if nodes[0]["Node Type"] == "ModifyTable" and nodes[0]["Relation Name"] in REFERENCE and shards:
        yield "changes a table of every node by what is in shards"


def _alternatives(node: Node) -> Iterator[list[Node]]:
    """The nodes of the plan with one of the parts of each union or OR, whose parts do not hold together."""
    children = [list(_alternatives(child)) for child in node.get("Plans", ())]
    chosen: list[tuple[list[Node], ...]]
    if node["Node Type"] in ("Append", "Merge Append", "BitmapOr"):
        chosen = [(part,) for parts in children for part in parts]
    else:
        chosen = list(product(*children))
    for parts in chosen:
        yield [node, *chain(*parts)]


def _classes(nodes: list[Node]) -> dict[str, set[str]]:
    """For each column the columns and values that the plan has proven equal to it, itself among them."""
    outputs = {node["Subplan Name"]: node.get("Output", []) for node in nodes if "Subplan Name" in node}
    classes: dict[str, set[str]] = defaultdict(set)

    def equal(one: str, other: str) -> None:
        members = {one, other, *classes[one], *classes[other]}
        for member in members:
            classes[member] = members

    for node in nodes:
        for condition in (_plain(node[name]) for name in CONDITIONS if name in node):
            for term in _terms(condition):
                if match := EQUALITY.fullmatch(term):
                    equal(match[1], match[2])
            for column, subplan in HASHED.findall(condition):
                equal(column, _plain(outputs[subplan][0]))
    return classes


def _plain(expression: str) -> str:
    """The expression without casts between texts, collations, and brackets around columns."""
    return re.sub(r"\((\w+\.\w+)\)", r"\1", CAST.sub("", expression))


def _terms(condition: str) -> Iterator[str]:
    """The conditions that must all hold for this one to hold."""
    depth, start, quoted = 0, 0, False
    parts = []
    for place, character in enumerate(condition):
        quoted ^= character == "'"
        if not quoted:
            depth += (character == "(") - (character == ")")
            if depth == 0 and condition.startswith(" AND ", place):
                parts.append(condition[start:place])
                start = place + 5
    parts.append(condition[start:])
    if len(parts) > 1:
        for part in parts:
            yield from _terms(part)
    elif condition.startswith("(") and condition.endswith(")") and _own_text(condition[1:]) != condition[1:]:
        yield from _terms(condition[1:-1])
    else:
        yield condition
