"""The lowerings: for each aten operation the nodes that say the same. Arguments are in the order of its aten schema."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import dims
from ..ir import Dim
from .lower import Lowered, Lowering, Ref, Unlowerable, lowers

Number = int | float

# ------------------------------------------------------------------------------------------------ convolution, linear


def _pair(value: Any) -> tuple[int, int]:
    """aten's one or two numbers as two."""
    items = list(value) if isinstance(value, tuple | list) else [value]
    return (int(items[0]), int(items[-1]))


def _frame(padding: Any) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of a symmetric padding."""
    y, x = _pair(padding)
    return (y, y, x, x)


def _images(c: Lowering, x: Ref) -> Ref:
    """[C, H, W] as a batch of one."""
    return x if x.rank == 4 else c.reshape(x, (1, *x.shape))


@lowers("conv2d")
def conv2d(
    c: Lowering, x: Ref, weight: Ref, bias: Ref | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> Ref:
    c.array(weight, "the weight")
    attrs: dict[str, Any] = {"stride": _pair(stride), "dilation": _pair(dilation), "groups": int(groups)}
    y = c.emit("conv2d", _images(c, x), weight, bias, padding=_conv_padding(weight, padding, dilation), **attrs)
    return c.reshape(y)


def _conv_padding(weight: Ref, padding: Any, dilation: Any) -> tuple[int, ...]:
    """Four numbers; "same" puts the odd one at the end, as torch does."""
    if padding == "valid":
        return (0, 0, 0, 0)
    if padding == "same":
        totals = [d * (int(k) - 1) for d, k in zip(_pair(dilation), weight.shape[2:], strict=True)]
        return tuple(side for total in totals for side in (total // 2, total - total // 2))
    return _frame(padding)


@lowers("conv1d")
def conv1d(
    c: Lowering, x: Ref, weight: Ref, bias: Ref | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> Ref:
    """A 2-d convolution over an image of height 1."""
    flat = c.reshape(x, (*((1,) if x.rank == 2 else ()), *x.shape[:-1], 1, x.shape[-1]))
    kernel = c.constant(c.array(weight, "the weight")[:, :, None, :], f"{weight.name}.2d")
    s, d = _pair(stride)[1], _pair(dilation)[1]
    frame = (0, 0, *_conv_padding(kernel, padding if isinstance(padding, str) else (0, _pair(padding)[1]), (1, d))[2:])
    return c.reshape(
        c.emit("conv2d", flat, kernel, bias, stride=(1, s), padding=frame, dilation=(1, d), groups=int(groups))
    )


@lowers("convolution", "_convolution")
def convolution(
    c: Lowering,
    x: Ref,
    weight: Ref,
    bias: Ref | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Ref:
    if transposed:
        raise Unlowerable("lowbit has no transposed convolution")
    if weight.rank not in (3, 4):
        raise Unlowerable(f"lowbit has no convolution over {weight.rank - 2} axes")
    function = conv2d if weight.rank == 4 else conv1d
    return function(c, x, weight, bias, stride, padding, dilation, groups)


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


# ------------------------------------------------------------------------------------------------------ normalization


@lowers("batch_norm", "native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm")
def batch_norm(
    c: Lowering,
    x: Ref,
    weight: Ref | None,
    bias: Ref | None,
    mean: Ref | None,
    variance: Ref | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Lowered:
    """y = x * scale + shift, for each channel; folded into the layer before it where there is one."""
    if training or mean is None or variance is None:
        raise Unlowerable(
            "it normalizes by the statistics of the batch, so a sample's result depends on the others",
            "use track_running_stats=True and train its statistics",
        )
    channels = int(mean.shape[0])
    scale = 1 / np.sqrt(c.array(variance, "the variance").astype(np.float64) + eps)
    if weight is not None:
        scale = scale * c.array(weight, "the weight")
    shift = -c.array(mean, "the mean").astype(np.float64) * scale
    if bias is not None:
        shift = shift + c.array(bias, "the bias")
    shape = (channels,) + (1,) * (x.rank - 2)
    stem = mean.name.removesuffix(".running_mean")
    scaled = c.emit("mul", x, c.constant(scale.astype(np.float32).reshape(shape), f"{stem}.scale"))
    y = c.emit("add", scaled, c.constant(shift.astype(np.float32).reshape(shape), f"{stem}.shift"))
    return (y, None, None) if isinstance(c.node.meta["val"], tuple | list) else y


@lowers("_native_batch_norm_legit_no_training")
def batch_norm_no_training(
    c: Lowering, x: Ref, weight: Ref | None, bias: Ref | None, mean: Ref, variance: Ref, momentum: float, eps: float
) -> Lowered:
    return batch_norm(c, x, weight, bias, mean, variance, False, momentum, eps)


# --------------------------------------------------------------------------------------------------------- activations

_PLAIN = ("sigmoid", "tanh", "hardsigmoid", "hardswish", "silu", "mish", "exp", "log", "sqrt", "rsqrt", "neg", "abs")


def _register_plain(kind: str) -> None:
    lowers(kind)(lambda c, x: c.emit("unary", c.operand(x, "f32"), kind=kind))


for _kind in _PLAIN:
    _register_plain(_kind)


def _clip(c: Lowering, x: Ref, low: Number | None, high: Number | None) -> Ref:
    if isinstance(low, Ref | str) or isinstance(high, Ref | str):
        raise Unlowerable("its bounds are computed, lowbit needs numbers")
    low = None if low is None or low == -math.inf else float(low)
    high = None if high is None or high == math.inf else float(high)
    return x if low is None and high is None else c.emit("clip", x, min=low, max=high)


@lowers("relu")
def relu(c: Lowering, x: Ref) -> Ref:
    return _clip(c, x, 0, None)


@lowers("relu6")
def relu6(c: Lowering, x: Ref) -> Ref:
    return _clip(c, x, 0, 6)


@lowers("hardtanh", "clamp", "clip")
def clamp(c: Lowering, x: Ref, low: Number | None, high: Number | None) -> Ref:
    return _clip(c, x, low, high)


@lowers("clamp_min")
def clamp_min(c: Lowering, x: Ref, low: Number) -> Ref:
    return _clip(c, x, low, None)


@lowers("clamp_max")
def clamp_max(c: Lowering, x: Ref, high: Number) -> Ref:
    return _clip(c, x, None, high)


@lowers("gelu")
def gelu(c: Lowering, x: Ref, approximate: str) -> Ref:
    return c.emit("unary", x, kind="gelu_tanh" if approximate == "tanh" else "gelu")


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


@lowers("prelu", "_prelu_kernel")
def prelu(c: Lowering, x: Ref, weight: Ref) -> Ref:
    """max(x, 0) + weight * min(x, 0)."""
    slopes = c.array(weight, "the weight").reshape(-1)
    shape = (-1,) + (1,) * (x.rank - 2) if slopes.size > 1 else (-1,)
    slope = c.constant(slopes.reshape(shape), f"{weight.name}.slope")
    return c.emit("add", _clip(c, x, 0, None), c.emit("mul", _clip(c, x, None, 0), slope))


@lowers("softplus")
def softplus(c: Lowering, x: Ref, beta: Number, threshold: Number) -> Ref:
    """Above `threshold` torch returns x; there the difference is below float32's precision, unless it is set low."""
    if threshold < 15:
        raise Unlowerable(f"softplus with a threshold of {threshold}", "leave the threshold at 20")
    return c.emit("unary", x, kind="softplus", alpha=float(beta))


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


@lowers("softmax.int", "_softmax")
def softmax(c: Lowering, x: Ref, axis: int) -> Ref:
    return c.emit("softmax", c.operand(x, "f32"), axis=c.axis(x, axis))


@lowers("log_softmax.int", "_log_softmax")
def log_softmax(c: Lowering, x: Ref, axis: int) -> Ref:
    """x - lse with lse = sum_j p_j * (x_j - log p_j), p = softmax(x): exact where log(p) alone would meet log(0)."""
    axis = c.axis(x, axis)
    size = x.shape[axis]
    if not isinstance(size, int):
        raise Unlowerable("log_softmax over an axis whose size is free")
    p = c.emit("softmax", x, axis=axis)
    log_p = c.emit("unary", _clip(c, p, float(np.finfo(np.float32).tiny), None), kind="log")
    terms = c.emit("mul", p, c.emit("sub", x, log_p))
    mean = c.emit("mean", terms, axes=(axis,), keepdim=1)
    return c.emit("sub", x, c.emit("mul", mean, c.constant(float(size))))


# ---------------------------------------------------------------------------------------------------------- arithmetic


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


# ------------------------------------------------------------------------------------------------ pools and reductions


def _pool(
    c: Lowering,
    op: str,
    x: Ref,
    kernel: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    **attrs: Any,
) -> Ref:
    images = _images(c, x)
    y = c.emit(
        op,
        images,
        kernel=_pair(kernel),
        stride=_pair(stride or kernel),
        padding=_frame(padding),
        ceil_mode=int(ceil_mode),
        **attrs,
    )
    return y if images is x else c.reshape(y, y.shape[1:])


@lowers("max_pool2d")
def max_pool2d(c: Lowering, x: Ref, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Ref:
    return _pool(c, "max_pool2d", x, kernel, stride, padding, ceil_mode, dilation=_pair(dilation))


@lowers("max_pool2d_with_indices")
def max_pool2d_with_indices(
    c: Lowering, x: Ref, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> Lowered:
    return max_pool2d(c, x, kernel, stride, padding, dilation, ceil_mode), None


@lowers("avg_pool2d")
def avg_pool2d(
    c: Lowering,
    x: Ref,
    kernel: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
) -> Ref:
    if divisor is not None:
        raise Unlowerable("average pooling with a divisor of its own", "multiply the pooled result by a constant")
    return _pool(c, "avg_pool2d", x, kernel, stride, padding, ceil_mode, count_include_pad=int(count_include_pad))


def _row(value: Any) -> tuple[int, int]:
    """The 1-d window as one over an image of height 1."""
    return (1, _pair(value)[0])


@lowers("max_pool1d")
def max_pool1d(c: Lowering, x: Ref, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Ref:
    flat = c.reshape(x, (*x.shape[:-1], 1, x.shape[-1]))
    frame, dilation = (0, _pair(padding)[0]), (1, _pair(dilation)[0])
    y = _pool(c, "max_pool2d", flat, _row(kernel), _row(stride or kernel), frame, ceil_mode, dilation=dilation)
    return c.reshape(y)


@lowers("avg_pool1d")
def avg_pool1d(
    c: Lowering, x: Ref, kernel: Any, stride: Any, padding: Any, ceil_mode: bool, count_include_pad: bool
) -> Ref:
    flat = c.reshape(x, (*x.shape[:-1], 1, x.shape[-1]))
    frame, include = (0, _pair(padding)[0]), int(count_include_pad)
    y = _pool(c, "avg_pool2d", flat, _row(kernel), _row(stride or kernel), frame, ceil_mode, count_include_pad=include)
    return c.reshape(y)


@lowers("adaptive_avg_pool2d", "_adaptive_avg_pool2d")
def adaptive_avg_pool2d(c: Lowering, x: Ref, output_size: Any) -> Ref:
    if any(isinstance(size, str) for size in output_size):
        raise Unlowerable("adaptive pooling to a size that is free")
    return c.reshape(c.emit("adaptive_avg_pool2d", _images(c, x), output_size=_pair(output_size)))


@lowers("adaptive_avg_pool1d")
def adaptive_avg_pool1d(c: Lowering, x: Ref, output_size: Any) -> Ref:
    flat = c.reshape(x, (*((1,) if x.rank == 2 else ()), *x.shape[:-1], 1, x.shape[-1]))
    return c.reshape(c.emit("adaptive_avg_pool2d", flat, output_size=_row(output_size)))


@lowers("mean.dim")
def mean(c: Lowering, x: Ref, axes: Any, keepdim: bool) -> Ref:
    """Over height and width of images it is a pool to 1 x 1."""
    chosen = _axes(x, axes)
    if x.rank == 4 and chosen == (2, 3):
        return c.reshape(c.emit("adaptive_avg_pool2d", x, output_size=(1, 1)))
    return c.emit("mean", c.operand(x, "f32"), axes=chosen, keepdim=int(keepdim))


@lowers("mean.default")
def mean_of_all(c: Lowering, x: Ref) -> Ref:
    return mean(c, x, None, False)


@lowers("sum.dim_IntList")
def sum_(c: Lowering, x: Ref, axes: Any, keepdim: bool) -> Ref:
    """The mean times the number of elements."""
    chosen = _axes(x, axes)
    count = dims.mul(*(x.shape[axis] for axis in chosen))
    if not isinstance(count, int):
        raise Unlowerable("a sum over an axis whose size is free")
    return c.emit("mul", mean(c, x, axes, keepdim), c.constant(float(count)))


@lowers("sum.default")
def sum_of_all(c: Lowering, x: Ref) -> Ref:
    return sum_(c, x, None, False)


def _axes(x: Ref, axes: Any) -> tuple[int, ...]:
    """All of them if none are named."""
    named = [axes] if isinstance(axes, int) else list(axes or range(x.rank))
    return tuple(sorted(axis % max(x.rank, 1) for axis in named)) if x.rank else ()


# -------------------------------------------------------------------------------------------------------------- shapes


@lowers(
    "view.default", "reshape", "_unsafe_view", "_reshape_copy", "flatten", "unflatten", "squeeze", "unsqueeze",
    "squeeze_copy", "unsqueeze_copy", "view_as", "reshape_as",
)  # fmt: skip
def reshape(c: Lowering, x: Ref) -> Ref:
    return c.reshape(x)


@lowers(
    "contiguous", "clone", "alias", "detach", "detach_", "lift_fresh_copy", "lift_fresh", "identity", "positive",
    "resolve_conj", "resolve_neg",
)  # fmt: skip
def identity(c: Lowering, x: Ref) -> Ref:
    return x


@lowers("expand", "expand_as")
def expand(c: Lowering, x: Ref) -> Ref:
    if c.out_shape() != x.shape:
        raise Unlowerable("it repeats a tensor that depends on the inputs; arithmetic broadcasts by itself")
    return x


@lowers("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout")
def dropout(c: Lowering, x: Ref, p: float, train: bool) -> Lowered:
    if train and p > 0:
        raise Unlowerable(
            "dropout that stays active in eval mode gives random results",
            "pass training=self.training to functional dropout",
        )
    return (x, None) if isinstance(c.node.meta["val"], tuple | list) else x


@lowers("to", "_to_copy", "type_as")
def to(c: Lowering, x: Ref) -> Ref:
    """All floats are float32 here, so most conversions are nothing."""
    return c.cast(x, c.out_dtype())


@lowers("permute", "permute_copy")
def permute(c: Lowering, x: Ref, axes: Sequence[int]) -> Ref:
    perm = tuple(axis % x.rank for axis in axes)
    return x if perm == tuple(range(x.rank)) else c.emit("transpose", x, perm=perm)


@lowers("transpose.int", "swapaxes", "swapdims", "transpose_copy")
def transpose(c: Lowering, x: Ref, a: int, b: int) -> Ref:
    axes = list(range(x.rank))
    axes[a], axes[b] = axes[b], axes[a]
    return permute(c, x, axes)


@lowers("t", "numpy_T", "mT")
def transposed(c: Lowering, x: Ref) -> Ref:
    return permute(c, x, list(range(x.rank))[::-1]) if x.rank == 2 else x


@lowers("movedim.int")
def movedim(c: Lowering, x: Ref, source: int, destination: int) -> Ref:
    axes = [axis for axis in range(x.rank) if axis != source % x.rank]
    axes.insert(destination % x.rank, source % x.rank)
    return permute(c, x, axes)


@lowers("cat", "concat", "concatenate")
def cat(c: Lowering, tensors: Sequence[Ref], axis: int) -> Ref:
    """Empty vectors take part in nothing, as in torch."""
    parts = [c.operand(item, c.out_dtype()) for item in tensors if item.shape != (0,)]
    return parts[0] if len(parts) == 1 else c.emit("concat", *parts, axis=c.axis(parts[0], axis))


@lowers("stack")
def stack(c: Lowering, tensors: Sequence[Ref], axis: int) -> Ref:
    axis %= tensors[0].rank + 1
    parts = [c.operand(item, c.out_dtype()) for item in tensors]
    parts = [c.reshape(item, (*item.shape[:axis], 1, *item.shape[axis:])) for item in parts]
    return parts[0] if len(parts) == 1 else c.emit("concat", *parts, axis=axis)


@lowers("slice.Tensor", "slice_copy.Tensor")
def slice_(c: Lowering, x: Ref, axis: int, start: Dim | None, stop: Dim | None, step: int) -> Ref:
    """Sizes may be free: the result's length is torch's, the start counts from the front."""
    axis = c.axis(x, axis)
    length = c.out_shape()[axis]
    if length == x.shape[axis]:
        return x
    first: Dim = 0 if start is None else start
    if isinstance(first, int) and first < 0:
        first = dims.maximum(0, dims.add(x.shape[axis], first))
    return _part(c, x, axis, first, length, int(step))


def _part(c: Lowering, x: Ref, axis: int, start: Dim, length: Dim, step: int = 1) -> Ref:
    """x[start : start + length * step : step] on one axis, cut off where x ends."""
    end = dims.add(start, dims.mul(dims.sub(length, 1), step), 1)
    return c.emit("slice", x, axis=axis, start=start, stop=dims.maximum(end, 0), step=step)


@lowers("narrow")
def narrow(c: Lowering, x: Ref, axis: int, start: Dim, length: Dim) -> Ref:
    axis = c.axis(x, axis)
    first = dims.add(x.shape[axis], start) if isinstance(start, int) and start < 0 else start
    return x if length == x.shape[axis] else _part(c, x, axis, first, length)


@lowers("select.int", "select_copy.int")
def select(c: Lowering, x: Ref, axis: int, index: Dim) -> Ref:
    axis = c.axis(x, axis)
    start = dims.add(x.shape[axis], index) if isinstance(index, int) and index < 0 else index
    return c.reshape(_part(c, x, axis, start, 1))


@lowers("split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_chunk", "tensor_split", "unbind")
def split(c: Lowering, x: Ref) -> Lowered:
    """The pieces are torch's; the axis is the one that they divide."""
    axis = c.axis(x, c.argument("dim", 0))
    unbind = "unbind" in str(c.node.target)
    parts: list[Ref] = []
    start: Dim = 0
    for tensor in c.node.meta["val"]:
        shape = c.shape_of(tensor)
        length: Dim = 1 if unbind else shape[axis]
        part = x if length == x.shape[axis] else _part(c, x, axis, start, length)
        parts.append(c.reshape(part, shape))
        start = dims.add(start, length)
    return tuple(parts)


@lowers("pad", "constant_pad_nd")
def pad(c: Lowering, x: Ref, sides: Sequence[int], mode: Any = "constant", value: Any = None) -> Ref:
    """Sides come as pairs from the last axis on; a negative one crops."""
    if "constant_pad_nd" in str(c.node.target):
        mode, value = "constant", mode
    if mode != "constant":
        raise Unlowerable(f"padding in mode {mode!r}; mode 'constant' is supported")
    if any(isinstance(side, str) for side in sides):
        raise Unlowerable("padding by a size that is free")
    frame = [0] * (2 * x.rank)
    for position in range(len(sides) // 2):
        axis = x.rank - 1 - position
        frame[2 * axis : 2 * axis + 2] = [int(sides[2 * position]), int(sides[2 * position + 1])]
    for axis in range(x.rank):
        begin, end = (min(side, 0) for side in frame[2 * axis : 2 * axis + 2])
        if begin or end:
            x = _part(c, x, axis, -begin, dims.add(x.shape[axis], begin, end))
    padding = tuple(max(side, 0) for side in frame)
    if not any(padding):
        return x
    fill = 0.0 if value is None else float(value)
    if not math.isfinite(fill):
        fill = math.copysign(float(np.finfo(np.float32).max), fill)
    return c.emit("pad", c.operand(x, "f32"), padding=padding, value=fill)
