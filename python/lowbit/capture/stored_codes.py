"""Weights that torchao's `quantize_` has put into a module: read as plain tensors, their codes kept beside.

Such a weight is a tensor subclass that computes in its own way. While the module is exported, its numbers stand in its
place; what is quantized further, and how, is lowbit's business then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from ..errors import UnsupportedError
from ..graph.ir import Coded, Weight
from ..torch_internals import parameters


@contextmanager
def plain_weights(net: torch.nn.Module, codes: list[Coded], notes: list[str]) -> Iterator[None]:
    """Plain parameters for a while; adds the codes of those that have int8 codes a channel, and says what was met.

    Raises UnsupportedError for weights that bring scales for activations, too.
    """
    found = {
        (module, name): parameter
        for module in net.modules()
        for name, parameter in parameters(module).items()
        if parameter is not None and _is_torchao(parameter)
    }
    try:
        for (module, name), parameter in found.items():
            numbers = parameter.dequantize().detach().float()
            weight = _weight(parameter)
            if weight is not None:
                source = f"a {name} {list(numbers.shape)}"
                codes.append(Coded(numbers=np.ascontiguousarray(numbers.numpy()), weight=weight, source=source))
            parameters(module)[name] = torch.nn.Parameter(numbers, requires_grad=False)
        if found:
            kept = len(codes)
            notes.append(
                f"{len(found)} weights come from torchao: {kept} keep their int8 codes, {len(found) - kept} are read "
                "as float32; activations are quantized by lowbit's own rules"
            )
        yield
    finally:
        for (module, name), parameter in found.items():
            parameters(module)[name] = parameter


def _is_torchao(parameter: torch.Tensor) -> bool:
    return type(parameter).__module__.startswith("torchao") and hasattr(parameter, "dequantize")


def _weight(parameter: torch.Tensor) -> Weight | None:
    """The codes, if they are int8, symmetric, with a scale an output channel."""
    for name in ("act_quant_scale", "act_pre_scale"):
        if getattr(parameter, name, None) is not None:
            raise UnsupportedError(
                f"a weight of torchao's quantize_ holds a fixed scale for activations ({name}), which lowbit does not "
                "take over: quantize by PT2E instead, or convert the float model with calibration"
            )
    codes, scales, zero = (getattr(parameter, name, None) for name in ("qdata", "scale", "zero_point"))
    if not isinstance(codes, torch.Tensor) or not isinstance(scales, torch.Tensor):
        return None
    if codes.dtype != torch.int8 or codes.shape != parameter.shape or scales.numel() != codes.shape[0]:
        return None
    if isinstance(zero, torch.Tensor) and bool((zero != 0).any()):
        return None
    return Weight(codes=codes.numpy().copy(), scales=scales.detach().float().reshape(-1).numpy().copy())
