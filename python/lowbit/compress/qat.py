"""Quantization-aware training: what a person trains computes with the numbers that the converted model will have.

Weights are rounded by links of their chains (`chain.py`), after the masks; activations where they are made
(`places.py`), so that all who read a value read the same codes. Batch normalization stays what it is: folding it
changes scales, no code. `finalize` writes codes and fixed ranges, which `lowbit.convert` takes over as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from ..capture import example_of_item
from ..errors import InputError
from ..quantization import schemes
from ..quantization.calibrate import Histogram
from .batches import watched
from .chain import attach, detach, links
from .finalize import finalize, is_rounding
from .places import INPUT, Hooks, Place
from .rounding import RoundedValue, RoundedWeight, round_input, start
from .sites import Sites, find_sites

NORMS = nn.modules.batchnorm._BatchNorm


def qat(
    net: nn.Module,
    example: Any,
    *,
    scheme: str | schemes.Scheme | Mapping[str, str | schemes.Scheme] = "int8",
    calibration: Iterable[Any] | None = None,
    observe: int = 100,
    freeze: int | None = None,
) -> Qat:
    """Let the linear and convolutional layers of `net` compute with rounded weights and inputs, in place.

    Layers that stay float32 are named in `Qat.skipped`. The module trains in any loop; its optimizer must be made after
    this, since steps are parameters, too.

    Args:
        net: The module.
        example: Inputs of one call, as `lowbit.convert` takes them.
        scheme: As `lowbit.convert` takes it: a name, a `Scheme`, or `{pattern: one of these}`. "int8" and "int4" round
            to whole numbers, "ternary" to three, "binary" to signs, "pow2", "nf4" and "kmeans" to the values of a
            table; activations have eight bits.
        calibration: Inputs from which the ranges of activations are found now. Without, they are found in training:
            until `observe` steps activations are not rounded.
        observe: How many steps that is.
        freeze: The step from which batch normalization stays with the statistics that it has then, in training, too:
            late, such as for the last tenth. None: never.

    Returns:
        The handle: call its `step()` after each of the optimizer's, and `lowbit.compress.finalize(net)` at the end.

    Raises:
        InputError: Arguments that do not fit, or no layer that can be rounded.
        UnsupportedError: Operations that lowbit lacks.

    Examples:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
        >>> data = torch.randn(32, 64)
        >>> training = lowbit.compress.qat(net, data[:1], scheme="int8", calibration=[data])
        >>> optimizer = torch.optim.SGD(net.parameters(), 0.1)
        >>> net(data).square().mean().backward()
        >>> optimizer.step(), training.step()
        (None, None)
        >>> model = lowbit.convert(lowbit.compress.finalize(net), data[:1])
        >>> [decision["scheme"] for decision in model.decisions]
        ['int8', 'int8']
    """
    _check(net, observe, freeze)
    if is_rounding(net):
        raise InputError("the module is rounded in training already: finalize it first")
    rules = schemes.rules(scheme)
    if rules.is_float:
        raise InputError("the scheme is float32: nothing would be rounded")
    if any(each.activation_group_size > 0 for _, each in rules.rules):
        raise InputError("training rounds each row by one range: leave activation_group_size as it is")
    sites = find_sites(net, example, rules)
    if not sites.layers:
        reasons = "; ".join(f"{name or 'the module itself'}: {reason}" for name, reason in sites.skipped.items())
        raise InputError(f"there is no layer to round: {reasons or 'no nn.Linear, nn.Conv1d or nn.Conv2d'}")
    modules = dict(net.named_modules())
    made = {path: _rounded(modules[path], site) for path, site in sites.layers.items()}
    with ExitStack() as undo:
        for path, link in made.items():
            attach(modules[path], link)
            undo.callback(detach, modules[path], link)
        undo.pop_all()
    for path, site in sites.layers.items():
        if site.rows:
            modules[path].register_forward_pre_hook(round_input)
    training = Qat(net, sites, made, _hook(net, modules, sites), observe=observe, freeze=freeze)
    if calibration is not None:
        training.calibrate(calibration)
    return training


def _rounded(module: nn.Module, site: Any) -> RoundedWeight:
    assert isinstance(module.weight, torch.Tensor)
    return RoundedWeight(*start(module.weight, site.width, site.scheme), rows=site.rows)


def _hook(net: nn.Module, modules: Mapping[str, nn.Module], sites: Sites) -> dict[Place, RoundedValue]:
    """What rounds the values, as parts of the layers that read them first, since other modules run what they hold."""
    table = {place: RoundedValue(scheme, learns=place.called != INPUT) for place, (_, scheme) in sites.values.items()}
    if table:
        functions = any(place.called != INPUT and place.called not in modules for place in table)
        Hooks(net, _Act(table), functions=functions)
    for place, (path, _) in sites.values.items():
        owner, number = modules[path], 0
        while hasattr(owner, f"rounded_value{number}"):
            number += 1
        owner.add_module(f"rounded_value{number}", table[place])
    return table


class _Act:
    """Rounds the values of a table."""

    def __init__(self, table: Mapping[Place, RoundedValue]) -> None:
        self._table = table

    def __call__(self, place: Place, value: torch.Tensor) -> torch.Tensor:
        rounding = self._table.get(place)
        if rounding is None:
            return value
        rounded: torch.Tensor = rounding(value)
        return rounded


class Qat:
    """Rounded weights and activations of a module in training; `lowbit.compress.qat` makes it.

    `skipped` holds the layers that stay float32, and why. Printed, it shows what each layer has. Steps and ranges are
    in the net's own state dict.

    Args:
        net: The module.
        sites: What is rounded.
        weights: The roundings of weights, by path.
        values: Those of values.
        observe: The steps until ranges are found, where they were not before.
        freeze: The step from which batch normalization keeps its statistics.

    Examples:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
        >>> lowbit.compress.qat(net, torch.randn(1, 64), scheme={"0": "ternary", "*": "int8"})
        Quantization-aware training, 0 steps, ranges of 0 of 2 values found
        0: ternary, 2-bit weights in groups of 64
        2: int8, 8-bit weights
    """

    def __init__(
        self,
        net: nn.Module,
        sites: Sites,
        weights: Mapping[str, RoundedWeight],
        values: Mapping[Place, RoundedValue],
        *,
        observe: int,
        freeze: int | None,
    ) -> None:
        self.skipped = dict(sites.skipped)
        self._net, self._sites, self._weights, self._values = net, sites, dict(weights), dict(values)
        self._observe, self._freeze, self._steps = observe, freeze, 0
        self._advance()

    @property
    def steps(self) -> int:
        """How often `step` was called."""
        return self._steps

    @property
    def done(self) -> bool:
        """Whether all ranges are found: from then on the module computes with the numbers of the converted model."""
        return all(value.is_ready for value in self._values.values())

    def step(self) -> None:
        """Go on by one step: find ranges, or freeze statistics, when it is time.

        Raises:
            InputError: The training is final, or no value was seen while ranges should have been found.
        """
        self._check_open()
        self._steps += 1
        self._advance()

    def calibrate(self, data: Iterable[Any]) -> None:
        """Find the ranges of activations from data, in eval mode, where they are not found yet.

        Args:
            data: Inputs, of which the first items of tuples are taken as `lowbit.convert` does.

        Raises:
            InputError: There are none.
        """
        with watched(self._net), torch.no_grad():
            for item in data:
                call = example_of_item(self._net, item)
                self._net(*call.args, **call.kwargs)
        self._settle()

    def finalize(self) -> nn.Module:
        """Put codes and ranges into the module for good: `lowbit.compress.finalize` of the whole module.

        Returns:
            The module.
        """
        return finalize(self._net)

    def state_dict(self) -> dict[str, Any]:
        """Where the training stands beside what is in the net's own state dict, for torch.save.

        Returns:
            Steps, and what was seen of values without a range yet.

        Raises:
            InputError: The training is final.
        """
        self._check_open()
        seen = {_key(place): _seen(value.seen) for place, value in self._values.items()}
        return {"steps": self._steps, "asked": self._asked(), "seen": seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another was, of the same net and arguments; its net's state dict is to be loaded, too.

        Args:
            state: What `state_dict` gave.

        Raises:
            InputError: A state of another training; nothing is changed.
        """
        self._check_open()
        if not isinstance(state, Mapping) or set(state) != {"steps", "asked", "seen"}:
            raise InputError("the state is no state_dict() of a lowbit.compress.Qat")
        asked = self._asked()
        wrong = [
            name for name in dict.fromkeys((*asked, *state["asked"])) if asked.get(name) != state["asked"].get(name)
        ]
        if wrong:
            raise InputError(f"the state is of another training: what is asked of {', '.join(wrong[:5])} differs")
        self._steps = int(state["steps"])
        for place, value in self._values.items():
            value.seen = _histogram(state["seen"][_key(place)])
        if self._freeze is not None and self._steps >= self._freeze:
            self._stop_norms()

    def _advance(self) -> None:
        if self._steps == self._observe and any(not value.is_ready for value in self._values.values()):
            self._settle()
        if self._steps == self._freeze:
            self._stop_norms()

    def _settle(self) -> None:
        unseen = [place for place, value in self._values.items() if not value.settle()]
        if unseen:
            called = ", ".join(f"{place.called} in {place.scope or 'the module'}" for place in unseen[:5])
            raise InputError(f"there is no range for what these gave, since they never ran: {called}")

    def _stop_norms(self) -> None:
        for module in self._net.modules():
            if isinstance(module, NORMS):
                module.register_forward_pre_hook(_stay)

    def _asked(self) -> dict[str, Any]:
        layers = {path: [site.scheme.name, site.width.bits, site.rows] for path, site in self._sites.layers.items()}
        return {**layers, "observe": self._observe, "freeze": self._freeze}

    def _check_open(self) -> None:
        modules = dict(self._net.named_modules())
        if not all(link in links(modules[path]) for path, link in self._weights.items()):
            raise InputError("the training is final: its roundings are gone; call lowbit.compress.qat again")

    def __repr__(self) -> str:
        ready = sum(value.is_ready for value in self._values.values())
        head = (
            f"Quantization-aware training, {self._steps} steps, ranges of {ready} of {len(self._values)} values found"
        )
        rows = []
        for path, site in self._sites.layers.items():
            note = site.width.note or f"{site.width.bits}-bit weights"
            rows.append(f"{path}: {site.scheme.name}, {note}{', inputs row by row' if site.rows else ''}")
        rows += [f"{path}: float32, {reason}" for path, reason in self.skipped.items()]
        return "\n".join([head, *rows])


def _stay(module: nn.Module, args: Any) -> None:
    """The hook before a batch normalization whose statistics are frozen."""
    module.eval()


def _key(place: Place) -> str:
    return f"{place.scope}:{place.called}:{place.turn}"


def _seen(histogram: Histogram) -> dict[str, Any]:
    """A histogram in plain values and tensors."""
    return {
        name: torch.from_numpy(value.copy()) if hasattr(value, "dtype") else value
        for name, value in vars(histogram).items()
    }


def _histogram(state: Mapping[str, Any]) -> Histogram:
    made = Histogram()
    for name, value in state.items():
        setattr(made, name, value.numpy().copy() if isinstance(value, torch.Tensor) else value)
    return made


def _check(net: Any, observe: Any, freeze: Any) -> None:
    if not isinstance(net, nn.Module):
        raise InputError(f"qat takes a torch.nn.Module, not a {type(net).__name__}")
    for name, value in (("observe", observe), ("freeze", 0 if freeze is None else freeze)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise InputError(f"{name} must be a number of steps from 0 on, is {value!r}")
