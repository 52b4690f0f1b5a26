"""Attention of transformers models over caches of the graph: what each layer calls while its model is captured.

transformers lets a model take its attention, and what it masks, from functions that are registered by name. Those here
know how many positions each row of the batch has already, and say which of them a layer sees as numbers: a window.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from ..errors import UnsupportedError

NAME = "lowbit"
"""What the functions are registered as."""


@dataclass(kw_only=True)
class Caches:
    """What attention needs to know: how many positions rows have [batch], and how many they may have.

    dtype: of the caches, "f16", "f32" or "s8". layers: the classes that have called, in order.
    """

    length: Tensor
    capacity: int
    dtype: str
    layers: list[str] = field(default_factory=list)


_CACHES: ContextVar[Caches] = ContextVar("caches")


@dataclass(frozen=True)
class Mask:
    """What a layer sees: itself and what came before, `window` positions in all (0: all)."""

    window: int


_IGNORED = ("is_causal", "use_cache", "output_attentions", "output_hidden_states", "position_ids", "cache_position")
"""Arguments of attention that say nothing new."""


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """query [B, H, S, D], key [B, K, S, D] and value [B, K, S, E] of the new positions; [B, S, H, E].

    Raises UnsupportedError for what the operator has not, such as sinks.
    """
    caches, kind = _CACHES.get(), type(module).__name__
    unknown = [name for name, given in more.items() if name not in _IGNORED and _says(given)]
    if unknown:
        raise UnsupportedError(f"{kind} attends with {', '.join(unknown)}, which lowbit's attention over caches lacks")
    if attention_mask is not None and not isinstance(attention_mask, Mask):
        raise UnsupportedError(f"{kind} makes a mask of its own; lowbit knows causal ones, with windows")
    window = attention_mask.window if isinstance(attention_mask, Mask) else int(sliding_window or 0)
    scale = float(query.shape[-1]) ** -0.5 if scaling is None else float(scaling)
    options = (caches.length, caches.capacity, caches.dtype, scale, window, float(softcap or 0.0))
    caches.layers.append(kind)
    made = torch.ops.lowbit.cached_attention(query, key, value, *options)
    return made.transpose(1, 2), None


def _says(given: Any) -> bool:
    return isinstance(given, Tensor) or bool(given)


def mask(*args: Any, local_size: int | None = None, use_vmap: bool = False, **more: Any) -> Mask:
    """What `create_causal_mask` and its like give. Raises UnsupportedError for what is no causal mask."""
    if use_vmap:
        raise UnsupportedError("the model adds a mask function of its own; lowbit knows causal ones, with windows")
    return Mask(int(local_size or 0))


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, mask)


@contextmanager
def attending(net: Any, caches: Caches) -> Iterator[None]:
    """For a while, the layers of a model attend over these caches."""
    before = [(config, config._attn_implementation) for config in _configs(net)]
    token = _CACHES.set(caches)
    try:
        for config, _ in before:
            config._attn_implementation = NAME
        yield
    finally:
        _CACHES.reset(token)
        for config, name in before:
            config._attn_implementation = name


def _configs(net: nn.Module) -> list[Any]:
    """The configurations that the parts of a model ask for their attention."""
    found = {id(part.config): part.config for part in net.modules() if hasattr(part, "config")}
    return [config for config in found.values() if hasattr(config, "_attn_implementation")]
