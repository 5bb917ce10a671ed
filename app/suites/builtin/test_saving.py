"""What was saved and read again answers the same."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from tiny_models.base import Model


def test_round_trip(
    model: Model[Any], saved: Path, inputs: list[Any], record_artifact: Callable[[Path, str, str], None]
) -> None:
    with tiny_models.read(saved) as again:
        assert (again.name, type(again)) == (model.name, type(model))
        assert again.weights == model.weights
        assert again.predict_batch(inputs) == model.predict_batch(inputs)
    record_artifact(saved, "model", "The model as it was saved")


def test_saving_replaces_and_leaves_nothing_else(model: Model[Any], saved: Path) -> None:
    before = saved.read_bytes()
    saved.write_text("something else")
    model.save(saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_folder_that_is_missing(model: Model[Any], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        model.save(tmp_path / "missing" / "model.json")
    assert list(tmp_path.iterdir()) == []


def test_a_save_that_fails(model: Model[Any], tmp_path: Path) -> None:
    target = tmp_path / "model.json"
    target.mkdir()
    with pytest.raises(OSError, match=re.escape("model.json")):
        model.save(target)
    assert list(tmp_path.iterdir()) == [target], "and no half-written file beside it"
