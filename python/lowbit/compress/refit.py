"""Gives the weights of pruned and rounded layers the numbers with which each layer comes nearest to what it was.

Over the calibration data, an output of a dense layer is y = v . x, of the pruned one w . z: z is what the layer meets
after all pruned layers before it, so that it makes up for what those lost. The least squares of y - w . z over the kept
w are the solution of (H + d I) w = c + d v with H = E[z z^T] and c = E[y z], restricted to what is kept. Rows that keep
the same inputs, four of them with 4x4 blocks, share one factor of the lesser part of H, of what is kept, or of H^-1, of
what is zero. A constant input stands for the bias. Of a layer that training rounds, weights are then rounded one after
the other (`feedback.py`).

Layers are refit one after the other in one run through the net (`lockstep.py`). Sources: of the least squares, He et
al. 2017, "Channel pruning" (arXiv:1707.06168), and Frantar and Alistarh 2023, "SparseGPT" (arXiv:2301.00774).
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import CalibrationError, InputError
from .batches import Batch, batches, repeatable, watched
from .chain import is_free, links, original
from .feedback import with_feedback
from .gather import Prunable, layer_of, met_by, rows_of
from .lockstep import Walk, stopping, walking
from .prune import Masked
from .rounding import RoundedWeight

Net = TypeVar("Net", bound=nn.Module)
Rounding = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Of float weights [N, K], by their inputs' moments: the floats to round, and what they become."""
TOGETHER = 4096
"""Rows that are multiplied together: adding a matrix of moments costs as much as a hundred rows."""
DAMPING = 0.1
"""Of the mean of H's diagonal: how much more an input weighs that pulls a weight to its dense number."""


def refit(net: Net, calibration: Iterable[Any], *, dense: nn.Module | None = None, damping: float = DAMPING) -> Net:
    """Change the weights that pruning kept, and biases, so that each layer's outputs are nearest to the dense layer's.

    Right after pruning it gives back much of what was lost, in seconds and without labels; training then starts from
    there. Zeros stay zero, and `lowbit.convert` with calibration data rounds what is refit with the same second
    moments in mind. Layers that `lowbit.compress.qat` rounds, pruned or not, get the codes that come nearest with the
    steps that they have. Every batch's state at one layer is held at a time.

    Args:
        net: The module, in place: with masks, with zeros in its weights, or rounded in training.
        calibration: Batches as `lowbit.convert` takes them: some thousand rows (tokens, pixels) in all, more than a
            layer has inputs.
        dense: The module before it was pruned and rounded. None: the numbers that masks hide, which are the dense ones
            until the net is trained or refit; a net that is rounded needs it.
        damping: How strongly weights are held to their dense numbers, as a share of the mean squared input.

    Returns:
        The module.

    Raises:
        InputError: Nothing is pruned or rounded, nothing says what the dense weights are, or `dense` is another net.
        CalibrationError: Batches that the module cannot take, or numbers that are not finite.

    Examples:
        >>> import torch
        >>> net, data = torch.nn.Linear(64, 64), [torch.randn(256, 32) @ torch.randn(32, 64)]
        >>> before = net(data[0])
        >>> pruning = lowbit.compress.prune(net, 0.5, criterion="obc", calibration=data)
        >>> lost = (net(data[0]) - before).square().mean()
        >>> net = lowbit.compress.refit(net, data)
        >>> bool((net(data[0]) - before).square().mean() < 0.5 * lost)
        True
    """
    if not isinstance(damping, int | float) or isinstance(damping, bool) or not 0 < damping < float("inf"):
        raise InputError(f"damping must be a positive number, is {damping!r}")
    kept = _kept(net)
    before = _dense_of(net, dense, kept)
    with torch.no_grad(), watched(net, before):
        _Layers(net, before, kept, damping).refit(list(batches(net, repeatable(calibration))))
    return net


class _Layers:
    """The pruned layers of two nets, met by the same batches."""

    def __init__(self, net: nn.Module, dense: nn.Module, kept: Mapping[str, Tensor], damping: float) -> None:
        self._nets, self._kept, self._damping = (net, dense), kept, damping
        self._layers = [{name: layer_of(each, name) for name in kept} for each in self._nets]
        self._sums: dict[str, _Sums] = {}

    def refit(self, items: list[Batch]) -> None:
        """All, in the order in which they are called."""
        calls = self._calls(items[0])
        missing = [name for name in self._kept if name not in calls]
        if missing:
            warnings.warn(f"not called as modules, so not refit: {', '.join(missing)}", stacklevel=3)
        passes: list[Callable[[], Any]] = [partial(batch.through, net) for batch in items for net in self._nets]
        with stopping(self._layers[0]), stopping(self._layers[1]), walking(passes) as walks:
            pairs = list(zip(items, walks[::2], walks[1::2], strict=True))
            while (name := next((walk.at for _, walk, _ in pairs if walk.at is not None), None)) is not None:
                here = [pair for pair in pairs if pair[1].at == name]
                self._meet(name, here, is_last=calls[name] <= 1)
                calls[name] -= 1
                for _, walk, other in here:
                    walk.go_on()
                    other.go_on()

    def _calls(self, batch: Batch) -> Counter[str]:
        """How often each is called in a pass."""
        calls: Counter[str] = Counter()
        with ExitStack() as hooks:
            for name, module in self._layers[0].items():
                hooks.enter_context(met_by(module, partial(_count, calls, name)))
            batch.through(self._nets[0])
        return calls

    def _meet(self, name: str, here: list[tuple[Batch, Walk, Walk]], *, is_last: bool) -> None:
        """Refit a layer before which walks stand; what it met in earlier calls counts, too."""
        module, before = (layers[name] for layers in self._layers)
        sums = self._sums.setdefault(name, _Sums(has_bias=module.bias is not None))
        for batch, walk, other in here:
            if walk.x is None or other.x is None or other.at != name or other.x.shape != walk.x.shape:
                raise InputError(f"the dense net does not come to {name!r} with inputs as the pruned one does")
            with batch.blamed():
                sums.add(rows_of(module, walk.x), rows_of(before, other.x))
        if not sums.are_finite():
            raise CalibrationError(f"the inputs of {name!r} are not finite")
        weight, kept = original(module), _rows(self._kept[name])
        link = _rounding(module)
        rounding = None if link is None else partial(with_feedback, link=link, shape=weight.shape, kept=kept)
        new, bias = sums.solve(_rows(before.weight), before.bias, kept, self._damping, rounding)
        weight.copy_(torch.where(self._kept[name], new.reshape(weight.shape).to(weight), weight))
        if bias is not None and module.bias is not None:
            module.bias.copy_(bias)
        if is_last:
            del self._sums[name]


class _Sums:
    """Over rows z of the pruned net and x of the dense one, with a one behind each if there is a bias."""

    def __init__(self, *, has_bias: bool) -> None:
        self._has_bias, self._count = has_bias, 0
        self._pending: list[tuple[Tensor, Tensor]] = []
        self._own: Tensor | float = 0.0
        self._across: Tensor | float = 0.0

    def add(self, z: Tensor, x: Tensor) -> None:
        """Rows [R, K] of both."""
        if self._has_bias:
            z, x = (torch.cat([rows, rows.new_ones(len(rows), 1)], 1) for rows in (z, x))
        self._pending.append((z.float(), x.float()))
        self._count += len(z)
        if sum(len(rows) for rows, _ in self._pending) >= TOGETHER:
            self._multiply()

    def _multiply(self) -> None:
        if self._pending:
            z, x = (torch.cat(rows) for rows in zip(*self._pending, strict=True))
            self._own, self._across = self._own + (z.T @ z).double(), self._across + (x.T @ z).double()
            self._pending = []

    def are_finite(self) -> bool:
        """Whether all sums are."""
        self._multiply()
        return all(isinstance(each, Tensor) and bool(each.isfinite().all()) for each in (self._own, self._across))

    def solve(
        self, dense: Tensor, bias: Tensor | None, kept: Tensor, damping: float, rounding: Rounding | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Weights [N, K], zero where not kept, and the bias, which makes up for what rounding moves on the whole."""
        assert isinstance(self._own, Tensor)
        assert isinstance(self._across, Tensor)
        h, depth = self._own / self._count, dense.shape[1]
        towards = dense.double()
        if self._has_bias and bias is not None:
            towards = torch.cat([towards, bias.double()[:, None]], 1)
            kept = torch.cat([kept, kept.new_ones(len(kept), 1)], 1)
        pull = torch.zeros(len(h), dtype=h.dtype, device=h.device)
        pull[:depth] = damping * h.diagonal()[:depth].mean().clamp(min=torch.finfo(torch.float32).tiny)
        h = h + pull.diag()
        found = _restricted(h, towards @ (self._across / self._count) + towards * pull, kept)
        weight, rest = found[:, :depth], found[:, depth] if self._has_bias else None
        if rounding is None:
            return weight, rest
        inputs, ones = h[:depth, :depth], h[:depth, depth:]  # a bias that follows takes the mean out of the inputs
        weight, rounded = rounding(weight, inputs - ones @ ones.T if self._has_bias else inputs)
        return weight, None if rest is None else rest + (found[:, :depth] - rounded) @ ones[:, 0]


def _restricted(h: Tensor, c: Tensor, kept: Tensor) -> Tensor:
    """Rows w with (H w - c) zero where w is kept, and w zero elsewhere: H [K, K]; c, kept and w [N, K]."""
    found = torch.zeros_like(c)
    sets, which = torch.unique(kept, dim=0, return_inverse=True)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(h)) if int((~sets).sum()) < int(sets.sum()) else None
    whole = None if inverse is None else c @ inverse
    for place, each in enumerate(sets):
        rows = (which == place).nonzero()[:, 0]
        if inverse is None or whole is None:
            at = each.nonzero()[:, 0]
            factor = torch.linalg.cholesky(h[at[:, None], at])
            found[rows[:, None], at] = torch.cholesky_solve(c[rows[:, None], at].T, factor).T
        else:  # fewer are zero: what moves the whole solution to there
            at = (~each).nonzero()[:, 0]
            own, away = inverse[at[:, None], at], whole[rows[:, None], at]
            found[rows] = whole[rows] - torch.linalg.solve(own, away.T).T @ inverse[at]
    return found.where(kept, 0)


def _count(calls: Counter[str], name: str, _: Tensor) -> None:
    calls[name] += 1


def _rows(weight: Tensor) -> Tensor:
    return weight.detach().flatten(1)


def _kept(net: nn.Module) -> dict[str, Tensor]:
    """Which weights of pruned layers are not zero, by the layer's path."""
    if not isinstance(net, nn.Module):
        raise InputError(f"refit takes a torch.nn.Module, not a {type(net).__name__}")
    found: dict[str, Tensor] = {}
    for name, module in net.named_modules():
        if isinstance(module, Prunable) and is_free(module) and getattr(module, "groups", 1) == 1:
            kept = next((link.mask for link in links(module) if isinstance(link, Masked)), original(module) != 0)
            if not kept.all() or _rounding(module) is not None:
                found[name] = kept
    if not found:
        raise InputError("no weight of the net is zero: prune it before (lowbit.compress.prune)")
    return found


def _rounding(module: nn.Module) -> RoundedWeight | None:
    """What rounds a layer's weight in training."""
    return next((link for link in links(module) if isinstance(link, RoundedWeight)), None)


def _dense_of(net: nn.Module, dense: nn.Module | None, kept: Mapping[str, Tensor]) -> nn.Module:
    """The net that layers are to be like."""
    if dense is None:
        rounded = [name for name in kept if _rounding(net.get_submodule(name)) is not None]
        if rounded:
            raise InputError(f"{rounded[:5]} are rounded in training: pass dense=, the net before that")
        bare = [name for name in kept if not any(isinstance(link, Masked) for link in links(net.get_submodule(name)))]
        if bare:
            raise InputError(f"no mask hides the dense weights of {bare[:5]}: pass dense=, the net before pruning")
        dense = copy.deepcopy(net)
        for module in dense.modules():
            if isinstance(module, Masked):
                module.mask.fill_(True)
        return dense
    layers = dict(dense.named_modules()) if isinstance(dense, nn.Module) and dense is not net else {}
    for name in kept:
        given, own = layers.get(name), layer_of(net, name)
        if (
            not isinstance(given, Prunable)
            or original(given).shape != original(own).shape
            or (given.bias is None) != (own.bias is None)
        ):
            raise InputError(f"dense is no copy of the net before pruning: it has no layer like {name!r}")
    return dense
