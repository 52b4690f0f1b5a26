"""The accuracy budget: what is evaluated, which layers pay, and when it is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lowbit
from lowbit.converted_model import ConvertedModel
from lowbit.data import load_digits
from lowbit.errors import AccuracyError, InputError

Score = Callable[[Any], float]


class Fragile(nn.Module):
    """A digit classifier with a layer that int8 hurts: the sizes of its input's channels differ by up to 100 times."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1, stride=2)
        self.second = nn.Conv2d(16, 32, 3, padding=1)
        self.fragile = nn.Conv2d(32, 32, 3, padding=1)
        self.third = nn.Conv2d(32, 32, 3, padding=1)
        self.head = nn.Linear(32, 10)
        spread = torch.logspace(0, 2, 32).reshape(1, -1, 1, 1)
        self.register_buffer("spread", spread)
        with torch.no_grad():
            self.fragile.weight /= spread

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(image))
        x = torch.tanh(self.second(x)) * self.spread
        x = torch.relu(self.fragile(x))
        x = torch.relu(self.third(x))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def net() -> Fragile:
    torch.manual_seed(0)
    return Fragile().eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.from_numpy(load_digits()[0].images[:256])


@pytest.fixture(scope="module")
def closeness(net: Fragile, images: torch.Tensor) -> Score:
    """1 for torch's own answers, less by the share of noise in the answers."""
    with torch.no_grad():
        expected = net(images[128:])

    def score(model: Any) -> float:
        error = model(images[128:]).detach() - expected
        return 1 - float(error.square().sum().sqrt() / expected.square().sum().sqrt())

    return score


def scheme_of(model: ConvertedModel) -> dict[str, str]:
    return {row["node"]: row["scheme"] for row in model.decisions if row["op"] in ("conv2d", "linear")}


@pytest.mark.parametrize("calibrated", [True, False])
def test_the_layers_that_cost_accuracy_pay(
    net: Fragile, images: torch.Tensor, closeness: Score, calibrated: bool, tmp_path: Path
) -> None:
    calibration = list(images[:128].split(32)) if calibrated else None
    plain = lowbit.convert(net, images[:2], calibration=calibration, progress=False)
    drop = closeness(net) - closeness(plain)
    model = lowbit.convert(
        net, images[:2], calibration=calibration, evaluate=closeness, max_drop=drop / 2, progress=False
    )
    assert scheme_of(plain)["fragile"] == "int8"
    assert scheme_of(model)["fragile"] == "float32"
    assert "int8" in scheme_of(model).values()
    reason = {row["node"]: row["reason"] for row in model.decisions}["fragile"]
    assert reason.startswith("paid for the accuracy budget")
    first, second, *others = model.meta.evaluations
    assert (first.model, first.drop, second.model) == ("float32", 0.0, "int8")
    assert second.drop == pytest.approx(drop, abs=1e-4)
    assert 1 <= len(others) <= 8
    assert any("fragile" in entry.float_layers and entry.drop <= drop / 2 for entry in others)
    assert closeness(model) >= first.score - drop / 2
    model.save(tmp_path / "net.lowbit")
    assert lowbit.load(tmp_path / "net.lowbit").meta.evaluations == model.meta.evaluations


def test_a_budget_that_int8_holds_takes_two_evaluations(net: Fragile, images: torch.Tensor, closeness: Score) -> None:
    seen: list[Any] = []

    def score(model: Any) -> float:
        seen.append(model)
        return closeness(model)

    model = lowbit.convert(net, images[:2], calibration=[images[:64]], evaluate=score, max_drop=0.9, progress=False)
    assert len(seen) == len(model.meta.evaluations) == 2
    assert all(isinstance(item, ConvertedModel) for item in seen)
    assert scheme_of(model)["fragile"] == "int8"


def test_a_budget_forgives_the_rounding_of_its_scores(net: Fragile, images: torch.Tensor) -> None:
    scores = iter([1.0, 0.98])
    model = lowbit.convert(
        net, images[:2], calibration=[images[:64]], evaluate=lambda model: next(scores), max_drop=0.02, progress=False
    )
    assert len(model.meta.evaluations) == 2


def test_without_max_drop_scores_are_recorded(net: Fragile, images: torch.Tensor, closeness: Score) -> None:
    model = lowbit.convert(net, images[:2], calibration=[images[:64]], evaluate=closeness, progress=False)
    assert [entry.model for entry in model.meta.evaluations] == ["float32", "int8"]
    floats = lowbit.convert(net, images[:2], evaluate=closeness, max_drop=0, scheme="float32", progress=False)
    assert [entry.model for entry in floats.meta.evaluations] == ["float32"]


def test_a_budget_that_cannot_be_held_comes_with_the_best_model(
    net: Fragile, images: torch.Tensor, closeness: Score
) -> None:
    with pytest.raises(AccuracyError, match="no model with low-bit layers holds max_drop=0") as caught:
        lowbit.convert(net, images[:2], calibration=[images[:64]], evaluate=closeness, max_drop=0, progress=False)
    error = caught.value
    assert isinstance(error.model, ConvertedModel)
    assert error.score == pytest.approx(closeness(error.model))
    assert error.drop > 0
    assert "int8" in scheme_of(error.model).values()
    assert scheme_of(error.model)["fragile"] == "float32"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_drop": 0.1}, "max_drop needs evaluate"),
        ({"evaluate": 3}, "evaluate must be a function"),
        ({"evaluate": lambda model: 1.0, "max_drop": -0.1}, "max_drop must be"),
        ({"evaluate": lambda model: 1.0, "max_drop": math.nan}, "max_drop must be"),
        ({"evaluate": lambda model: 1.0, "max_drop": True}, "max_drop must be"),
        ({"evaluate": lambda model: math.nan}, "finite"),
        ({"evaluate": lambda model: np.float32(np.inf)}, "finite"),
        ({"evaluate": lambda model: None}, "must return a number"),
    ],
)
def test_what_cannot_be_a_budget(net: Fragile, images: torch.Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        lowbit.convert(net, images[:2], progress=False, **options)


def test_an_error_in_evaluate_is_the_callers(net: Fragile, images: torch.Tensor) -> None:
    def score(model: Any) -> float:
        raise KeyError("validation set")

    with pytest.raises(KeyError, match="validation set"):
        lowbit.convert(net, images[:2], evaluate=score, progress=False)


class Wide(nn.Module):
    """Linear layers, in one of which few weights far from the rest leave the others of their groups without codes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(128, 128) for _ in range(6))
        with torch.no_grad():
            self.layers[2].weight[:, ::32] *= 30

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


def test_four_bit_layers_return_to_eight_first() -> None:
    torch.manual_seed(0)
    net, x = Wide().eval(), torch.randn(64, 128)
    with torch.no_grad():
        expected = net(x)

    def score(model: Any) -> float:
        return 1 - float((model(x).detach() - expected).norm() / expected.norm())

    def made(max_drop: float) -> ConvertedModel:
        return lowbit.convert(net, x[:2], scheme="int4-g32", evaluate=score, max_drop=max_drop, progress=False)

    plain = made(1.0)
    whole = plain.meta.evaluations[-1]
    assert (whole.model, whole.int4_layers, whole.int8_layers) == ("int4", 4, 2)
    model = made(whole.drop / 2)
    schemes = {row["node"]: (row["scheme"], row["reason"]) for row in model.decisions if row["op"] == "linear"}
    assert schemes["layers.2"][0] == "int8"
    assert schemes["layers.2"][1].startswith("paid for the accuracy budget: alone in int4 it makes")
    assert [scheme for scheme, _ in schemes.values()].count("int4") >= 2
    assert {entry.model for entry in model.meta.evaluations[2:]} == {"int4, some layers back in int8"}
    assert all(entry.float_layers == () for entry in model.meta.evaluations)
    eight = lowbit.convert(net, x[:2], evaluate=score, progress=False).meta.evaluations[-1]
    best = made(eight.drop * 0.9)
    assert {row["scheme"] for row in best.decisions if row["op"] == "linear"} == {"int8", "float32"}
    assert best.meta.evaluations[-1].model in ("int8", "int8, some layers float32")
