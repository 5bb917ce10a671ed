"""Statements that try to write, to leave the eight tables, or to learn something of the machine."""

# ruff: noqa: E501
from __future__ import annotations

import random
from typing import Any

WRITES = """
INSERT INTO test_runs (run_id, model_name) VALUES ('x', 'y')
UPDATE test_runs SET model_name = 'x'
DELETE FROM test_runs
TRUNCATE test_runs
DROP TABLE test_runs
CREATE TABLE x (a int)
CREATE TABLE x AS SELECT * FROM test_runs
CREATE TEMP TABLE x AS SELECT 1
CREATE VIEW x AS SELECT 1
CREATE FUNCTION x() RETURNS int LANGUAGE sql AS 'SELECT 1'
CREATE MACRO x() AS 1
CREATE SECRET x (TYPE s3)
ALTER TABLE test_runs ADD COLUMN x int
MERGE INTO test_runs USING test_run_tags ON true WHEN MATCHED THEN DELETE
WITH x AS (INSERT INTO test_runs (run_id, model_name) VALUES ('x', 'y') RETURNING *) SELECT * FROM x
WITH x AS (DELETE FROM test_runs RETURNING *) SELECT * FROM x
WITH x AS (UPDATE test_runs SET model_name = 'x' RETURNING *) SELECT count(*) FROM x
SELECT * FROM (DELETE FROM test_runs RETURNING *) x
SELECT * INTO x FROM test_runs
SELECT 1 INTO TEMP x
EXPLAIN ANALYZE INSERT INTO test_runs (run_id, model_name) VALUES ('x', 'y')
EXPLAIN ANALYZE DELETE FROM test_runs
EXPLAIN SELECT 1
PREPARE x AS DELETE FROM test_runs
EXECUTE x
SELECT * FROM test_runs FOR UPDATE
SELECT * FROM test_runs FOR SHARE
LOCK TABLE test_runs
BEGIN
COMMIT
ROLLBACK
COMMIT; DELETE FROM test_runs
SELECT 1; DELETE FROM test_runs
SELECT 1; SELECT 2
SELECT 1;; SELECT 2
SELECT 1 /* ; */ ; DROP TABLE test_runs --
SELECT '1'; DROP TABLE test_runs; --'
VACUUM
CHECKPOINT
ANALYZE
REINDEX TABLE test_runs
GRANT ALL ON test_runs TO public
DO $$ BEGIN DELETE FROM test_runs; END $$
NOTIFY x
VALUES (1)
TABLE alembic_version
"""
OUTSIDE = """
COPY test_runs TO '/tmp/x.csv'
COPY (SELECT 1) TO '/tmp/x.csv'
COPY test_runs FROM '/etc/passwd'
COPY test_runs TO PROGRAM 'id'
EXPORT DATABASE '/tmp/x'
IMPORT DATABASE '/tmp/x'
ATTACH '/tmp/x.db' AS x
ATTACH ':memory:' AS x
DETACH x
USE memory
INSTALL httpfs
LOAD httpfs
FORCE INSTALL httpfs
SET threads = 1
SET enable_external_access = true
SET ROLE postgres
RESET threads
PRAGMA database_list
PRAGMA version
CALL pragma_version()
SHOW TABLES
SHOW ALL
DESCRIBE test_runs
SUMMARIZE test_runs
SELECT * FROM 'file.csv'
SELECT * FROM '/etc/passwd'
SELECT * FROM "/etc/passwd"
SELECT * FROM 'x.parquet'
SELECT * FROM '*.csv'
SELECT * FROM "data/test_runs.duckdb"
SELECT * FROM 'https://example.com/x.csv'
SELECT * FROM read_csv('/etc/passwd')
SELECT * FROM read_csv_auto('/etc/*')
SELECT * FROM read_text('/etc/passwd')
SELECT * FROM read_blob('/etc/passwd')
SELECT * FROM read_json('/etc/passwd')
SELECT * FROM read_parquet('x.parquet')
SELECT * FROM parquet_metadata('x.parquet')
SELECT * FROM sniff_csv('/etc/passwd')
SELECT * FROM glob('/etc/*')
SELECT * FROM test_runs, glob('*')
SELECT (SELECT content FROM read_text('/etc/passwd'))
SELECT * FROM (WITH "/etc/passwd" AS (SELECT 1) SELECT 1) x, "/etc/passwd"
SELECT * FROM query('SELECT 1')
SELECT * FROM query_table('alembic_version')
SELECT * FROM json_execute_serialized_sql('{}')
SELECT json_serialize_sql('SELECT 1')
SELECT * FROM sqlite_scan('x', 'y')
SELECT * FROM postgres_scan('x', 'y', 'z')
FROM 'file.csv'
PIVOT test_runs ON status
SELECT getenv('HOME')
SELECT getvariable('x')
SELECT current_setting('temp_directory')
SELECT CURRENT_SETTING('data_directory')
SELECT set_config('x.y', 'z', false)
SELECT * FROM duckdb_settings()
SELECT * FROM duckdb_databases()
SELECT * FROM duckdb_tables()
SELECT * FROM duckdb_secrets()
SELECT * FROM duckdb_functions()
SELECT * FROM pragma_database_size()
SELECT * FROM which_secret('x', 's3')
SELECT current_database()
SELECT current_catalog
SELECT current_schema
SELECT "current_catalog"
SELECT test_runs.current_user FROM test_runs
SELECT current_schemas(true)
SELECT current_user
SELECT session_user
SELECT user
SELECT "user"
SELECT version()
SELECT * FROM alembic_version
SELECT * FROM sqlite_master
SELECT * FROM main.test_runs
SELECT * FROM public.test_runs
SELECT * FROM pg_catalog.pg_class
SELECT * FROM pg_class
SELECT * FROM "pg_authid"
SELECT * FROM "PG_AUTHID"
SELECT * FROM pg_settings
SELECT * FROM information_schema.tables
SELECT * FROM system.information_schema.tables
WITH pg_user AS (SELECT * FROM pg_user) SELECT * FROM pg_user
WITH a AS (SELECT * FROM pg_user), pg_user AS (SELECT 1) SELECT * FROM a
WITH test_runs AS (SELECT 1) SELECT * FROM test_runs
SELECT * FROM (WITH pg_user AS (SELECT 1) SELECT 1) x JOIN pg_user ON true
SELECT pg_sleep(1)
SELECT pg_catalog.pg_sleep(1)
SELECT "pg_sleep"(1)
SELECT pg_read_file('/etc/passwd')
SELECT pg_ls_dir('/')
SELECT pg_stat_file('/etc/passwd')
SELECT lo_import('/etc/passwd')
SELECT lo_export(1, '/tmp/x')
SELECT * FROM dblink('host=127.0.0.1', 'SELECT 1') AS t(a int)
SELECT pg_advisory_lock(1)
SELECT pg_terminate_backend(1)
SELECT pg_reload_conf()
SELECT nextval('x')
SELECT setval('x', 1)
SELECT txid_current()
SELECT inet_server_addr()
SELECT query_to_xml('SELECT 1', true, true, '')
SELECT table_to_xml('pg_authid', true, true, '')
SELECT database_to_xml(true, true, '')
SELECT has_table_privilege('pg_authid', 'select')
SELECT 'pg_authid'::regclass
SELECT 1::regproc::text
SELECT to_regclass('pg_authid')
SELECT U&'\\0061'
SELECT E'\\'; DROP TABLE test_runs; --'
SELECT * FROM ROWS FROM (pg_ls_dir('/')) AS x
SELECT * FROM LATERAL pg_ls_dir('/') AS x
SELECT * FROM test_runs TABLESAMPLE BERNOULLI (1)
SELECT COLUMNS(*) FROM test_runs
SELECT list_transform([1], x -> x)
SELECT [x FOR x IN [1]]
SELECT {'a': 1}
SELECT CAST('x' AS mood)
SELECT nothing_known(1)
SELECT run_id.read_text() FROM test_runs
SELECT s.pg_read_file FROM unnest(ARRAY['/etc/passwd']) AS s
SELECT s.PG_Read_File FROM unnest(ARRAY['/etc/passwd']) AS s(x)
SELECT s."pg_ls_dir", 1 AS pg_ls_dir FROM unnest(ARRAY['/etc']) AS s
SELECT s.pg_terminate_backend FROM generate_series(1, 100000) AS s
SELECT s.pg_advisory_lock FROM unnest(ARRAY[CAST(5 AS bigint)]) AS s
SELECT (SELECT s.pg_read_file) FROM unnest(ARRAY['/etc/passwd']) AS s, (SELECT 1 AS pg_read_file) t
SELECT 1 FROM unnest(ARRAY['/etc/passwd']) AS s WHERE s.pg_read_file <> '' GROUP BY s.pg_read_file
SELECT 1 FROM unnest(ARRAY['/etc/passwd']) AS s ORDER BY s.pg_read_file
SELECT 1 FROM unnest(ARRAY['/etc/passwd']) AS s JOIN test_runs t ON s.pg_read_file = t.run_id
SELECT count(*) FILTER (WHERE s.pg_read_file <> '') FROM unnest(ARRAY['/etc/passwd']) AS s
SELECT t.pg_read_file FROM (SELECT s.pg_read_file FROM unnest(ARRAY['/etc/passwd']) AS s) t
SELECT s.regclass FROM unnest(ARRAY['pg_authid']) AS s
SELECT test_runs.row_to_json FROM test_runs
WITH s AS (SELECT 'x' AS b) SELECT s.row_to_json FROM s
SELECT test_runs.json_agg FROM test_runs
SELECT (s).pg_ls_dir FROM unnest(ARRAY['/etc']) AS s
SELECT ('/etc').pg_ls_dir
SELECT (array_agg(s))[1].pg_read_file FROM unnest(ARRAY['/etc/passwd']) AS s
SELECT * FROM public.unnest(ARRAY[1]) AS s
SELECT
WITH x AS (SELECT 1)

SELECT $1
SELECT @x
SELECT ((((
"""
EXPENSIVE = """
SELECT range(1000000000)
SELECT list_sum(range(200000000))
SELECT generate_series(1, 1000000000)
SELECT unnest(generate_series(1, 1000000000))
SELECT * FROM test_runs t, generate_series(1, length(t.run_id) * 1000000000)
SELECT repeat('x', 1000000000)
SELECT length(repeat('x', 4000000000))
SELECT lpad('x', 1000000000)
SELECT rpad('x', length(run_id) * 1000000) FROM test_runs
SELECT replace('aaaa', 'a', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb')
SELECT replace(replace(replace(replace(run_id, 'a', 'bbbbb'), 'b', 'ccccc'), 'c', 'ddddd'), 'd', 'eeeee') FROM test_runs
SELECT replace(run_id, 'a', error) FROM test_runs
SELECT string_agg(run_id, ',') OVER (ORDER BY run_id) FROM test_runs
SELECT array_agg(run_id) OVER () FROM test_runs
SELECT format('%1000000000s', 'x')
SELECT printf('%1000000000d', 1)
SELECT levenshtein(error, error) FROM test_runs
SELECT factorial(100000)
SELECT a FROM test_runs GROUP BY CUBE (run_id, model_name, status, error, creator, progress)
SELECT 1 FROM test_runs GROUP BY CUBE (run_id, model_name), CUBE (status, error)
SELECT t.*, t.* FROM test_runs t
SELECT strftime(started_at, error) FROM test_runs
SELECT * REPLACE (concat(error, error) AS error) FROM test_run_steps
SELECT t.* REPLACE (left(error, 9) AS error) FROM test_run_steps t
"""


def lines(text: str) -> list[str]:
    return [line for line in text.strip().splitlines() if line]


REFUSED = [
    *lines(WRITES + OUTSIDE + EXPENSIVE),
    "SELECT " + "(" * 3000 + "1" + ")" * 3000,
    "SELECT " + "- " * 1000 + "1",
    "SELECT " + ", ".join(["run_id"] * 201) + " FROM test_runs",
    "SELECT " + " || ".join(["run_id"] * 40) + " FROM test_runs",
    "SELECT 1 FROM " + ", ".join(f"test_runs t{number}" for number in range(33)),
    "WITH a AS (SELECT 1 FROM test_runs, test_run_tags)"
    + "".join(f", a{n} AS (SELECT 1 FROM a{n - 1 or ''} x, a{n - 1 or ''} y)" for n in range(1, 30))
    + " SELECT count(*) FROM a29",
    "SELECT " + "1" * 41,
    "SELECT count(*) FROM test_runs GROUP BY GROUPING SETS (" + ", ".join(["(run_id)"] * 101) + ")",
    "SELECT count(DISTINCT status), sum(DISTINCT progress) FROM test_runs GROUP BY GROUPING SETS ("
    + ", ".join(["(run_id)"] * 50)
    + ")",
    "SELECT 1 -- " + "x" * 20_000,
    "SELECT '\x00'",
]

_MIXED = "".join(random.Random(1).choices("xy", k=20_000))
_STEPS = "FROM test_run_steps"
_ROWS = "FROM generate_series(1, 2048) AS t(g)"
_TOGETHER = "FROM (SELECT string_agg(error, '') AS s FROM test_run_steps) x, generate_series(1, 2048) AS t(g)"
_LISTED = "FROM (SELECT array_agg(a.id) AS s FROM test_run_metrics a, generate_series(1, 100) b) x, generate_series(1, 2048) AS t(g)"


def _many(expression: str, count: int) -> str:
    return ", ".join(expression.replace("#", str(number)) for number in range(count))


def _nested(call: str, depth: int) -> str:
    text = "run_id"
    for _ in range(depth):
        text = call.replace("#", text)
    return text


WIDE: list[tuple[str, list[Any]]] = [
    (f"SELECT sum(length({' || '.join(['error'] * 10)})) {_STEPS}", []),
    (f"SELECT sum(length({' || '.join(['left(error, 2000)'] * 10)})) {_STEPS}", []),
    ("SELECT sum(length(" + " || ".join(["replace(error, 'x', 'bbbbbbbbbb')"] * 4) + f")) {_STEPS}", []),
    ("WITH RECURSIVE r(n) AS (SELECT 'x' UNION ALL SELECT n || n FROM r) SELECT max(length(n)) FROM r", []),
    ("WITH RECURSIVE r(n) AS (SELECT ARRAY[1] UNION ALL SELECT n || n FROM r) SELECT count(*) FROM r", []),
    (
        "SELECT a.error, b.error FROM test_run_steps a, test_run_steps b ORDER BY a.step_name, b.step_name DESC",
        [],
    ),
    ("SELECT json_agg(a.error) FROM test_run_steps a, generate_series(1, 150) b", []),
    ("SELECT string_agg(a.error, '') FROM test_run_steps a, generate_series(1, 150) b", []),
    ("SELECT error ILIKE '%x%x%x%x%x%x%x%x%x_y' FROM test_run_steps", []),
    ("SELECT array_to_string(array_agg(a.error), 'xxxxxxxxxx') FROM test_run_steps a, test_run_steps b", []),
    ("SELECT length(" + _nested("regexp_replace(#, '', 'b', 'g')", 30) + f") {_STEPS}", []),
    ("SELECT length(" + _nested("replace(#, 'x', 'é')", 30) + f") {_STEPS}", []),
    (f"SELECT length({_nested('to_json(CAST(# AS text))', 30)}::text) {_STEPS}", []),
    (f"SELECT max(length(concat({', '.join('?' * 19)}, g::text))) {_ROWS}", ["😀" * 20_000] * 19),
    (f"SELECT upper(?), g {_ROWS}", ["x" * 900_000]),
    (f"SELECT nullif(?, g::text), g {_ROWS}", ["x" * 900_000]),
    ("SELECT " + _many("max(length(lpad('#' || g::text, 1000, '😀')))", 200) + f" {_ROWS}", []),
    (
        "SELECT strftime(started_at + g * interval '1 second', ?) FROM test_runs, generate_series(1, 2048) AS t(g)",
        ["%A" * 10_000],
    ),
    ("SELECT " + _many("length(string_agg(error, '#'))", 200) + f" {_STEPS}", []),
    (f"SELECT {_many('cardinality(array_agg(error ORDER BY length(error) + #))', 200)} {_STEPS}", []),
    (f"SELECT {_many('count(DISTINCT error) FILTER (WHERE length(error) > #)', 200)} {_STEPS}", []),
    ("SELECT " + _many("max(replace(error, 'a#', 'y'))", 200) + f" {_STEPS}", []),
    (f"SELECT {_many('error AS a#', 200)} {_STEPS} ORDER BY a1, a2 DESC", []),
    (f"SELECT max(length(concat((SELECT string_agg(error, '') {_STEPS}), g::text))) {_ROWS}", []),
    (f"SELECT max(length(upper(substr(s, g)))) {_TOGETHER}", []),
    (f"SELECT g, max(s) {_TOGETHER} GROUP BY g", []),
    (f"SELECT s, g {_TOGETHER} ORDER BY g DESC", []),
    (f"SELECT s {_TOGETHER}", []),
    (
        f"SELECT {_many('max(substr(duration, g + #))', 100)}"
        " FROM (SELECT repeated AS \"DURATION\" FROM (SELECT left(string_agg(error, ''), 15000) AS repeated"
        " FROM test_run_steps) y) x, generate_series(1, 2048) AS t(g)",
        [],
    ),
    (f"SELECT s, g {_LISTED}", []),
    (f"SELECT g, max(s[g:100000]) {_LISTED} GROUP BY g", []),
    (f"SELECT json_extract('[' || g::text || ',\"' || ? || '\"]', ?) {_ROWS}", ["x" * 1900, ["$"] * 500]),
    (f"SELECT json_extract('[' || g::text || ',' || ? || ']', '$..*') {_ROWS}", ["[" * 900 + "]" * 900]),
    (f"SELECT regexp_extract(error, '(((((.*)))))', ?) {_STEPS}", [["a", "b", "c", "d", "e"] * 100]),
    (f"SELECT count(*) {_STEPS} WHERE error ~ ?", ["(" + "x?" * 1000 + ")z"]),
    (f"SELECT count(*) {_STEPS} WHERE error ~ '((x?){{30}}){{30}}z'", []),
    (f"SELECT count(*) {_STEPS} WHERE error ~ '(\\pL?){{200}}z'", []),
    (f"SELECT count(*) {_STEPS} WHERE 'a' ~ ('x{{1000}}x{{1000}}x{{1000}}x{{1000}}' || step_name)", []),
    (f"SELECT count(*) {_STEPS} WHERE error LIKE ?", ["%x_" * 20_000]),
    (f"SELECT count(*) {_ROWS} WHERE concat(?, g::text) ~ ?", [_MIXED, "(x|y)*x[xy]{200}z"]),
    (f"SELECT count(*) {_ROWS} WHERE concat(?, g::text) LIKE ?", [_MIXED, "%x" + "_" * 90 + "z"]),
    (
        f"SELECT count(*) {_ROWS} WHERE concat(?, g::text) LIKE concat('%x', ?, left(g::text, 0), 'z')",
        [_MIXED, "_" * 90],
    ),
    (f"SELECT {_many('CAST(? AS json)', 3)}, g {_ROWS}", ["[" + "[]," * 6600 + "[]]"] * 3),
    (f"SELECT count(*) {_STEPS} WHERE run_id LIKE '%' || ? || '%' || step_name", ["x_" * 20_000]),
]
"""What would take much memory at once; it may be answered or refused."""

SLOW = """
SELECT count(*) FROM test_run_metrics a, test_run_metrics b, test_run_metrics c WHERE a.metric_value < b.id
SELECT a.id * b.id FROM test_run_metrics a, test_run_metrics b, test_run_metrics c ORDER BY 1
SELECT count(DISTINCT a.id + b.id * c.id) FROM test_run_metrics a, test_run_metrics b, test_run_metrics c
SELECT sum(a.id) OVER (ORDER BY a.id, b.id) FROM test_run_metrics a, test_run_metrics b, test_run_metrics c
SELECT string_agg(a.metric_name, ',') FROM test_run_metrics a, test_run_metrics b, test_run_metrics c
SELECT array_agg(a.id ORDER BY b.id) FROM test_run_metrics a, test_run_metrics b, test_run_metrics c
WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 0 FROM r) SELECT count(*) FROM r
SELECT count(*) FROM generate_series(1, 100000000000) AS g(i)
SELECT count(*) FROM test_run_metrics a JOIN test_run_metrics b ON a.metric_name LIKE '%' || b.metric_name || '%' CROSS JOIN test_run_metrics c
"""
