"""Optimizers and learning rates by name, as `finetune` takes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError

RATE = 1e-3
"""Where none is given."""
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "momentum": partial(torch.optim.SGD, momentum=0.9),
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
}
"""torch's, by the name that `finetune` takes; weight decay is L2 in all but AdamW (Loshchilov and Hutter 2019)."""
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda part: 1.0,
    "cosine": lambda part: (1 + math.cos(math.pi * part)) / 2,
    "step": lambda part: 0.1 ** ((part >= 0.5) + (part >= 0.75)),
    "exponential": lambda part: 0.01**part,
}
"""The learning rate, as a factor, after this part of the training, from 0 to 1."""

Make = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


def optimizer_of(
    net: nn.Module, optimizer: str | torch.optim.Optimizer | Make, lr: float | None, weight_decay: float
) -> torch.optim.Optimizer:
    """By name, with decay of weights only; or given, or made by a function from the parameters."""
    if isinstance(optimizer, str):
        if optimizer not in OPTIMIZERS:
            raise InputError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, or torch's, not {optimizer!r}")
        weights, others = list(decaying(net)), {id(each) for each in decaying(net)}
        rest = [each for each in net.parameters() if each.requires_grad and id(each) not in others]
        groups = [{"params": weights, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
        if not weights and not rest:
            raise InputError("the net has no parameter that requires a gradient: there is nothing to train")
        return OPTIMIZERS[optimizer]([group for group in groups if group["params"]], lr=RATE if lr is None else lr)
    if lr is not None or weight_decay:
        raise InputError("lr and weight_decay belong to an optimizer that is named; a given one has its own")
    made: Any = optimizer
    if not isinstance(optimizer, torch.optim.Optimizer) and callable(optimizer):
        made = optimizer(net.parameters())
    if not isinstance(made, torch.optim.Optimizer):
        raise InputError(f"optimizer must be or give a torch.optim.Optimizer, not a {type(made).__name__}")
    return made


def decaying(net: nn.Module) -> Iterator[nn.Parameter]:
    """Weights: what has two axes or more, and is not what masks or rounding have learned, such as steps."""
    for name, parameter in net.named_parameters():
        path = name.split(".")
        learned = "parametrizations" in path[:-1] and not path[-1].startswith("original")
        if parameter.requires_grad and parameter.ndim > 1 and not learned:
            yield parameter


def schedule_of(
    optimizer: torch.optim.Optimizer, schedule: str | Callable[[float], float], warmup: float, steps: int | None
) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear up to the rate over a share of all steps, then the schedule over the rest."""
    if not callable(schedule) and not (isinstance(schedule, str) and schedule in SCHEDULES):
        raise InputError(f"schedule must be one of {', '.join(SCHEDULES)}, or a function, not {schedule!r}")
    factor = schedule if callable(schedule) else SCHEDULES[schedule]
    if steps is None:
        if schedule != "constant" or warmup:
            raise InputError("data without a len() have no end to schedule for: give schedule='constant', no warmup")
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    rising = round(warmup * steps)

    def at(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        return factor(min((step - rising) / max(steps - rising, 1), 1.0))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, at)


def clip_gradients(parameters: Iterable[Tensor], norm: float | None, value: float | None) -> None:
    """To a norm of all together, to a largest size of each number."""
    parameters = list(parameters)
    if norm is not None:
        torch.nn.utils.clip_grad_norm_(parameters, norm)
    if value is not None:
        torch.nn.utils.clip_grad_value_(parameters, value)


def plain_name(value: Any) -> str:
    """What a checkpoint says of an optimizer or a schedule."""
    return value if isinstance(value, str) else getattr(value, "__name__", type(value).__name__)
