"""liblowbit.so as a program in C sees it: lowbit.h by ctypes."""

from __future__ import annotations

import ctypes as c
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import lowbit
from lowbit import _core
from lowbit.graph.ir import Array

ERRORS = {1: lowbit.FormatError, 2: lowbit.GraphError, 3: lowbit.InputError, 4: lowbit.LimitError,
          5: lowbit.UnsupportedError, 6: lowbit.EnvironmentVariableError, 7: OSError}  # fmt: skip
"""By status."""
DTYPES = {0: np.float32, 1: np.float16, 3: np.int64, 4: np.int32, 5: np.bool_, 6: np.uint8, 7: np.int8}


class Tensor(c.Structure):
    """lowbit_tensor."""

    _fields_ = (
        ("data", c.c_void_p),
        ("bytes", c.c_size_t),
        ("dtype", c.c_int32),
        ("rank", c.c_int32),
        ("shape", c.c_int64 * 8),
    )

    @classmethod
    def of(cls, array: Array) -> Tensor:
        dtype = next(key for key, known in DTYPES.items() if known == array.dtype)
        return cls(array.ctypes.data, array.nbytes, dtype, array.ndim, (c.c_int64 * 8)(*array.shape))


class Port(c.Structure):
    """lowbit_port."""

    _fields_ = (
        ("name", c.c_char_p),
        ("sizes", c.c_char_p),
        ("dtype", c.c_int32),
        ("rank", c.c_int32),
        ("shape", c.c_int64 * 8),
    )


class Options(c.Structure):
    """lowbit_options."""

    _fields_ = (
        ("size", c.c_size_t),
        ("threads", c.c_int32),
        ("isa", c.c_char_p),
        ("memory", c.c_int64),
        ("operations", c.c_double),
        ("seconds", c.c_double),
        ("batch", c.c_int64),
    )


P, S = c.c_void_p, c.c_size_t
_TENSORS = (P, c.POINTER(Tensor), S, c.POINTER(Tensor), S)


class Api(c.Structure):
    """lowbit_api."""

    _fields_ = (
        ("size", S),
        ("version", c.c_uint32),
        ("reserved", c.c_uint32),
        ("library_version", c.CFUNCTYPE(c.c_char_p)),
        ("error_text", c.CFUNCTYPE(c.c_char_p)),
        ("load_file", c.CFUNCTYPE(c.c_int, c.c_char_p, c.POINTER(Options), c.POINTER(P))),
        ("load_memory", c.CFUNCTYPE(c.c_int, c.c_char_p, S, c.POINTER(Options), c.POINTER(P))),
        ("unload", c.CFUNCTYPE(None, P)),
        ("input_count", c.CFUNCTYPE(S, P)),
        ("output_count", c.CFUNCTYPE(S, P)),
        ("input", c.CFUNCTYPE(c.c_int, P, S, c.POINTER(Port))),
        ("output", c.CFUNCTYPE(c.c_int, P, S, c.POINTER(Port))),
        ("threads", c.CFUNCTYPE(c.c_int32, P)),
        ("isa", c.CFUNCTYPE(c.c_char_p, P)),
        ("output_shapes", c.CFUNCTYPE(c.c_int, *_TENSORS)),
        ("run", c.CFUNCTYPE(c.c_int, *_TENSORS)),
    )


def library() -> Path:
    """The liblowbit.so that this process's _core uses."""
    assert _core
    lines = Path("/proc/self/maps").read_text().splitlines()
    return next(Path(line.split(maxsplit=5)[5]) for line in lines if line.endswith("/liblowbit.so"))


@cache
def api() -> Any:
    get = c.CDLL(str(library())).lowbit_get_api
    get.argtypes, get.restype = (c.c_uint32,), c.POINTER(Api)
    assert not get(0)
    assert not get(2)
    table = get(1).contents
    assert table.size == c.sizeof(Api)
    return table


def check(status: int) -> None:
    """Raises the error of a status, with the library's text."""
    if status:
        raise ERRORS[status](api().error_text().decode())


@dataclass(frozen=True)
class Named:
    """A port in Python's words."""

    name: str
    sizes: str
    dtype: Any
    shape: tuple[int, ...]


class CModel:
    """A model, loaded from a path or from bytes. Raises what lowbit.load raises."""

    def __init__(self, file: Path | bytes, **options: Any) -> None:
        self._model = P()
        given = Options(size=c.sizeof(Options), **options)
        if isinstance(file, bytes):
            check(api().load_memory(file, len(file), c.byref(given), c.byref(self._model)))
        else:
            check(api().load_file(str(file).encode(), c.byref(given), c.byref(self._model)))
        self.inputs = self._ports(api().input_count(self._model), api().input)
        self.outputs = self._ports(api().output_count(self._model), api().output)

    def __del__(self) -> None:
        api().unload(self._model)

    def _ports(self, count: int, describe: Any) -> list[Named]:
        ports = []
        for index in range(count):
            port = Port()
            check(describe(self._model, index, c.byref(port)))
            shape = tuple(port.shape[: port.rank])
            ports.append(Named(port.name.decode(), port.sizes.decode(), DTYPES[port.dtype], shape))
        return ports

    @property
    def threads(self) -> int:
        return int(api().threads(self._model))

    @property
    def isa(self) -> str:
        return str(api().isa(self._model).decode())

    def call(self, function: Any, inputs: Sequence[Array], outputs: Any) -> None:
        tensors = (Tensor * len(inputs))(*map(Tensor.of, inputs))
        check(function(self._model, tensors, len(tensors), outputs, len(outputs)))

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Runs into arrays of the shapes that output_shapes says."""
        dense = [np.ascontiguousarray(array).reshape(array.shape) for array in inputs]
        outputs = (Tensor * len(self.outputs))()
        self.call(api().output_shapes, dense, outputs)
        try:
            arrays = [np.empty(tuple(each.shape[: each.rank]), DTYPES[each.dtype]) for each in outputs]
        except MemoryError as error:
            raise lowbit.LimitError(error) from None
        assert [array.nbytes for array in arrays] == [each.bytes for each in outputs]
        for tensor, array in zip(outputs, arrays, strict=True):
            tensor.data = array.ctypes.data
        self.call(api().run, dense, outputs)
        return arrays
