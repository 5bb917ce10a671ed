"""The unit of a metric, as its name tells."""

from __future__ import annotations

import pytest

from app.services.units import unit_of


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        # A word says what is measured, wherever it stands.
        ("latency", "ms"),
        ("Latency", "ms"),
        ("p95_latency", "ms"),
        ("latency.p99", "ms"),
        ("cuda.first-token latency", "ms"),
        ("memory", "mb"),
        ("peak_memory", "mb"),
        ("memory.peak.allocated", "mb"),
        ("throughput", "items/s"),
        ("gpu_utilization", "%"),
        ("duration", "s"),
        ("inference_time", "s"),
        ("power", "w"),
        ("energy", "j"),
        ("fps", "fps"),
        # An ending that is a unit says it better.
        ("latency_us", "us"),
        ("latency_s", "s"),
        ("latency_seconds", "s"),
        ("load_time_ms", "ms"),
        ("time_to_first_token_ms", "ms"),
        ("memory_gb", "gb"),
        ("memory.peak.GiB", "gb"),
        ("memory_kb", "kb"),
        ("rss-bytes", "bytes"),
        ("memory_percent", "%"),
        ("battery_pct", "%"),
        ("gpu_watts", "w"),
        ("total_joules", "j"),
        ("throughput_fps", "fps"),
        # What is counted, for each second.
        ("tokens_per_second", "tokens/s"),
        ("images.per.sec", "images/s"),
        ("decode_tokens_per_s", "tokens/s"),
        ("throughput_gb_per_s", "gb/s"),
        ("tokens/s", "tokens/s"),
        ("decode tokens/sec", "tokens/s"),
        # Nothing is guessed of other names.
        ("accuracy", ""),
        ("loss", ""),
        ("train/loss", ""),
        ("batch_size", ""),
        ("timeouts", ""),
        ("memoryless", ""),
        ("s", ""),
        ("ms", ""),
        ("per_second", ""),
        ("seconds_per_token", ""),
        ("", ""),
        ("...", ""),
        ("ünïcödé", ""),
        ("名_ms", "ms"),
    ],
)
def test_the_unit_of_a_name(name: str, unit: str) -> None:
    assert unit_of(name) == unit
