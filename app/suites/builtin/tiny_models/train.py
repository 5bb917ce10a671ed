"""Makes the weights in seconds: `python -m tiny_models.train`, or with a folder to put them elsewhere."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from tiny_models import WEIGHTS
from tiny_models.base import softmax
from tiny_models.bigram import ALPHABET
from tiny_models.cnn import LABELS as DIGITS
from tiny_models.cnn import POOLS, Cnn, feature_maps, windows
from tiny_models.data import TEXT, digits, letters, moons
from tiny_models.files import Matrix, Weights, write
from tiny_models.mlp import LABELS as MOONS
from tiny_models.mlp import Mlp, hidden, linear

SEED = 7


def start(shapes: dict[str, tuple[int, int]]) -> Weights:
    source = random.Random(SEED)
    return {
        key: [[source.gauss(0, 1 / math.sqrt(columns)) for _ in range(columns)] for _ in range(rows)]
        for key, (rows, columns) in shapes.items()
    }


def slopes(scores: Sequence[float], target: int) -> list[float]:
    """How the cross-entropy of the right label changes with each score."""
    return [value - (label == target) for label, value in enumerate(softmax(scores))]


def pulled_back(matrix: Matrix, gradient: Sequence[float]) -> list[float]:
    """A gradient by the outputs of a layer as one by its inputs, without the bias."""
    return [
        sum(row[column] * slope for row, slope in zip(matrix, gradient, strict=True))
        for column in range(len(matrix[0]) - 1)
    ]


def descend(row: list[float], slope: float, values: Sequence[float], rate: float) -> None:
    for column, value in enumerate(values):
        row[column] -= rate * slope * value


def train_mlp(epochs: int = 60, rate: float = 0.1) -> Weights:
    weights = start(Mlp.shapes)
    examples = moons(seed=1, count=200)
    for _ in range(epochs):
        for point, label in examples:
            activation = hidden(weights["hidden"], point)
            gradient = slopes(linear(weights["output"], activation), MOONS.index(label))
            back = pulled_back(weights["output"], gradient)
            for row, slope in zip(weights["output"], gradient, strict=True):
                descend(row, slope, [*activation, 1.0], rate)
            for row, slope, value in zip(weights["hidden"], back, activation, strict=True):
                descend(row, slope * (1 - value * value), [*point, 1.0], rate)
    return weights


def train_cnn(epochs: int = 12, rate: float = 0.05) -> Weights:
    weights = start(Cnn.shapes)
    examples = [(windows(image), DIGITS.index(label)) for image, label in digits(seed=1, count=300)]
    for _ in range(epochs):
        for parts, target in examples:
            maps = feature_maps(weights["filters"], parts)
            # Only the greatest place of each pool has a part in the result, so only it learns.
            places = [max(pool, key=values.__getitem__) for values in maps for pool in POOLS]
            pooled = [maps[index // len(POOLS)][place] for index, place in enumerate(places)]
            gradient = slopes(linear(weights["output"], pooled), target)
            back = pulled_back(weights["output"], gradient)
            for row, slope in zip(weights["output"], gradient, strict=True):
                descend(row, slope, [*pooled, 1.0], rate)
            for index, (place, value, slope) in enumerate(zip(places, pooled, back, strict=True)):
                if value > 0:
                    descend(weights["filters"][index // len(POOLS)], slope, parts[place], rate)
    return weights


def count_bigrams() -> Weights:
    text = letters(TEXT)
    pairs = list(pairwise(text))
    table = []
    for last in ALPHABET:
        # One more of each than was seen: nothing is impossible.
        counts = [pairs.count((last, letter)) + 1 for letter in ALPHABET]
        table.append([math.log(count / sum(counts)) for count in counts])
    return {"table": table}


def main(folder: Path = WEIGHTS) -> None:
    made = {"tiny-mlp": train_mlp(), "tiny-cnn": train_cnn(), "tiny-bigram": count_bigrams()}
    for name, weights in made.items():
        # Six digits are enough to answer with, and keep the files small.
        short = {
            key: [[round(value, 6) for value in row] for row in matrix] for key, matrix in weights.items()
        }
        write(folder / f"{name}.json", name, short)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
