"""What a weight is worth: functions from a layer to one number a weight, not negative; the least valuable go first.

A block is worth the sum of its weights. What a criterion asks a `Layer` for beyond its weight is gathered from the
calibration data when it asks. A criterion that is not here is passed as a function, or put into `CRITERIA`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..graph.blocks import PATTERNS
from .gather import Gathered
from .second_order import eliminated


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """A layer to prune, as a criterion sees it.

    Args:
        name: Its path in the module.
        module: The layer; what hooks gathered may be read.
        weight: What is trained, zero where pruned, detached; not rounded where the layer computes with rounded weights.
        random: A generator that is seeded for this layer.
        pattern: The blocks that are pruned.
        data: What calibration data show of the layers; the properties read it.

    Raises:
        InputError: By properties: no calibration data, or no loss, was passed.

    Examples:
        >>> import torch
        >>> def columns(layer: lowbit.compress.Layer) -> torch.Tensor:
        ...     return (layer.weight.abs() * layer.input_means).sum(0, keepdim=True).expand_as(layer.weight)
        >>> net, data = torch.nn.Linear(64, 64), [torch.randn(16, 64)]
        >>> pruning = lowbit.compress.prune(net, 0.5, criterion=columns, calibration=data)
    """

    name: str
    module: nn.Module
    weight: Tensor
    random: torch.Generator
    pattern: str = "unstructured"
    data: Gathered | None = None

    @property
    def gradient(self) -> Tensor:
        """The gradient of the loss by the float weight, its mean over the batches: [O, I, ...]."""
        return self._gathered.gradients(self.name).mean

    @property
    def gradient_squares(self) -> Tensor:
        """The mean over the batches of the squared gradient: [O, I, ...]."""
        return self._gathered.gradients(self.name).squares

    @property
    def input_squares(self) -> Tensor:
        """E[x^2] of what each weight of an output is multiplied by: [I, ...]."""
        return self._gathered.inputs(self.name).squares

    @property
    def input_means(self) -> Tensor:
        """E|x| of each input channel: [I]."""
        return self._gathered.inputs(self.name).means

    @property
    def input_zeros(self) -> Tensor:
        """The share of zeros in each input channel: [I]."""
        return self._gathered.inputs(self.name).zeros

    @property
    def moments(self) -> Tensor:
        """E[x x^T] of what the weights of an output are multiplied by: float64 [K, K], K = I * kh * kw."""
        return self._gathered.moments(self.name)

    @property
    def _gathered(self) -> Gathered:
        if self.data is None:
            raise InputError("the criterion looks at data: pass calibration=, batches as lowbit.convert takes them")
        return self.data


Criterion = Callable[[Layer], torch.Tensor]
"""From a layer to the saliency of each weight: a tensor of the weight's shape."""


def magnitude(layer: Layer) -> Tensor:
    """The weight squared, so that a block is ranked by its L2 norm (Han et al. 2015, arXiv:1506.02626)."""
    return layer.weight.float().square()


def random(layer: Layer) -> Tensor:
    """Nothing but chance: the control that a criterion must beat."""
    return torch.rand(layer.weight.shape, generator=layer.random).to(layer.weight.device)


def gradient(layer: Layer) -> Tensor:
    """|w E[g]|: what the loss changes by, to first order ("SNIP": Lee et al. 2019, arXiv:1810.02340)."""
    return (layer.weight * layer.gradient).float().abs()


def taylor(layer: Layer) -> Tensor:
    """w^2 E[g^2] over batches: the squared change of each batch's loss (Molchanov et al. 2019, arXiv:1906.10771)."""
    return layer.weight.float().square() * layer.gradient_squares


def activation(layer: Layer) -> Tensor:
    """E|x| of the neuron that a weight reads, so that whole neurons go (Molchanov et al. 2017, arXiv:1611.06440)."""
    return _of_channels(layer, layer.input_means)


def apoz(layer: Layer) -> Tensor:
    """How often the neuron that a weight reads is not zero ("APoZ": Hu et al. 2016, arXiv:1607.03250)."""
    return _of_channels(layer, 1 - layer.input_zeros)


def wanda(layer: Layer) -> Tensor:
    """w^2 E[x^2]: the output's error, were inputs uncorrelated (squared "Wanda": Sun et al. 2023, arXiv:2306.11695)."""
    return layer.weight.float().square() * layer.input_squares


def obc(layer: Layer) -> Tensor:
    """What the output's error grows by, the other weights making up for it.

    Blocks leave one after the other, and each time the others of their rows are changed so that the outputs change
    least. Sources: Hassibi and Stork 1992, "Optimal brain surgeon"; Frantar and Alistarh 2022, "OBC"
    (arXiv:2208.11580) and 2023, "SparseGPT" (arXiv:2301.00774).
    """
    rows, columns = PATTERNS[layer.pattern]
    matrix = layer.weight.movedim(1, -1).reshape(layer.weight.shape[0], -1)
    size = layer.weight[0].numel()
    order = torch.arange(size).view(layer.weight.shape[1:]).movedim(0, -1).flatten()
    worth = eliminated(matrix.double(), layer.moments[order][:, order], rows, columns)
    return worth.reshape(len(matrix), *layer.weight.shape[2:], layer.weight.shape[1]).movedim(-1, 1)


def _of_channels(layer: Layer, values: Tensor) -> Tensor:
    """A number of each input channel as one of each weight."""
    return values.view(1, -1, *(1,) * (layer.weight.dim() - 2)).expand_as(layer.weight)


CRITERIA: dict[str, Criterion] = {
    "magnitude": magnitude,
    "random": random,
    "gradient": gradient,
    "taylor": taylor,
    "activation": activation,
    "apoz": apoz,
    "wanda": wanda,
    "obc": obc,
}
"""By the name that `prune` takes."""
