"""Attention over keys and values that a caller keeps between calls, as the states of a graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import InputError
from ..graph import dims
from ..graph.ir import Array, Dim, Value
from .call import Call
from .integer import quantize_groups
from .spec import SIZE, Input, Op, integer, number

BLOCK = 16
"""Positions that lie together in a cache: so many keys are one vector for each of their features."""
SCALE = 4
"""Bytes of a position's scale, where a cache holds codes: a block of these ends with the scales of its positions."""
F32, F64 = np.float32, np.float64


def keys_shape(k: Sequence[Dim], blocks: Dim, dtype: str) -> tuple[Dim, ...]:
    """Of the cache that keys k [B, K, S, D] go to."""
    return (*k[:2], blocks, _coded(k[3], dtype), BLOCK)


def values_shape(v: Sequence[Dim], blocks: Dim, dtype: str) -> tuple[Dim, ...]:
    """Of the cache that values v [B, K, S, E] go to."""
    return (*v[:2], blocks, BLOCK, _coded(v[3], dtype))


def _coded(size: Dim, dtype: str) -> Dim:
    return dims.add(size, SCALE) if dtype == "s8" else size


def _infer(call: Call) -> Sequence[Value]:
    q, k, v = (call.shape(position, rank=4) for position in range(3))
    batch, heads, steps, depth = q
    keys = call.shape(3, rank=5)
    call.match(1, (batch, k[1], steps, depth))
    call.match(2, (batch, k[1], steps, v[3]))
    shared = isinstance(heads, int) and isinstance(k[1], int) and k[1] > 0 and heads % k[1] == 0
    call.need(shared, f"{heads} heads of q do not share {k[1]} heads of k")
    call.need(call.value(3).dtype == call.value(4).dtype, "the caches of keys and values differ in type")
    call.match(3, keys_shape(k, keys[2], call.value(3).dtype))
    call.match(4, values_shape(v, keys[2], call.value(3).dtype))
    call.match(5, (batch,))
    call.need(call.is_present(6) == call.is_present(7), "it takes cosines and sines, or neither")
    if call.is_present(6):
        turns = call.shape(6, rank=3)
        call.need(turns[0] == 1 or call.equal(turns[0], batch), f"cosines are of a batch of {turns[0]}, q of {batch}")
        call.same(turns[1], steps, "the steps of cosines and q differ")
        whole = isinstance(turns[2], int) and isinstance(depth, int) and turns[2] <= depth and turns[2] % 2 == 0
        call.need(whole, f"{turns[2]} of {depth} features cannot be turned")
        call.match(7, turns)
    call.at_least(dims.sub(dims.mul(keys[2], BLOCK), steps), 0, f"{steps} steps do not fit a cache of {keys[2]} blocks")
    return [Value(dtype="f32", shape=(*q[:3], v[3])), call.value(3), call.value(4)]


def _reference(call: Call) -> Sequence[Array]:
    q, k, v, keys, values, length = (call.array(position) for position in range(6))
    cosines, sines = call.optional(6), call.optional(7)
    if cosines is not None and sines is not None:
        q, k = _turned(q, cosines, sines), _turned(k, cosines, sines)
    steps, capacity = q.shape[2], keys.shape[2] * BLOCK
    for row, at in enumerate(length):
        if not 0 <= at <= capacity - steps:
            raise InputError(f"row {row} of the cache holds {at} of {capacity} positions, and {steps} more do not fit")
    kept_k, kept_v = _Kept(keys, k.shape[3], transposed=True), _Kept(values, v.shape[3])
    made = np.zeros((*q.shape[:3], v.shape[3]), F32)
    for row, at in enumerate(length):
        kept_k.put(row, int(at), k[row])
        kept_v.put(row, int(at), v[row])
        made[row] = _attend(call, q[row], kept_k.numbers(row), kept_v.numbers(row), int(at))
    return [made, kept_k.cache(), kept_v.cache()]


class _Kept:
    """A cache's numbers [B, K, C, N] and, if they are codes, scales f32 [B, K, C, 1].

    transposed: a block holds one feature of its positions after another.
    """

    def __init__(self, cache: Array, size: int, transposed: bool = False) -> None:
        self._like, self._transposed = cache, transposed
        heads, blocks = cache.shape[:2], cache.shape[2]
        parts = np.ascontiguousarray(cache).reshape(*heads, blocks, cache.shape[3] * cache.shape[4])
        numbers, rest = parts[..., : size * BLOCK], parts[..., size * BLOCK :]
        if transposed:
            numbers = np.swapaxes(numbers.reshape(*heads, blocks, size, BLOCK), 3, 4)
        self._numbers = numbers.reshape(*heads, blocks * BLOCK, size).copy()
        self._scales = None
        if cache.dtype == np.int8:
            self._scales = np.ascontiguousarray(rest).view(F32).reshape(*heads, blocks * BLOCK, 1)

    def put(self, row: int, at: int, x: Array) -> None:
        """Positions [K, S, N] of a row."""
        places = np.s_[row, :, at : at + x.shape[1]]
        if self._scales is None:
            self._numbers[places] = x
        else:
            codes, scales = quantize_groups(x, max(x.shape[2], 1))
            self._numbers[places] = codes
            self._scales[places] = scales.reshape(*x.shape[:2], 1) if x.shape[2] else 1

    def numbers(self, row: int) -> Array:
        """[K, C, N] in float64."""
        made: Array = self._numbers[row].astype(F64)
        return made if self._scales is None else made * self._scales[row]

    def cache(self) -> Array:
        blocks, size = self._like.shape[:3], self._numbers.shape[3]
        numbers = self._numbers.reshape(*blocks, BLOCK, size)
        if self._transposed:
            numbers = np.swapaxes(numbers, 3, 4)
        parts = [numbers.reshape(*blocks, BLOCK * size)]
        if self._scales is not None:
            parts.append(self._scales.view(np.int8).reshape(*blocks, BLOCK * SCALE))
        made: Array = np.concatenate(parts, axis=-1).reshape(self._like.shape)
        return made


def _turned(x: Array, cosines: Array, sines: Array) -> Array:
    """x [B, H, S, D] with its first features turned, in pairs that lie half of them apart."""
    count = cosines.shape[2]
    first, second = np.split(x[..., :count], 2, axis=-1)
    pairs = np.concatenate([-second, first], axis=-1)
    made = x[..., :count] * cosines[:, None] + pairs * sines[:, None]
    turned: Array = np.concatenate([made, x[..., count:]], axis=-1)
    return turned


def _attend(call: Call, q: Array, k: Array, v: Array, length: int) -> Array:
    """q [H, S, D] against all k [Hk, C, D] and v [Hk, C, E] that a step may see; [H, S, E]."""
    cap, window = call.attrs["softcap"], call.attrs["window"]
    last = length + np.arange(q.shape[1])[:, None]
    seen = np.arange(length + q.shape[1])
    k, v = (np.repeat(x[:, : len(seen)], q.shape[0] // len(x), axis=0) for x in (k, v))
    scores = q.astype(F64) @ np.swapaxes(k, 1, 2) * F32(call.attrs["scale"])
    if cap:
        scores = cap * np.tanh(scores / cap)
    kept = (seen <= last) & ((seen > last - window) if window else True)
    scores = np.where(kept, scores, -np.inf)
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    y: Array = (e / e.sum(axis=-1, keepdims=True) @ v).astype(F32)
    return y


_CACHE = ("f32", "f16", "s8")

OPS = (
    Op(
        name="cached_attention",
        note=(
            "q [B, H, S, D], k [B, K, S, D], v [B, K, S, E] of S new positions; keys [B, K, C/16, D, 16] and values "
            "[B, K, C/16, 16, E] hold those before them, length [B] of C. Gives y [B, H, S, E], and the caches with k "
            "and v at length .. length + S - 1. A position sees itself and what came before it, `window` positions in "
            "all (0: all); softcap c: scores become c * tanh(score / c). cosines, sines [B or 1, S, R]: the first R "
            "features of q and k are turned first (rotary embedding), d with d + R/2. Caches of s8 are [B, K, C/16, "
            "D + 4, 16] and [B, K, C/16, 16, E + 4]: the last 64 bytes of a block are the scales of its 16 positions, "
            "float32, little-endian; codes and scales are those of `quantize_groups`"
        ),
        inputs=(
            Input(name="q"),
            Input(name="k"),
            Input(name="v"),
            Input(name="keys", dtypes=_CACHE),
            Input(name="values", dtypes=_CACHE),
            Input(name="length", dtypes=("i64",)),
            Input(name="cosines", optional=True),
            Input(name="sines", optional=True),
        ),
        outputs=3,
        attrs={"scale": number(), "window": integer(0, SIZE, default=0), "softcap": number(minimum=0.0, default=0.0)},
        infer_rule=_infer,
        reference_rule=_reference,
    ),
)
