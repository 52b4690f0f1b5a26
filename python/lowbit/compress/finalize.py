"""What training has put on a module becomes the module: zeros are written, codes take the place of weights."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

from ..errors import InputError
from .chain import finalize_weight
from .distill import release
from .records import record

Net = TypeVar("Net", bound=nn.Module)


def finalize(net: Net) -> Net:
    """Write what masks and rounding make of each weight into the module, in place, and take them off; teachers go.

    A module of which all is final already stays as it is, as do the modules of which nothing was trained so.

    Args:
        net: The module that `lowbit.compress.prune` was called with.

    Returns:
        The module. What was done to it is recorded.

    Raises:
        InputError: It is no module.

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
    for name, module in list(net.named_modules()):
        for facts in finalize_weight(module):
            done.setdefault(facts.pop("kind"), {})[name] = facts
    for kind, layers in done.items():
        record(net, kind, layers=layers)
    release(net)
    return net
