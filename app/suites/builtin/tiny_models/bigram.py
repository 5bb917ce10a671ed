"""A language model over letters: which one comes next, from the last one alone."""

from __future__ import annotations

from tiny_models.base import Model
from tiny_models.errors import WrongShape, WrongType, WrongValue

ALPHABET = " abcdefghijklmnopqrstuvwxyz"


class Bigram(Model[int]):
    """A table of log-probabilities, one row for each letter that may be the last."""

    type = "bigram"
    modality = "text"
    input_shape = (None,)
    labels = tuple(ALPHABET)
    shapes = {"table": (len(ALPHABET), len(ALPHABET))}

    def checked(self, x: object) -> int:
        if not isinstance(x, str):
            raise WrongType(f"a text is wanted, not {type(x).__name__}")
        if not x:
            raise WrongShape("a text of at least one letter is wanted")
        for letter in x:
            if letter not in ALPHABET:
                raise WrongValue(f"only the letters a to z and spaces are known, not {letter!r}")
        return ALPHABET.index(x[-1])

    def scores(self, batch: list[int]) -> list[list[float]]:
        table = self.weights["table"]
        return [table[last] for last in batch]
