"""Operators of sequence models: products of two computed operands, attention, normalization over features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph.ir import Array, Dim, Value
from .call import Call, broadcast
from .spec import FLAG, MAX_RANK, SIZE, Input, Op, integer, number

F32, F64 = np.float32, np.float64


# ------------------------------------------------------------------------------------------------------------- products


def _infer_matmul(call: Call) -> Sequence[Value]:
    a, b = call.shape(0), call.shape(1)
    call.need(min(len(a), len(b)) >= 2, "both operands must have at least two axes")
    depth, columns = (b[-1], b[-2]) if call.attrs["transpose_b"] else (b[-2], b[-1])
    call.same(a[-1], depth, "the inner sizes differ")
    return [Value(dtype="f32", shape=(*broadcast(call, a[:-2], b[:-2]), a[-2], columns))]


def _matmul(call: Call) -> Sequence[Array]:
    b = call.array(1).astype(F64)
    return [(call.array(0).astype(F64) @ (np.swapaxes(b, -1, -2) if call.attrs["transpose_b"] else b)).astype(F32)]


# ------------------------------------------------------------------------------------------------------------ attention


def _infer_attention(call: Call) -> Sequence[Value]:
    q = call.shape(0)
    call.need(len(q) in (3, 4), f"q must have rank 3 or 4, has shape {list(q)}")
    k, v = call.shape(1, rank=len(q)), call.shape(2, rank=len(q))
    call.same(q[-1], k[-1], "the features of q and k differ")
    call.same(k[-2], v[-2], "the lengths of k and v differ")
    call.same(k[-3], v[-3], "the heads of k and v differ")
    for size in (k[0], v[0]) if len(q) == 4 else ():
        call.same(q[0], size, "the batches differ")
    heads = (q[-3], k[-3])
    whole = isinstance(heads[0], int) and isinstance(heads[1], int) and heads[1] > 0 and heads[0] % heads[1] == 0
    call.need(whole or call.equal(*heads), f"{heads[0]} heads of q do not share {heads[1]} heads of k")
    if call.is_present(3):
        full = (*q[:-1], k[-2])
        mask = broadcast(call, call.shape(3), full)
        fits = len(mask) == len(full) and all(map(call.equal, mask, full))
        call.need(fits, f"the mask {list(call.shape(3))} does not broadcast to {list(full)}")
    return [Value(dtype="f32", shape=(*q[:-1], v[-1]))]


def _attention(call: Call) -> Sequence[Array]:
    q, k, v = (call.array(position).astype(F64) for position in range(3))
    sharing = q.shape[-3] // k.shape[-3]
    k, v = np.repeat(k, sharing, axis=-3), np.repeat(v, sharing, axis=-3)
    scores = q @ np.swapaxes(k, -1, -2) * F32(call.attrs["scale"])
    mask = call.optional(3)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == np.bool_ else scores + mask
    if call.attrs["causal"]:
        scores = np.where(np.tri(*scores.shape[-2:], dtype=np.bool_), scores, -np.inf)
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    e = np.exp(scores - top)
    empty = np.nan if call.attrs["nan_if_empty"] else 0.0
    probabilities = np.where((scores == -np.inf).all(axis=-1, keepdims=True), empty, e / e.sum(axis=-1, keepdims=True))
    y = probabilities @ v
    return [(y if scores.shape[-1] else np.full_like(y, empty)).astype(F32)]


# -------------------------------------------------------------------------------------------------------- normalization


def _infer_last_axes(call: Call) -> Sequence[Value]:
    shape, axes = call.shape(0), call.attrs["axes"]
    call.need(len(shape) >= axes, f"rank {len(shape)} has no {axes} axes to normalize")
    for position in range(1, len(call.node.inputs)):
        call.match(position, shape[len(shape) - axes :])
    return [Value(dtype="f32", shape=shape)]


def _finish(call: Call, y: Array, shape: tuple[int, ...]) -> Sequence[Array]:
    """y * weight + bias, where given."""
    weight, bias = call.optional(1), call.optional(2)
    if weight is not None:
        y = y * weight.reshape(shape)
    if bias is not None:
        y = y + bias.reshape(shape)
    return [y.astype(F32)]


def _normalized(x: Array, axes: tuple[int, ...], eps: float, *, centered: bool = True) -> Array:
    """(x - mean) / sqrt(mean square + eps); the mean is 0 unless centered."""
    if centered:
        x = x - x.mean(axis=axes, keepdims=True)
    root: Array = np.sqrt(np.square(x).mean(axis=axes, keepdims=True) + F32(eps))
    return x / root


def _last_axes(call: Call, *, centered: bool) -> Sequence[Array]:
    x = call.array(0)
    axes = tuple(range(x.ndim - call.attrs["axes"], x.ndim))
    return _finish(call, _normalized(x.astype(F64), axes, call.attrs["eps"], centered=centered), x.shape[axes[0] :])


def _infer_group_norm(call: Call) -> Sequence[Value]:
    shape, groups = call.shape(0), call.attrs["groups"]
    call.need(len(shape) >= 2, "the input must have at least two axes")
    channels: Dim = shape[1]
    call.need(
        isinstance(channels, int) and channels > 0 and channels % groups == 0,
        f"{groups} groups do not divide {channels} channels",
    )
    for position in (1, 2):
        call.match(position, shape[1:2])
    return [Value(dtype="f32", shape=shape)]


def _group_norm(call: Call) -> Sequence[Array]:
    x, groups = call.array(0), call.attrs["groups"]
    grouped = x.astype(F64).reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
    y = _normalized(grouped, tuple(range(2, grouped.ndim)), call.attrs["eps"]).reshape(x.shape)
    return _finish(call, y, (x.shape[1],) + (1,) * (x.ndim - 2))


_X, _WEIGHT, _BIAS = Input(name="x"), Input(name="w", optional=True), Input(name="b", optional=True)
_EPS = number(minimum=0.0)
_AXES = integer(1, MAX_RANK, default=1)
"""How many axes, from the last on, are normalized together."""

OPS = (
    Op(
        name="matmul",
        note="batched; transpose_b: b's last two axes are exchanged",
        inputs=(Input(name="a"), Input(name="b")),
        attrs={"transpose_b": FLAG},
        infer_rule=_infer_matmul,
        reference_rule=_matmul,
    ),
    Op(
        name="attention",
        note=(
            "q, k, v are [B, H, L, D] or [H, L, D]; nan_if_empty: a row with nothing to attend to is NaN, else 0; "
            "divides_last: sums over v are divided, in place of weights"
        ),
        inputs=(
            Input(name="q"),
            Input(name="k"),
            Input(name="v"),
            Input(name="mask", dtypes=("f32", "bool"), optional=True),
        ),
        attrs={"scale": number(), "causal": FLAG, "nan_if_empty": FLAG, "divides_last": FLAG},
        infer_rule=_infer_attention,
        reference_rule=_attention,
    ),
    Op(
        name="layer_norm",
        note="over the last `axes` axes",
        inputs=(_X, _WEIGHT, _BIAS),
        attrs={"axes": _AXES, "eps": _EPS},
        infer_rule=_infer_last_axes,
        reference_rule=lambda call: _last_axes(call, centered=True),
    ),
    Op(
        name="rms_norm",
        note="as `layer_norm`, without the mean",
        inputs=(_X, _WEIGHT),
        attrs={"axes": _AXES, "eps": _EPS},
        infer_rule=_infer_last_axes,
        reference_rule=lambda call: _last_axes(call, centered=False),
    ),
    Op(
        name="group_norm",
        note="over each group of channels",
        inputs=(_X, _WEIGHT, _BIAS),
        attrs={"groups": integer(1, SIZE), "eps": _EPS},
        infer_rule=_infer_group_norm,
        reference_rule=_group_norm,
    ),
)
