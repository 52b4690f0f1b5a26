"""Writes the corpus of tests/cpp/fuzz: graphs of graphs.py, and a node of each operator, as decode.h reads them.

Small graphs are there as files, too, as read.cpp reads them.

`python tests/fuzz_seeds.py` makes its part of `corpus`, and all of `files`, anew; what fuzzers found stays. Constants
keep their shapes, and their numbers where these are few and whole, as places are.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import safetensors.numpy

from graphs import GRAPHS
from lowbit import _core
from lowbit.graph import dims
from lowbit.graph.ir import DTYPES, Array, Graph, replace
from lowbit.ops import OPS
from lowbit.runtime import build, format

HERE = Path(__file__).resolve().parent / "cpp/fuzz"
CORPUS, FILES = HERE / "corpus", HERE / "files"
CHOICES = bytes([0b00000000, 0b10011001, 0b01100110, 4])
"""Of sizes for three runs, two bits a symbol, and of the data."""
LISTED = 32
"""So many numbers of a constant can be listed."""


def words(name: str) -> list[str]:
    """A list of words.h."""
    found = re.search(rf"{name}\s*=[^{{]*{{(.*?)}}\)", (HERE / "words.h").read_text(), re.S)
    assert found is not None
    return re.findall(r'"([^"]*)"', found[1])


TYPES, CONDITIONS, PATTERNS, KEYS, TEXTS = map(words, ("kTypes", "kConditions", "kPatterns", "kKeys", "kTexts"))


def word(words: list[str], text: str) -> bytes:
    if text not in words:
        raise ValueError(f"add {text!r} to the end of its list in {HERE / 'words.h'}")
    return bytes([words.index(text)])


def whole(number: int) -> bytes:
    if -8 <= number < 232:
        return bytes([number + 8])
    for first, form, bits in ((240, "<h", 15), (241, "<i", 31), (242, "<q", 63)):
        if -(1 << bits) <= number < 1 << bits:
            return bytes([first]) + struct.pack(form, number)
    raise ValueError(number)


def real(number: float) -> bytes:
    steps = number * 8 + 32
    if steps.is_integer() and 0 <= steps < 128:
        return bytes([int(steps)])
    short = struct.pack("<f", number)
    return b"\x80" + short if struct.unpack("<f", short)[0] == number else b"\x81" + struct.pack("<d", number)


def many(items: Sequence[Any], one: Any) -> bytes:
    return bytes([len(items)]) + b"".join(map(one, items))


def dim(size: int | list[int]) -> bytes:
    if isinstance(size, int):
        return bytes([size]) if 0 <= size < 224 else bytes([224]) + whole(size)
    pairs = list(zip(size[::2], size[1::2], strict=True))
    if len(pairs) == 1 and pairs[0][0] == 1:
        return bytes([225 + pairs[0][1]])
    if len(pairs) == 1 and pairs[0][0] == 0:
        return dim(pairs[0][1])
    assert len(pairs) <= 16
    return bytes([239 + len(pairs)]) + b"".join(
        bytes([op]) + (whole(operand) if op in (0, 1, 9) else b"") for op, operand in pairs
    )


def attribute(value: Any) -> bytes:
    if isinstance(value, (int, np.integer)):
        return b"\x00" + whole(int(value))
    if isinstance(value, float):
        return b"\x01" + real(value)
    if isinstance(value, str):
        return b"\x02" + word(TEXTS, value)
    if value and isinstance(value[0], list):
        return b"\x05" + many(value, dim)
    if value and isinstance(value[0], float):
        return b"\x04" + many(value, real)
    return b"\x03" + many(value, whole)


def hash_of(name: str) -> int:
    """16 bits of FNV-1a."""
    value = 2166136261
    for letter in name.encode():
        value = (value ^ letter) * 16777619 & 0xFFFFFFFF
    return (value ^ value >> 16) & 0xFFFF


class Encoder:
    """Takes the calls of a `_core.GraphBuilder`, and writes them down."""

    def __init__(self) -> None:
        self.bytes = CHOICES
        self._symbols = 0
        self._names: list[str] = []

    def _define(self, name: str) -> None:
        self._names.append(name)

    def _value(self, name: str) -> bytes:
        return bytes([255 if not name else len(self._names) - 1 - self._names.index(name)])

    def symbol(self, _: str, minimum: int, maximum: int, multiple: int, remainder: int, trial: int) -> int:
        self.bytes += b"\x00" + b"".join(map(whole, (minimum, maximum, multiple, remainder, trial)))
        self._symbols += 1
        return self._symbols - 1

    def condition(self, kind: str, size: list[int]) -> None:
        self.bytes += b"\x07" + word(CONDITIONS, kind) + dim(size)

    def input(self, name: str, dtype: str, shape: Sequence[int | list[int]]) -> None:
        self.bytes += b"\x01" + word(TYPES, dtype) + many(shape, dim)
        self._define(name)

    def constant(self, name: str, array: Array) -> None:
        dtype = next(key for key, known in DTYPES.items() if known == array.dtype)
        listed = array.ravel() if array.size <= LISTED and array.dtype.kind in "ib" else []
        self.bytes += b"\x02" + word(TYPES, dtype) + many(array.shape, whole)
        self.bytes += many([int(number) for number in listed], whole) + b"\x01"
        self._define(name)

    def numbers(self, name: str, shape: Sequence[int]) -> Array:
        array = np.zeros(shape, np.float32)
        self.constant(name, array)
        return array

    def weight(
        self, name: str, *, shape: Sequence[int], bits: int, group_size: int, pattern: str, **parts: Any
    ) -> None:
        present = [parts.get(part) is not None for part in ("zero_points", "offsets", "values")]
        flags = int(parts["scales"].dtype == np.float16) + sum(2 << i for i, there in enumerate(present) if there)
        density = 255 if not pattern else max(1, round(255 * np.count_nonzero(parts["codes"]) / parts["codes"].size))
        self.bytes += b"\x03" + many(shape, whole) + bytes([bits]) + whole(group_size) + bytes([flags, density])
        self.bytes += word(PATTERNS, pattern) + b"\x01"
        self._define(name)

    def node(self, op: str, _: str, inputs: Sequence[str], outputs: Sequence[str], attributes: dict[str, Any]) -> None:
        self.bytes += b"\x04" + struct.pack("<H", hash_of(op))
        self.bytes += bytes([len(inputs), len(outputs)]) + b"".join(map(self._value, inputs))
        self.bytes += many(list(attributes.items()), lambda item: word(KEYS, item[0]) + attribute(item[1]))
        for name in outputs:
            self._define(name)

    def output(self, name: str) -> None:
        self.bytes += b"\x06" + self._value(name)


def encode(graph: Graph) -> bytes:
    """The calls that hand a graph to the core, as bytes."""
    with mock.patch.object(_core, "GraphBuilder", Encoder):
        encoder: Any = build.fill(graph)
    return bytes(encoder.bytes)


def alone(graph: Graph, place: int) -> Graph:
    """A node by itself, its sizes numbers."""
    node, sizes = graph.nodes[place], {name: symbol.minimum + 1 for name, symbol in graph.symbols.items()}
    attrs = dict(node.attrs)
    for key, value in node.attrs.items():
        if OPS[node.op].attrs[key].kind == "dims":
            attrs[key] = tuple(dims.evaluate(size, sizes) for size in value)
        elif OPS[node.op].attrs[key].kind == "dim":
            attrs[key] = dims.evaluate(value, sizes)
    names = dict.fromkeys(name for name in (*node.inputs, *node.outputs) if name)
    values = {
        name: replace(value, shape=tuple(dims.evaluate(size, sizes) for size in value.shape), quant=None)
        for name, value in graph.values.items()
        if name in names
    }
    return replace(
        graph,
        inputs=tuple(name for name in names if name not in graph.constants and name not in node.outputs),
        outputs=node.outputs,
        values=values,
        nodes=(replace(node, attrs=attrs),),
        constants={name: constant for name, constant in graph.constants.items() if name in names},
        symbols={},
    )


def seeds() -> Iterator[tuple[str, bytes]]:
    """Names and bytes of what this writes."""
    known = set()
    for name, make in GRAPHS.items():
        graph = make()
        yield f"graph_{name}", encode(graph)
        for place, node in enumerate(graph.nodes):
            if node.op in known:
                continue
            known.add(node.op)
            yield f"node_{node.op}", encode(alone(graph, place))


SMALL = 12_000
"""Bytes of a file that is worth to be mutated."""


def files() -> Iterator[tuple[str, bytes]]:
    """Small graphs as files apart: the document, the header without it, the tensors, zeros between; some compressed."""
    for index, (name, make) in enumerate(GRAPHS.items()):
        tensors, metadata = format._contents(make(), {}, compress=index % 3 == 1)
        data = safetensors.numpy.save(tensors)
        (length,) = struct.unpack("<Q", data[:8])
        apart = b"\0".join([metadata["lowbit"].encode(), data[8 : 8 + length].strip(), data[8 + length :]])
        if len(apart) < SMALL:
            yield name, apart


def main() -> None:
    FILES.mkdir(exist_ok=True)
    for old in FILES.iterdir():
        old.unlink()
    for name, data in files():
        (FILES / name).write_bytes(data)
    made = dict(seeds())
    CORPUS.mkdir(exist_ok=True)
    for old in (*CORPUS.glob("graph_*"), *CORPUS.glob("node_*")):
        old.unlink()
    for name, data in made.items():
        (CORPUS / name).write_bytes(data)


if __name__ == "__main__":
    main()
