"""Files made from sound ones: damaged bytes, changed documents, and items that are many, large or shared.

A case is a function of its `random.Random`, so a seed and a number repeat it.
"""

from __future__ import annotations

import copy
import json
import math
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lowbit.graph import dims
from lowbit.graph.ir import Graph, Node, Symbol, replace
from lowbit.ops import OPS, Attr, attributes, infer

Document = dict[str, Any]

NUMBERS = [
    0, 1, -1, 2, 3, 7, 127, 128, 255, 256, 65536, 2**31 - 1, 2**31, 2**32, 2**38, 2**39, 2**40, 2**53, 2**62, 2**63,
    -(2**63), 2**64, 10**30,
]  # fmt: skip
FLOATS = [0.0, -0.0, 0.5, -1.5, 1e-45, 1e-38, 3.4e38, 1e39, 1e308, -1e308, 1e-300]
TEXTS = [
    "", "x", "batch", "rows", "batch + 1", "batch*batch", "max(batch, 512)", "batch // 0", "2147483647*batch",
    "-batch", "u8", "f32", "s8", "i64", "bool", "row", "sample", "relu", "softmax", "../x", "\u0000",
    "é" * 50, "a" * 3000,
]  # fmt: skip
OTHERS: list[Any] = [None, True, False, [], {}, [[]], [{}], [0] * 9, [1, 1], [1] * 4, [[1, [2, [3]]]], {"tensor": "x"}]
KINDS: list[list[Any]] = [NUMBERS, FLOATS, TEXTS, OTHERS, list(range(-5, 300))]
LARGE = [14, 16, 31, 64, 100, 255, 1000, 4096, 16000, 65535, 2**20, 2**24, 2**31 - 1]
"""Of strides, padding, windows: within what a file may say, and beyond what a machine has memory or time for."""
WINDOWS = ("stride", "padding", "kernel", "dilation", "output_padding", "output_size", "groups", "size", "shape", "k")


@dataclass
class File:
    """A file apart: the tensors' entries, the graph's document, the tensors' bytes."""

    header: Document
    document: Document
    tensors: bytearray

    @classmethod
    def read(cls, data: bytes) -> File:
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        return cls(header, json.loads(header.pop("__metadata__")["lowbit"]), bytearray(data[8 + length :]))

    def bytes(self) -> bytes:
        return joined(self.header, json.dumps(self.document), self.tensors)


def joined(header: Document, text: str, tensors: bytes | bytearray) -> bytes:
    raw = json.dumps({**header, "__metadata__": {"lowbit": text}}).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(tensors)


# ------------------------------------------------------------------------------------------------------- one change


def hostile(rng: random.Random) -> Any:
    """A value that some check must stop, or a harmless one."""
    return copy.deepcopy(rng.choice(rng.choice(KINDS)))


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON document."""
    found: list[tuple[Any, Any]] = []
    stack = [tree]
    while stack:
        inner = stack.pop()
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner))) if isinstance(inner, list) else []
        found += [(inner, key) for key in keys]
        stack += [inner[key] for key in keys]
    return found


def edit(document: Any, rng: random.Random) -> None:
    """One change that keeps the document JSON: replace, nudge, remove, repeat, copy from elsewhere, add."""
    found = places(document)
    if not found:  # an edit before has emptied it
        return
    (container, key), (other, other_key) = rng.choice(found), rng.choice(found)
    value = container[key]
    kind = rng.randrange(7)
    if kind == 0 or (kind == 1 and not isinstance(value, (int, float))):
        container[key] = hostile(rng)
    elif kind == 1:
        container[key] = value + rng.choice([-1, 1, 2, -2, 0.5, 1000])
    elif kind == 2:
        container[key] = json.loads(json.dumps(other[other_key]))
    elif kind == 3:
        del container[key]
    elif isinstance(container, list):
        container.insert(key, hostile(rng) if kind == 4 else json.loads(json.dumps(value)))
    else:
        container[rng.choice(list(container)) + rng.choice(["", "_", "2"])] = value if kind == 4 else hostile(rng)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Bytes cut, flipped or moved."""
    kind = rng.randrange(4)
    if kind == 0:
        return data[: rng.randrange(len(data))]
    if kind <= 2:
        changed = bytearray(data)
        for _ in range(rng.choice([1, 1, 1, 4, 64])):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        return bytes(changed)
    begin, size, at = rng.randrange(len(data)), rng.randrange(1, 200), rng.randrange(len(data))
    return data[:at] + data[begin : begin + size] + data[at + rng.choice([0, size]) :]


def spoil_tensors(file: File, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 8])):
        number = rng.choice(
            [b"\xff\xff\xff\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\xff", b"\x80", b"\x01\x00\x00\x00"]
        )
        at = rng.randrange(max(1, len(file.tensors) // 4)) * 4
        file.tensors[at : at + len(number)] = number


# -------------------------------------------------------------------------------------------------------- many items


@dataclass
class Many:
    """Makes items many: 10^3 to 10^6, as long as the file stays below `most` bytes."""

    rng: random.Random
    most: int

    def count(self, item: Any) -> int:
        wanted = self.rng.choice([1000, 1000, 3000, 10_000, 100_000, 1_000_000])
        return max(2, min(wanted, self.most // (len(json.dumps(item)) + 12)))

    def items(self, document: Document) -> None:
        """A list's item again and again, or a dict's under other names."""
        container, key = self.rng.choice(places(document))
        value = container[key]
        if isinstance(container, list):
            container[key:key] = [value] * self.count(value)
        else:
            container |= {f"{key}{index}": value for index in range(self.count(value))}

    def nested(self, document: Document) -> None:
        container, key = self.rng.choice(places(document))
        deep: Any = container[key]
        for _ in range(self.rng.choice([3, 40, 60, 200])):
            deep = [deep] if self.rng.random() < 0.5 else {"list": [deep]}
        container[key] = deep

    def text(self, document: Document) -> None:
        found = [place for place in places(document) if isinstance(place[0][place[1]], str)]
        container, key = self.rng.choice(found)
        container[key] = self.rng.choice(["a", "\\", "é", "[", "batch + ", "(", "9"]) * self.count("a")

    def nodes(self, document: Document) -> None:
        """A node again and again under new names: beside each other, or each on what the last one made."""
        node = self.rng.choice(document["nodes"])
        chained = node["inputs"] and self.rng.random() < 0.6
        added, before = [], node["outputs"][0]
        values = [document["values"][name] for name in node["outputs"]]
        for index in range(self.count([node, values])):
            outputs = [f"{name}/{index}" for name in node["outputs"]]
            inputs = [before, *node["inputs"][1:]] if chained else node["inputs"]
            added.append({**node, "name": f"{node['name']}/{index}", "inputs": inputs, "outputs": outputs})
            document["values"] |= zip(outputs, values, strict=True)
            before = outputs[0]
        document["nodes"] += added
        if self.rng.random() < 0.5:
            document["outputs"] = [each["outputs"][0] for each in added] if self.rng.random() < 0.5 else [before]

    def inputs(self, document: Document) -> None:
        name = self.rng.choice(document["inputs"])
        count = self.count([name, document["values"][name]])
        document["values"] |= {f"{name}/{index}": document["values"][name] for index in range(count)}
        document["inputs"] += [f"{name}/{index}" for index in range(count)]

    def symbols(self, document: Document) -> None:
        """Each the size of an axis; eight an input."""
        count = self.count(["s", [1, 64], "s"])
        names = [f"s{index}" for index in range(count)]
        document["symbols"] |= {name: [self.rng.randrange(3), 64] for name in names}
        for at in range(0, count, 8):
            document["values"][f"i{at}"] = {"dtype": "f32", "shape": names[at : at + 8]}
            document["inputs"].append(f"i{at}")

    def conditions(self, document: Document) -> None:
        sizes = [self.expression(document) for _ in range(3)]
        kinds = ["natural", "nonzero", "zero"]
        document["conditions"] = [
            [kinds[index % self.rng.choice([1, 1, 2, 3])], f"{self.rng.choice(sizes)} + {index}"]
            for index in range(min(self.count("natural batch"), self.rng.choice([100, 200, 10**6])))
        ]

    def expression(self, document: Document) -> str:
        """A long size, nested as deep as texts may be."""
        known = list(document["symbols"]) or ["batch"]
        text = self.rng.choice(known)
        form = self.rng.choice(
            ["max({0}, {1} + {2})", "({0}) // 2 + {1}", "({0})*({1} + {2})", "{0} + {2}*{1}", "min({0} + {2}, {1})",
             "({0} + {2}) % ({1} + 3)", "scale({0}, 0.{2}) + {1}", "({0} + {1}) // ({1} + {2})"]
        )  # fmt: skip
        for step in range(self.rng.choice([3, 10, 30, 100])):
            longer = form.format(text, self.rng.choice(known), step + 1)
            if len(longer) > 980:
                break
            text = longer
        return text

    def sizes(self, document: Document) -> None:
        """Long sizes, of one value or of all."""
        values = list(document["values"].values())
        text = self.expression(document)
        for value in values if self.rng.random() < 0.3 else [self.rng.choice(values)]:
            value["shape"] = [
                text if isinstance(size, str) or not self.rng.randrange(4) else size for size in value["shape"]
            ]
        if self.rng.random() < 0.3:
            made = {
                f"e{index}": {"dtype": "f32", "shape": [f"{text[:900]} + {index}"]} for index in range(self.count(text))
            }
            document["values"] |= made

    def constants(self, document: Document) -> None:
        """Many that name one tensor, read by as many copies of a node, or by none."""
        name = self.rng.choice(list(document["constants"]))
        count = self.count([document["constants"][name], document["values"][name], document["nodes"][0]])
        names = [f"{name}/{index}" for index in range(count)]
        document["constants"] |= dict.fromkeys(names, document["constants"][name])
        document["values"] |= dict.fromkeys(names, document["values"][name])
        readers = [node for node in document["nodes"] if name in node["inputs"]]
        if not readers or self.rng.random() < 0.2:
            return
        node = self.rng.choice(readers)
        for index, alias in enumerate(names):
            outputs = [f"{output}/c{index}" for output in node["outputs"]]
            inputs = [alias if each == name else each for each in node["inputs"]]
            document["nodes"].append({**node, "name": f"{node['name']}/c{index}", "inputs": inputs, "outputs": outputs})
            document["values"] |= {
                new: document["values"][old] for new, old in zip(outputs, node["outputs"], strict=True)
            }
            document["outputs"].append(outputs[0])

    def meta(self, document: Document) -> None:
        """Rows, texts and trees that only say something about the graph."""
        rows: dict[str, Any] = {
            "decisions": {"node": "n", "op": "conv2d", "reason": "why"},
            "sparsity": {"node": "n", "pattern": "4x4", "density": 0.5},
            "evaluations": {"model": "m", "score": 1, "drop": 0, "int8_layers": 1, "float_layers": ["a", "b"]},
            "notes": "a note",
            "writes": "x",
        }
        key = self.rng.choice([*rows, "output", "signature", "parameters", "x"])
        meta = document["meta"]
        leaf = {"tensor": 0}
        if key in rows:
            meta[key] = [rows[key]] * self.count(rows[key])
        elif key == "output":
            many = [leaf] * self.count(leaf)
            meta["output"] = self.rng.choice([{"list": many}, {"dict": {str(i): leaf for i in range(len(many))}}])
        elif key == "x":
            meta["x"] = [[]] * self.count([])
        elif key == "signature":
            constant = {"constant": 1}
            meta["signature"]["parameters"].append(
                {"name": "more", "kind": "positional", "tree": {"list": [constant] * self.count(constant)}}
            )
        else:
            one = meta["signature"]["parameters"][0]
            meta["signature"]["parameters"] += [
                {**one, "name": f"p{i}", "tree": self.rng.choice([one["tree"], {"constant": 1}])}
                for i in range(self.count(one))
            ]

    def attributes(self, document: Document) -> None:
        node = self.rng.choice(document["nodes"])
        attrs = node.setdefault("attrs", {})
        lists = [key for key, value in attrs.items() if isinstance(value, list)] or ["axes", "shape"]
        item = self.rng.choice([0, 1, 2.5, "batch", [1]])
        attrs[self.rng.choice(lists)] = [item] * self.count(item)


CHANGES: list[Callable[[Many, Document], None]] = [
    Many.items, Many.items, Many.nested, Many.text, Many.nodes, Many.nodes, Many.inputs, Many.symbols, Many.conditions,
    Many.sizes, Many.constants, Many.constants, Many.meta, Many.attributes,
]  # fmt: skip


def many_tensors(file: File, many: Many) -> None:
    """Tensors of no element, or of one byte."""
    count, size = many.count({"t": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}), many.rng.randrange(2)
    start = len(file.tensors)
    shape = many.rng.choice([[size], [size, 1, 1], [0, 2**39, 2**39], [size] * 8])
    for index in range(count):
        begin = start + index * size
        file.header[f"t{index}"] = {"dtype": "U8", "shape": shape, "data_offsets": [begin, begin + size]}
        if many.rng.random() < 0.9:
            file.document["constants"][f"k{index}"] = {"tensor": f"t{index}"}
            file.document["values"][f"k{index}"] = {"dtype": "u8", "shape": shape}
    file.tensors += bytes(count * size)


def bomb(file: File, rng: random.Random) -> None:
    """A tensor becomes a stream of zeros, whose entry says that it is longer or shorter than that."""
    name = rng.choice(list(file.header))
    entry = file.header[name]
    begin, end = entry["data_offsets"]
    length = rng.choice([16, 100, 1000, 10**5, 10**6, 10**7])
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    stream = packer.compress(bytes(length)) + packer.flush()
    said = rng.choice([length, 16 * len(stream), 16 * len(stream) + 1, 2**31 - 1, 1])
    file.document.setdefault("compressed", {})[name] = {"dtype": "U8", "shape": [said]}
    file.header[name] = {"dtype": "U8", "shape": [len(stream)], "data_offsets": [begin, begin + len(stream)]}
    for other in file.header.values():
        if other is not file.header[name] and other["data_offsets"][0] >= end:
            other["data_offsets"] = [offset + len(stream) - (end - begin) for offset in other["data_offsets"]]
    file.tensors[begin:end] = stream


# ------------------------------------------------------------------------------------------------------ packed weights

PATTERNS = {"unstructured": 1, "1x4": 4, "4x4": 16}
READERS = ["layer", "layer", "rows", "numbers", "numbers", "caller", "layer and numbers", "many groups"]


def packed(rng: random.Random, most: int) -> bytes:
    """A sound file, mostly, of about `most` bytes, whose weights stand for more: codes of few bits, blocks, streams."""
    kind, reader = rng.choice(["ternary", "int2", "int4", "int8", "blocks"]), rng.choice(READERS)
    pattern, streamed = rng.choice(list(PATTERNS)), rng.random() < 0.3
    count = rng.choice([most // 16, most // 2, most]) * (8 if streamed else 1)
    count *= {"ternary": 5, "int2": 4, "int4": 2, "int8": 1, "blocks": 8 * PATTERNS[pattern]}[kind]
    window = [] if reader == "rows" else rng.choice([[], [], [1, 1], [3, 3], [2, 5]])
    many = reader == "many groups" and window
    depth = rng.choice([8, 40, 160]) if many else max(8, int(math.sqrt(count) * rng.choice([0.1, 1, 10])) // 40 * 40)
    channels = max(4, count // depth // math.prod(window) // 32 * 32)
    shape, inputs = [channels, depth, *window], depth * math.prod(window)
    tensors, codes = _codes(rng, kind, pattern, shape, streamed)
    bits = int(kind[3:]) if kind[3:].isdigit() else 2 if kind == "ternary" else 8
    size = rng.choice([g for g in (8, 32, 128, inputs) if inputs % g == 0 and inputs // g < 2048]) if bits < 8 else 0
    beside = rng.choice([[], ["zero_points"], ["offsets"]]) if kind in ("int2", "int4") else []
    groups = [channels, inputs // size] if size else [channels]
    half = bits < 8 and rng.random() < 0.7
    one = struct.pack("<e" if half else "<f", 1.0)
    for part in ("scales", *beside):
        dtype, item = ("U8", b"\1") if part == "zero_points" else ("F16" if half else "F32", one)
        tensors[part] = (dtype, groups, item * math.prod(groups))
    if kind in ("int2", "int4") and not beside and rng.random() < 0.3:
        beside = ["values"]
        tensors["values"] = ("F32", [2**bits], struct.pack(f"<{2**bits}f", *rng.choices(range(-128, 128), k=2**bits)))
    tensors["ones"] = ("F32", [channels], struct.pack("<f", 1.0) * channels)
    weight = {**codes, "scales": "scales", "bits": bits, "group_size": size, **{part: part for part in beside}}
    nodes, values = _readers(reader, shape, rng)
    document = {
        "version": 2,
        "symbols": {},
        "inputs": [name for name in values if name[0] == "x"],
        "outputs": [node["outputs"][0] for node in nodes] + (["w"] if reader == "caller" else []),
        "values": {**values, "w": {"dtype": "f32", "shape": shape}, "ones": {"dtype": "f32", "shape": [channels]}},
        "constants": {"w": {"weight": weight}, "ones": {"tensor": "ones"}},
        "nodes": nodes,
        "states": [],
        "meta": {},
    }
    return _assembled(document, tensors, streamed)


Tensors = dict[str, tuple[str, list[int], bytes]]


def _codes(
    rng: random.Random, kind: str, pattern: str, shape: list[int], zeros: bool
) -> tuple[Tensors, dict[str, Any]]:
    """Codes of that shape, and the entries that name them."""
    channels, depth = shape[0], math.prod(shape[1:])
    if kind == "blocks":
        block = PATTERNS[pattern]
        mask = bytes([1]) + bytes(math.ceil(channels * depth / block / 8) - 1)
        tensors: Tensors = {"mask": ("U8", [len(mask)], mask), "codes": ("I8", [1, block], bytes([1]) * block)}
        return tensors, {"codes": "codes", "sparsity": {"pattern": pattern, "mask": "mask"}}
    size = {"ternary": math.ceil(depth / 5), "int2": math.ceil(depth / 4), "int4": math.ceil(depth / 2)}.get(kind)
    most = 243 if kind == "ternary" else 128
    each = bytes(channels * (size or depth)) if zeros else rng.randbytes(channels * (size or depth))
    each = each.translate(bytes(i % most for i in range(256)))
    named = {"codes": "codes", **({"packing": "ternary"} if kind == "ternary" else {})}
    return {"codes": ("U8" if size else "I8", [channels, size] if size else shape, each)}, named


def _readers(reader: str, shape: list[int], rng: random.Random) -> tuple[list[Document], Document]:
    """Nodes that read the weight, as codes or as numbers, and the values that they make and take."""
    channels, depth, *window = shape
    nodes: list[Document] = []
    values: Document = {}

    def node(op: str, x: str, dtype: str, taken: list[int], made: list[int], inputs: list[str], **attrs: Any) -> None:
        values[x], values[f"y{len(nodes)}"] = {"dtype": dtype, "shape": taken}, {"dtype": "f32", "shape": made}
        outputs = [f"y{len(nodes)}"]
        nodes.append({"op": op, "name": outputs[0], "inputs": inputs, "outputs": outputs, "attrs": attrs})

    scaled = {"output": "f32", "zero_point_x": 100}
    groups = channels // rng.choice([1, 2, 4, 32]) if reader == "many groups" and window else 1
    if reader == "rows":
        node("quantized_embedding", "x0", "i64", [3], [3, depth], ["x0", "w"])
    if window and reader not in ("rows", "caller"):
        taken, made = [1, depth * groups, *window], [1, channels, 1, 1]
        if reader != "numbers":
            node("quantized_conv2d", "x0", "u8", taken, made, ["x0", "w", "ones", "ones"], groups=groups, **scaled)
        if "numbers" in reader:
            node("conv2d", "x1", "f32", taken, made, ["x1", "w"])
    elif reader not in ("rows", "caller"):
        if reader != "numbers":
            layer = ["x0", "w", "ones", "ones"]
            node("quantized_linear", "x0", "u8", [1, depth], [1, channels], layer, **scaled)
        if "numbers" in reader:
            node("matmul", "x1", "f32", [1, channels], [1, depth], ["x1", "w"])
    return nodes, values


def _assembled(document: Document, tensors: Tensors, streamed: bool) -> bytes:
    """streamed: those that are long as streams of Huffman's coding alone, which are an eighth of zeros at the least."""
    header, body = {}, bytearray()
    for name, (dtype, shape, data) in tensors.items():
        if streamed and len(data) > 64:
            packer = zlib.compressobj(6, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
            document.setdefault("compressed", {})[name] = {"dtype": dtype, "shape": shape}
            item = {"F32": 4, "F16": 2}.get(dtype, 1)
            data = packer.compress(b"".join(data[place::item] for place in range(item))) + packer.flush()
            dtype, shape = "U8", [len(data)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    return joined(header, json.dumps(document), body)


def raw_text(file: File, rng: random.Random) -> bytes:
    """Text that JSON's own readers stumble over, somewhere in the document."""
    text = json.dumps(file.document)
    at = rng.choice([place for place, letter in enumerate(text) if letter in ":,["]) + 1
    many = rng.choice([5, 100, 5000, 100_000])
    piece = rng.choice(
        ["[" * many, "[" * many + "]" * many + ",", "9" * many, "-" * many, "1e" + "9" * many, "NaN", "-Infinity",
         '{"a":' * many, '"\\ud800"', '"' + "\\u0041" * many + '"', "0." + "0" * many + "1", " " * many, "true" * many]
    )  # fmt: skip
    return joined(file.header, text[:at] + piece + text[at + rng.randrange(3) :], file.tensors)


def mutate(data: bytes, rng: random.Random, most: int = 1 << 20) -> bytes:
    """Another file; where items become many, of at most about `most` bytes more."""
    kind = rng.randrange(40)
    if kind < 12:
        return damaged(data, rng)
    file = File.read(data)
    if kind < 14:
        spoil_tensors(file, rng)
    elif kind < 16:
        edit(file.header, rng)
    elif kind == 16:
        return raw_text(file, rng)
    elif kind == 17 and file.header:
        bomb(file, rng)
    elif kind == 18:
        enlarge(file, rng, most)  # once: items are one object, many times
    else:
        for _ in range(rng.choice([1, 1, 1, 2, 5])):
            nodes = file.document.get("nodes")
            edit(nodes if rng.random() < 0.5 and places(nodes) else file.document, rng)
    return file.bytes()


def enlarge(file: File, rng: random.Random, most: int) -> None:
    """Items become many. What an earlier change has made no document any more stays as it is."""
    many = Many(rng, rng.choice([most // 64, most // 64, most // 8, most]))
    change = rng.choice([*CHANGES, None])
    try:
        many_tensors(file, many) if change is None else change(many, file.document)
    except (KeyError, TypeError, IndexError, AttributeError):
        edit(file.document, rng)


# ------------------------------------------------------------------------------------------------- other sound graphs


def other_value(attr: Attr, value: Any, rng: random.Random, large: bool = False) -> Any:
    """A value in (or just out of) the attribute's range."""
    if attr.kind == "text":
        return rng.choice(attr.choices)
    if attr.kind in ("ints", "floats", "dims"):
        changed = list(value) if isinstance(value, tuple) else [1.0, 1.0]
        kind = {"ints": "int", "floats": "float", "dims": "int"}[attr.kind]
        for _ in range(rng.choice([1, 1, len(changed)])):
            if changed:
                changed[rng.randrange(len(changed))] = other_value(replace(attr, kind=kind), changed[0], rng, large)
        return tuple(changed)
    if attr.kind in ("int", "dim"):
        return rng.choice(LARGE) if large else rng.choice([0, 1, 2, 3, 4, 7, -1, 128, 255, rng.randrange(256)])
    return rng.choice([0.0, -1.0, 0.3, 1e-6, 5.5, -2.5, 1e20]) if attr.kind == "float" else value


def vary(graph: Graph, rng: random.Random) -> Graph:
    """Another sound graph: other attributes, sizes, optional inputs; every value inferred anew. Raises GraphError."""
    values, nodes, symbols = dict(graph.values), list(graph.nodes), dict(graph.symbols)
    large = rng.random() < 0.3
    if rng.random() < 0.5:
        name = rng.choice(graph.inputs)
        sizes = LARGE if large else range(1, 14)
        shape = [rng.choice(sizes) if isinstance(d, int) and rng.random() < 0.5 else d for d in values[name].shape]
        values[name] = replace(values[name], shape=tuple(shape))
    if symbols and rng.random() < 0.2:
        least = rng.choice([0, 1, 5, *LARGE])
        symbols[rng.choice(list(symbols))] = Symbol(minimum=least, maximum=rng.choice([least, 2**31 - 1]))
    for _ in range(rng.choice([0, 1, 1, 2, 4])):
        place = rng.randrange(len(nodes))
        nodes[place] = other_node(nodes[place], rng, large)
    for place, node in enumerate(nodes):
        shapes = attributes(OPS[node.op], node).get("shape")
        if shapes is not None and node.inputs and values[node.inputs[0]].shape[:1] == ("batch",):  # a reshape follows
            rest = dims.mul(*values[node.inputs[0]].shape[1:])
            nodes[place] = node = replace(node, attrs={"shape": ("batch", rest)})
        made = infer(node, replace(graph, values=values, symbols=symbols))
        values |= zip(node.outputs, made, strict=True)
    return replace(graph, values=values, nodes=tuple(nodes), symbols=symbols)


def other_node(node: Node, rng: random.Random, large: bool) -> Node:
    op = OPS[node.op]
    attrs = attributes(op, node)
    names = [name for name in op.attrs if name in WINDOWS] if large else []
    if attrs:
        name = rng.choice(names or list(op.attrs))
        attrs[name] = other_value(op.attrs[name], attrs.get(name, 0.0), rng, large)
    inputs = [i for place, i in enumerate(node.inputs) if rng.random() < 0.95 or not op.input(place).optional]
    return replace(node, attrs=attrs, inputs=tuple(inputs))
