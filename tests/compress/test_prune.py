"""Pruning: how many blocks and which, that they stay zero, and that nothing else remains of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import lowbit
from lowbit.compress import CRITERIA, Cubic, Iterative, Layer, OneShot, Pruning, Schedule, prune
from lowbit.errors import InputError
from lowbit.graph import blocks
from lowbit.graph.ir import Weight
from lowbit.runtime import format

PATTERNS = list(blocks.PATTERNS)


def small(seed: int = 0) -> nn.Sequential:
    """Four layers that can be pruned in 4x4 blocks, one with groups and one of odd size."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16),
        nn.Conv2d(16, 32, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 16, 64), nn.ReLU(), nn.Linear(64, 24),
        nn.ReLU(), nn.Linear(24, 10),
    )  # fmt: skip


def sums(weight: torch.Tensor, pattern: str) -> np.ndarray:
    """The squared weights of each block."""
    return blocks.blocks_of(weight.detach().double().square().numpy(), pattern).sum(axis=(2, 3)).ravel()


@settings(max_examples=40, deadline=None)
@given(
    pattern=st.sampled_from(PATTERNS),
    rows=st.integers(1, 3),
    columns=st.integers(1, 4),
    kernel=st.sampled_from([None, (1, 1), (3, 2)]),
    sparsity=st.floats(0, 0.99),
    seed=st.integers(0, 9),
)
def test_as_many_blocks_as_asked_those_of_least_magnitude(
    pattern: str, rows: int, columns: int, kernel: tuple[int, int] | None, sparsity: float, seed: int
) -> None:
    torch.manual_seed(seed)
    outputs, inputs = blocks.PATTERNS[pattern][0] * rows, blocks.PATTERNS[pattern][1] * columns
    layer = nn.Linear(inputs, outputs) if kernel is None else nn.Conv2d(inputs, outputs, kernel)
    before = layer.weight.detach().clone()
    pruning = prune(layer, sparsity, pattern=pattern)
    worth, kept = sums(before, pattern), sums(layer.weight, pattern) > 0
    assert (~kept).sum() == min(round(sparsity * len(kept)), len(kept) - 1)
    assert worth[~kept].max(initial=0) <= worth[kept].min()
    assert pruning.sparsity() == {"": pytest.approx(1 - kept.mean())}
    assert pruning.done
    mask = layer.weight != 0
    assert torch.equal(layer.weight[mask], before[mask])


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.Adam(parameters, 0.01, weight_decay=0.1),
        lambda parameters: torch.optim.AdamW(parameters, 0.01, weight_decay=0.1),
        lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    ],
)
def test_zeros_stay_whatever_trains(make: Callable[..., torch.optim.Optimizer]) -> None:
    """An optimizer made before, with momentum gathered before; then the module is what it was, but for its weights."""
    net = small()
    plain = copy.deepcopy(net)
    optimizer = make(net.parameters())

    def train() -> None:
        for _ in range(3):
            optimizer.zero_grad()
            net(torch.randn(4, 8, 6, 6)).square().mean().backward()
            optimizer.step()

    train()
    pruning = prune(net, 0.75)
    zeros = {name: net.get_submodule(name).weight == 0 for name in pruning.sparsity()}
    before = {name: net.get_submodule(name).weight.detach().clone() for name in zeros}
    train()
    trained = {name: net.get_submodule(name).weight.detach().clone() for name in zeros}
    for name, zero in zeros.items():
        assert zero.double().mean() == 0.75
        assert not trained[name][zero].any()
        assert (trained[name] != before[name])[~zero].double().mean() > 0.5
    x = torch.randn(2, 8, 6, 6)
    said = net.eval()(x)
    assert pruning.finalize() is net
    assert torch.equal(net(x), said)
    for name, weight in trained.items():
        assert torch.equal(net.get_submodule(name).weight, weight)
    assert [type(module) for module in net.modules()] == [type(module) for module in plain.modules()]
    assert list(net.state_dict()) == list(plain.state_dict())
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert all(a is b for a, b in zip(net.parameters(), held, strict=True))
    assert pruning.finalize() is net
    with pytest.raises(InputError, match="final"):
        pruning.step()


def test_checkpoints_and_assignment_do_not_fill_zeros() -> None:
    net = nn.Linear(16, 16)
    pruning = prune(net, 0.5)
    zero = net.weight == 0
    net.load_state_dict({**net.state_dict(), "parametrizations.weight.original": torch.ones(16, 16)})
    assert not net.weight[zero].any()
    net.weight = torch.full((16, 16), 2.0)
    assert torch.equal(net.weight, torch.where(zero, 0.0, 2.0))
    assert pruning.finalize().weight.sum() == 2.0 * 128


def test_global_pruning_ranks_by_share_of_what_remains() -> None:
    """The count over all layers is exact; the kept are those of greatest worth by LAMP's formula, written plainly."""
    net = small()
    net[7].weight.data *= 1e-3  # a layer of small weights is not lost
    before = {name: sums(net.get_submodule(name).weight, "4x4") for name in ("0", "4", "7", "9")}
    pruning = prune(net, 0.9, scope="global")
    scores = np.concatenate([[w / worth[worth >= w].sum() for w in worth] for worth in before.values()])
    kept = np.concatenate([sums(net.get_submodule(name).weight, "4x4") > 0 for name in before])
    assert (~kept).sum() == round(0.9 * len(kept))
    assert scores[~kept].max() <= scores[kept].min()
    assert max(pruning.sparsity().values()) < 0.99
    assert set(pruning.skipped) == {"3", "11"}
    assert "16 groups" in repr(pruning)
    assert "10 x 24 weights are no whole 4x4 blocks" in repr(pruning)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_what_is_pruned_stays_pruned(criterion: str, scope: str) -> None:
    net = small()
    data = [(torch.randn(4, 8, 6, 6), torch.randint(10, (4,))) for _ in range(2)]
    pruning = prune(
        net, 0.9, criterion=criterion, scope=scope, schedule=Iterative(rounds=4), seed=3, calibration=data,
        loss=nn.functional.cross_entropy,
    )  # fmt: skip
    assert set(pruning.sparsity().values()) == {0.0}
    masks = {name: torch.zeros(()).bool() for name in pruning.sparsity()}
    while not pruning.done:
        pruning.step()
        for name, before in masks.items():
            weight = net.get_submodule(name).weight
            assert not weight[before.expand_as(weight)].any()
            masks[name] = weight == 0
        with torch.no_grad():
            for parameter in net.parameters():
                parameter += torch.randn_like(parameter)
    counts = [mask.numel() for mask in masks.values()]
    assert sum(int(mask.sum()) for mask in masks.values()) == pytest.approx(0.9 * sum(counts), abs=16 * len(counts))


def test_random_is_chance_and_repeats() -> None:
    def kept(seed: int) -> torch.Tensor:
        net = small()
        prune(net, 0.5, criterion="random", seed=seed)
        return net[7].weight != 0

    assert torch.equal(kept(1), kept(1))
    assert 0.4 < float((kept(1) == kept(2)).double().mean()) < 0.6


def test_schedules_follow_their_formulas() -> None:
    cubic = Cubic(steps=20, begin=3, every=4, initial=0.1)
    assert [cubic.at(t, 0.9) for t in (0, 2, 23, 100)] == [0, 0, 0.9, 0.9]
    for t in range(3, 23):
        since = (t - 3) // 4 * 4
        assert cubic.at(t, 0.9) == pytest.approx(0.9 + (0.1 - 0.9) * (1 - since / 20) ** 3)
    rounds = Iterative(rounds=3)
    kept = [1 - rounds.at(t, 0.9) for t in range(4)]
    assert kept == pytest.approx([0.1 ** (t / 3) for t in range(4)])
    assert OneShot().at(0, 0.7) == 0.7
    net = nn.Linear(64, 64)
    pruning = prune(net, 0.9, schedule=cubic)
    seen = [pruning.target, *(pruning.step() for _ in range(25))]
    assert seen == [cubic.at(t, 0.9) for t in range(26)]
    assert pruning.done
    assert pruning.sparsity()[""] == round(0.9 * 256) / 256
    for wrong in (lambda: Iterative(rounds=0), lambda: Cubic(steps=0), lambda: Cubic(steps=3, initial=1.0)):
        with pytest.raises(InputError):
            wrong()


def test_a_criterion_of_ones_own() -> None:
    seen: list[str] = []

    def by_column(layer: Layer) -> torch.Tensor:
        seen.append(layer.name)
        return torch.arange(16.0).expand(16, 16)

    net = nn.Sequential(nn.Linear(16, 16))
    prune(net, 0.5, pattern="1x4", criterion=by_column)
    assert seen == ["0"]
    assert not net[0].weight[:, :8].any()
    assert net[0].weight[:, 8:].all()


def test_which_layers() -> None:
    assert set(prune(small(), 0.5, modules=["7", "9"]).sparsity()) == {"7", "9"}
    pruning = prune(small(), 0.5, skip="[04]")
    assert set(pruning.sparsity()) == {"7", "9"}
    assert pruning.skipped["0"] == "skip='[04]'"
    net = small()
    net[9] = nn.utils.parametrizations.weight_norm(net[9])
    tied = nn.Embedding(64, 32 * 16)
    tied.weight = net[7].weight
    skipped = prune(nn.ModuleList([net, tied]), 0.5).skipped
    assert "parametrized already" in skipped["0.9"]
    assert "shared with another module" in skipped["0.7"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.0}, "sparsity must be a share"),
        ({"sparsity": -0.1}, "sparsity must be a share"),
        ({"sparsity": True}, "sparsity must be a share"),
        ({"pattern": "2x2", "scope": "net"}, "pattern must be one of .*; scope must be one of"),
        ({"criterion": "guess"}, "criterion must be one of magnitude, random"),
        ({"criterion": lambda layer: torch.ones(3)}, "one number a weight of '0'"),
        ({"criterion": lambda layer: -torch.ones_like(layer.weight)}, "negative for '0'"),
        ({"modules": ["head"]}, r"matches \['head'\]; there are \['0', '3'"),
        ({"modules": ["3", "11"]}, "no layer to prune in 4x4 blocks: 3: it has 16 groups; 11: 10 x 24"),
        ({"skip": [7]}, "skip must be patterns"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_changed(arguments: dict[str, object], message: str) -> None:
    net = small()
    keys = list(net.state_dict())
    with pytest.raises(InputError, match=message):
        prune(net, **{"sparsity": 0.5, **arguments})
    assert list(net.state_dict()) == keys


def test_weights_that_are_nan_are_named() -> None:
    net = small()
    net[7].weight.data[3, 3] = torch.nan
    with pytest.raises(InputError, match="NaN, infinite or negative for '7'"):
        prune(net, 0.5)
    assert not hasattr(net[0], "parametrizations")
    with pytest.raises(InputError, match=r"nn\.Linear or nn\.Conv2d"):
        prune(nn.Sequential(nn.ReLU()), 0.5)
    with pytest.raises(InputError, match="not a int"):
        prune(3, 0.5)


@pytest.mark.parametrize(
    ("scheme", "pattern", "calibrated"),
    [("int8", "4x4", True), ("int8", "unstructured", False), ("int4-g32", "4x4", True)],
)
def test_conversion_keeps_the_zeros(scheme: str, pattern: str, calibrated: bool, tmp_path: Path) -> None:
    """Through batch norm, equalization and compensated rounding, into the file and out of it."""
    net = small().eval()
    net[1].running_var.uniform_(0.1, 3.0)
    prune(net, 0.85, pattern=pattern).finalize()
    x = torch.randn(16, 8, 6, 6)
    model = lowbit.convert(net, x[:1], calibration=[x] if calibrated else None, scheme=scheme, progress=False)
    path = tmp_path / "net.lowbit"
    model.save(path)
    graph = format.load(path)[0]
    found = {node.name: graph.constants[node.inputs[1]] for node in graph if node.op.startswith("quantized_")}
    pruned = {name: weight for name, weight in found.items() if name in ("0", "4", "7", "9")}
    assert "7" in pruned
    for name, weight in pruned.items():
        assert isinstance(weight, Weight)
        assert weight.sparsity == (pattern if weight.bits == 8 else None)
        numbers = net.get_submodule(name).weight.detach().numpy()
        numbers = np.moveaxis(numbers, 1, -1) if weight.bits == 4 else numbers
        if numbers.shape == weight.shape:
            assert not weight.codes[numbers == 0].any()
        assert np.count_nonzero(weight.codes) <= np.count_nonzero(numbers)  # whole rows and columns are gone
    assert {row.node for row in model.meta.sparsity} >= {name for name, w in pruned.items() if w.bits == 8}
    assert (pruned["7"].bits == 4) == (scheme != "int8")


def train(net: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    torch.manual_seed(seed)
    optimizer.zero_grad()
    net(torch.randn(4, 8, 6, 6)).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize(
    ("criterion", "schedule", "scope"),
    [
        ("magnitude", Iterative(rounds=4), "global"),
        ("random", Iterative(rounds=4), "layer"),
        ("magnitude", Cubic(steps=5, begin=1), "layer"),
        ("random", OneShot(), "global"),
    ],
)
def test_a_state_goes_on_where_it_was(criterion: str, schedule: Schedule, scope: str, tmp_path: Path) -> None:
    """Net, optimizer and pruning, saved after some steps and loaded into fresh ones: the same masks, step by step."""

    def begin(seed: int) -> tuple[nn.Sequential, Pruning, torch.optim.Optimizer]:
        net = small(seed)
        pruning = prune(net, 0.8, criterion=criterion, schedule=schedule, scope=scope)
        return net, pruning, torch.optim.Adam(net.parameters(), 0.01)

    net, pruning, optimizer = begin(0)
    for step in range(2):
        pruning.step()
        train(net, optimizer, step)
    torch.save([each.state_dict() for each in (net, pruning, optimizer)], tmp_path / "state.pt")
    other = begin(1)
    for each, state in zip(other, torch.load(tmp_path / "state.pt", weights_only=True), strict=True):
        each.load_state_dict(state)
    assert (other[1].steps, other[1].target, other[1].sparsity()) == (2, pruning.target, pruning.sparsity())
    for step in range(4):
        assert other[1].step() == pruning.step()
        assert other[1].sparsity() == pruning.sparsity()
        train(net, optimizer, step)
        train(other[0], other[2], step)
    for a, b in zip(net.state_dict().values(), other[0].state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert (pruning.finalize()(torch.ones(1, 8, 6, 6)) == other[1].finalize()(torch.ones(1, 8, 6, 6))).all()


def test_what_is_pruned_stays_pruned_without_the_state() -> None:
    """The masks are in the net's own state: a fresh pruning that begins again takes nothing back."""
    net, fresh = small(), small(1)
    pruning = prune(net, 0.8, schedule=Iterative(rounds=4))
    again = prune(fresh, 0.8, schedule=Iterative(rounds=4))
    for _ in range(3):
        pruning.step()
    fresh.load_state_dict(net.state_dict())
    for _ in range(3):
        again.step()
        assert again.sparsity() == pruning.sparsity()
    again.step()
    pruning.step()
    assert again.sparsity() == pruning.sparsity()


def test_states_of_other_prunings_are_refused() -> None:
    """All that differs is told at once, and nothing is changed."""
    net = small()
    pruning = prune(net, 0.5, schedule=Iterative(rounds=4))
    pruning.step()
    good = pruning.state_dict()
    names = list(good["masks"])
    others: dict[str, Any] = {
        "sparsity is 0.5 here, 0.8 there; .*rounds is 4 here, 3 there": prune(
            small(), 0.8, schedule=Iterative(rounds=3)
        ).state_dict(),
        "pattern is '4x4' here, '1x4' there": prune(small(), 0.5, pattern="1x4").state_dict(),
        "criterion is 'magnitude' here, 'random' there": prune(small(), 0.5, criterion="random").state_dict(),
        "layer '0' is pruned here only": prune(small(), 0.5, skip=["0"], schedule=Iterative(rounds=4)).state_dict(),
        "is pruned there only": {**good, "masks": {**good["masks"], "more": good["masks"][names[0]]}},
        r"the mask of '0' is torch.bool \[1\]": {**good, "masks": {**good["masks"], "0": torch.ones(1).bool()}},
        "the mask of '0' is a list": {**good, "masks": {**good["masks"], "0": [True]}},
        "the random numbers of '0' are a NoneType": {**good, "random": {}},
        "steps is -1": {**good, "steps": -1},
        "steps is True": {**good, "steps": True},
        "parts are no dicts": {**good, "masks": 3},
        "no state_dict.*a dict of": net.state_dict(),
        "no state_dict.*a list": [],
    }
    before, zeros = pruning.steps, pruning.sparsity()
    for what, state in others.items():
        with pytest.raises(InputError, match=what):
            pruning.load_state_dict(state)
    assert (pruning.steps, pruning.sparsity()) == (before, zeros)
    pruning.load_state_dict(good)
    pruning.finalize()
    for act in (pruning.state_dict, lambda: pruning.load_state_dict(good)):
        with pytest.raises(InputError, match="is final"):
            act()
