"""A file that is not a whole and sound model is refused, not believed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from tiny_models.errors import DamagedModel
from tiny_models.files import digest

Content = dict[str, Any]


def _first_matrix(content: Content) -> list[list[Any]]:
    matrix: list[list[Any]] = next(iter(content["weights"].values()))
    return matrix


def _change_a_weight(content: Content) -> None:
    _first_matrix(content)[0][0] += 0.5


def _nan(content: Content) -> None:
    _first_matrix(content)[0][0] = math.nan


def _text_for_a_weight(content: Content) -> None:
    _first_matrix(content)[0][0] = "0.5"


def _short_row(content: Content) -> None:
    _first_matrix(content)[-1].pop()


def _missing_row(content: Content) -> None:
    _first_matrix(content).pop()


def _missing_matrix(content: Content) -> None:
    content["weights"].popitem()


def _unknown_name(content: Content) -> None:
    content["model"] = "nobody"


SEALED = [_nan, _text_for_a_weight, _short_row, _missing_row, _missing_matrix, _unknown_name]
"""Damage that the checksum does not show, since it was made over it."""


@pytest.mark.parametrize("damage", SEALED, ids=lambda damage: damage.__name__[1:])
def test_unsound_weights(saved: Path, damage: Callable[[Content], None]) -> None:
    content = json.loads(saved.read_text())
    damage(content)
    content["sha256"] = digest(content["weights"])
    saved.write_text(json.dumps(content))
    with pytest.raises(DamagedModel):
        tiny_models.read(saved)


def test_a_changed_weight(saved: Path) -> None:
    content = json.loads(saved.read_text())
    _change_a_weight(content)
    saved.write_text(json.dumps(content))
    with pytest.raises(DamagedModel, match="checksum"):
        tiny_models.read(saved)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file(saved: Path, share: float) -> None:
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DamagedModel):
        tiny_models.read(saved)


OTHERS = {
    "a list": "[]",
    "null": "null",
    "nothing of a model": "{}",
    "no name": json.dumps({"model": [], "sha256": digest({}), "weights": {}}),
    "no weights": json.dumps({"model": "tiny-mlp", "sha256": digest([]), "weights": []}),
    "no UTF-8": "\udcff",
    "nested too deep": "[" * 100_000,
}


@pytest.mark.parametrize("content", OTHERS.values(), ids=OTHERS)
def test_another_file(saved: Path, content: str) -> None:
    saved.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(DamagedModel):
        tiny_models.read(saved)
