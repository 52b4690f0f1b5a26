"""Quantized weights: how codes of few bits lie in bytes, what may be said of them, and which formats kernels read.

Each output channel's codes have bytes of their own, one code after the other, the first in a byte's lowest bits; a code
of three bits may lie across two bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import GraphError
from . import blocks
from .blocks import AT_ONCE
from .ir import Array, Weight, replace

BITS = (1, 2, 3, 4, 8)
"""How many a code may have."""
MAX_GROUPS = 2048
"""Of a channel's weights (cpp/kernels/gemm_i4/gemm_i4.h)."""

# -------------------------------------------------------------------------------------------------------------- formats


@dataclass(frozen=True, kw_only=True)
class Format:
    """A kind of weight that kernels read; `ops/quantized.py` says which operators have such.

    packed: its name where codes lie in bytes as in a file, with several a byte. beside: the parts that a weight may
    have beside codes and scales. values: those that it must have.
    """

    name: str
    bits: int
    scales: tuple[str, ...]
    grouped: bool
    packed: str = ""
    beside: tuple[str, ...] = ()
    values: tuple[float, ...] = ()

    def fits(self, weight: Weight) -> bool:
        """Whether a weight is of this kind."""
        parts = [part for part in ("zero_points", "offsets", "values") if getattr(weight, part) is not None]
        return (
            weight.bits == self.bits
            and weight.scales.dtype.name in self.scales
            and (weight.group_size > 0) == self.grouped
            and set(parts) <= {*self.beside, *(("values",) if self.values else ())}
            and (not self.values or (weight.values is not None and weight.values.tolist() == list(self.values)))
        )


_EITHER = ("float16", "float32")
_BESIDE = ("zero_points", "offsets")
FORMATS: Mapping[str, Format] = {
    each.name: each
    for each in (
        Format(name="int8", bits=8, scales=("float32",), grouped=False),
        Format(name="int8-groups", bits=8, scales=_EITHER, grouped=True, beside=("offsets",)),
        Format(name="int4", bits=4, scales=_EITHER, grouped=True, packed="int4-nibbles", beside=_BESIDE),
        Format(name="int3", bits=3, scales=_EITHER, grouped=True, packed="int3-eighths", beside=_BESIDE),
        Format(name="int2", bits=2, scales=_EITHER, grouped=True, packed="int2-quarters", beside=_BESIDE),
        Format(name="int1", bits=1, scales=_EITHER, grouped=True, packed="int1-bits", beside=_BESIDE),
        Format(name="signs", bits=1, scales=("float32",), grouped=False, values=(-1.0, 1.0)),
    )
}


_WIDER = {3: 4, 1: 2}
"""With how many bits kernels read codes that they do not read as they are."""


def format_of(weight: Weight) -> Format | None:
    """The kind of a weight, if kernels read it; of one with a table, what its values are as codes."""
    held = weight if weight.values is None else _without_table(weight)
    return next((each for each in FORMATS.values() if each.fits(held)), None)


def as_read(weight: Weight) -> Weight:
    """The weight as kernels read it, the same numbers: three bits as four, one as two, values of a table as codes.

    Values that are not whole numbers of eight bits are none: the weight stays as it is, and no kernel reads it.
    """
    if weight.values is None:
        return replace(weight, bits=_WIDER.get(weight.bits, weight.bits))
    held = _without_table(weight)
    if held is weight:
        return weight
    table, rows = weight.values.astype(np.int8), weight.rows
    codes = np.empty(rows.shape, np.int8)
    for some, columns in _pieces(*rows.shape):
        codes[some, columns] = table[rows[some, columns]]
    return replace(held, codes=shaped(codes, weight.shape))


def _without_table(weight: Weight) -> Weight:
    """What a weight with a table is as codes, but for these; itself where it is none."""
    assert weight.values is not None
    low, high, size = float(weight.values.min()), float(weight.values.max()), weight.group_size
    if not (low >= -128 and high <= 127 and np.array_equal(np.rint(weight.values), weight.values)):
        return weight
    bits = next(bits for bits in ((2, 4, 8) if size else (8,)) if -middle(bits) <= low and high < middle(bits))
    return replace(weight, values=None, bits=bits, scales=weight.scales if size else weight.scales.astype(np.float32))


def few_bits() -> tuple[int, ...]:
    """How many bits, below eight, weights may have that kernels read in groups."""
    return tuple(sorted(each.bits for each in FORMATS.values() if each.grouped and each.bits < 8))


def describe(weight: Weight) -> str:
    """What a weight is, for messages: `2-bit codes with float16 scales in groups of 32 and offsets`."""
    groups = f"in groups of {weight.group_size}" if weight.group_size else "a channel"
    beside = [
        part.replace("_", " ") for part in ("zero_points", "offsets", "values") if getattr(weight, part) is not None
    ]
    text = " and ".join([f"{weight.bits}-bit codes with {weight.scales.dtype} scales {groups}", *beside])
    is_free = weight.values is not None and _without_table(weight) is weight
    return f"{text} that are not whole numbers from -128 to 127" if is_free else text


# -------------------------------------------------------------------------------------------------------------- packing


def middle(bits: int) -> int:
    """What is added to a symmetric weight's codes, so that none is below zero."""
    return 1 << (bits - 1)


def highest(bits: int) -> int:
    """The largest code that is packed, and the largest zero point."""
    return (1 << bits) - 1


def bytes_of(depth: int, bits: int) -> int:
    """What `depth` codes of one channel take."""
    return -(-depth * bits // 8)


def is_signed(weight: Weight) -> bool:
    """Whether codes lie around zero."""
    return weight.zero_points is None and weight.offsets is None and weight.values is None


def _pieces(channels: int, depth: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of at most `AT_ONCE` codes, one piece after the other."""
    columns = min(depth, AT_ONCE)
    rows = AT_ONCE // columns
    for row in range(0, channels, rows):
        for column in range(0, depth, columns):
            yield slice(row, row + rows), slice(column, min(column + columns, depth))


def pack(weight: Weight) -> Array:
    """A weight's codes as u8 [channels, bytes of a channel]; less than eight bits."""
    rows, bits = weight.rows, weight.bits
    up = np.int8(middle(bits) if is_signed(weight) else 0)
    packed = np.empty((len(rows), bytes_of(rows.shape[1], bits)), np.uint8)
    for some, columns in _pieces(*rows.shape):
        piece = packed[some, bytes_of(columns.start, bits) : bytes_of(columns.stop, bits)]
        piece[:] = pack_rows((rows[some, columns] + up).view(np.uint8), bits)
    return packed


def pack_rows(codes: Array, bits: int) -> Array:
    """Codes u8 [channels, depth] in bytes."""
    places = 8 // bits
    if 8 % bits:
        bits_of = codes[:, :, None] >> np.arange(bits, dtype=np.uint8) & 1
        packed: Array = np.packbits(bits_of.reshape(len(codes), codes.shape[1] * bits), axis=1, bitorder="little")
        return packed
    beyond = -codes.shape[1] % places
    whole = np.pad(codes, ((0, 0), (0, beyond))) if beyond else codes
    packed = whole[:, ::places].copy()
    for place in range(1, places):
        packed |= whole[:, place::places] << (place * bits)
    return packed


def unpack_rows(packed: Array, depth: int, bits: int) -> Array:
    """The codes, u8 [channels, depth]. Raises GraphError where bits beyond them are set."""
    if 8 % bits:
        flat = np.unpackbits(packed, axis=1, bitorder="little")
        whole, rest = flat[:, : depth * bits], flat[:, depth * bits :]
        places = 1 << np.arange(bits, dtype=np.uint8)
        codes: Array = (whole.reshape(len(packed), depth, bits) * places).sum(axis=2, dtype=np.uint8)
    else:
        parts = [packed >> shift & highest(bits) for shift in range(0, 8, bits)]
        every = np.stack(parts, axis=-1).reshape(packed.shape[0], -1)
        codes, rest = every[:, :depth], every[:, depth:]
    if rest.any():
        raise GraphError("a channel's last byte has codes beyond its depth, which must be zero")
    return codes


def unpack(packed: Array, shape: tuple[int, ...], bits: int, *, signed: bool) -> Array:
    """The codes, int8, of a weight of that shape; a view. Raises GraphError where they do not fit it."""
    depth = _check_packed(packed, shape, lambda depth: bytes_of(depth, bits))
    codes = np.empty((len(packed), depth), np.int8)
    for some, columns in _pieces(*codes.shape):
        piece = packed[some, bytes_of(columns.start, bits) : bytes_of(columns.stop, bits)]
        codes[some, columns] = unpack_rows(piece, columns.stop - columns.start, bits).view(np.int8)
    if signed:
        codes -= np.int8(middle(bits))
    return shaped(codes, shape)


def _check_packed(packed: Array, shape: tuple[int, ...], size: Callable[[int], int]) -> int:
    """The depth of a weight of that shape; size: what a channel's codes take."""
    if len(shape) < 2 or 0 in shape:
        raise GraphError(f"packed codes are of a weight {list(shape)}, must be of two axes or more, none of them 0")
    depth = math.prod(shape[1:])
    expected = (shape[0], size(depth))
    if packed.dtype != np.uint8 or packed.shape != expected:
        raise GraphError(f"packed codes are {packed.dtype} {list(packed.shape)}, must be uint8 {list(expected)}")
    return depth


TRITS = 5
"""Ternary codes in a byte of a file."""
_TRITS = (np.arange(3**TRITS)[:, None] // 3 ** np.arange(TRITS) % 3 - 1).astype(np.int8)
"""What a byte's codes are, the first its lowest digit to base three."""


def is_ternary(weight: Weight) -> bool:
    """Whether codes of two bits are -1, 0 and 1 alone, so that a file holds them in 1.6 bits."""
    return weight.bits == 2 and is_signed(weight) and bool(weight.codes.size) and int(weight.codes.min()) >= -1


def trit_bytes(depth: int) -> int:
    """What so many ternary codes of a channel take in a file."""
    return -(-depth // TRITS)


def pack_trits(weight: Weight) -> Array:
    """Ternary codes as u8 [channels, bytes of a channel], five a byte; those beyond the depth are -1."""
    rows = weight.rows
    padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % TRITS)), constant_values=-1)
    digits = (padded + 1).astype(np.uint8).reshape(len(rows), -1, TRITS)
    packed: Array = (digits * 3 ** np.arange(TRITS, dtype=np.uint8)).sum(axis=2, dtype=np.uint8)
    return packed


def unpack_trits(packed: Array, shape: tuple[int, ...]) -> Array:
    """The codes, int8, of a ternary weight of that shape; a view. Raises GraphError where they do not fit it."""
    depth = _check_packed(packed, shape, trit_bytes)
    if packed.max(initial=0) >= 3**TRITS:
        raise GraphError(f"a byte of ternary codes is above {3**TRITS - 1}")
    codes = np.empty((len(packed), depth), np.int8)
    for some, columns in _pieces(*codes.shape):
        piece = packed[some, trit_bytes(columns.start) : trit_bytes(columns.stop)]
        digits, width = _TRITS[piece].reshape(len(piece), -1), columns.stop - columns.start
        if (digits[:, width:] != -1).any():
            raise GraphError("a channel's last byte has digits beyond its depth, which must be zero")
        codes[some, columns] = digits[:, :width]
    return shaped(codes, shape)


def shaped(rows: Array, shape: tuple[int, ...]) -> Array:
    """Rows with the inputs of a channel innermost as a weight of that shape; a view."""
    return np.moveaxis(rows.reshape(shape[0], *shape[2:], shape[1]), -1, 1)


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What is told of a weight without its codes: bits of a code, and bytes that it takes in a file."""

    bits: int
    bytes: int


def stored(weight: Weight) -> Stored:
    """What a weight takes in a file."""
    codes, parts = weight.codes, (weight.scales, weight.zero_points, weight.offsets, weight.values)
    size = codes.size
    if weight.bits < 8:
        depth = codes[:1].size
        size = len(codes) * (trit_bytes(depth) if is_ternary(weight) else bytes_of(depth, weight.bits))
    elif weight.sparsity is not None:
        size = blocks.stored_bytes(codes.shape, weight.sparsity, blocks.kept(codes, weight.sparsity))
    return Stored(bits=weight.bits, bytes=size + sum(part.nbytes for part in parts if part is not None))


# ----------------------------------------------------------------------------------------------------------- validation


def problems(weight: Weight) -> Iterator[str]:
    """What is wrong with a weight."""
    codes = weight.codes
    if weight.bits not in BITS:
        yield f"bits {weight.bits}: a code has {', '.join(map(str, BITS[:-1]))} or {BITS[-1]}"
    elif codes.dtype != np.int8 or codes.ndim < 1:
        yield f"codes are {codes.dtype} of rank {codes.ndim}, must be int8 of rank 1 or more"
    elif (weight.bits < 8 or weight.group_size) and (codes.ndim < 2 or 0 in codes.shape):
        yield f"{weight.bits}-bit codes have shape {list(codes.shape)}, must be [channels, depth, ...], none of them 0"
    else:
        reasons = [*_group_problems(weight)]
        reasons = reasons or [*_part_problems(weight), *_code_problems(weight), *_sparsity_problems(weight)]
        yield from reasons
        if weight.values is not None and not reasons:
            held = as_read(weight)
            yield from () if held is weight else problems(held)


def _group_problems(weight: Weight) -> Iterator[str]:
    size, depth = weight.group_size, math.prod(weight.shape[1:])
    if size == 0:
        return
    if size < 0 or depth % size != 0 or (size % 8 != 0 and size != depth):
        yield f"group_size {size} must divide {depth}, and be a multiple of 8 unless it is the same"
    elif depth // size > _most_groups(weight.bits):
        yield f"{depth // size} groups are more than {_most_groups(weight.bits)}"
    elif weight.bits < 8 and size >= 2**31 // (255 * highest(_WIDER.get(weight.bits, weight.bits))):
        yield "a group's codes could overflow a 32-bit sum"


def _most_groups(bits: int) -> int:
    """Kernels take a group of eight-bit codes as two of four."""
    return MAX_GROUPS // 2 if bits == 8 else MAX_GROUPS


def _part_problems(weight: Weight) -> Iterator[str]:
    """Of scales, zero points, offsets and values."""
    size, depth = weight.group_size, math.prod(weight.shape[1:])
    shape = (weight.shape[0], depth // size) if size else weight.shape[:1]
    scales = weight.scales
    if scales.dtype not in (np.float16, np.float32) or scales.shape != shape:
        yield f"scales are {scales.dtype} {list(scales.shape)}, must be float16 or float32 {list(shape)}"
    elif not (np.isfinite(scales).all() and (scales > 0).all()):
        yield "a scale is not finite and positive"
    wanted = {
        "zero_points": (("uint8",), shape),
        "offsets": (_EITHER, shape),
        "values": (("float32",), (2**weight.bits,)),
    }
    given = {name: part for name in wanted if (part := getattr(weight, name)) is not None}
    if len(given) > 1:
        yield f"{' and '.join(given)} exclude each other"
    for name, part in given.items():
        types, shape = wanted[name]
        if part.dtype.name not in types or part.shape != shape:
            yield f"{name} are {part.dtype} {list(part.shape)}, must be {' or '.join(types)} {list(shape)}"
        elif name != "zero_points" and not np.isfinite(part).all():
            yield f"{name} are not all finite"
        elif name == "zero_points" and part.max(initial=0) > highest(weight.bits):
            yield f"a zero point is above {highest(weight.bits)}"
        if name != "offsets" and weight.bits == 8:
            yield f"codes of 8 bits have no {name.replace('_', ' ')}"


def _code_problems(weight: Weight) -> Iterator[str]:
    codes = weight.codes
    if weight.bits < 8:
        low = -middle(weight.bits) if is_signed(weight) else 0
        if codes.min() < low or codes.max() > low + highest(weight.bits):
            yield f"a code is not in {low} .. {low + highest(weight.bits)}"
        return
    depth = math.prod(codes.shape[1:])
    if depth * 128 * 255 >= 2**31:
        rows = codes.reshape(codes.shape[0], -1)
        largest = max((int(np.abs(row.astype(np.int16)).sum(dtype=np.int64)) for row in rows), default=0)
        if 255 * largest >= 2**31:
            yield "a channel's codes could overflow a 32-bit sum"


def _sparsity_problems(weight: Weight) -> Iterator[str]:
    if weight.sparsity is None:
        return
    if weight.bits != 8:
        yield f"sparsity {weight.sparsity!r}: only 8-bit codes are kept in blocks"
        return
    try:
        blocks.check(weight.codes, weight.sparsity)
    except GraphError as error:
        yield f"sparsity {weight.sparsity!r}: {error}"
