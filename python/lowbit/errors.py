"""Every error that lowbit raises on purpose: each says what is wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any


class LowbitError(Exception):
    """Base of all of lowbit's errors.

    Examples:
        >>> try:
        ...     lowbit.load(3)
        ... except lowbit.LowbitError as error:
        ...     print(error)
        lowbit.load takes the path of a file, not a int
    """


class UnsupportedError(LowbitError):
    """The model uses something lowbit has no operator for; the message lists all of it with source lines.

    `sizes` holds the free sizes that all of it is about, each with the place where it is met; without them the model
    might convert.

    Examples:
        >>> lowbit.Scheme(name="five bits", weight_bits=5)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        lowbit.errors.UnsupportedError: scheme 'five bits' asks for 5-bit weights...
    """

    sizes: Mapping[str, str] = MappingProxyType({})


class InputError(LowbitError, ValueError):
    """An input of a call (of convert, a model, a session) has the wrong shape, dtype, name, number or value.

    Examples:
        >>> import torch
        >>> model = lowbit.convert(torch.nn.Linear(8, 4), torch.randn(1, 8))
        >>> model(torch.randn(2, 9))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        lowbit.errors.InputError: ...
    """


class LimitError(LowbitError):
    """A call would take more than the session may: memory, operations, or time. The message says how much, and where.

    The session can be used as before. `lowbit.Limits` sets the limits.

    Examples:
        >>> import torch
        >>> model = lowbit.convert(torch.nn.Linear(64, 64), torch.randn(1, 64), limits=lowbit.Limits(operations=100))
        >>> model(torch.randn(1, 64))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        lowbit.errors.LimitError: a call with inputs of these sizes takes ... operations...
    """


class GraphError(LowbitError):
    """A graph is not valid: an unknown op, a missing value, a wrong shape, dtype or attribute.

    Examples:
        >>> from lowbit.graph.ir import Graph
        >>> lowbit.Session(Graph(inputs=(), outputs=("y",), values={}, nodes=(), constants={}))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        lowbit.errors.GraphError: ...
    """


class FormatError(LowbitError):
    """A file is truncated, foreign, from a newer version, or does not say what it must.

    Examples:
        >>> from pathlib import Path
        >>> _ = Path("net.lowbit").write_text("something else")
        >>> lowbit.load("net.lowbit")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        lowbit.errors.FormatError: net.lowbit is not a lowbit file...
    """


class CalibrationError(LowbitError):
    """Calibration data are empty, not finite, or do not fit the model.

    Examples:
        >>> import torch
        >>> lowbit.convert(torch.nn.Linear(8, 4), torch.randn(1, 8), calibration=[])  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        lowbit.errors.CalibrationError: ...
    """


class AccuracyError(LowbitError):
    """No model with int8 layers holds the accuracy budget; the best one found is attached.

    Args:
        message: What happened.
        model: The converted model with the highest score.
        score: What `evaluate` gave it.
        drop: How far it is below float32's score.

    Examples:
        >>> import torch
        >>> net, scores = torch.nn.Linear(256, 256), iter([0.9, 0.8, 0.8])  # of the float32 model, then of others
        >>> try:
        ...     lowbit.convert(
        ...         net, torch.randn(1, 256), evaluate=lambda model: next(scores), max_drop=0.01, target="avx2"
        ...     )
        ... except lowbit.AccuracyError as error:
        ...     print(error.score, round(error.drop, 3))
        0.8 0.1
    """

    def __init__(self, message: str, *, model: Any, score: float, drop: float) -> None:
        super().__init__(message)
        self.model, self.score, self.drop = model, score, drop


class EnvironmentVariableError(LowbitError):
    """LOWBIT_ISA or LOWBIT_THREADS asks for what this machine cannot do.

    Examples:
        >>> import os, torch
        >>> os.environ["LOWBIT_ISA"] = "none"
        >>> lowbit.convert(torch.nn.Linear(8, 4), torch.randn(1, 8))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        lowbit.errors.EnvironmentVariableError: ...
        >>> del os.environ["LOWBIT_ISA"]
    """
