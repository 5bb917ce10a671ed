"""A batch gives what its inputs give one by one."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from tiny_models.base import Model
from tiny_models.errors import ModelError, WrongType

SIZES = [1, 7]


@pytest.mark.parametrize("size", SIZES)
def test_batch_equals_single(model: Model[Any], inputs: list[Any], size: int) -> None:
    some = inputs[:40]
    single = [model.predict(x) for x in some]
    batched = [
        answer
        for start in range(0, len(some), size)
        for answer in model.predict_batch(some[start : start + size])
    ]
    assert batched == single


def test_order(model: Model[Any], inputs: list[Any]) -> None:
    some = inputs[:40]
    assert model.predict_batch(some[::-1]) == model.predict_batch(some)[::-1]


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
    batches = []
    start = time.perf_counter()
    while (spent := time.perf_counter() - start) < 0.1:
        batches.append(model.predict_batch(inputs))
    answered = sum(map(len, batches))
    assert answered == len(batches) * len(inputs)
    assert all(batch == batches[0] for batch in batches)
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
    record_metric(f"{hardware}.memory", peak / (1 << 20), "mb")
