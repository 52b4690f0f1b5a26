"""A safetensors file, read here because it may come from anywhere: sizes, offsets and types are checked before use.

Tensors are read one by one into memory of their own (no mapping, so a file that is cut while it is open cannot kill the
process), and nothing in a file is ever executed, unpickled or followed.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Callable, Mapping
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..errors import FormatError
from ..graph import dims
from ..graph.ir import Array
from ..ops.spec import MAX_ELEMENTS, MAX_RANK

MAX_HEADER = 100_000_000
"""Bytes; safetensors' own limit."""
MAX_NAME = 2000
ROOM, ROOM_EACH = 40 * 2**20, 6
"""What a document may take in memory, by estimate: bytes, and bytes for each byte of the file."""
COSTS = {"[": 72, "{": 232, '"': 60, ",": 32}
"""Bytes of memory for each such character, by and by: of the JSON, and of what is made of it."""
MOST_COST = max(COSTS.values())

_DTYPES: Mapping[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
}
T = TypeVar("T")


def read(path: Path) -> tuple[dict[str, Any], dict[str, Array], int]:
    """The document in a file's metadata, its tensors, and about the bytes that the first takes. Raises FormatError,
    OSError."""
    with _open(path) as file:
        header, start, size = _header(file, path)
        document, taken = _document(header, path, start + size)
        tensors = {}
        entries = [(name, *_entry(name, entry, size)) for name, entry in header.items()]
        position = 0
        for name, dtype, shape, begin, end in sorted(entries, key=lambda item: item[3:]):
            if begin != position:
                raise FormatError(f"{path}: tensor {name!r} starts at {begin}, where {position} was expected")
            position = end
            file.seek(start + begin)
            tensors[name] = _tensor(file, name, dtype, shape)
        if position != size:
            raise FormatError(f"{path}: tensors end at {position} of {size} bytes")
        return document, tensors, taken


def read_document(path: Path) -> dict[str, Any]:
    """The document alone. Raises FormatError, OSError."""
    with _open(path) as file:
        header, start, size = _header(file, path)
        return _document(header, path, start + size)[0]


def read_sizes(path: Path) -> dict[str, int]:
    """The bytes that each tensor takes in a file. Raises FormatError, OSError."""
    with _open(path) as file:
        header, _, size = _header(file, path)
        entries = {name: _entry(name, entry, size) for name, entry in header.items() if name != "__metadata__"}
        return {name: end - begin for name, (_, _, begin, end) in entries.items()}


def _open(path: Path) -> FileIO:
    try:
        mode = path.stat().st_mode
    except ValueError as error:  # a zero, or half a character, in its name
        raise FormatError(f"{str(path)!r} is no path: {error}") from None
    if not stat.S_ISREG(mode):
        raise FormatError(f"{path} is not a regular file")
    return path.open("rb", buffering=0)


def _header(file: FileIO | BytesIO, path: Path) -> tuple[dict[str, Any], int, int]:
    """The header's JSON, where the tensors start and how many bytes they have."""
    total = os.fstat(file.fileno()).st_size
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > MAX_HEADER or 8 + length > total:
        raise FormatError(f"{path} is not a lowbit file, or is cut off: its header does not fit into its {total} bytes")
    raw = file.read(length)
    if len(raw) < length or not raw.startswith(b"{"):
        raise FormatError(f"{path} is not a lowbit file: it does not start as a safetensors file does")
    try:
        raw = raw.decode()  # large ones do not exist twice
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: the header is not UTF-8: {error}") from None
    return as_object(_json(raw, "the header", total), "the header"), 8 + length, total - 8 - length


def _document(header: dict[str, Any], path: Path, total: int) -> tuple[dict[str, Any], int]:
    """Taken out of the header, and about the bytes that it takes in memory."""
    text = header.pop("__metadata__", None)
    text = text.get("lowbit") if isinstance(text, dict) else None
    if not isinstance(text, str):
        raise FormatError(f"{path} is a safetensors file, but not one that lowbit wrote: it holds no graph")
    return as_object(_json(text, "the graph", total), "the graph"), cost(text)


def _json(text: str, what: str, total: int) -> Any:
    """Strict JSON: no repeated keys, no NaN or infinity, nothing deep, no half characters, no more than fits memory."""
    check_room(text, what, total)

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(items)
        if len(result) < len(items):
            raise FormatError(f"{what} repeats a key")
        return result

    def number(literal: str) -> float:
        value = float(literal)
        if not math.isfinite(value):
            raise FormatError(f"{what} holds the number {literal[:40]}")
        return value

    try:
        check_text(text)
        whole = _integer if _LONG.search(text) else None
        return json.loads(text, object_pairs_hook=pairs, parse_float=number, parse_constant=number, parse_int=whole)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} is not valid JSON: {error}") from None


def cost(text: str) -> int:
    """About the bytes that JSON takes in memory, with what is made of it."""
    return sum(text.count(sign) * each for sign, each in COSTS.items())


def check_room(text: str, what: str, total: int) -> None:
    """Refuses JSON that would take more memory than a file of `total` bytes may (FormatError), before it is read."""
    most = ROOM + ROOM_EACH * total
    if len(text) * MOST_COST <= most:
        return
    needed = cost(text)
    if needed > most:
        raise FormatError(
            f"{what} has {len(text):,} characters of JSON, which would take about {needed >> 20} MB of memory; a file "
            f"of {total:,} bytes may take {most >> 20} MB for it: leave out what no call needs, such as metadata"
        )


_LONG = re.compile("[0-9]{19}")


def _integer(literal: str) -> int:
    value = int(literal)
    if not -(2**63) <= value < 2**63:
        raise FormatError(f"an integer of {literal[:40]} has more than 64 bits")
    return value


def check_integers(text: str) -> None:
    """Refuses JSON with integers beyond 64 bits, which other readers would take for something else (FormatError)."""
    if _LONG.search(text):
        json.loads(text, parse_int=_integer)


_ESCAPE = re.compile(r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F])|.)", re.DOTALL)
"""A pair of surrogates, a lone one, or any other escape."""


def check_text(text: str) -> None:
    """Refuses escaped surrogates that are not pairs: no encoder takes the strings they make."""
    if re.search(r"\\u[dD][89a-fA-F]", text) and any(escape[1] for escape in _ESCAPE.finditer(text)):
        raise FormatError("a text holds half a character (a lone surrogate)")


def _entry(name: str, entry: Any, size: int) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    """The dtype, shape, begin and end of one tensor, in bounds and of the stated size."""
    fields = as_object(entry, f"tensor {name!r}", ("dtype", "shape", "data_offsets"))
    dtype, shape = dtype_and_shape(name, fields)
    offsets = as_list(fields["data_offsets"], f"the offsets of tensor {name!r}", as_size)
    if len(offsets) != 2 or not 0 <= offsets[0] <= offsets[1] <= size:
        raise FormatError(f"tensor {name!r} of shape {list(shape)[:20]} lies outside the file: {list(offsets)[:2]}")
    if math.prod(shape) * dtype.itemsize != offsets[1] - offsets[0]:
        raise FormatError(f"tensor {name!r} of shape {list(shape)} does not take {offsets[1] - offsets[0]} bytes")
    return dtype, shape, offsets[0], offsets[1]


def dtype_and_shape(name: str, fields: Mapping[str, Any]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """What a tensor's entry says of it. Raises FormatError."""
    dtype = _DTYPES.get(fields["dtype"]) if isinstance(fields["dtype"], str) else None
    if dtype is None:
        raise FormatError(f"tensor {name!r} has dtype {str(fields['dtype'])[:40]!r}, which lowbit does not read")
    shape = as_list(fields["shape"], f"the shape of tensor {name!r}", as_size)
    if len(shape) > MAX_RANK:
        raise FormatError(f"tensor {name!r} has {len(shape)} axes, more than {MAX_RANK}")
    if 0 in shape and math.prod(max(size, 1) for size in shape) > MAX_ELEMENTS:  # else its bytes must be there
        raise FormatError(f"tensor {name!r} of shape {list(shape)} has more than 2^40 elements")
    return dtype, shape


def dtype_name(dtype: np.dtype[Any]) -> str:
    """What safetensors calls it."""
    return next(name for name, known in _DTYPES.items() if known == dtype)


def _tensor(file: FileIO | BytesIO, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    raw = np.empty(math.prod(shape) * dtype.itemsize, np.uint8)
    view, filled = raw.data, 0
    while filled < len(raw):
        count = file.readinto(view[filled:])
        if not count:
            raise FormatError(f"the file ends inside tensor {name!r}")
        filled += count
    return from_bytes(name, raw, dtype, shape)


def from_bytes(name: str, raw: Array, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """A tensor of these bytes (u8), which are as many as it takes. Raises FormatError for what is no truth value."""
    if dtype == np.bool_ and raw.max(initial=0) > 1:
        raise FormatError(f"tensor {name!r} holds a byte that is no truth value")
    return raw.view(dtype).astype(dtype.newbyteorder("="), copy=False).reshape(shape)


# --------------------------------------------------------------------------------------------------------- checked JSON


def as_object(
    value: Any, what: str, keys: tuple[str, ...] | None = None, optional: tuple[str, ...] = ()
) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FormatError(f"{what} is not an object")
    if keys is not None:
        missing, surplus = set(keys) - set(value), set(value) - set(keys) - set(optional)
        if missing or surplus:
            raise FormatError(f"{what} lacks {sorted(missing)[:5]} or has unknown {sorted(surplus)[:5]}")
    return value


def as_list(value: Any, what: str, item: Callable[[Any, str], T]) -> tuple[T, ...]:
    if not isinstance(value, list):
        raise FormatError(f"{what} is not a list")
    return tuple(item(entry, what) for entry in value)


def as_text(value: Any, what: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_NAME:
        raise FormatError(f"{what}: a text of at most {MAX_NAME} characters was expected")
    return value


def as_size(value: Any, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < dims.LIMIT:
        raise FormatError(f"{what}: {str(value)[:40]!r} is no size")
    return value


def as_integer(value: Any, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= dims.LIMIT:
        raise FormatError(f"{what}: {str(value)[:40]!r} is no integer in range")
    return value
