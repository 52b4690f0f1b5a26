"""Diagonals: taken out, put in, and added up."""

from __future__ import annotations

from ...graph import dims
from ...graph.ir import Dim
from ..builder import Ref, Unlowerable
from ..lowering import Lowering
from ..registry import lowers
from .common import filled
from .shape import permute

Place = tuple[Ref, Ref]


def _places(c: Lowering, length: Dim, offset: int) -> Place:
    """Rows and columns of the elements of a diagonal, above the main one by `offset`."""
    starts = max(-offset, 0), max(offset, 0)
    rows, columns = (c.emit("arange", start=start, length=length, dtype="i64") for start in starts)
    return rows, columns


def _length(rows: Dim, columns: Dim, offset: int) -> Dim:
    return dims.maximum(dims.minimum(dims.sub(rows, max(-offset, 0)), dims.sub(columns, max(offset, 0))), 0)


def _last(x: Ref, a: int, b: int) -> list[int]:
    """The axes with these two at the end."""
    a, b = a % x.rank, b % x.rank
    return [*(axis for axis in range(x.rank) if axis not in (a, b)), a, b]


def _diagonal(c: Lowering, x: Ref, offset: int, a: int, b: int) -> Ref:
    y = permute(c, x, _last(x, a, b))
    length = _length(y.shape[-2], y.shape[-1], offset)
    if length == 0:
        return filled(c, (*y.shape[:-2], 0), 0, x.dtype)
    return c.emit("index", y, *_places(c, length, offset), axis=x.rank - 2)


@lowers("diagonal", "diagonal_copy")
def diagonal(c: Lowering, x: Ref, offset: int, a: int, b: int) -> Ref:
    return _diagonal(c, x, offset, a, b)


@lowers("linalg_diagonal")
def linalg_diagonal(c: Lowering, x: Ref) -> Ref:
    return _diagonal(c, x, c.argument("offset", 0), c.argument("dim1", -2), c.argument("dim2", -1))


@lowers("diag_embed")
def diag_embed(c: Lowering, x: Ref, offset: int, a: int, b: int) -> Ref:
    """Zeros with x on a diagonal of two axes."""
    return _embedded(c, x, offset, a % (x.rank + 1), b % (x.rank + 1))


def _embedded(c: Lowering, x: Ref, offset: int, a: int, b: int) -> Ref:
    length = x.shape[-1]
    size = dims.add(length, abs(offset))
    zeros = filled(c, (*x.shape[:-1], size, size), 0, x.dtype)
    y = c.emit("index_put", zeros, x, *_places(c, length, offset), axis=x.rank - 1)
    order = [axis for axis in range(y.rank) if axis not in (a, b)] + [a, b]
    return permute(c, y, [order.index(axis) for axis in range(y.rank)])


@lowers("diag")
def diag(c: Lowering, x: Ref, offset: int) -> Ref:
    return _embedded(c, x, offset, 0, 1) if x.rank == 1 else _diagonal(c, x, offset, 0, 1)


@lowers("diagflat")
def diagflat(c: Lowering, x: Ref, offset: int) -> Ref:
    return _embedded(c, c.reshape(x, (dims.mul(*x.shape),)), offset, 0, 1)


@lowers("trace")
def trace(c: Lowering, x: Ref) -> Ref:
    return c.emit("reduce", c.cast(_diagonal(c, x, 0, 0, 1), c.out_dtype()), kind="sum", axes=(0,), keepdim=0)


@lowers("diagonal_scatter")
def diagonal_scatter(c: Lowering, x: Ref, updates: Ref, offset: int, a: int, b: int) -> Ref:
    order = _last(x, a, b)
    y = permute(c, x, order)
    places = _places(c, updates.shape[-1], offset)
    y = c.emit("index_put", y, c.cast(updates, x.dtype), *places, axis=x.rank - 2)
    return permute(c, y, [order.index(axis) for axis in range(x.rank)])


@lowers("fill_diagonal")
def fill_diagonal(c: Lowering, x: Ref, value: float, wrap: bool) -> Ref:
    """Of two axes; of more, all indices are equal there."""
    if wrap:
        raise Unlowerable("fill_diagonal that wraps around")
    size = _length(x.shape[0], x.shape[-1], 0)
    places = [c.emit("arange", start=0, length=size, dtype="i64") for _ in x.shape]
    return c.emit("index_put", x, filled(c, (size,), value, x.dtype), *places, axis=0)


@lowers("block_diag")
def block_diag(c: Lowering, blocks: list[Ref]) -> Ref:
    """Each block between zeros."""
    width = c.out_shape()[1]
    rows: list[Ref] = []
    before: Dim = 0
    for item in blocks:
        block = c.cast(item if item.rank == 2 else c.reshape(item, (1, dims.mul(*item.shape))), c.out_dtype())
        after = dims.sub(width, dims.add(before, block.shape[1]))
        if block.dtype not in ("f32", "i64", "i32"):
            raise Unlowerable(f"block_diag of {block.dtype}")
        rows.append(c.emit("pad", block, padding=(0, 0, before, after), value=0.0, mode="constant"))
        before = dims.add(before, block.shape[1])
    return rows[0] if len(rows) == 1 else c.emit("concat", *rows, axis=0)
