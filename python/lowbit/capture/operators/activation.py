"""Activation functions."""

from __future__ import annotations

from ...graph import dims
from ..builder import Ref, Unlowerable
from ..lowering import Lowering
from ..registry import lowers
from .common import Number, clip, part

_PLAIN = ("sigmoid", "tanh", "hardsigmoid", "hardswish", "silu", "mish", "exp", "log", "sqrt", "rsqrt")


def _register_plain(kind: str) -> None:
    lowers(kind, *(("special_expit",) if kind == "sigmoid" else ()))(
        lambda c, x: c.emit("unary", c.operand(x, "f32"), kind=kind)
    )


for _kind in _PLAIN:
    _register_plain(_kind)


@lowers("relu")
def relu(c: Lowering, x: Ref) -> Ref:
    return clip(c, x, 0, None)


@lowers("relu6")
def relu6(c: Lowering, x: Ref) -> Ref:
    return clip(c, x, 0, 6)


@lowers("hardtanh", "clamp", "clip")
def clamp(c: Lowering, x: Ref, low: Number | None, high: Number | None) -> Ref:
    return clip(c, x, low, high)


@lowers("clamp_min")
def clamp_min(c: Lowering, x: Ref, low: Number) -> Ref:
    return clip(c, x, low, None)


@lowers("clamp_max")
def clamp_max(c: Lowering, x: Ref, high: Number) -> Ref:
    return clip(c, x, None, high)


@lowers("gelu")
def gelu(c: Lowering, x: Ref, approximate: str) -> Ref:
    return c.emit("unary", x, kind="gelu_tanh" if approximate == "tanh" else "fast_gelu")


@lowers("elu")
def elu(c: Lowering, x: Ref, alpha: Number, scale: Number, input_scale: Number) -> Ref:
    """scale * (x if x > 0 else alpha * (exp(x * input_scale) - 1)); SELU has a scale, CELU an input_scale."""
    if input_scale == 1:
        y = c.emit("unary", x, kind="elu", alpha=float(alpha))
        return y if scale == 1 else c.emit("mul", y, c.constant(float(scale)))
    if alpha * input_scale != 1:
        raise Unlowerable("ELU with this input scale")
    # celu(x, a) = a * elu(x / a, 1)
    y = c.emit("unary", c.emit("mul", x, c.constant(float(input_scale))), kind="elu", alpha=1.0)
    return c.emit("mul", y, c.constant(float(alpha * scale)))


@lowers("selu")
def selu(c: Lowering, x: Ref) -> Ref:
    return elu(c, x, 1.6732632423543772848170429916717, 1.0507009873554804934193349852946, 1)


@lowers("celu")
def celu(c: Lowering, x: Ref, alpha: Number) -> Ref:
    return elu(c, x, alpha, 1, 1 / alpha)


@lowers("leaky_relu")
def leaky_relu(c: Lowering, x: Ref, slope: Number) -> Ref:
    return c.emit("unary", x, kind="leaky_relu", alpha=float(slope))


@lowers("rrelu")
def rrelu(c: Lowering, x: Ref, lower: Number, upper: Number, training: bool) -> Ref:
    if training:
        raise Unlowerable("rrelu in training mode is random")
    return leaky_relu(c, x, (lower + upper) / 2)


@lowers("prelu", "_prelu_kernel")
def prelu(c: Lowering, x: Ref, weight: Ref) -> Ref:
    """x where it is positive, else weight * x."""
    if weight.name not in c.constants:
        spread = weight if weight.rank != 1 or x.rank < 2 else c.reshape(weight, (*weight.shape, *(1,) * (x.rank - 2)))
        positive = c.emit("compare", x, c.constant(0.0), kind="gt")
        return c.emit("where", positive, x, c.emit("mul", x, spread))
    slopes = c.array(weight, "the weight").reshape(-1)
    if slopes.size == 1:
        return leaky_relu(c, x, float(slopes[0]))
    slope = c.constant(slopes.reshape((-1,) + (1,) * (x.rank - 2)), f"{weight.name}.slope")
    return c.emit("prelu", x, slope)


@lowers("softplus")
def softplus(c: Lowering, x: Ref, beta: Number, threshold: Number) -> Ref:
    """Above `threshold` torch returns x; the difference is below float32's precision, unless it is set low."""
    y = c.emit("unary", x, kind="softplus", alpha=float(beta))
    return y if threshold >= 15 else _where_above(c, x, threshold / float(beta), x, y)


@lowers("log_sigmoid")
def log_sigmoid(c: Lowering, x: Ref) -> Ref:
    """-softplus(-x)"""
    y = c.emit("unary", c.emit("unary", x, kind="neg"), kind="softplus", alpha=1.0)
    return c.emit("unary", y, kind="neg")


@lowers("softsign")
def softsign(c: Lowering, x: Ref) -> Ref:
    return c.emit("div", x, c.emit("add", c.emit("unary", x, kind="abs"), c.constant(1.0)))


@lowers("tanhshrink")
def tanhshrink(c: Lowering, x: Ref) -> Ref:
    return c.emit("sub", x, c.emit("unary", x, kind="tanh"))


@lowers("softshrink")
def softshrink(c: Lowering, x: Ref, width: Number) -> Ref:
    return c.emit("sub", x, clip(c, x, -width, width))


@lowers("hardshrink")
def hardshrink(c: Lowering, x: Ref, width: Number) -> Ref:
    return _where_above(c, c.emit("unary", x, kind="abs"), width, x, c.constant(0.0))


@lowers("threshold")
def threshold(c: Lowering, x: Ref, limit: Number, value: Number) -> Ref:
    return _where_above(c, x, limit, x, c.constant(float(value)))


def _where_above(c: Lowering, x: Ref, limit: float, above: Ref, else_: Ref) -> Ref:
    """`above` also where x is NaN."""
    return c.emit("where", c.emit("compare", x, c.constant(float(limit)), kind="le"), else_, above)


@lowers("glu")
def glu(c: Lowering, x: Ref, axis: int) -> Ref:
    """The first half times the sigmoid of the second."""
    axis = c.axis(x, axis)
    half = c.out_shape()[axis]
    c.require("zero", dims.sub(x.shape[axis], dims.mul(2, half)), "half of an odd size")
    gate = c.emit("unary", part(c, x, axis, half, half), kind="sigmoid")
    return c.emit("mul", part(c, x, axis, 0, half), gate)
