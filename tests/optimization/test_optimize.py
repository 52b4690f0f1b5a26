"""`lowbit.optimize` end to end on small nets: targets are met as measured, the file holds what the plan says."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lowbit
from lowbit.errors import AccuracyError, InputError
from lowbit.graph.ir import Weight
from lowbit.optimization.candidates import Candidate
from lowbit.optimization.loop import Optimization, asked
from lowbit.optimization.noises import left_out, noises
from lowbit.progress import reporter

Score = Callable[[Any], float]


def net_of(seed: int = 0) -> nn.Module:
    """Convolutions, one of them a filter a channel, and linear layers."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, groups=32, padding=1), nn.ReLU(),
        nn.Conv2d(32, 64, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 128), nn.ReLU(),
        nn.Linear(128, 10),
    ).eval()  # fmt: skip


def images(count: int = 64) -> torch.Tensor:
    """Smooth ones."""
    torch.manual_seed(1)
    return nn.functional.avg_pool2d(torch.randn(count, 3, 20, 20), 5, 1)


def likeness(net: nn.Module, data: torch.Tensor) -> Score:
    """How near outputs are to the float net's: less the noise, a share of the signal."""
    with torch.no_grad():
        expected = net(data)

    def score(model: Any) -> float:
        return -float((model(data) - expected).square().sum() / expected.square().sum())

    return score


def held(model: Any, name: str) -> Any:
    """The weight of a layer in a model's graph."""
    node = next(node for node in model.graph if node.name == name)
    return model.graph.constants[node.inputs[1]]


def test_bytes(tmp_path: Path) -> None:
    """The file is as small as asked, each layer's weight is in the form that the plan says, and float32 comes first."""
    net, data = net_of(), images()
    result = lowbit.optimize(
        net, data[:1], data=data.split(16), evaluate=likeness(net, data), bytes=32_000, max_drop=0.1, target="avx2",
        threads=1,
    )  # fmt: skip
    result.model.save(tmp_path / "small.lowbit")
    assert (tmp_path / "small.lowbit").stat().st_size <= 32_000
    assert [each.name for each in result.evaluations[:2]] == ["float32", "int8"]
    assert result.evaluations[0].drop == 0
    assert min(each.bytes for each in result.evaluations[2:]) <= 32_000
    assert set(result.plan) == {"0", "2", "4", "8", "10"}
    for name, candidate in result.plan.items():
        weight = held(result.model, name)
        assert isinstance(weight, Weight) == (candidate.scheme != "float32")
        if candidate.pattern:
            assert np.mean(weight.codes == 0) >= candidate.sparsity - 0.05
        if candidate.scheme.startswith("int4"):
            assert weight.bits == 4
    assert result.model.meta.max_drop == 0.1
    assert len(result.facts["evaluations"]) == len(result.evaluations)


def test_drop_alone() -> None:
    """Under a drop alone the model holds it and is no slower than plain int8, where that holds it."""
    net, data = net_of(), images()
    result = lowbit.optimize(
        net, data[:1], data=data.split(16), evaluate=likeness(net, data), max_drop=0.5, target="avx2", threads=1
    )
    chosen = next(each for each in result.evaluations if each.plan == result.plan)
    plain = result.evaluations[1]
    assert chosen.drop <= 0.5
    assert chosen.microseconds + chosen.bytes / plain.bytes <= plain.microseconds + 1


def test_a_strict_drop_returns_layers_to_floats() -> None:
    """Where plain int8 loses too much, layers compute in float32, and their weights may still be codes."""
    net, data = net_of(), images()
    score = likeness(net, data)
    plain = lowbit.convert(net, data[:1], calibration=data.split(16))
    limit = -score(plain) / 8
    result = lowbit.optimize(
        net, data[:1], data=data.split(16), evaluate=score, max_drop=limit, target="avx2", threads=1
    )
    assert -score(result.model) <= limit
    assert {"float32", "int8-weights"} & {candidate.scheme for candidate in result.plan.values()}


def test_what_cannot_be() -> None:
    """The best model is with the error, which says what it misses."""
    net, data = net_of(), images()
    with pytest.raises(AccuracyError, match="no model meets all targets") as caught:
        lowbit.optimize(
            net, data[:1], data=data.split(16), evaluate=likeness(net, data), bytes=4_000, target="avx2", threads=1
        )
    assert caught.value.model is not None
    assert "bytes of 4,000" in str(caught.value)


def test_latency_is_measured() -> None:
    """Times of plain int8 and of plans are of this machine, and of the same order."""
    net, data = net_of(), images()
    result = lowbit.optimize(
        net, data[:1], data=data.split(16), evaluate=likeness(net, data), latency_ms=1000.0, threads=1
    )
    assert all(0 < each.microseconds < 1e6 for each in result.evaluations)
    assert result.plan.noise <= min(each.plan.noise for each in result.evaluations[1:] if each.plan is not None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs a target"),
        ({"bytes": 0}, "bytes must be a positive number"),
        ({"latency_ms": "2"}, "latency_ms must be a positive number"),
        ({"speedup": float("nan")}, "speedup must be a positive number"),
        ({"latency_ms": 2, "speedup": 2}, "give one of them"),
        ({"max_drop": -1}, "max_drop must be a number from 0 on"),
        ({"max_drop": 0.1, "evaluate": 3}, "evaluate must be a function"),
        ({"max_drop": 0.1, "target": "sse"}, "target must be one of"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    """Arguments that do not fit are named."""
    with pytest.raises(InputError, match=message):
        lowbit.optimize(nn.Linear(8, 8), torch.zeros(1, 8), **{"evaluate": float, **options})


def test_every_candidate_can_be_built() -> None:
    """Each candidate that is offered of each layer is what the file then holds, and outputs stay near."""
    net, data = net_of(), images()
    with reporter(False) as report:
        request = asked(net, data=data.split(16), evaluate=float, max_drop=None, target="avx2", threads=1)
        made = Optimization(request, data[:1], report, is_estimated=True)
    every = {candidate for offers in made.workshop.offers.values() for candidate in offers if candidate.sparsity <= 0.5}
    assert {"float32", "int8-weights", "int8", "int4", "ternary", "kmeans"} <= {each.scheme for each in every}
    assert Candidate(scheme="int8", pattern="4x4", sparsity=0.5) in every
    for candidate in every:
        model = lowbit.converted_model.ConvertedModel(made.workshop.build(made.workshop.whole(candidate)))
        for name, offers in made.workshop.offers.items():
            weight = held(model, name)
            chosen = candidate if candidate in offers else Candidate(scheme="int8")
            assert isinstance(weight, Weight) == (chosen.scheme != "float32")
            if chosen.scheme.startswith("int8"):
                assert weight.bits == 8
            elif chosen.scheme != "float32":
                assert weight.bits == (2 if chosen.scheme == "ternary" else 4)
        assert torch.isfinite(model(data)).all()


def test_what_is_left_out() -> None:
    """The error of zeros is that of the best other weights: least squares over the rows that were met say the same."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((200, 16)) @ rng.standard_normal((16, 16)), rng.standard_normal((8, 16))
    candidate = Candidate(scheme="int8", pattern="4x4", sparsity=0.5)
    found = left_out(w, x.T @ x / len(x), [candidate])[candidate]
    best = []
    for kept in itertools.combinations(range(4), 2):
        columns = [4 * block + each for block in kept for each in range(4)]
        fit = np.linalg.lstsq(x[:, columns], x @ w.T, rcond=None)[0]
        best.append(float(np.square(x @ w.T - x[:, columns] @ fit).sum() / np.square(x @ w.T).sum()))
    assert min(best) * 0.5 <= found <= max(best) * 1.5


def test_no_worse_than_convert() -> None:
    """With the same drop it is as fast and small as what `convert` makes, which is among what was scored."""
    net, data = net_of(), images()
    score = likeness(net, data)
    plain = lowbit.convert(net, data[:1], calibration=data.split(16))
    options: dict[str, Any] = {"evaluate": score, "max_drop": -score(plain) / 4, "target": "avx2", "threads": 1}
    converted = lowbit.convert(net, data[:1], calibration=data.split(16), **options)
    result = lowbit.optimize(net, data[:1], data=data.split(16), **options)
    chosen = next(each for each in result.evaluations if each.plan == result.plan)
    other = next(each for each in result.evaluations if each.name == "plan 1")
    assert other.score == pytest.approx(score(converted), rel=1e-6)
    assert chosen.microseconds <= 1.011 * other.microseconds
    assert chosen.bytes <= other.bytes
    assert chosen.drop <= options["max_drop"] * (1 + 1e-6)


def test_weights_alone_as_codes() -> None:
    """A file holds codes, and layers compute in float32 with the numbers that these stand for."""
    net, data = net_of(), images()
    model = lowbit.convert(net, data[:1], calibration=data.split(16), scheme="int8-weights")
    floats = lowbit.convert(net, data[:1], scheme="float32")
    assert {row["scheme"] for row in model.decisions} == {"float32"}
    assert all(held(model, name).bits == 8 for name in ("0", "2", "4", "8", "10"))
    error = float((model(data) - floats(data)).square().sum() / floats(data).square().sum())
    assert 0 < error < 1e-3
    without = lowbit.convert(net, data[:1], scheme={"0": "float32", "*": "int8-weights"})
    assert not isinstance(held(without, "0"), Weight)
    assert held(without, "10").bits == 8


@pytest.mark.parametrize("calibrated", [True, False])
def test_codes_of_little_information(calibrated: bool, tmp_path: Path) -> None:
    """Layers run on codes of eight bits, and the file has them by their frequencies, unless told otherwise."""
    net, data = net_of(), images()
    batches = data.split(16) if calibrated else None
    errors, sizes = [], []
    for scheme in ("int8", "int8-e6", "int8-e4"):
        model = lowbit.convert(net, data[:1], calibration=batches, scheme=scheme)
        errors.append(-likeness(net, data)(model))
        model.save(tmp_path / "model.lowbit")
        sizes.append((tmp_path / "model.lowbit").stat().st_size)
        assert torch.equal(torch.as_tensor(lowbit.load(tmp_path / "model.lowbit")(data.numpy())), model(data))
        if scheme != "int8":
            assert {row.scheme for row in model.meta.decisions if row.entropy == float(scheme[6:])} == {"int8"}
            model.save(tmp_path / "plain.lowbit", compress=False)
            assert (tmp_path / "plain.lowbit").stat().st_size > 1.2 * sizes[-1]
    assert errors == sorted(errors)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[2] < 0.75 * sizes[0]


def test_budgets_of_bytes_are_used() -> None:
    """Steps are as wide as files ask for, and what is left of the budget is little."""
    net, data = net_of(), images()
    options: dict[str, Any] = {"data": data.split(16), "evaluate": likeness(net, data), "target": "avx2", "threads": 1}
    plain = lowbit.optimize(net, data[:1], bytes=70_000, **options).evaluations[1]
    result = lowbit.optimize(net, data[:1], bytes=0.7 * plain.bytes, **options)
    taken = next(each for each in result.evaluations if each.plan == result.plan)
    assert any(candidate.scheme.startswith("int8-e") for candidate in result.plan.values())
    assert 0.9 * 0.7 * plain.bytes <= taken.bytes <= 0.7 * plain.bytes


def test_tables_are_weighed() -> None:
    """Each form of an embedding is measured: three values are worse than sixteen, and these than eight bits."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(4096, 64), nn.Linear(64, 64)).eval()
    data = torch.randint(0, 4096, (64, 8))
    with reporter(False) as report:
        request = asked(net, data=data.split(16), evaluate=float, max_drop=None, target="avx2", threads=1)
        made = Optimization(request, data[:1], report, is_estimated=True)
        found = noises(made.workshop, report)["0"]
    eight, table, four, three = (found[Candidate(scheme=name)] for name in ("int8", "kmeans", "int4", "ternary"))
    assert 0 < eight < min(table, four) / 5
    assert max(table, four) < three / 5
