"""What a tiny model refuses, one class a reason."""

from __future__ import annotations


class ModelError(Exception):
    """Everything below."""


class UnknownModel(ModelError, LookupError):
    """No model has this name."""


class UnsupportedHardware(ModelError):
    """The models compute on the CPU only."""


class WrongType(ModelError, TypeError):
    """An input, or a part of it, is of a type that the model does not take."""


class WrongShape(ModelError, ValueError):
    """An input has another shape than the model takes."""


class WrongValue(ModelError, ValueError):
    """A value of an input (NaN, infinity, an unknown letter) is none to compute with."""


class DamagedModel(ModelError, ValueError):
    """A file is not, or is no longer, a whole and sound model."""


class ClosedModel(ModelError, RuntimeError):
    """The model was closed."""
