"""Sets the weights that matter least to zero, in blocks that kernels can leave out, and keeps them zero in training.

A mask is the first link of the weight's chain (`chain.py`): the layer computes with where(mask, weight, 0), so a pruned
weight is zero and has no gradient whatever an optimizer, its momentum or decay, or a loaded checkpoint writes into the
parameter. Hooks after an optimizer's step would have to know every such writer. The parameter stays the same object all
along, so optimizers made before or after hold on to it.

Own code ranks the blocks: `torch.nn.utils.prune` knows single weights and whole channels, torch-pruning whole channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, is_dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from ..graph.blocks import PATTERNS, fits
from ..quantization.schemes import ancestors
from .chain import Link, attach, detach, is_free, links, original
from .criteria import CRITERIA, Criterion, Layer
from .finalize import finalize
from .gather import Gathered, Loss, Prunable
from .ranking import Ranking
from .schedules import OneShot, Schedule

SCOPES = ("layer", "global")


def prune(
    net: nn.Module,
    sparsity: float,
    *,
    pattern: str = "4x4",
    criterion: str | Criterion = "magnitude",
    scope: str = "layer",
    schedule: Schedule | None = None,
    modules: Sequence[str] = ("*",),
    skip: Sequence[str] = (),
    seed: int = 0,
    calibration: Iterable[Any] | None = None,
    loss: Loss | None = None,
) -> Pruning:
    """Put masks on the linear and convolutional layers of `net`, in place, that keep the least valuable weights zero.

    Layers that cannot be pruned (groups, sizes that are no whole blocks, shared or parametrized weights) stay dense and
    are named in `Pruning.skipped`.

    Args:
        net: The module. Optimizers may be made before or after.
        sparsity: The share of weights to be zero at the end, in [0, 1).
        pattern: Blocks of output x input channels: "1x4", "4x4", "8x4", "16x4", "32x4", or "unstructured". In a
            convolution a block lies at one place of the kernel.
        criterion: "magnitude"; "random" (a control); of calibration data: "wanda" (the size of inputs), "obc" (their
            second moments), "activation" and "apoz" (means and zeros of the neurons that are read); of gradients:
            "gradient" and "taylor"; or a function from a `Layer` to the worth of each weight.
        scope: "layer" prunes each layer to the same share (one block at least stays). "global" prunes the blocks that
            are worth least in all, a block's worth being divided by that of all blocks of its layer that are worth as
            much or more (LAMP: Lee et al. 2021, arXiv:2010.07611).
        schedule: `OneShot()` (now; the default), `Iterative` or `Cubic`.
        modules: Globs of module paths; what matches a module holds for all in it.
        skip: Globs of modules that stay dense.
        seed: Of "random".
        calibration: Data for criteria that ask for them: batches as `lowbit.convert` takes them, read again each time
            that more is pruned (an iterator is held in memory). The module is in eval mode meanwhile.
        loss: A function from the module's output and a batch's target to a scalar, for criteria of gradients. The
            target is what follows the inputs, y of `(x, y)`; of a dict it is the dict.

    Returns:
        The handle that prunes further and makes the zeros last.

    Raises:
        InputError: Values outside their ranges, no layer that can be pruned, or data that a criterion needs and has
            not.
        CalibrationError: Batches that the module cannot take.

    Examples:
        >>> import torch
        >>> net = torch.nn.Linear(64, 64)
        >>> data = [(torch.randn(16, 64), torch.randn(16, 64))]
        >>> pruning = lowbit.compress.prune(
        ...     net, 0.75, criterion="taylor", calibration=data, loss=torch.nn.functional.mse_loss
        ... )
        >>> net = pruning.finalize()
        >>> int((net.weight == 0).sum())
        3072
    """
    chosen = criterion_of(criterion)
    _check(net, sparsity, pattern, scope)
    found, skipped = _layers(net, pattern, globs("modules", modules), globs("skip", skip))
    data = None if calibration is None else Gathered(net, found, calibration, loss)
    masked = {name: Masked(original(module), pattern) for name, module in found.items()}
    ranking = Ranking(criterion=chosen, pattern=pattern, is_global=scope == "global", seed=seed)
    with ExitStack() as undo:  # what fails, as on weights that are NaN, leaves the module as it was
        for name, module in found.items():
            attach(module, masked[name])
            undo.callback(detach, module, masked[name])
        pruning = Pruning(net, found, masked, skipped, ranking, sparsity, schedule or OneShot(), data)
        undo.pop_all()
    return pruning


class Masked(Link):
    """The first link: a weight, zero where `mask` (bool, the weight's shape) is not set."""

    place = 0
    mask: torch.Tensor

    def __init__(self, weight: torch.Tensor, pattern: str) -> None:
        super().__init__()
        self.pattern = pattern
        self.register_buffer("mask", torch.ones_like(weight, dtype=torch.bool))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return torch.where(self.mask, weight, 0)

    def share(self) -> float:
        """Of weights that are masked."""
        return 1 - float(self.mask.double().mean())

    def facts(self) -> dict[str, Any]:
        return {"kind": "pruning", "pattern": self.pattern, "zeros": self.share()}


class Pruning:
    """Masks on the layers of a module; `lowbit.compress.prune` makes it.

    `skipped` holds the layers that stay dense, and why. Printed, it shows each layer's share of zeros.

    Args:
        net: The module.
        modules: The layers with masks, by path.
        masked: Their parametrizations.
        skipped: The other layers, and why they stay dense.
        ranking: Which blocks go first.
        final: The sparsity at the end.
        schedule: The sparsity after each step.
        data: What the criterion may look at.

    Examples:
        >>> import torch
        >>> net = torch.nn.Linear(64, 64)
        >>> pruning = lowbit.compress.prune(net, 0.75, schedule=lowbit.compress.Iterative(rounds=2))
        >>> while not pruning.done:
        ...     share = pruning.step()  # then train a little
        >>> share
        0.75
    """

    def __init__(
        self,
        net: nn.Module,
        modules: Mapping[str, Prunable],
        masked: Mapping[str, Masked],
        skipped: Mapping[str, str],
        ranking: Ranking,
        final: float,
        schedule: Schedule,
        data: Gathered | None = None,
    ) -> None:
        self.skipped = dict(skipped)
        self._net, self._layers, self._masked = net, dict(modules), dict(masked)
        self._ranking, self._final, self._schedule, self._data = ranking, final, schedule, data
        self._random = {name: ranking.generator(index) for index, name in enumerate(masked)}
        self._steps = 0
        self._to(schedule.at(0, final))

    @property
    def steps(self) -> int:
        """How often `step` was called."""
        return self._steps

    @property
    def target(self) -> float:
        """The sparsity that the schedule asks for now."""
        return self._schedule.at(self._steps, self._final)

    @property
    def done(self) -> bool:
        """Whether the schedule is at its end: further steps change nothing."""
        return self._steps >= self._schedule.last

    def step(self) -> float:
        """Prune as much as the schedule asks for after one more step. What is pruned stays pruned.

        Returns:
            The sparsity that the schedule asks for now.

        Raises:
            InputError: The pruning is final.
        """
        self._check_open()
        share = self._schedule.at(self._steps + 1, self._final)
        if share > self.target:
            self._to(share)
        self._steps += 1
        return share

    def sparsity(self) -> dict[str, float]:
        """The share of weights that are masked.

        Returns:
            A share in [0, 1] for each layer, by its path.
        """
        return {name: masked.share() for name, masked in self._masked.items()}

    def finalize(self) -> nn.Module:
        """Write the zeros into the weights and take the masks off: `lowbit.compress.finalize` of the whole module.

        Where nothing but masks was on it, classes, parameters and the order of the state dict are those of before.
        Training on would fill the zeros again.

        Returns:
            The module, as it was but for its weights.
        """
        return finalize(self._net)

    @property
    def _is_final(self) -> bool:
        return not all(masked in links(self._layers[name]) for name, masked in self._masked.items())

    def state_dict(self) -> dict[str, Any]:
        """Where the pruning stands, for torch.save beside the state dicts of the net and the optimizer.

        Returns:
            Steps, masks, random numbers, and what `prune` was asked for.

        Raises:
            InputError: The pruning is final: the net's own state dict then holds the zeros.
        """
        self._check_open()
        return {
            "asked": self._asked(),
            "steps": self._steps,
            "masks": {name: masked.mask.clone() for name, masked in self._masked.items()},
            "random": {name: generator.get_state() for name, generator in self._random.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another pruning was, of the same layers and arguments: the next `step` is what its would be.

        What is masked here, as by the net's own state dict, which has the masks, too, stays so.

        Args:
            state: What `state_dict` gave.

        Raises:
            InputError: A state of other layers or arguments; the message lists all that differs, and nothing is
                changed.
        """
        self._check_open()
        problems = list(self._mismatches(state))
        if problems:
            raise InputError(f"the state is of another pruning: {'; '.join(problems)}")
        self._steps = state["steps"]
        for name, masked in self._masked.items():
            masked.mask.logical_and_(state["masks"][name].to(masked.mask.device))
            self._random[name].set_state(state["random"][name])

    def _asked(self) -> dict[str, Any]:
        """What a state must agree with, in plain values."""
        schedule, ranking = self._schedule, self._ranking
        fields: dict[str, Any] = asdict(schedule) if is_dataclass(schedule) and not isinstance(schedule, type) else {}
        name = getattr(ranking.criterion, "__name__", type(ranking.criterion).__name__)
        scope = "global" if ranking.is_global else "layer"
        asked = {"sparsity": self._final, "pattern": ranking.pattern, "criterion": name, "scope": scope}
        return {**asked, "schedule": type(schedule).__name__, **{f"schedule.{key}": x for key, x in fields.items()}}

    def _mismatches(self, state: Any) -> Iterator[str]:
        if not isinstance(state, Mapping) or set(state) != {"asked", "steps", "masks", "random"}:
            yield f"it is no state_dict() of a lowbit.compress.Pruning, but {_outline(state)}"
            return
        if not all(isinstance(state[key], Mapping) for key in ("asked", "masks", "random")):
            yield "its parts are no dicts"
            return
        here, there = self._asked(), state["asked"]
        for key in dict.fromkeys((*here, *there)):
            if here.get(key) != there.get(key):
                yield f"{key} is {here.get(key)!r} here, {there.get(key)!r} there"
        if type(state["steps"]) is not int or state["steps"] < 0:
            yield f"steps is {state['steps']!r}"
        for name in dict.fromkeys((*self._masked, *state["masks"])):
            if name not in state["masks"] or name not in self._masked:
                yield f"layer {name!r} is pruned {'here' if name in self._masked else 'there'} only"
                continue
            mask, own = state["masks"][name], self._masked[name].mask
            if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool or mask.shape != own.shape:
                yield f"the mask of {name!r} is {_outline(mask)}, must be torch.bool {list(own.shape)}"
                continue
            numbers, known = state["random"].get(name), self._random[name].get_state()
            if not isinstance(numbers, torch.Tensor) or (numbers.dtype, numbers.shape) != (known.dtype, known.shape):
                yield f"the random numbers of {name!r} are {_outline(numbers)}, must be {_outline(known)}"

    def _check_open(self) -> None:
        if self._is_final:
            raise InputError("the pruning is final: its masks are gone; call lowbit.compress.prune again to prune more")

    def __repr__(self) -> str:
        rows = [f"{name}: {share:.1%} zero" for name, share in self.sparsity().items()]
        rows += [f"{name}: dense, {reason}" for name, reason in self.skipped.items()]
        return "\n".join([f"Pruning in {self._ranking.pattern} blocks, at {self.target:.1%}", *rows])

    @torch.no_grad()
    def _to(self, share: float) -> None:
        if self._data is not None:
            self._data.forget()
        layers = [self._layer(name, module) for name, module in self._layers.items()]
        masks = self._ranking.masks(layers, [masked.mask for masked in self._masked.values()], share)
        for masked, mask in zip(self._masked.values(), masks, strict=True):
            masked.mask.logical_and_(mask)
        if self._data is not None:
            self._data.forget()

    def _layer(self, name: str, module: Prunable) -> Layer:
        return Layer(
            name=name,
            module=module,
            weight=self._masked[name](original(module).detach()),
            random=self._random[name],
            pattern=self._ranking.pattern,
            data=self._data,
        )


def _outline(value: object) -> str:
    """What something is, in a few words."""
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {list(value.shape)}"
    return f"a dict of {list(value)[:5]}" if isinstance(value, Mapping) else f"a {type(value).__name__}"


# --------------------------------------------------------------------------------------------------------------- layers


def _layers(
    net: nn.Module, pattern: str, modules: Sequence[str], skip: Sequence[str]
) -> tuple[dict[str, Prunable], dict[str, str]]:
    """The layers to prune, and those that stay dense with the reason, by path."""
    layers = {name: m for name, m in net.named_modules() if isinstance(m, Prunable)}
    unknown = [glob for glob in (*modules, *skip) if not any(matches(glob, name) for name in layers)]
    if layers and unknown:
        raise InputError(f"no linear or convolutional layer matches {unknown}; there are {list(layers)[:20]}")
    holders: dict[int, int] = {}
    for module in net.modules():
        for parameter in module.parameters(recurse=False):  # of a chain, its list holds it
            holders[id(parameter)] = holders.get(id(parameter), 0) + 1
    found: dict[str, Prunable] = {}
    skipped: dict[str, str] = {}
    for name, module in layers.items():
        if not any(matches(glob, name) for glob in modules):
            continue
        reason = _reason(module, pattern, holders)
        glob = next((glob for glob in skip if matches(glob, name)), None)
        if glob is not None:
            skipped[name] = f"skip={glob!r}"
        elif reason:
            skipped[name] = reason
        else:
            found[name] = module
    if not found:
        reasons = "; ".join(f"{name or 'the module itself'}: {reason}" for name, reason in skipped.items())
        raise InputError(f"there is no layer to prune in {pattern} blocks: {reasons or 'no nn.Linear or nn.Conv2d'}")
    return found, skipped


def _reason(module: Prunable, pattern: str, holders: Mapping[int, int]) -> str:
    """Why a layer cannot be pruned, or ""."""
    if not is_free(module) or any(isinstance(link, Masked) for link in links(module)):
        return "its weight is parametrized already; finalize or remove that first"
    if any(not link.keeps_zeros for link in links(module)):
        return "its weights are rounded to numbers without zero"
    if isinstance(module.weight, nn.parameter.UninitializedParameter):
        return "its weight has no size yet; call the module once"
    if isinstance(module, nn.Conv2d) and module.groups != 1:
        return f"it has {module.groups} groups"
    held = holders.get(id(original(module)), 0)
    if held != 1:
        return "its weight is shared with another module" if held else "no weight of its own"
    shape = tuple(module.weight.shape)
    return "" if fits(shape, pattern) else f"{' x '.join(map(str, shape))} weights are no whole {pattern} blocks"


def matches(glob: str, name: str) -> bool:
    return any(fnmatchcase(path, glob) for path in ancestors(name))


def globs(what: str, globs: Iterable[str]) -> tuple[str, ...]:
    found = (globs,) if isinstance(globs, str) else tuple(globs)
    if not all(isinstance(glob, str) and glob for glob in found):
        raise InputError(f"{what} must be patterns of module paths such as ['encoder.*'], is {found}")
    return found


def criterion_of(criterion: str | Criterion) -> Criterion:
    if callable(criterion):
        return criterion
    if criterion not in CRITERIA:
        raise InputError(f"criterion must be one of {', '.join(CRITERIA)}, or a function, not {criterion!r}")
    return CRITERIA[criterion]


def _check(net: nn.Module, sparsity: float, pattern: str, scope: str) -> None:
    problems = []
    if not isinstance(net, nn.Module):
        problems.append(f"prune takes a torch.nn.Module, not a {type(net).__name__}")
    if isinstance(sparsity, bool) or not isinstance(sparsity, int | float) or not 0 <= sparsity < 1:
        problems.append(f"sparsity must be a share in [0, 1), is {sparsity!r}")
    if pattern not in PATTERNS:
        problems.append(f"pattern must be one of {', '.join(PATTERNS)}, not {pattern!r}")
    if scope not in SCOPES:
        problems.append(f"scope must be one of {', '.join(SCOPES)}, not {scope!r}")
    if problems:
        raise InputError("; ".join(problems))
