"""How much of the output's error each layer on codes alone is to blame for.

For each layer a graph is made in which it alone works on codes, its neighbours in float32, and run on a few samples of
the calibration data. What it adds to the output is its noise:

    noise = mean over the float outputs y of  sum (y_alone - y_float)^2 / sum y_float^2

Errors of different layers are nearly independent, so their noises nearly add up to that of the whole. The other way
round (all in int8 but one) runs faster, but sees the layer's share only as a small difference of two large
numbers: on EfficientNet-Lite0 the layers it names must be returned twice as many for the same gain.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import islice

import numpy as np

from ..graph.ir import Array, Graph
from .calibrate import Feeds, Progress, batches, runner
from .quantizer import Quantizer

PIECES = 2
"""Of the calibration data, of about `calibrate.CHUNK` samples each."""


def sensitivity(
    quantizer: Quantizer,
    layers: Sequence[str],
    data: Iterable[Feeds],
    *,
    eights: Container[str] = (),
    pieces: int = PIECES,
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """The noise of each of `layers` when it alone works on codes; `data`: where samples are taken from.

    eights: layers that have weights of eight bits though their scheme has four. pieces: of the data, of `CHUNK` samples
    at most, to compare outputs on.
    """
    graph = quantizer.graph
    names = [name for name in graph.outputs if graph.values[name].dtype == "f32"]
    chosen = list(islice(_pieces(graph, data), pieces))
    call = runner(graph, names, threads)
    expected = [call(piece) for piece in chosen]
    found: dict[str, float] = {}
    for done, layer in enumerate(layers):
        if progress is not None:
            progress("rank layers", done, len(layers))
        alone = runner(quantizer.alone(layer, eights), names, threads)
        found[layer] = _noise([alone(piece) for piece in chosen], expected, names)
    return found


def _pieces(graph: Graph, data: Iterable[Feeds]) -> Iterable[Feeds]:
    return (batch.feeds for batch in batches(graph, data))


def _noise(
    found: Sequence[Mapping[str, Array]], expected: Sequence[Mapping[str, Array]], names: Sequence[str]
) -> float:
    shares = []
    for name in names:
        signal = sum(float(np.square(piece[name], dtype=np.float64).sum()) for piece in expected)
        pairs = zip(found, expected, strict=True)
        error = sum(float(np.square(a[name].astype(np.float64) - b[name]).sum()) for a, b in pairs)
        shares.append(error / signal if signal else error)
    return float(np.mean(shares)) if shares else 0.0
