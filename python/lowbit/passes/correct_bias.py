"""Takes the mean error that quantization makes in each output channel of a layer out of the layer's bias.

    b'[c] = b[c] + W[c] . E[x] - Wq[c] . E[q(x)]

x is what the weights meet in the float graph on the calibration data, q(x) the same after its own quantization, so
each layer answers for its own rounding of weights and inputs and for nothing before it. One pass serves all layers.

Source: Nagel et al. 2019 (arXiv:1906.04721), section 4.2, with measured means instead of those of batch normalization.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from ..ir import Array, Graph, Quant
from .calibrate import Feeds, Progress, quantized, watch
from .fuse_requantize import Layer
from .round_weights import ROWS, patches


def correct_bias(
    graph: Graph,
    layers: Mapping[str, Layer],
    quants: Mapping[str, Quant],
    calibration: Iterable[Feeds],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Layer]:
    """The layers with corrected biases; `graph` is the float graph, `quants` say what the codes of its values mean."""
    nodes = [node for node in graph if node.name in layers]
    inputs = list(dict.fromkeys(node.inputs[0] for node in nodes))
    shifts = {node.name: np.zeros(len(layers[node.name].bias)) for node in nodes}
    samples = 0
    for _, found in watch(graph, calibration, inputs, stage="correct bias", threads=threads, progress=progress):
        weight = next(iter(found.values())).shape[0] if found else 0
        samples += weight
        for node in nodes:
            weights = graph.constants[node.inputs[1]]
            x = patches(node, found[node.inputs[0]], weights.shape, ROWS)
            exact, coded = x.mean(axis=1, dtype=np.float64), quantized(x, quants[node.inputs[0]]).mean(axis=1)
            error = _product(np.asarray(weights), exact) - _product(layers[node.name].codes.weight, coded)
            shifts[node.name] += weight * error
    return {
        name: Layer(codes=layer.codes, bias=layer.bias + shifts[name] / max(samples, 1))
        for name, layer in layers.items()
    }


def _product(weight: Array, x: Array) -> Array:
    """W . x for each output channel: weight [N, ...], x [groups, K]."""
    rows = weight.reshape(len(x), -1, x.shape[1]).astype(np.float64)
    product: Array = np.einsum("gnk,gk->gn", rows, x).reshape(-1)
    return product
