"""A `.lowbit` file: a safetensors file whose metadata holds the graph as JSON (docs/file-format.md).

Writing goes through safetensors, reading through `container.py`. Files of version 1 are read by way of `format_v1.py`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..errors import FormatError, GraphError, LimitError
from ..graph import blocks, dims
from ..graph.ir import Array, Attribute, Condition, Dim, Graph, Node, Quant, State, Symbol, Value, Weight
from ..graph.weights import BITS, is_ternary, pack, pack_trits, unpack, unpack_trits
from ..ops import OPS
from ..ops.interpreter import validate
from ..ops.spec import MAX_RANK
from . import compression, container, format_v1
from .container import as_integer, as_list, as_object, as_size, as_text, check_integers, check_room, check_text
from .limits import memory_for
from .schema import checked

VERSION = 2
ROOM, ROOM_EACH = 36 * 2**20, 7
"""What a file may take, its document and what its tensors become in Python and the core: bytes, and for each of its."""
STREAMED = 3
"""Copies of a byte from a stream: its plane, its place in the tensor, what the core makes of it."""
AS_NUMBER = 4
"""Bytes of a code that is read as a number: float32."""
Item = TypeVar("Item")
PARTS = ("zero_points", "offsets", "values")
"""What a weight may have beside codes and scales, each a tensor."""

# ---------------------------------------------------------------------------------------------------------------- write


def save(
    path: str | os.PathLike[str], graph: Graph, meta: Mapping[str, Any] | None = None, *, compress: bool = False
) -> None:
    """Write a valid graph and plain JSON about it, atomically; the same graph gives the same bytes.

    compress: tensors as streams where these are shorter; the bytes then depend on the release of zlib, too.
    Raises GraphError for an invalid graph, FormatError for what the format cannot hold, OSError.
    """
    import tempfile

    import safetensors.numpy

    tensors, metadata = _contents(graph, meta, compress)
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


def dumps(graph: Graph, meta: Mapping[str, Any] | None = None, *, compress: bool = False) -> bytes:
    """The bytes of the file that `save` writes. Raises GraphError, FormatError."""
    import safetensors.numpy

    tensors, metadata = _contents(graph, meta, compress)
    return bytes(safetensors.numpy.save(tensors, metadata=metadata))


def loads(data: bytes) -> tuple[Graph, dict[str, Any]]:
    """What `load` reads, from the bytes of a file that is trusted. Raises FormatError, GraphError."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.lowbit")
        path.write_bytes(data)
        return load(path, memory=2**63)


def _contents(
    graph: Graph, meta: Mapping[str, Any] | None, compress: bool = False
) -> tuple[dict[str, Array], dict[str, str]]:
    """The tensors of a file, and the document about them."""
    validate(graph)
    constants, tensors = _constant_table(graph)
    tensors, compressed = compression.compress(tensors) if compress else (tensors, {})
    document = {
        "version": VERSION,
        **({"compressed": compressed} if compressed else {}),
        "symbols": {name: _symbol_json(symbol) for name, symbol in graph.symbols.items()},
        **_conditions_json(graph.conditions),
        "inputs": list(graph.inputs),
        "outputs": list(graph.outputs),
        "values": {name: _value_json(value) for name, value in graph.values.items()},
        "constants": constants,
        "nodes": [_node_json(node) for node in graph.nodes],
        "states": [_state_json(state) for state in graph.states],
        "meta": dict(meta or {}),
    }
    try:
        text = json.dumps(document, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise FormatError(f"the graph or its metadata is not plain JSON: {error}") from None
    check_text(text)
    check_integers(text)
    check_room(text, "the graph", len(text) + sum(tensor.nbytes for tensor in tensors.values()))
    return tensors, {"lowbit": text}


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


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
            table[name] = {"weight": _weight_json(name, constant, store)}
        else:
            table[name] = {"tensor": store(name, constant)}
    return table, tensors


def _weight_json(name: str, weight: Weight, store: Callable[[str, Array], str]) -> dict[str, Any]:
    parts = {"codes": weight.codes, "scales": weight.scales, **{part: getattr(weight, part) for part in PARTS}}
    ternary = is_ternary(weight)
    if weight.bits < 8:
        parts["codes"] = pack_trits(weight) if ternary else pack(weight)
    elif weight.sparsity is not None:
        parts["mask"], parts["codes"] = blocks.pack(weight.codes, weight.sparsity)
    entry: dict[str, Any] = {part: store(f"{name}/{part}", it) for part, it in parts.items() if it is not None}
    entry |= {"bits": weight.bits, "group_size": weight.group_size}
    if ternary:
        entry["packing"] = "ternary"
    if weight.sparsity is not None:
        entry["sparsity"] = {"pattern": weight.sparsity, "mask": entry.pop("mask")}
    return entry


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


def load(path: str | os.PathLike[str], memory: int | None = None) -> tuple[Graph, dict[str, Any]]:
    """The graph and the metadata of a file. Raises FormatError or GraphError for anything but a sound file; LimitError,
    OSError.

    memory: bytes that what the file holds packed may take; None: in proportion to the file.
    """
    graph, meta, _ = load_within(path, memory)
    return graph, meta


def load_within(path: str | os.PathLike[str], memory: int | None) -> tuple[Graph, dict[str, Any], int]:
    """The same, and the bytes that a session may hold of it at first."""
    with memory_for(f"read {path}"), dims.bounded_steps():
        document, tensors, taken = container.read(Path(path))
        document = _current(document, path)
        try:
            most = memory or max(1, ROOM + ROOM_EACH * Path(path).stat().st_size - taken)
            streams = compression.size(tensors, document.get("compressed", {}))
            _require_room(STREAMED * streams, most, path)
            tensors = compression.expand(tensors, document.get("compressed", {}))
            if streams + _unpacked(document, None) > most:
                _require_room(streams + _unpacked(document, {*_read_as_numbers(document)}), most, path)
            graph = _graph(document, tensors)
        except RecursionError:
            raise FormatError(f"{path}: the graph is nested too deeply") from None
        return validate(graph), as_object(document["meta"], "meta"), most


def outline(text: str, size: int) -> tuple[Graph, dict[str, Any]]:
    """The graph of a document that is sound, without its constants; and its metadata. size: of the file.

    Raises FormatError where the document would take more memory than such a file may.
    """
    check_room(text, "the graph", size)  # what Python makes of it: the reader in C++ takes less
    document = json.loads(text)
    fields = format_v1.upgrade(document) if document["version"] == 1 else document
    return Graph(
        inputs=tuple(fields["inputs"]),
        outputs=tuple(fields["outputs"]),
        values=_each(fields["values"], "value", _value),
        nodes=_nodes(fields["nodes"]),
        constants={},
        symbols=_each(fields["symbols"], "symbol", _symbol),
        conditions=as_list(fields.get("conditions", []), "conditions", _condition),
        states=as_list(fields["states"], "states", _state),
    ), fields["meta"]


def _require_room(needed: int, most: int, path: str | os.PathLike[str]) -> None:
    if needed > most:
        raise LimitError(
            f"{path}: its compressed, sparse and few-bit tensors take about {needed >> 20} MiB unpacked, more than the "
            f"{most >> 20} MiB that they may. If you trust the file, allow more: limits=lowbit.Limits(memory=...)"
        )


def _unpacked(document: Mapping[str, Any], numbers: Set[str] | None) -> int:
    """About the bytes that weights take beyond the file's own, as far as the document says; it is not checked.

    Sparse and few-bit codes become a byte each; what is read as numbers, float32. The core has its own copy of sparse
    ones, and of what a table's values are, and Python's goes as it is made: both exist of one weight at a time.
    numbers: what is read so; None: all.
    """
    values, constants = document.get("values"), document.get("constants")
    total = largest = 0
    for name, entry in constants.items() if isinstance(constants, dict) else ():
        weight = entry.get("weight") if isinstance(entry, dict) else None
        value = values.get(name) if isinstance(values, dict) else None
        shape = value.get("shape") if isinstance(value, dict) else None
        if not isinstance(weight, dict) or not isinstance(shape, list):
            continue
        elements = math.prod(max(size, 0) for size in shape[:MAX_RANK] if type(size) is int)
        if "sparsity" in weight or weight.get("bits") != 8:
            total += elements
        largest = max(largest, elements * (("sparsity" in weight) + 2 * ("values" in weight)))
        if numbers is None or name in numbers:
            total += AS_NUMBER * elements
    return total + largest


def _read_as_numbers(document: Mapping[str, Any]) -> Iterator[str]:
    """The names of what nodes, or callers, read as arrays."""
    nodes, outputs = document.get("nodes"), document.get("outputs")
    yield from (name for name in (outputs if isinstance(outputs, list) else ()) if isinstance(name, str))
    for node in nodes if isinstance(nodes, list) else ():
        op = OPS.get(str(node.get("op"))) if isinstance(node, dict) else None
        inputs = node.get("inputs") if op is not None else None
        for place, name in enumerate(inputs if isinstance(inputs, list) else ()):
            known = op is not None and (op.variadic or place < len(op.inputs))
            if isinstance(name, str) and op is not None and known and not op.input(place).weight:
                yield name


def read_document(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON of a file alone, as it is, unchecked beyond its version. Raises FormatError, OSError."""
    with memory_for(f"read {path}"):
        document = container.read_document(Path(path))
    _check_version(document, path)
    return document


def _current(document: dict[str, Any], path: str | os.PathLike[str]) -> dict[str, Any]:
    """The document of a file of any version as one of this version."""
    return format_v1.upgrade(document) if _check_version(document, path) == 1 else document


def _check_version(document: dict[str, Any], path: str | os.PathLike[str]) -> int:
    version = document.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise FormatError(f"{path}: its format version is {str(version)[:40]!r}")
    if version > VERSION:
        raise FormatError(f"{path} has format version {version}, this lowbit reads up to {VERSION}: upgrade lowbit")
    return version


# ------------------------------------------------------------------------------------------------------- JSON to graph


def _dim(value: Any, what: str) -> Dim:
    return dims.simplify(value) if isinstance(value, str) else as_size(value, what)


def _attribute(value: Any, what: str, depth: int = 0) -> Attribute:
    if isinstance(value, list) and depth < 3:
        return tuple(_attribute(item, what, depth + 1) for item in value)
    if isinstance(value, str):
        return as_text(value, what)
    if isinstance(value, (bool, float)):
        return value
    return as_integer(value, what)


def _value(entry: Any, what: str) -> Value:
    fields = checked("value", entry, what)
    shape = as_list(fields["shape"], f"the shape of {what}", _dim)
    quant = None
    if "quant" in fields:
        pair = fields["quant"]
        if not isinstance(pair, list) or len(pair) != 2:
            raise FormatError(f"the quantization of {what} is not a pair")
        scale, zero_point = pair
        if not isinstance(scale, (str, float, int)) or isinstance(scale, bool):
            raise FormatError(f"the scale of {what} is not a number or a name")
        quant = Quant(
            scale=scale, zero_point=zero_point if isinstance(zero_point, str) else as_integer(zero_point, what)
        )
    return Value(dtype=as_text(fields["dtype"], what), shape=shape, quant=quant)


def _node(entry: Any, what: str) -> Node:
    fields = checked("node", entry, what)
    name = as_text(fields["name"], what)
    where = f"node {name!r}"
    attrs = as_object(fields.get("attrs", {}), f"the attributes of {where}")
    return Node(
        op=as_text(fields["op"], where),
        name=name,
        inputs=as_list(fields["inputs"], f"the inputs of {where}", as_text),
        outputs=as_list(fields["outputs"], f"the outputs of {where}", as_text),
        attrs={key: _attribute(value, f"attribute {key[:100]!r} of {where}") for key, value in attrs.items()},
        source=as_text(fields.get("source", ""), where),
    )


def _constants(
    entries: Any, tensors: dict[str, Array], used: set[str], values: Mapping[str, Value]
) -> dict[str, Array | Weight]:
    """What says the same is one object: a tensor exists once, however many constants name it."""
    constants: dict[str, Array | Weight] = {}
    known: dict[tuple[str, tuple[Dim, ...]], Array | Weight] = {}
    for name, entry in as_object(entries, "constants").items():
        key = (repr(entry), values[name].shape if name in values else ())
        if key not in known:
            known[key] = _constant(as_text(name, "constants"), entry, tensors, used, values)
        constants[name] = known[key]
    return constants


def _constant(
    name: str, entry: Any, tensors: dict[str, Array], used: set[str], values: Mapping[str, Value]
) -> Array | Weight:
    what, owned = f"constant {name!r}", list[str]()

    def tensor(key: Any) -> Array:
        if isinstance(key, str) and key in used and key not in tensors:
            raise FormatError(f"{what} shares the codes {key[:100]!r} with a constant that is not the same")
        if not isinstance(key, str) or key not in tensors:
            raise FormatError(f"{what} refers to tensor {str(key)[:100]!r}, which is not in the file")
        used.add(key)
        return tensors[key]

    def own(key: Any) -> Array:
        """Codes take more bytes where they are unpacked, or read as numbers: only one weight has them."""
        if isinstance(key, str) and key in used:
            raise FormatError(f"{what} shares the codes {str(key)[:100]!r} with a constant that is not the same")
        owned.append(key)
        return tensor(key)

    fields = as_object(entry, what)
    if set(fields) == {"tensor"}:
        return tensor(fields["tensor"])
    if set(fields) != {"weight"}:
        raise FormatError(f"{what} is neither a tensor nor a weight")
    parts = checked("weight", fields["weight"], what)
    bits, pattern = as_integer(parts["bits"], what), None
    shape = tuple(size for size in (values[name].shape if name in values else ()) if isinstance(size, int))
    if len(shape) > MAX_RANK:  # before sizes are multiplied
        raise FormatError(f"{what} has {len(shape)} axes, more than {MAX_RANK}")
    try:
        if "sparsity" in parts:
            zeros = checked("sparsity", parts["sparsity"], f"the sparsity of {what}")
            pattern = as_text(zeros["pattern"], what)
            codes = blocks.unpack(own(zeros["mask"]), own(parts["codes"]), shape, pattern)
        elif "packing" in parts:
            _check_packing(parts, bits, what)
            codes = unpack_trits(own(parts["codes"]), shape)
        elif bits in BITS and bits < 8:
            codes = unpack(own(parts["codes"]), shape, bits, signed=not parts.keys() & {*PARTS})
        else:
            codes = own(parts["codes"])
    except GraphError as error:
        raise FormatError(f"{what}: {error}") from None
    weight = Weight(
        codes=codes,
        scales=tensor(parts["scales"]),
        bits=bits,
        group_size=as_integer(parts["group_size"], what),
        sparsity=pattern,
        **{part: tensor(parts[part]) for part in PARTS if part in parts},
    )
    for key in owned:  # large ones do not exist twice
        del tensors[key]
    return weight


def _check_packing(parts: Mapping[str, Any], bits: int, what: str) -> None:
    if parts["packing"] != "ternary":
        raise FormatError(f"{what} has codes in the unknown packing {str(parts['packing'])[:100]!r}")
    if bits != 2 or parts.keys() & {*PARTS}:
        raise FormatError(f"{what}: ternary codes are of 2 bits, without zero points, offsets and values")


def _symbol(entry: Any, what: str) -> Symbol:
    items = as_list(entry, what, as_size)
    if len(items) not in (2, 4):
        raise FormatError(f"{what} is neither two bounds, nor these and a multiple and a remainder")
    multiple, remainder = items[2:] or (1, 0)
    return Symbol(minimum=items[0], maximum=items[1], multiple=multiple, remainder=remainder)


def _symbol_json(symbol: Symbol) -> list[int]:
    bounds = [symbol.minimum, symbol.maximum]
    return bounds if symbol.multiple == 1 else [*bounds, symbol.multiple, symbol.remainder]


def _condition(entry: Any, what: str) -> Condition:
    pair = as_list(entry, what, as_text)
    if len(pair) != 2:
        raise FormatError("a condition is not a pair")
    return Condition(kind=pair[0], size=pair[1])


def _conditions_json(conditions: Sequence[Condition]) -> dict[str, Any]:
    """The key is there only where there are some, so that older readers take all other files."""
    return {"conditions": [[each.kind, str(each.size)] for each in conditions]} if conditions else {}


def _state(entry: Any, what: str) -> State:
    parts = checked("state", entry, "a state")
    texts = {name: as_text(parts[name], "a state") for name in ("input", "output", "initial", "count") if name in parts}
    return State(**texts, axis=as_integer(parts.get("axis", 0), "a state"))


def _state_json(state: State) -> dict[str, Any]:
    more = {name: value for name in ("initial", "count", "axis") if (value := getattr(state, name))}
    return {"input": state.input, "output": state.output, **more}


def _graph(document: dict[str, Any], tensors: dict[str, Array]) -> Graph:
    fields = checked("graph", document, "the graph")
    used: set[str] = set()
    try:
        values = _each(fields["values"], "value", _value)
        graph = Graph(
            inputs=as_list(fields["inputs"], "inputs", as_text),
            outputs=as_list(fields["outputs"], "outputs", as_text),
            values=values,
            nodes=_nodes(fields["nodes"]),
            constants=_constants(fields["constants"], tensors, used, values),
            symbols=_each(fields["symbols"], "symbol", _symbol),
            conditions=as_list(fields.get("conditions", []), "conditions", _condition),
            states=as_list(fields["states"], "states", _state),
        )
    except GraphError as error:
        raise FormatError(str(error)) from None
    unused = set(tensors) - used
    if unused:
        raise FormatError(f"tensors {sorted(unused)[:5]} belong to no constant")
    return graph


def _each(entries: Any, kind: str, read: Callable[[Any, str], Item]) -> dict[str, Item]:
    """An object's entries, each read in its place: large documents do not exist twice."""
    found = as_object(entries, f"{kind}s")
    for name, entry in found.items():
        found[as_text(name, f"{kind}s")] = read(entry, f"{kind} {name!r}")
    return found


def _nodes(entries: Any) -> tuple[Node, ...]:
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        entries[index] = _node(entry, "nodes")
    return as_list(entries, "nodes", lambda node, _: node)
