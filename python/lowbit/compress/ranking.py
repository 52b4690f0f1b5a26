"""Which blocks of which layers go first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..errors import InputError
from ..graph.blocks import PATTERNS
from .criteria import Criterion, Layer


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """A criterion, and how blocks are compared by it."""

    criterion: Criterion
    pattern: str
    is_global: bool
    seed: int

    def generator(self, index: int) -> torch.Generator:
        """The random numbers of a layer."""
        return torch.Generator().manual_seed(1_000_003 * self.seed + index)

    def masks(self, layers: Sequence[Layer], before: Sequence[torch.Tensor], share: float) -> list[torch.Tensor]:
        """The masks under which `share` of the blocks are zero, those that were so before among them."""
        pairs = list(zip(layers, before, strict=True))
        worth = [self._worth(layer, mask) for layer, mask in pairs]
        if self.is_global:
            kept = _without_least(torch.cat([_normalised(blocks) for blocks in worth]), share)
            parts = kept.split([len(blocks) for blocks in worth])
        else:
            parts = tuple(_without_least(blocks, min(share, 1 - 1 / len(blocks))) for blocks in worth)
        return [spread(part, mask, self.pattern) for part, mask in zip(parts, before, strict=True)]

    def _worth(self, layer: Layer, mask: torch.Tensor) -> torch.Tensor:
        """Of each block, float64 on the CPU; -1 where it is pruned."""
        worth = self.criterion(layer)
        if not isinstance(worth, torch.Tensor) or worth.shape != layer.weight.shape:
            raise InputError(f"the criterion must give one number a weight of {layer.name!r}: {list(mask.shape)}")
        if not (worth >= 0).all() or worth.isinf().any():
            raise InputError(f"the criterion gives a number that is NaN, infinite or negative for {layer.name!r}")
        kept = block_sums(mask, self.pattern) > 0
        return torch.where(kept, block_sums(worth, self.pattern), -1.0).cpu()


def block_sums(weight: torch.Tensor, pattern: str) -> torch.Tensor:
    """The sum of each block of [O, I, ...], float64, row by row of blocks."""
    rows, columns = PATTERNS[pattern]
    matrix = weight.movedim(1, -1).reshape(weight.shape[0] // rows, rows, -1, columns)
    return matrix.sum((1, 3), dtype=torch.float64).flatten()


def spread(kept: torch.Tensor, like: torch.Tensor, pattern: str) -> torch.Tensor:
    """One truth value a block as one a weight, in the shape of `like` [O, I, ...]."""
    rows, columns = PATTERNS[pattern]
    matrix = kept.reshape(like.shape[0] // rows, -1).repeat_interleave(rows, 0).repeat_interleave(columns, 1)
    return matrix.reshape(like.shape[0], *like.shape[2:], like.shape[1]).movedim(-1, 1)


def _without_least(worth: torch.Tensor, share: float) -> torch.Tensor:
    """True but for the round(share * blocks) blocks that are worth least, of equal ones the first."""
    kept = torch.ones_like(worth, dtype=torch.bool)
    kept[worth.argsort(stable=True)[: round(share * len(worth))]] = False
    return kept


def _normalised(worth: torch.Tensor) -> torch.Tensor:
    """Each block's worth over the sum of those that are worth as much or more; -1 stays."""
    ordered, order = worth.sort(stable=True)
    alive = ordered.clamp(min=0)
    rest = alive.flip(0).cumsum(0).flip(0)
    result = torch.empty_like(worth)
    result[order] = torch.where(ordered < 0, -1.0, alive / rest.clamp(min=torch.finfo(rest.dtype).tiny))
    return result
