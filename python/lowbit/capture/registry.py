"""Which function lowers which aten operation."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch.fx import Node as TorchNode

from ..torch_internals import OpOverload
from .builder import Ref

Lowered = Ref | tuple[Ref | None, ...]
LowerFunction = Callable[..., Any]
AnyLowering = TypeVar("AnyLowering", bound=LowerFunction)

LOWERINGS: dict[str, tuple[LowerFunction, int]] = {}
"""By aten name, `sum.default` (one overload) or `conv2d` (all others): the function and how many arguments it takes."""

COMPLEX_LOWERINGS: dict[str, tuple[LowerFunction, int]] = {}
"""The same for operations that take or give complex numbers: as `Complex`, what is real as `Ref`."""


def lowers(*names: str) -> Callable[[AnyLowering], AnyLowering]:
    """Registers a lowering. An in-place variant (`relu_`) is found under the plain name."""
    return _register(LOWERINGS, names)


def lowers_complex(*names: str) -> Callable[[AnyLowering], AnyLowering]:
    """Registers a lowering for where a tensor or number is complex."""
    return _register(COMPLEX_LOWERINGS, names)


def _register(
    table: dict[str, tuple[LowerFunction, int]], names: tuple[str, ...]
) -> Callable[[AnyLowering], AnyLowering]:
    def register(function: AnyLowering) -> AnyLowering:
        count = len(inspect.signature(function).parameters) - 1
        table.update(dict.fromkeys(names, (function, count)))
        return function

    return register


def lowering_of(name: str, table: Mapping[str, tuple[LowerFunction, int]]) -> tuple[LowerFunction, int] | None:
    """The function for an operation such as `relu_.default`, without "aten.", and how many arguments it takes."""
    plain, _, overload = name.partition(".")
    stem = plain.removesuffix("_")
    for key in (name, plain, f"{stem}.{overload}", stem):
        if key in table:
            return table[key]
    return None


def is_random(node: TorchNode) -> bool:
    """Whether it draws random numbers, and is nothing that draws none in eval mode."""
    target = node.target
    if not isinstance(target, OpOverload) or torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    return lowering_of(str(target).removeprefix("aten."), LOWERINGS) is None
