"""Fourier transforms as products with constant tables of cosines and sines, and the short-time ones made of them.

    X[k] = sum over j of x[j] (cos(t j k) + i sin(t j k)),  t = -2 pi / n (forward) or 2 pi / n (inverse)

A table is made in float64 and rounded once; where n is free, the session makes it when it plans. A length above
`DIRECT` that has a factor goes by Cooley and Tukey's two stages: with j = q j1 + j2 and k = k1 + p k2, n = p q,

    X[k1 + p k2] = sum over j2 of w_q^(j2 k2) w_n^(j2 k1) (sum over j1 of w_p^(j1 k1) x[q j1 + j2])

These products stay float32: as `matmul` nodes, which no pass quantizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...graph import dims
from ...graph.ir import Array, Dim
from ..builder import Complex, Ref, Unlowerable
from ..lowering import Lowering
from ..registry import lowers, lowers_complex
from .common import filled, part
from .complex_values import conj, parted
from .padding import pad
from .repetition import roll

DIRECT = 192
"""Up to this length one product is faster than two with what lies between them."""
LARGEST = 4096
"""The longest transform that is one product: its tables take 128 MiB."""

Signal = Ref | Complex


def _each(function: Callable[[Ref], Ref], x: Signal) -> Any:
    """On both parts, or on what is real."""
    return Complex(function(x.real), function(x.imag)) if isinstance(x, Complex) else function(x)


# -------------------------------------------------------------------------------------------------------------- tables


class _Wave(NamedTuple):
    """cos and sin of 2 pi j k / n, [rows, columns]."""

    cos: Ref
    sin: Ref


def _turns(rows: int, columns: int, n: int, scale: Array | float = 1.0) -> tuple[Array, Array]:
    """Fractions of a turn are exact, so the quarters are."""
    angle = 2 * np.pi * (np.outer(np.arange(rows), np.arange(columns)) % n) / n
    cos, sin = (np.round(f(angle), 15) * scale for f in (np.cos, np.sin))
    return cos.astype(np.float32), sin.astype(np.float32)


def _wave(c: Lowering, rows: Dim, columns: Dim, n: Dim, scale: float) -> _Wave:
    if isinstance(n, int) and isinstance(rows, int) and isinstance(columns, int):
        if n > LARGEST:
            raise Unlowerable(
                f"a Fourier transform of length {n}, which has no factors that lowbit can split it by",
                "pad the signal to a length with small factors, such as a power of two",
            )
        return _Wave(*(c.constant(table) for table in _turns(rows, columns, n, scale)))
    a, b = (c.emit("arange", start=0, length=size, dtype="i64") for size in (rows, columns))
    size = c.operand(n, "i64")
    rest = c.emit("remainder", c.emit("mul", c.reshape(a, (rows, 1)), b), size)
    over = c.cast(c.emit("compare", c.emit("add", rest, rest), size, kind="gt"), "i64")
    nearest = c.cast(c.emit("sub", rest, c.emit("mul", over, size)), "f32")  # at most half a turn: more precise
    angle = c.emit("mul", nearest, c.emit("div", c.constant(2 * math.pi), c.cast(size, "f32")))
    return _Wave(c.emit("unary", angle, kind="cos"), c.emit("unary", angle, kind="sin"))


def _scale(c: Lowering, norm: str | None, n: Dim, inverse: bool) -> tuple[float, Ref | None]:
    """What a transform is multiplied by: a number, or a computed one where n is free."""
    power = {"ortho": 0.5, "forward": float(not inverse)}.get(norm or "backward", float(inverse))
    if power == 0 or isinstance(n, int):
        return (float(n) ** -power if isinstance(n, int) else 1.0), None
    size = c.operand(n, "f32")
    return 1.0, c.emit("div", c.constant(1.0), size if power == 1 else c.emit("unary", size, kind="sqrt"))


# ---------------------------------------------------------------------------------------------------------- transforms


def _times(c: Lowering, x: Ref, axis: int, wave: Ref) -> Ref:
    """x with `axis` [n] multiplied by [n, m]."""
    n, m = wave.shape
    if axis == x.rank - 1:
        rows = c.reshape(x, (1, n)) if x.rank == 1 else x
        return c.reshape(c.emit("matmul", rows, wave), (*x.shape[:-1], m))
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    y = c.emit("matmul", c.emit("transpose", wave, perm=(1, 0)), c.reshape(x, (*before, n, dims.mul(*after))))
    return c.reshape(y, (*before, m, *after))


def _transform(c: Lowering, x: Signal, axis: int, outputs: Dim, inverse: bool, scale: float) -> Complex:
    """The first `outputs` of the transform along an axis, times `scale`."""
    n = x.shape[axis]
    if isinstance(n, int) and isinstance(outputs, int) and (split := _split(n)):
        return _two_stages(c, x, axis, outputs, split, inverse, scale)
    wave = _wave(c, n, outputs, n, scale)
    if isinstance(x, Ref):
        real, turned = _times(c, x, axis, wave.cos), _times(c, x, axis, wave.sin)
        return Complex(real, turned if inverse else c.emit("unary", turned, kind="neg"))
    (ac, bc), (a_s, bs) = ([_times(c, item, axis, table) for item in (x.real, x.imag)] for table in wave)
    ops = ("sub", "add") if inverse else ("add", "sub")
    return Complex(c.emit(ops[0], ac, bs), c.emit(ops[1], bc, a_s))


def _split(n: int) -> tuple[int, int] | None:
    """p and q for a length that is better split: the factors nearest its root, if they save enough."""
    if n <= DIRECT:
        return None
    p = next(p for p in range(math.isqrt(n), 0, -1) if n % p == 0)
    return (p, n // p) if p >= 8 or (p > 1 and n > LARGEST) else None


def _two_stages(
    c: Lowering, x: Signal, axis: int, outputs: int, split: tuple[int, int], inverse: bool, scale: float
) -> Complex:
    p, q = split
    rank, n = x.rank, p * q
    order = [*(place for place in range(rank) if place != axis), axis]
    x = _each(lambda item: _permuted(c, item, order), x)
    lead = x.shape[:-1]
    x = _each(lambda item: c.reshape(item, (*lead, p, q)), x)
    inner = _transform(c, x, rank - 1, p, inverse, 1.0)
    cos, sin = (c.constant(table) for table in _turns(p, q, n, scale))
    a, b = inner.real, inner.imag
    first, second = ("sub", "add") if inverse else ("add", "sub")
    turned = Complex(
        c.emit(first, c.emit("mul", a, cos), c.emit("mul", b, sin)),
        c.emit(second, c.emit("mul", b, cos), c.emit("mul", a, sin)),
    )
    count = -(-outputs // p)
    y = _transform(c, turned, rank, count, inverse, 1.0)
    swapped = [*range(rank - 1), rank, rank - 1]

    def finish(item: Ref) -> Ref:
        whole = c.reshape(_permuted(c, item, swapped), (*lead, p * count))
        kept = whole if p * count == outputs else part(c, whole, rank - 1, 0, outputs)
        return _permuted(c, kept, [order.index(place) for place in range(rank)])

    return Complex(finish(y.real), finish(y.imag))


def _permuted(c: Lowering, x: Ref, order: Sequence[int]) -> Ref:
    return x if list(order) == list(range(x.rank)) else c.emit("transpose", x, perm=tuple(order))


def _half(n: Dim) -> Dim:
    """How many outputs of a real signal's transform say all."""
    return dims.add(dims.floordiv(n, 2), 1)


def _to_real(c: Lowering, x: Complex, axis: int, n: Dim, inverse: bool, scale: float) -> Ref:
    """The real signal of length n whose transform has this first half: each output but the first (and the last of an
    even n) stands for two."""
    if isinstance(n, int) and _split(n) is not None:
        mirrored = part(c, x.real, axis, 1, (n - 1) // 2), part(c, conj(c, x).imag, axis, 1, (n - 1) // 2)
        back = c.emit("arange", start=(n - 1) // 2 - 1, length=(n - 1) // 2, step=-1, dtype="i64")
        rest = [c.emit("take", item, back, axis=axis) for item in mirrored]
        edge = _edges_real(c, x.imag, axis, n)
        whole = Complex(*(c.emit("concat", *pair, axis=axis) for pair in zip((x.real, edge), rest, strict=True)))
        return _transform(c, whole, axis, n, inverse, scale).real
    half = _half(n)
    wave = _wave(c, half, n, n, 1.0)
    if isinstance(n, int):
        cos, sin = (c.constants[table.name].astype(np.float64) for table in wave)
        weight = np.full((n // 2 + 1, 1), 2.0 * scale)
        weight[0] = scale
        if n % 2 == 0:
            weight[-1] = scale
        wave = _Wave(*(c.constant((table * weight).astype(np.float32)) for table in (cos, sin)))
    else:
        place = c.emit("arange", start=0, length=half, dtype="i64")
        twice = c.emit("remainder", c.emit("add", place, place), c.operand(n, "i64"))  # 0 for the ones that are alone
        weight_ = c.emit(
            "add", c.cast(c.emit("compare", twice, c.operand(0, "i64"), kind="ne"), "f32"), c.constant(1.0)
        )
        wave = _Wave(*(c.emit("mul", table, c.reshape(weight_, (half, 1))) for table in wave))
    a, b = _times(c, x.real, axis, wave.cos), _times(c, x.imag, axis, wave.sin)
    return c.emit("sub" if inverse else "add", a, b)


def _edges_real(c: Lowering, imag: Ref, axis: int, n: int) -> Ref:
    """Without the imaginary parts that a real signal has not: of the first, and of the last if n is even."""
    alone = np.ones(n // 2 + 1, np.float32)
    alone[0] = 0
    if n % 2 == 0:
        alone[-1] = 0
    return c.emit("mul", imag, c.constant(alone.reshape((-1,) + (1,) * (imag.rank - 1 - axis))))


def _sized(c: Lowering, x: Signal, axis: int, n: Dim) -> Signal:
    """Cut off, or filled with zeros, to n on an axis."""

    def fit(item: Ref) -> Ref:
        size = item.shape[axis]
        if size == n:
            return item
        missing = dims.maximum(dims.sub(n, size), 0)
        if missing != 0:
            padding: list[Dim] = [0] * (2 * item.rank)
            padding[2 * axis + 1] = missing
            item = c.emit("pad", item, padding=tuple(padding), value=0.0, mode="constant")
        return item if item.shape[axis] == n else part(c, item, axis, 0, n)

    fitted: Signal = _each(fit, x)
    return fitted


class _Step(NamedTuple):
    """One axis of a transform. kind: "full", "half" (what says all of a real signal's) or "real" (from such a half)."""

    axis: int
    n: Dim
    kind: str


def _run(c: Lowering, x: Signal, steps: Sequence[_Step], norm: str | None, inverse: bool) -> Any:
    """Axis after axis."""
    x = _each(lambda item: c.cast(item, "f32"), x)
    for axis, n, kind in steps:
        number, computed = _scale(c, norm, n, inverse)
        if kind == "half" and isinstance(x, Complex):
            raise Unlowerable("a transform for real signals of a complex one")
        if kind == "real":
            x = _to_real(c, parted(c, _sized(c, x, axis, _half(n))), axis, n, inverse, number)
        else:
            x = _transform(c, _sized(c, x, axis, n), axis, _half(n) if kind == "half" else n, inverse, number)
        if computed is not None:
            x = _scaled(c, x, computed)
    return x


def _scaled(c: Lowering, x: Signal, factor: Ref) -> Any:
    return _each(lambda item: c.emit("mul", item, factor), x)


def _steps(x: Signal, sizes: Sequence[Dim] | None, axes: Sequence[int] | None, kind: str) -> list[_Step]:
    """Of an n-dimensional transform, in torch's order: what begins or ends real does so on the last axis."""
    if axes is None:
        axes = range(x.rank - len(sizes), x.rank) if sizes else range(x.rank)
    places = [axis % x.rank for axis in axes]
    given = [x.shape[axis] for axis in places]
    if kind == "real":
        given[-1] = dims.mul(2, dims.sub(given[-1], 1))
    given = [size if size != -1 else own for size, own in zip(sizes or given, given, strict=True)]
    steps = [_Step(axis, n, "full") for axis, n in zip(places, given, strict=True)]
    last = steps.pop()._replace(kind=kind)
    return [last, *steps] if kind == "half" else [*steps, last]


def _register(stem: str, kind: str, inverse: bool) -> None:
    """`stem` over one axis, `stem`2 and `stem`n over several."""

    def single(c: Lowering, x: Signal, n: Dim | None, axis: int, norm: str | None) -> Any:
        return _run(c, x, _steps(x, None if n is None else [n], [axis], kind), norm, inverse)

    def several(c: Lowering, x: Signal, sizes: Any, axes: Any, norm: str | None) -> Any:
        return _run(c, x, _steps(x, sizes, axes, kind), norm, inverse)

    for register in (lowers, lowers_complex):
        register(f"fft_{stem}")(single)
        register(f"fft_{stem}2", f"fft_{stem}n")(several)


_register("fft", "full", False)
_register("ifft", "full", True)
_register("rfft", "half", False)
_register("irfft", "real", True)
_register("hfft", "real", False)
_register("ihfft", "half", True)


@lowers("fft_fftshift")
def fftshift(c: Lowering, x: Ref, axes: Any) -> Ref:
    return _shifted(c, x, axes, 0)


@lowers("fft_ifftshift")
def ifftshift(c: Lowering, x: Ref, axes: Any) -> Ref:
    return _shifted(c, x, axes, 1)


def _shifted(c: Lowering, x: Ref, axes: Any, more: int) -> Ref:
    chosen = [axes] if isinstance(axes, int) else list(range(x.rank) if axes is None else axes)
    return roll(c, x, [dims.floordiv(dims.add(x.shape[axis], more), 2) for axis in chosen], chosen)


@lowers("fft_fftfreq", "fft_rfftfreq")
def frequencies(c: Lowering, n: Dim, step: float) -> Ref:
    """0, 1, ... and then the negative ones, over n steps."""
    place = c.emit("arange", start=0, length=c.out_shape()[0], dtype="i64")
    if "rfftfreq" not in str(c.node.target):
        half = c.operand(dims.floordiv(n, 2), "i64")
        turned = c.emit("remainder", c.emit("add", place, half), c.operand(n, "i64"))
        place = c.emit("sub", turned, half)
    return c.emit("div", c.cast(place, "f32"), c.emit("mul", c.operand(n, "f32"), c.constant(float(step))))


# ----------------------------------------------------------------------------------------------------- short-time ones


def _frames(c: Lowering, x: Ref, size: int, hop: int) -> Ref:
    """[B, L] as its windows [B, T, size]: side by side the blocks that they are made of, or element by element."""
    count = dims.add(dims.floordiv(dims.sub(x.shape[1], size), hop), 1)
    block = math.gcd(size, hop)
    if block >= BLOCK:
        stride, pieces = hop // block, size // block
        blocks = dims.add(dims.mul(dims.sub(count, 1), stride), pieces)
        rows = c.reshape(part(c, x, 1, 0, dims.mul(blocks, block)), (x.shape[0], blocks, block))
        views = [part(c, rows, 1, place, count, stride) for place in range(pieces)]
        return views[0] if pieces == 1 else c.emit("concat", *views, axis=2)
    return c.emit("take", x, _places(c, count, size, hop), axis=1)


BLOCK = 8
"""Elements: windows are put together from blocks of at least so many."""


def _places(c: Lowering, count: Dim, size: int, hop: int) -> Ref:
    """Where the elements of each window lie, [T, size]."""
    starts = c.emit("arange", start=0, length=count, step=hop, dtype="i64")
    return c.emit("add", c.reshape(starts, (count, 1)), c.emit("arange", start=0, length=size, dtype="i64"))


def _window(c: Lowering, window: Signal | None, length: int | None, size: int) -> Ref | None:
    """The window as wide as a frame, or None for one of ones."""
    if isinstance(window, Complex):
        raise Unlowerable("a complex window")
    length = size if length is None else int(length)
    if window is None:
        if length == size:
            return None
        window = c.constant(np.ones(length, np.float32))
    window = c.cast(window, "f32")
    before = (size - length) // 2
    if window.name in c.constants:
        return c.constant(np.pad(c.constants[window.name], (before, size - length - before)))
    sides = (before, size - length - before)
    return c.emit("pad", window, padding=sides, value=0.0, mode="constant") if any(sides) else window


@lowers_complex("stft.default")
def stft(
    c: Lowering,
    x: Signal,
    size: int,
    hop: int | None,
    length: int | None,
    window: Signal | None,
    normalized: bool,
    onesided: bool | None,
) -> Any:
    """[B, L] to [B, frequencies, T]: windows, times the window, transformed."""
    hop = size // 4 if hop is None else int(hop)
    one = x.rank == 1
    x = _each(lambda item: c.reshape(c.cast(item, "f32"), (1, *item.shape)) if one else c.cast(item, "f32"), x)
    shape = _window(c, window, length, size)
    frames = _each(lambda item: _windowed(c, _frames(c, item, size, hop), shape), x)
    half = isinstance(x, Ref) and onesided is not False
    scale = size**-0.5 if normalized else 1.0
    y = _transform(c, frames, 2, _half(size) if half else size, False, scale)
    y = _each(lambda item: c.emit("transpose", item, perm=(0, 2, 1)), y)
    return _each(lambda item: c.reshape(item, item.shape[1:]), y) if one else y


def _windowed(c: Lowering, frames: Ref, window: Ref | None) -> Ref:
    return frames if window is None else c.emit("mul", frames, window)


@lowers_complex("stft.center")
def stft_centered(
    c: Lowering,
    x: Signal,
    size: int,
    hop: int | None,
    length: int | None,
    window: Signal | None,
    center: bool,
    mode: str,
    normalized: bool,
    onesided: bool | None,
) -> Any:
    if center:
        x = _each(lambda item: pad(c, item, [size // 2, size // 2], mode, None), x)
    return stft(c, x, size, hop, length, window, normalized, onesided)


@lowers("stft.default", "stft.center")
def stft_as_real(c: Lowering) -> Ref:
    raise Unlowerable("stft that returns real numbers", "pass return_complex=True, and torch.view_as_real of it")


@lowers_complex("istft")
def istft(
    c: Lowering,
    x: Complex,
    size: int,
    hop: int | None,
    width: int | None,
    window: Signal | None,
    center: bool,
    normalized: bool,
    onesided: bool | None,
    length: Dim | None,
) -> Ref:
    """The windows transformed back, times the window, added up, over what the squares of the window add up to.

    Of a whole transform only the first half counts, as in torch.
    """
    hop = size // 4 if hop is None else int(hop)
    if c.node.meta["val"].is_complex():
        raise Unlowerable("istft that returns complex numbers")
    parts = _each(lambda item: c.reshape(item, (1, *item.shape)) if x.rank == 2 else item, x)
    frames = _each(lambda item: c.emit("transpose", item, perm=(0, 2, 1)), parts)
    count = frames.shape[1]
    scale = (size**0.5 if normalized else 1.0) / size
    half = _each(lambda item: item if item.shape[2] == _half(size) else part(c, item, 2, 0, _half(size)), frames)
    pieces = _to_real(c, half, 2, size, True, scale)
    shape = _window(c, window, width, size) or c.constant(np.ones(size, np.float32))
    total = dims.add(size, dims.mul(hop, dims.sub(count, 1)))
    places = _places(c, count, size, hop)

    def added(pieces: Ref) -> Ref:
        zeros = filled(c, (*pieces.shape[:-2], total), 0.0, "f32")
        return c.emit("index_put", zeros, pieces, places, axis=pieces.rank - 2, reduce="add")

    y = added(c.emit("mul", pieces, shape))
    weight = added(c.emit("expand", c.emit("mul", shape, shape), shape=(count, size)))
    first = size // 2 if center else 0
    wanted = length if length is not None else dims.sub(total, 2 * first)
    there = dims.minimum(wanted, dims.sub(total, first))
    y, weight = part(c, y, 1, first, there), part(c, weight, 0, first, there)
    whole = _sized(c, c.emit("div", y, weight), 1, wanted)
    assert isinstance(whole, Ref)
    return c.reshape(whole)
