"""Files of a great many items of one kind: loading takes time in proportion, and what is too much is refused early."""

from __future__ import annotations

import json
import math
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lowbit
from lowbit import _core
from lowbit.errors import FormatError, GraphError, LimitError, LowbitError
from lowbit.graph import dims, polynomials
from lowbit.graph.ir import Condition, Graph, Node, Symbol, Value, replace
from lowbit.ops import interpreter
from lowbit.runtime import build, calls, container, format
from lowbit.runtime import model as runtime_model
from lowbit.runtime.meta import Meta

Document = dict[str, Any]
N = 2500


def value(*shape: int | str, dtype: str = "f32") -> Document:
    return {"dtype": dtype, "shape": [*shape]}


def node(op: str, inputs: list[str], output: str, **attrs: Any) -> Document:
    return {"op": op, "name": output, "inputs": inputs, "outputs": [output], "attrs": attrs}


def document() -> Document:
    """A graph of one operator."""
    return {
        "version": 2,
        "symbols": {"batch": [1, 1000]},
        "inputs": ["x"],
        "outputs": ["y"],
        "values": {"x": value("batch", 4), "y": value("batch", 4)},
        "constants": {},
        "nodes": [node("unary", ["x"], "y", kind="relu")],
        "states": [],
        "meta": {},
    }


def file_of(document: Document) -> bytes:
    """All constants name one tensor of zeros."""
    shape: list[int] = next((document["values"][name]["shape"] for name in document["constants"]), [])
    size = 4 * math.prod(shape)
    tensors = {"c": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}} if document["constants"] else {}
    header = json.dumps({**tensors, "__metadata__": {"lowbit": json.dumps(document)}}).encode()
    return struct.pack("<Q", len(header)) + header + b"\0" * (size if tensors else 0)


def inputs(d: Document, n: int) -> None:
    names = [f"i{index}" for index in range(n)]
    d["inputs"] += names
    d["values"] |= {name: value(1) for name in names}
    parameters = [{"name": name, "kind": "positional", "tree": {"tensor": name}} for name in d["inputs"]]
    d["meta"]["signature"] = {"parameters": parameters}


def symbols(d: Document, n: int) -> None:
    """Each is the size of an input; and a node needs it."""
    for index in range(n):
        d["symbols"][f"s{index}"] = [1, 100]
        d["inputs"].append(f"i{index}")
        d["values"] |= {f"i{index}": value(f"s{index}"), f"r{index}": value(f"max(s{index}, 3) - 3")}
        d["nodes"].append(node("slice", [f"i{index}"], f"r{index}", axis=0, start=3, stop=2**31 - 1))


def conditions(d: Document, n: int) -> None:
    symbols(d, 3)
    d["conditions"] = [["nonzero", f"s0*s1 + s2 - {index}*s1 - 1"] for index in range(n)]


def chain(d: Document, n: int) -> None:
    last = "x"
    for index in range(n):
        d["nodes"].append(node("unary", [last], f"a{index}", kind="relu"))
        d["values"][f"a{index}"] = value("batch", 4)
        last = f"a{index}"
    d["outputs"] = [last]


def fan(d: Document, n: int) -> None:
    """Nodes that all read one value, and whose results are outputs."""
    for index in range(n):
        d["nodes"].append(node("unary", ["x"], f"a{index}", kind="relu"))
        d["values"][f"a{index}"] = value("batch", 4)
        d["outputs"].append(f"a{index}")


def wide(d: Document, n: int) -> None:
    d["nodes"] = [node("concat", ["x"] * n, "y", axis=1)]
    d["values"]["y"] = value("batch", 4 * n)


def constants(d: Document, n: int) -> None:
    """They name one tensor, are read, and returned."""
    for index in range(n):
        d["constants"][f"c{index}"] = {"tensor": "c"}
        d["values"] |= {f"c{index}": value(4), f"a{index}": value("batch", 4)}
        d["nodes"].append(node("add", ["x", f"c{index}"], f"a{index}"))
        d["outputs"] += [f"c{index}", f"a{index}"]


def expressions(d: Document, n: int) -> None:
    d["values"] |= {f"u{index}": value(f"max(batch*{index}, {index} + 3)//7") for index in range(n)}


def nests(d: Document, n: int) -> None:
    """Deep expressions, in nodes that infer them again."""
    size = "batch"
    for index in range(32):
        size = f"max({size} - {index}, batch // {index + 2})"
    for index in range(n // 100):
        d["nodes"].append(node("expand", ["c"], f"e{index}", shape=[size, index + 1]))
        d["values"][f"e{index}"] = value(size, index + 1)
    d["values"]["c"] = value(1)
    d["constants"]["c"] = {"tensor": "c"}


def search(d: Document, n: int) -> None:
    """Conditions that no sizes fulfil, so that thousands are tried."""
    symbols(d, 3)
    for index in range(150):
        size = " + ".join(f"s{k % 3}*s{(k + index) % 3} // {k + index + 2}" for k in range(40))
        d["conditions"] = [*d.get("conditions", []), ["natural", size]]
    d["conditions"].append(["zero", "s0*s0 + s1 - s1 + 1"])


def wrong(d: Document, n: int) -> None:
    d["values"] |= {f"u{index}": value(1, dtype="none") for index in range(n)}


def undefined(d: Document, n: int) -> None:
    d["nodes"] += [node("unary", [f"w{index}"], f"z{index}", kind="relu") for index in range(n)]
    d["outputs"] += [f"q{index}" for index in range(n)]
    d["inputs"] += ["x"] * n


def attributes(d: Document, n: int) -> None:
    d["nodes"][0]["attrs"] |= {f"a{index}": [[index]] for index in range(n)}


def states(d: Document, n: int) -> None:
    d["states"] = [["x", "y"], ["y", "x"]] * n


def trees(d: Document, n: int) -> None:
    leaves: list[Any] = [{"tensor": "x"}, *({"list": [{"constant": index}]} for index in range(n))]
    d["meta"]["signature"] = {"parameters": [{"name": "x", "kind": "positional", "tree": {"tuple": leaves}}]}
    d["meta"]["output"] = {"dict": {f"k{index}": {"tensor": 0} for index in range(n)}}


def decisions(d: Document, n: int) -> None:
    evaluation = {"model": "m", "score": 1, "drop": 0, "int8_layers": 0, "float_layers": ["n"] * 3}
    d["meta"] = {
        "decisions": [{"node": "n", "scheme": "int8", "reason": "r"}] * n,
        "evaluations": [evaluation] * n,
        "sparsity": [{"node": "n", "pattern": "4x4", "density": 0.5}] * n,
        "notes": ["note"] * n,
        "more": [[]] * n,
    }


def first_version(d: Document, n: int) -> None:
    chain(d, n)
    d["version"] = 1


KINDS: list[tuple[Callable[[Document, int], None], str]] = [
    (inputs, ""),
    (symbols, "symbols are more than"),
    (conditions, "conditions are more than"),
    (chain, ""),
    (fan, ""),
    (wide, ""),
    (constants, ""),
    (expressions, ""),
    (nests, ""),
    (search, "too many and too complicated"),
    (wrong, "more than 20 problems"),
    (undefined, "more than 20 problems"),
    (attributes, "unknown attribute"),
    (states, "state"),
    (trees, ""),
    (decisions, ""),
    (first_version, ""),
]


@pytest.mark.parametrize(("fill", "message"), KINDS, ids=lambda kind: getattr(kind, "__name__", ""))
def test_loading_takes_time_in_proportion_to_the_file(
    tmp_path: Path, fill: Callable[[Document, int], None], message: str
) -> None:
    """Two seconds and two for each megabyte, by far; the text of an error stays short."""
    path, d = tmp_path / "many.lowbit", document()
    fill(d, N)
    path.write_bytes(file_of(d))
    begin, error = time.process_time(), ""
    try:
        lowbit.load(path, threads=1)
    except LowbitError as refusal:
        error = str(refusal)
    assert time.process_time() - begin < 2 + 2 * path.stat().st_size / 1e6
    assert (message in error) if message else not error
    assert len(error) < 25_000


# ---------------------------------------------------------------------------------------------------- counts, not times


class Name(str):
    """A name that counts how often it is compared with another."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Name.compared += 1
        return str.__eq__(self, other) is True


def test_names_are_looked_up_and_not_searched() -> None:
    """Of 1,000 inputs, constants and parameters of a call, each is compared a few times, not with all others."""
    count, v = 1000, Value(dtype="f32", shape=(1,))

    def names(kind: str) -> tuple[Name, ...]:
        return tuple(Name(f"{kind}{index}") for index in range(count))

    zero = np.zeros(1, np.float32)
    graph = Graph(
        inputs=names("i"),
        outputs=names("a"),
        values={name: v for kind in "ica" for name in names(kind)},
        nodes=tuple(
            Node(op="add", name=str(a), inputs=(i, c), outputs=(a,))
            for a, i, c in zip(names("a"), names("i"), names("c"), strict=True)
        ),
        constants=dict.fromkeys(names("c"), zero),
    )
    parameters = [{"name": name, "kind": "positional", "tree": {"tensor": name}} for name in names("i")]
    steps: dict[str, Callable[[], Any]] = {
        "validate": lambda: interpreter.validate(graph),
        "convention": lambda: calls.convention(Meta.read({"signature": {"parameters": parameters}}), names("i"), 1),
        "run": lambda: interpreter.run(graph, dict.fromkeys(names("i"), zero)),
        "fill": lambda: build.fill(graph),
    }
    for what, step in steps.items():
        Name.compared = 0
        step()
        assert Name.compared < 40 * count, what


def test_the_builder_takes_time_in_proportion() -> None:
    """Eight times as many symbols, outputs and readers take eight times as long, with a factor of three to spare."""

    def seconds(count: int) -> float:
        builder = _core.GraphBuilder()
        for index in range(count):
            builder.symbol(f"s{index}", 1, 100)
        for index in range(count):
            builder.input(f"x{index}", "f32", [[1, index]])
            builder.constant(f"c{index}", np.zeros(1, np.float32))
            builder.node("add", f"n{index}", [f"x{index}", f"c{index}"], [f"y{index}"], {})
            builder.output(f"y{index}")
            builder.output(f"c{index}")
        begin = time.process_time()
        builder.finish(threads=1)
        return time.process_time() - begin

    assert min(seconds(8000) for _ in range(2)) < 24 * min(seconds(1000) for _ in range(3))


def test_steps_of_expressions_are_few_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file's worth of the deepest nests stays far below the bound; beyond it, what is wrong is said."""
    size = "batch"
    for index in range(24):
        size = f"max({size} - {index}, batch // {index + 2})"
    free = {"batch": Symbol(minimum=8, multiple=8)}
    with dims.bounded_steps():
        for index in range(25):
            for _ in range(100):  # as nodes do, which all infer it
                dims.simplify(f"{size} + {index}", free)
                dims.bounds(f"{size} + {index}", free)

    def simplify_all(count: int) -> None:
        with dims.bounded_steps():
            for index in range(count):
                dims.simplify(f"max(batch, {index}) // 7", free)

    simplify_all(1000)
    monkeypatch.setattr(polynomials, "MAX_STEPS", 30_000)
    with pytest.raises(GraphError, match="too complicated"):
        simplify_all(2000)
    assert dims.simplify("max(batch, 1)", free) == "batch"


# ------------------------------------------------------------------------------------------------------- before parsing


@pytest.mark.parametrize("item", ["[]", "{}", '{"a":0}', "[[]]", '""', '{"b":[{}]}'])
@pytest.mark.parametrize("place", ["meta", "header", "values"])
def test_documents_that_would_fill_the_memory_are_refused(
    tmp_path: Path, item: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before they are parsed: an empty list takes 3 bytes of a file, and 64 of memory."""
    monkeypatch.setattr(container, "ROOM", 100_000)
    items = ",".join([item] * 20_000)
    d = document()
    text = json.dumps(d | ({place: {"x": "HERE"}} if place != "header" else {})).replace('"HERE"', f"[{items}]")
    header = {"__metadata__": {"lowbit": text}, **({"t": "HERE"} if place == "header" else {})}
    raw = json.dumps(header).replace('"HERE"', f"[{items}]").encode()
    path = tmp_path / "many.lowbit"
    path.write_bytes(struct.pack("<Q", len(raw)) + raw)
    with pytest.raises(FormatError, match="would take about"):
        lowbit.load(path)
    with pytest.raises(FormatError, match="would take about"):
        format.read_document(path)


@pytest.mark.parametrize(
    ("shape", "bits", "message"),
    [
        ([0, 2**39, 2**39], 32, "more than 2^40 elements"),
        ([2**61, 0], 32, "more than 2^40 elements"),
        ([0, 2**20], 32, ""),
        ([0, 0], 4, "none of them 0"),
        ([4, 0], 4, "none of them 0"),
        ([0, 8], 1, "none of them 0"),
        ([0, 4], 8, ""),
    ],
)
def test_empty_tensors_of_any_shape_are_taken_or_refused(
    tmp_path: Path, shape: list[int], bits: int, message: str
) -> None:
    d = document()
    d["values"]["c"] = value(*shape)
    d["constants"]["c"] = {"tensor": "c"}
    tensors: Document = {"c": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}
    if bits < 32:
        packed = [shape[0], 0] if bits < 8 else shape
        d["constants"]["c"] = {"weight": {"codes": "c", "scales": "s", "bits": bits, "group_size": 0}}
        tensors["c"] = {"dtype": "U8" if bits < 8 else "I8", "shape": packed, "data_offsets": [0, 0]}
        tensors["s"] = {"dtype": "F32", "shape": [shape[0]], "data_offsets": [0, 4 * shape[0]]}
    raw = json.dumps({**tensors, "__metadata__": {"lowbit": json.dumps(d)}}).encode()
    path = tmp_path / "empty.lowbit"
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(4 * shape[0] if bits < 32 else 0))
    if not message:
        assert lowbit.load(path, threads=1)(np.ones((1, 4), np.float32)).shape == (1, 4)
        return
    with pytest.raises(LowbitError) as refusal:
        lowbit.load(path, threads=1)
    assert message in str(refusal.value)


def test_what_is_wrong_with_symbols_is_said_before_sizes_are_sought() -> None:
    v = Value(dtype="f32", shape=("s",))
    graph = Graph(
        inputs=("x",), outputs=("x",), values={"x": v}, nodes=(), constants={}, symbols={"s": Symbol(multiple=0)}
    )
    with pytest.raises(GraphError, match="0 more than a multiple of 0"):
        interpreter.validate(replace(graph, conditions=(Condition(kind="zero", size="s % 3"),)))


def test_inputs_that_are_too_large_to_make_up_are_refused(tmp_path: Path) -> None:
    d = document()
    d["values"] = {name: value(2**19, 2**19) for name in "xy"}
    d["symbols"] = {}
    path = tmp_path / "large.lowbit"
    path.write_bytes(file_of(d))
    model = lowbit.load(path, threads=1)
    with pytest.raises(LimitError, match="too large to be made up"):
        model.report(tmp_path / "report.html")
    with pytest.raises(LimitError, match="too large to be made up"):
        model.session.made_up()


def test_a_lack_of_memory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.lowbit"
    path.write_bytes(file_of(document()))

    def lacking(*_: Any) -> None:
        raise MemoryError

    for place in ("read", "read_document"):
        with monkeypatch.context() as patch:
            patch.setattr(container, place, lacking)
            with pytest.raises(LowbitError, match="not enough memory"):
                format.load(path) if place == "read" else format.read_document(path)
    with monkeypatch.context() as patch:
        patch.setattr(format, "outline", lacking)
        with pytest.raises(LowbitError, match="not enough memory"):
            lowbit.load(path)
    with monkeypatch.context() as patch:
        patch.setattr(runtime_model, "_by_core", lambda *_: None)
        patch.setattr(runtime_model, "fill", lacking)
        with pytest.raises(LowbitError, match="not enough memory"):
            lowbit.load(path)


def test_inspect_shows_the_first_of_very_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typer = pytest.importorskip("typer.testing")
    from lowbit.cli import commands

    monkeypatch.setattr(commands, "SHOWN", 20)
    d = document()
    fan(d, 50)
    d["meta"]["decisions"] = [{"node": "n"}] * 30
    path = tmp_path / "many.lowbit"
    path.write_bytes(file_of(d))
    shown = typer.CliRunner().invoke(commands.app, ["inspect", str(path)])
    assert shown.exit_code == 0
    for more in ("and 31 more", "and 31 more nodes", "and 10 more decisions"):
        assert more in shown.output
