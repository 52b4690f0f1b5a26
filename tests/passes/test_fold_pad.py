"""Explicit padding moves into the window that reads it, where it means the same."""

from __future__ import annotations

from typing import Any

import pytest

from graphs import BATCH, Maker
from lowbit.graph.ir import Graph
from lowbit.passes.fold_pad import fold_pad
from passes.same import apply, ops

FRAME = (0, 0, 0, 0, 0, 1, 2, 1)
LOWEST = -3.4028234663852886e38


def padded(op: str, value: float = 0.0, frame: tuple[int, ...] = FRAME, **attrs: Any) -> Graph:
    m = Maker(symbols=BATCH)
    x = m.node("pad", m.input("x", "batch", 4, 7, 6), padding=frame, value=value)
    weights = (m.floats(3, 4, 3, 3),) if op == "conv2d" else ()
    window = {} if op == "conv2d" else {"kernel": (3, 4), "stride": (2, 2)}
    return m.graph(m.node(op, x, *weights, **{**window, **attrs}))


@pytest.mark.parametrize(
    "graph",
    [
        padded("conv2d"),
        padded("conv2d", padding=(1, 2, 0, 1), stride=(2, 1), dilation=(2, 1)),
        padded("avg_pool2d"),
        padded("avg_pool2d", padding=(1, 1, 1, 1), count_include_pad=1),
        padded("max_pool2d", LOWEST),
        padded("max_pool2d", LOWEST, padding=(1, 1, 1, 1)),
    ],
)
def test_it_folds(graph: Graph) -> None:
    after = apply(graph, fold_pad)
    assert "pad" not in ops(after)


@pytest.mark.parametrize(
    "graph",
    [
        padded("conv2d", 1.0),
        padded("max_pool2d", 0.0),
        padded("max_pool2d", LOWEST, ceil_mode=1),
        padded("max_pool2d", LOWEST, frame=(0, 0, 0, 0, 3, 0, 0, 0)),  # wider than the window may be
        padded("avg_pool2d", padding=(1, 1, 1, 1), count_include_pad=0),
        padded("avg_pool2d", ceil_mode=1),
        padded("avg_pool2d", 1.0),
    ],
)
def test_it_stays(graph: Graph) -> None:
    assert ops(apply(graph, fold_pad)) == ops(graph)


def test_padding_of_the_batch_or_channels_stays() -> None:
    m = Maker(symbols=BATCH)
    x = m.node("pad", m.input("x", "batch", 3, 7, 6), padding=(0, 0, 0, 1, 0, 1, 0, 1))
    graph = m.graph(m.node("conv2d", x, m.floats(3, 4, 3, 3)))
    assert ops(apply(graph, fold_pad)) == {"pad": 1, "conv2d": 1}


def test_each_reader_takes_it_for_itself() -> None:
    m = Maker(symbols=BATCH)
    x = m.node("pad", m.input("x", "batch", 4, 7, 6), padding=FRAME)
    a, b = (m.node("conv2d", x, m.floats(3, 4, 3, 3)) for _ in range(2))
    assert ops(apply(m.graph(a, b), fold_pad)) == {"conv2d": 2}
    c = m.node("unary", x, kind="tanh")
    assert ops(apply(m.graph(a, b, c), fold_pad)) == {"pad": 1, "conv2d": 2, "unary": 1}
