"""RMS normalization written out becomes one node with its weight."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphs import BATCH, Maker
from lowbit.graph.ir import Graph
from lowbit.passes.fuse_rms_norm import fuse_rms_norm
from passes.same import apply, ops


def written_out(
    square: str = "mul", division: bool = False, weight: tuple[int, ...] | None = (6,), **changes: Any
) -> Graph:
    m = Maker(symbols=BATCH)
    x = m.input("x", "batch", 5, 6)
    two = m.constant(np.float32(2).reshape(1))
    squared = {
        "mul": lambda: m.node("mul", x, x),
        "pow": lambda: m.node("pow", x, two),
    }[square]()
    mean = m.node("mean", squared, axes=changes.get("axes", (-1,)), keepdim=1)
    total = m.node("add", mean, m.constant(np.full((), changes.get("eps", 1e-3), np.float32)))
    root = m.node("unary", total, kind="sqrt" if division else "rsqrt")
    y = m.node("div", x, root) if division else m.node("mul", root, x)
    if weight is not None:
        y = m.node("mul", m.floats(*weight), y)
    return m.graph(y)


@pytest.mark.parametrize("square", ["mul", "pow"])
@pytest.mark.parametrize("division", [False, True])
@pytest.mark.parametrize("weight", [None, (6,), (1, 1, 6)])
def test_rms_norm_written_out_becomes_one_node(square: str, division: bool, weight: tuple[int, ...] | None) -> None:
    after = apply(written_out(square, division, weight), fuse_rms_norm)
    assert ops(after) == {"rms_norm": 1}
    assert len(after.nodes[0].inputs) == (1 if weight is None else 2)


@pytest.mark.parametrize("change", [{"axes": (1,)}, {"eps": -1.0}], ids=str)
def test_what_only_looks_like_it_stays(change: dict[str, Any]) -> None:
    graph = written_out(**change)
    assert ops(fuse_rms_norm(graph)) == ops(graph)


def test_a_factor_for_each_row_is_no_weight() -> None:
    assert ops(apply(written_out(weight=(5, 1)), fuse_rms_norm)) == {"rms_norm": 1, "mul": 1}
