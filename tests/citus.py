"""A stand-in for Citus on any PostgreSQL: it records where tables are placed, and refuses what Citus does.

The rows stay where they are. What it cannot show, the planner, is in tests.shards.
"""

from __future__ import annotations

import psycopg

STAND_IN = """
SET LOCAL allow_system_table_mods = on;
INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
VALUES (999999, 'citus', current_user::regrole, 'public'::regnamespace, false, 'stand-in');

CREATE SCHEMA citus;
CREATE TABLE citus.calls (
    position serial, transaction xid8 DEFAULT pg_current_xact_id(), mode text, local_keys text,
    placed regclass UNIQUE, kind text, by_column text, with_table text
);
CREATE VIEW citus_tables AS
    SELECT placed AS table_name, kind AS citus_table_type,
           coalesce(by_column, '<none>') AS distribution_column,
           CASE kind WHEN 'reference' THEN 1 ELSE 32 END::bigint AS shard_count FROM citus.calls;

CREATE FUNCTION place(kind text, placed regclass, by_column text, with_table text) RETURNS void AS $$
BEGIN
    IF EXISTS (SELECT FROM citus.calls WHERE calls.placed = $2) THEN
        RAISE 'table "%" is already distributed', placed;
    END IF;
    IF EXISTS (
        SELECT FROM pg_constraint WHERE conrelid = $2 AND contype = 'f'
        AND NOT EXISTS (SELECT FROM citus.calls WHERE calls.placed = confrelid)
    ) THEN
        RAISE 'referenced table must be a distributed table or a reference table';
    END IF;
    IF by_column IS NOT NULL AND EXISTS (
        SELECT FROM pg_index WHERE indrelid = $2 AND indisunique AND NOT EXISTS (
            SELECT FROM pg_attribute
            WHERE attrelid = indrelid AND attname = by_column AND attnum = ANY (indkey::int2[])
        )
    ) THEN
        RAISE 'cannot create constraint on "%"', placed;
    END IF;
    INSERT INTO citus.calls (mode, local_keys, placed, kind, by_column, with_table)
    VALUES (current_setting('citus.multi_shard_modify_mode'),
            current_setting('citus.enable_local_reference_table_foreign_keys'), $2, $1, $3, $4);
END $$ LANGUAGE plpgsql;
CREATE FUNCTION create_reference_table(regclass) RETURNS void
    LANGUAGE sql AS $$ SELECT place('reference', $1, NULL, NULL) $$;
CREATE FUNCTION create_distributed_table(regclass, text, colocate_with text DEFAULT 'default') RETURNS void
    LANGUAGE sql AS $$ SELECT place('distributed', $1, $2, $3) $$;
"""


def install(url: str) -> None:
    """Makes a database look as if Citus were created in it; needs a superuser."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(STAND_IN)
