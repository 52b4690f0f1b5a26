"""What a block meets on calibration data: its inputs in the float graph, and in the integer graph as far as it is made.

Big images are cut to patches, in which a block of convolutions does the same with less work, and memory stays small.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..graph.ir import Array, Graph, Quant
from ..quantization.calibrate import Feeds, batches, runner
from .blocks import Block
from .torch_nodes import LOCAL

PATCH = 14
"""Pixels of a patch's side."""
PATCHES = 2
"""Of each image that is larger."""
SAMPLES = 512
"""At most so many are looked at."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """A block's inputs by name, [samples, ...]: as floats, and as what the integer graph's codes stand for."""

    floats: Mapping[str, Tensor]
    coded: Mapping[str, Tensor]

    @property
    def count(self) -> int:
        """Samples."""
        return min(len(part) for part in self.floats.values())


def examples(
    graph: Graph,
    integer: Graph,
    block: Block,
    quants: Mapping[str, Quant],
    calibration: Iterable[Feeds],
    random: np.random.Generator,
    threads: int | None,
) -> Examples | None:
    """What the block meets, of at most `SAMPLES` samples; None where the integer graph has no such values."""
    stored = {name: _stored(integer, name) for name in block.inputs}
    if not stored or None in stored.values():
        return None
    plain, coded = (
        runner(graph, block.inputs, threads),
        runner(integer, [str(name) for name in stored.values()], threads),
    )
    found: dict[str, tuple[list[Array], list[Array]]] = {name: ([], []) for name in block.inputs}
    seen = 0
    for batch in batches(graph, calibration):
        floats, codes = plain(batch.feeds), coded(batch.feeds)
        pairs = {
            name: (floats[name], _real(codes[str(at)], integer.values[str(at)].quant, quants.get(name)))
            for name, at in stored.items()
        }
        for _ in range(PATCHES):
            cut = _patch(block, pairs, random)
            for name, pair in pairs.items():
                for part, kept in zip(pair, found[name], strict=True):
                    kept.append(np.array(part[cut]))
            if cut is ...:
                break
        seen += len(next(iter(floats.values())))
        if seen >= SAMPLES:
            break
    tensors = [{name: torch.from_numpy(np.concatenate(parts[i])) for name, parts in found.items()} for i in (0, 1)]
    return Examples(floats=tensors[0], coded=tensors[1])


def _stored(integer: Graph, value: str) -> str | None:
    """Where the integer graph has a value of the float graph."""
    return next((name for name in (value, f"{value}.codes") if name in integer.values), None)


def _real(x: Array, quant: Quant | None, rounds: Quant | None) -> Array:
    """What codes stand for; of floats that a layer will quantize, what it will read."""
    known = quant if x.dtype == np.uint8 else rounds
    if known is None:
        return x
    scale, zero = np.float32(known.scale), int(known.zero_point)
    codes = x.astype(np.float32) if x.dtype == np.uint8 else np.clip(np.rint(x / scale) + zero, 0, 255)
    made: Array = ((codes - zero) * scale).astype(np.float32)
    return made


def _patch(block: Block, pairs: Mapping[str, tuple[Array, Array]], random: np.random.Generator) -> Any:
    """An index of a random patch of all images; ...: all of them."""
    shapes = {x.shape[1:] for x, _ in pairs.values()}
    shape = next(iter(shapes))
    is_local = len(pairs) == 1 and all(node.op in LOCAL for node in block.nodes)
    if not is_local or len(shape) != 3 or min(shape[1:]) <= PATCH:
        return ...
    top, left = (int(random.integers(0, size - PATCH + 1)) for size in shape[1:])
    return slice(None), slice(None), slice(top, top + PATCH), slice(left, left + PATCH)
