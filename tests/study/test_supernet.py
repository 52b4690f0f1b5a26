"""The supernet: what its gates learn, within which times, and which choices it takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lowbit.compress import Latency, MixedLayer, between, choice, mixed, search
from lowbit.errors import InputError
from lowbit.study.supernet import TARGETS, Gates, table_of

X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


class Nothing(nn.Module):
    """Forgets its input, and is the fastest."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 0.0


def build(config: Any) -> nn.Module:
    """Two places; only what remembers can learn, and wide layers are slow."""

    def layer(wide: int) -> nn.Module:
        return nn.Sequential(nn.Linear(8, wide), nn.ReLU(), nn.Linear(wide, 8)) if wide else Nothing()

    return nn.Sequential(*(mixed(wide, layer) for wide in config["wide"]), nn.Linear(8, 2))


def train(net: nn.Module, config: Any) -> None:
    """Plain, as a person writes it."""
    optimizer = torch.optim.Adam(net.parameters(), config.get("lr", 0.01))
    net.train()
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(X), Y).backward()
        optimizer.step()
    net.eval()


def accuracy(model: Any) -> float:
    """Of what was trained on."""
    return float((model(X).argmax(1) == Y).double().mean())


def by_weights(model: Any) -> float:
    """Milliseconds that are known: of a layer's weights."""
    sizes = [
        each.size
        for each in model.graph.constants.values()
        if getattr(each, "ndim", len(each.shape)) == 2 and hasattr(each, "size")
    ]
    return 0.1 + sum(sizes) / 1000


KNOWN = Latency(X[:1], scheme="float32", measure=by_weights)


def test_gates_learn_within_a_time(tmp_path: Path) -> None:
    """The fastest target closes what is slow, the slowest one opens what learns; trials are trained as any."""
    space = {"wide": [choice(0, 32), choice(32, 0)], "lr": between(0.005, 0.02)}
    found = search(
        build, space, train=train, evaluate=accuracy, latency=KNOWN, method="gradient", trials=TARGETS + 2,
        storage=tmp_path, progress=False,
    )  # fmt: skip
    learned = json.loads((tmp_path / "supernet.json").read_text())
    assert learned["base_ms"] == pytest.approx(by_weights_of(32))
    assert learned["table_ms"]["wide.0"] == pytest.approx([0.0, by_weights_of(32) - by_weights_of(0)])
    assert learned["table_ms"]["wide.1"] == pytest.approx([0.0, by_weights_of(0) - by_weights_of(32)])
    assert learned["targets_ms"] == sorted(learned["targets_ms"])
    table = table_of(tmp_path / "supernet.json")
    assert table(0)["wide.0"].tolist() == [1.0, 0.0]
    assert table(0)["wide.1"].tolist() == [0.0, 1.0]
    assert table(TARGETS - 1)["wide.0"].tolist() == [0.0, 1.0]
    assert table(TARGETS - 1)["wide.1"].tolist() == [1.0, 0.0]
    drawn = table(TARGETS)["wide.0"]
    assert drawn.sum() == pytest.approx(1.0)
    assert drawn.min() > 0
    assert found.trials[0].config["wide"] == [0, 0]
    assert found.trials[TARGETS - 1].config["wide"] == [32, 32]
    assert found.best().score > 0.9
    assert len({each.config["lr"] for each in found.trials}) == len(found.trials)
    again = search(
        build, space, train=train, evaluate=accuracy, latency=KNOWN, method="gradient", trials=TARGETS + 2,
        storage=tmp_path, progress=False,
    )  # fmt: skip
    assert [each.config for each in again.trials] == [each.config for each in found.trials]


def by_weights_of(wide: int) -> float:
    """Of the net with one wide place."""
    return 0.1 + (16 + 16 * wide) / 1000


def test_mixed_layer() -> None:
    """The open option's output; gradients reach all gates, and the weights of the open option alone."""
    gates = Gates(3)
    layer = MixedLayer([nn.Linear(4, 4), nn.Identity(), Nothing()], gates)
    gates.draw(0, None)
    assert torch.equal(layer(X[:, :4]), layer.options[int(gates.now.argmax())](X[:, :4]))
    gates.draw(1, 1.0)
    opened = int(gates.now.argmax())
    layer(X[:, :4]).sum().backward()
    assert gates.logits.grad is not None
    assert bool((gates.logits.grad[1] != 0).any())
    assert bool((gates.logits.grad[0] == 0).all())
    weight = layer.options[0].weight.grad
    assert weight is not None
    assert bool((weight != 0).any()) == (opened == 0)
    assert [name for name, _ in layer.named_parameters()] == ["options.0.weight", "options.0.bias"]
    assert mixed(3, lambda kernel: nn.Conv2d(1, 1, kernel)).kernel_size == (3, 3)


@pytest.mark.parametrize(
    ("make", "space", "message"),
    [
        (lambda c: nn.Linear(8, c["wide"]), {"wide": choice(8, 16)}, "choices all go through compress.mixed, failed"),
        (lambda c: nn.Linear(8, 8 if c["wide"] == 8 else 9), {"wide": choice(8, 16)}, "pass it through compress.mixed"),
        (lambda c: nn.Linear(8, 2), {"wide": choice(8, 16)}, "needs choices that build passes through"),
    ],
)
def test_what_it_does_not_take(make: Any, space: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        search(
            make, space, train=train, evaluate=accuracy, latency=KNOWN, method="gradient", trials=2, progress=False
        )  # fmt: skip
