"""Criteria that look at data: each by its formula, written plainly, and what looking leaves behind: nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize

from lowbit.compress import CRITERIA, Iterative, Layer, prune
from lowbit.compress.second_order import DAMPING, eliminated
from lowbit.errors import CalibrationError, InputError


class Net(nn.Module):
    """A convolution and two linear layers, with dropout and batch norm, whose state must not change."""

    def __init__(self, **convolution: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, **convolution)
        self.norm, self.drop = nn.BatchNorm2d(8), nn.Dropout()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        return self.second(torch.relu(self.first(self.drop(pooled))))


def data(count: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(5, 4, 7, 6), torch.randint(4, (5,))) for _ in range(count)]


def worths(net: nn.Module, criterion: str, **more: Any) -> dict[str, torch.Tensor]:
    """What a criterion says of each layer of a net that is not pruned."""
    found: dict[str, torch.Tensor] = {}

    def note(layer: Layer) -> torch.Tensor:
        found[layer.name] = CRITERIA[criterion](layer)
        return found[layer.name]

    prune(net, 0.0, pattern="unstructured", criterion=note, **more)
    return found


def gradients(net: nn.Module) -> dict[str, list[torch.Tensor]]:
    """Of each batch, in eval mode."""
    found: dict[str, list[torch.Tensor]] = {"conv": [], "first": [], "second": []}
    plain = copy.deepcopy(net).eval()
    for x, y in data():
        plain.zero_grad()
        functional.cross_entropy(plain(x), y).backward()
        for name, each in found.items():
            each.append(plain.get_submodule(name).weight.grad.clone())
    return found


def test_gradient_and_taylor_by_their_formulas() -> None:
    torch.manual_seed(0)
    net = Net(padding=1)
    expected = gradients(net)
    snip = worths(copy.deepcopy(net), "gradient", calibration=data(), loss=functional.cross_entropy)
    taylor = worths(copy.deepcopy(net), "taylor", calibration=data(), loss=functional.cross_entropy)
    for name, each in expected.items():
        weight = net.get_submodule(name).weight.detach()
        torch.testing.assert_close(snip[name], (weight * torch.stack(each).mean(0)).abs())
        torch.testing.assert_close(taylor[name], (weight * torch.stack(each)).square().mean(0))


@settings(max_examples=25, deadline=None)
@given(
    stride=st.sampled_from([1, 2, (2, 1)]),
    padding=st.sampled_from([0, 1, (2, 0), "same", "valid"]),
    dilation=st.sampled_from([1, 2, (1, 2)]),
    mode=st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
    is_single=st.booleans(),
)
def test_inputs_are_those_of_the_weights(stride: Any, padding: Any, dilation: Any, mode: str, is_single: bool) -> None:
    """Squares and second moments of what weights meet: found by asking the layer itself, one weight at a time."""
    if padding == "same":
        stride = 1
    torch.manual_seed(2)
    layer = nn.Conv2d(4, 1, (3, 1), stride=stride, padding=padding, dilation=dilation, padding_mode=mode, bias=False)
    x = torch.randn(*(() if is_single else (3,)), 4, 6, 7).relu()
    probe = copy.deepcopy(layer)
    seen: list[Layer] = []
    prune(layer, 0.0, pattern="unstructured", criterion=lambda it: seen.append(it) or it.weight.abs(), calibration=[x])
    met = []
    with torch.no_grad():
        for place in range(12):
            probe.weight.copy_((torch.arange(12) == place).float().view(1, 4, 3, 1))
            met.append(probe(x).flatten())
    rows = torch.stack(met, 1)
    torch.testing.assert_close(seen[0].input_squares.flatten(), rows.square().mean(0))
    torch.testing.assert_close(seen[0].moments.float(), rows.T @ rows / len(rows))
    torch.testing.assert_close(seen[0].input_means, x.abs().mean((-1, -2)).reshape(-1, 4).mean(0))
    torch.testing.assert_close(seen[0].input_zeros, (x == 0).float().mean((-1, -2)).reshape(-1, 4).mean(0))


def test_wanda_activation_and_apoz_by_their_formulas() -> None:
    torch.manual_seed(0)
    net = Net()
    seen: list[torch.Tensor] = []
    plain = copy.deepcopy(net).eval()
    plain.second.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    for x, _ in data():
        plain(x)
    x = torch.cat(seen)
    weight = net.second.weight.detach()
    wanda = worths(copy.deepcopy(net), "wanda", calibration=data())["second"]
    torch.testing.assert_close(wanda, weight.square() * x.square().mean(0))
    means = worths(copy.deepcopy(net), "activation", calibration=data())["second"]
    torch.testing.assert_close(means, x.abs().mean(0).expand(4, -1))
    fired = worths(copy.deepcopy(net), "apoz", calibration=data())["second"]
    torch.testing.assert_close(fired, (x != 0).float().mean(0).expand(4, -1))
    prune(net, 0.5, pattern="1x4", criterion="apoz", calibration=data(), modules=["second"])
    assert (net.second.weight != 0).any(0).sum() == 8  # whole neurons go


def best_error(w: np.ndarray, h: np.ndarray, kept: np.ndarray) -> float:
    """The least (w - w')^T H (w - w') over w' that is zero where it is not kept."""
    gone = ~kept
    inverse = np.linalg.inv(h)
    rest = np.linalg.inv(inverse[np.ix_(gone, gone)]) if gone.any() else np.zeros((0, 0))
    return float(np.trace(w[:, gone] @ rest @ w[:, gone].T))


@settings(max_examples=20, deadline=None)
@given(rows=st.sampled_from([1, 4]), columns=st.sampled_from([1, 4]), blocks=st.integers(1, 6), seed=st.integers(0, 99))
def test_second_order_costs_are_what_the_best_of_the_rest_lose(rows: int, columns: int, blocks: int, seed: int) -> None:
    """Greedily by brute force: the error of the best weights, once with each block that may go next."""
    rng = np.random.default_rng(seed)
    depth = blocks * columns
    w, x = rng.normal(size=(rows, depth)), rng.normal(size=(3 * depth, depth)) @ rng.normal(size=(depth, depth))
    moments = x.T @ x / len(x)
    h = moments + DAMPING * np.diag(moments).mean() * np.eye(depth)
    kept, least, expected = np.ones(depth, bool), 0.0, np.zeros(blocks)
    for _ in range(blocks):
        before, costs = best_error(w, h, kept), {}
        for block in {int(at) // columns for at in np.flatnonzero(kept)}:
            after = kept.copy()
            after[block * columns : (block + 1) * columns] = False
            costs[block] = best_error(w, h, after) - before
        gone = min(costs, key=lambda block: max(costs[block], least))
        expected[gone] = least = max(costs[gone], least)
        kept[gone * columns : (gone + 1) * columns] = False
    found = eliminated(torch.from_numpy(w), torch.from_numpy(moments), rows, columns).numpy()
    assert found.shape == w.shape
    blockwise = found.reshape(rows, blocks, columns).sum((0, 2))
    np.testing.assert_allclose(np.sort(blockwise), np.sort(expected), rtol=2e-2, atol=1e-4 * expected.max())


def test_second_order_sees_correlations() -> None:
    """Of two equal inputs one is worth nothing, however large its weight."""
    torch.manual_seed(0)
    x = torch.randn(64, 8)
    x[:, 1] = x[:, 0]
    net = nn.Linear(8, 8, bias=False)
    net.weight.data = torch.full((8, 8), 0.5)
    net.weight.data[:, :2] = 3.0
    prune(net, 1 / 8, pattern="unstructured", criterion="obc", calibration=[x])
    assert ((net.weight[:, :2] == 0).sum(1) == 1).all()


@pytest.mark.parametrize("criterion", ["taylor", "wanda", "obc"])
def test_looking_changes_nothing(criterion: str) -> None:
    """Modes, statistics, gradients, frozen weights and hooks are those of before, and data are read at each step."""
    net = Net(padding=1).train()
    net.drop.eval()
    net.first.weight.requires_grad_(False)
    net.second.weight.grad = torch.ones_like(net.second.weight)
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    reads: list[int] = []

    class Data:
        def __iter__(self) -> Any:
            reads.append(1)
            return iter(data())

    pruning = prune(
        net, 0.5, criterion=criterion, schedule=Iterative(rounds=2), calibration=Data(), loss=functional.cross_entropy
    )
    begun = len(reads)
    pruning.step()
    assert len(reads) > begun
    assert [net.training, net.drop.training, net.norm.training] == [True, False, True]
    assert (net.second.parametrizations.weight.original.grad == 1).all()
    assert net.conv.parametrizations.weight.original.grad is None
    assert not net.first.parametrizations.weight.original.requires_grad
    pruning.step()
    pruning.finalize()
    for name, tensor in net.state_dict().items():
        if name.split(".")[0] not in pruning.sparsity() or "bias" in name:
            assert torch.equal(tensor, state[name])
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_criteria_read_the_float_weight_where_training_rounds_it() -> None:
    class Rounded(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight + (weight.round() - weight).detach()

    net = nn.Linear(16, 16)
    seen: list[Layer] = []

    def note(layer: Layer) -> torch.Tensor:
        seen.append(layer)
        return CRITERIA["gradient"](layer)

    x, y = torch.randn(8, 16), torch.randn(8, 16)
    pruning = prune(
        net, 0.5, criterion=note, schedule=Iterative(rounds=2), calibration=[(x, y)], loss=functional.mse_loss
    )
    pruning.step()
    parametrize.register_parametrization(net, "weight", Rounded())
    pruning.step()
    weight = net.parametrizations.weight.original.detach()
    assert torch.equal(seen[-1].weight, torch.where(seen[-1].weight == 0, 0, weight))
    assert (seen[-1].weight != seen[-1].weight.round()).any()
    assert pruning.sparsity() == {"": 0.5}


class Keyed(nn.Module):
    """Two inputs by name, and what it returns is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, a: torch.Tensor, b: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, Any]:
        y = self.layer(input=a + b)
        return {"y": y, "loss": None if labels is None else (y - labels).square().mean()}


@pytest.mark.parametrize("form", ["dict", "pair of tuple", "pair of dict", "tuple", "iterator"])
def test_batches_of_any_form(form: str) -> None:
    torch.manual_seed(0)
    a, b, y = torch.randn(8, 16), torch.randn(8, 16), torch.randn(8, 16)
    forms: dict[str, tuple[Any, Callable[[Any, Any], torch.Tensor]]] = {
        "dict": ([{"a": a, "b": b, "labels": y, "other": 3}], lambda output, batch: output["loss"]),
        "pair of tuple": ([((a, b), y)], lambda output, target: (output["y"] - target).square().mean()),
        "pair of dict": ([({"a": a, "b": b}, y)], lambda output, target: (output["y"] - target).square().mean()),
        "tuple": ([(a, b, y)], lambda output, target: (output["y"] - target).square().mean()),
        "iterator": (iter([[a, b, y]]), lambda output, target: (output["y"] - target).square().mean()),
    }
    calibration, loss = forms[form]
    net = Keyed()
    weight = net.layer.weight.detach().clone().requires_grad_()
    functional.mse_loss(functional.linear(a + b, weight, net.layer.bias), y).backward()
    assert weight.grad is not None
    found = worths(net, "gradient", calibration=calibration, loss=loss)["layer"]
    torch.testing.assert_close(found, (weight * weight.grad).abs())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"criterion": "taylor"}, InputError, "pass calibration="),
        ({"criterion": "taylor", "calibration": data()}, InputError, "pass loss="),
        ({"criterion": "wanda", "calibration": []}, CalibrationError, "holds no batch"),
        ({"criterion": "wanda", "calibration": torch.ones(3)}, CalibrationError, "not a Tensor"),
        ({"criterion": "obc", "calibration": [torch.ones(2, 3, 7, 6)]}, CalibrationError, "batch 0: .*channels"),
        (
            {"criterion": "gradient", "calibration": data(), "loss": lambda output, target: output},
            CalibrationError,
            "batch 0: .*scalar",
        ),
        (
            {"criterion": "gradient", "calibration": data(), "loss": lambda output, target: 3},
            CalibrationError,
            "the loss is a int",
        ),
        ({"criterion": "gradient", "calibration": data(), "loss": 3}, InputError, "loss must be a function"),
    ],
)
def test_what_is_missing_is_told_and_nothing_is_changed(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    net = Net()
    keys = list(net.state_dict())
    with pytest.raises(error, match=message):
        prune(net, 0.5, **arguments)
    assert list(net.state_dict()) == keys


def test_layers_that_are_not_called_are_named() -> None:
    """nn.MultiheadAttention reads the weight of its linear layer; a whole encoder layer calls its own."""
    net = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    x = torch.randn(2, 5, 16)
    with pytest.raises(InputError, match=r"'self_attn\.out_proj' is not called"):
        prune(net, 0.5, criterion="wanda", calibration=[x])
    pruning = prune(net, 0.5, criterion="wanda", calibration=[x], skip=["self_attn"])
    assert pruning.sparsity() == {"linear1": 0.5, "linear2": 0.5}


def test_a_step_that_fails_changes_nothing() -> None:
    calibration = data()
    pruning = prune(Net(), 0.5, criterion="wanda", calibration=calibration, schedule=Iterative(rounds=2))
    before = pruning.sparsity()
    calibration[1] = (torch.ones(1, 2, 3, 3), calibration[1][1])
    with pytest.raises(CalibrationError, match="batch 1"):
        pruning.step()
    assert (pruning.steps, pruning.sparsity()) == (0, before)
