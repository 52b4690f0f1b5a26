"""Codes of models that came quantized, by torchao's PT2E flow or lowbit's own operators, in lowbit's terms.

Activations become u8: an int8 code is the u8 code 128 above it, with a zero point 128 higher. Weights are constants
here, float32 as torch computes them from their codes; the codes are kept beside (`Lowering.keep_codes`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ...dequantize import arrays, weight_of
from ...dequantize import dequantize as numbers_of
from ..builder import Ref, Unlowerable
from ..lowering import Lowering
from ..registry import lowers
from .common import clip

SHIFTS = {torch.uint8: 0, torch.int8: 128}
"""What is added to a code to make it u8."""
DYNAMIC = (
    "it finds a range over the whole batch at run time, so that a sample's result depends on its neighbours",
    "quantize statically (with calibration), or convert the float model: without calibration data lowbit quantizes "
    "activations by their own range, row by row",
)


@lowers("quantized_decomposed.quantize_per_tensor.default", "quantized_decomposed.quantize_per_tensor.tensor")
def quantize(c: Lowering, x: Ref, scale: Any, zero_point: Any, lowest: int, highest: int, dtype: Any) -> Ref:
    """Codes are for dequantizing only: what else reads them would see them shifted."""
    for user in c.node.users:
        if "quantized_decomposed.dequantize" not in str(user.target):
            raise Unlowerable(f"its codes are read by {user.target}", "dequantize them first")
    step, zero = _number(c, scale), _number(c, zero_point)
    shift = _shift(dtype)
    if (lowest + shift, highest + shift) != (0, 255):
        x = clip(c, x, (lowest - zero) * step, (highest - zero) * step)
    return c.emit("quantize", x, scale=step, zero_point=int(zero) + shift)


@lowers("quantized_decomposed.dequantize_per_tensor.default", "quantized_decomposed.dequantize_per_tensor.tensor")
def dequantize(c: Lowering, x: Ref, scale: Any, zero_point: Any, lowest: int, highest: int, dtype: Any) -> Ref:
    return c.emit("dequantize", x, scale=_number(c, scale), zero_point=int(_number(c, zero_point)) + _shift(dtype))


@lowers("lowbit.dequantize.default")
def stored(
    c: Lowering,
    codes: Ref,
    scale: Ref,
    zero_point: Ref | None,
    g_idx: Ref | None,
    format: str,
    offset: Ref | None = None,
    values: Ref | None = None,
    rows: bool = False,
) -> Ref:
    """A constant: the numbers, and beside them the codes."""

    def given(ref: Ref) -> torch.Tensor:
        return torch.from_numpy(c.array(ref, "what lowbit::dequantize reads"))

    zero, index, added, table = (None if ref is None else given(ref) for ref in (zero_point, g_idx, offset, values))
    parts = (given(codes), given(scale), zero, index)
    beside = (None if part is None else part.float().numpy() for part in (added, table))
    weight = weight_of(*arrays(*parts), format, *beside)
    made = c.constant(numbers_of(*parts, format, added, table), f"{codes.name}.numbers")
    c.note_codes(made, weight, codes.name, rows=rows)
    return made


@lowers("lowbit.round_values.default")
def round_values(c: Lowering, x: Ref, scale: Any, zero_point: Any) -> Ref:
    step, zero = _number(c, scale), int(_number(c, zero_point))
    return c.emit("dequantize", c.emit("quantize", x, scale=step, zero_point=zero), scale=step, zero_point=zero)


@lowers("lowbit.round_rows.default")
def round_rows(c: Lowering, x: Ref) -> Ref:
    """The layer that reads it says so (`Coded.rows`)."""
    return x


@lowers("lowbit.mark.default")
def mark(c: Lowering, x: Ref, index: int) -> Ref:
    c.marks.setdefault(index, x.name)
    return x


@lowers(
    "quantized_decomposed.choose_qparams.tensor", "quantized_decomposed.choose_qparams_symmetric.tensor",
    "quantized_decomposed.choose_qparams_per_token", "quantized_decomposed.choose_qparams_per_token_asymmetric",
    "quantized_decomposed._choose_qparams_per_token_asymmetric_impl", "torchao.choose_qparams_affine",
)  # fmt: skip
def choose(c: Lowering) -> Ref:
    raise Unlowerable(*DYNAMIC)


def _shift(dtype: Any) -> int:
    if dtype not in SHIFTS:
        raise Unlowerable(f"activations quantized to {dtype}; lowbit computes on codes of 8 bits", "use int8 or uint8")
    return SHIFTS[dtype]


def _number(c: Lowering, value: Any) -> float:
    """A scale or zero point: a Python number, or a constant of one element."""
    if not isinstance(value, Ref):
        return float(value)
    if value.name not in c.constants:
        raise Unlowerable(*DYNAMIC)
    array = np.asarray(c.constants[value.name])
    if array.size != 1:
        raise Unlowerable("activations with a scale for each channel", "quantize activations per tensor")
    return float(array.reshape(()))
