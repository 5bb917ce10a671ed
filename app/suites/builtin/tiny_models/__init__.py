"""Tiny models in plain Python. `python -m tiny_models.train`, in the folder above, makes their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny_models.base import Model
from tiny_models.bigram import Bigram
from tiny_models.cnn import Cnn
from tiny_models.errors import DamagedModel, UnknownModel, UnsupportedHardware
from tiny_models.files import read as read_file
from tiny_models.files import sound
from tiny_models.mlp import Mlp

HARDWARE = ("cpu",)
KINDS: dict[str, type[Model[Any]]] = {"tiny-mlp": Mlp, "tiny-cnn": Cnn, "tiny-bigram": Bigram}
WEIGHTS = Path(__file__).parent / "weights"


def load(name: str, hardware: str = "cpu") -> Model[Any]:
    """The model of this name, trained. Raises UnknownModel or UnsupportedHardware."""
    if name not in KINDS:
        raise UnknownModel(f"there is no model {name!r}, only {', '.join(KINDS)}")
    if hardware not in HARDWARE:
        raise UnsupportedHardware(f"the built-in models compute on the CPU only, not on {hardware!r}")
    return read(WEIGHTS / f"{name}.json")


def read(path: Path) -> Model[Any]:
    """The model that `save` wrote. Raises DamagedModel or OSError."""
    name, weights = read_file(path)
    if name not in KINDS:
        raise DamagedModel(f"{path.name} has a model {name!r} that nobody knows")
    kind = KINDS[name]
    return kind(name, sound(weights, kind.shapes))
