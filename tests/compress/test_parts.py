"""Handles of training: what they have in common, and what a module tells of them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lowbit.compress import Part, Teacher, prune, record, recorded
from lowbit.errors import InputError


def test_a_pruning_is_a_part() -> None:
    """A part, and no teacher."""
    pruning = prune(nn.Linear(8, 8), 0.5)
    assert isinstance(pruning, Part)
    assert not isinstance(pruning, Teacher)


def test_records_go_along_with_the_module_alone() -> None:
    """Copies and modules around it tell the same; state dicts, parameters and other modules know nothing."""
    net = nn.Sequential(nn.Linear(4, 2))
    before = list(net.state_dict())
    record(net, "pruning", share=0.5)
    copied = copy.deepcopy(net)
    record(copied[0], "history", epochs=[{"loss": 1.5}])
    assert recorded(nn.Sequential(copied)) == [
        {"kind": "pruning", "share": 0.5},
        {"kind": "history", "epochs": [{"loss": 1.5}]},
    ]
    assert recorded(net) == [{"kind": "pruning", "share": 0.5}]
    assert list(net.state_dict()) == before


@pytest.mark.parametrize("value", [float("nan"), torch.ones(1), {1, 2}])
def test_records_are_plain(value: object) -> None:
    """What JSON cannot say is refused before anything is noted."""
    net = nn.Linear(2, 2)
    with pytest.raises(InputError, match="noted of pruning"):
        record(net, "pruning", value=value)
    assert recorded(net) == []
