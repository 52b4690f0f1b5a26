"""Arithmetic of elements."""

from __future__ import annotations

from ..lower import Lowering, Ref, Unlowerable, lowers
from .common import Number


def _binary(c: Lowering, op: str, a: Ref | Number, b: Ref | Number) -> Ref:
    dtype = c.out_dtype()
    if dtype != "f32":
        raise Unlowerable(f"arithmetic on {dtype} tensors that depend on the inputs")
    return c.emit(op, c.operand(a, dtype), c.operand(b, dtype))


def _scaled(c: Lowering, x: Ref | Number, alpha: Number) -> Ref | Number:
    if alpha == 1:
        return x
    return _binary(c, "mul", x, alpha) if isinstance(x, Ref) else x * alpha


@lowers("add")
def add(c: Lowering, a: Ref, b: Ref | Number, alpha: Number) -> Ref:
    return _binary(c, "add", a, _scaled(c, b, alpha))


@lowers("sub")
def sub(c: Lowering, a: Ref, b: Ref | Number, alpha: Number) -> Ref:
    return _binary(c, "sub", a, _scaled(c, b, alpha))


@lowers("rsub")
def rsub(c: Lowering, a: Ref, b: Ref | Number, alpha: Number) -> Ref:
    return _binary(c, "sub", b, _scaled(c, a, alpha))


@lowers("mul")
def mul(c: Lowering, a: Ref, b: Ref | Number) -> Ref:
    return _binary(c, "mul", a, b)


@lowers("div.Tensor", "div.Scalar", "true_divide")
def div(c: Lowering, a: Ref, b: Ref | Number) -> Ref:
    return _binary(c, "div", a, b)


@lowers("reciprocal")
def reciprocal(c: Lowering, x: Ref) -> Ref:
    return c.emit("div", c.constant(1.0), c.operand(x, "f32"))


@lowers("square")
def square(c: Lowering, x: Ref) -> Ref:
    return c.emit("mul", x, x)


@lowers("pow.Tensor_Scalar")
def power(c: Lowering, x: Ref, exponent: Number) -> Ref:
    if isinstance(exponent, str) or exponent not in (-1, -0.5, 0.5, 1, 2, 3):
        raise Unlowerable(f"the power {exponent}; -1, -0.5, 0.5, 1, 2 and 3 are supported")
    x = c.operand(x, "f32")
    if abs(exponent) == 0.5:
        return c.emit("unary", x, kind="sqrt" if exponent > 0 else "rsqrt")
    if exponent == -1:
        return reciprocal(c, x)
    y = x
    for _ in range(int(exponent) - 1):
        y = c.emit("mul", y, x)
    return y
