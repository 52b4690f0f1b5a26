"""Linear layers and matrix products. A constant right-hand side of rank 2 makes a `linear`, which can be quantized."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..builder import Ref, Unlowerable
from ..lowering import Lowering
from ..registry import lowers
from .common import Number


@lowers("linear")
def linear(c: Lowering, x: Ref, weight: Ref, bias: Ref | None) -> Ref:
    if weight.name not in c.constants or weight.rank != 2:
        return _computed_linear(c, x, weight, bias)
    flat = c.reshape(x, (1, *x.shape)) if x.rank == 1 else x
    if bias is None or bias.name in c.constants:
        return c.reshape(c.emit("linear", c.operand(flat, "f32"), weight, bias))
    return c.reshape(c.emit("add", c.emit("linear", flat, weight), bias))


def _computed_linear(c: Lowering, x: Ref, weight: Ref, bias: Ref | None) -> Ref:
    rows = weight if weight.rank == 2 else c.reshape(weight, (1, *weight.shape))
    flat = c.reshape(x, (1, *x.shape)) if x.rank == 1 else x
    y = c.emit("matmul", c.operand(flat, "f32"), c.operand(rows, "f32"), transpose_b=1)
    return c.reshape(y if bias is None else c.emit("add", y, bias))


def product(c: Lowering, a: Ref, b: Ref) -> Ref:
    """a @ b for operands of rank 2 and more."""
    a, b = c.operand(a, "f32"), c.operand(b, "f32")
    if b.rank == 2 and b.name in c.constants:
        weight = np.ascontiguousarray(c.constants[b.name].T)
        if weight.size:
            return c.emit("linear", a, c.constant(weight, f"{b.name}.T"))
    return c.emit("matmul", a, b)


@lowers("matmul", "mm", "bmm", "mv", "dot", "vdot", "linalg_matmul")
def matmul(c: Lowering, a: Ref, b: Ref) -> Ref:
    """A vector on the left is a row, on the right a column."""
    rows = c.reshape(a, (1, *a.shape)) if a.rank == 1 else a
    columns = c.reshape(b, (*b.shape, 1)) if b.rank == 1 else b
    return c.reshape(product(c, rows, columns))


def _scaled(c: Lowering, x: Ref, factor: Number) -> Ref:
    return x if factor == 1 else c.emit("mul", x, c.constant(float(factor)))


def _with_addend(c: Lowering, addend: Ref, y: Ref, beta: Number, alpha: Number) -> Ref:
    """beta * addend + alpha * y; a beta of 0 drops even a NaN, as in torch."""
    y = _scaled(c, y, alpha)
    return y if beta == 0 else c.emit("add", _scaled(c, addend, beta), y)


@lowers("addmm", "baddbmm", "addmv")
def addmm(c: Lowering, addend: Ref, a: Ref, b: Ref, beta: Number, alpha: Number) -> Ref:
    if b.rank == 2 and b.name in c.constants and addend.name in c.constants and beta == 1:
        weight = np.ascontiguousarray(c.constants[b.name].T) * np.float32(alpha)
        if addend.shape == weight.shape[:1] and weight.size:
            return c.emit("linear", a, c.constant(weight, f"{b.name}.T"), addend)
    columns = c.reshape(b, (*b.shape, 1)) if b.rank == 1 else b
    return _with_addend(c, addend, c.reshape(product(c, a, columns)), beta, alpha)


@lowers("outer", "ger")
def outer(c: Lowering, a: Ref, b: Ref) -> Ref:
    return c.emit("mul", c.reshape(a, (*a.shape, 1)), b)


@lowers("inner")
def inner(c: Lowering, a: Ref, b: Ref) -> Ref:
    """Over the last axis of both."""
    if 0 in (a.rank, b.rank):
        return c.emit("mul", a, b)
    left = c.reshape(a, (1, *a.shape)) if a.rank == 1 else a
    right = b if b.rank == 2 else c.reshape(b, (_count(c, b), b.shape[-1]))
    return c.reshape(c.emit("matmul", left, right, transpose_b=1))


def _count(c: Lowering, x: Ref) -> int:
    """The number of vectors along the last axis."""
    sizes = [size for size in x.shape[:-1] if isinstance(size, int)]
    if len(sizes) < x.rank - 1:
        raise Unlowerable("an inner product with more than two axes whose sizes are free")
    return int(np.prod(sizes, dtype=np.int64))


@lowers("linalg_multi_dot", "chain_matmul")
def multi_dot(c: Lowering, tensors: Sequence[Ref]) -> Ref:
    """From the left to the right."""
    y = c.reshape(tensors[0], (1, *tensors[0].shape)) if tensors[0].rank == 1 else tensors[0]
    for item in tensors[1:]:
        y = product(c, y, c.reshape(item, (*item.shape, 1)) if item.rank == 1 else item)
    return c.reshape(y)


@lowers("addr")
def addr(c: Lowering, addend: Ref, a: Ref, b: Ref, beta: Number, alpha: Number) -> Ref:
    return _with_addend(c, addend, outer(c, a, b), beta, alpha)


@lowers("addbmm")
def addbmm(c: Lowering, addend: Ref, a: Ref, b: Ref, beta: Number, alpha: Number) -> Ref:
    total = c.emit("reduce", product(c, a, b), kind="sum", axes=(0,))
    return _with_addend(c, addend, total, beta, alpha)


@lowers("linalg_vecdot")
def vecdot(c: Lowering, a: Ref, b: Ref) -> Ref:
    y = c.emit("mul", a, b)
    return c.emit("reduce", y, kind="sum", axes=(c.axis(y, c.argument("dim", -1)),))


@lowers("matrix_power", "linalg_matrix_power")
def matrix_power(c: Lowering, x: Ref, n: int) -> Ref:
    """By squaring."""
    if n < 1:
        raise Unlowerable("a power of a matrix below 1")
    half = x if n == 1 else matrix_power(c, x, n // 2)
    y = x if n == 1 else product(c, half, half)
    return product(c, y, x) if n % 2 and n > 1 else y
