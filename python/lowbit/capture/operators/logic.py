"""Comparisons, logic, and choice between elements."""

from __future__ import annotations

import math

from ...graph.ir import Dim
from ..builder import Ref
from ..lowering import Lowering
from ..registry import lowers
from .arithmetic import is_nan
from .common import filled, promoted

Operand = Ref | Dim | float


def _compare(c: Lowering, kind: str, a: Operand, b: Operand) -> Ref:
    dtype = promoted(a, b)
    return c.emit("compare", c.operand(a, dtype), c.operand(b, dtype), kind=kind)


def _register(kind: str, *names: str) -> None:
    lowers(*names)(lambda c, a, b: _compare(c, kind, a, b))


_register("eq", "eq")
_register("ne", "ne", "not_equal")
_register("lt", "lt", "less")
_register("le", "le", "less_equal")
_register("gt", "gt", "greater")
_register("ge", "ge", "greater_equal")


@lowers("isnan")
def isnan(c: Lowering, x: Ref) -> Ref:
    return is_nan(c, x)


def _magnitude(c: Lowering, x: Ref, kind: str) -> Ref:
    return c.emit("compare", c.emit("unary", c.operand(x, "f32"), kind="abs"), c.constant(math.inf), kind=kind)


@lowers("isinf")
def isinf(c: Lowering, x: Ref) -> Ref:
    return _magnitude(c, x, "eq")


@lowers("isfinite")
def isfinite(c: Lowering, x: Ref) -> Ref:
    return _magnitude(c, x, "lt")


lowers("isposinf")(lambda c, x: c.emit("compare", c.operand(x, "f32"), c.constant(math.inf), kind="eq"))
lowers("isneginf")(lambda c, x: c.emit("compare", c.operand(x, "f32"), c.constant(-math.inf), kind="eq"))


@lowers("isreal")
def isreal(c: Lowering, x: Ref) -> Ref:
    return c.emit("compare", x, x, kind="eq") if x.dtype != "f32" else filled(c, x.shape, True, "bool")


@lowers("isclose")
def isclose(c: Lowering, a: Ref, b: Ref, rtol: float, atol: float, equal_nan: bool) -> Ref:
    """a = b, or |a - b| <= atol + rtol |b| with a finite left side."""
    a, b = c.operand(a, "f32"), c.operand(b, "f32")
    apart = c.emit("unary", c.emit("sub", a, b), kind="abs")
    room = c.emit("mul", c.emit("unary", b, kind="abs"), c.constant(float(rtol)))
    near = c.emit("compare", apart, c.emit("add", room, c.constant(float(atol))), kind="le")
    near = c.emit("logical", near, _magnitude(c, apart, "lt"), kind="and")
    y = c.emit("logical", c.emit("compare", a, b, kind="eq"), near, kind="or")
    if not equal_nan:
        return y
    return c.emit("logical", y, c.emit("logical", is_nan(c, a), is_nan(c, b), kind="and"), kind="or")


def _register_logic(kind: str, *names: str) -> None:
    def lowering(c: Lowering, a: Operand, b: Operand) -> Ref:
        dtype = "bool" if "logical" in str(c.node.target) else c.out_dtype()
        return c.emit("logical", c.operand(a, dtype), c.operand(b, dtype), kind=kind)

    lowers(*names)(lowering)


for _kind in ("and", "or", "xor"):
    _register_logic(_kind, f"logical_{_kind}", f"bitwise_{_kind}", f"__{_kind}__")


@lowers("logical_not", "bitwise_not")
def logical_not(c: Lowering, x: Ref) -> Ref:
    if "bitwise" in str(c.node.target) and x.dtype != "bool":
        return c.emit("logical", x, c.operand(-1 if x.dtype != "u8" else 255, x.dtype), kind="xor")
    return c.emit("logical_not", c.cast(x, "bool"))


@lowers("where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar")
def where(c: Lowering, condition: Ref, a: Operand, b: Operand) -> Ref:
    dtype = c.out_dtype()
    return c.emit("where", c.cast(condition, "bool"), c.operand(a, dtype), c.operand(b, dtype))


@lowers("masked_fill")
def masked_fill(c: Lowering, x: Ref, mask: Ref, value: Operand) -> Ref:
    return c.emit("where", c.cast(mask, "bool"), c.operand(value, x.dtype), x)
