"""How the property-based tests run: few examples, the same each time; TESTDB_TEST_EXAMPLES times as many,
and others each time, where somebody looks for faults."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

FACTOR = int(os.environ.get("TESTDB_TEST_EXAMPLES", "1"))


def examples(count: int) -> settings:
    """The settings of a test that tries so many examples."""
    return settings(
        max_examples=count * FACTOR,
        derandomize=FACTOR == 1,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
