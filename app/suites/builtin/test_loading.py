"""The model loads, and is what it says it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import prod
from typing import Any

import tiny_models
from tiny_models.base import Model

KINDS = {
    "tiny-mlp": ("mlp", "tabular", (2,), 2),
    "tiny-cnn": ("cnn", "image", (8, 8), 10),
    "tiny-bigram": ("bigram", "text", (None,), 27),
}


def test_load(
    model: Model[Any], model_name: str, hardware: str, record_metric: Callable[[str, float, str], None]
) -> None:
    times = []
    for _ in range(20):
        start = time.perf_counter()
        with tiny_models.load(model_name, hardware) as again:
            times.append(time.perf_counter() - start)
            assert again.weights == model.weights
            assert again.weights is not model.weights
    record_metric(f"{hardware}.load_time", 1000 * sorted(times)[len(times) // 2], "ms")


def test_attributes(
    model: Model[Any], model_name: str, hardware: str, record_metric: Callable[[str, float, str], None]
) -> None:
    kind, modality, shape, labels = KINDS[model_name]
    assert model.name == model_name
    assert (model.type, model.modality, model.input_shape) == (kind, modality, shape)
    assert len(set(model.labels)) == len(model.labels) == labels
    sizes = [prod(size) for size in model.shapes.values()]
    assert model.parameters == sum(sizes)
    assert all(len({len(row) for row in matrix}) == 1 for matrix in model.weights.values())
    record_metric(f"{hardware}.parameters", model.parameters, "")
