"""The model answers well, the same each time, and fast enough to say how fast."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from tiny_models.base import Model
from tiny_models.data import held_out

LEAST_ACCURACY = {"tiny-mlp": 0.95, "tiny-cnn": 0.9, "tiny-bigram": 0.3}
"""Of inputs that were not learned from. Always the same answer would be right in 0.5, 0.1 and 0.2 of them."""

SEVEN = """
........
.#####..
.....#..
....#...
...#....
...#....
...#....
...#....
"""
ONE = """
........
....#...
...##...
....#...
....#...
....#...
....#...
...###..
"""


def _image(drawing: str) -> list[list[float]]:
    return [[0.9 if mark == "#" else 0.1 for mark in line] for line in drawing.split()]


KNOWN: dict[str, list[tuple[Any, str]]] = {
    "tiny-mlp": [([0.0, 1.0], "upper"), ([-1.0, 0.0], "upper"), ([1.0, -0.5], "lower"), ([2, 0.5], "lower")],
    "tiny-cnn": [(_image(SEVEN), "7"), (_image(ONE), "1")],
    "tiny-bigram": [("t", "h"), ("the tests th", "e"), ("v", "e"), ("a", "n")],
}
"""Answers that nobody needs a model to know."""


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


def test_known_answers(model: Model[Any], model_name: str) -> None:
    assert [model.predict(x).label for x, _ in KNOWN[model_name]] == [
        answer for _, answer in KNOWN[model_name]
    ]


def test_the_input_stays_as_it_was(model: Model[Any], model_name: str) -> None:
    # Made anew: what other tests predicted from could have been changed before.
    given, untouched = held_out(model_name)[:8], held_out(model_name)[:8]
    model.predict_batch([x for x, _ in given])
    assert given == untouched


def test_probabilities(model: Model[Any], inputs: list[Any]) -> None:
    answers = [model.predict(x) for x in inputs]
    for answer in answers:
        assert len(answer.probabilities) == len(model.labels)
        assert sum(answer.probabilities) == pytest.approx(1)
        assert min(answer.probabilities) >= 0
        assert answer.probabilities[model.labels.index(answer.label)] == max(answer.probabilities)
    assert len({answer.probabilities for answer in answers}) > 1, "the input makes a difference"


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
