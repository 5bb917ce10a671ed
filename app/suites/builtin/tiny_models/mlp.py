"""A multilayer perceptron that tells two moons apart."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tiny_models.base import Model, dot, numbers
from tiny_models.files import Matrix

INPUTS = 2
HIDDEN = 16
LABELS = ("upper", "lower")


class Mlp(Model[list[float]]):
    """Two numbers, sixteen neurons with tanh, two labels."""

    type = "mlp"
    modality = "tabular"
    input_shape = (INPUTS,)
    labels = LABELS
    # The last column of each row is the bias.
    shapes = {"hidden": (HIDDEN, INPUTS + 1), "output": (len(LABELS), HIDDEN + 1)}

    def checked(self, x: object) -> list[float]:
        return numbers(x, INPUTS)

    def scores(self, batch: list[list[float]]) -> list[list[float]]:
        weights = self.weights
        activations = [hidden(weights["hidden"], point) for point in batch]
        return [linear(weights["output"], activation) for activation in activations]


def linear(matrix: Matrix, values: Sequence[float]) -> list[float]:
    extended = [*values, 1.0]
    return [dot(row, extended) for row in matrix]


def hidden(matrix: Matrix, point: Sequence[float]) -> list[float]:
    return [math.tanh(value) for value in linear(matrix, point)]
