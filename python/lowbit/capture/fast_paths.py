"""What dynamo's graphs call where modules are gone: torch's fused paths, as what `recurrent.py` makes of the modules.

Where no gradient is wanted, an encoder layer and attention are one opaque operation each; here they are plain ones.
Recurrent layers become the operators whose number of steps may vary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..torch_internals import ATTENTION, ENCODER_LAYER


def without_fast_paths(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """A graph that calls the functions below where `module` calls torch's."""
    if not any(node.target in _PLAIN for node in module.graph.nodes):
        return module
    graph = torch.fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    for node in graph.nodes:
        if node.op == "call_function":
            node.target = _PLAIN.get(node.target, node.target)
    return torch.fx.GraphModule(module, graph)


def encoder_layer(
    x: Tensor,
    width: int,
    heads: int,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    use_gelu: bool,
    norm_first: bool,
    eps: float,
    norm1_weight: Tensor,
    norm1_bias: Tensor,
    norm2_weight: Tensor,
    norm2_bias: Tensor,
    up_weight: Tensor,
    up_bias: Tensor,
    down_weight: Tensor,
    down_bias: Tensor,
    mask: Tensor | None = None,
    mask_type: int | None = None,
) -> Tensor:
    """`torch._transformer_encoder_layer_fwd`: x [B, L, width]."""

    def attend(y: Tensor) -> Tensor:
        given = (qkv_weight, qkv_bias, out_weight, out_bias)
        return attention(y, y, y, width, heads, *given, mask, need_weights=False, mask_type=mask_type)[0]

    def feed(y: Tensor) -> Tensor:
        activation: Any = F.gelu if use_gelu else F.relu
        return F.linear(activation(F.linear(y, up_weight, up_bias)), down_weight, down_bias)

    def norm1(y: Tensor) -> Tensor:
        return F.layer_norm(y, (width,), norm1_weight, norm1_bias, eps)

    def norm2(y: Tensor) -> Tensor:
        return F.layer_norm(y, (width,), norm2_weight, norm2_bias, eps)

    if norm_first:
        x = x + attend(norm1(x))
        return x + feed(norm2(x))
    x = norm1(x + attend(x))
    return norm2(x + feed(x))


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    width: int,
    heads: int,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    mask: Tensor | None = None,
    need_weights: bool = True,
    average_attn_weights: bool = True,
    mask_type: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """`torch._native_multi_head_attention`: query, key, value [B, L, width]; a mask's True means "do not look there".

    mask_type: 0 for a mask [L, L], 1 for [B, L], 2 for [B, heads, L, L].
    """

    def split(y: Tensor, part: int) -> Tensor:
        rows = slice(part * width, (part + 1) * width)
        projected = F.linear(y, qkv_weight[rows], qkv_bias[rows])
        return projected.view(*y.shape[:2], heads, width // heads).transpose(1, 2)

    q, k, v = split(query, 0), split(key, 1), split(value, 2)
    if mask is not None:
        mask = mask[:, None, None, :] if mask_type == 1 else mask
        mask = mask.logical_not() if mask.dtype == torch.bool else mask
    weights = None
    if need_weights:
        scores = (q @ k.transpose(-1, -2)) * (width // heads) ** -0.5
        if mask is not None:
            scores = (
                scores.masked_fill(mask.logical_not(), float("-inf")) if mask.dtype == torch.bool else scores + mask
            )
        weights = scores.softmax(-1)
        mixed = weights @ v
        weights = weights.mean(1) if average_attn_weights else weights
    else:
        mixed = F.scaled_dot_product_attention(q, k, v, mask)
    return F.linear(mixed.transpose(1, 2).flatten(2), out_weight, out_bias), weights


def _recurrent(kind: str) -> Callable[..., Any]:
    """The whole layer as one of lowbit's operators; of packed sequences, torch's own."""

    def run(x: Tensor, hx: Any, params: Any, *options: Any) -> Any:
        if not isinstance(params, tuple | list):
            return getattr(torch, kind)(x, hx, params, *options)
        states = list(hx) if isinstance(hx, tuple | list) else [hx]
        return getattr(torch.ops.lowbit, kind)(x, states, list(params), *options)

    return run


_PLAIN: dict[Any, Any] = {
    ENCODER_LAYER: encoder_layer,
    ATTENTION: attention,
    **{getattr(torch, kind): _recurrent(kind) for kind in ("lstm", "gru", "rnn_tanh", "rnn_relu")},
}
