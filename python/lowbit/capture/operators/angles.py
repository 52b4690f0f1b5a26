"""Functions of angles, circular and hyperbolic, and their inverses."""

from __future__ import annotations

import math

from ..builder import Ref
from ..lowering import Lowering
from ..registry import lowers
from .arithmetic import Operand, reciprocal, sign_bit, times, unary, with_sign


@lowers("tan")
def tan(c: Lowering, x: Ref) -> Ref:
    return c.emit("div", unary(c, x, "sin"), unary(c, x, "cos"))


def _half_exp(c: Lowering, x: Ref) -> Ref:
    """e^(|x| / 2): its square overflows no sooner than the result."""
    return unary(c, c.emit("mul", unary(c, c.operand(x, "f32"), "abs"), c.constant(0.5)), "exp")


@lowers("sinh")
def sinh(c: Lowering, x: Ref) -> Ref:
    """(u + u / (u + 1)) / 2 with u = e^x - 1: right near zero; e^|x| / 2 far from it."""
    x, half = c.operand(x, "f32"), c.constant(0.5)
    u = unary(c, x, "expm1")
    near = c.emit("mul", c.emit("add", u, c.emit("div", u, c.emit("add", u, c.constant(1.0)))), half)
    e = _half_exp(c, x)
    far = with_sign(c, c.emit("mul", c.emit("mul", e, half), e), x)
    return c.emit("where", c.emit("compare", unary(c, x, "abs"), c.constant(10.0), kind="gt"), far, near)


@lowers("cosh")
def cosh(c: Lowering, x: Ref) -> Ref:
    """(e^|x| + e^-|x|) / 2"""
    e, half = _half_exp(c, x), c.constant(0.5)
    back = reciprocal(c, e)
    return c.emit("add", c.emit("mul", c.emit("mul", e, half), e), c.emit("mul", c.emit("mul", back, half), back))


def arc_tangent(c: Lowering, y: Operand, x: Operand) -> Ref:
    """The angle of (x, y), by the octant: atan of the smaller over the larger side, reflected."""
    y, x = c.operand(y, "f32"), c.operand(x, "f32")
    high, wide = unary(c, y, "abs"), unary(c, x, "abs")
    larger, smaller = c.emit("maximum", high, wide), c.emit("minimum", high, wide)
    ratio = c.emit("div", smaller, larger)
    alike = c.emit("compare", high, wide, kind="eq")  # two zeros, or two infinities
    same = c.emit("where", c.emit("compare", wide, c.constant(0.0), kind="eq"), c.constant(0.0), c.constant(1.0))
    angle = unary(c, c.emit("where", alike, same, ratio), "atan")
    steep = c.emit("compare", high, wide, kind="gt")
    angle = c.emit("where", steep, c.emit("sub", c.constant(math.pi / 2), angle), angle)
    angle = c.emit("where", sign_bit(c, x), c.emit("sub", c.constant(math.pi), angle), angle)
    return with_sign(c, angle, y)


lowers("atan2", "arctan2")(lambda c, y, x: arc_tangent(c, y, x))


def _root(c: Lowering, x: Ref) -> Ref:
    """sqrt(1 - x^2), precise near both ends."""
    one = c.constant(1.0)
    product = c.emit("mul", c.emit("sub", one, x), c.emit("add", one, x))
    return unary(c, product, "sqrt")


@lowers("asin", "arcsin")
def asin(c: Lowering, x: Ref) -> Ref:
    x = c.operand(x, "f32")
    return unary(c, c.emit("div", x, _root(c, x)), "atan")


@lowers("acos", "arccos")
def acos(c: Lowering, x: Ref) -> Ref:
    """2 atan(sqrt((1 - x) / (1 + x)))"""
    x, one = c.operand(x, "f32"), c.constant(1.0)
    ratio = c.emit("div", c.emit("sub", one, x), c.emit("add", one, x))
    return c.emit("mul", unary(c, unary(c, ratio, "sqrt"), "atan"), c.constant(2.0))


_FAR = 1e8


@lowers("asinh", "arcsinh")
def asinh(c: Lowering, x: Ref) -> Ref:
    """log(x + sqrt(x^2 + 1)), said for what is near 0; far from it log(2 x)."""
    x = c.operand(x, "f32")
    size, one = unary(c, x, "abs"), c.constant(1.0)
    near = c.emit("minimum", size, c.constant(_FAR))
    square = c.emit("mul", near, near)
    root = unary(c, c.emit("add", square, one), "sqrt")
    low = unary(c, c.emit("add", near, c.emit("div", square, c.emit("add", root, one))), "log1p")
    high = c.emit("add", unary(c, size, "log"), c.constant(math.log(2)))
    y = c.emit("where", c.emit("compare", size, c.constant(_FAR), kind="gt"), high, low)
    return with_sign(c, y, x)


@lowers("acosh", "arccosh")
def acosh(c: Lowering, x: Ref) -> Ref:
    """log(x + sqrt(x^2 - 1)), said for what is near 1."""
    beyond = c.emit("sub", c.operand(x, "f32"), c.constant(1.0))
    root = c.emit("mul", unary(c, beyond, "sqrt"), unary(c, c.emit("add", beyond, c.constant(2.0)), "sqrt"))
    return unary(c, c.emit("add", beyond, root), "log1p")


@lowers("atanh", "arctanh")
def atanh(c: Lowering, x: Ref) -> Ref:
    """(log(1 + x) - log(1 - x)) / 2"""
    x = c.operand(x, "f32")
    logs = (unary(c, item, "log1p") for item in (x, unary(c, x, "neg")))
    return c.emit("mul", c.emit("sub", *logs), c.constant(0.5))


lowers("deg2rad", "radians")(lambda c, x: times(c, x, math.pi / 180))
lowers("rad2deg", "degrees")(lambda c, x: times(c, x, 180 / math.pi))


@lowers("sinc", "special_sinc")
def sinc(c: Lowering, x: Ref) -> Ref:
    """sin(pi x) / (pi x), 1 at 0."""
    turned = times(c, x, math.pi)
    zero = c.emit("compare", turned, c.constant(0.0), kind="eq")
    return c.emit("where", zero, c.constant(1.0), c.emit("div", unary(c, turned, "sin"), turned))
