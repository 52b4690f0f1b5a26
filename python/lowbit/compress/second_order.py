"""Blocks of weights leave one after the other, and those that remain make up for them: what each costs.

The error of an output is (w - w')^T H (w - w') with H = E[x x^T]. If block b of w goes, the best change of the others
is -H^-1[:, b] (H^-1[b, b])^-1 w_b, and costs w_b^T (H^-1[b, b])^-1 w_b. After that H^-1 is that of what remains.

Sources: Hassibi and Stork 1992, "Second order derivatives for network pruning: Optimal brain surgeon"; of layers,
blocks and the update, Frantar and Alistarh 2022, "Optimal brain compression" (arXiv:2208.11580).
"""

from __future__ import annotations

import torch
from torch import Tensor

DAMPING = 1e-2
"""Added to H's diagonal, as a share of its mean."""
SHARE = 1 / 16
"""Of the blocks that are left: how many go before costs are asked again."""
AT_ONCE = 1 << 24
"""Elements of H^-1 that are held for rows that are looked at together."""


def eliminated(weight: Tensor, moments: Tensor, rows: int, columns: int) -> Tensor:
    """What each weight's block costs when it leaves, over the block's size: weight [N, K], moments H [K, K]."""
    depth = weight.shape[1]
    h = moments + DAMPING * moments.diagonal().mean().clamp(min=1e-30) * torch.eye(depth, dtype=moments.dtype)
    inverse = torch.linalg.inv(h).float()
    groups = weight.float().reshape(-1, rows, depth)
    each = max(1, AT_ONCE // depth**2)
    costs = torch.cat([_costs(part, inverse, columns) for part in groups.split(each)])
    return (costs / (rows * columns)).repeat_interleave(columns, 1).repeat_interleave(rows, 0)


def _costs(w: Tensor, inverse: Tensor, columns: int) -> Tensor:
    """Of w [G, R, K]: the cost of each block [G, K / columns]; blocks that leave later cost no less."""
    count, _, depth = w.shape
    alive = torch.arange(depth // columns).expand(count, -1)
    h = inverse.expand(count, -1, -1)
    costs, least = torch.zeros(count, depth // columns), torch.zeros(count, 1)
    while True:
        left = alive.shape[1]
        scores = _scores(w, h, columns).maximum(least)
        most = max(1, int(left * SHARE))
        if left <= most or left * 20 <= costs.shape[1]:
            costs.scatter_(1, alive, scores)
            return costs
        order = scores.argsort(dim=1, stable=True)
        gone, kept = order[:, :most], order[:, most:].sort(1).values
        costs.scatter_(1, alive.gather(1, gone), scores.gather(1, gone))
        least = scores.gather(1, gone[:, -1:])
        w, h = _without(w, h, _elements(gone, columns), _elements(kept, columns))
        alive = alive.gather(1, kept)


def _scores(w: Tensor, h: Tensor, columns: int) -> Tensor:
    """tr(w_b (H^-1[b, b])^-1 w_b^T) of each block: [G, blocks]."""
    count, rows, depth = w.shape
    blocks = h.reshape(count, depth // columns, columns, -1, columns)
    own = blocks.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)
    parts = w.reshape(count, rows, -1, columns).transpose(1, 2)
    costs: Tensor = (parts * torch.linalg.solve(own, parts.mT).mT).sum((2, 3))
    return costs.clamp(min=0)


def _without(w: Tensor, h: Tensor, gone: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """What remains, made up for what goes."""
    across = h.gather(1, gone[:, :, None].expand(-1, -1, h.shape[2]))
    own = across.gather(2, gone[:, None].expand(-1, gone.shape[1], -1))
    across = across.gather(2, kept[:, None].expand(-1, gone.shape[1], -1))
    factors = torch.linalg.solve(own, across)
    rows = w.shape[1]
    away = w.gather(2, gone[:, None].expand(-1, rows, -1))
    stays = w.gather(2, kept[:, None].expand(-1, rows, -1)) - away @ factors
    size = kept.shape[1]
    rest = h.gather(1, kept[:, :, None].expand(-1, -1, h.shape[2])).gather(2, kept[:, None].expand(-1, size, -1))
    return stays, torch.baddbmm(rest, across.mT, factors, alpha=-1)


def _elements(blocks: Tensor, columns: int) -> Tensor:
    return (blocks[:, :, None] * columns + torch.arange(columns)).flatten(1)
