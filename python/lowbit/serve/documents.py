"""Requests and answers of REST: JSON, with tensors in it or as bytes behind it (the extension `binary_tensor_data`)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError
from ..graph.ir import Array
from .refusals import Refused, Status
from .served import VERSION, Served
from .tensors import to_values

JSON_BYTES = 16 << 20
"""The largest document; what is larger is sent as binary data."""
JSON_NUMBERS = 2_000_000
"""The largest output that is written as JSON."""
DEPTH = 32
"""How deep a document may be nested; arrays have no more axes."""
_STRING = re.compile(rb'"(?:[^"\\]|\\.?)*(?:"|\Z)', re.S)
_BRACKETS = bytes(sorted(set(range(256)) - set(b"[]{}")))


class Asked(NamedTuple):
    """A request: its tensors, the outputs that it wants with whether as bytes (None: all), and its own time limit."""

    id: str | None
    given: dict[str, Array]
    outputs: list[tuple[str, bool]] | None
    is_binary: bool
    seconds: float | None


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


_decoder = json.JSONDecoder(parse_constant=_no_constant)


def parse(text: bytes) -> Any:
    """JSON as the standard has it. Raises InputError, Refused."""
    if len(text) > JSON_BYTES:
        raise Refused(Status.TOO_LARGE, f"JSON has at most {JSON_BYTES:,} bytes here: send tensors as binary data")
    if text.count(b"[") + text.count(b"{") > DEPTH and _depth(text) > DEPTH:
        raise InputError(f"JSON is nested at most {DEPTH} deep here")
    try:
        return _decoder.decode(text.decode())
    except ValueError as error:
        raise InputError(f"the body is no JSON: {str(error)[:200]}") from None


def _depth(text: bytes) -> int:
    """How deep brackets are nested, those in strings left out."""
    brackets = np.frombuffer(_STRING.sub(b"", text).translate(None, _BRACKETS), np.uint8)
    opens = (brackets == ord("[")) | (brackets == ord("{"))
    return int(np.cumsum(np.where(opens, 1, -1)).max(initial=0))


def read(served: Served, body: bytes, header: int | None) -> Asked:
    """A request. header: the bytes of JSON before binary data; None: all of the body. Raises InputError, Refused."""
    if header == 0:
        return _raw(served, body)
    if header is not None and not 0 < header <= len(body):
        raise InputError(f"Inference-Header-Content-Length is {header}, the body has {len(body):,} bytes")
    document = parse(body if header is None else body[:header])
    parameters = _parameters(document, "the request")
    rest = memoryview(body)[len(body) if header is None else header :]
    given: dict[str, Array] = {}
    for entry in _entries(document, "inputs"):
        name = _name(entry)
        tensor = served.inputs.get(name)
        if tensor is None:
            raise InputError(f"the model has no input {name[:80]!r}; it has {', '.join(map(repr, served.inputs))}")
        if name in given:
            raise InputError(f"input {name!r} is given twice")
        own = _parameters(entry, f"input {name!r}")
        size = own.get("binary_data_size")
        if size is None:
            data = entry.get("data")
            if not isinstance(data, list):
                raise InputError(f"input {name!r} has no list of data, and no binary_data_size")
            given[name] = tensor.from_values(entry.get("datatype"), entry.get("shape"), data)
            continue
        if type(size) is not int or not 0 <= size <= len(rest):
            raise InputError(f"input {name!r}: binary_data_size is {str(size)[:80]}, {len(rest):,} bytes follow")
        given[name] = tensor.from_bytes(entry.get("datatype"), entry.get("shape"), rest[:size])
        rest = rest[size:]
    if len(rest):
        raise InputError(f"{len(rest):,} bytes behind the last input belong to none")
    is_binary = parameters.get("binary_data_output") is True
    outputs = None
    if "outputs" in document and (wanted := [*_entries(document, "outputs")]):
        outputs = [
            (_name(entry), _parameters(entry, "an output").get("binary_data", is_binary) is True) for entry in wanted
        ]
    found = document.get("id")
    if "id" in document and not isinstance(found, str):
        raise InputError("id is a text")
    return Asked(found, given, outputs, is_binary, seconds_of(parameters.get("timeout")))


def seconds_of(timeout: Any) -> float | None:
    """Of the request's parameter "timeout", in microseconds. Raises InputError."""
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int) or timeout < 0:
        raise InputError("the parameter timeout is a number of microseconds")
    return timeout / 1e6 if timeout else None


def _raw(served: Served, body: bytes) -> Asked:
    """A body that is the only input's bytes, without JSON."""
    if len(served.inputs) != 1:
        raise InputError(f"only a model of one input is asked without JSON; {served.name!r} has {len(served.inputs)}")
    (tensor,) = served.inputs.values()
    fixed = math.prod(size for size in tensor.shape if size >= 0) * tensor.dtype.itemsize
    free = len(body) // fixed if fixed and -1 in tensor.shape else 1
    if tensor.shape.count(-1) > 1:
        raise InputError(f"input {tensor.name!r} has {tensor.shape.count(-1)} free sizes: say its shape in JSON")
    shape = [free if size < 0 else size for size in tensor.shape]
    return Asked(None, {tensor.name: tensor.from_bytes(tensor.datatype, shape, body)}, None, True, None)


def _entries(document: Mapping[str, Any], key: str) -> Iterator[dict[str, Any]]:
    entries = document.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{key} are a list of objects")
    yield from entries


def _name(entry: Mapping[str, Any]) -> str:
    name = entry.get("name")
    if not isinstance(name, str):
        raise InputError("an input or output has no name")
    return name


REFUSED = ("shared_memory_region", "classification")
"""Parameters that would change what an answer means, and are not served."""


def _parameters(entry: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(entry, dict):
        raise InputError(f"{what} is no object")
    found = entry.get("parameters", {})
    if not isinstance(found, dict):
        raise InputError(f"the parameters of {what} are no object")
    check_parameters(found, what)
    return found


def check_parameters(names: Any, what: str) -> None:
    """Raises InputError for what is not served."""
    if asked := [name for name in REFUSED if name in names]:
        raise InputError(f"{what} asks for {asked[0]}, which is not served here")


def answer(served: Served, asked: Asked, made: list[Array]) -> tuple[list[bytes], int | None]:
    """The body in pieces, and how many bytes of it are JSON where others follow. Raises InputError."""
    found = served.give(made, None if asked.outputs is None else [name for name, _ in asked.outputs])
    kinds = [asked.is_binary] * len(found) if asked.outputs is None else [kind for _, kind in asked.outputs]
    entries, pieces = [], list[bytes]()
    for (tensor, array), is_binary in zip(found, kinds, strict=True):
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(array.shape)}
        if is_binary:
            pieces.append(array.tobytes())
            entry["parameters"] = {"binary_data_size": array.nbytes}
        elif array.size > JSON_NUMBERS:
            raise InputError(f"output {tensor.name!r} has {array.size:,} numbers: ask for it as binary data")
        else:
            entry["data"] = to_values(tensor.name, array)
        entries.append(entry)
    document: dict[str, Any] = {} if asked.id is None else {"id": asked.id}
    document |= {"model_name": served.name, "model_version": VERSION, "outputs": entries}
    text = json.dumps(document).encode()
    return [text, *pieces], len(text) if pieces else None
