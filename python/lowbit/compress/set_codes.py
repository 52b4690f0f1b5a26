"""Gives a module's weight codes that were decided elsewhere: GPTQ, AWQ, a checkpoint, an algorithm of one's own."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..dequantize import arrays, dequantize, weight_of
from ..errors import InputError, UnsupportedError


def set_codes(
    module: nn.Module,
    codes: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    g_idx: Tensor | None = None,
    *,
    offset: Tensor | None = None,
    values: Tensor | None = None,
    format: str,
    name: str = "weight",
) -> None:
    """Give `module.weight` codes that were chosen elsewhere, such as by GPTQ, in place.

    The weight is `lowbit::dequantize(codes, scale, zero_point, g_idx, format, offset)` from now on. The module computes
    in torch as before, with the numbers that the codes stand for; `lowbit.convert` and `lowbit.quantize_` take the
    codes and scales over unchanged. A `state_dict` holds them.

    Args:
        module: The layer: nn.Linear, nn.Embedding or a convolution.
        codes: By `format`. Of a convolution, "int4" has codes [N, C, kh, kw] as its weight has, but groups lie along
            [kh, kw, C], input channels innermost, as do the columns of "int4-nibbles": K = kh * kw * C.
        scale: One for each channel or group.
        zero_point: One for each group; None: symmetric codes.
        g_idx: The group of each column, if it is stored; groups must be of adjacent columns.
        offset: One for each group, in the place of a zero point: the weight is code * scale + offset.
        values: A table of as many numbers as there are codes of so many bits: the weight is values[code] * scale.
        format: "int8" (codes int8 [N, ...], scale [N], or [N, groups] of a linear layer or a table), "int4" (codes int8
            [N, K]: -8 .. 7, or 0 .. 15 with zero_point, offset or values; scale, offset and zero_point, uint8, [N,
            groups]; with values, scale may be [N]), "int3", "int2", "int1" (the same with fewer codes) or
            "int4-nibbles" (codes uint8 [N, K / 2], two a byte, the low nibble first).
        name: Of the parameter, where it is not `weight`.

    Raises:
        InputError: Codes that do not fit each other or the weight.
        UnsupportedError: Groups that are not adjacent, and convolutions that no kernel computes with codes in groups
            (of eight bits; of four with groups, transposed, volumes).

    Examples:
        >>> import torch
        >>> layer = torch.nn.Linear(4, 2)
        >>> codes = torch.tensor([[1, -2, 3, 0], [4, 0, 0, -1]], dtype=torch.int8)
        >>> lowbit.compress.set_codes(layer, codes, torch.tensor([0.5, 0.25]), format="int8")
        >>> layer.weight
        tensor([[ 0.5000, -1.0000,  1.5000,  0.0000],
                [ 1.0000,  0.0000,  0.0000, -0.2500]])
    """
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor) or parametrize.is_parametrized(module, name):
        raise InputError(f"{type(module).__name__} has no plain parameter {name!r} that could be given codes")
    if weight.dtype != torch.float32:
        raise InputError(f"the weight is {weight.dtype}, codes stand for float32 numbers: call module.float() first")
    if zero_point is not None and offset is not None:
        raise InputError("zero_point and offset exclude each other")
    added = None if offset is None else offset.detach().float().numpy()
    table = None if values is None else values.detach().float()
    given = weight_of(*arrays(codes, scale, zero_point, g_idx), format, added, None if table is None else table.numpy())
    packed = (len(weight), math.prod(weight.shape[1:]))
    if given.shape not in ((weight.shape, packed) if format.endswith("nibbles") else (weight.shape,)):
        raise InputError(f"the codes are of a weight {list(given.shape)}; the module's is {list(weight.shape)}")
    if given.group_size:
        _refuse_without_kernel(module, given.bits)
    parts = tuple(part.detach().clone() for part in (codes, scale, zero_point, offset) if part is not None)
    module.register_parameter(name, nn.Parameter(weight.detach(), requires_grad=False))
    window = tuple(weight.shape[2:]) if given.shape != weight.shape else ()
    parametrize.register_parametrization(
        module, name, Recoded(parts, format, window, has_offset=offset is not None, values=table), unsafe=True
    )
    module.train(module.training)  # the new submodules, too


def _refuse_without_kernel(module: nn.Module, bits: int) -> None:
    """Convolutions that are computed with a scale a channel only, or in float32."""
    if isinstance(module, nn.modules.conv._ConvNd) and bits == 8:
        raise UnsupportedError(
            f"{type(module).__name__} has no kernel for eight-bit codes in groups: give it a scale an output channel"
        )
    if isinstance(module, nn.modules.conv._ConvNd) and (
        module.groups != 1 or not isinstance(module, (nn.Conv1d, nn.Conv2d))
    ):
        raise UnsupportedError(
            f"{type(module).__name__} with groups={module.groups} has no kernel for four-bit codes (nn.Conv1d and "
            'nn.Conv2d with groups=1 have): give it format="int8"'
        )


class Given(NamedTuple):
    """What a weight was given: the operator's arguments."""

    codes: Tensor
    scale: Tensor
    zero_point: Tensor | None
    format: str
    offset: Tensor | None = None
    values: Tensor | None = None


def codes_given(module: nn.Module, name: str = "weight") -> Given | None:
    """What `set_codes` gave to a module's weight, or None."""
    if not parametrize.is_parametrized(module, name):
        return None
    source = module.get_submodule(f"parametrizations.{name}")
    if (
        not isinstance(source, parametrize.ParametrizationList)
        or len(source) != 1
        or not isinstance(source[0], Recoded)
    ):
        return None
    codes, scale, *rest = (getattr(source, f"original{place}") for place in range(source.ntensors))
    beside = rest[0] if rest else None
    zero_point, offset = (None, beside) if source[0].has_offset else (beside, None)
    return Given(codes, scale, zero_point, source[0].format, offset, source[0].values)


class Recoded(nn.Module):
    """The parametrization: from codes, scales and perhaps zero points to numbers.

    window: of a convolution whose codes are rows. has_offset: whether the third part is one, not a zero point. values:
    the table that codes are of. rows: whether the layer rounds its input row by row.
    """

    values: Tensor | None
    rows = False

    def __init__(
        self,
        parts: tuple[Tensor, ...],
        format: str,
        window: tuple[int, ...] = (),
        *,
        has_offset: bool = False,
        values: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.format, self.window, self.has_offset = format, window, has_offset
        self.register_buffer("values", values)
        self._parts: tuple[Tensor, ...] | None = parts

    def forward(self, codes: Tensor, scale: Tensor, beside: Tensor | None = None) -> Tensor:
        """float32, as the codes say."""
        zero_point, offset = (None, beside) if self.has_offset else (beside, None)
        numbers: Tensor = dequantize(codes, scale, zero_point, None, self.format, offset, self.values, self.rows)
        return numbers.unflatten(1, (*self.window, -1)).movedim(-1, 1) if self.window else numbers

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        """The codes that were given; asked once, when they take the weight's place."""
        if self._parts is None:
            raise InputError("a weight with given codes cannot be assigned to: remove its parametrization first")
        parts, self._parts = self._parts, None
        return parts
