"""Notes which weights are mostly zero, and in what blocks."""

from __future__ import annotations

import math

import numpy as np

from ..graph import blocks
from ..graph.ir import Array, Graph, Weight, replace
from ..runtime.meta import Kept

WORTH = 1 / 8
"""The share of its bytes that a weight must save in blocks to be noted as sparse."""


def note_sparsity(graph: Graph) -> Graph:
    """Give each int8 weight the pattern of its zeros: that of `blocks.PATTERNS` in which it takes fewest bytes.

    A coarse pattern has a short mask, but keeps zeros that share a block with others; so the smallest is the coarsest
    that covers nearly all zeros. Weights that would save less than an eighth stay dense.

    before: quantized_linear(w = codes, nine blocks of ten zero)
    after:  quantized_linear(w = codes, sparsity "4x4")
    """
    return replace(graph, constants={name: _noted(constant) for name, constant in graph.constants.items()})


def sparse_layers(graph: Graph) -> tuple[Kept, ...]:
    """What is kept of the weight of each node with a sparse one."""
    weights = {name: c for name, c in graph.constants.items() if isinstance(c, Weight) and c.sparsity is not None}
    found = {name: (str(w.sparsity), density(w.codes, str(w.sparsity))) for name, w in weights.items()}
    return tuple(
        Kept(node=node.name, pattern=found[name][0], density=found[name][1])
        for node in graph
        for name in node.inputs
        if name in found
    )


def density(codes: Array, pattern: str) -> float:
    """The share of weights that lie in blocks with a non-zero."""
    return float(blocks.blocks_of(codes, pattern).any(axis=(2, 3)).mean())


def _noted(constant: Array | Weight) -> Array | Weight:
    if not isinstance(constant, Weight) or constant.bits != 8 or constant.sparsity is not None:
        return constant
    pattern = _pattern(constant.codes)
    return constant if pattern is None else replace(constant, sparsity=pattern)


def _pattern(codes: Array) -> str | None:
    """The pattern with the fewest bytes, of equal ones the coarsest; None: not worth it."""
    if np.count_nonzero(codes) > (1 - WORTH) * codes.size:
        return None
    sizes = {}
    for pattern in blocks.PATTERNS:
        if blocks.fits(codes.shape, pattern):
            kept = int(blocks.blocks_of(codes, pattern).any(axis=(2, 3)).sum())
            size = blocks.stored_bytes(codes.shape, pattern, kept)
            if codes.size <= blocks.MOST * size:
                sizes[pattern] = size
    best = min(sizes, key=lambda pattern: sizes[pattern], default=None)
    return best if best is not None and sizes[best] <= (1 - WORTH) * math.prod(codes.shape) else None
