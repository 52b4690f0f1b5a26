"""Search by gradients: one net that holds all alternatives, with gates that learn which to open within a time.

    x -> [3x3]  [5x5]  [skip] -> sum of gate * output -> y      gate = 1 for one of them, drawn from softmax(logits)

Gates are drawn by the Gumbel trick (FBNet, arXiv:1812.03443), one path at a time (ProxylessNAS, arXiv:1812.00332);
their gradients pass as if they were the softmax (DARTS, arXiv:1806.09055). What alternatives cost is a table of times
that were measured on whole nets. For each of several target times the gates have logits of their own, which take turns
in the batches; all share the weights. First the weights are trained on paths drawn evenly, then the gates with them. No
part of it needs a loop of its own: gates move before the next call, by what the last backward pass left.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..compress.checkpoints import save_text
from ..errors import InputError
from ..progress import Reporter
from .samplers import Table
from .space import Between, Choice, Trial, fill, plain, shown
from .trying import Plan, seeded, told

TARGETS = 6
"""Times that gates are learned for, from the fastest net to the slowest within the limit."""
ROUNDS = 3
"""How often `train` is called: once for weights alone, then for gates, too."""
RATE, STRENGTH = 0.03, 3.0
"""The gates' learning rate (Adam), and what log(time / target) above zero costs beside the loss."""
HOT, COLD = 2.0, 0.5
"""Temperatures of the softmax that gradients pass, first and last."""


class Open:
    """A choice that is not made: it stands in the configuration of a supernet, for `mixed` to take."""

    def __init__(self, name: str, choice: Choice) -> None:
        self.name, self.choice, self.used = name, choice, False
        self.gates: Gates | None = None

    def _refuse(self, *_: object) -> NoReturn:
        raise TypeError(
            f'method="gradient" does not choose {self.name!r} before it builds: pass it through '
            f"compress.mixed(config[...], lambda value: a module), or give {self.name!r} one value"
        )

    __eq__ = __hash__ = __bool__ = __int__ = __float__ = __index__ = __len__ = __iter__ = __getitem__ = _refuse
    __mul__ = __rmul__ = __add__ = __radd__ = __sub__ = __rsub__ = __floordiv__ = __truediv__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = _refuse


class Gates:
    """Of one choice: logits for each target, and the gates of the next call."""

    def __init__(self, count: int) -> None:
        self.logits = torch.zeros(TARGETS, count, requires_grad=True)
        self.now = torch.zeros(count)
        self.draw(0, None)

    def draw(self, target: int, temperature: float | None) -> None:
        """One option, by the logits of a target, with a softmax for gradients; or evenly."""
        if temperature is None:
            self.now = nn.functional.one_hot(torch.randint(len(self.now), ()), len(self.now)).float()
        else:
            self.now = nn.functional.gumbel_softmax(self.logits[target], temperature, hard=True)


class MixedLayer(nn.Module):
    """A layer that is one of several, not yet said which; `compress.mixed` makes it in a supernet.

    Args:
        options: The alternatives, which take and give tensors of the same shapes.
        gates: One number for each, which of them counts.

    Examples:
        >>> import torch
        >>> layer = lowbit.compress.MixedLayer([torch.nn.Linear(4, 4), torch.nn.Identity()])
        >>> layer(torch.zeros(2, 4)).shape
        torch.Size([2, 4])
    """

    def __init__(self, options: Sequence[nn.Module], gates: Gates | None = None) -> None:
        super().__init__()
        self.options = nn.ModuleList(options)
        self._gates = Gates(len(self.options)) if gates is None else gates

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The sum of all outputs times their gates; without gradients of gates, the output of the open one.

        Args:
            args: As the alternatives take them.
            kwargs: As the alternatives take them.

        Returns:
            What they give.
        """
        gates = self._gates.now
        if not gates.requires_grad:
            return self.options[int(gates.argmax())](*args, **kwargs)
        total: Tensor = sum(gate * each(*args, **kwargs) for gate, each in zip(gates, self.options, strict=True))
        return total


def mixed(value: Any, make: Callable[[Any], nn.Module]) -> nn.Module:
    """A layer for one option of a choice; in the supernet of `method="gradient"`, for all of them.

    Args:
        value: What stands in the configuration.
        make: From an option to a module. All modules take and give the same shapes; of depth, `torch.nn.Identity()`
            is what is not there.

    Returns:
        `make(value)`, or a `MixedLayer`.

    Examples:
        >>> import torch
        >>> lowbit.compress.mixed(3, lambda kernel: torch.nn.Conv2d(8, 8, kernel, padding=kernel // 2)).kernel_size
        (3, 3)
    """
    if not isinstance(value, Open):
        return make(value)
    if value.gates is None:
        value.gates = Gates(len(value.choice.options))
    value.used = True
    return MixedLayer([make(each) for each in value.choice.options], value.gates)


class _Supernet:
    """Moves the gates of a net between its training's calls."""

    def __init__(self, gates: Mapping[str, Gates], table: Mapping[str, Sequence[float]], base: float) -> None:
        self.gates, self.base = gates, base
        self.table = {name: torch.tensor(row) for name, row in table.items()}
        fastest = base + sum(min(row) for row in table.values())
        slowest = base + sum(max(row) for row in table.values())
        self.span = max(fastest, 1e-3 * base), max(slowest, 1e-3 * base)
        self.targets: list[float] = []
        self.adam = torch.optim.Adam([each.logits for each in gates.values()], RATE, betas=(0.5, 0.999))
        self.temperature: float | None = None
        self.target = 0

    def aim(self, limit: float | None) -> None:
        """The target times, evenly on a logarithmic scale."""
        low, high = self.span[0], min(self.span[1], limit or math.inf)
        self.targets = [float(each) for each in np.geomspace(low, max(low, high), TARGETS)]

    def expected(self, target: int) -> Tensor:
        """Milliseconds of a net that is drawn."""
        shares = (gates.logits[target].softmax(0) @ self.table[name] for name, gates in self.gates.items())
        return self.base + sum(shares, torch.tensor(0.0))

    def before_call(self, module: nn.Module, inputs: object) -> None:
        """Take the step that the last backward pass was for, then draw the next path."""
        if not module.training:
            return
        if any(each.logits.grad is not None for each in self.gates.values()):
            with torch.enable_grad():
                over = (self.expected(self.target) / self.targets[self.target]).clamp_min(1e-6).log()
                (STRENGTH * torch.relu(over)).backward()
            self.adam.step()
            self.adam.zero_grad(set_to_none=True)
            self.target = (self.target + 1) % TARGETS
        for each in self.gates.values():
            each.draw(self.target, self.temperature)


def teach(plan: Plan, path: Path, report: Reporter) -> None:
    """Measure the table, train the supernet, and write what its gates learned."""
    latency = plan.latency
    if latency is None or plan.train is None:
        raise InputError(
            'method="gradient" learns by training and from a table of times: give train, and latency, such as an '
            "example input"
        )
    opened: dict[str, Open] = {}
    config = fill(_Opening(opened), plan.space(_Opening(opened)))
    with seeded(plan.seed):
        with told("build of the supernet, whose choices all go through compress.mixed,", "all options"):
            net = plan.build(config)
        gates = {name: each.gates for name, each in opened.items() if each.used and each.gates is not None}
        if not gates:
            raise InputError(
                'method="gradient" needs choices that build passes through compress.mixed, such as '
                "compress.mixed(config['kernel'], lambda kernel: torch.nn.Conv2d(8, 8, kernel, padding='same'))"
            )
        base, table = _measured(plan, {name: opened[name] for name in gates}, report)
        supernet = _Supernet(gates, table, base)
        supernet.aim(latency.limit_ms)
        first = plan.space(_Choosing({}))
        with net.register_forward_pre_hook(supernet.before_call):
            for number in range(ROUNDS):
                report("train all alternatives at once", number, ROUNDS)
                part = (number - 1) / max(ROUNDS - 2, 1)
                supernet.temperature = None if number == 0 else HOT * (COLD / HOT) ** part
                with told("train of the supernet", first):
                    plan.train(net, first)
            report("train all alternatives at once", ROUNDS, ROUNDS)
    learned = {
        "base_ms": base,
        "table_ms": table,
        "targets_ms": supernet.targets,
        "logits": {name: each.logits.tolist() for name, each in gates.items()},
    }
    save_text(path, json.dumps(learned, indent=1))


def table_of(path: Path) -> Callable[[int], Table]:
    """From a trial's place to the probabilities of options: the likeliest of each target first, then drawn ones."""
    learned: dict[str, list[list[float]]] = json.loads(path.read_text(encoding="utf-8"))["logits"]

    def table(place: int) -> dict[str, npt.NDArray[np.float64]]:
        turn, number = divmod(place, TARGETS)
        found = {}
        for name, rows in learned.items():
            logits = np.asarray(rows[number])
            raised = np.exp((logits - logits.max()) / (1 + 0.1 * turn))
            found[name] = np.eye(len(logits))[logits.argmax()] if turn == 0 else raised / raised.sum()
        return found

    return table


class _Opening(Trial):
    """Leaves choices open, and takes the middle of ranges."""

    def __init__(self, opened: dict[str, Open]) -> None:
        self._opened = opened

    @property
    def number(self) -> int:
        return 0

    def draw(self, name: str, option: Any) -> Any:
        if isinstance(option, Choice):
            return self._opened.setdefault(name, Open(name, option))
        return _middle(name, option)


class _Choosing(Trial):
    """Takes the options with these numbers, else the first."""

    def __init__(self, numbers: Mapping[str, int]) -> None:
        self._numbers = numbers

    @property
    def number(self) -> int:
        return 0

    def draw(self, name: str, option: Any) -> Any:
        if isinstance(option, Choice):
            return fill(self, option.options[self._numbers.get(name, 0)], name)
        return _middle(name, option)


def _middle(name: str, option: Any) -> float:
    if not isinstance(option, Between):
        raise InputError(f"draw({name!r}, ...) takes what compress.choice or compress.between gave, not {option!r}")
    middle = math.sqrt(option.low * option.high) if option.log else (option.low + option.high) / 2
    if isinstance(option.low, int) and isinstance(option.high, int):
        return int(middle)
    return middle


def _measured(plan: Plan, opened: Mapping[str, Open], report: Reporter) -> tuple[float, dict[str, list[float]]]:
    """Milliseconds of the net of first options, and what each other option adds to it."""
    latency = plan.latency
    assert latency is not None, "search asks for it"
    total = 1 + sum(len(each.choice.options) - 1 for each in opened.values())
    done = 0

    def milliseconds(numbers: Mapping[str, int]) -> float:
        nonlocal done
        report("measure alternatives", done, total)
        config = plan.space(_Choosing(numbers))
        with told("the conversion of an alternative", config):
            taken = latency.milliseconds(latency.model(plan.build(config), config))
        done += 1
        report("measure alternatives", done, total, shown(plain(config)))
        return taken

    base = milliseconds({})
    table = {
        name: [0.0, *(milliseconds({name: number}) - base for number in range(1, len(each.choice.options)))]
        for name, each in opened.items()
    }
    return base, table
