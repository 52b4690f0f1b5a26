"""A `.lowbit` file: a safetensors file whose metadata holds the graph as JSON (docs/file-format.md).

Writing goes through safetensors. Reading is done here, because a file may come from anywhere: every size, offset and
type is checked before it is used, tensors are read one by one into memory of their own (no mapping, so a file that is
cut while it is open cannot kill the process), and nothing in a file is ever executed, unpickled or followed.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from ..errors import FormatError, GraphError
from ..graph import blocks, dims
from ..graph.ir import Array, Attribute, Condition, Dim, Graph, Node, Quant, Symbol, Value, Weight
from ..graph.packings import PACKINGS
from ..ops.interpreter import validate
from ..ops.spec import MAX_RANK

VERSION = 1
MAX_HEADER = 100_000_000
"""Bytes; safetensors' own limit."""
MAX_NAME = 2000

_TENSOR_DTYPES: Mapping[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
}
_PARTS = ("codes", "scales", "zero_points", "g_idx")
T = TypeVar("T")

# ---------------------------------------------------------------------------------------------------------------- write


def save(path: str | os.PathLike[str], graph: Graph, meta: Mapping[str, Any] | None = None) -> None:
    """Write a valid graph and plain JSON about it, atomically; the same graph gives the same bytes.

    Raises GraphError for an invalid graph, FormatError for what the format cannot hold, OSError.
    """
    import tempfile

    import safetensors.numpy

    tensors, metadata = _contents(graph, meta)
    target = Path(path)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    os.close(handle)
    try:
        safetensors.numpy.save_file(tensors, temporary, metadata=metadata)
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(target)
    except safetensors.SafetensorError as error:
        raise FormatError(f"{target} cannot be written: {error}") from None
    finally:
        Path(temporary).unlink(missing_ok=True)


def dumps(graph: Graph, meta: Mapping[str, Any] | None = None) -> bytes:
    """The bytes of the file that `save` writes. Raises GraphError, FormatError."""
    import safetensors.numpy

    tensors, metadata = _contents(graph, meta)
    return bytes(safetensors.numpy.save(tensors, metadata=metadata))


def loads(data: bytes) -> tuple[Graph, dict[str, Any]]:
    """What `load` reads, from a file's bytes. Raises FormatError, GraphError."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.lowbit")
        path.write_bytes(data)
        return load(path)


def _contents(graph: Graph, meta: Mapping[str, Any] | None) -> tuple[dict[str, Array], dict[str, str]]:
    """The tensors of a file, and the document about them."""
    validate(graph)
    constants, tensors = _constant_table(graph)
    document = {
        "version": VERSION,
        "symbols": {name: _symbol_json(symbol) for name, symbol in graph.symbols.items()},
        **_conditions_json(graph.conditions),
        "inputs": list(graph.inputs),
        "outputs": list(graph.outputs),
        "values": {name: _value_json(value) for name, value in graph.values.items()},
        "constants": constants,
        "nodes": [_node_json(node) for node in graph.nodes],
        "states": [list(pair) for pair in graph.states],
        "meta": dict(meta or {}),
    }
    try:
        text = json.dumps(document, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise FormatError(f"the graph or its metadata is not plain JSON: {error}") from None
    _check_text(text)
    return tensors, {"lowbit": text}


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def stored_bytes(weight: Weight) -> int:
    """What a quantized weight takes in a file."""
    codes, parts = weight.codes, (weight.scales, weight.zero_points)
    size = codes.size
    if weight.packing in PACKINGS:
        size = len(codes) * PACKINGS[weight.packing].bytes_of(codes[:1].size)
    elif weight.sparsity is not None:
        kept = blocks.blocks_of(codes, weight.sparsity).any(axis=(2, 3)).sum()
        size = blocks.stored_bytes(codes.shape, weight.sparsity, int(kept))
    return size + sum(part.nbytes for part in parts if part is not None)


def _constant_table(graph: Graph) -> tuple[dict[str, Any], dict[str, Array]]:
    """The constants' descriptions, and the tensors they refer to by name."""
    table: dict[str, Any] = {}
    tensors: dict[str, Array] = {}

    def store(name: str, array: Array) -> str:
        while name in tensors or name == "__metadata__":
            name += "_"
        tensors[name] = np.ascontiguousarray(array).reshape(array.shape)
        return name

    for name, constant in graph.constants.items():
        if isinstance(constant, Weight):
            parts = {part: getattr(constant, part) for part in _PARTS}
            if constant.packing in PACKINGS:
                parts["codes"] = PACKINGS[constant.packing].pack(constant)
            elif constant.sparsity is not None:
                parts["mask"], parts["codes"] = blocks.pack(constant.codes, constant.sparsity)
            entry: dict[str, Any] = {
                part: store(f"{name}/{part}", array) for part, array in parts.items() if array is not None
            }
            entry |= {key: getattr(constant, key) for key in ("bits", "axis", "group_size", "packing")}
            if constant.sparsity is not None:
                entry["sparsity"] = {"pattern": constant.sparsity, "mask": entry.pop("mask")}
            table[name] = {"weight": entry}
        else:
            table[name] = {"tensor": store(name, constant)}
    return table, tensors


def _value_json(value: Value) -> dict[str, Any]:
    entry: dict[str, Any] = {"dtype": value.dtype, "shape": list(value.shape)}
    if value.quant is not None:
        entry["quant"] = [_plain(value.quant.scale), _plain(value.quant.zero_point)]
    return entry


def _node_json(node: Node) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "op": node.op,
        "name": node.name,
        "inputs": list(node.inputs),
        "outputs": list(node.outputs),
    }
    if node.attrs:
        entry["attrs"] = {name: _plain(value) for name, value in node.attrs.items()}
    if node.source:
        entry["source"] = node.source
    return entry


def _plain(value: Any) -> Any:
    """NumPy numbers as Python's, tuples as lists."""
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


# ----------------------------------------------------------------------------------------------------------------- read


def load(path: str | os.PathLike[str]) -> tuple[Graph, dict[str, Any]]:
    """The graph and the metadata of a file. Raises FormatError or GraphError for anything but a sound file; OSError."""
    document, tensors = _read(Path(path))
    graph = _graph(document, tensors)
    validate(graph)
    return graph, _object(document["meta"], "meta")


def read_document(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON of a file alone, unchecked beyond its version, without its tensors. Raises FormatError, OSError."""
    with _open(Path(path)) as file:
        return _document(_header(file, Path(path))[0], Path(path))


def _open(path: Path) -> BinaryIO:
    if not stat.S_ISREG(path.stat().st_mode):
        raise FormatError(f"{path} is not a regular file")
    return path.open("rb", buffering=0)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    with _open(path) as file:
        header, start, size = _header(file, path)
        document = _document(header, path)
        header.pop("__metadata__")
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
        return document, tensors


def _header(file: BinaryIO, path: Path) -> tuple[dict[str, Any], int, int]:
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
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: the header is not UTF-8: {error}") from None
    return _object(_json(text, "the header"), "the header"), 8 + length, total - 8 - length


def _document(header: Mapping[str, Any], path: Path) -> dict[str, Any]:
    text = header.get("__metadata__")
    text = text.get("lowbit") if isinstance(text, dict) else None
    if not isinstance(text, str):
        raise FormatError(f"{path} is a safetensors file, but not one that lowbit wrote: it holds no graph")
    document = _object(_json(text, "the graph"), "the graph")
    version = document.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise FormatError(f"{path}: its format version is {str(version)[:40]!r}")
    if version > VERSION:
        raise FormatError(f"{path} has format version {version}, this lowbit reads up to {VERSION}: upgrade lowbit")
    return document


def _json(text: str, what: str) -> Any:
    """Strict JSON: no repeated keys, no NaN or infinity, nothing deep, no half characters."""

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
        _check_text(text)
        return json.loads(text, object_pairs_hook=pairs, parse_float=number, parse_constant=number)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} is not valid JSON: {error}") from None


def _check_text(text: str) -> None:
    """Refuses escaped surrogates that are not pairs: no encoder takes the strings they make."""
    if re.search(r"\\u[dD][89a-fA-F]", text):
        try:
            json.dumps(json.loads(text), ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise FormatError("a text holds half a character (a lone surrogate)") from None


def _entry(name: str, entry: Any, size: int) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    """The dtype, shape, begin and end of one tensor, in bounds and of the stated size."""
    fields = _object(entry, f"tensor {name!r}", ("dtype", "shape", "data_offsets"))
    dtype = _TENSOR_DTYPES.get(fields["dtype"]) if isinstance(fields["dtype"], str) else None
    if dtype is None:
        raise FormatError(f"tensor {name!r} has dtype {str(fields['dtype'])[:40]!r}, which lowbit does not read")
    shape = _list(fields["shape"], f"the shape of tensor {name!r}", _size)
    offsets = _list(fields["data_offsets"], f"the offsets of tensor {name!r}", _size)
    if len(shape) > MAX_RANK or len(offsets) != 2 or not 0 <= offsets[0] <= offsets[1] <= size:
        raise FormatError(f"tensor {name!r} of shape {list(shape)[:20]} lies outside the file: {list(offsets)[:2]}")
    if math.prod(shape) * dtype.itemsize != offsets[1] - offsets[0]:
        raise FormatError(f"tensor {name!r} of shape {list(shape)} does not take {offsets[1] - offsets[0]} bytes")
    return dtype, shape, offsets[0], offsets[1]


def _tensor(file: BinaryIO, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    raw = np.empty(math.prod(shape) * dtype.itemsize, np.uint8)
    view, filled = raw.data, 0
    while filled < len(raw):
        count = file.readinto(view[filled:])  # type: ignore[attr-defined]
        if not count:
            raise FormatError(f"the file ends inside tensor {name!r}")
        filled += count
    if dtype == np.bool_ and raw.max(initial=0) > 1:
        raise FormatError(f"tensor {name!r} holds a byte that is no truth value")
    return raw.view(dtype).astype(dtype.newbyteorder("="), copy=False).reshape(shape)


# ------------------------------------------------------------------------------------------------------- JSON to graph


def _object(
    value: Any, what: str, keys: tuple[str, ...] | None = None, optional: tuple[str, ...] = ()
) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FormatError(f"{what} is not an object")
    if keys is not None:
        missing, surplus = set(keys) - set(value), set(value) - set(keys) - set(optional)
        if missing or surplus:
            raise FormatError(f"{what} lacks {sorted(missing)[:5]} or has unknown {sorted(surplus)[:5]}")
    return value


def _list(value: Any, what: str, item: Callable[[Any, str], T]) -> tuple[T, ...]:
    if not isinstance(value, list):
        raise FormatError(f"{what} is not a list")
    return tuple(item(entry, what) for entry in value)


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_NAME:
        raise FormatError(f"{what}: a text of at most {MAX_NAME} characters was expected")
    return value


def _size(value: Any, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < dims.LIMIT:
        raise FormatError(f"{what}: {str(value)[:40]!r} is no size")
    return value


def _integer(value: Any, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= dims.LIMIT:
        raise FormatError(f"{what}: {str(value)[:40]!r} is no integer in range")
    return value


def _dim(value: Any, what: str) -> Dim:
    return dims.simplify(value) if isinstance(value, str) else _size(value, what)


def _attribute(value: Any, what: str, depth: int = 0) -> Attribute:
    if isinstance(value, list) and depth < 3:
        return tuple(_attribute(item, what, depth + 1) for item in value)
    if isinstance(value, str):
        return _text(value, what)
    if isinstance(value, (bool, float)):
        return value
    return _integer(value, what)


def _value(entry: Any, what: str) -> Value:
    fields = _object(entry, what, ("dtype", "shape"), ("quant",))
    shape = _list(fields["shape"], f"the shape of {what}", _dim)
    quant = None
    if "quant" in fields:
        pair = fields["quant"]
        if not isinstance(pair, list) or len(pair) != 2:
            raise FormatError(f"the quantization of {what} is not a pair")
        scale, zero_point = pair
        if not isinstance(scale, (str, float, int)) or isinstance(scale, bool):
            raise FormatError(f"the scale of {what} is not a number or a name")
        quant = Quant(scale=scale, zero_point=zero_point if isinstance(zero_point, str) else _integer(zero_point, what))
    return Value(dtype=_text(fields["dtype"], what), shape=shape, quant=quant)


def _node(entry: Any, what: str) -> Node:
    fields = _object(entry, what, ("op", "name", "inputs", "outputs"), ("attrs", "source"))
    name = _text(fields["name"], what)
    where = f"node {name!r}"
    attrs = _object(fields.get("attrs", {}), f"the attributes of {where}")
    return Node(
        op=_text(fields["op"], where),
        name=name,
        inputs=_list(fields["inputs"], f"the inputs of {where}", _text),
        outputs=_list(fields["outputs"], f"the outputs of {where}", _text),
        attrs={key: _attribute(value, f"attribute {key[:100]!r} of {where}") for key, value in attrs.items()},
        source=_text(fields.get("source", ""), where),
    )


def _constant(
    name: str, entry: Any, tensors: Mapping[str, Array], used: set[str], values: Mapping[str, Value]
) -> Array | Weight:
    what = f"constant {name!r}"

    def tensor(key: Any) -> Array:
        if not isinstance(key, str) or key not in tensors:
            raise FormatError(f"{what} refers to tensor {str(key)[:100]!r}, which is not in the file")
        used.add(key)
        return tensors[key]

    def own(key: Any) -> Array:
        """What is unpacked into more bytes may not be named again and again."""
        if isinstance(key, str) and key in used:
            raise FormatError(f"{what} shares the packed codes {str(key)[:100]!r}")
        return tensor(key)

    fields = _object(entry, what)
    if set(fields) == {"tensor"}:
        return tensor(fields["tensor"])
    if set(fields) != {"weight"}:
        raise FormatError(f"{what} is neither a tensor nor a weight")
    keys = ("codes", "scales", "bits", "axis", "group_size", "packing")
    parts = _object(fields["weight"], what, keys, ("zero_points", "g_idx", "sparsity"))
    packing, pattern = _text(parts["packing"], what), None
    shape = tuple(size for size in (values[name].shape if name in values else ()) if isinstance(size, int))
    try:
        if "sparsity" in parts:
            zeros = _object(parts["sparsity"], f"the sparsity of {what}", ("pattern", "mask"))
            pattern = _text(zeros["pattern"], what)
            codes = blocks.unpack(own(zeros["mask"]), own(parts["codes"]), shape, pattern)
        elif packing in PACKINGS:
            codes = PACKINGS[packing].unpack(own(parts["codes"]), shape, symmetric="zero_points" not in parts)
        else:
            codes = tensor(parts["codes"])
    except GraphError as error:
        raise FormatError(f"{what}: {error}") from None
    return Weight(
        codes=codes,
        scales=tensor(parts["scales"]),
        bits=_integer(parts["bits"], what),
        axis=_integer(parts["axis"], what),
        group_size=_integer(parts["group_size"], what),
        zero_points=tensor(parts["zero_points"]) if "zero_points" in parts else None,
        packing=packing,
        g_idx=tensor(parts["g_idx"]) if "g_idx" in parts else None,
        sparsity=pattern,
    )


def _symbol(entry: Any, what: str) -> Symbol:
    items = _list(entry, what, _size)
    if len(items) not in (2, 4):
        raise FormatError(f"{what} is neither two bounds, nor these and a multiple and a remainder")
    multiple, remainder = items[2:] or (1, 0)
    return Symbol(minimum=items[0], maximum=items[1], multiple=multiple, remainder=remainder)


def _symbol_json(symbol: Symbol) -> list[int]:
    bounds = [symbol.minimum, symbol.maximum]
    return bounds if symbol.multiple == 1 else [*bounds, symbol.multiple, symbol.remainder]


def _condition(entry: Any, what: str) -> Condition:
    pair = _list(entry, what, _text)
    if len(pair) != 2:
        raise FormatError("a condition is not a pair")
    return Condition(kind=pair[0], size=pair[1])


def _conditions_json(conditions: Sequence[Condition]) -> dict[str, Any]:
    """The key is there only where there are some, so that older readers take all other files."""
    return {"conditions": [[each.kind, str(each.size)] for each in conditions]} if conditions else {}


def _state(entry: Any, what: str) -> tuple[str, str]:
    pair = _list(entry, what, _text)
    if len(pair) != 2:
        raise FormatError("a state is not a pair")
    return pair[0], pair[1]


def _graph(document: dict[str, Any], tensors: dict[str, Array]) -> Graph:
    keys = ("version", "symbols", "inputs", "outputs", "values", "constants", "nodes", "states", "meta")
    fields = _object(document, "the graph", keys, ("conditions",))
    used: set[str] = set()
    try:
        values = {name: _value(entry, f"value {name!r}") for name, entry in _named(fields["values"], "values")}
        graph = Graph(
            inputs=_list(fields["inputs"], "inputs", _text),
            outputs=_list(fields["outputs"], "outputs", _text),
            values=values,
            nodes=_list(fields["nodes"], "nodes", _node),
            constants={
                name: _constant(name, entry, tensors, used, values)
                for name, entry in _named(fields["constants"], "constants")
            },
            symbols={name: _symbol(entry, f"symbol {name!r}") for name, entry in _named(fields["symbols"], "symbols")},
            conditions=_list(fields.get("conditions", []), "conditions", _condition),
            states=_list(fields["states"], "states", _state),
        )
    except GraphError as error:
        raise FormatError(str(error)) from None
    unused = set(tensors) - used
    if unused:
        raise FormatError(f"tensors {sorted(unused)[:5]} belong to no constant")
    return graph


def _named(value: Any, what: str) -> list[tuple[str, Any]]:
    return [(_text(name, what), entry) for name, entry in _object(value, what).items()]
