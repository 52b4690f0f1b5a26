"""Rounds the weights of a layer one after the other; those that are still to come make up for each one's error.

The error of an output is (w - q)^T H (w - q) with H = E[x x^T]. If w_j is rounded to q_j, the best change of those
behind it is -(w_j - q_j) / U[j, j] U[j, j+1:] with U^T U = H^-1, U upper triangular. Inputs of much power come first,
while there are many left to make up. Source: Frantar et al. 2022, "GPTQ" (arXiv:2210.17323).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .rounding import RoundedWeight

TOGETHER = 64
"""Weights of a row whose errors go to those behind in one product."""


def with_feedback(
    weight: Tensor, h: Tensor, *, link: RoundedWeight, shape: torch.Size, kept: Tensor
) -> tuple[Tensor, Tensor]:
    """Weights [N, K], each what it had become when its turn came, and what `link` rounds them to.

    weight: [N, K], of a layer whose weight has that `shape`. h: [K, K], positive definite. kept: [N, K], which are not
    masked; the others stay zero, and are made up for, too.
    """
    steps, offsets = (each.flatten(1) for each in link.lattice(shape))
    order = h.diagonal().argsort(descending=True)
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h[order[:, None], order])), upper=True)
    rest, found, codes = weight[:, order].clone(), torch.zeros_like(weight), torch.zeros_like(weight)
    for start in range(0, len(order), TOGETHER):
        places = range(start, min(start + TOGETHER, len(order)))
        errors = weight.new_zeros(len(weight), len(places))
        for place, j in enumerate(places):
            at = order[j]
            found[:, at] = rest[:, j] * kept[:, at]
            codes[:, at] = link.nearest(found[:, at].float(), steps[:, at], offsets[:, at]) * kept[:, at]
            errors[:, place] = (rest[:, j] - codes[:, at]) / upper[j, j]
            rest[:, j : places.stop] -= errors[:, place, None] * upper[j, j : places.stop]
        rest[:, places.stop :] -= errors @ upper[places.start : places.stop, places.stop :]
    return found, codes
