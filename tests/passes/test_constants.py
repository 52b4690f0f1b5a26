"""Constants are computed, shared and removed; what no output needs goes."""

from __future__ import annotations

import numpy as np

from graphs import BATCH, Maker
from lowbit.graph.ir import Weight
from lowbit.passes import FLOAT_PASSES, optimize
from lowbit.passes.fold_constants import fold_constants
from lowbit.passes.remove_dead import remove_dead
from lowbit.passes.share_constants import share_constants
from passes.same import apply, ops


def test_what_depends_on_constants_alone_is_computed() -> None:
    m = Maker(symbols=BATCH)
    c = m.node("transpose", m.node("reshape", m.floats(12), shape=(3, 4)), perm=(1, 0))
    y = m.node("add", m.input("x", "batch", 4, 3), m.node("unary", c, kind="tanh"))
    after = apply(m.graph(y), fold_constants)
    assert ops(after) == {"add": 1}
    assert list(after.constants) == [after.nodes[0].inputs[1]]


def test_a_constant_that_is_returned_keeps_its_node() -> None:
    m = Maker()
    m.input("x", 2)
    graph = m.graph(m.node("reshape", m.floats(4), shape=(2, 2)))
    assert ops(apply(graph, fold_constants)) == {"reshape": 1}


def test_what_would_be_large_is_left_to_run_time() -> None:
    m = Maker()
    x = m.input("x", 4097, 4097)
    wide = m.node("add", m.floats(4097, 1), m.floats(4097))
    graph = m.graph(m.node("mul", x, wide))
    assert ops(fold_constants(graph)) == {"add": 1, "mul": 1}


def test_equal_constants_are_kept_once() -> None:
    m = Maker()
    x = m.input("x", 4)
    one = np.ones(4, np.float32)
    a, b, c = m.constant(one), m.constant(one.copy()), m.constant(np.ones(1, np.float32))
    y = m.node("add", m.node("add", m.node("mul", x, a), b), c)
    after = apply(m.graph(y), share_constants)
    assert list(after.constants) == [a, c]


def test_equal_codes_are_kept_once() -> None:
    m = Maker(symbols=BATCH)
    codes, scales = np.arange(-8, 8, dtype=np.int8).reshape(4, 4), np.ones(4, np.float32)
    factors, x = (m.floats(4), m.floats(4)), m.input("x", "batch", 4)
    for scale in (1, 1, 2):
        q, *parts = m.node("dynamic_quantize", x, outputs=3, granularity="row")
        weight = m.constant(Weight(codes=codes.copy(), scales=scale * scales))
        x = m.node("quantized_linear", q, weight, *factors, "", "", *parts, output="f32")
    after = apply(m.graph(x), share_constants)
    assert sum(isinstance(constant, Weight) for constant in after.constants.values()) == 2


def test_what_no_output_needs_goes() -> None:
    m = Maker()
    x, y = m.input("x", 4), m.input("y", 4)
    kept = m.node("add", x, m.floats(4))
    m.node("unary", m.node("mul", y, m.floats(4)), kind="tanh")
    after = apply(m.graph(kept), remove_dead)
    assert ops(after) == {"add": 1}
    assert after.inputs == ("x", "y")
    assert len(after.constants) == 1
    assert set(after.values) == {"x", "y", kept, *after.constants}


def test_the_passes_together_reach_a_fixed_point() -> None:
    m = Maker(symbols=BATCH)
    x = m.node("pad", m.input("x", "batch", 4, 7, 6), padding=(0, 0, 0, 0, 0, 1, 0, 1))
    y = m.node("conv2d", x, m.floats(8, 4, 3, 3))
    y = m.node("add", m.node("mul", y, m.floats(8, 1, 1)), m.floats(8, 1, 1))
    y = m.node("clip", y, min=0.0, max=6.0)
    y = m.node("adaptive_avg_pool2d", y, output_size=(1, 1))
    y = m.node(
        "linear", m.node("reshape", m.node("reshape", y, shape=("batch", 8, 1)), shape=("batch", 8)), m.floats(3, 8)
    )
    after = apply(m.graph(y), optimize)
    assert ops(after) == {"conv2d": 1, "adaptive_avg_pool2d": 1, "reshape": 1, "linear": 1}
    assert ops(apply(after, optimize)) == ops(after)
    assert all(rewrite.__doc__ and "before:" in rewrite.__doc__ for rewrite in FLOAT_PASSES)
