"""Validation: every problem of a graph is listed at once, and the interpreter refuses feeds that do not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from graphs import GRAPHS, Maker, feeds, float_net, integer_net
from lowbit.errors import GraphError, InputError
from lowbit.graph.ir import Graph, Node, Quant, State, Symbol, Value, Weight, replace
from lowbit.ops import OPS, interpreter
from lowbit.ops.interpreter import validate


def node_of(graph: Graph, op: str) -> Node:
    return next(node for node in graph.nodes if node.op == op)


def with_node(graph: Graph, node: Node, **changes: Any) -> Graph:
    return replace(graph, nodes=tuple(replace(n, **changes) if n.name == node.name else n for n in graph.nodes))


def with_attrs(graph: Graph, op: str, **attrs: Any) -> Graph:
    node = node_of(graph, op)
    return with_node(graph, node, attrs={**node.attrs, **attrs})


def with_weight(graph: Graph, **changes: Any) -> Graph:
    name, weight = next((n, c) for n, c in graph.constants.items() if isinstance(c, Weight))
    return replace(graph, constants={**graph.constants, name: replace(weight, **changes)})


def first_weight(graph: Graph) -> Weight:
    return next(c for c in graph.constants.values() if isinstance(c, Weight))


def with_value(graph: Graph, name: str, **changes: Any) -> Graph:
    return replace(graph, values={**graph.values, name: replace(graph.values[name], **changes)})


def with_symbols(graph: Graph, symbols: Mapping[str, Symbol]) -> Graph:
    return replace(graph, symbols={**graph.symbols, **symbols})


@pytest.mark.parametrize("name", GRAPHS)
def test_good_graphs_pass(name: str) -> None:
    graph = GRAPHS[name]()
    assert validate(graph) is graph


def test_the_graphs_hold_every_operator() -> None:
    assert {node.op for make in GRAPHS.values() for node in make().nodes} == set(OPS) - {"torch"}


BROKEN: list[tuple[Callable[[], Graph], str]] = [
    (lambda: replace(float_net(), outputs=()), "no outputs"),
    (lambda: replace(float_net(), outputs=("nothing",)), "'nothing' is not defined"),
    (lambda: replace(float_net(), inputs=("x", "x")), "repeat"),
    (lambda: replace(float_net(), inputs=("x", "z")), "'z' has no entry"),
    (lambda: replace(float_net(), nodes=float_net().nodes[::-1]), "not defined before"),
    (lambda: replace(float_net(), nodes=(*float_net().nodes, float_net().nodes[0])), "already defined"),
    (lambda: replace(float_net(), states=(State(input="x", output="nothing"),)), "state"),
    (
        lambda: replace(float_net(), constants={**float_net().constants, "q": np.zeros(2, np.float32)}),
        "'q' has no entry",
    ),
    (lambda: with_node(float_net(), node_of(float_net(), "clip"), op="sorting"), "no such operator"),
    (lambda: with_attrs(float_net(), "conv2d", stride=(1, "a")), "'stride' must be an integer"),
    (lambda: with_attrs(float_net(), "conv2d", stride=(2, 2)), "its value says"),
    (lambda: with_attrs(float_net(), "reshape", shape=("batch", 17)), "does not reshape"),
    (lambda: with_value(float_net(), "x", dtype="f64"), "dtype 'f64'"),
    (lambda: with_value(float_net(), "x", shape=("batch", 3, 12, -10)), "negative"),
    (lambda: with_value(float_net(), "x", shape=("batch", 3, 12, "w")), "'w' of a size expression is not known"),
    (lambda: with_value(float_net(), "x", shape=(1,) * 9), "rank 9"),
    (lambda: with_value(float_net(), "x", shape=(2**20,) * 4), "more than 2\\^40"),
    (lambda: with_value(integer_net(), "v0", quant=Quant(scale=-1.0, zero_point=3)), "scale -1.0"),
    (lambda: with_value(integer_net(), "v0", quant=Quant(scale=float("nan"), zero_point=3)), "scale nan"),
    (lambda: with_value(integer_net(), "v0", quant=Quant(scale=1.0, zero_point=300)), "zero point 300"),
    (lambda: with_value(integer_net(), "v0", quant=Quant(scale="x", zero_point="x")), "no u8 value"),
    (lambda: with_symbols(float_net(), {"free": Symbol()}), "'free' is not the size of any input"),
    (lambda: with_symbols(float_net(), {"batch": Symbol(minimum=5, maximum=4)}), "bounds"),
    (lambda: with_symbols(float_net(), {"max": Symbol()}), "no name for a symbol"),
    (lambda: with_weight(integer_net(), codes=np.zeros((8, 4, 3, 3), np.int16)), "must be int8"),
    (lambda: with_weight(integer_net(), codes=np.zeros((8, 4, 3), np.int8)), "its value says"),
    (lambda: with_weight(integer_net(), scales=np.full(8, np.inf, np.float32)), "not finite"),
    (lambda: with_weight(integer_net(), scales=np.ones(7, np.float32)), "scales are"),
    (lambda: with_weight(integer_net(), bits=5), "bits 5"),
    (lambda: with_weight(integer_net(), group_size=32), "group_size 32"),
    (lambda: with_weight(integer_net(), zero_points=np.zeros(8, np.int8)), "no zero points"),
    (lambda: with_attrs(integer_net(), "quantized_add", lo=9, hi=8), "lo 9 is above hi 8"),
    (lambda: with_attrs(integer_net(), "quantized_conv2d", output="f16"), "one of u8, f32"),
]


@pytest.mark.parametrize("index", range(len(BROKEN)))
def test_what_is_wrong_is_said(index: int) -> None:
    make, message = BROKEN[index]
    with pytest.raises(GraphError, match=message):
        validate(make())


def test_operands_that_must_be_constants_or_weights() -> None:
    m = Maker()
    x, w = m.input("x", 2, 4), m.input("w", 3, 4)
    with pytest.raises(GraphError, match="must be a constant, 'w' is not"):
        validate(m.graph(m.node("linear", x, w)))
    m = Maker()
    x = m.input("x", 2, 4, dtype="u8")
    plain = m.constant(np.ones((3, 4), np.float32))
    ones = m.constant(np.ones(3, np.float32))
    with pytest.raises(GraphError, match="must be a quantized weight"):
        validate(m.graph(m.node("quantized_linear", x, plain, ones, ones, output="f32")))
    m = Maker()
    x, w, bad = m.input("x", 2, 4, dtype="u8"), m.weight(3, 4), m.constant(np.float32([1, np.nan, 1]))
    with pytest.raises(GraphError, match="not finite"):
        validate(m.graph(m.node("quantized_linear", x, w, bad, bad, output="f32")))


def four_bit(**changes: Any) -> Graph:
    """One quantized_linear layer [2, 32] -> [2, 3] with groups of 8; `changes` of its weight."""
    m = Maker()
    x, ones = m.input("x", 2, 32, dtype="u8"), m.constant(np.ones(3, np.float32))
    sound: dict[str, Any] = {"bits": 4, "group_size": 8, "scales": np.ones((3, 4), np.float16)}
    w = m.constant(Weight(**({"codes": np.zeros((3, 32), np.int8)} | sound | changes)))
    return m.graph(m.node("quantized_linear", x, w, ones, ones, output="f32"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group_size": -8}, "group_size -8 must divide 32"),
        ({"group_size": 0}, r"must be float16 or float32 \[3\]"),
        ({"group_size": 12}, "group_size 12 must divide 32"),
        ({"group_size": 4}, "multiple of 8"),
        ({"group_size": 16}, "scales are float16"),
        ({"scales": np.ones((3, 4), np.float64)}, "scales are float64"),
        (
            {"bits": 3, "group_size": 0, "scales": np.ones(3, np.float32)},
            "no kernel of quantized_linear reads 3-bit codes with float32 scales a channel",
        ),
        ({"scales": np.full((3, 4), np.inf, np.float16)}, "not finite"),
        ({"codes": np.full((3, 32), 8, np.int8)}, "not in -8 .. 7"),
        ({"codes": np.full((3, 32), -1, np.int8), "zero_points": np.zeros((3, 4), np.uint8)}, "not in 0 .. 15"),
        ({"zero_points": np.full((3, 4), 16, np.uint8)}, "above 15"),
        ({"zero_points": np.zeros((3, 3), np.uint8)}, "zero_points are"),
        ({"bits": 5}, "bits 5: a code has 1, 2, 3, 4 or 8"),
        ({"offsets": np.zeros((3, 4), np.float64)}, "offsets are float64"),
        ({"offsets": np.full((3, 4), np.nan, np.float16)}, "not all finite"),
        (
            {"group_size": 0, "scales": np.ones(3, np.float32), "offsets": np.zeros(3, np.float16)},
            "no kernel of quantized_linear reads .* and offsets",
        ),
        ({"values": np.zeros(8, np.float32)}, r"values are float32 \[8\]"),
        (
            {"values": np.full(16, 0.5, np.float32)},
            "no kernel of quantized_linear reads .* and values that are not whole numbers from -128 to 127 yet",
        ),
        ({"values": np.full(16, 128, np.float32)}, "and values that are not whole numbers"),
        ({"values": np.full(16, np.inf, np.float32)}, "values are not all finite"),
        ({"values": np.zeros(16, np.float32), "codes": np.full((3, 32), 16, np.int8)}, "a code is not in 0 .. 15"),
        ({"bits": 1, "group_size": 0, "scales": np.ones(3, np.float16)}, "no kernel of .* reads 1-bit codes"),
        (
            {"zero_points": np.zeros((3, 4), np.uint8), "offsets": np.zeros((3, 4), np.float16)},
            "zero_points and offsets exclude each other",
        ),
    ],
)
def test_four_bit_weights_that_are_wrong(changes: dict[str, Any], message: str) -> None:
    validate(four_bit())
    with pytest.raises(GraphError, match=message):
        validate(four_bit(**changes))


def test_operators_say_which_weights_they_have_kernels_for() -> None:
    m = Maker()
    codes, scales = np.zeros((9, 16), np.int8), np.ones((9, 2), np.float16)
    table = m.constant(Weight(codes=codes, scales=scales[:, 0], bits=3))
    tokens = m.input("x", 2, dtype="i64")
    grouped = " or ".join(f"{bits}-bit codes with float16 or float32 scales in groups" for bits in (8, 4, 3, 2, 1))
    reason = (
        "no kernel of quantized_embedding reads 3-bit codes .* it reads 8-bit codes with float32 scales a channel or "
        f"{grouped}"
    )
    with pytest.raises(GraphError, match=reason):
        validate(m.graph(m.node("quantized_embedding", tokens, table)))


@pytest.mark.parametrize("dtype", ["bf16", "sign"])
def test_types_that_are_to_come_are_known_by_name(dtype: str) -> None:
    m = Maker()
    graph = m.graph(m.node("clip", m.input("x", 2), min=0.0))
    values = {**graph.values, "x": Value(dtype=dtype, shape=(2,))}
    with pytest.raises(GraphError, match=f"dtype '{dtype}' .* has no operators yet"):
        validate(replace(graph, values=values))


def test_sums_that_could_leave_32_bits() -> None:
    m = Maker()
    x = m.input("x", 1, 70_000, dtype="u8")
    ones = m.constant(np.ones(1, np.float32))
    w = m.constant(Weight(codes=np.full((1, 70_000), 127, np.int8), scales=np.ones(1, np.float32)))
    with pytest.raises(GraphError, match="overflow"):
        validate(m.graph(m.node("quantized_linear", x, w, ones, ones, output="f32")))


def test_all_problems_at_once() -> None:
    graph = with_attrs(with_attrs(float_net(), "conv2d", colour=1), "softmax", axis=7)
    graph = replace(graph, outputs=("nothing",))
    with pytest.raises(GraphError) as caught:
        validate(graph)
    assert "3 problems" in str(caught.value)
    for word in ("colour", "axis 7", "'nothing'", "net.layer0"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: {}, "missing \\['x'\\]"),
        (lambda x: {"x": x, "y": x}, "unexpected \\['y'\\]"),
        (lambda x: {"x": x.astype(np.float64)}, "must be float32, is float64"),
        (lambda x: {"x": x[0]}, "has \\[3, 12, 10\\]: add the batch axis"),
        (lambda x: {"x": x[:, :, :11]}, "must have shape"),
        (lambda x: {"x": np.tile(x, (40, 1, 1, 1))}, r"axis 0 of input 'x' \(batch\) must be from 1 to 64; it is 80"),
    ],
)
def test_feeds_that_do_not_fit(change: Callable[[Any], dict[str, Any]], message: str) -> None:
    graph = float_net()
    with pytest.raises(InputError, match=message):
        interpreter.run(graph, change(feeds(graph)["x"]))


def test_symbols_that_disagree() -> None:
    m = Maker(0, {"n": Symbol()})
    total = m.node("add", m.input("x", "n", 2), m.input("y", "n", 1))
    with pytest.raises(InputError, match="'y' must have shape"):
        interpreter.run(m.graph(total), {"x": np.zeros((3, 2), np.float32), "y": np.zeros((4, 1), np.float32)})


def test_keep_returns_values_on_the_way() -> None:
    graph = integer_net()
    results = interpreter.run(graph, feeds(graph), keep=("v0", "x"))
    assert set(results) == {*graph.outputs, "v0", "x"}
    assert results["v0"].dtype == np.uint8


def test_graph_queries() -> None:
    graph = float_net()
    assert graph.producer("x") is None
    assert graph.producer(graph.outputs[0]) is graph.nodes[-1]
    assert [node.op for node in graph.consumers("v0")] == ["conv2d", "conv2d"]
    assert graph.uses()["v0"] == 2
    assert list(graph) == list(graph.nodes)
    assert Value(dtype="f32", shape=(1,)) == Value(dtype="f32", shape=(1,))
