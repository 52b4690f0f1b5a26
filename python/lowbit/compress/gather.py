"""What calibration data show of the layers of a net: gradients of their weights, and what their inputs are like.

Nothing is gathered before it is asked for. Then one pass over the data serves all layers; of second moments, which are
large, as many layers as fit `BUDGET`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..torch_internals import padding_of
from .batches import batches, repeatable, watched
from .chain import original

Loss = Callable[[Any, Any], Tensor]
"""From the net's output and the target of a batch to a scalar."""
Prunable = nn.Linear | nn.Conv2d
Rated = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
"""Layers whose weights a criterion may be asked about; about the inputs of those that are `Prunable`."""
BUDGET = 48 << 20
"""Elements of second moments that are held at once."""
ROWS = 128
"""Places that are taken from each sample, evenly spread: pixels of an image, tokens of a sentence."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Gradients:
    """Of a weight, over all batches: E[g] and E[g^2], in its shape."""

    mean: Tensor
    squares: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Inputs:
    """Of a layer's inputs: E[x^2] of what each weight of an output meets; E|x| and the zeros' share of each channel."""

    squares: Tensor
    means: Tensor
    zeros: Tensor


class Gathered:
    """The data of a pruning, and what they show of its layers as they are now."""

    def __init__(self, net: nn.Module, modules: Mapping[str, Rated], data: Iterable[Any], loss: Loss | None) -> None:
        if loss is not None and not callable(loss):
            raise InputError(f"loss must be a function of (output, target), not a {type(loss).__name__}")
        self._net, self._layers, self._data, self._loss = net, dict(modules), repeatable(data), loss
        self.forget()

    def forget(self) -> None:
        """The weights are no longer those that were looked at."""
        self._gradients: dict[str, Gradients] = {}
        self._inputs: dict[str, Inputs] = {}
        self._moments: dict[str, Tensor] = {}

    def gradients(self, name: str) -> Gradients:
        """Of the loss, by the float weight."""
        if not self._gradients:
            self._gradients = self._differentiate()
        return self._gradients[name]

    def inputs(self, name: str) -> Inputs:
        """Of the layer."""
        if not self._inputs:
            sums = {key: _Sums(module) for key, module in self._layers.items()}
            self._feed({key: each.add for key, each in sums.items()})
            self._inputs = {key: each.inputs(key) for key, each in sums.items()}
        return self._inputs[name]

    def moments(self, name: str) -> Tensor:
        """E[x x^T] of what the weights of an output meet: float64 [K, K]."""
        if name not in self._moments:
            sums = {key: _Moments(self._layers[key]) for key in self._next(name)}
            self._feed({key: each.add for key, each in sums.items()})
            self._moments = {key: each.mean(key) for key, each in sums.items()}
        return self._moments[name].double()

    def _next(self, name: str) -> list[str]:
        """This layer and as many after it as fit."""
        names = list(self._layers)
        found, size = [name], original(self._layers[name])[0].numel() ** 2
        for each in names[names.index(name) + 1 :]:
            size += original(self._layers[each])[0].numel() ** 2
            if size > BUDGET:
                break
            found.append(each)
        return found

    @torch.no_grad()
    def _feed(self, takers: Mapping[str, Callable[[Tensor], None]]) -> None:
        with watched(self._net), ExitStack() as hooks:
            for name, take in takers.items():
                hooks.enter_context(met_by(self._layers[name], take))
            for batch in batches(self._net, self._data):
                batch.through(self._net)

    def _differentiate(self) -> dict[str, Gradients]:
        loss = self._loss
        if loss is None:
            raise InputError("the criterion reads gradients: pass loss=, a function of (output, target) to a scalar")
        weights = {name: original(module) for name, module in self._layers.items()}
        sums = {name: (torch.zeros_like(w), torch.zeros_like(w)) for name, w in weights.items()}
        count = 0
        with watched(self._net), torch.enable_grad(), _differentiable(weights.values()):
            for batch in batches(self._net, self._data):
                output = batch.through(self._net)
                with batch.blamed():
                    scalar = loss(output, batch.target)
                    if not isinstance(scalar, Tensor):
                        raise TypeError(f"the loss is a {type(scalar).__name__}, not a scalar tensor")
                    found = torch.autograd.grad(scalar, list(weights.values()), allow_unused=True)
                count += 1
                for (mean, squares), gradient in zip(sums.values(), found, strict=True):
                    if gradient is not None:
                        mean += gradient
                        squares += gradient.square()
        return {name: Gradients(mean=mean / count, squares=squares / count) for name, (mean, squares) in sums.items()}


@contextmanager
def _differentiable(weights: Iterable[Tensor]) -> Iterator[None]:
    """Frozen weights have gradients, too."""
    frozen = [weight for weight in weights if not weight.requires_grad]
    for weight in frozen:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)


@contextmanager
def met_by(module: nn.Module, take: Callable[[Tensor], None]) -> Iterator[None]:
    """Hands each input of a module over."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        take((args[0] if args else kwargs["input"]).detach())

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def layer_of(net: nn.Module, name: str) -> Prunable:
    """The layer at a path where there is known to be one."""
    found = net.get_submodule(name)
    assert isinstance(found, Prunable)
    return found


def rows_of(module: Rated, x: Tensor) -> Tensor:
    """What the weights of an output meet, a row a place: [rows, K] of `weight.flatten(1)`, at most ROWS of a sample."""
    channels = x.shape[-1 if isinstance(module, nn.Linear) else -3]
    if channels != original(module).shape[1]:
        raise ValueError(f"a layer of {original(module).shape[1]} input channels meets an input {list(x.shape)}")
    if not isinstance(module, Prunable):
        raise InputError(f"the criterion looks at inputs, which is not done of {type(module).__name__}: take another")
    if isinstance(module, nn.Linear):
        samples = x.reshape(len(x) if x.dim() > 2 else 1, -1, x.shape[-1])
        return (samples[:, _spread(samples.shape[1])] if x.dim() > 2 else samples).reshape(-1, x.shape[-1])
    images = x if x.dim() == 4 else x[None]
    padded = nn.functional.pad(images, *padding_of(module))
    (height, width), (sy, sx), (dy, dx) = module.kernel_size, module.stride, module.dilation
    down = (padded.shape[2] - dy * (height - 1) - 1) // sy + 1
    across = (padded.shape[3] - dx * (width - 1) - 1) // sx + 1
    n, c, y, z = padded.stride()
    windows = padded.as_strided(
        (len(padded), padded.shape[1], down, across, height, width), (n, c, y * sy, z * sx, y * dy, z * dx)
    )
    places = _spread(down * across).to(x.device)
    chosen = windows[:, :, places // across, places % across]
    return chosen.transpose(1, 2).reshape(len(padded) * len(places), -1)


def _spread(count: int) -> Tensor:
    return torch.linspace(0, count - 1, min(count, ROWS)).round().long()


class _Sums:
    def __init__(self, module: Rated) -> None:
        self._module = module
        self._rows = self._count = 0
        self._squares: Tensor | float = 0.0
        self._means: Tensor | float = 0.0
        self._zeros: Tensor | float = 0.0

    def add(self, x: Tensor) -> None:
        """An input of the layer."""
        rows = rows_of(self._module, x).float()
        self._rows += len(rows)
        self._squares = self._squares + rows.square().sum(0)
        channels = (
            x.reshape(-1, x.shape[-1]) if isinstance(self._module, nn.Linear) else x.movedim(-3, -1).flatten(0, -2)
        )
        self._count += len(channels)
        self._means = self._means + channels.float().abs().sum(0)
        self._zeros = self._zeros + (channels == 0).float().sum(0)

    def inputs(self, name: str) -> Inputs:
        """The means."""
        if not isinstance(self._squares, Tensor) or not self._rows or not self._count:
            raise InputError(_unseen(name))
        assert isinstance(self._means, Tensor)
        assert isinstance(self._zeros, Tensor)
        shape = original(self._module).shape[1:]
        return Inputs(
            squares=(self._squares / self._rows).reshape(shape),
            means=self._means / self._count,
            zeros=self._zeros / self._count,
        )


class _Moments:
    def __init__(self, module: Rated) -> None:
        self._module, self._rows = module, 0
        self._sum: Tensor | float = 0.0

    def add(self, x: Tensor) -> None:
        """An input of the layer."""
        rows = rows_of(self._module, x).float()
        self._rows += len(rows)
        self._sum = self._sum + rows.T @ rows

    def mean(self, name: str) -> Tensor:
        """Over all rows."""
        if not isinstance(self._sum, Tensor) or not self._rows:
            raise InputError(_unseen(name))
        return self._sum / self._rows


def _unseen(name: str) -> str:
    return (
        f"layer {name!r} is not called with any of the calibration data (nn.MultiheadAttention computes with its "
        f"weights itself): leave it out, skip=[{name!r}], or take a criterion that needs no data"
    )
