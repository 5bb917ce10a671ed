"""What every tiny model has in common."""

from __future__ import annotations

import builtins
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Generic, Self, TypeVar

from tiny_models.errors import ClosedModel, ModelError, WrongShape, WrongType, WrongValue
from tiny_models.files import Weights, write

X = TypeVar("X")
"""A checked input, ready to compute with."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The most probable label, and the probability of each in the order of the model's `labels`."""

    label: str
    probabilities: tuple[float, ...]


class Model(ABC, Generic[X]):
    """Weights and what to do with them, until it is closed; as a context manager it closes itself."""

    type: ClassVar[str]
    modality: ClassVar[str]
    input_shape: ClassVar[tuple[int | None, ...]]
    labels: ClassVar[tuple[str, ...]]
    shapes: ClassVar[dict[str, tuple[int, int]]]

    def __init__(self, name: str, weights: Weights) -> None:
        self.name = name
        self._weights: Weights | None = weights

    @property
    def weights(self) -> Weights:
        """Raises ClosedModel."""
        if self._weights is None:
            raise ClosedModel(f"{self.name} was closed")
        return self._weights

    @property
    def parameters(self) -> int:
        return sum(len(row) for matrix in self.weights.values() for row in matrix)

    @property
    def closed(self) -> bool:
        return self._weights is None

    def predict(self, x: object) -> Prediction:
        """Raises WrongType, WrongShape, WrongValue or ClosedModel."""
        return self._answers([self.checked(x)])[0]

    def predict_batch(self, xs: object) -> list[Prediction]:
        """Answers in the order of the inputs; one bad input refuses the batch before anything is computed."""
        if not isinstance(xs, Sequence) or isinstance(xs, str | bytes):
            raise WrongType(f"a batch is a sequence of inputs, not {type(xs).__name__}")
        batch = []
        for position, x in enumerate(xs):
            try:
                batch.append(self.checked(x))
            except ModelError as error:
                raise error.__class__(f"input {position}: {error}") from error
        return self._answers(batch)

    def _answers(self, batch: list[X]) -> list[Prediction]:
        answers = []
        for scores in self.scores(batch):
            probabilities = softmax(scores)
            label = self.labels[probabilities.index(max(probabilities))]
            answers.append(Prediction(label, probabilities))
        return answers

    @abstractmethod
    def checked(self, x: object) -> X:
        """Raises WrongType, WrongShape or WrongValue."""

    @abstractmethod
    def scores(self, batch: list[X]) -> list[list[float]]:
        """A number for each label, for each input; the batch goes through one layer after the other."""

    def save(self, path: Path) -> None:
        """Writes the file whole or not at all. Raises OSError or ClosedModel."""
        write(path, self.name, self.weights)

    def close(self) -> None:
        """Gives the weights back; closing twice is fine."""
        self._weights = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: builtins.type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def dot(row: Sequence[float], values: Sequence[float]) -> float:
    return float(sum(map(mul, row, values)))


def softmax(scores: Sequence[float]) -> tuple[float, ...]:
    # Less the greatest, so that no exponential overflows.
    greatest = max(scores)
    powers = [math.exp(score - greatest) for score in scores]
    total = sum(powers)
    return tuple(power / total for power in powers)


def numbers(values: object, count: int) -> list[float]:
    """`count` finite numbers, as floats, in a list of their own."""
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise WrongType(f"a sequence of {count} numbers is wanted, not {type(values).__name__}")
    if len(values) != count:
        raise WrongShape(f"{count} numbers are wanted, not {len(values)}")
    found = []
    for value in values:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise WrongType(f"a number is wanted, not {type(value).__name__}")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise WrongValue(f"a finite number is wanted, not {number}")
        found.append(number)
    return found
