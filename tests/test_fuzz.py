"""Mutated files, and sound ones of odd shapes: each is refused with a LowbitError, or runs as the interpreter says.

Run for longer, or under a sanitizer, as `python tests/test_fuzz.py --seconds 120`; a seed and a number repeat one case.
"""

from __future__ import annotations

import argparse
import copy
import faulthandler
import json
import math
import random
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphs import GRAPHS, feeds
from lowbit.errors import LowbitError
from lowbit.graph import dims
from lowbit.graph.ir import Array, Graph, replace
from lowbit.ops import OPS, Attr, attributes, infer, interpreter
from lowbit.runtime import format
from lowbit.runtime import model as runtime_model

SLOWEST = 20.0
"""Seconds that one case may take, on a busy machine and under a sanitizer."""
MAX_WORK = 3e7
"""Elements and multiply-adds beyond which a sound graph is not run: a large model is no defect."""
EXACT = {
    "quantize", "dequantize", "dynamic_quantize", "lookup", "quantized_conv2d", "quantized_conv3d",
    "quantized_conv_transpose2d", "quantized_conv_transpose3d", "quantized_embedding", "quantized_linear",
    "quantized_embedding_bag", "quantized_add", "quantized_mul", "quantized_avg_pool2d",
    "quantized_adaptive_avg_pool2d", "max_pool2d", "reshape",
    "transpose", "pad", "concat", "slice", "clip", "add", "sub",
    "mul", "resize", "prelu", "max_pool2d_with_indices", "adaptive_max_pool2d_with_indices", "max_unpool2d",
    "minimum", "maximum", "floor_div", "trunc_div", "remainder", "fmod", "compare", "logical", "logical_not", "where",
    "expand", "triangle", "take", "gather", "index", "scatter", "index_put", "argmax", "sort", "topk",
    "arange", "dim_value",
}  # fmt: skip
"""Operators whose float outputs are the interpreter's bit for bit."""

NUMBERS = [
    0,
    1,
    -1,
    2,
    3,
    7,
    127,
    128,
    255,
    256,
    65536,
    2**31 - 1,
    2**31,
    2**32,
    2**53,
    2**62,
    2**63,
    -(2**63),
    2**64,
    10**30,
]
FLOATS = [0.0, -0.0, 0.5, -1.5, 1e-45, 1e-38, 3.4e38, 1e39, 1e308, -1e308, 1e-300]
TEXTS = [
    "", "x", "batch", "rows", "batch + 1", "batch*batch", "max(batch, 512)", "batch // 0", "2147483647*batch",
    "-batch", "u8", "f32", "s8", "i64", "bool", "row", "sample", "relu", "softmax", "../x", "\u0000",
    "é" * 50, "a" * 3000,
]  # fmt: skip
OTHERS: list[Any] = [None, True, False, [], {}, [[]], [{}], [0] * 9, [1, 1], [1] * 4, [[1, [2, [3]]]], {"tensor": "x"}]
KINDS: list[list[Any]] = [NUMBERS, FLOATS, TEXTS, OTHERS, list(range(-5, 300))]


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


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Another file: bytes flipped, cut, moved; or its header, graph or numbers changed and put together again."""
    kind = rng.randrange(10)
    if kind == 0:
        return data[: rng.randrange(len(data))]
    if kind <= 2:
        changed = bytearray(data)
        for _ in range(rng.choice([1, 1, 1, 4, 64])):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        return bytes(changed)
    if kind == 3:
        begin, size, at = rng.randrange(len(data)), rng.randrange(1, 200), rng.randrange(len(data))
        return data[:at] + data[begin : begin + size] + data[at + rng.choice([0, size]) :]
    (length,) = struct.unpack("<Q", data[:8])
    header, tensors = json.loads(data[8 : 8 + length]), bytearray(data[8 + length :])
    document = json.loads(header.pop("__metadata__")["lowbit"])
    if kind == 4:
        for _ in range(rng.choice([1, 8])):
            number = rng.choice(
                [b"\xff\xff\xff\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\xff", b"\x80", b"\x01\x00\x00\x00"]
            )
            at = rng.randrange(max(1, len(tensors) // 4)) * 4
            tensors[at : at + len(number)] = number
    elif kind == 5:
        edit(header, rng)
    else:
        for _ in range(rng.choice([1, 1, 1, 2, 5])):
            edit(document["nodes"] if rng.random() < 0.5 and places(document.get("nodes")) else document, rng)
    raw = json.dumps({**header, "__metadata__": {"lowbit": json.dumps(document)}}).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(tensors)


def other_value(attr: Attr, value: Any, rng: random.Random) -> Any:
    """A value in (or just out of) the attribute's range."""
    if attr.kind == "text":
        return rng.choice(attr.choices)
    if attr.kind in ("ints", "floats"):
        changed = list(value) if isinstance(value, tuple) else [1.0, 1.0]
        if changed:
            changed[rng.randrange(len(changed))] = other_value(replace(attr, kind=attr.kind[:-1]), changed[0], rng)
        return tuple(changed)
    if attr.kind == "int":
        return rng.choice([0, 1, 2, 3, 4, 7, -1, 128, 255, rng.randrange(256)])
    return rng.choice([0.0, -1.0, 0.3, 1e-6, 5.5, -2.5, 1e20]) if attr.kind == "float" else value


def vary(graph: Graph, rng: random.Random) -> Graph:
    """Another sound graph: other attributes, sizes, optional inputs; every value inferred anew. Raises GraphError."""
    values, nodes = dict(graph.values), list(graph.nodes)
    if rng.random() < 0.5:
        name = rng.choice(graph.inputs)
        shape = [rng.randrange(1, 14) if isinstance(d, int) and rng.random() < 0.5 else d for d in values[name].shape]
        values[name] = replace(values[name], shape=tuple(shape))
    for _ in range(rng.choice([0, 1, 1, 2, 4])):
        place = rng.randrange(len(nodes))
        node, op = nodes[place], OPS[nodes[place].op]
        attrs = attributes(op, node)
        if attrs:
            name = rng.choice(list(op.attrs))
            attrs[name] = other_value(op.attrs[name], attrs.get(name, 0.0), rng)
        inputs = [i for place, i in enumerate(node.inputs) if rng.random() < 0.95 or not op.input(place).optional]
        nodes[place] = replace(node, attrs=attrs, inputs=tuple(inputs))
    for place, node in enumerate(nodes):
        shapes = attributes(OPS[node.op], node).get("shape")
        if shapes is not None and values[node.inputs[0]].shape[0] == "batch":  # a reshape follows its input
            rest = dims.mul(*values[node.inputs[0]].shape[1:])
            nodes[place] = node = replace(node, attrs={"shape": ("batch", rest)})
        values |= zip(node.outputs, infer(node, replace(graph, values=values)), strict=True)
    return replace(graph, values=values, nodes=tuple(nodes))


def varied(graph: Graph, rng: random.Random, path: Path) -> None:
    """Writes a sound variation of the graph."""
    for _ in range(50):
        try:
            format.save(path, vary(graph, rng))
            return
        except LowbitError:
            continue
    format.save(path, graph)


def elements(graph: Graph, name: str, sizes: dict[str, int], first: int = 0) -> float:
    """How many elements a value has, over its axes from `first` on."""
    return math.prod(float(dims.evaluate(dim, sizes)) for dim in graph.values[name].shape[first:])


def work(graph: Graph, sizes: dict[str, int]) -> float:
    """About how many elements are touched and multiplied."""
    total = sum(elements(graph, name, sizes) for name in graph.inputs)
    for node in graph.nodes:
        each = math.prod(map(float, node.attrs.get("kernel", ())))  # type: ignore[arg-type]
        if node.op.startswith(("conv", "linear")):
            each = elements(graph, node.inputs[1], sizes, first=1)
        total += each * sum(elements(graph, name, sizes) for name in node.outputs)
    return total


def compare(graph: Graph, got: list[Array], feed: dict[str, Array]) -> None:
    expected = interpreter.run(graph, feed, keep=[name for node in graph.nodes for name in node.outputs])
    ops = {node.op for node in graph.nodes}
    largest = max(float(np.abs(array.astype(np.float64)).max(initial=0)) for array in expected.values())
    for name, array in zip(graph.outputs, got, strict=True):
        assert (array.dtype, array.shape) == (expected[name].dtype, expected[name].shape)
        if ops <= EXACT:
            np.testing.assert_array_equal(array, expected[name])
        elif not ops & {"quantize", "dynamic_quantize", "cast"} and largest < 1000:
            np.testing.assert_allclose(array, expected[name], rtol=1e-3, atol=1e-3)


def try_file(path: Path) -> str:
    """ "refused", "large" or "ran"; anything but a LowbitError on the way is a failure."""
    try:
        graph, _ = format.load(path)
        model = runtime_model.load(path, threads=1)
        sizes = {name: symbol.minimum for name, symbol in graph.symbols.items()}
        if work(graph, sizes) > MAX_WORK:
            return "large"
        feed = feeds(graph, sizes)
        got = model.session.run(**feed)
        model(**feed)
        compare(graph, got, feed)
    except LowbitError:
        return "refused"
    return "ran"


def originals(directory: Path) -> list[bytes]:
    """The sound files that cases start from."""
    files = []
    for name, make in GRAPHS.items():
        path = directory / f"{name}.lowbit"
        graph = make()
        parameters = [{"name": i, "kind": "positional", "tree": {"tensor": i, "dtype": "f32"}} for i in graph.inputs]
        output = {"dict": {name: {"tensor": index} for index, name in enumerate(graph.outputs)}}
        meta = {"signature": {"parameters": parameters}, "output": output, "producer": "lowbit"}
        format.save(path, graph, meta, compress=len(files) % 2 == 1)
        assert try_file(path) == "ran"
        files.append(path.read_bytes())
    return files


def fuzz(
    seconds: float, seed: int, directory: Path, only: int | None = None, tell: Callable[[str], None] = print
) -> Counter[str]:
    """Cases 0, 1, ... of `seed` until the time is over; `only`: that case alone. Returns how each kind ended."""
    files, counts, slowest = originals(directory), Counter[str](), 0.0
    path, begin, index = directory / "case.lowbit", time.monotonic(), only or 0
    while only in (None, index) and (time.monotonic() - begin < seconds or only is not None):
        rng = random.Random(f"{seed}:{index}")
        if index % 2:
            varied(GRAPHS[rng.choice(list(GRAPHS))](), rng, path)
        else:
            path.write_bytes(mutate(rng.choice(files), rng))
        start = time.monotonic()
        try:
            counts[try_file(path)] += 1
        except BaseException:
            tell(f"failed: --seed {seed} --only {index}")
            raise
        took = time.monotonic() - start
        assert took < SLOWEST, f"{took:.1f} s: --seed {seed} --only {index}"
        slowest, index = max(slowest, took), index + 1
    tell(f"seed {seed}: {index} cases, {dict(counts)}, slowest {slowest:.3f} s")
    return counts


@pytest.mark.parametrize("seed", [1, 2])
def test_mutated_files(seed: int, tmp_path: Path) -> None:
    counts = fuzz(3.0, seed, tmp_path)
    assert counts["refused"] > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--only", type=int, help="the number of one case")
    arguments = parser.parse_args()
    faulthandler.enable()
    faulthandler.dump_traceback_later(arguments.seconds + 120, exit=True)
    with tempfile.TemporaryDirectory() as directory:
        fuzz(arguments.seconds, arguments.seed, Path(directory), arguments.only)


if __name__ == "__main__":
    main()
