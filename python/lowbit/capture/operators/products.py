"""Linear layers and matrix products."""

from __future__ import annotations

import numpy as np

from ..lower import Lowering, Ref, Unlowerable, lowers
from .common import Number


@lowers("linear")
def linear(c: Lowering, x: Ref, weight: Ref, bias: Ref | None) -> Ref:
    c.array(weight, "the weight")
    flat = c.reshape(x, (1, *x.shape)) if x.rank == 1 else x
    return c.reshape(c.emit("linear", flat, weight, bias))


def _matrix(c: Lowering, weight: Ref) -> Ref:
    """The weight of a linear layer from the right-hand side of a product."""
    array = c.array(weight, "the right-hand side of a matrix product")
    if array.ndim != 2:
        raise Unlowerable(f"a matrix product with a constant of rank {array.ndim}")
    return c.constant(np.ascontiguousarray(array.T), f"{weight.name}.T")


@lowers("matmul", "mm")
def matmul(c: Lowering, x: Ref, weight: Ref) -> Ref:
    return linear(c, x, _matrix(c, weight), None)


@lowers("addmm")
def addmm(c: Lowering, bias: Ref, x: Ref, weight: Ref, beta: Number, alpha: Number) -> Ref:
    matrix = _matrix(c, weight)
    if alpha != 1:
        matrix = c.constant(c.array(matrix, "") * np.float32(alpha), f"{matrix.name}.scaled")
    if bias.rank == 1 and bias.name in c.constants and beta == 1 and bias.shape == matrix.shape[:1]:
        return c.emit("linear", x, matrix, bias)
    scaled = bias if beta == 1 else c.emit("mul", bias, c.constant(float(beta)))
    return c.emit("add", c.emit("linear", x, matrix), scaled)
