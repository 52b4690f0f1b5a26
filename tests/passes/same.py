"""Runs a graph before and after a pass, by the interpreter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from lowbit.graph.ir import Graph
from lowbit.ops.interpreter import run, validate

BOUND = 1e-5
"""max |difference| / max |y|: a pass may only round differently."""


def apply(graph: Graph, rewrite: Callable[[Graph], Graph], sizes: dict[str, int] | None = None) -> Graph:
    """The rewritten graph, valid, with the same inputs and outputs as before and equal results on random inputs."""
    before = validate(graph)
    after = validate(rewrite(before))
    assert (after.inputs, after.outputs, after.symbols) == (before.inputs, before.outputs, before.symbols)
    rng = np.random.default_rng(1)
    feeds = {}
    for name in before.inputs:
        shape = [dim if isinstance(dim, int) else (sizes or {"batch": 3})[dim] for dim in before.values[name].shape]
        feeds[name] = rng.standard_normal(shape).astype(np.float32)
    expected, actual = run(before, feeds), run(after, feeds)
    for name in before.outputs:
        assert actual[name].shape == expected[name].shape
        scale = max(float(np.abs(expected[name]).max(initial=0)), 1e-6)
        assert np.abs(actual[name] - expected[name]).max(initial=0) <= BOUND * scale
    return after


def ops(graph: Graph) -> Counter[str]:
    """How often each operator occurs."""
    return Counter(node.op for node in graph)
