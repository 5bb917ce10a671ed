"""A batch gives what its inputs give one by one."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from tiny_models.base import Model
from tiny_models.errors import ModelError, WrongType

SIZES = [1, 2, 7, 32]


@pytest.mark.parametrize("size", SIZES)
def test_batch_equals_single(model: Model[Any], inputs: list[Any], size: int) -> None:
    single = [model.predict(x) for x in inputs]
    batched = [
        answer
        for start in range(0, len(inputs), size)
        for answer in model.predict_batch(inputs[start : start + size])
    ]
    assert batched == single


def test_order(model: Model[Any], inputs: list[Any]) -> None:
    assert model.predict_batch(inputs[::-1]) == model.predict_batch(inputs)[::-1]


def test_empty_batch(model: Model[Any]) -> None:
    assert model.predict_batch([]) == []


def test_bad_input_in_a_batch(model: Model[Any], inputs: list[Any]) -> None:
    with pytest.raises(ModelError, match="input 1:"):
        model.predict_batch([inputs[0], object(), inputs[1]])
    with pytest.raises(WrongType):
        model.predict_batch(3)


def test_throughput(
    model: Model[Any], hardware: str, inputs: list[Any], record_metric: Callable[[str, float, str], None]
) -> None:
    answered, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < 0.1:
        answered += len(model.predict_batch(inputs))
    assert answered >= len(inputs)
    record_metric(f"{hardware}.throughput", answered / spent, "items/s")


def test_memory(
    model: Model[Any], hardware: str, inputs: list[Any], record_metric: Callable[[str, float, str], None]
) -> None:
    tracemalloc.start()
    try:
        answers = model.predict_batch(inputs)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(answers) == len(inputs)
    assert 0 < held <= peak < 64 << 20
    record_metric(f"{hardware}.peak_memory", peak / (1 << 20), "mb")
