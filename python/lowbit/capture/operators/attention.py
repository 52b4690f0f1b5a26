"""Scaled dot-product attention."""

from __future__ import annotations

import math

from ...graph import dims
from ...graph.ir import Dim
from ..builder import Ref, Unlowerable
from ..lowering import Lowering
from ..registry import Lowered, lowers


@lowers("scaled_dot_product_attention")
def attention(
    c: Lowering,
    q: Ref,
    k: Ref,
    v: Ref,
    mask: Ref | None,
    dropout: float,
    causal: bool,
    scale: float | None,
    grouped: bool,
) -> Ref:
    """Heads are shared as they divide (enable_gqa); other leading axes broadcast."""
    if dropout:
        raise Unlowerable(
            "dropout that stays active in eval mode gives random results", "pass dropout_p=0.0 unless self.training"
        )
    if scale is None:
        if not isinstance(q.shape[-1], int):
            raise Unlowerable("attention over features whose number is free")
        scale = 1 / math.sqrt(q.shape[-1]) if q.shape[-1] else 1.0
    q, k, v = (c.operand(item, "f32") for item in (q, k, v))
    if mask is not None and mask.dtype != "bool":
        mask = c.operand(mask, "f32")
    shape = (*q.shape[:-1], v.shape[-1])
    q, k, v, mask = _of_rank_4(c, q, k, v, mask, grouped)
    y = c.emit("attention", q, k, v, mask, scale=float(scale), causal=int(causal), divides_last=1)
    return y if y.rank == len(shape) else c.reshape(y, (*_leading(c), *y.shape[-2:]))


def _leading(c: Lowering) -> tuple[Dim, ...]:
    """The result's axes before length and features."""
    several = isinstance(c.node.meta["val"], tuple | list)
    return c.out_shape(0 if several else None)[:-2]


def _of_rank_4(
    c: Lowering, q: Ref, k: Ref, v: Ref, mask: Ref | None, grouped: bool
) -> tuple[Ref, Ref, Ref, Ref | None]:
    """Leading axes as batch and heads: of fewer, ones are put before them; of more, all but the last become one."""
    leading = _leading(c)
    heads = k.shape[-3] if grouped and k.rank > 2 else leading[-1] if leading else 1
    k, v = (_broadcast(c, item, (*leading[:-1], heads) if leading else ()) for item in (k, v))
    q = _broadcast(c, q, leading)
    if mask is not None and mask.rank < 2:
        mask = c.reshape(mask, (1,) * (2 - mask.rank) + mask.shape)
    if len(leading) <= 2:
        q, k, v = (c.reshape(item, (1,) * (4 - item.rank) + item.shape) for item in (q, k, v))
        return q, k, v, mask
    batch = dims.mul(*leading[:-1])
    if mask is not None and mask.rank > 3 and any(size != 1 for size in mask.shape[:-3]):
        mask = _broadcast(c, mask, (*leading[:-1], mask.shape[-3]))
        mask = c.reshape(mask, (batch, *mask.shape[-3:]))
    elif mask is not None and mask.rank > 3:
        mask = c.reshape(mask, mask.shape[-3:])
    q, k, v = (c.reshape(item, (batch, *item.shape[-3:])) for item in (q, k, v))
    return q, k, v, mask


def _broadcast(c: Lowering, x: Ref, leading: tuple[Dim, ...]) -> Ref:
    """`x` repeated so that its leading axes are these."""
    shape = (*leading, *x.shape[-2:])
    return x if x.shape == shape else c.emit("expand", x, shape=shape)


@lowers("_scaled_dot_product_flash_attention_for_cpu")
def flash_attention(
    c: Lowering, q: Ref, k: Ref, v: Ref, dropout: float, causal: bool, mask: Ref | None, scale: float | None
) -> Lowered:
    return attention(c, q, k, v, mask, dropout, causal, scale, False), None


@lowers("_scaled_dot_product_attention_math")
def attention_math(
    c: Lowering,
    q: Ref,
    k: Ref,
    v: Ref,
    mask: Ref | None,
    dropout: float,
    causal: bool,
    dropout_mask: Ref | None,
    scale: float | None,
    grouped: bool,
) -> Lowered:
    return attention(c, q, k, v, mask, dropout, causal, scale, grouped), None
