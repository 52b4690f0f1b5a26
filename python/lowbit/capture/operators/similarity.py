"""Distances and similarities between vectors."""

from __future__ import annotations

from ..builder import Ref
from ..lowering import Lowering
from ..registry import lowers
from .common import Number, binary, clip
from .reduction import vector_norm


@lowers("cosine_similarity")
def cosine_similarity(c: Lowering, a: Ref, b: Ref, axis: int, eps: float) -> Ref:
    """Both norms are at least eps."""
    rank = max(a.rank, b.rank)
    a, b = (c.reshape(c.cast(item, "f32"), (1,) * (rank - item.rank) + item.shape) for item in (a, b))
    a, b = (c.emit("div", item, clip(c, vector_norm(c, item, 2, axis, True), eps, None)) for item in (a, b))
    return c.emit("reduce", c.emit("mul", a, b), kind="sum", axes=(axis,), keepdim=0)


@lowers("pairwise_distance")
def pairwise_distance(c: Lowering, a: Ref, b: Ref, p: Number, eps: float, keepdim: bool) -> Ref:
    """The norm of a - b + eps."""
    return vector_norm(c, binary(c, "add", binary(c, "sub", a, b), eps), p, -1, keepdim)


@lowers("cdist")
def cdist(c: Lowering, a: Ref, b: Ref, p: Number) -> Ref:
    """Between all rows of a and all rows of b."""
    rows = c.reshape(a, (*a.shape[:-1], 1, a.shape[-1]))
    columns = c.reshape(b, (*b.shape[:-2], 1, *b.shape[-2:]))
    return vector_norm(c, c.emit("sub", rows, columns), p, -1, False)
