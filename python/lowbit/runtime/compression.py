"""Tensors of a file as streams of zlib (RFC 1951), which leave out what the frequencies of their bytes tell.

Codes of weights follow a bell curve, so Huffman's coding of single bytes finds most of what there is to find; repeats
are looked for, too, and what is shorter is kept. Numbers of several bytes go plane by plane: all first bytes, then all
second ones. Reading is bounded: a stream gives the bytes that its shape says, at most `MOST` times its own, or it is
refused.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..errors import FormatError
from ..graph.ir import Array
from . import container

Item = TypeVar("Item")
Result = TypeVar("Result")
MOST = 16
"""How many bytes a byte of a stream may stand for."""
WORTH = 0.97
"""Streams that are not this much shorter than their tensor are not kept."""
THREADED = 1 << 18
"""Bytes that are worth starting threads for."""
SMALL = 64
"""Bytes of a tensor that is left as it is."""
_RAW = -15  # a stream without zlib's own header and sum


def compress(tensors: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Any]]:
    """The tensors, with streams (u8) in place of those that are shorter so; and dtype and shape of these."""
    total = sum(tensor.nbytes for tensor in tensors.values())
    streams = dict(zip(tensors, _each(_stream, tensors.values(), total), strict=True))
    described = {
        name: {"dtype": container.dtype_name(tensors[name].dtype), "shape": list(tensors[name].shape)}
        for name, stream in streams.items()
        if stream is not None
    }
    return {name: tensors[name] if stream is None else stream for name, stream in streams.items()}, described


def expand(tensors: Mapping[str, Array], described: Any) -> dict[str, Array]:
    """All tensors, those that `described` names taken out of their streams. Raises FormatError."""
    entries = container.as_object(described, "compressed")
    unknown = sorted(entries.keys() - tensors.keys())
    if unknown:
        raise FormatError(f"compressed names {unknown[:5]}, which are no tensors")
    items = _each(lambda name: _tensor(name, tensors[name], entries[name]), entries, size(tensors, entries))
    return {**tensors, **dict(zip(entries, items, strict=True))}


def size(tensors: Mapping[str, Array], described: Any) -> int:
    """The most bytes that all streams can give. Raises FormatError."""
    entries = container.as_object(described, "compressed")
    return sum(min(_size(name, entries[name]), MOST * tensors[name].size) for name in entries.keys() & tensors.keys())


def left_out(path: Path) -> int:
    """The bytes that a file would have more without streams. Raises FormatError, OSError."""
    described = container.as_object(container.read_document(path).get("compressed", {}), "compressed")
    sizes = container.read_sizes(path)
    return sum(_size(name, entry) - sizes.get(name, 0) for name, entry in described.items())


def _size(name: str, entry: Any) -> int:
    dtype, shape = container.dtype_and_shape(name, container.as_object(entry, f"tensor {name!r}", ("dtype", "shape")))
    return math.prod(shape) * dtype.itemsize


def _each(do: Callable[[Item], Result], items: Iterable[Item], total: int) -> list[Result]:
    """What it makes of each; for many bytes in all, in as many threads as sessions have by default."""
    if total < THREADED:
        return [do(item) for item in items]
    from concurrent.futures import ThreadPoolExecutor  # imported here, for most files need none

    from .. import _core

    with ThreadPoolExecutor(_core.cpu()["threads"]) as pool:
        return list(pool.map(do, items))


def _stream(array: Array) -> Array | None:
    if array.nbytes < SMALL:
        return None
    planes = np.ascontiguousarray(array.reshape(-1).view(np.uint8).reshape(-1, array.itemsize).T).tobytes()
    shortest = min((_deflated(planes, how) for how in (zlib.Z_HUFFMAN_ONLY, zlib.Z_FILTERED)), key=len)
    if len(shortest) > WORTH * array.nbytes or len(shortest) * MOST < array.nbytes:
        return None
    return np.frombuffer(shortest, np.uint8)


def _deflated(data: bytes, strategy: int) -> bytes:
    job = zlib.compressobj(6, zlib.DEFLATED, _RAW, 9, strategy)
    return job.compress(data) + job.flush()


def _tensor(name: str, stream: Array, entry: Any) -> Array:
    dtype, shape = container.dtype_and_shape(name, container.as_object(entry, f"tensor {name!r}", ("dtype", "shape")))
    size = math.prod(shape) * dtype.itemsize
    if stream.dtype != np.uint8 or stream.ndim != 1 or size > MOST * stream.size:
        raise FormatError(f"tensor {name!r} of shape {list(shape)} is no stream of {stream.size} bytes")
    job = zlib.decompressobj(_RAW)
    try:
        planes = job.decompress(stream.data, size + 1)
    except zlib.error as error:
        raise FormatError(f"the stream of tensor {name!r} is damaged: {error}") from None
    if len(planes) != size or not job.eof or job.unused_data:
        raise FormatError(f"the stream of tensor {name!r} does not end with the {size} bytes of shape {list(shape)}")
    raw = np.empty(size, np.uint8)
    raw.reshape(-1, dtype.itemsize)[:] = np.frombuffer(planes, np.uint8).reshape(dtype.itemsize, -1).T
    return container.from_bytes(name, raw, dtype, shape)
