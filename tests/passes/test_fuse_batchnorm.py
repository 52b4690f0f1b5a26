"""Batch normalization that stands alone becomes a layer."""

from __future__ import annotations

import numpy as np
import pytest

from graphs import BATCH, Maker, feeds
from lowbit.graph.ir import Graph
from lowbit.ops.interpreter import run, validate
from lowbit.passes import optimize
from lowbit.passes.fuse_batchnorm import fuse_batchnorm
from lowbit.quantization.quantize import quantize


def normalized(*shape: int, axis: int = 1) -> Graph:
    m = Maker(2, BATCH)
    x = m.input("x", "batch", *shape)
    constant = [1] * len(shape)
    constant[axis - 1] = shape[axis - 1]
    y = m.node("add", m.floats(*constant), m.node("mul", x, m.floats(*constant)))
    return m.graph(m.node("clip", y, min=0.0))


@pytest.mark.parametrize(("shape", "op"), [((5, 4, 3), "conv2d"), ((5, 2, 4, 3), "conv3d")])
def test_mul_and_add_become_one_layer_with_the_activation(shape: tuple[int, ...], op: str) -> None:
    graph = normalized(*shape)
    after = optimize(graph)
    assert [node.op for node in after] == [op]
    assert after.nodes[0].attrs["activation_min"] == 0.0
    given = feeds(graph)
    (expected,), (found,) = run(graph, given).values(), run(validate(after), given).values()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("graph", [normalized(5, 4), normalized(5, 4, 3, axis=3)], ids=["sequence", "by column"])
def test_what_is_no_normalization_of_channels_stays(graph: Graph) -> None:
    assert [node.op for node in fuse_batchnorm(graph)] == ["mul", "add", "clip"]


def test_in_int8_it_is_exact_up_to_the_rounding_of_codes() -> None:
    m = Maker(3, BATCH)
    x = m.input("x", "batch", 8, 24, 24)
    y = m.node("conv2d", x, m.floats(16, 8, 3, 3, scale=0.1), m.floats(16), activation_min=0.0)
    z = m.node("add", m.node("mul", m.node("concat", y, y, axis=1), m.floats(32, 1, 1)), m.floats(32, 1, 1))
    graph = optimize(m.graph(m.node("conv2d", m.node("clip", z, min=0.0), m.floats(8, 32, 3, 3, scale=0.1))))
    data = [feeds(graph, {"batch": 4}, seed=i) for i in range(3)]
    made = quantize(graph, calibration=data).graph
    assert {node.op for node in made} == {"quantize", "quantized_conv2d", "concat"}
    given = feeds(graph, {"batch": 2}, seed=9)
    (expected,), (found,) = run(graph, given).values(), run(made, given).values()
    assert 10 * np.log10((expected**2).sum() / ((found - expected) ** 2).sum()) > 30
