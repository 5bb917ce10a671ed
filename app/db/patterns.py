"""Patterns that the embedded engine matches in time, as nothing interrupts it while it matches some."""

from __future__ import annotations

import re
from typing import Any

from sqlglot import exp

MOST_PLACES = 300
"""Characters, after what is repeated `{n}` times is written so often."""
MOST_WIDE = 10
"""Places of a pattern that match more than one character: with more, the states of an automaton are too many
to be kept, and each character is compared with each place."""
MOST_COMPARED = 40_000
"""Bytes of a text times wide places of its patterns: how often a row is compared then, at most."""
_WITH_MORE = 100
"""Characters that a pattern of LIKE with more wildcards has, for each is tried at each place."""
_WIDE = re.compile(r"\\[^bBAzQE]|\[|\.|[?*+|]")
_TOKENS = re.compile(
    r"\\.|\[\^?\]?(?:\\.|\[:\^?\w+:\]|[^\]\\])*\]|[()]|\{(?P<least>\d+)(?:,(?P<most>\d*))?\}|.", re.DOTALL
)
_OPERATORS = (exp.Like, exp.ILike, exp.RegexpLike, exp.RegexpILike, exp.SimilarTo)
_FUNCTIONS = {"regexp_matches": 1, "regexp_full_match": 1, "regexp_extract": 1, "regexp_replace": 1}


def refused(node: exp.Expr, parameters: list[Any]) -> str | None:
    """Why a part of a statement is not matched, when it is a comparison with a pattern."""
    if isinstance(node, exp.Like | exp.ILike):
        pattern = value(node.expression, parameters)
        if pattern is None:
            return "has LIKE with a subquery" if node.expression.find(exp.Select) else None
        wild = pattern.count("%") + pattern.count("_")
        too_long = wild > MOST_WIDE and len(pattern) > _WITH_MORE
        return (
            f"has LIKE with more than {MOST_WIDE} wildcards and {_WITH_MORE} characters" if too_long else None
        )
    if isinstance(node, exp.RegexpLike | exp.RegexpILike | exp.SimilarTo):
        pattern = value(node.expression, parameters)
    elif isinstance(node, exp.Anonymous) and node.name in _FUNCTIONS and len(node.expressions) > 1:
        pattern = value(node.expressions[1], parameters)
    else:
        return None
    if pattern is None:
        return "has a regular expression that is neither a text nor a parameter"
    if re.search(r"\\[pPQ]", pattern):
        return r"has a regular expression with \p, \P or \Q"
    return (
        f"has a regular expression of more than {MOST_PLACES} characters"
        if _places(pattern) > MOST_PLACES
        else None
    )


def value(pattern: exp.Expr, parameters: list[Any]) -> str | None:
    """The text, if it stands in the statement or is a parameter."""
    if isinstance(pattern, exp.Paren | exp.Cast):
        return value(pattern.this, parameters)
    if isinstance(pattern, exp.Var) and pattern.name.startswith("$"):
        return str(parameters[int(pattern.name[1:]) - 1])
    return str(pattern.this) if isinstance(pattern, exp.Literal) else None


def compared(node: exp.Expr, parameters: list[Any]) -> tuple[exp.Expr, int] | None:
    """The text that a part of a statement compares with a pattern of many wide places, and their number."""
    call = isinstance(node, exp.Anonymous) and node.name in _FUNCTIONS and len(node.expressions) > 1
    if call:
        text, given = node.expressions[:2]
    elif isinstance(node, _OPERATORS):
        text, given = node.this, node.expression
    else:
        return None
    pattern = value(given, parameters) or ""
    like = isinstance(node, exp.Like | exp.ILike)
    wide = len(re.findall("[%_]", pattern)) if like else _places(pattern, wide=True)
    return (text, wide) if wide > MOST_WIDE else None


def _places(pattern: str, *, wide: bool = False) -> int:
    """How many places it has, or of them the wide ones."""
    groups, last = [0], 0
    for token in _TOKENS.finditer(pattern):
        if token[0] == "(":
            groups.append(0 if wide else 1)
        elif token[0] == ")" and len(groups) > 1:
            last = groups.pop()
            groups[-1] += last
        elif token["least"]:
            times = max(int(token["least"]) + 1, int(token["most"] or 0))
            groups[-1] += last * (times - 1)
            last *= times
        else:
            last = 1 if not wide or _WIDE.match(token[0]) else 0
            groups[-1] += last
    return sum(groups)
