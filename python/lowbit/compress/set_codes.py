"""Gives a module's weight codes that were decided elsewhere: GPTQ, AWQ, a checkpoint, an algorithm of one's own."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..dequantize import arrays, dequantize, weight_of
from ..errors import InputError


def set_codes(
    module: nn.Module,
    codes: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    g_idx: Tensor | None = None,
    *,
    format: str,
    name: str = "weight",
) -> None:
    """Let `module.weight` be `lowbit::dequantize(codes, scale, zero_point, g_idx, format)` from now on, in place.

    format: "int8" (codes int8 [N, ...], scale float32 [N]), "int4" (codes int8 [N, K]: -8 .. 7, or 0 .. 15 with
    zero_point; scale float16 and zero_point uint8 [N, groups]) or "int4-nibbles" (codes uint8 [N, K / 2], two a byte,
    the low nibble first). g_idx: the group of each column, if it is stored; groups must be of adjacent columns.
    name: of the parameter, where it is not `weight`.

    The module computes in torch as before, with the numbers that the codes stand for; `lowbit.convert` and
    `lowbit.quantize_` take the codes and scales over unchanged. A `state_dict` holds them. Raises InputError for codes
    that do not fit each other or the weight, UnsupportedError for groups that are not adjacent or scales that are not
    float16 numbers.
    """
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor) or parametrize.is_parametrized(module, name):
        raise InputError(f"{type(module).__name__} has no plain parameter {name!r} that could be given codes")
    if weight.dtype != torch.float32:
        raise InputError(f"the weight is {weight.dtype}, codes stand for float32 numbers: call module.float() first")
    given = weight_of(*arrays(codes, scale, zero_point, g_idx), format)
    if given.shape != tuple(weight.shape):
        raise InputError(f"the codes are of a weight {list(given.shape)}, the module's is {list(weight.shape)}")
    parts = tuple(part.detach().clone() for part in (codes, scale, zero_point) if part is not None)
    module.register_parameter(name, nn.Parameter(weight.detach(), requires_grad=False))
    parametrize.register_parametrization(module, name, Stored(parts, format), unsafe=True)
    module.train(module.training)  # the new submodules, too


class Given(NamedTuple):
    """What a weight was given: the operator's arguments."""

    codes: Tensor
    scale: Tensor
    zero_point: Tensor | None
    format: str


def codes_given(module: nn.Module, name: str = "weight") -> Given | None:
    """What `set_codes` gave to a module's weight, or None."""
    if not parametrize.is_parametrized(module, name):
        return None
    source = module.get_submodule(f"parametrizations.{name}")
    if not isinstance(source, parametrize.ParametrizationList) or len(source) != 1 or not isinstance(source[0], Stored):
        return None
    codes, scale, *zero_point = (getattr(source, f"original{place}") for place in range(source.ntensors))
    return Given(codes, scale, zero_point[0] if zero_point else None, source[0].format)


class Stored(nn.Module):
    """The parametrization: from codes, scales and perhaps zero points to numbers."""

    def __init__(self, parts: tuple[Tensor, ...], format: str) -> None:
        super().__init__()
        self.format = format
        self._parts: tuple[Tensor, ...] | None = parts

    def forward(self, codes: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
        """float32, as the codes say."""
        numbers: Tensor = dequantize(codes, scale, zero_point, None, self.format)
        return numbers

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        """The codes that were given; asked once, when they take the weight's place."""
        if self._parts is None:
            raise InputError("a weight with given codes cannot be assigned to: remove its parametrization first")
        parts, self._parts = self._parts, None
        return parts
