"""What goes along with training: a handle that a loop steps, saves and loads without knowing what it does.

`Pruning`, quantization-aware training and teachers are parts, and so is what a person writes with the same methods. A
loop calls `step()` after each of the optimizer's, and adds what teachers say to its loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch


@runtime_checkable
class Part(Protocol):
    """What `finetune` takes as a part.

    It may have a property `done`, too: whether the net is by now what the part shall make of it. Scores of before are
    those of another net, and choose none.

    Examples:
        >>> import torch
        >>> isinstance(lowbit.compress.prune(torch.nn.Linear(64, 64), 0.5), lowbit.compress.Part)
        True
    """

    def step(self) -> object:
        """Go on by one step; called after each step of the optimizer.

        Returns:
            What a person may want to see, such as a sparsity; loops do not read it.
        """

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, for torch.save: tensors and plain values.

        Returns:
            What `load_state_dict` takes.
        """

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another was, with the same bits.

        Args:
            state: What `state_dict` gave.
        """


@runtime_checkable
class Teacher(Part, Protocol):
    """A part that has something to say about what the net has just computed.

    Examples:
        >>> import torch
        >>> class Smaller:  # pulls weights towards zero
        ...     def __init__(self, net):
        ...         self.net = net
        ...     def step(self): ...
        ...     def state_dict(self):
        ...         return {}
        ...     def load_state_dict(self, state): ...
        ...     def loss(self, task_loss, *inputs, **named):
        ...         return task_loss + sum(weight.abs().sum() for weight in self.net.parameters())
        >>> isinstance(Smaller(torch.nn.Linear(64, 64)), lowbit.compress.Teacher)
        True
    """

    def loss(self, task_loss: torch.Tensor | None, *inputs: Any, **named: Any) -> torch.Tensor:
        """The loss to train on, after a forward pass of the net.

        Args:
            task_loss: Against labels, a scalar; None where there are none.
            inputs: What the net was given.
            named: The same by keyword.

        Returns:
            A scalar.
        """
