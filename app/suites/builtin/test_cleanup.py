"""A closed model answers no more, and nothing of it stays: no file, no memory."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from conftest import open_files
from tiny_models.base import Model
from tiny_models.errors import ClosedModel, DamagedModel


def test_use_after_close(model: Model[Any], inputs: list[Any], tmp_path: Path) -> None:
    model.close()
    assert model.closed
    for use in (
        lambda: model.predict(inputs[0]),
        lambda: model.predict_batch(inputs),
        lambda: model.save(tmp_path / "model.json"),
        lambda: model.parameters,
    ):
        with pytest.raises(ClosedModel):
            use()
    assert list(tmp_path.iterdir()) == []


def test_closing_twice(model: Model[Any]) -> None:
    model.close()
    model.close()
    assert model.closed


def test_it_closes_after_an_error(model_name: str, hardware: str, model: Model[Any]) -> None:
    with pytest.raises(ZeroDivisionError), tiny_models.load(model_name, hardware) as other:
        raise ZeroDivisionError
    assert other.closed
    assert not model.closed


def test_no_file_stays_open(model_name: str, hardware: str, saved: Path) -> None:
    before = open_files()
    for _ in range(20):
        tiny_models.load(model_name, hardware).close()
        tiny_models.read(saved).close()
    saved.write_text("{")
    for _ in range(20):
        with pytest.raises(DamagedModel):
            tiny_models.read(saved)
    assert open_files() == before


def test_memory_is_given_back(
    model: Model[Any], model_name: str, hardware: str, record_metric: Callable[[str, float, str], None]
) -> None:
    size = _memory_of(lambda: tiny_models.load(model_name, hardware))
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = []
        for _ in range(30):
            closed = tiny_models.load(model_name, hardware)
            closed.close()
            kept.append(closed)
        gc.collect()
        left = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    record_metric(f"{hardware}.model_memory", size / (1 << 20), "mb")
    assert size > 8 * model.parameters
    assert left < len(kept) * size / 2, "closed models hold less than half of what open ones do"


def _memory_of(make: Callable[[], object]) -> int:
    make()  # what is only made once does not count
    tracemalloc.start()
    try:
        kept = make()
        gc.collect()
        return tracemalloc.get_traced_memory()[0] if kept else 0
    finally:
        tracemalloc.stop()
