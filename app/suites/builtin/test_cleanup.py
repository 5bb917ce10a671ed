"""A closed model answers no more, and nothing of it stays: no file, no memory."""

from __future__ import annotations

import gc
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
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
    before = _open_files()
    for _ in range(20):
        tiny_models.load(model_name, hardware).close()
        tiny_models.read(saved).close()
    saved.write_text("{")
    for _ in range(20):
        with pytest.raises(DamagedModel):
            tiny_models.read(saved)
    assert _open_files() == before


def test_memory_is_given_back(
    model: Model[Any], model_name: str, hardware: str, record_metric: Callable[[str, float, str], None]
) -> None:
    # Several, since Python serves the first few numbers from memory that it had kept.
    size = _held(lambda: [tiny_models.load(model_name, hardware) for _ in range(10)]) / 10
    record_metric(f"{hardware}.model_memory", size / (1 << 20), "mb")
    assert size > 8 * model.parameters

    def opened_and_closed() -> list[Model[Any]]:
        models = [tiny_models.load(model_name, hardware) for _ in range(30)]
        for each in models:
            each.close()
        return models

    assert _held(opened_and_closed) < 30 * size / 2, "closed models hold less than half of what open ones do"


def test_answers_leave_nothing_behind(model: Model[Any], inputs: list[Any]) -> None:
    some = inputs[:20]
    size = _held(lambda: model.predict_batch(some))
    assert _held(lambda: [bool(model.predict_batch(some)) for _ in range(10)]) < size


def _held(make: Callable[[], object]) -> int:
    """The bytes of what is made, and of whatever else stays behind."""
    make()  # what is only made once does not count
    tracemalloc.start()
    try:
        made = make()
        gc.collect()
        return tracemalloc.get_traced_memory()[0] if made else 0
    finally:
        tracemalloc.stop()


def _open_files() -> int:
    """How many files this process has open."""
    folder = next((path for path in ("/proc/self/fd", "/dev/fd") if Path(path).is_dir()), None)
    if folder is None:
        pytest.skip("this system does not list the open files of a process")
    gc.collect()
    return len(os.listdir(folder))  # noqa: PTH208 - a listing of pathlib would open one more
