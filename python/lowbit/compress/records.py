"""What was done to a module in training, as it tells a conversion: plain values on the module itself.

They stand in an ordinary attribute, which no optimizer and no state dict sees, and which copies of the module keep.
Parts write theirs when they are finalized, `finetune` when it ends; `lowbit.convert` takes them into the model.
"""

from __future__ import annotations

import json
from typing import Any

from torch import nn

from ..errors import InputError

ATTRIBUTE = "lowbit_training"


def record(net: nn.Module, kind: str, **facts: Any) -> None:
    """Note on `net` that it was trained so.

    Args:
        net: The module.
        kind: In a word, such as "pruning".
        facts: Numbers, strings, lists and dicts of such.

    Raises:
        InputError: Facts that JSON cannot say.

    Examples:
        >>> import torch
        >>> net = torch.nn.Linear(4, 2)
        >>> lowbit.compress.record(net, "rotation", degrees=90)
        >>> lowbit.compress.recorded(torch.nn.Sequential(net))
        [{'kind': 'rotation', 'degrees': 90}]
    """
    try:
        plain = json.loads(json.dumps({"kind": kind, **facts}, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"what is noted of {kind} must be plain and finite: {error}") from error
    setattr(net, ATTRIBUTE, [*getattr(net, ATTRIBUTE, []), plain])


def recorded(net: nn.Module) -> list[dict[str, Any]]:
    """What `record` noted on `net` and on the modules in it, the outer ones first.

    Args:
        net: The module.

    Returns:
        A dict for each, with its `kind`.

    Examples:
        >>> import torch
        >>> lowbit.compress.recorded(torch.nn.Linear(4, 2))
        []
    """
    return [each for module in net.modules() for each in vars(module).get(ATTRIBUTE, [])]
