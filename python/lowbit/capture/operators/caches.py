"""Attention over caches, which become states of the graph."""

from __future__ import annotations

from ...graph.ir import Value
from ...ops.caches import BLOCK, keys_shape, values_shape
from ..builder import Ref, Unlowerable
from ..lowering import Lowering
from ..registry import lowers


@lowers("lowbit.cached_attention.default")
def cached_attention(
    c: Lowering,
    q: Ref,
    k: Ref,
    v: Ref,
    length: Ref,
    capacity: int,
    dtype: str,
    scale: float,
    window: int,
    softcap: float,
) -> Ref:
    """A pair of states a call: keys.0, values.0 of the first one."""
    if capacity % BLOCK or dtype not in ("f32", "f16", "s8"):
        raise Unlowerable(f"a cache of {capacity} positions in {dtype}: it has blocks of {BLOCK}, in f32, f16 or s8")
    blocks = capacity // BLOCK
    shapes = keys_shape(k.shape, blocks, dtype), values_shape(v.shape, blocks, dtype)
    index = sum(name.startswith("keys.") for name in c.states)
    keys, values = (
        c.add_state(f"{name}.{index}", Value(dtype=dtype, shape=shape))
        for name, shape in zip(("keys", "values"), shapes, strict=True)
    )
    q, k, v = (c.operand(item, "f32") for item in (q, k, v))
    attrs = {"scale": float(scale), "window": int(window), "softcap": float(softcap)}
    y, kept_keys, kept_values = c.emit_all("cached_attention", q, k, v, keys, values, length, **attrs)
    c.keep(keys, kept_keys, count=length, axis=2)
    c.keep(values, kept_values, count=length, axis=2)
    return y
