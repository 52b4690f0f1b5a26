"""Special functions, said in functions of one value that lowbit has: some 1e-6 from the exact value, or of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..builder import Ref
from ..lowering import Lowering
from ..registry import lowers
from .arithmetic import times, unary

SHIFT = 7
"""Series for large arguments are summed from 8 on; smaller ones are moved up by so many steps."""


def _plus(c: Lowering, x: Ref, number: float) -> Ref:
    return c.emit("add", x, c.constant(number))


def _below(c: Lowering, x: Ref, limit: float) -> Ref:
    return c.emit("compare", x, c.constant(limit), kind="lt")


def _polynomial(c: Lowering, x: Ref, coefficients: Sequence[float]) -> Ref:
    """By Horner's rule, the highest power first."""
    y = c.constant(coefficients[0])
    for coefficient in coefficients[1:]:
        y = _plus(c, c.emit("mul", y, x), coefficient)
    return y


_CENTER = (
    2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503, -0.00417768164,
    0.246640727, 1.50140941,
)  # fmt: skip
_TAIL = (
    -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613, 0.00943887047,
    1.00167406, 2.83297682,
)  # fmt: skip


@lowers("erfinv", "special_erfinv")
def erfinv(c: Lowering, x: Ref) -> Ref:
    """M. Giles, Approximating the erfinv function (2010), single precision: polynomials in w = -log(1 - x^2)."""
    x, one = c.operand(x, "f32"), c.constant(1.0)
    inside = c.emit("mul", c.emit("sub", one, x), c.emit("add", one, x))
    w = unary(c, unary(c, inside, "log"), "neg")
    near = _polynomial(c, _plus(c, w, -2.5), _CENTER)
    far = _polynomial(c, _plus(c, unary(c, w, "sqrt"), -3.0), _TAIL)
    y = c.emit("mul", c.emit("where", _below(c, w, 5.0), near, far), x)
    end = c.emit("compare", unary(c, x, "abs"), one, kind="eq")
    return c.emit("where", end, times(c, x, math.inf), y)


def _reflected(c: Lowering, x: Ref) -> tuple[Ref, Ref]:
    """Whether x is below 1/2, and x or 1 - x, whichever is not."""
    low = _below(c, x, 0.5)
    return low, c.emit("where", low, c.emit("sub", c.constant(1.0), x), x)


def _moved(c: Lowering, y: Ref) -> tuple[Ref, Ref, list[Ref]]:
    """Whether y is below 8, y or y + 7, whichever is not, and the steps y, y + 1, ... between."""
    small = _below(c, y, 8.0)
    bounded = c.emit("clip", y, max=8.0)
    steps = [bounded if place == 0 else _plus(c, bounded, float(place)) for place in range(SHIFT)]
    return small, c.emit("where", small, _plus(c, y, float(SHIFT)), y), steps


def _half_turns(c: Lowering, x: Ref) -> Ref:
    """pi times what x is from the nearest whole number."""
    return times(c, c.emit("sub", x, unary(c, x, "round")), math.pi)


@lowers("lgamma", "special_gammaln")
def lgamma(c: Lowering, x: Ref) -> Ref:
    """Stirling's series; log(pi / |sin(pi x)|) - lgamma(1 - x) below 1/2."""
    x = c.operand(x, "f32")
    low, y = _reflected(c, x)
    small, z, steps = _moved(c, y)
    inverse = c.emit("div", c.constant(1.0), z)
    square = c.emit("mul", inverse, inverse)
    series = c.emit("mul", _polynomial(c, square, (1 / 1260, -1 / 360, 1 / 12)), inverse)
    main = c.emit("sub", c.emit("mul", _plus(c, z, -0.5), unary(c, z, "log")), z)
    total = c.emit("add", _plus(c, main, 0.5 * math.log(2 * math.pi)), series)
    product = steps[0]
    for step in steps[1:]:
        product = c.emit("mul", product, step)
    total = c.emit("where", small, c.emit("sub", total, unary(c, product, "log")), total)
    sine = unary(c, unary(c, _half_turns(c, x), "sin"), "abs")
    turned = c.emit("sub", _plus(c, unary(c, unary(c, sine, "log"), "neg"), math.log(math.pi)), total)
    found = c.emit("where", low, turned, total)
    endless = c.emit("compare", unary(c, x, "abs"), c.constant(math.inf), kind="eq")
    whole = c.emit("compare", x, unary(c, x, "floor"), kind="eq")
    pole = c.emit("logical", whole, c.emit("compare", x, c.constant(0.0), kind="le"), kind="and")
    return c.emit("where", c.emit("logical", endless, pole, kind="or"), c.constant(math.inf), found)


@lowers("digamma", "special_digamma", "special_psi")
def digamma(c: Lowering, x: Ref) -> Ref:
    """log(z) - 1 / 2z - 1 / 12z^2 + ...; digamma(1 - x) - pi / tan(pi x) below 1/2."""
    x = c.operand(x, "f32")
    low, y = _reflected(c, x)
    small, z, steps = _moved(c, y)
    inverse = c.emit("div", c.constant(1.0), z)
    square = c.emit("mul", inverse, inverse)
    series = c.emit("mul", _polynomial(c, square, (-1 / 252, 1 / 120, -1 / 12)), square)
    total = c.emit("add", c.emit("sub", unary(c, z, "log"), times(c, inverse, 0.5)), series)
    back = c.emit("div", c.constant(1.0), steps[0])
    for step in steps[1:]:
        back = c.emit("add", back, c.emit("div", c.constant(1.0), step))
    total = c.emit("where", small, c.emit("sub", total, back), total)
    angle = _half_turns(c, x)
    cotangent = c.emit("div", unary(c, angle, "cos"), unary(c, angle, "sin"))
    found = c.emit("where", low, c.emit("sub", total, times(c, cotangent, math.pi)), total)
    whole = c.emit("compare", x, unary(c, x, "floor"), kind="eq")
    pole = c.emit("logical", whole, _below(c, x, 0.0), kind="and")
    undefined = c.emit("where", pole, c.constant(math.nan), found)
    zero = c.emit("compare", x, c.constant(0.0), kind="eq")
    return c.emit("where", zero, unary(c, c.emit("div", c.constant(1.0), x), "neg"), undefined)
