"""Makes a net smaller: channels, the widths inside of MLPs, and heads of attention leave it.

Which layers share a channel is read from torch-pruning's dependency graph (Fang et al. 2023, "DepGraph",
arXiv:2301.12900), and which features are a head from the names of transformers' attention modules. Neither is trusted:
a set of channels is taken out only if the smaller net gives what the net gives with zeros in the weights that read
them. The sets that fail stay as they are, with the reason.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..errors import InputError, UnsupportedError
from ..torch_internals import parameters, pytree
from .batches import watched
from .criteria import Criterion, Layer
from .gather import Gathered, Loss, Rated
from .prune import criterion_of, globs, matches
from .widths import CONVOLUTIONS, KEY, QUERY, VALUE, can_cut, complement, cut, heads, is_depthwise, note, projection

OUT_PROJECTION = ("o_proj", "out_proj")
TOLERANCE = 1e-3
"""Of the largest output: how far the smaller net may be from the one with zeros, by rounding."""


def shrink(
    net: nn.Module,
    example: Any,
    share: float,
    *,
    round_to: int = 16,
    criterion: str | Criterion = "magnitude",
    calibration: Iterable[Any] | None = None,
    loss: Loss | None = None,
    skip: Sequence[str] = (),
    seed: int = 0,
) -> nn.Module:
    """Take the least valuable channels and heads out of `net`, in place: its layers are smaller then, and need no mask.

    Channels of convolutions, the widths between linear layers and the heads of attention leave; outputs, and what
    passes an embedding or layer norm (the stream of a transformer), keep their widths. Train the net afterwards, with a
    new optimizer. `widths` and `resize` rebuild it from its state dict.

    Args:
        net: The module, without masks or fake quantization (finalize these before).
        example: A tensor, a tuple (positional inputs) or a dict (keyword inputs).
        share: Of the channels, and of the heads, that leaves each layer, in (0, 1).
        round_to: What is left is the nearest multiple of it, and at least that: kernels work by whole vectors. Layers
            of no more channels stay. Heads leave whole.
        criterion: As `prune` takes it. A channel is worth what the weights are that make it, times what those are that
            read it.
        calibration: Data for criteria that ask for them.
        loss: For criteria of gradients; see `prune`.
        skip: Globs of modules whose channels stay.
        seed: Of "random".

    Returns:
        The module. What stayed wide is recorded: `lowbit.compress.recorded(net)`.

    Raises:
        InputError: Values outside their ranges, a net with masks, or nothing that can leave.
        UnsupportedError: torch-pruning is not installed, or cannot follow the net.

    Examples:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4))
        >>> net = lowbit.compress.shrink(net, torch.randn(1, 8), 0.5)
        >>> net[0]
        Linear(in_features=8, out_features=32, bias=True)
    """
    chosen, skipped = criterion_of(criterion), globs("skip", skip)
    _check(net, share, round_to)
    work = copy.deepcopy(net).requires_grad_(True)
    call = _Call(example)
    with watched(work):
        sets = [*_heads(work), *_channels(work, call)]
        worth = _worth(work, sets, chosen, calibration, loss, seed)
        gone: dict[str, dict[str, Tensor]] = {}
        reasons: dict[str, str] = {}
        for each in sets:
            glob = next((glob for name in each.sides for glob in skipped if matches(glob, name)), None)
            reason = f"skip={glob!r}" if glob is not None else each.reason
            units = torch.empty(0) if reason else each.best(worth, share, round_to)
            if not reason:
                is_all = len(units) == each.count
                reason = "no fewer would be left" if is_all else _difference(work, call, each, units)
            if reason:
                reasons[each.name] = reason
                continue
            for name, sides in each.gone(units).items():
                for side, places in sides.items():
                    before = gone.setdefault(name, {}).get(side, places[:0])
                    gone[name][side] = torch.cat([before, places])
    if not gone:
        told = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise InputError(f"there is nothing to take out: {told or 'no layer has an inner width'}")
    keep = complement(net, gone)
    cut(net, keep).pop_all()
    note(net, keep, reasons)
    return net


@dataclass(frozen=True, kw_only=True, eq=False)
class Channels:
    """What leaves together: for each unit of `count`, the places at "out" or "in" of modules.

    sides: {module: {side: places [count, n]}}. step: 1 where units are heads. reason: why it cannot leave.
    """

    name: str
    count: int
    sides: dict[str, dict[str, Tensor]]
    attention: str | None = None
    reason: str = ""

    def best(self, worth: Mapping[str, Tensor], share: float, round_to: int) -> Tensor:
        """The units that stay, ascending."""
        total = {side: torch.zeros(self.count, dtype=torch.float64) for side in ("out", "in")}
        for name, sides in self.sides.items():
            for side, places in sides.items() if name in worth else ():
                each = worth[name].detach().double().transpose(0, 0 if side == "out" else 1).flatten(1).sum(1).cpu()
                sums = each[places].sum(1)
                total[side] += sums / sums.sum().clamp(min=torch.finfo(sums.dtype).tiny)
        both = total["out"] * total["in"]  # the same where one is made larger and the other smaller
        step = 1 if self.attention is not None else round_to
        left = max(step, int(self.count * (1 - share) / step + 0.5) * step)
        return both.argsort(stable=True, descending=True)[: min(left, self.count)].sort().values

    def gone(self, units: Tensor) -> dict[str, dict[str, Tensor]]:
        """The places that leave where these units stay."""
        left = torch.ones(self.count, dtype=torch.bool).index_fill(0, units, False)
        found = {
            name: {side: places[left].flatten() for side, places in sides.items()} for name, sides in self.sides.items()
        }
        if self.attention is not None:
            found[self.attention] = {"heads": left.nonzero()[:, 0]}
        return found


def _worth(
    net: nn.Module,
    sets: Iterable[Channels],
    criterion: Criterion,
    calibration: Iterable[Any] | None,
    loss: Loss | None,
    seed: int,
) -> dict[str, Tensor]:
    """Of each weight of the layers in sets that can leave."""
    names = {name for each in sets if not each.reason for name in each.sides}
    layers = {
        name: module
        for name, module in net.named_modules()
        if name in names and isinstance(module, Rated) and not is_depthwise(module)
    }
    data = None if calibration is None else Gathered(net, layers, calibration, loss)
    random = torch.Generator().manual_seed(seed)
    return {
        name: criterion(Layer(name=name, module=module, weight=module.weight.detach(), random=random, data=data))
        for name, module in layers.items()
    }


class _Call:
    """The example as a call, and the tensors of what a net returns."""

    def __init__(self, example: Any) -> None:
        self._kwargs = dict(example) if isinstance(example, Mapping) else {}
        self._args = () if self._kwargs else tuple(example) if isinstance(example, tuple | list) else (example,)

    def __call__(self, net: nn.Module, _: Any = None) -> list[Tensor]:
        output = net(*self._args, **self._kwargs)
        leaves = pytree.tree_leaves(dict(output) if isinstance(output, Mapping) else output)
        return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


@torch.no_grad()
def _difference(net: nn.Module, call: _Call, channels: Channels, units: Tensor) -> str:
    """Why a net without all but these units is not the net with zeros where others are read, or ""."""
    gone = channels.gone(units)
    with ExitStack() as undo:
        for name, sides in gone.items():
            if "in" in sides:
                weight = parameters(net.get_submodule(name))["weight"]
                assert weight is not None
                undo.callback(weight.copy_, weight.clone())
                weight.index_fill_(1, sides["in"].to(weight.device), 0)
        expected = call(net)
    try:
        with cut(net, complement(net, gone)):
            found = call(net)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        return f"without some of them the net fails: {str(error).splitlines()[0]}"
    if [each.shape for each in found] != [each.shape for each in expected]:
        return "they are an output of the net"
    for one, other in zip(found, expected, strict=True):
        if not torch.allclose(one, other, rtol=0, atol=TOLERANCE * float(other.abs().max()) + 1e-9):
            return "they cannot leave without changing the others"
    return ""


# ----------------------------------------------------------------------------------------------------------------- sets


def _heads(net: nn.Module) -> list[Channels]:
    """Groups of heads that share keys and values, of each attention module whose names are known."""
    found = []
    for name, module in net.named_modules():
        count = heads(module)
        out = _out_projection(net, name, module)
        if count < 2 or out is None:
            continue
        sides: dict[str, dict[str, Tensor]] = {}
        for names in (QUERY, KEY, VALUE):
            each = projection(module, names)
            assert each is not None
            path = next(path for path, child in net.named_modules() if child is each)
            sides[path] = {"out": torch.arange(each.out_features).view(count, -1)}
        query = projection(module, QUERY)
        assert query is not None
        sides[out] = {"in": torch.arange(query.out_features).view(count, -1)}
        found.append(Channels(name=name, count=count, sides=sides, attention=name))
    return found


def _out_projection(net: nn.Module, name: str, module: nn.Module) -> str | None:
    """The path of the layer that reads all heads."""
    query, modules = projection(module, QUERY), dict(net.named_modules())
    beside = ".".join([*name.split(".")[:-1], "output", "dense"])
    for path in (*(f"{name}.{each}" if name else each for each in OUT_PROJECTION), beside):
        layer = modules.get(path)
        if isinstance(layer, nn.Linear) and query is not None and layer.in_features == query.out_features:
            return path
    return None


def _channels(net: nn.Module, call: _Call) -> list[Channels]:
    """What torch-pruning finds to share channels, but for attention."""
    graph, names = _graph(net, call), {module: name for name, module in net.named_modules()}
    attention = {
        each
        for module in net.modules()
        if heads(module)
        for n in (QUERY, KEY, VALUE)
        if (each := projection(module, n))
    }
    found: list[Channels] = []
    made: set[str] = set()
    for name, root in net.named_modules():
        if not isinstance(root, Rated) or root in attention or root not in graph.module2node or name in made:
            continue
        prune_out = graph.get_pruner_of_module(root).prune_out_channels
        group = graph.get_pruning_group(root, prune_out, list(range(root.weight.shape[0])))
        members = [
            (item.dep.target.module, graph.is_out_channel_pruning_fn(item.dep.handler), item.idxs, item.root_idxs)
            for item in group
        ]
        if not any(module in attention and is_out for module, is_out, *_ in members):
            found.append(_set_of(name, root.weight.shape[0], members, names))
        made |= {names[module] for module, is_out, *_ in members if is_out and module in names}
    return found


def _set_of(
    name: str, count: int, members: list[tuple[Any, bool, Any, Any]], names: Mapping[nn.Module, str]
) -> Channels:
    sides: dict[str, dict[str, Tensor]] = {}
    reason = ""
    for module, is_out, at, roots in members:
        if isinstance(module, nn.Parameter):
            reason = "they pass a norm or another parameter that is no layer's own"
        elif module in names:
            if not can_cut(module):
                reason = f"they pass {names[module]!r}, a {type(module).__name__}"
            units: list[list[int]] = [[] for _ in range(count)]
            for place, unit in zip(at, roots, strict=True):
                units[unit].append(place)
            is_reader = isinstance(module, nn.Linear | CONVOLUTIONS) and not is_depthwise(module) and not is_out
            size = module.weight.shape[int(is_reader)] if can_cut(module) else 0
            if len({len(unit) for unit in units}) != 1 or sorted(set(at)) != sorted(at) or max(at) >= max(size, 1):
                reason = reason or f"torch-pruning does not find all of them in {names[module]!r}"
            else:
                sides.setdefault(names[module], {})["in" if is_reader else "out"] = torch.tensor(units)
    if not reason and not any("in" in each for each in sides.values()):
        reason = "they are an output of the net"
    return Channels(name=name, count=count, sides=sides, reason=reason)


def _graph(net: nn.Module, call: _Call) -> Any:
    """torch-pruning's dependency graph."""
    try:
        import torch_pruning
    except ImportError:
        raise UnsupportedError("shrink needs the package torch-pruning: pip install 'lowbit[compress]'") from None
    problems = RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, AssertionError
    try:
        call(net)
    except problems as error:
        raise InputError(f"the net does not take the example: {error}") from error
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")  # of norms that it does not know, which here keep their widths
            return torch_pruning.DependencyGraph().build_dependency(net, example_inputs=None, forward_fn=call)
    except problems as error:
        raise UnsupportedError(f"torch-pruning cannot follow the net: {error}") from error


def _check(net: nn.Module, share: float, round_to: int) -> None:
    problems = []
    if not isinstance(net, nn.Module):
        problems.append(f"shrink takes a torch.nn.Module, not a {type(net).__name__}")
    elif any(parametrize.is_parametrized(module) for module in net.modules()):
        problems.append("weights of the net are computed by masks or fake quantization: lowbit.compress.finalize first")
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
        problems.append(f"share must be in (0, 1), is {share!r}")
    if not isinstance(round_to, int) or isinstance(round_to, bool) or round_to < 1:
        problems.append(f"round_to must be a positive integer, is {round_to!r}")
    if problems:
        raise InputError("; ".join(problems))
