"""Marks for tests that ask for a database but are about one engine."""

from __future__ import annotations

import pytest

ON_DUCKDB = pytest.mark.parametrize("engine_name", ["duckdb"], indirect=True)
ON_POSTGRESQL = pytest.mark.parametrize("engine_name", ["postgresql"], indirect=True)
