"""testdb query: through a server and straight on a database, with the same results."""

from __future__ import annotations

import csv
import io
import json

from tests.cli.helpers import Twins, invoke, refused

SQL = "SELECT model_name, count(*) AS runs FROM test_runs WHERE progress >= :p GROUP BY 1 ORDER BY 1"


def test_every_output_through_both_ways(history: Twins) -> None:
    answers = []
    for way in history.ways:
        found = json.loads(invoke("query", SQL, "--param", "p=0", "--json", *way).stdout)
        assert [column["name"] for column in found["columns"]] == ["model_name", "runs"]
        rows = [[name, str(runs)] for name, runs in found["rows"]]
        assert len(rows) > 1
        text = invoke("query", "-", "--param", "p=0", "--csv", *way, given=SQL).stdout
        assert list(csv.reader(io.StringIO(text, newline=""))) == [["model_name", "runs"], *rows]
        table = invoke("query", SQL, "--param", "p=0", "--limit", "1", *way)
        assert table.stdout.split() == " ".join(["model_name", "runs", *rows[0]]).split()
        assert "more rows than 1" in table.stderr
        answers.append(rows)
    assert answers[0] == answers[1]


def test_parameters_are_what_they_look_like(history: Twins) -> None:
    params = ("--param", "a=1", "--param", "b=x=y", "--param", "c=null", "--param", 'd=["x", "z"]')
    for way in history.ways:
        sql = "SELECT :a::int + 1, :b || '', :c, 'z' = ANY(:d)"
        found = json.loads(invoke("query", sql, *params, "--json", *way).stdout)
        assert found["rows"] == [[2, "x=y", None, True]]


def test_refusals(history: Twins) -> None:
    for way in history.ways:
        assert "must be a SELECT" in refused("query", "DELETE FROM test_runs", *way)
        assert "NAME=VALUE" in refused("query", "SELECT 1", "--param", "x", *way, code=2)
        assert "--limit" in refused("query", "SELECT 1", "--limit", "10001", *way, code=2)
