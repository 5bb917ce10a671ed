"""The indexes that measured queries need; each engine has its own.

Revision: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

EVERYWHERE = [("ix_test_run_batch_batch_id", "test_run_batch", ["batch_id"], {})]
BY_ENGINE = {
    # A composite key does not serve look-ups by its first column.
    "duckdb": [
        ("ix_test_run_steps_run_id", "test_run_steps", ["run_id"], {}),
        ("ix_test_run_metrics_run_id", "test_run_metrics", ["run_id"], {}),
        ("ix_test_run_tags_run_id", "test_run_tags", ["run_id"], {}),
        ("ix_test_run_batch_run_id", "test_run_batch", ["run_id"], {}),
        ("ix_test_run_artifacts_run_id", "test_run_artifacts", ["run_id"], {}),
    ],
    "postgresql": [
        ("ix_test_runs_newest", "test_runs", [sa.text("started_at DESC"), "run_id"], {}),
        ("ix_test_runs_model_newest", "test_runs", ["model_name", "started_at"], {}),
        ("ix_test_runs_hardware", "test_runs", ["hardware"], {"postgresql_using": "gin"}),
        ("ix_test_run_tags_name_value", "test_run_tags", ["tag_name", "tag_value"], {}),
    ],
}


def indexes() -> list[tuple[str, str, list[str | sa.TextClause], dict[str, str]]]:
    return EVERYWHERE + BY_ENGINE[op.get_context().dialect.name]


def upgrade() -> None:
    for name, table, columns, options in indexes():
        op.create_index(name, table, columns, **options)


def downgrade() -> None:
    for name, table, _columns, _options in indexes():
        op.drop_index(name, table_name=table)
