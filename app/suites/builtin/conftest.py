"""What the tests of the built-in models have in common."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from tiny_models.base import Model
from tiny_models.data import held_out
from tiny_models.errors import UnsupportedHardware


@pytest.fixture
def model(model_name: str, hardware: str) -> Iterator[Model[Any]]:
    """The model of the run, on one platform of the run; skips the test where it cannot compute there."""
    try:
        loaded = tiny_models.load(model_name, hardware)
    except UnsupportedHardware as error:
        pytest.skip(str(error))
    with loaded:
        yield loaded


@pytest.fixture(scope="session")
def examples(model_name: str) -> list[tuple[Any, str]]:
    """Inputs that the model has not learned from, with the right answers."""
    return held_out(model_name)


@pytest.fixture(scope="session")
def inputs(examples: list[tuple[Any, str]]) -> list[Any]:
    return [x for x, _answer in examples]


@pytest.fixture
def saved(model: Model[Any], tmp_path: Path) -> Path:
    """A file of the model, to be damaged."""
    path = tmp_path / "model.json"
    model.save(path)
    return path
