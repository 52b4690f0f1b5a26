"""Refitting: each layer's kept weights are the least squares of what it was, and nothing else changes."""

from __future__ import annotations

import copy
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import lowbit
from lowbit.compress import Iterative, prune, qat, refit
from lowbit.compress.chain import Link, attach, links
from lowbit.compress.feedback import with_feedback
from lowbit.compress.refit import DAMPING
from lowbit.compress.rounding import RoundedWeight, start
from lowbit.errors import CalibrationError, InputError
from lowbit.graph.ir import Weight
from lowbit.quantization.few_bits import EIGHT, Width
from lowbit.quantization.schemes import SCHEMES
from lowbit.runtime import format


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 2),
        nn.ReLU(), nn.Flatten(), nn.Linear(12 * 4, 16), nn.GELU(), nn.Linear(16, 8),
    ).eval()  # fmt: skip


def images(count: int = 3, each: int = 24) -> list[torch.Tensor]:
    """Of few patterns, so that inputs are correlated."""
    torch.manual_seed(1)
    patterns = torch.randn(12, 4 * 6 * 6)
    return [(torch.randn(each, 12) @ patterns + 0.1).reshape(each, 4, 6, 6) for _ in range(count)]


@settings(max_examples=15, deadline=None)
@given(
    pattern=st.sampled_from(["4x4", "1x4", "unstructured"]),
    has_bias=st.booleans(),
    sparsity=st.sampled_from([0.3, 0.5, 0.9]),
    damping=st.sampled_from([1e-3, 0.1]),
    seed=st.integers(0, 99),
)
def test_a_row_is_the_least_squares_of_its_kept_inputs(
    pattern: str, has_bias: bool, sparsity: float, damping: float, seed: int
) -> None:
    """Row by row, as stacked equations: those of the data, and one a weight that holds it to its dense number."""
    torch.manual_seed(seed)
    layer = nn.Linear(16, 8, bias=has_bias)
    x = torch.randn(60, 16) @ torch.randn(16, 16) + 1
    dense = copy.deepcopy(layer)
    prune(layer, sparsity, pattern=pattern)
    kept = (layer.weight != 0).numpy()
    assert refit(layer, [x], damping=damping) is layer
    rows, y, weight = x.double().numpy(), dense(x).double().detach().numpy(), dense.weight.detach().double().numpy()
    if has_bias:
        rows = np.concatenate([rows, np.ones((60, 1))], 1)
    pull = np.sqrt(damping * np.square(rows[:, :16]).mean() * 60)
    for row in range(8):
        at = np.flatnonzero(kept[row])
        held = pull * np.eye(rows.shape[1])[at]
        columns = [*at, 16] if has_bias else at
        stacked = np.concatenate([rows, held])[:, columns]
        found = np.linalg.lstsq(stacked, np.concatenate([y[:, row], pull * weight[row, at]]), rcond=None)[0]
        np.testing.assert_allclose(layer.weight.detach().numpy()[row, at], found[: len(at)], rtol=2e-3, atol=2e-3)
        if has_bias:
            np.testing.assert_allclose(layer.bias.detach().numpy()[row], found[-1], rtol=2e-3, atol=2e-3)
    assert (layer.weight.detach().numpy()[~kept] == 0).all()


def loss_of(module: nn.Module, z: torch.Tensor, y: torch.Tensor, was: torch.Tensor) -> float:
    """What refit makes least, over all places of a layer's input z."""
    windows = z if isinstance(module, nn.Linear) else nn.functional.unfold(
        z, module.kernel_size, padding=module.padding, stride=module.stride
    ).movedim(1, -1)  # fmt: skip
    pull = DAMPING * windows.double().square().mean()
    error = (module(z) - y).double().square().sum() / (y.numel() / len(was))
    return float(error + pull * (module.weight - was).double().square().where(module.weight != 0, 0).sum())


def test_each_layer_meets_what_those_before_it_make_now() -> None:
    """No change of a layer's kept weights makes its outputs nearer to the dense ones, on the inputs that it gets."""
    pruned, data = net(), images()
    dense = copy.deepcopy(pruned)
    prune(pruned, 0.5).finalize()
    lost = float((pruned(data[0]) - dense(data[0])).square().mean().detach())
    refit(pruned, data, dense=dense)
    assert float((pruned(data[0]) - dense(data[0])).square().mean().detach()) < 0.3 * lost
    z, x = torch.cat(data), torch.cat(data)
    checked = 0
    with torch.no_grad():
        for module, before in zip(pruned, dense, strict=True):
            if isinstance(module, nn.Conv2d | nn.Linear) and (module.weight == 0).any():
                checked += 1
                best = loss_of(module, z, before(x), before.weight)
                for step in (1e-2, 1e-3):
                    changed = copy.deepcopy(module)
                    changed.weight += step * torch.randn_like(module.weight) * (module.weight != 0)
                    assert loss_of(changed, z, before(x), before.weight) > best - 1e-6 * abs(best)
            z, x = module(z), before(x)
    assert checked == 4


@pytest.mark.parametrize("form", ["uneven batches", "pairs", "iterator", "masks"])
def test_the_same_from_data_of_any_form(form: str) -> None:
    dense, data = net(), images()
    expected = copy.deepcopy(dense)
    prune(expected, 0.6).finalize()
    refit(expected, [torch.cat(data)], dense=dense)
    pruned = copy.deepcopy(dense)
    pruning = prune(pruned, 0.6)
    before = {name: tensor.clone() for name, tensor in pruned.state_dict().items() if "mask" in name}
    given: Any = {
        "uneven batches": [data[0][:5], data[0][5:], torch.cat(data[1:])],
        "pairs": [(x, torch.zeros(len(x))) for x in data],
        "iterator": iter(data),
        "masks": data,
    }[form]
    refit(pruned, given, dense=None if form == "masks" else dense)
    assert all(torch.equal(pruned.state_dict()[name], mask) for name, mask in before.items())
    pruning.finalize()
    for one, other in zip(pruned.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
        assert torch.equal(one == 0, other == 0)


def test_sequences_of_any_length_and_inputs_by_name() -> None:
    """Batches of unlike shapes go through the net in step; tokens are rows."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.a, self.b = nn.Embedding(20, 16), nn.Linear(16, 32), nn.Linear(32, 16)

        def forward(self, ids: torch.Tensor, scale: float = 1.0) -> dict[str, torch.Tensor]:
            x = self.table(ids) * scale
            return {"states": x + self.b(input=torch.relu(self.a(x)))}

    torch.manual_seed(0)
    pruned = Encoder().train()
    dense = copy.deepcopy(pruned)
    batches = [{"ids": torch.randint(20, (4, length)), "other": 1} for length in (3, 9, 5, 17)]
    prune(pruned, 0.5)
    x = batches[-1]["ids"]
    lost = (pruned(x)["states"] - dense(x)["states"]).square().mean()
    refit(pruned, batches)
    assert (pruned(x)["states"] - dense(x)["states"]).square().mean() < 0.6 * lost
    assert pruned.training


def test_a_layer_that_is_called_twice_serves_both_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(torch.relu(self.layer(x)))

    torch.manual_seed(0)
    pruned, x = Twice(), torch.randn(200, 8) @ torch.randn(8, 16)
    dense = copy.deepcopy(pruned)
    prune(pruned, 0.25)
    lost = (pruned(x) - dense(x)).square().mean()
    refit(pruned, [x[:100], x[100:]])
    assert (pruned(x) - dense(x)).square().mean() < 0.75 * lost


def test_refit_is_rounded_with_the_same_data(tmp_path: Path) -> None:
    """Converted to int8 and int4 the refit net is nearer to the dense one than the pruned one, and zeros stay."""
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64)).eval()
    x = torch.randn(512, 24) @ torch.randn(24, 64)
    plain, pruned = copy.deepcopy(dense), copy.deepcopy(dense)
    prune(plain, 0.5).finalize()
    prune(pruned, 0.5).finalize()
    refit(pruned, [x[:256], x[256:]], dense=dense)
    assert torch.equal(plain[0].weight == 0, pruned[0].weight == 0)
    for scheme in ("int8", "int4-g32"):
        errors = []
        for each in (plain, pruned):
            model = lowbit.convert(each, x[:2], calibration=x.split(64), scheme=scheme, progress=False)
            errors.append((model(x) - dense(x)).square().mean())
            model.save(tmp_path / "net.lowbit")
            graph = format.load(tmp_path / "net.lowbit")[0]
            for node in (node for node in graph if node.op.startswith("quantized_")):
                weight = graph.constants[node.inputs[1]]
                assert isinstance(weight, Weight)
                assert not weight.codes[each.get_submodule(node.name).weight.detach().numpy() == 0].any()
        assert errors[1] < 0.5 * errors[0]


def test_the_float_weight_is_refit_where_training_rounds_it() -> None:
    class Rounded(Link):
        place = 1

        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return (weight * 64).round() / 64

    torch.manual_seed(0)
    layer, x = nn.Linear(16, 16), torch.randn(100, 16)
    plain = copy.deepcopy(layer)
    prune(plain, 0.5)
    prune(layer, 0.5)
    refit(plain, [x], damping=1e-6)
    attach(layer, Rounded())
    refit(layer, [x], damping=1e-6)
    found = layer.parametrizations.weight.original.detach()
    assert (found * 64 != (found * 64).round()).any()
    torch.testing.assert_close(layer.weight, plain.weight, atol=0.05, rtol=0)


def test_pruning_goes_on_after_it() -> None:
    """In rounds, each refit against the dense net: nearer than by masks alone."""
    pruned, data = net(), images()
    dense, once = copy.deepcopy(pruned), copy.deepcopy(pruned)
    prune(once, 0.75, criterion="wanda", calibration=data)
    pruning = prune(pruned, 0.75, criterion="wanda", schedule=Iterative(rounds=3), calibration=data)
    while not pruning.done:
        pruning.step()
        refit(pruned, data, dense=dense)
    target = dense(data[0])
    assert (pruned(data[0]) - target).square().mean() < 0.5 * (once(data[0]) - target).square().mean()


def test_what_does_not_fit_is_told_and_leaves_nothing_behind() -> None:
    threads, x = threading.active_count(), torch.randn(4, 16)
    layer = nn.Linear(16, 16)
    with pytest.raises(InputError, match="no weight of the net is zero"):
        refit(layer, [x])
    rounded = copy.deepcopy(layer)
    qat(rounded, x[:1], calibration=[x])
    with pytest.raises(InputError, match="rounded in training: pass dense="):
        refit(rounded, [x])
    dense = copy.deepcopy(layer)
    pruning = prune(layer, 0.5)
    with pytest.raises(CalibrationError, match="batch 1: "):
        refit(layer, [x, torch.randn(4, 15)])
    with pytest.raises(CalibrationError, match="holds no batch"):
        refit(layer, [])
    with pytest.raises(CalibrationError, match="not finite"):
        refit(layer, [x * torch.inf])
    with pytest.raises(InputError, match="damping must be a positive number"):
        refit(layer, [x], damping=0)
    for other in (nn.Linear(16, 8), nn.Linear(16, 16, bias=False), nn.ReLU(), layer, 3):
        with pytest.raises(InputError, match="dense"):
            refit(layer, [x], dense=other)
    pruning.finalize()
    with pytest.raises(InputError, match="pass dense="):
        refit(layer, [x])
    with pytest.raises(InputError, match="not a int"):
        refit(3, [x])
    assert torch.equal(layer.weight[layer.weight != 0], dense.weight[layer.weight != 0])
    assert not layer._forward_pre_hooks
    assert threading.active_count() == threads


def test_layers_that_torch_does_not_call_are_told() -> None:
    attention, x = nn.MultiheadAttention(16, 2), torch.randn(3, 16)

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.layer = attention, nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(self.attention(x, x, x)[0])

    net = Own()
    prune(net, 0.5)
    with pytest.warns(UserWarning, match=r"not refit: attention\.out_proj"):
        refit(net, [x])


WIDTHS = {
    "int8": EIGHT,
    "int4-g32": Width(group_size=32, note="", bits=4),
    "int3-g32": Width(group_size=32, note="", bits=3),
    "ternary": Width(group_size=96, note="", bits=2),
    "binary": Width(group_size=96, note="", bits=1),
    "pow2": Width(group_size=0, note="", bits=4, values="pow2"),
}


def rounded_by(layer: nn.Module, scheme: str) -> RoundedWeight:
    """As `qat` rounds its weight."""
    link = RoundedWeight(*start(layer.weight, WIDTHS[scheme], SCHEMES[scheme]))
    attach(layer, link)
    return link


@settings(max_examples=25, deadline=None)
@given(
    scheme=st.sampled_from([*WIDTHS]),
    is_conv=st.booleans(),
    has_bias=st.booleans(),
    share=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 99),
)
def test_codes_make_up_for_each_other(scheme: str, is_conv: bool, has_bias: bool, share: float, seed: int) -> None:
    """Of correlated inputs, outputs are nearer than those of nearest codes, and zeros stay."""
    torch.manual_seed(seed)
    share = 0.0 if scheme in ("binary", "int3-g32") else share  # which have no code for zero
    layer: nn.Module = nn.Conv2d(32, 16, 3, bias=has_bias) if is_conv else nn.Linear(96, 16, bias=has_bias)
    shape = (32, 5, 4) if is_conv else (96,)
    x = (torch.randn(160, 24) @ torch.randn(24, int(np.prod(shape))) + 0.2).reshape(160, *shape)
    dense = copy.deepcopy(layer)
    if share:
        prune(layer, share, pattern="1x4")
    rounded_by(layer, scheme)
    target = dense(x).detach()
    masked = links(layer)[0].mask.logical_not() if share else torch.zeros_like(dense.weight, dtype=torch.bool)
    before = (layer(x) - target).square().mean().detach()
    refit(layer, [x], dense=dense)
    assert (layer(x) - target).square().mean() < 0.7 * before
    assert (layer.weight[masked] == 0).all()


def test_a_row_is_rounded_as_the_paper_does() -> None:
    """One weight after the other, each error to those behind it by the inverse of what is left."""
    torch.manual_seed(0)
    x = torch.randn(50, 12) @ torch.randn(12, 12)
    link = rounded_by(nn.Linear(12, 4, bias=False), "int8")
    weight, h = torch.randn(4, 12).double() * 0.3, (x.T @ x).double() / 50 + 0.1 * torch.eye(12)
    found, codes = with_feedback(weight, h, link=link, shape=torch.Size([4, 12]), kept=torch.ones(4, 12).bool())
    step, offset = link.lattice(torch.Size([4, 12]))
    rest, left = weight.clone(), h.diagonal().argsort(descending=True).tolist()
    while left:
        at, inverse = left[0], torch.linalg.inv(h[left][:, left])
        rounded = link.nearest(rest[:, at].float(), step[:, at], offset[:, at])
        torch.testing.assert_close(found[:, at], rest[:, at], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(codes[:, at], rounded.double(), rtol=0, atol=1e-6)
        rest[:, left] -= ((rest[:, at] - rounded) / inverse[0, 0])[:, None] * inverse[0]
        left = left[1:]
    assert torch.equal(link(found.float()), codes.float())
