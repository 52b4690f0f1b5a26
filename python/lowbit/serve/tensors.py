"""Tensors of the protocol: what a model takes and gives, and arrays from and to bytes and JSON.

A tensor's datatype is the caller's, as NumPy has it: FP16 of a half-precision model, FP64 where the module took it.
What NumPy lacks is what lowbit takes in its place: FP32 for bfloat16, and FP32 [..., 2] for complex numbers. What has
no axes goes as an array of one element, as Triton has it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError
from ..graph.ir import Array

DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "INT8": np.dtype(np.int8),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
}
NAMES = {dtype: name for name, dtype in DATATYPES.items()}
CONTENTS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "INT8": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
"""The fields of InferTensorContents; FP16 has none, and is sent raw."""
LARGEST = 2**31


class Tensor(NamedTuple):
    """A model's input or output; -1 in the shape is a free size."""

    name: str
    datatype: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def describe(self) -> dict[str, Any]:
        """As the protocol's metadata has it."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}

    def accept(self, datatype: Any, shape: Any) -> tuple[int, ...]:
        """The shape of a request's tensor. Raises InputError if it is not one of this tensor's."""
        if datatype != self.datatype:
            raise InputError(f"input {self.name!r} is {self.datatype}, not {_short(datatype)}")
        sizes = tuple(shape) if isinstance(shape, Iterable) and not isinstance(shape, str | Mapping) else None
        if sizes is None or not all(type(size) is int and 0 <= size < LARGEST for size in sizes):
            raise InputError(f"input {self.name!r}: a shape is a list of sizes, not {_short(shape)}")
        if len(sizes) != len(self.shape) or any(
            size != own and own >= 0 for size, own in zip(sizes, self.shape, strict=True)
        ):
            raise InputError(f"input {self.name!r} has the shape {list(self.shape)} (-1: any size), not {list(sizes)}")
        return sizes

    def from_bytes(self, datatype: Any, shape: Any, data: bytes | memoryview) -> Array:
        """The array of raw bytes, row by row, little-endian: a view of them where they are aligned.

        Raises InputError.
        """
        sizes = self.accept(datatype, shape)
        needed = math.prod(sizes) * self.dtype.itemsize
        if len(data) != needed:
            raise InputError(f"input {self.name!r} of shape {list(sizes)} takes {needed:,} bytes, not {len(data):,}")
        if self.dtype.kind == "b":
            array: Array = np.frombuffer(data, np.uint8) != 0
        else:
            array = np.frombuffer(data, self.dtype)
            if not array.flags.aligned:
                array = array.copy()
        return self._shaped(array, sizes)

    def from_values(self, datatype: Any, shape: Any, data: Sequence[Any]) -> Array:
        """The array of numbers, flat or nested. Raises InputError for what the datatype cannot hold."""
        sizes = self.accept(datatype, shape)
        try:
            found: Array = np.array(data) if len(data) else np.empty(0, self.dtype)
        except (ValueError, OverflowError, TypeError):
            raise InputError(
                f"input {self.name!r}: data are numbers, in one list or in lists of equal lengths"
            ) from None
        if found.size != math.prod(sizes):
            raise InputError(
                f"input {self.name!r} of shape {list(sizes)} takes {math.prod(sizes):,} numbers, not {found.size:,}"
            )
        if found.ndim > 1 and found.shape != sizes:
            raise InputError(f"input {self.name!r}: data lie as {list(found.shape)}, the shape is {list(sizes)}")
        if not self._holds(found):
            raise InputError(f"input {self.name!r}: data are not all {self.datatype}")
        return self._shaped(found.astype(self.dtype), sizes)

    def _holds(self, found: Array) -> bool:
        kind = self.dtype.kind
        if not found.size:
            return True
        if kind == "b":
            return found.dtype.kind == "b" or (found.dtype.kind in "iu" and bool(((found == 0) | (found == 1)).all()))
        if kind == "f":
            if found.dtype.kind not in "iuf":
                return False
            return bool((np.abs(found) <= np.finfo(self.dtype).max).all())
        limits = np.iinfo(self.dtype)
        return found.dtype.kind in "iu" and bool(limits.min <= found.min() and found.max() <= limits.max)

    def _shaped(self, array: Array, sizes: tuple[int, ...]) -> Array:
        try:
            return array.reshape(sizes)
        except ValueError:
            raise InputError(f"input {self.name!r}: no array has the shape {list(sizes)}") from None


def to_values(name: str, array: Array) -> list[Any]:
    """The numbers of an array, flat. Raises InputError for those that JSON has not."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"output {name!r} holds NaN or infinity, which JSON has not: ask for it as binary data")
    found: list[Any] = array.ravel().tolist()
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
