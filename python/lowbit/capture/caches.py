"""Attention over what a module has kept of earlier calls, as an operator that torch.export keeps whole.

    torch.ops.lowbit.cached_attention(q, k, v, length, capacity, dtype, scale, window, softcap)

q [B, H, S, D] against k [B, K, S, D] and v [B, K, S, E] of S new positions and all before them, `length` [B] in number;
y [B, H, S, E]. Each call of it is a cache of `capacity` positions of its own, in "f32", "f16" or "s8", which becomes a
pair of states of the graph (`ops.caches`). A module that calls it is for capture alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LIBRARY = torch.library.Library("lowbit", "FRAGMENT")
_LIBRARY.define(
    "cached_attention(Tensor q, Tensor k, Tensor v, Tensor length, int capacity, str dtype, float scale, int window, "
    "float softcap) -> Tensor"
)


def _shape(q: Tensor, k: Tensor, v: Tensor, *options: object) -> Tensor:
    return q.new_empty((*q.shape[:3], v.shape[3]))


torch.library.register_fake("lowbit::cached_attention", _shape, lib=_LIBRARY)
