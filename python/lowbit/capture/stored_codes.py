"""Weights that torchao's `quantize_` has put into a module: read as plain tensors, their codes kept beside.

Such a weight is a tensor subclass that computes in its own way. While the module is exported, its numbers stand in its
place; what is quantized further, and how, is lowbit's business then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from ..foreign import torchao
from ..graph.ir import Coded
from ..torch_internals import parameters


@contextmanager
def plain_weights(net: torch.nn.Module, codes: list[Coded], notes: list[str]) -> Iterator[None]:
    """Plain parameters for a while; adds the codes of those that have such as lowbit has, and says what was met.

    Raises UnsupportedError for weights that bring scales for activations, too.
    """
    found = {
        (module, name): parameter
        for module in net.modules()
        for name, parameter in parameters(module).items()
        if parameter is not None and torchao.is_torchao(parameter)
    }
    try:
        for (module, name), parameter in found.items():
            numbers = parameter.dequantize().detach().float()
            weight = torchao.weight(parameter)
            if weight is not None:
                source = f"a {name} {list(numbers.shape)}"
                codes.append(Coded(numbers=np.ascontiguousarray(numbers.numpy()), weight=weight, source=source))
            parameters(module)[name] = torch.nn.Parameter(numbers, requires_grad=False)
        if found:
            kept = len(codes)
            notes.append(
                f"{len(found)} weights come from torchao: {kept} keep their codes, {len(found) - kept} are read "
                "as float32; activations are quantized by lowbit's own rules"
            )
        yield
    finally:
        for (module, name), parameter in found.items():
            parameters(module)[name] = parameter
