"""The eight tables.

Revision: 0001
Revises: nothing
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

import app.db
from app.db.ddl import NO_PHYSICAL_KEY

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def run_key() -> list[sa.Column | sa.ForeignKeyConstraint]:
    """The column every child table starts its key with."""
    return [
        sa.Column("run_id", app.db.Key, nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["test_runs.run_id"], ondelete="CASCADE"),
    ]


def upgrade() -> None:
    op.create_table(
        "test_runs",
        sa.Column("run_id", app.db.Key, nullable=False),
        sa.Column("model_name", sa.String(), nullable=False),
        sa.Column("hardware", sa.ARRAY(sa.String()), nullable=False),
        sa.Column("test_type", sa.String(), nullable=False),
        sa.Column("timeout", sa.Double(), nullable=True),
        sa.Column("save_results", sa.Boolean(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("progress", sa.Double(), nullable=False),
        sa.Column("current_step", sa.String(), nullable=True),
        sa.Column("started_at", app.db.UtcDateTime(), nullable=False),
        sa.Column("completed_at", app.db.UtcDateTime(), nullable=True),
        sa.Column("duration", sa.Double(), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("result_file", sa.String(), nullable=True),
        sa.Column("creator", sa.String(), nullable=True),
        sa.Column("created_at", app.db.UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("run_id"),
    )
    op.create_table(
        "batch_test_runs",
        sa.Column("batch_id", app.db.Key, nullable=False),
        sa.Column("description", sa.String(), nullable=True),
        sa.Column("run_count", sa.Integer(), nullable=False),
        sa.Column("started_at", app.db.UtcDateTime(), nullable=False),
        sa.Column("completed_at", app.db.UtcDateTime(), nullable=True),
        sa.Column("duration", sa.Double(), nullable=True),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("creator", sa.String(), nullable=True),
        sa.Column("created_at", app.db.UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("batch_id"),
    )
    op.create_table(
        "test_run_results",
        *run_key(),
        sa.Column("tests_passed", sa.Integer(), nullable=False),
        sa.Column("tests_failed", sa.Integer(), nullable=False),
        sa.Column("tests_skipped", sa.Integer(), nullable=False),
        sa.Column("result_data", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("run_id"),
    )
    op.create_table(
        "test_run_steps",
        *run_key(),
        sa.Column("step_name", app.db.Key, nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("progress", sa.Double(), nullable=False),
        sa.Column("started_at", app.db.UtcDateTime(), nullable=False),
        sa.Column("completed_at", app.db.UtcDateTime(), nullable=True),
        sa.Column("duration", sa.Double(), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("run_id", "step_name"),
    )
    op.create_table(
        "test_run_metrics",
        *run_key(),
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("metric_name", sa.String(), nullable=False),
        sa.Column("metric_value", sa.Double(), nullable=False),
        sa.Column("metric_unit", sa.String(), nullable=False),
        sa.Column("timestamp", app.db.UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "id"),
        info=NO_PHYSICAL_KEY,
    )
    op.create_table(
        "test_run_tags",
        *run_key(),
        sa.Column("tag_name", app.db.Key, nullable=False),
        sa.Column("tag_value", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "tag_name"),
    )
    op.create_table(
        "test_run_batch",
        *run_key(),
        sa.Column("batch_id", app.db.Key, nullable=False),
        sa.ForeignKeyConstraint(["batch_id"], ["batch_test_runs.batch_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "batch_id"),
    )
    op.create_table(
        "test_run_artifacts",
        *run_key(),
        sa.Column("artifact_path", app.db.Key, nullable=False),
        sa.Column("artifact_type", sa.String(), nullable=False),
        sa.Column("description", sa.String(), nullable=True),
        sa.Column("created_at", app.db.UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "artifact_path"),
    )


def downgrade() -> None:
    for table in (
        "test_run_artifacts",
        "test_run_batch",
        "test_run_tags",
        "test_run_metrics",
        "test_run_steps",
        "test_run_results",
        "batch_test_runs",
        "test_runs",
    ):
        op.drop_table(table)
