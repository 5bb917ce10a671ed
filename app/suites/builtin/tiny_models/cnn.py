"""A convolutional network that reads digits of 8×8 pixels."""

from __future__ import annotations

from collections.abc import Sequence

from tiny_models.base import Model, dot, numbers
from tiny_models.errors import WrongShape, WrongType
from tiny_models.files import Matrix
from tiny_models.mlp import linear

SIDE = 8
KERNEL = 3
MAP = SIDE - KERNEL + 1
POOLED = MAP // 2
FILTERS = 6
LABELS = tuple("0123456789")
POOLS = [
    [MAP * row + column, MAP * row + column + 1, MAP * (row + 1) + column, MAP * (row + 1) + column + 1]
    for row in range(0, MAP, 2)
    for column in range(0, MAP, 2)
]
"""For each pooled value, the four places of a feature map that it is the greatest of."""


class Cnn(Model[Matrix]):
    """Six filters of 3×3 with ReLU, the greatest of each 2×2, ten labels."""

    type = "cnn"
    modality = "image"
    input_shape = (SIDE, SIDE)
    labels = LABELS
    # The last column of each row is the bias.
    shapes = {
        "filters": (FILTERS, KERNEL * KERNEL + 1),
        "output": (len(LABELS), FILTERS * POOLED * POOLED + 1),
    }

    def checked(self, x: object) -> Matrix:
        if not isinstance(x, Sequence) or isinstance(x, str | bytes):
            raise WrongType(f"a sequence of {SIDE} rows is wanted, not {type(x).__name__}")
        if len(x) != SIDE:
            raise WrongShape(f"{SIDE} rows are wanted, not {len(x)}")
        return [numbers(row, SIDE) for row in x]

    def scores(self, batch: list[Matrix]) -> list[list[float]]:
        weights = self.weights
        features = [pooled(feature_maps(weights["filters"], windows(image))) for image in batch]
        return [linear(weights["output"], values) for values in features]


def windows(image: Matrix) -> Matrix:
    """Every 3×3 part of the image as a row, with the 1 that the bias is multiplied by."""
    return [
        [*(value for line in image[top : top + KERNEL] for value in line[left : left + KERNEL]), 1.0]
        for top in range(MAP)
        for left in range(MAP)
    ]


def feature_maps(filters: Matrix, parts: Matrix) -> Matrix:
    return [[max(0.0, dot(kernel, part)) for part in parts] for kernel in filters]


def pooled(maps: Matrix) -> list[float]:
    return [max(values[place] for place in pool) for values in maps for pool in POOLS]
