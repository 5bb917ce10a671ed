"""The file format of the models: JSON with a checksum over the weights."""

from __future__ import annotations

import hashlib
import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from tiny_models.errors import DamagedModel

Matrix = list[list[float]]
Weights = dict[str, Matrix]


def digest(weights: Any) -> str:
    return hashlib.sha256(json.dumps(weights, sort_keys=True).encode()).hexdigest()


def write(path: Path, name: str, weights: Weights) -> None:
    """Writes beside the file and then renames, so that a failure leaves what was there before."""
    text = json.dumps({"model": name, "sha256": digest(weights), "weights": weights})
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise


def read(path: Path) -> tuple[str, dict[str, Any]]:
    """The model's name and its weights, unharmed since they were written. Raises DamagedModel or OSError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedModel(f"{path.name} is no JSON, or only a part of it: {error}") from error
    if not isinstance(content, dict) or not {"model", "sha256", "weights"} <= content.keys():
        raise DamagedModel(f"{path.name} is not the file of a model")
    name, weights = content["model"], content["weights"]
    if not isinstance(name, str) or not isinstance(weights, dict):
        raise DamagedModel(f"{path.name} is not the file of a model")
    if content["sha256"] != digest(weights):
        raise DamagedModel(f"{path.name} was changed: its weights do not match their checksum")
    return name, weights


def sound(weights: dict[str, Any], shapes: dict[str, tuple[int, int]]) -> Weights:
    """The weights, when they are finite numbers in exactly these matrices. Raises DamagedModel."""
    if weights.keys() != shapes.keys():
        raise DamagedModel(f"the weights are {', '.join(weights)}, not {', '.join(shapes)}")
    for key, (rows, columns) in shapes.items():
        matrix = weights[key]
        if not isinstance(matrix, list) or len(matrix) != rows:
            raise DamagedModel(f"{key} has not {rows} rows")
        for row in matrix:
            if not isinstance(row, list) or len(row) != columns:
                raise DamagedModel(f"a row of {key} has not {columns} numbers")
            if not all(isinstance(number, float) and math.isfinite(number) for number in row):
                raise DamagedModel(f"a row of {key} has something else than finite numbers")
    return weights
