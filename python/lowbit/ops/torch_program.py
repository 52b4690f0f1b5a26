"""A piece of a torch program as plain JSON, and running it. torch is imported here, and only when a piece is run.

    program  = {"nodes": [{"op": text, "args": [argument], "kwargs": {name: argument}}], "outputs": [argument]}
    op       = an operator by torch's own name, such as "aten.topk.default"; "getitem"; or a function of `FUNCTIONS`
    argument = number | text | truth value | null | [arguments]
             | {"input": i}     the segment's input i      | {"node": i}   what node i gave
             | {"size": i}      a size, evaluated for the call | {"number": "inf" | "-inf" | "nan"}
             | {"dtype" | "layout" | "memory_format": torch's name} | {"device": "cpu"}

Nothing is unpickled. But torch's operators trust their arguments, and some open files: run only programs you trust.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import InputError, UnsupportedError
from ..graph.ir import Array

FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    name: getattr(operator, name)
    for name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pow", "eq", "ne", "lt", "le", "gt", "ge")
} | {name: getattr(math, name) for name in ("trunc", "floor", "ceil", "sqrt")}
"""What a program does with sizes that are known only once it runs."""

_OP = re.compile(r"[A-Za-z_]\w*\.[A-Za-z_]\w*\.\w+")
_CONSTANTS = ("dtype", "layout", "memory_format")


def operations(program: bytes) -> list[str]:
    """The names of torch's operators in a program, in order, each once. Raises UnsupportedError."""
    names = dict.fromkeys(node["op"] for node in _read(program)["nodes"])
    return [name for name in names if name != "getitem" and name not in FUNCTIONS]


def _read(program: bytes) -> dict[str, Any]:
    try:
        read = json.loads(program)
        sound = all(isinstance(node["op"], str) and isinstance(node["args"], list) for node in read["nodes"])
        if not sound or not isinstance(read["outputs"], list):
            raise TypeError("nodes or outputs")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UnsupportedError(f"a torch segment's program is not sound: {error}") from None
    return dict(read)


class Segment:
    """A program that is ready to run. Raises UnsupportedError for one that is not sound or that this torch lacks."""

    def __init__(self, program: bytes) -> None:
        read = _read(program)
        self._nodes = [(_function(node["op"]), node["args"], node.get("kwargs", {})) for node in read["nodes"]]
        self._outputs = read["outputs"]

    def run(self, inputs: Sequence[Array], sizes: Sequence[int]) -> list[Array]:
        """The outputs, which share no memory with the inputs. Raises InputError with torch's reason if it fails."""
        import torch

        tensors = [torch.from_numpy(array if array.flags.writeable else array.copy()) for array in map(_plain, inputs)]
        given = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        try:
            with torch.no_grad():
                found = self._run(tensors, sizes)
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            raise InputError(f"a segment that runs in torch failed: {str(error).splitlines()[0]}") from error
        arrays = []
        for tensor in found:
            shared = tensor.untyped_storage().data_ptr() in given
            tensor = tensor.float() if tensor.dtype.is_floating_point else tensor
            arrays.append((tensor.clone() if shared else tensor).contiguous().numpy())
        return arrays

    def _run(self, inputs: Sequence[Any], sizes: Sequence[int]) -> list[Any]:
        made: list[Any] = []

        def value(argument: Any) -> Any:
            if isinstance(argument, list):
                return [value(item) for item in argument]
            if not isinstance(argument, dict):
                return argument
            ((kind, item),) = argument.items()
            found = {"input": inputs, "node": made, "size": sizes}.get(kind)
            return found[item] if found is not None else _constant(kind, item)

        for function, args, kwargs in self._nodes:
            made.append(function(*map(value, args), **{name: value(item) for name, item in kwargs.items()}))
        return [value(item) for item in self._outputs]

    def flops(self, inputs: Sequence[Array], sizes: Sequence[int]) -> int:
        """The operations of its matrix products and convolutions, a multiply-add counted as two."""
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            self.run(inputs, sizes)
        return int(counter.get_total_flops())


def _plain(array: Array) -> Array:
    return np.ascontiguousarray(array).reshape(array.shape)


def _function(name: str) -> Callable[..., Any]:
    import torch

    if name == "getitem":
        return operator.getitem
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    found: Any = torch.ops if _OP.fullmatch(name) else None
    for part in name.split(".") if found is not None else ():
        found = getattr(found, part, None)
    if not isinstance(found, type(torch.ops.aten.neg.default)):
        raise UnsupportedError(f"torch has no operator {name[:80]!r}: import the package that registers it first")
    return found


def _constant(kind: str, item: Any) -> Any:
    import torch

    if kind == "number":
        return float(item)
    if kind == "device":
        return torch.device("cpu")
    found = getattr(torch, str(item), None) if kind in _CONSTANTS else None
    if found is None or not isinstance(found, getattr(torch, kind)):
        raise UnsupportedError(f"a torch segment's program is not sound: {kind} {str(item)[:40]}")
    return found
