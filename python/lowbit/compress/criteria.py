"""What a weight is worth: functions from a layer to one number a weight, not negative; the least valuable go first.

A block is worth the sum of its weights. A criterion that is not here is passed as a function, or put into `CRITERIA`;
it sees the layer's module, so it may read gradients, or what hooks have gathered of activations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """A layer to prune, as a criterion sees it.

    Args:
        name: Its path in the module.
        module: The layer; its gradients, and what hooks gathered, may be read.
        weight: What is trained, zero where pruned, detached; not rounded where the layer computes with rounded weights.
        random: A generator that is seeded for this layer.

    Examples:
        >>> import torch
        >>> def columns(layer: lowbit.compress.Layer) -> torch.Tensor:
        ...     return layer.weight.abs().sum(0, keepdim=True).expand_as(layer.weight)
        >>> pruning = lowbit.compress.prune(torch.nn.Linear(64, 64), 0.5, criterion=columns)
    """

    name: str
    module: nn.Module
    weight: torch.Tensor
    random: torch.Generator


Criterion = Callable[[Layer], torch.Tensor]
"""From a layer to the saliency of each weight: a tensor of the weight's shape."""


def magnitude(layer: Layer) -> torch.Tensor:
    """The weight squared, so that a block is ranked by its L2 norm (Han et al. 2015, arXiv:1506.02626)."""
    return layer.weight.float().square()


def random(layer: Layer) -> torch.Tensor:
    """Nothing but chance: the control that a criterion must beat."""
    return torch.rand(layer.weight.shape, generator=layer.random).to(layer.weight.device)


CRITERIA: dict[str, Criterion] = {"magnitude": magnitude, "random": random}
"""By the name that `prune` takes."""
