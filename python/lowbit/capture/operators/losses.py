"""Losses as outputs: what they are of each element, then their mean, their sum, or all of them."""

from __future__ import annotations

from ...graph import dims
from ..builder import Ref, Unlowerable
from ..lowering import Lowering
from ..registry import lowers
from .arithmetic import unary, xlogy
from .common import binary
from .similarity import pairwise_distance

NONE, MEAN, SUM = 0, 1, 2


def _reduced(c: Lowering, y: Ref, reduction: int) -> Ref:
    if reduction == NONE or y.rank == 0:
        return y
    axes = tuple(range(y.rank))
    return c.emit("mean", y, axes=axes) if reduction == MEAN else c.emit("reduce", y, kind="sum", axes=axes)


def _apart(c: Lowering, x: Ref, target: Ref) -> Ref:
    return binary(c, "sub", x, target, "f32")


def _square(c: Lowering, x: Ref) -> Ref:
    return c.emit("mul", x, x)


def _positive(c: Lowering, x: Ref) -> Ref:
    return c.emit("clip", x, min=0.0)


@lowers("mse_loss")
def mse_loss(c: Lowering, x: Ref, target: Ref, reduction: int) -> Ref:
    return _reduced(c, _square(c, _apart(c, x, target)), reduction)


@lowers("l1_loss")
def l1_loss(c: Lowering, x: Ref, target: Ref, reduction: int) -> Ref:
    return _reduced(c, unary(c, _apart(c, x, target), "abs"), reduction)


def _bent(c: Lowering, x: Ref, target: Ref, width: float, scale: float) -> Ref:
    """scale d^2 / 2 below `width`, scale * width (d - width / 2) above; d = |x - target|"""
    distance = unary(c, _apart(c, x, target), "abs")
    bowl = c.emit("mul", _square(c, distance), c.constant(0.5 * scale))
    line = c.emit("mul", c.emit("sub", distance, c.constant(0.5 * width)), c.constant(scale * width))
    return c.emit("where", c.emit("compare", distance, c.constant(width), kind="lt"), bowl, line)


@lowers("smooth_l1_loss")
def smooth_l1_loss(c: Lowering, x: Ref, target: Ref, reduction: int, beta: float) -> Ref:
    if beta == 0:
        return l1_loss(c, x, target, reduction)
    return _reduced(c, _bent(c, x, target, float(beta), 1 / float(beta)), reduction)


@lowers("huber_loss")
def huber_loss(c: Lowering, x: Ref, target: Ref, reduction: int, delta: float) -> Ref:
    return _reduced(c, _bent(c, x, target, float(delta), 1.0), reduction)


def _weighted(c: Lowering, y: Ref, weight: Ref | None) -> Ref:
    return y if weight is None else binary(c, "mul", y, weight, "f32")


@lowers("binary_cross_entropy")
def binary_cross_entropy(c: Lowering, x: Ref, target: Ref, weight: Ref | None, reduction: int) -> Ref:
    """Logarithms are at least -100, as in torch."""
    rest = c.emit("sub", c.constant(1.0), x)
    yes, no = (c.emit("clip", unary(c, item, "log"), min=-100.0) for item in (x, rest))
    kept = c.emit("mul", c.emit("sub", target, c.constant(1.0)), no)
    return _reduced(c, _weighted(c, c.emit("sub", kept, c.emit("mul", target, yes)), weight), reduction)


@lowers("binary_cross_entropy_with_logits")
def binary_cross_entropy_with_logits(
    c: Lowering, x: Ref, target: Ref, weight: Ref | None, positive: Ref | None, reduction: int
) -> Ref:
    """(1 - t) x + (1 + (p - 1) t) softplus(-x)"""
    x, target = c.operand(x, "f32"), c.operand(target, "f32")
    one = c.constant(1.0)
    tail = c.emit("unary", unary(c, x, "neg"), kind="softplus", alpha=1.0)
    if positive is not None:
        share = c.emit("mul", c.emit("sub", positive, one), target)
        tail = c.emit("mul", c.emit("add", share, one), tail)
    y = c.emit("add", c.emit("mul", c.emit("sub", one, target), x), tail)
    return _reduced(c, _weighted(c, y, weight), reduction)


@lowers("soft_margin_loss")
def soft_margin_loss(c: Lowering, x: Ref, target: Ref, reduction: int) -> Ref:
    turned = unary(c, binary(c, "mul", x, target, "f32"), "neg")
    return _reduced(c, c.emit("unary", turned, kind="softplus", alpha=1.0), reduction)


@lowers("kl_div")
def kl_div(c: Lowering, x: Ref, target: Ref, reduction: int) -> Ref:
    """t (log(t) - x), 0 where t is; "batchmean" comes as a sum that torch divides."""
    if c.argument("log_target", False):
        y = c.emit("mul", unary(c, target, "exp"), c.emit("sub", target, x))
    else:
        y = c.emit("sub", xlogy(c, target, target), c.emit("mul", target, x))
    return _reduced(c, y, reduction)


@lowers("poisson_nll_loss")
def poisson_nll_loss(c: Lowering, x: Ref, target: Ref, log_input: bool, full: bool, eps: float, reduction: int) -> Ref:
    if full:
        raise Unlowerable("poisson_nll_loss with full=True", "leave out the term of the target alone")
    if log_input:
        y = c.emit("sub", unary(c, x, "exp"), c.emit("mul", target, x))
    else:
        logarithm = unary(c, c.emit("add", x, c.constant(float(eps))), "log")
        y = c.emit("sub", x, c.emit("mul", target, logarithm))
    return _reduced(c, y, reduction)


# -------------------------------------------------------------------------------------------------------------- classes


def _negative_likelihood(
    c: Lowering, logs: Ref, target: Ref, weight: Ref | None, reduction: int, ignored: int, smoothing: float = 0.0
) -> Ref:
    """-logs[target] times the class's weight, of [N, C, ...] or [C]; the mean is over the weights."""
    axis = 1 if logs.rank > 1 else 0
    counted = c.emit("compare", target, c.operand(ignored, target.dtype), kind="ne")
    place = c.emit("where", counted, target, c.operand(0, target.dtype))
    spread = c.reshape(place, (*place.shape[:axis], 1, *place.shape[axis:]))
    picked = unary(c, c.reshape(c.emit("gather", logs, spread, axis=axis), place.shape), "neg")
    flags = c.cast(counted, "f32")
    share = flags if weight is None else c.emit("mul", c.emit("take", weight, place, axis=0), flags)
    y = c.emit("where", counted, c.emit("mul", picked, share), c.constant(0.0))
    if smoothing:
        classes = logs.shape[axis]
        scaled = logs if weight is None else c.emit("mul", logs, _along(c, weight, logs.rank - 1 - axis))
        even = unary(c, c.emit("reduce", scaled, kind="sum", axes=(axis,)), "neg")
        even = c.emit("where", counted, even, c.constant(0.0))
        even = c.emit("div", even, c.operand(classes, "f32"))
        y = _mixed(c, y, even, smoothing)
    if reduction == MEAN:
        return c.emit("div", _reduced(c, y, SUM), _reduced(c, share, SUM))
    return _reduced(c, y, reduction)


def _mixed(c: Lowering, y: Ref, even: Ref, smoothing: float) -> Ref:
    kept = c.emit("mul", y, c.constant(1 - smoothing))
    return c.emit("add", kept, c.emit("mul", even, c.constant(smoothing)))


def _along(c: Lowering, weight: Ref, after: int) -> Ref:
    """Weights of classes with axes after theirs."""
    return c.reshape(weight, (*weight.shape, *(1,) * after))


@lowers("nll_loss", "nll_loss_nd", "nll_loss2d")
def nll_loss(c: Lowering, x: Ref, target: Ref, weight: Ref | None, reduction: int, ignored: int) -> Ref:
    return _negative_likelihood(c, x, target, weight, reduction, ignored)


@lowers("cross_entropy_loss")
def cross_entropy(
    c: Lowering, x: Ref, target: Ref, weight: Ref | None, reduction: int, ignored: int, smoothing: float
) -> Ref:
    """Of log_softmax over the classes; the target says the class, or each one's probability."""
    axis = 1 if x.rank > 1 else 0
    x = c.operand(x, "f32")
    top = c.emit("reduce", x, kind="max", axes=(axis,), keepdim=1)
    down = c.emit("sub", x, top)
    total = c.emit("reduce", unary(c, down, "exp"), kind="sum", axes=(axis,), keepdim=1)
    logs = c.emit("sub", down, unary(c, total, "log"))
    if target.dtype != "f32":
        return _negative_likelihood(c, logs, target, weight, reduction, ignored, float(smoothing))
    classes = c.operand(x.shape[axis], "f32")
    if smoothing:
        even = c.emit("div", c.constant(float(smoothing)), classes)
        target = c.emit("add", c.emit("mul", target, c.constant(1 - float(smoothing))), even)
    y = c.emit("mul", logs, target)
    if weight is not None:
        y = c.emit("mul", y, _along(c, weight, x.rank - 1 - axis))
    y = unary(c, c.emit("reduce", y, kind="sum", axes=(axis,)), "neg")
    if reduction != MEAN:
        return _reduced(c, y, reduction)
    count = dims.mul(*(size for place, size in enumerate(x.shape) if place != axis)) if x.rank > 1 else 1
    return c.emit("div", _reduced(c, y, SUM), c.operand(count, "f32"))


# -------------------------------------------------------------------------------------------------------------- margins


@lowers("hinge_embedding_loss")
def hinge_embedding_loss(c: Lowering, x: Ref, target: Ref, margin: float, reduction: int) -> Ref:
    """x where the target is 1, max(0, margin - x) where it is -1; what it is neither of counts for both."""
    far = _positive(c, c.emit("sub", c.constant(float(margin)), x))
    zero, one = c.constant(0.0), c.operand(1, target.dtype)
    minus = c.operand(-1, target.dtype)
    first = c.emit("where", c.emit("compare", target, one, kind="ne"), far, zero)
    second = c.emit("where", c.emit("compare", target, minus, kind="ne"), x, zero)
    return _reduced(c, c.emit("add", first, second), reduction)


@lowers("margin_ranking_loss")
def margin_ranking_loss(c: Lowering, a: Ref, b: Ref, target: Ref, margin: float, reduction: int) -> Ref:
    turned = c.emit("mul", unary(c, c.operand(target, "f32"), "neg"), c.emit("sub", a, b))
    return _reduced(c, _positive(c, c.emit("add", turned, c.constant(float(margin)))), reduction)


@lowers("cosine_embedding_loss")
def cosine_embedding_loss(c: Lowering, a: Ref, b: Ref, target: Ref, margin: float, reduction: int) -> Ref:
    """1 - cos where the target is 1, max(0, cos - margin) where it is -1, else 0; with torch's epsilon in the norms."""
    axis = max(a.rank, b.rank) - 1

    def energy(x: Ref, y: Ref) -> Ref:
        return c.emit("reduce", c.emit("mul", x, y), kind="sum", axes=(axis,))

    eps = c.constant(1e-12)
    sizes = c.emit("mul", *(c.emit("add", energy(x, x), eps) for x in (a, b)))
    cosine = c.emit("div", energy(a, b), unary(c, sizes, "sqrt"))
    zero, one, minus = c.constant(0.0), c.operand(1, target.dtype), c.operand(-1, target.dtype)
    alike = c.emit("sub", c.constant(1.0), cosine)
    other = _positive(c, c.emit("sub", cosine, c.constant(float(margin))))
    y = c.emit("where", c.emit("compare", target, minus, kind="eq"), other, zero)
    return _reduced(c, c.emit("where", c.emit("compare", target, one, kind="eq"), alike, y), reduction)


@lowers("triplet_margin_loss")
def triplet_margin_loss(
    c: Lowering, anchor: Ref, near: Ref, far: Ref, margin: float, p: float, eps: float, swap: bool, reduction: int
) -> Ref:
    """max(0, d(anchor, near) - d(anchor, far) + margin)"""
    close, distant = (pairwise_distance(c, anchor, other, p, eps, False) for other in (near, far))
    if swap:
        distant = c.emit("minimum", distant, pairwise_distance(c, near, far, p, eps, False))
    y = _positive(c, c.emit("add", c.emit("sub", close, distant), c.constant(float(margin))))
    return _reduced(c, y, reduction)
