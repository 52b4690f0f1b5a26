"""What training has put on a module becomes the module: zeros are written, codes take the place of weights."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

from ..errors import InputError
from .chain import finalize_weight, links
from .distill import release
from .records import record
from .rounding import RoundedValue, RoundedWeight

Net = TypeVar("Net", bound=nn.Module)


def is_rounding(net: nn.Module) -> bool:
    """Whether weights or activations of a module are still rounded in training."""
    values = (module for module in net.modules() if isinstance(module, RoundedValue))
    chains = (link for module in net.modules() for link in links(module))
    return any(not value.is_fixed for value in values) or any(isinstance(link, RoundedWeight) for link in chains)


def finalize(net: Net) -> Net:
    """Write what masks and rounding make of each weight into the module, in place, and take them off; teachers go.

    A module of which all is final already stays as it is, as do the modules of which nothing was trained so.

    Args:
        net: The module that `lowbit.compress.prune` or `lowbit.compress.qat` was called with.

    Returns:
        The module. What was done to it is recorded.

    Raises:
        InputError: It is no module, or activations were not observed yet.

    Examples:
        >>> import torch
        >>> net = torch.nn.Linear(64, 64)
        >>> pruning = lowbit.compress.prune(net, 0.75, pattern="4x4")
        >>> net = lowbit.compress.finalize(net)
        >>> int((net.weight == 0).sum())
        3072
    """
    if not isinstance(net, nn.Module):
        raise InputError(f"finalize takes a torch.nn.Module, not a {type(net).__name__}")
    done: dict[str, dict[str, Any]] = {}
    values = {name: module for name, module in net.named_modules() if isinstance(module, RoundedValue)}
    unseen = [name for name, value in values.items() if not value.is_ready]
    if unseen:
        raise InputError(
            f"no range is known of {len(unseen)} of {len(values)} values ({', '.join(unseen[:3])}): give qat "
            "calibration data, or take as many steps as it observes"
        )
    with torch.no_grad():
        for value in values.values():
            value.fix()
    for name, module in list(net.named_modules()):
        for facts in finalize_weight(module):
            done.setdefault(facts.pop("kind"), {})[name] = facts
    for kind, layers in done.items():
        record(net, kind, layers=layers)
    release(net)
    return net
