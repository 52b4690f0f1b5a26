"""What stands between a parameter and its weight: one order, whoever comes first, and copies and states that hold."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import AveragedModel

import lowbit
from lowbit.compress import Iterative, finalize, prune
from lowbit.compress.chain import Link, attach, detach, links, original
from lowbit.errors import InputError


class Tenths(Link):
    """A rounding of one's own."""

    place = 1

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + ((weight * 10).round() / 10 - weight).detach()


class Signs(Tenths):
    keeps_zeros = False


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 8))


def train(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for seed in range(3):
        optimizer.zero_grad()
        net(torch.randn(4, 16, generator=torch.Generator().manual_seed(seed))).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("is_first", [True, False])
def test_masks_come_first_whatever_was_asked_first(is_first: bool) -> None:
    """The same order of links, parameters and state dict, the same numbers; the parameters are those of before."""
    net, plain = small(), small()
    before, optimizer = list(net.parameters()), torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    layers = [net[0], net[2]]
    rounded = [Tenths(), Tenths()]
    for layer, link in zip(layers, rounded, strict=True) if is_first else ():
        attach(layer, link)
    prune(net, 0.5)
    for layer, link in zip(layers, rounded, strict=True) if not is_first else ():
        attach(layer, link)
    assert [type(link).__name__ for link in links(net[0])] == ["Masked", "Tenths"]
    assert {id(a) for a in net.parameters()} == {id(a) for a in before}
    train(net, optimizer)
    mask = links(net[0])[0].get_buffer("mask")
    assert original(net[0])[~mask].any()
    assert not net[0].weight[~mask].any()
    assert torch.equal(net[0].weight * 10, (net[0].weight * 10).round())
    weight = net[0].weight.detach().clone()
    assert finalize(net) is net
    assert torch.equal(net[0].weight, weight)
    assert list(net.state_dict()) == list(plain.state_dict())
    assert all(a is b for a, b in zip(net.parameters(), before, strict=True))
    (noted,) = lowbit.compress.recorded(net)
    assert (noted["kind"], noted["layers"]["0"]) == ("pruning", {"pattern": "4x4", "zeros": 0.5})
    finalize(net)
    assert len(lowbit.compress.recorded(net)) == 1


def test_parameters_are_in_one_order() -> None:
    """DDP and optimizers' states count parameters: the order does not depend on who came first."""
    first, second = small(), small()
    prune(first, 0.5)
    attach(first[0], Tenths())
    attach(second[0], Tenths())
    prune(second, 0.5)
    assert list(first.state_dict()) == list(second.state_dict())
    assert [name for name, _ in first.named_parameters()] == [name for name, _ in second.named_parameters()]


def test_copies_averages_and_states_keep_zeros(tmp_path: Path) -> None:
    net = small()
    pruning = prune(net, 0.75, schedule=Iterative(rounds=2))
    average, copied = AveragedModel(net), copy.deepcopy(net)
    optimizer = torch.optim.Adam([*net.parameters(), *copied.parameters()], 0.1)
    pruning.step()
    pruning.step()
    train(net, optimizer)
    average.update_parameters(net)
    zeros = net[0].weight == 0
    assert not average.module[0].weight[zeros].any()
    assert (copied[0].weight != 0).all()
    torch.save(net.state_dict(), tmp_path / "net.pt")
    copied.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    train(copied, optimizer)
    assert not copied[0].weight[zeros].any()
    assert not finalize(copied)[0].weight[zeros].any()
    assert net[0].weight[~zeros].all()


def test_a_state_of_before_takes_no_zeros_back() -> None:
    """The net's own state says what is masked; a handle's adds to it, whatever step it is from."""
    net = small()
    pruning = prune(net, 0.75, schedule=Iterative(rounds=2))
    early = pruning.state_dict()
    pruning.step()
    pruning.step()
    zeros, shares = net[0].weight == 0, pruning.sparsity()
    pruning.load_state_dict(early)
    assert pruning.sparsity() == shares
    assert torch.equal(net[0].weight == 0, zeros)
    pruning.step()
    assert pruning.sparsity() == shares


def test_what_cannot_be_in_one_chain_is_refused() -> None:
    layer = nn.Linear(8, 8)
    attach(layer, Signs())
    pruning = prune(nn.Sequential(layer, nn.Linear(8, 8)), 0.5)
    assert pruning.skipped == {"0": "its weights are rounded to numbers without zero"}
    masked = nn.Linear(8, 8)
    prune(masked, 0.5)
    with pytest.raises(InputError, match="without zero"):
        attach(masked, Signs())
    foreign = parametrizations.weight_norm(nn.Linear(8, 8))
    with pytest.raises(InputError, match="parametrized already"):
        prune(foreign, 0.5)
    with pytest.raises(InputError, match=r"takes a torch\.nn\.Module"):
        finalize(3)  # type: ignore[type-var]


def test_a_link_is_taken_out_again() -> None:
    net = small()
    weight = net[0].weight.detach().clone()
    link, other = Tenths(), Tenths()
    attach(net[0], link)
    attach(net[0], other)
    detach(net[0], link)
    assert links(net[0]) == (other,)
    detach(net[0], other)
    assert torch.equal(net[0].weight, weight)
    assert not links(net[0])
