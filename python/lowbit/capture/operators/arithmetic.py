"""Arithmetic between elements, of floats and integers, and the functions of one value that it composes."""

from __future__ import annotations

import math

import numpy as np

from ...ir import Dim
from ..lower import Lowering, Ref, Unlowerable, lowers
from .common import Number, binary

Operand = Ref | Dim | float


def _scaled(c: Lowering, x: Operand, alpha: Operand) -> Operand:
    if alpha == 1:
        return x
    return binary(c, "mul", x, alpha) if isinstance(x, Ref | str) or isinstance(alpha, Ref | str) else x * alpha


@lowers("add")
def add(c: Lowering, a: Operand, b: Operand, alpha: Operand) -> Ref:
    return binary(c, "add", a, _scaled(c, b, alpha))


@lowers("sub")
def sub(c: Lowering, a: Operand, b: Operand, alpha: Operand) -> Ref:
    return binary(c, "sub", a, _scaled(c, b, alpha))


@lowers("rsub")
def rsub(c: Lowering, a: Operand, b: Operand, alpha: Operand) -> Ref:
    return binary(c, "sub", b, _scaled(c, a, alpha))


@lowers("mul")
def mul(c: Lowering, a: Operand, b: Operand) -> Ref:
    return binary(c, "mul", a, b)


@lowers("div", "true_divide", "divide")
def div(c: Lowering, a: Operand, b: Operand) -> Ref:
    mode = c.argument("rounding_mode", None) if "mode" in str(c.node.target) else None
    if mode is None:
        return binary(c, "div", a, b)
    return binary(c, "floor_div" if mode == "floor" else "trunc_div", a, b)


@lowers("floor_divide")
def floor_divide(c: Lowering, a: Operand, b: Operand) -> Ref:
    return binary(c, "floor_div", a, b)


def _register(op: str, *names: str) -> None:
    lowers(*names)(lambda c, a, b: binary(c, op, a, b))


_register("remainder", "remainder")
_register("fmod", "fmod")
_register("maximum", "maximum", "max.other")
_register("minimum", "minimum", "min.other")


def _ignoring_nan(c: Lowering, op: str, a: Ref, b: Ref) -> Ref:
    both = binary(c, op, a, b)
    if both.dtype != "f32":
        return both
    a, b = c.operand(a, "f32"), c.operand(b, "f32")
    first = c.emit("where", is_nan(c, b), a, both)
    return c.emit("where", is_nan(c, a), b, first)


@lowers("fmax")
def fmax(c: Lowering, a: Ref, b: Ref) -> Ref:
    return _ignoring_nan(c, "maximum", a, b)


@lowers("fmin")
def fmin(c: Lowering, a: Ref, b: Ref) -> Ref:
    return _ignoring_nan(c, "minimum", a, b)


def is_nan(c: Lowering, x: Ref) -> Ref:
    """NaN alone differs from itself."""
    return c.emit("compare", x, x, kind="ne")


@lowers("reciprocal")
def reciprocal(c: Lowering, x: Ref) -> Ref:
    return c.emit("div", c.constant(1.0), c.operand(x, "f32"))


@lowers("square")
def square(c: Lowering, x: Ref) -> Ref:
    return binary(c, "mul", x, x)


@lowers("pow.Tensor_Scalar", "float_power.Tensor_Scalar")
def power(c: Lowering, x: Ref, exponent: Operand) -> Ref:
    """Small powers as products, others by `pow`."""
    if isinstance(exponent, Ref | str) or exponent not in (-1, -0.5, 0.5, 1, 2, 3) or c.out_dtype() != "f32":
        return binary(c, "pow", x, exponent)
    x = c.operand(x, "f32")
    if abs(exponent) == 0.5:
        return c.emit("unary", x, kind="sqrt" if exponent > 0 else "rsqrt")
    if exponent == -1:
        return reciprocal(c, x)
    y = x
    for _ in range(int(exponent) - 1):
        y = c.emit("mul", y, x)
    return y


@lowers("pow", "float_power")
def power_of(c: Lowering, base: Operand, exponent: Operand) -> Ref:
    return binary(c, "pow", base, exponent)


@lowers("neg")
def neg(c: Lowering, x: Ref) -> Ref:
    if x.dtype != "f32":
        return binary(c, "sub", 0, x)
    return c.emit("unary", x, kind="neg")


@lowers("abs")
def absolute(c: Lowering, x: Ref) -> Ref:
    if x.dtype == "f32":
        return c.emit("unary", x, kind="abs")
    return binary(c, "maximum", x, neg(c, x)) if x.dtype in ("i64", "i32", "s8") else x


@lowers("sign", "sgn")
def sign(c: Lowering, x: Ref) -> Ref:
    if x.dtype == "f32":
        return c.emit("unary", x, kind="sign")
    zero = c.operand(0, x.dtype)
    above, below = (c.cast(c.emit("compare", x, zero, kind=kind), "i64") for kind in ("gt", "lt"))
    return c.cast(c.emit("sub", above, below), x.dtype)


def _register_rounding(kind: str, name: str) -> None:
    lowers(name)(lambda c, x: c.emit("unary", x, kind=kind) if x.dtype == "f32" else x)


for _kind, _name in {"floor": "floor", "ceil": "ceil", "trunc": "trunc", "round": "round.default"}.items():
    _register_rounding(_kind, _name)
lowers("fix")(lambda c, x: c.emit("unary", x, kind="trunc") if x.dtype == "f32" else x)


@lowers("round.decimals")
def round_decimals(c: Lowering, x: Ref) -> Ref:
    scale = c.constant(10.0 ** int(c.argument("decimals", 0)))
    return c.emit("div", c.emit("unary", c.emit("mul", c.operand(x, "f32"), scale), kind="round"), scale)


@lowers("frac")
def frac(c: Lowering, x: Ref) -> Ref:
    return c.emit("sub", x, c.emit("unary", x, kind="trunc"))


def _register_unary(kind: str) -> None:
    lowers(kind)(lambda c, x: c.emit("unary", c.operand(x, "f32"), kind=kind))


for _kind in ("erf", "exp2", "expm1", "log2", "log1p", "sin", "cos"):
    _register_unary(_kind)
lowers("special_erf")(lambda c, x: c.emit("unary", c.operand(x, "f32"), kind="erf"))
lowers("special_expm1")(lambda c, x: c.emit("unary", c.operand(x, "f32"), kind="expm1"))
lowers("special_log1p")(lambda c, x: c.emit("unary", c.operand(x, "f32"), kind="log1p"))


def _unary(c: Lowering, x: Ref, kind: str) -> Ref:
    return c.emit("unary", c.operand(x, "f32"), kind=kind)


@lowers("log10")
def log10(c: Lowering, x: Ref) -> Ref:
    return c.emit("mul", _unary(c, x, "log2"), c.constant(math.log10(2)))


@lowers("tan")
def tan(c: Lowering, x: Ref) -> Ref:
    return c.emit("div", _unary(c, x, "sin"), _unary(c, x, "cos"))


@lowers("sinh")
def sinh(c: Lowering, x: Ref) -> Ref:
    """((e^x - 1) - (e^-x - 1)) / 2: right near zero, and infinite only where it should be."""
    up, down = _unary(c, x, "expm1"), c.emit("unary", _unary(c, x, "neg"), kind="expm1")
    return c.emit("mul", c.emit("sub", up, down), c.constant(0.5))


@lowers("cosh")
def cosh(c: Lowering, x: Ref) -> Ref:
    e = _unary(c, x, "exp")
    return c.emit("mul", c.emit("add", e, reciprocal(c, e)), c.constant(0.5))


def _sign_bit(c: Lowering, x: Ref) -> Ref:
    """Whether x is negative, -0 included."""
    zero = c.constant(0.0)
    below = (c.emit("compare", item, zero, kind="lt") for item in (x, reciprocal(c, x)))
    return c.emit("logical", *below, kind="or")


def _with_sign(c: Lowering, magnitude: Ref, sign: Ref) -> Ref:
    return c.emit("where", _sign_bit(c, sign), _unary(c, magnitude, "neg"), magnitude)


def arc_tangent(c: Lowering, y: Operand, x: Operand) -> Ref:
    """The angle of (x, y), by the octant: atan of the smaller over the larger side, reflected."""
    y, x = c.operand(y, "f32"), c.operand(x, "f32")
    high, wide = _unary(c, y, "abs"), _unary(c, x, "abs")
    larger, smaller = c.emit("maximum", high, wide), c.emit("minimum", high, wide)
    ratio = c.emit("div", smaller, larger)
    alike = c.emit("compare", high, wide, kind="eq")  # two zeros, or two infinities
    same = c.emit("where", c.emit("compare", wide, c.constant(0.0), kind="eq"), c.constant(0.0), c.constant(1.0))
    angle = _unary(c, c.emit("where", alike, same, ratio), "atan")
    steep = c.emit("compare", high, wide, kind="gt")
    angle = c.emit("where", steep, c.emit("sub", c.constant(math.pi / 2), angle), angle)
    angle = c.emit("where", _sign_bit(c, x), c.emit("sub", c.constant(math.pi), angle), angle)
    return _with_sign(c, angle, y)


@lowers("logit", "special_logit")
def logit(c: Lowering, x: Ref, eps: Number | None) -> Ref:
    if eps is not None:
        x = c.emit("clip", x, min=float(eps), max=1 - float(eps))
    one = c.constant(1.0)
    return _unary(c, c.emit("div", x, c.emit("sub", one, x)), "log")


@lowers("nan_to_num")
def nan_to_num(c: Lowering, x: Ref, nan: Number | None, posinf: Number | None, neginf: Number | None) -> Ref:
    """The bounds cut off nothing but the infinities, if they are float32's own."""
    if x.dtype != "f32":
        return x
    if posinf is not None or neginf is not None:
        raise Unlowerable("nan_to_num with values for the infinities")
    largest = float(np.finfo(np.float32).max)
    return c.emit("clip", c.emit("where", is_nan(c, x), c.constant(float(nan or 0)), x), min=-largest, max=largest)


@lowers("lerp")
def lerp(c: Lowering, start: Ref, end: Ref, weight: Operand) -> Ref:
    return c.emit("add", start, c.emit("mul", c.emit("sub", end, start), c.operand(weight, "f32")))


@lowers("addcmul")
def addcmul(c: Lowering, x: Ref, a: Ref, b: Ref) -> Ref:
    product = binary(c, "mul", a, b)
    return binary(c, "add", x, _scaled(c, product, c.argument("value", 1)))


@lowers("addcdiv")
def addcdiv(c: Lowering, x: Ref, a: Ref, b: Ref) -> Ref:
    return binary(c, "add", x, _scaled(c, binary(c, "div", a, b), c.argument("value", 1)))


@lowers("logaddexp")
def logaddexp(c: Lowering, a: Ref, b: Ref) -> Ref:
    """max + log(1 + e^-|a - b|)"""
    distance = _unary(c, c.emit("sub", a, b), "abs")
    tail = _unary(c, _unary(c, _unary(c, distance, "neg"), "exp"), "log1p")
    return c.emit("add", c.emit("maximum", a, b), tail)


@lowers("outer", "ger")
def outer(c: Lowering, a: Ref, b: Ref) -> Ref:
    return binary(c, "mul", c.reshape(a, (*a.shape, 1)), c.reshape(b, (1, *b.shape)))


@lowers("hypot")
def hypot(c: Lowering, a: Ref, b: Ref) -> Ref:
    return _unary(c, c.emit("add", c.emit("mul", a, a), c.emit("mul", b, b)), "sqrt")
