"""Normalization: by stored statistics, by those of the features, by softmax."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...graph import dims
from ...graph.ir import Dim
from ..builder import Ref, Unlowerable
from ..lowering import Lowering
from ..registry import Lowered, lowers


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


@lowers("layer_norm")
def layer_norm(c: Lowering, x: Ref, shape: Sequence[int], weight: Ref | None, bias: Ref | None, eps: float) -> Ref:
    return c.emit("layer_norm", c.operand(x, "f32"), weight, bias, axes=len(shape), eps=float(eps))


@lowers("native_layer_norm")
def native_layer_norm(
    c: Lowering, x: Ref, shape: Sequence[int], weight: Ref | None, bias: Ref | None, eps: float
) -> Lowered:
    return layer_norm(c, x, shape, weight, bias, eps), None, None


@lowers("rms_norm")
def rms_norm(c: Lowering, x: Ref, shape: Sequence[int], weight: Ref | None, eps: float | None) -> Ref:
    """Without an eps it is float32's."""
    small = float(np.finfo(np.float32).eps) if eps is None else float(eps)
    return c.emit("rms_norm", c.operand(x, "f32"), weight, axes=len(shape), eps=small)


@lowers("_fused_rms_norm")
def fused_rms_norm(c: Lowering, x: Ref, shape: Sequence[int], weight: Ref | None, eps: float | None) -> Lowered:
    return rms_norm(c, x, shape, weight, eps), None


@lowers("group_norm")
def group_norm(c: Lowering, x: Ref, groups: int, weight: Ref | None, bias: Ref | None, eps: float) -> Ref:
    return c.emit("group_norm", c.operand(x, "f32"), weight, bias, groups=int(groups), eps=float(eps))


@lowers("native_group_norm")
def native_group_norm(
    c: Lowering,
    x: Ref,
    weight: Ref | None,
    bias: Ref | None,
    n: Dim,
    channels: Dim,
    pixels: Dim,
    groups: int,
    eps: float,
) -> Lowered:
    return group_norm(c, x, groups, weight, bias, eps), None, None


@lowers("instance_norm")
def instance_norm(
    c: Lowering,
    x: Ref,
    weight: Ref | None,
    bias: Ref | None,
    mean: Ref | None,
    variance: Ref | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
) -> Lowered:
    """Each channel is a group of its own."""
    if not use_input_stats:
        return batch_norm(c, x, weight, bias, mean, variance, False, momentum, eps)
    channels = x.shape[1]
    if not isinstance(channels, int):
        raise Unlowerable("instance norm over channels whose number is free")
    c.require("natural", dims.sub(dims.mul(*x.shape[2:]), 2), "instance norm of single elements")
    return group_norm(c, x, channels, weight, bias, eps)


@lowers("softmax.int", "_softmax", "special_softmax")
def softmax(c: Lowering, x: Ref, axis: int) -> Ref:
    return c.emit("softmax", c.operand(x, "f32"), axis=c.axis(x, axis))


@lowers("log_softmax.int", "_log_softmax", "special_log_softmax")
def log_softmax(c: Lowering, x: Ref, axis: int) -> Ref:
    """(x - max) - log(sum(e^(x - max)))"""
    x, axis = c.operand(x, "f32"), c.axis(x, axis)
    shifted = c.emit("sub", x, c.emit("reduce", x, kind="max", axes=(axis,), keepdim=1))
    total = c.emit("reduce", c.emit("unary", shifted, kind="exp"), kind="sum", axes=(axis,), keepdim=1)
    return c.emit("sub", shifted, c.emit("unary", total, kind="log"))
