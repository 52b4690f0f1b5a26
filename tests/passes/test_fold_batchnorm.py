"""Channel-wise arithmetic moves into the layer before it, where nobody else sees the layer's result."""

from __future__ import annotations

import numpy as np
import pytest

from graphs import BATCH, Maker
from lowbit.graph.ir import replace
from lowbit.passes.fold_batchnorm import fold_batchnorm
from passes.same import apply, ops


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_scale_and_shift_fold_into_a_convolution(bias: bool, groups: int) -> None:
    m = Maker(symbols=BATCH)
    x = m.input("x", "batch", 4, 6, 5)
    inputs = (x, m.floats(8, 4 // groups, 3, 3), *((m.floats(8),) if bias else ()))
    y = m.node("conv2d", *inputs, groups=groups, padding=(1, 1, 1, 1))
    y = m.node("add", m.node("mul", y, m.floats(8, 1, 1)), m.floats(8, 1, 1))
    after = apply(m.graph(y), fold_batchnorm)
    assert ops(after) == {"conv2d": 1}
    assert len(after.constants) == 2


@pytest.mark.parametrize("shape", [(), (1,), (6,), (1, 6), (1, 1, 6)])
def test_arithmetic_in_either_order_folds_into_a_linear_layer(shape: tuple[int, ...]) -> None:
    m = Maker(symbols=BATCH)

    def constant() -> str:
        return m.constant(np.asarray(m.rng.uniform(0.5, 2.0, shape), np.float32))

    y = m.node("linear", m.input("x", "batch", 3, 5), m.floats(6, 5), m.floats(6))
    y = m.node("mul", constant(), y)
    y = m.node("sub", constant(), y)
    y = m.node("div", y, constant())
    y = m.node("sub", y, constant())
    y = m.node("add", constant(), y)
    assert ops(apply(m.graph(y), fold_batchnorm)) == {"linear": 1}


def test_what_is_not_per_channel_stays() -> None:
    m = Maker(symbols=BATCH)
    x = m.input("x", "batch", 4, 5, 5)
    a = m.node("conv2d", x, m.floats(5, 4, 1, 1))
    b = m.node("conv2d", x, m.floats(5, 4, 1, 1))
    c = m.node("conv2d", x, m.floats(1, 4, 1, 1))
    outputs = (
        m.node("mul", a, m.floats(5)),  # along the width
        m.node("add", b, m.floats(2, 1, 1, 1, 1)),  # raises the rank
        m.node("add", c, m.floats(3, 1, 1)),  # makes channels
        m.node("div", m.floats(1), m.node("conv2d", x, m.floats(5, 4, 1, 1))),
    )
    assert ops(apply(m.graph(*outputs), fold_batchnorm)) == ops(m.graph(*outputs))


@pytest.mark.parametrize("kind", ["read twice", "returned", "activation", "residual"])
def test_a_layer_that_is_seen_as_it_is_stays(kind: str) -> None:
    m = Maker(symbols=BATCH)
    x = m.input("x", "batch", 4, 5, 5)
    bounds = {"activation_min": 0.0} if kind == "activation" else {}
    residual = ("", x) if kind == "residual" else ()
    layer = m.node("conv2d", x, m.floats(4, 4, 1, 1), *residual, **bounds)
    y = m.node("mul", layer, m.floats(4, 1, 1))
    other = m.node("unary", layer, kind="tanh") if kind == "read twice" else ""
    graph = m.graph(*filter(None, (y, other, layer if kind == "returned" else "")))
    assert ops(apply(graph, fold_batchnorm)) == ops(graph)


def test_a_shared_weight_is_folded_for_one_reader_only() -> None:
    m = Maker(symbols=BATCH)
    x, weight = m.input("x", "batch", 5), m.floats(5, 5)
    y = m.node("linear", m.node("mul", m.node("linear", x, weight), m.floats(5)), weight)
    after = apply(m.graph(y), fold_batchnorm)
    assert weight in after.constants
    assert replace(after, outputs=()).nodes[1].inputs[1] == weight
