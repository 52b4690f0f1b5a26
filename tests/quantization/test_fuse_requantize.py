"""Integer nodes from scales: exact where the numbers lie on the grid of the codes."""

from __future__ import annotations

import numpy as np
import pytest

from graphs import BATCH, PAD1, Maker
from lowbit.graph.ir import Graph, Quant, Weight, replace
from lowbit.ops.interpreter import run, validate
from lowbit.quantization.fuse_requantize import (
    Emitter,
    IntegerLayer,
    code_table,
    put_carrier,
    put_function,
    put_layer,
    put_pair,
)
from lowbit.quantization.round_weights import Codes

X = Quant(scale=0.5, zero_point=100)
Y = Quant(scale=0.25, zero_point=10)


def emitted(graph: Graph, quants: dict[str, Quant], put: object) -> Graph:
    emit = Emitter(graph, quants)
    assert callable(put)
    put(emit)
    return validate(emit.finish())


def on_grid(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return (rng.integers(-4, 5, shape) * 0.5).astype(np.float32)


@pytest.mark.parametrize("as_codes", [True, False])
def test_a_layer_on_the_grid_is_exact(as_codes: bool) -> None:
    m = Maker(0, BATCH)
    x, r = m.input("x", "batch", 3, 5, 5), m.input("r", "batch", 4, 5, 5)
    codes = m.rng.integers(-5, 6, (4, 3, 3, 3)).astype(np.int8)
    weight = m.constant((codes * 0.25).astype(np.float32))
    bias = m.constant(np.float32([1.0, -2.0, 0.25, 0.0]))
    y = m.node("conv2d", x, weight, bias, r, padding=PAD1, activation_min=-2.0, activation_max=50.0)
    graph = m.graph(y)
    layer = IntegerLayer(codes=Codes(codes=codes, scales=np.full(4, 0.25)), bias=np.array([1.0, -2.0, 0.25, 0.0]))
    made = emitted(
        graph,
        {"x": X, "r": X, y: Y},
        lambda emit: put_layer(emit, graph.nodes[0], layer, as_codes=as_codes),
    )
    feeds = {"x": on_grid(m.rng, (2, 3, 5, 5)), "r": on_grid(m.rng, (2, 4, 5, 5))}
    expected = run(graph, feeds)[y]
    steps = 0.125 / 0.25  # the sums lie on eighths, the codes of y on quarters
    np.testing.assert_allclose(run(made, feeds)[y], expected, rtol=0, atol=0.25 * steps if as_codes else 0)
    node = next(node for node in made if node.op == "quantized_conv2d")
    assert isinstance(made.constants[node.inputs[1]], Weight)
    if as_codes:
        assert (node.attrs["lo"], node.attrs["hi"]) == (2, 210)
    else:
        assert (node.attrs["min"], node.attrs["max"]) == (-2.0, 50.0)


def test_an_addition_with_bounds_is_exact() -> None:
    m = Maker(1, BATCH)
    a, b = m.input("a", "batch", 6), m.input("b", "batch", 6)
    added = m.node("add", a, b)
    y = m.node("clip", added, min=-1.0, max=2.5)
    graph = m.graph(y)
    made = emitted(graph, {"a": X, "b": X, y: Y}, lambda emit: put_pair(emit, *graph.nodes))
    feeds = {"a": on_grid(m.rng, (9, 6)), "b": on_grid(m.rng, (9, 6))}
    np.testing.assert_array_equal(run(made, feeds)[y], run(graph, feeds)[y])


def test_functions_and_moves() -> None:
    m = Maker(2, BATCH)
    x = m.input("x", "batch", 2, 3)
    y = m.node("unary", x, kind="abs")
    z = m.node("concat", x, y, axis=1)
    w = m.node("pad", z, padding=(0, 0, 1, 0, 0, 2), value=0.0)
    graph = m.graph(w)
    other = Quant(scale=0.25, zero_point=128)
    quants = {"x": X, y: Y, z: other, w: other}

    def put(emit: Emitter) -> None:
        put_function(emit, graph.nodes[0])
        put_carrier(emit, graph.nodes[1])
        put_carrier(emit, graph.nodes[2])

    made = emitted(graph, quants, put)
    assert [node.op for node in made] == ["quantize", "lookup", "lookup", "lookup", "concat", "pad", "dequantize"]
    feeds = {"x": on_grid(m.rng, (3, 2, 3))}
    np.testing.assert_array_equal(run(made, feeds)[w], run(graph, feeds)[w])


def test_tables_hold_the_nearest_code_of_every_code() -> None:
    table = code_table(np.exp, (0.1, 128), (0.02, 3))
    real = (np.arange(256) - 128) * 0.1
    np.testing.assert_array_equal(table, np.clip(np.rint(np.exp(real) / 0.02) + 3, 0, 255))
    assert code_table(np.log, (1.0, 100), (1.0, 7))[:101].tolist() == [7] * 100 + [0]  # NaN is 0, -inf the lowest


def test_names_do_not_collide() -> None:
    m = Maker(3, BATCH)
    x = m.input("x", "batch", 4)
    weight = m.constant(np.eye(4, dtype=np.float32), "n0_linear.multiplier")
    graph = m.graph(m.node("linear", x, weight))
    layer = IntegerLayer(codes=Codes(codes=np.eye(4, dtype=np.int8), scales=np.ones(4)), bias=np.zeros(4))
    made = emitted(graph, {"x": X}, lambda emit: put_layer(emit, graph.nodes[0], layer, as_codes=False))
    assert len(made.constants) == 3


def test_a_layer_that_is_output_and_read_as_codes_keeps_its_names_apart() -> None:
    """Node and value of one name: the weight's codes, the output's codes and the output itself are three values."""
    m = Maker(0, BATCH)
    x = m.input("x", "batch", 4)
    y = m.node("linear", x, m.floats(4, 4))
    z = m.node("linear", y, m.floats(4, 4))
    graph = m.graph(y, z)
    graph = replace(graph, nodes=(replace(graph.nodes[0], name=y), graph.nodes[1]))  # as capture names layers
    layer = IntegerLayer(codes=Codes(codes=np.eye(4, dtype=np.int8), scales=np.full(4, 0.25)), bias=np.zeros(4))

    def put(emit: Emitter) -> None:
        put_layer(emit, graph.nodes[0], layer, as_codes=True)
        put_layer(emit, graph.nodes[1], layer, as_codes=False)

    made = emitted(graph, {"x": X, y: Y}, put)
    assert made.outputs == graph.outputs
    assert len({node.name for node in made}) == len(made.nodes)
