"""Wrong inputs are refused with a reason, and the model goes on answering."""

from __future__ import annotations

import math
from typing import Any

import pytest
import tiny_models
from tiny_models.base import Model
from tiny_models.errors import (
    ModelError,
    UnknownModel,
    UnsupportedHardware,
    WrongShape,
    WrongType,
    WrongValue,
)

WRONG_TYPES = [None, 3, 1.5, True, object(), {"x": 1}, b"bytes"]
WRONG_PARTS: dict[str, list[Any]] = {
    "tiny-mlp": ["ab", ["1", 2.0], [True, 0.0], [None, 0.0]],
    "tiny-cnn": ["0" * 8, ["0" * 8] * 8, [[None] * 8] * 8, [0.0] * 8],
    "tiny-bigram": [["a"], [97]],
}
WRONG_SHAPES: dict[str, list[Any]] = {
    "tiny-mlp": [[], [1.0], [1.0, 2.0, 3.0]],
    "tiny-cnn": [[], [[0.0] * 8] * 7, [[0.0] * 7] * 8, [[0.0] * 8] * 9],
    "tiny-bigram": [""],
}
WRONG_VALUES: dict[str, list[Any]] = {
    "tiny-mlp": [[math.nan, 0.0], [0.0, math.inf], [-math.inf, 0.0], [10**400, 0.0]],
    "tiny-cnn": [[[0.0] * 8] * 7 + [[0.0] * 7 + [math.nan]]],
    "tiny-bigram": ["Capital", "a1", "ä", "\x00"],
}


@pytest.mark.parametrize("wrong", WRONG_TYPES, ids=lambda value: type(value).__name__)
def test_wrong_type(model: Model[Any], wrong: object) -> None:
    with pytest.raises(WrongType, match=type(wrong).__name__):
        model.predict(wrong)


def test_wrong_type_inside(model: Model[Any], model_name: str) -> None:
    for wrong in WRONG_PARTS[model_name]:
        with pytest.raises(WrongType):
            model.predict(wrong)


def test_wrong_shape(model: Model[Any], model_name: str) -> None:
    for wrong in WRONG_SHAPES[model_name]:
        with pytest.raises(WrongShape, match="wanted"):
            model.predict(wrong)


def test_wrong_value(model: Model[Any], model_name: str) -> None:
    for wrong in WRONG_VALUES[model_name]:
        with pytest.raises(WrongValue):
            model.predict(wrong)


def test_it_goes_on_after_errors(model: Model[Any], inputs: list[Any]) -> None:
    before = model.predict_batch(inputs)
    for wrong in WRONG_TYPES:
        with pytest.raises(ModelError):
            model.predict_batch([*inputs, wrong])
    assert model.predict_batch(inputs) == before


def test_unknown_model() -> None:
    with pytest.raises(UnknownModel, match="tiny-mlp"):
        tiny_models.load("nobody")


def test_another_platform(model_name: str) -> None:
    with pytest.raises(UnsupportedHardware, match="CPU only"):
        tiny_models.load(model_name, "abacus")
