"""Weights that torchao's `quantize_` put into a module: tensor subclasses with codes of 1 to 8 bits, one a byte."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from ..errors import UnsupportedError
from ..graph.ir import Weight
from . import codes


def is_torchao(parameter: Tensor) -> bool:
    """Whether it is such a weight."""
    return type(parameter).__module__.startswith("torchao") and hasattr(parameter, "dequantize")


def weight(parameter: Any) -> Weight | None:
    """The codes [N, K], if they have scales a row, or in groups along it; None of other weights.

    Raises UnsupportedError for weights that bring scales for activations, too.
    """
    for name in ("act_quant_scale", "act_pre_scale"):
        if getattr(parameter, name, None) is not None:
            raise UnsupportedError(
                f"a weight of torchao's quantize_ holds a fixed scale for activations ({name}), which lowbit does not "
                "take over: quantize by PT2E instead, or convert the float model with calibration"
            )
    parts = [getattr(parameter, name, None) for name in ("qdata", "scale", "zero_point")]
    data, scales, zeros = (part.detach() if isinstance(part, Tensor) else None for part in parts)
    if data is None or scales is None or data.element_size() != 1 or data.is_floating_point():
        return None
    if data.shape != parameter.shape or scales.numel() == 0 or scales.numel() % len(data) != 0:
        return None
    block = [int(size) for size in getattr(parameter, "block_size", ())]
    if any(size != 1 for size in block[:1] + block[2:]):  # of more than a row; of a convolution, within its window
        return _by_channel(data, scales, zeros) if scales.numel() == len(data) else None
    if data.dim() != 2:
        return _by_channel(data, scales, zeros)
    bits = _bits(getattr(parameter, "target_dtype", None))
    centre = 1 << (bits - 1)
    of_scales = scales.float().reshape(len(data), -1).numpy()
    of_zeros = (
        np.full(of_scales.shape, centre) if zeros is None else zeros.reshape(len(data), -1).int().numpy() + centre
    )
    return codes.weight(data.short().numpy() + centre, of_scales, of_zeros, bits=bits)


def _by_channel(data: Tensor, scales: Tensor, zeros: Tensor | None) -> Weight | None:
    """Of any axes, symmetric, with a scale an output channel."""
    if scales.numel() != len(data) or (zeros is not None and bool((zeros != 0).any())):
        return None
    return Weight(codes=data.numpy().copy(), scales=scales.float().reshape(-1).numpy().copy())


def _bits(dtype: Any) -> int:
    """Of torch.int4 and its like; whole bytes without."""
    name = str(dtype).removeprefix("torch.")
    return int(name.removeprefix("int")) if name in {f"int{bits}" for bits in range(1, 8)} else 8
