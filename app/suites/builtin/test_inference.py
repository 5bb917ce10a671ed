"""The model answers well, the same each time, and fast enough to say how fast."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from tiny_models.base import Model

LEAST_ACCURACY = {"tiny-mlp": 0.95, "tiny-cnn": 0.9, "tiny-bigram": 0.3}
"""Of inputs that were not learned from. A guess would be right in 0.5, 0.1 and 0.04 of them."""


def test_inference(
    model: Model[Any],
    model_name: str,
    hardware: str,
    examples: list[tuple[Any, str]],
    record_metric: Callable[[str, float, str], None],
) -> None:
    right = sum(model.predict(x).label == answer for x, answer in examples)
    accuracy = right / len(examples)
    record_metric(f"{hardware}.accuracy", accuracy, "")
    assert accuracy >= LEAST_ACCURACY[model_name]


def test_probabilities(model: Model[Any], inputs: list[Any]) -> None:
    for x in inputs:
        answer = model.predict(x)
        assert len(answer.probabilities) == len(model.labels)
        assert sum(answer.probabilities) == pytest.approx(1)
        assert min(answer.probabilities) >= 0
        assert answer.probabilities[model.labels.index(answer.label)] == max(answer.probabilities)
    assert len({model.predict(x).probabilities for x in inputs}) > 1


def test_latency(
    model: Model[Any], hardware: str, inputs: list[Any], record_metric: Callable[[str, float, str], None]
) -> None:
    first = [model.predict(x) for x in inputs]
    times = []
    for x, expected in zip(inputs, first, strict=True):
        start = time.perf_counter()
        answer = model.predict(x)
        times.append(time.perf_counter() - start)
        assert answer == expected
    times.sort()
    record_metric(f"{hardware}.latency", 1000 * sum(times) / len(times), "ms")
    record_metric(f"{hardware}.latency_p95", 1000 * times[int(0.95 * len(times))], "ms")
