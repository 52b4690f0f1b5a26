"""Every error that lowbit raises on purpose: each says what is wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any


class LowbitError(Exception):
    """Base of all of lowbit's errors."""


class UnsupportedError(LowbitError):
    """The model uses something lowbit has no operator for; the message lists all of it with source lines.

    sizes: the free sizes that all of it is about, each with the place where it is met; without them it might convert.
    """

    sizes: Mapping[str, str] = MappingProxyType({})


class InputError(LowbitError, ValueError):
    """An input of a call (of convert, a model, a session) has the wrong shape, dtype, name, number or value."""


class GraphError(LowbitError):
    """A graph is not valid: an unknown op, a missing value, a wrong shape, dtype or attribute."""


class FormatError(LowbitError):
    """A file is truncated, foreign, from a newer version, or does not say what it must."""


class CalibrationError(LowbitError):
    """Calibration data is empty, not finite, or does not fit the model."""


class AccuracyError(LowbitError):
    """No model with int8 layers holds the accuracy budget; the best one found is attached.

    model: the converted model with the highest score. score: what evaluate gave it. drop: how far it is below float32.
    """

    def __init__(self, message: str, *, model: Any, score: float, drop: float) -> None:
        super().__init__(message)
        self.model, self.score, self.drop = model, score, drop


class EnvironmentVariableError(LowbitError):
    """LOWBIT_ISA or LOWBIT_THREADS asks for what this machine cannot do."""
