"""Test Suite Database: the history of test runs, on DuckDB or PostgreSQL."""

__version__ = "0.1.0"
