"""Arithmetic between elements, of floats and integers, and the functions of one value that it composes."""

from __future__ import annotations

import math

import numpy as np

from ...graph.ir import Dim
from ..builder import Ref, Unlowerable
from ..lowering import Lowering
from ..registry import lowers
from .common import Number, binary

Operand = Ref | Dim | float


def _scaled(c: Lowering, x: Operand, alpha: Operand) -> Operand:
    if alpha == 1:
        return x
    return binary(c, "mul", x, alpha) if isinstance(x, Ref | str) or isinstance(alpha, Ref | str) else x * alpha


@lowers("add")
def add(c: Lowering, a: Operand, b: Operand, alpha: Operand) -> Ref:
    return binary(c, "add", a, _scaled(c, b, alpha))


@lowers("sub", "subtract")
def sub(c: Lowering, a: Operand, b: Operand, alpha: Operand) -> Ref:
    return binary(c, "sub", a, _scaled(c, b, alpha))


@lowers("rsub")
def rsub(c: Lowering, a: Operand, b: Operand, alpha: Operand) -> Ref:
    return binary(c, "sub", b, _scaled(c, a, alpha))


@lowers("mul", "multiply")
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


@lowers("neg", "negative")
def neg(c: Lowering, x: Ref) -> Ref:
    if x.dtype != "f32":
        return binary(c, "sub", 0, x)
    return c.emit("unary", x, kind="neg")


@lowers("abs", "absolute", "fabs")
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


@lowers("round.decimals", "special_round")
def round_decimals(c: Lowering, x: Ref) -> Ref:
    scale = c.constant(10.0 ** int(c.argument("decimals", 0)))
    return c.emit("div", c.emit("unary", c.emit("mul", c.operand(x, "f32"), scale), kind="round"), scale)


@lowers("frac")
def frac(c: Lowering, x: Ref) -> Ref:
    return c.emit("sub", x, c.emit("unary", x, kind="trunc"))


def _register_unary(kind: str) -> None:
    lowers(kind, f"special_{kind}", "arctan" if kind == "atan" else kind)(
        lambda c, x: c.emit("unary", c.operand(x, "f32"), kind=kind)
    )


for _kind in ("erf", "erfc", "exp2", "expm1", "log2", "log1p", "sin", "cos", "atan"):
    _register_unary(_kind)


def unary(c: Lowering, x: Ref, kind: str) -> Ref:
    """A function of one value, as float32."""
    return c.emit("unary", c.operand(x, "f32"), kind=kind)


@lowers("log10")
def log10(c: Lowering, x: Ref) -> Ref:
    return c.emit("mul", unary(c, x, "log2"), c.constant(math.log10(2)))


def sign_bit(c: Lowering, x: Ref) -> Ref:
    """Whether x is negative, -0 included."""
    zero = c.constant(0.0)
    below = (c.emit("compare", item, zero, kind="lt") for item in (x, reciprocal(c, x)))
    return c.emit("logical", *below, kind="or")


def with_sign(c: Lowering, magnitude: Ref, sign: Ref) -> Ref:
    """`magnitude`, turned around where `sign` is negative, -0 included."""
    return c.emit("where", sign_bit(c, sign), unary(c, magnitude, "neg"), magnitude)


@lowers("copysign")
def copysign(c: Lowering, x: Ref, sign: Operand) -> Ref:
    return with_sign(c, unary(c, x, "abs"), c.operand(sign, "f32"))


@lowers("signbit")
def signbit(c: Lowering, x: Ref) -> Ref:
    if x.dtype == "f32":
        return sign_bit(c, x)
    return c.emit("compare", x, c.operand(0, x.dtype), kind="lt")


def times(c: Lowering, x: Ref, factor: float) -> Ref:
    """x times a number, as float32."""
    return c.emit("mul", c.operand(x, "f32"), c.constant(factor))


lowers("special_ndtr")(lambda c, x: times(c, unary(c, times(c, x, -math.sqrt(0.5)), "erfc"), 0.5))


def _times_log(c: Lowering, x: Operand, logarithm: Ref, y: Ref) -> Ref:
    """x log(y), 0 where x is, NaN where y is."""
    x = c.operand(x, "f32")
    product = c.emit("mul", x, logarithm)
    zero = c.emit("compare", x, c.constant(0.0), kind="eq")
    return c.emit("where", is_nan(c, y), y, c.emit("where", zero, c.constant(0.0), product))


@lowers("xlogy", "special_xlogy")
def xlogy(c: Lowering, x: Operand, y: Operand) -> Ref:
    y = c.operand(y, "f32")
    return _times_log(c, x, unary(c, y, "log"), y)


@lowers("special_xlog1py")
def xlog1py(c: Lowering, x: Operand, y: Operand) -> Ref:
    y = c.operand(y, "f32")
    return _times_log(c, x, unary(c, y, "log1p"), y)


@lowers("special_entr")
def entr(c: Lowering, x: Ref) -> Ref:
    """-x log(x), -infinity below 0."""
    x = c.operand(x, "f32")
    y = unary(c, xlogy(c, x, x), "neg")
    return c.emit("where", c.emit("compare", x, c.constant(0.0), kind="lt"), c.constant(-math.inf), y)


@lowers("heaviside")
def heaviside(c: Lowering, x: Ref, at_zero: Ref) -> Ref:
    """1 above 0, else 0; at 0 what is given."""
    zero = c.operand(0, x.dtype)
    step = c.cast(c.emit("compare", x, zero, kind="gt"), x.dtype)
    return c.emit("where", c.emit("compare", x, zero, kind="eq"), c.cast(at_zero, x.dtype), step)


@lowers("ldexp")
def ldexp(c: Lowering, x: Ref, exponent: Ref) -> Ref:
    return c.emit("mul", c.operand(x, "f32"), unary(c, exponent, "exp2"))


@lowers("logaddexp2")
def logaddexp2(c: Lowering, a: Ref, b: Ref) -> Ref:
    """max + log2(1 + 2^-|a - b|); of two equal infinities, that one."""
    distance = unary(c, c.emit("sub", a, b), "abs")
    tail = unary(c, c.emit("add", unary(c, unary(c, distance, "neg"), "exp2"), c.constant(1.0)), "log2")
    larger = c.emit("maximum", a, b)
    return c.emit("where", _endless_pair(c, a, b), a, c.emit("add", larger, tail))


def _endless_pair(c: Lowering, a: Ref, b: Ref) -> Ref:
    """Whether both are the same infinity, whose difference is NaN."""
    same = c.emit("compare", a, b, kind="eq")
    endless = c.emit("compare", unary(c, a, "abs"), c.constant(math.inf), kind="eq")
    return c.emit("logical", same, endless, kind="and")


_WIDTHS = {"i64": 64, "i32": 32, "s8": 8, "u8": 8}


def _shift(c: Lowering, x: Operand, count: Operand, left: bool) -> Ref:
    """By a power of two; a count outside of [0, width) leaves 0, or the sign alone."""
    dtype = c.out_dtype()
    if dtype not in _WIDTHS:
        raise Unlowerable(f"a shift of {dtype}")
    wide = dtype if dtype in ("i64", "i32") else "i32"
    x, count, width = c.operand(x, wide), c.operand(count, wide), _WIDTHS[dtype]
    last = width - 1 if left or dtype == "u8" else width - 2  # 2^(width - 1) is negative
    fits = c.emit("logical", *(_bound(c, count, kind, n) for kind, n in (("ge", 0), ("le", last))), kind="and")
    power = c.emit("pow", c.operand(2, wide), c.emit("where", fits, count, c.operand(0, wide)))
    gone = c.operand(0, wide)
    if not left:
        gone = c.emit("where", _bound(c, x, "lt", 0), c.operand(-1, wide), gone)
    return c.cast(c.emit("where", fits, c.emit("mul" if left else "floor_div", x, power), gone), dtype)


def _bound(c: Lowering, x: Ref, kind: str, limit: int) -> Ref:
    return c.emit("compare", x, c.operand(limit, x.dtype), kind=kind)


lowers("bitwise_left_shift", "__lshift__")(lambda c, x, count: _shift(c, x, count, True))
lowers("bitwise_right_shift", "__rshift__")(lambda c, x, count: _shift(c, x, count, False))


@lowers("logit", "special_logit")
def logit(c: Lowering, x: Ref, eps: Number | None) -> Ref:
    if eps is not None:
        x = c.emit("clip", x, min=float(eps), max=1 - float(eps))
    one = c.constant(1.0)
    return unary(c, c.emit("div", x, c.emit("sub", one, x)), "log")


@lowers("nan_to_num")
def nan_to_num(c: Lowering, x: Ref, nan: Number | None, posinf: Number | None, neginf: Number | None) -> Ref:
    """Values for NaN and the infinities; without them 0 and the ends of float32."""
    if x.dtype != "f32":
        return x
    known = c.emit("where", is_nan(c, x), c.constant(float(nan or 0)), x)
    largest = float(np.finfo(np.float32).max)
    if posinf is None and neginf is None:
        return c.emit("clip", known, min=-largest, max=largest)
    for end, value in ((math.inf, posinf), (-math.inf, neginf)):
        fill = c.constant(math.copysign(largest, end) if value is None else float(value))
        known = c.emit("where", c.emit("compare", x, c.constant(end), kind="eq"), fill, known)
    return known


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
    distance = unary(c, c.emit("sub", a, b), "abs")
    tail = unary(c, unary(c, unary(c, distance, "neg"), "exp"), "log1p")
    return c.emit("where", _endless_pair(c, a, b), a, c.emit("add", c.emit("maximum", a, b), tail))


@lowers("outer", "ger")
def outer(c: Lowering, a: Ref, b: Ref) -> Ref:
    return binary(c, "mul", c.reshape(a, (*a.shape, 1)), c.reshape(b, (1, *b.shape)))


@lowers("hypot")
def hypot(c: Lowering, a: Ref, b: Ref) -> Ref:
    """The larger side times sqrt(1 + ratio^2), which does not overflow; of an infinity, that."""
    a, b = (unary(c, c.operand(item, "f32"), "abs") for item in (a, b))
    larger, smaller = c.emit("maximum", a, b), c.emit("minimum", a, b)
    zero = c.emit("compare", larger, c.constant(0.0), kind="eq")
    ratio = c.emit("div", smaller, c.emit("where", zero, c.constant(1.0), larger))
    root = unary(c, c.emit("add", c.emit("mul", ratio, ratio), c.constant(1.0)), "sqrt")
    endless = (c.emit("compare", item, c.constant(math.inf), kind="eq") for item in (a, b))
    return c.emit("where", c.emit("logical", *endless, kind="or"), c.constant(math.inf), c.emit("mul", larger, root))


@lowers("cross", "linalg_cross")
def cross(c: Lowering, a: Ref, b: Ref) -> Ref:
    """a[1] b[2] - a[2] b[1], and so on around."""
    rank, dtype = max(a.rank, b.rank), c.out_dtype()
    axis = c.argument("dim", -1 if "linalg" in str(c.node.target) else None)
    if axis is None:
        axis = next(place for place, size in enumerate(c.out_shape()) if size == 3)
    axis %= rank
    a, b = (c.cast(item, dtype) for item in (a, b))

    def turned(x: Ref, first: int) -> Ref:
        places = c.constant(np.asarray([first, (first + 1) % 3, (first + 2) % 3], np.int64))
        return c.emit("take", x, places, axis=axis - (rank - x.rank))

    left, right = (c.emit("mul", turned(a, i), turned(b, 3 - i)) for i in (1, 2))
    return c.emit("sub", left, right)


@lowers("kron")
def kron(c: Lowering, a: Ref, b: Ref) -> Ref:
    """Every element of a times all of b."""
    rank = max(a.rank, b.rank)
    shapes = [(*(1,) * (rank - x.rank), *x.shape) for x in (a, b)]
    spread = [
        tuple(size for pair in ((n, 1) if first else (1, n) for n in shape) for size in pair)
        for first, shape in zip((True, False), shapes, strict=True)
    ]
    return c.reshape(binary(c, "mul", c.reshape(a, spread[0]), c.reshape(b, spread[1])))
