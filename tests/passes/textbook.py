"""8-bit quantization as a textbook has it, simulated in floats: what a quantizer must not do worse than.

Each filter is rounded to -127..127 steps, each value between nodes to 256 numbers from the least to the greatest that
the calibration data show (without data only what layers read, by the sample). The passes have no part in it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from lowbit.graph.ir import Array, Graph
from lowbit.ops import OPS
from lowbit.ops.interpreter import run

Feeds = dict[str, Array]


def simulate(graph: Graph, feeds: Feeds, calibration: Iterable[Feeds] | None) -> Feeds:
    """The outputs of a graph of conv2d layers and what may lie between them."""
    known: Feeds = dict(feeds)
    for name, constant in graph.constants.items():
        assert isinstance(constant, np.ndarray)
        known[name] = constant
    layers = [node for node in graph if node.op == "conv2d"]
    for node in layers:
        known[node.inputs[1]] = np.stack([_filter(weights) for weights in known[node.inputs[1]]])
    seen = None if calibration is None else _ranges(graph, calibration)
    if seen is not None:
        known |= {name: _stored(feeds[name], *seen[name]) for name in feeds}
    for node in graph:
        arrays = [known[name] if name else None for name in node.inputs]
        if seen is None and node in layers and arrays[0] is not None:
            arrays[0] = np.stack([_stored(sample, sample.min(), sample.max()) for sample in arrays[0]])
        (y,) = OPS[node.op].reference(node, arrays)
        (name,) = node.outputs
        known[name] = y if seen is None or name in graph.outputs else _stored(y, *seen[name])
    return {name: known[name] for name in graph.outputs}


def _ranges(graph: Graph, calibration: Iterable[Feeds]) -> dict[str, tuple[float, float]]:
    """The least and the greatest number of each value."""
    made = [name for node in graph for name in node.outputs]
    found: dict[str, tuple[float, float]] = {}
    for feeds in calibration:
        for name, array in (feeds | run(graph, feeds, keep=made)).items():
            low, high = found.get(name, (0.0, 0.0))
            found[name] = min(low, float(array.min())), max(high, float(array.max()))
    return found


def _filter(weights: Array) -> Array:
    step = float(np.abs(weights).max()) / 127 or 1.0
    made: Array = (np.rint(weights / step) * step).astype(np.float32)
    return made


def _stored(x: Array, low: float, high: float) -> Array:
    low, high = min(low, 0.0), max(high, 0.0)
    step = (high - low) / 255 or 1.0
    first = np.rint(low / step)
    made: Array = (np.clip(np.rint(x / step), first, first + 255) * step).astype(np.float32)
    return made
