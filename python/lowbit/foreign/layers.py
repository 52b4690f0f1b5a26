"""The tensors of one quantized layer in a checkpoint, by the names that its writer gives them, as a weight.

    writer               tensors of a layer                              packed along
    GPTQ                 qweight, qzeros, scales [, g_idx]               inputs; zero points along outputs, one less
    AWQ (gemm)           qweight, qzeros, scales                         outputs, in the order 0 2 4 6 1 3 5 7
    compressed-tensors   weight_packed, weight_scale, weight_shape       inputs, around zero
                         [, weight_zero_point, weight_g_idx]
    the same, int8       weight (int8), weight_scale [, ...]             not
    BitNet               weight (uint8), weight_scale [1]                outputs, four ternary codes a byte

Sources: the packing of AutoGPTQ (QuantLinear.pack), AutoAWQ (WQLinear_GEMM), compressed-tensors (pack_to_int32) and
transformers (integrations/bitnet.py, pack_weights).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, UnsupportedError
from ..graph.ir import Array, Weight
from ..graph.weights import middle
from . import codes

BITNET = ("bitlinear", "autobitlinear")
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""The output that each nibble of a word is for."""
SUFFIXES = (
    "qweight",
    "qzeros",
    "scales",
    "g_idx",
    "weight_packed",
    "weight_scale",
    "weight_shape",
    "weight_zero_point",
    "weight_g_idx",
)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A weight [N, K]. order: the input that each of its columns is for, where they are in another order."""

    weight: Weight
    order: Array | None = None


def read(parts: Mapping[str, Tensor], shape: tuple[int, int], *, method: str = "", plus_one: bool = True) -> Layer:
    """The weight of a layer.

    Args:
        parts: Tensors by the last parts of their names.
        shape: The layer's outputs and inputs.
        method: "gptq" or "awq", which have the same names, by default the one whose shapes fit; "bitlinear" or
            "autobitlinear", BitNet's layers, the first of which divides by its scale; "bitlinear" by default.
        plus_one: Whether GPTQ's zero points are stored one less than they are; `checkpoint_format` "gptq" says so,
            "gptq_v2" the contrary.

    Raises:
        InputError, UnsupportedError: Tensors that are none of these, or do not fit.
    """
    whole = parts.get("weight")
    if method in BITNET or (whole is not None and whole.dtype == torch.uint8):
        return _bitnet(parts, shape, divides=method != "autobitlinear")
    if "weight_packed" in parts or "weight_scale" in parts:
        return _compressed(parts, shape)
    missing = [name for name in ("qweight", "qzeros", "scales") if name not in parts]
    if missing:
        raise InputError(f"a layer with {', '.join(sorted(parts))} lacks {', '.join(missing)}")
    words = parts["qweight"].shape
    if not method:
        method = "gptq" if words[-1] == shape[0] else "awq"
    return _awq(parts, shape) if method == "awq" else _gptq(parts, shape, plus_one)


def _gptq(parts: Mapping[str, Tensor], shape: tuple[int, int], plus_one: bool) -> Layer:
    outputs, inputs = shape
    words, zeros, scales = (parts[name].detach() for name in ("qweight", "qzeros", "scales"))
    if words.dim() != 2 or words.shape[1] != outputs or scales.dim() != 2 or scales.shape[1] != outputs:
        raise InputError(
            f"qweight {list(words.shape)} and scales {list(scales.shape)} are not of a layer {list(shape)}"
        )
    bits = _bits(32 * words.shape[0], inputs)
    of_zeros = codes.unpack(zeros.numpy(), bits, outputs).T.astype(np.int32) + plus_one
    order = codes.in_order(_optional(parts, "g_idx"), inputs, len(scales))
    columns = codes.unpack(words.T.contiguous().numpy(), bits, inputs)
    columns = columns if order is None else columns[:, order]
    return Layer(weight=codes.weight(columns, scales.float().numpy().T, of_zeros, bits=bits), order=order)


def _awq(parts: Mapping[str, Tensor], shape: tuple[int, int]) -> Layer:
    outputs, inputs = shape
    words, zeros, scales = (parts[name].detach() for name in ("qweight", "qzeros", "scales"))
    if tuple(words.shape) != (inputs, outputs // 8) or outputs % 8 != 0:
        raise InputError(f"qweight {list(words.shape)} is not of a layer {list(shape)} in four bits")

    def unpacked(packed: Tensor) -> Array:
        nibbles = codes.unpack(packed.numpy(), 4, outputs).reshape(len(packed), -1, 8)
        return nibbles[:, :, np.argsort(AWQ_ORDER)].reshape(len(packed), outputs).T

    return Layer(weight=codes.weight(unpacked(words), scales.float().numpy().T, unpacked(zeros), bits=4))


def _compressed(parts: Mapping[str, Tensor], shape: tuple[int, int]) -> Layer:
    outputs, inputs = shape
    if "weight_scale" not in parts or not {"weight_packed", "weight"} & parts.keys():
        raise InputError(f"a layer with {', '.join(sorted(parts))} lacks weight_scale or its weight")
    scales = parts["weight_scale"].detach().float().reshape(-1, parts["weight_scale"].shape[-1]).numpy()
    scales = np.broadcast_to(scales, (outputs, scales.shape[1])) if len(scales) == 1 else scales
    if "weight_packed" in parts:
        words = parts["weight_packed"].detach()
        bits = _bits(32 * words.shape[-1], inputs)
        columns = codes.unpack(words.numpy(), bits, inputs)
    else:
        whole = parts["weight"].detach()
        if whole.dtype.is_floating_point or whole.element_size() != 1:
            raise UnsupportedError(f"a weight of {whole.dtype} with scales: there are codes of 8 bits and fewer")
        bits, columns = 8, whole.numpy().astype(np.int16) + 128
    centre, zeros = middle(bits), _optional(parts, "weight_zero_point")
    if zeros is None:
        of_zeros = np.full(scales.shape, centre)
    elif zeros.dtype == np.int32 and bits < 8 and zeros.shape != scales.shape:
        of_zeros = codes.unpack(np.ascontiguousarray(zeros.T), bits, outputs).T.astype(np.int32)
    else:
        of_zeros = np.broadcast_to(zeros.astype(np.int32), scales.shape) + centre
    order = codes.in_order(_optional(parts, "weight_g_idx"), inputs, scales.shape[1])
    columns = columns if order is None else columns[:, order]
    return Layer(weight=codes.weight(columns, scales, of_zeros, bits=bits), order=order)


def _bitnet(parts: Mapping[str, Tensor], shape: tuple[int, int], divides: bool) -> Layer:
    """Row r of N stands in byte r % ceil(N / 4) of a column, at bit 2 * (r // ceil(N / 4)), as 0, 1 or 2."""
    outputs, inputs = shape
    packed, scale = (parts[name].detach() if name in parts else None for name in ("weight", "weight_scale"))
    if packed is None or scale is None or packed.dtype != torch.uint8 or scale.numel() != 1:
        raise InputError("a layer of BitNet has a weight of uint8 and a weight_scale of one number")
    if tuple(packed.shape) != (-(-outputs // 4), inputs):
        raise InputError(f"weight {list(packed.shape)} is not of a layer {list(shape)} in four codes a byte")
    rows = np.concatenate([packed.numpy() >> shift & 3 for shift in (0, 2, 4, 6)])[:outputs]
    if (rows == 3).any():
        raise InputError("a code is 3: ternary ones are 0, 1 and 2")
    number = float(scale.float())
    if not math.isfinite(number) or number == 0:
        raise InputError(f"its scale is {number}")
    scales = np.full((outputs, 1), np.float32(1) / np.float32(number) if divides else number, np.float32)
    return Layer(weight=codes.weight(rows, scales, np.ones(scales.shape), bits=2))


def _bits(available: int, count: int) -> int:
    """How many bits codes have; their words may be filled up."""
    bits = available // count
    if not 1 <= bits <= 8:
        raise InputError(f"{available} bits for {count} codes: there are 1 to 8 for each")
    return bits


def _optional(parts: Mapping[str, Tensor], name: str) -> Array | None:
    if name not in parts or parts[name].numel() == 0:
        return None
    array: Array = parts[name].detach().numpy()
    return array
