"""Complex numbers: a tensor of them is a pair of real ones, and each operation is said in these.

What moves elements or sums them does so in both parts alike (`_ALIKE`); what multiplies is a sum over the choices of
parts (`_products`); functions go by magnitude and angle.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from ...graph.ir import Dim
from ..builder import Complex, Ref, Unlowerable
from ..lowering import Lowering
from ..registry import COMPLEX_LOWERINGS, LOWERINGS, lowers, lowers_complex
from . import creation, einsum, padding, products, reduction, repetition, shape
from .angles import arc_tangent
from .arithmetic import is_nan
from .common import filled

Number = int | float | complex
Operand = Ref | Complex | Dim | Number

# ------------------------------------------------------------------------------------------------ both parts alike


def parted(c: Lowering, x: Operand, shape: Sequence[Dim] = ()) -> Complex:
    """Anything as a pair: what is real has an imaginary part of zeros. shape: of a number's parts."""
    if isinstance(x, Complex):
        return x
    if isinstance(x, Ref):
        return Complex(c.cast(x, "f32"), filled(c, x.shape, 0.0, "f32"))
    real, imag = (x.real, x.imag) if isinstance(x, complex) else (x, 0.0)
    return Complex(filled(c, shape, real, "f32"), filled(c, shape, imag, "f32"))


def _of(value: Any, name: str) -> Any:
    """One part of every complex argument."""
    if isinstance(value, Complex | complex):
        return getattr(value, name)
    return [_of(item, name) for item in value] if isinstance(value, tuple | list) else value


def _joined(real: Any, imag: Any) -> Any:
    if isinstance(real, tuple):
        return tuple(_joined(*parts) for parts in zip(real, imag, strict=True))
    return Complex(real, imag)


def _on_each(function: Callable[..., Any], values: Sequence[int]) -> Callable[..., Any]:
    """A plain lowering on each part by itself. values: the arguments that may be real, and count as complex."""

    def lowering(c: Lowering, *arguments: Any) -> Any:
        given = [_all_parted(c, item) if place in values else item for place, item in enumerate(arguments)]
        return _joined(function(c, *_of(given, "real")), function(c, *_of(given, "imag")))

    return lowering


def register() -> None:
    """Fills `COMPLEX_LOWERINGS` from plain lowerings, once all of these are there."""
    for names, values in _ALIKE.items():
        for name in names:
            function, count = LOWERINGS[name]
            COMPLEX_LOWERINGS[name] = (_on_each(function, values), count)
    for name in _BILINEAR:
        COMPLEX_LOWERINGS[name] = (_bilinear(LOWERINGS[name][0]), 2)
    for name, joint in {"isnan": "or", "isinf": "or", "isfinite": "and"}.items():
        COMPLEX_LOWERINGS[name] = (_test(LOWERINGS[name][0], joint), 1)


def _all_parted(c: Lowering, value: Any) -> Any:
    if value is None:
        return None
    return [parted(c, item) for item in value] if isinstance(value, tuple | list) else parted(c, value)


_ALIKE: dict[tuple[str, ...], tuple[int, ...]] = {
    (
        "view.default", "reshape", "_unsafe_view", "_reshape_copy", "flatten", "unflatten", "squeeze", "unsqueeze",
        "squeeze_copy", "unsqueeze_copy", "view_as", "reshape_as", "contiguous", "clone", "alias", "detach", "detach_",
        "lift_fresh_copy", "lift_fresh", "identity", "positive", "resolve_conj", "resolve_neg", "dropout", "permute",
        "permute_copy", "transpose.int", "swapaxes", "swapdims", "transpose_copy", "t", "numpy_T", "mT",
        "movedim", "moveaxis", "ravel", "hstack", "vstack", "dstack", "column_stack",
        "hsplit", "vsplit", "dsplit", "atleast_1d", "atleast_2d", "atleast_3d",
        "slice.Tensor", "slice_copy.Tensor", "narrow", "select.int", "select_copy.int", "split", "split_with_sizes",
        "chunk", "unsafe_split", "unsafe_chunk", "tensor_split", "unbind", "cat", "concat", "concatenate", "stack",
        "expand", "expand_as", "expand_copy", "broadcast_to", "broadcast_tensors", "repeat", "tile",
        "repeat_interleave.self_int", "roll", "flip", "fliplr", "flipud", "rot90", "unfold", "unfold_copy",
        "index_select", "take", "gather", "index.Tensor", "_unsafe_index.Tensor", "diagonal", "diagonal_copy",
        "linalg_diagonal", "diag", "diag_embed", "trace", "tril", "triu", "sum.dim_IntList", "sum.default", "mean.dim",
        "mean.default", "cumsum", "diff", "neg", "pad", "zeros", "zeros_like", "new_zeros", "zero", "empty",
        "empty_like", "new_empty", "fft_fftshift", "fft_ifftshift",
    ): (0,),
    ("where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar"): (1, 2),
    ("masked_fill", "index_put", "_unsafe_index_put"): (0, 2),
    ("copy", "slice_scatter", "select_scatter", "diagonal_scatter"): (0, 1),
    ("scatter.src", "scatter.value", "scatter_add", "index_add", "index_copy"): (0, 3),
}  # fmt: skip
"""The operations that do to each part what they do to real numbers, and which arguments count as complex."""


@lowers_complex("constant_pad_nd")
def constant_pad(c: Lowering, x: Complex, sides: Sequence[Dim], value: Number) -> Complex:
    parts = parted(c, x), complex(value)
    return Complex(*(padding.pad(c, _of(parts[0], n), sides, "constant", _of(parts[1], n)) for n in ("real", "imag")))


@lowers_complex("ones", "ones_like", "new_ones")
def ones(c: Lowering) -> Complex:
    return parted(c, 1.0, c.out_shape())


@lowers_complex("full", "full_like", "fill", "new_full", "scalar_tensor")
def full(c: Lowering, like: Any, value: Any) -> Complex:
    """The value is the argument of that name in some of them, a size in others."""
    name = "s" if "scalar_tensor" in str(c.node.target) else "value" if "fill" in str(c.node.target) else "fill_value"
    value = parted(c, c.argument(name, 0.0), c.out_shape())
    return Complex(*(repetition.expanded(c, item, c.out_shape()) for item in (value.real, value.imag)))


@lowers_complex("eye")
def eye(c: Lowering) -> Complex:
    return parted(c, creation.eye(c))


@lowers_complex("to", "_to_copy", "type_as")
def to(c: Lowering, x: Ref | Complex) -> Ref | Complex:
    """To a real dtype: the imaginary part is dropped, as in torch."""
    if c.node.meta["val"].is_complex():
        return parted(c, x)
    return c.cast(x.real if isinstance(x, Complex) else x, c.out_dtype())


# ----------------------------------------------------------------------------------------------------- pairs and parts


@lowers_complex("complex")
def of_parts(c: Lowering, real: Ref, imag: Ref) -> Complex:
    shape = c.out_shape()
    return Complex(*(repetition.expanded(c, c.cast(item, "f32"), shape) for item in (real, imag)))


@lowers_complex("polar")
def polar(c: Lowering, size: Ref, angle: Ref) -> Complex:
    size, angle = c.cast(size, "f32"), c.cast(angle, "f32")
    return Complex(*(c.emit("mul", size, c.emit("unary", angle, kind=kind)) for kind in ("cos", "sin")))


@lowers_complex("view_as_complex", "view_as_complex_copy")
def view_as_complex(c: Lowering, x: Ref) -> Complex:
    return c.paired(c.cast(x, "f32"))


@lowers_complex("view_as_real", "view_as_real_copy")
def view_as_real(c: Lowering, x: Complex) -> Ref:
    return c.unpaired(x)


@lowers_complex("real")
def real(c: Lowering, x: Complex) -> Ref:
    return x.real


@lowers_complex("imag")
def imag(c: Lowering, x: Complex) -> Ref:
    return x.imag


lowers("real")(lambda c, x: x)
lowers("conj", "_conj", "conj_physical")(lambda c, x: x)


@lowers_complex("conj", "_conj", "conj_physical", "_conj_physical")
def conj(c: Lowering, x: Complex) -> Complex:
    return Complex(x.real, c.emit("unary", x.imag, kind="neg"))


@lowers_complex("mH", "adjoint", "matrix_H")
def adjoint(c: Lowering, x: Complex) -> Complex:
    return Complex(*(shape.transpose(c, item, -2, -1) for item in (x.real, conj(c, x).imag)))


@lowers_complex("abs", "absolute")
def magnitude(c: Lowering, x: Complex) -> Ref:
    return c.emit("unary", _energy(c, x), kind="sqrt")


def _energy(c: Lowering, x: Complex) -> Ref:
    """|x|^2"""
    return c.emit("add", c.emit("mul", x.real, x.real), c.emit("mul", x.imag, x.imag))


@lowers_complex("angle")
def angle(c: Lowering, x: Complex) -> Ref:
    return arc_tangent(c, x.imag, x.real)


@lowers("angle")
def real_angle(c: Lowering, x: Ref) -> Ref:
    """pi for what is negative, NaN for NaN."""
    x = c.operand(x, "f32")
    turned = c.emit("where", c.emit("compare", x, c.constant(0.0), kind="lt"), c.constant(math.pi), c.constant(0.0))
    return c.emit("where", is_nan(c, x), x, turned)


# ----------------------------------------------------------------------------------------------------------- arithmetic


def _one_sided(c: Lowering, op: str, a: Ref | None, b: Ref | None) -> Ref:
    """a op b in the result's shape, where a missing operand is zero."""
    if a is not None and b is not None:
        return c.emit(op, a, b)
    assert a is not None or b is not None
    x = a if b is None else c.emit("unary", b, kind="neg") if op == "sub" else b
    assert x is not None
    return repetition.expanded(c, x, c.out_shape())


def _terms(c: Lowering, x: Operand) -> tuple[Ref | None, Ref | None]:
    """The parts as operands; None for one that is zero."""
    if isinstance(x, Complex):
        return x.real, x.imag
    if isinstance(x, complex):
        return c.operand(x.real, "f32"), c.operand(x.imag, "f32")
    return c.operand(x, "f32"), None


def _sum(c: Lowering, op: str, a: Operand, b: Operand, alpha: Number) -> Complex:
    scaled = b if alpha == 1 else _product(c, b, alpha)
    (ar, ai), (br, bi) = _terms(c, a), _terms(c, scaled)
    imag = filled(c, c.out_shape(), 0.0, "f32") if ai is None and bi is None else _one_sided(c, op, ai, bi)
    return Complex(_one_sided(c, op, ar, br), imag)


@lowers_complex("add")
def add(c: Lowering, a: Operand, b: Operand, alpha: Number) -> Complex:
    return _sum(c, "add", a, b, alpha)


@lowers_complex("sub")
def sub(c: Lowering, a: Operand, b: Operand, alpha: Number) -> Complex:
    return _sum(c, "sub", a, b, alpha)


@lowers_complex("rsub")
def rsub(c: Lowering, a: Operand, b: Operand, alpha: Number) -> Complex:
    return _sum(c, "sub", b, _product(c, a, alpha) if alpha != 1 else a, 1)


def _products(c: Lowering, function: Callable[..., Ref], operands: Sequence[Operand]) -> Complex:
    """Of a function that is linear in each operand: the sum over the choices of parts, i for each imaginary one."""
    sums: list[Ref | None] = [None, None]
    for choice in itertools.product(*(enumerate(_terms(c, item)) for item in operands)):
        chosen = [item for _, item in choice]
        if any(item is None for item in chosen):
            continue
        power = sum(which for which, _ in choice)
        term, so_far = function(*chosen), sums[power % 2]
        if power % 4 < 2:
            sums[power % 2] = term if so_far is None else c.emit("add", so_far, term)
        else:
            sums[power % 2] = c.emit("unary", term, kind="neg") if so_far is None else c.emit("sub", so_far, term)
    real, imag = sums
    assert real is not None
    return Complex(real, imag if imag is not None else filled(c, real.shape, 0.0, "f32"))


def _product(c: Lowering, a: Operand, b: Operand) -> Operand:
    if not isinstance(a, Ref | Complex) and not isinstance(b, Ref | Complex):
        return complex(a) * complex(b)
    return _products(c, lambda a, b: c.emit("mul", a, b), (a, b))


@lowers_complex("mul")
def mul(c: Lowering, a: Operand, b: Operand) -> Operand:
    return _product(c, a, b)


@lowers_complex("square")
def square(c: Lowering, x: Complex) -> Operand:
    return _product(c, x, x)


def _inverse(c: Lowering, x: Complex) -> Complex:
    """conj(x) / |x|^2"""
    energy = _energy(c, x)
    return Complex(*(c.emit("div", item, energy) for item in (x.real, conj(c, x).imag)))


@lowers_complex("reciprocal")
def reciprocal(c: Lowering, x: Complex) -> Complex:
    return _inverse(c, x)


@lowers_complex("div", "true_divide", "divide")
def div(c: Lowering, a: Operand, b: Operand) -> Operand:
    """By what is real, each part."""
    if isinstance(b, complex):
        return _product(c, a, 1 / b)
    if isinstance(b, Complex):
        return _product(c, a, _inverse(c, b))
    assert isinstance(a, Complex)
    divisor = c.operand(b, "f32")
    return Complex(c.emit("div", a.real, divisor), c.emit("div", a.imag, divisor))


@lowers_complex("addcmul")
def addcmul(c: Lowering, x: Operand, a: Operand, b: Operand) -> Complex:
    return _sum(c, "add", x, _product(c, a, b), c.argument("value", 1))


@lowers_complex("sgn")
def sgn(c: Lowering, x: Complex) -> Complex:
    """x / |x|, and 0 of 0."""
    size = magnitude(c, x)
    divisor = c.emit("where", c.emit("compare", size, c.constant(0.0), kind="eq"), c.constant(1.0), size)
    return Complex(c.emit("div", x.real, divisor), c.emit("div", x.imag, divisor))


_BILINEAR = ("matmul", "mm", "bmm", "mv", "dot", "linalg_matmul", "outer", "ger", "inner")


def _bilinear(function: Callable[..., Ref]) -> Callable[..., Complex]:
    return lambda c, a, b: _products(c, lambda *chosen: function(c, *chosen), (a, b))


@lowers_complex("vdot", "linalg_vecdot")
def vdot(c: Lowering, a: Operand, b: Operand) -> Complex:
    """The first operand conjugated."""
    first = conj(c, a) if isinstance(a, Complex) else a
    return _products(c, lambda *ab: products.matmul(c, *ab), (first, b))


@lowers_complex("einsum")
def sums(c: Lowering, equation: str, operands: Sequence[Operand]) -> Complex:
    return _products(c, lambda *chosen: einsum.einsum(c, equation, chosen), operands)


@lowers_complex("tensordot")
def tensordot(c: Lowering, a: Operand, b: Operand, axes_a: Sequence[int], axes_b: Sequence[int]) -> Complex:
    return _products(c, lambda x, y: einsum.tensordot(c, x, y, axes_a, axes_b), (a, b))


@lowers_complex("linear")
def linear(c: Lowering, x: Operand, weight: Operand, bias: Operand | None) -> Complex:
    y = _products(c, lambda x, w: products.linear(c, x, w, None), (x, weight))
    return y if bias is None else _sum(c, "add", y, bias, 1)


@lowers_complex("prod.dim_int", "prod.default")
def prod(c: Lowering, x: Complex) -> Complex:
    raise Unlowerable("a product of complex numbers over an axis", "sum the angles and multiply the magnitudes")


# ----------------------------------------------------------------------------------------------------------- functions


@lowers_complex("exp")
def exp(c: Lowering, x: Complex) -> Complex:
    return polar(c, c.emit("unary", x.real, kind="exp"), x.imag)


@lowers_complex("log")
def log(c: Lowering, x: Complex) -> Complex:
    half = c.emit("mul", c.emit("unary", _energy(c, x), kind="log"), c.constant(0.5))
    return Complex(half, angle(c, x))


@lowers_complex("sqrt")
def sqrt(c: Lowering, x: Complex) -> Complex:
    """sqrt((|x| + |re|) / 2) is one part, im over twice that the other."""
    size = c.emit("add", magnitude(c, x), c.emit("unary", x.real, kind="abs"))
    large = c.emit("unary", c.emit("mul", size, c.constant(0.5)), kind="sqrt")
    none = c.emit("compare", large, c.constant(0.0), kind="eq")
    double = c.emit("where", none, c.constant(1.0), c.emit("add", large, large))
    small = c.emit("div", x.imag, double)
    right = c.emit("compare", x.real, c.constant(0.0), kind="ge")
    below = c.emit("compare", x.imag, c.constant(0.0), kind="lt")
    turned = c.emit("where", below, c.emit("unary", large, kind="neg"), large)
    real = c.emit("where", right, large, c.emit("unary", small, kind="abs"))
    return Complex(real, c.emit("where", right, small, turned))


@lowers_complex("pow.Tensor_Scalar", "float_power.Tensor_Scalar")
def power(c: Lowering, x: Operand, exponent: Number) -> Operand:
    """Whole powers as products, others by magnitude and angle."""
    if not isinstance(x, Complex) or isinstance(exponent, complex):
        raise Unlowerable("a complex exponent", "use torch.exp(exponent * torch.log(x))")
    if float(exponent).is_integer() and 0 < abs(exponent) <= 4:
        y: Operand = x
        for _ in range(int(abs(exponent)) - 1):
            y = _product(c, y, x)
        assert isinstance(y, Complex)
        return y if exponent > 0 else _inverse(c, y)
    scale = c.constant(float(exponent))
    return polar(c, c.emit("pow", magnitude(c, x), scale), c.emit("mul", angle(c, x), scale))


@lowers_complex("eq", "ne", "not_equal")
def equal(c: Lowering, a: Operand, b: Operand) -> Ref:
    """Both parts are equal; or one is not."""
    kind = "eq" if ".eq." in str(c.node.target) else "ne"
    pairs = zip(*(_terms(c, item) for item in (a, b)), strict=True)
    zero = c.constant(0.0)
    each = [c.emit("compare", left or zero, right or zero, kind=kind) for left, right in pairs]
    return c.emit("logical", *each, kind="and" if kind == "eq" else "or")


def _test(function: Callable[..., Ref], joint: str) -> Callable[..., Ref]:
    return lambda c, x: c.emit("logical", function(c, x.real), function(c, x.imag), kind=joint)


@lowers_complex("linalg_vector_norm", "norm.ScalarOpt_dim")
def vector_norm(c: Lowering, x: Complex, p: float | None, axes: Any, keepdim: bool) -> Ref:
    return reduction.vector_norm(c, magnitude(c, x), p, axes, keepdim)


@lowers_complex("norm.Scalar", "norm.ScalarOpt_dtype")
def norm(c: Lowering, x: Complex, p: float | None) -> Ref:
    return reduction.norm(c, magnitude(c, x), p)


@lowers_complex("lerp")
def lerp(c: Lowering, start: Operand, end: Operand, weight: Operand) -> Complex:
    return _sum(c, "add", start, _product(c, _sum(c, "sub", end, start, 1), weight), 1)
