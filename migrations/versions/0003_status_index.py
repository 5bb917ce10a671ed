"""Runs by their status: servers look for those that wait.

Revision: 0003
Revises: 0002
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NAME = "ix_test_runs_status_newest"


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.create_index(NAME, "test_runs", ["status", "started_at"])


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.drop_index(NAME, table_name="test_runs")
