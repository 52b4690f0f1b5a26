"""Calibration data do not lower accuracy: deep nets of all kinds, with outlier channels, with much data and little."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace as change

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lowbit
from lowbit.quantization import quantize, quantizer
from lowbit.quantization import settle as settling
from lowbit.quantization.rehearse import EXTRA, UNHEARD, bearable
from lowbit.quantization.settle import FASTER, GAINS, LEAST, SPARED, WORSE, WORTH, Forms, settle

MARGIN = 0.5
"""Decibels by which a net with calibration data may be worse than without."""


class Mixer(nn.Module):
    """Products over tokens and over channels in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(64) for _ in range(6))
        self.tokens = nn.ModuleList(nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16)) for _ in range(3))
        self.channels = nn.ModuleList(
            nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64)) for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        for index, (tokens, channels) in enumerate(zip(self.tokens, self.channels, strict=True)):
            x = x + tokens(self.norms[2 * index](x).transpose(1, 2)).transpose(1, 2)
            x = x + channels(self.norms[2 * index + 1](x))
        return x.mean(1)


class Residual(nn.Module):
    """An MLP whose layers add to what they read."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(128, 128) for _ in range(10))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + F.gelu(layer(x))
        return x


def encoder(layers: int, gain: float = 1.0, **options: object) -> nn.Module:
    """torch's encoder; three channels of each norm are wide."""
    layer = nn.TransformerEncoderLayer(64, 4, 256, batch_first=True, **options)  # type: ignore[arg-type]
    net = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight[:3] *= gain
            elif isinstance(module, nn.Linear):
                module.weight += 0.02 * torch.randn_like(module.weight)  # layers are not copies of each other
    return net


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "encoder": (lambda: encoder(4, activation="gelu", norm_first=True), (4, 16, 64)),
    "wide channels": (lambda: encoder(4, 40.0), (4, 16, 64)),
    "wide channels, pre-norm": (lambda: encoder(4, 30.0, norm_first=True), (4, 16, 64)),
    "mixer": (Mixer, (4, 16, 64)),
    "residual": (Residual, (32, 128)),
}


def sqnr(net: nn.Module, model: lowbit.Model, shape: Sequence[int]) -> float:
    """dB, on inputs that no conversion has seen."""
    torch.manual_seed(900)
    x = torch.randn(64, *shape[1:])
    with torch.no_grad():
        y = net(x).double()
    return 10 * float(np.log10(float((y**2).sum() / ((model(x).double() - y) ** 2).sum())))


@pytest.mark.parametrize("name", list(NETS))
def test_calibration_data_do_not_lower_accuracy(name: str) -> None:
    build, shape = NETS[name]
    torch.manual_seed(0)
    net = build().eval()
    data = [torch.randn(shape) for _ in range(4)]
    plain = sqnr(net, lowbit.convert(net, data[0], progress=False), shape)
    for part in (data, [data[0][:1]]):
        model = lowbit.convert(net, data[0], calibration=part, progress=False)
        chosen = any("times faster so than" in row["reason"] for row in model.decisions)
        assert chosen or sqnr(net, model, shape) > plain - MARGIN, f"with {len(part)} batches"


def test_all_are_static_where_the_outputs_bear_it() -> None:
    """The limit is a share of the noise that is there anyway; the reason says so."""
    asked: list[Sequence[str]] = []

    def noise(static: Sequence[str]) -> np.ndarray:
        asked.append(static)
        return np.array([1e-3, 1e-5]) * (1 + 0.9 * EXTRA * len(static) / 3)

    chosen, reason = bearable(["a", "b", "c"], noise, lambda static: 1.0)
    assert chosen == ["a", "b", "c"]
    assert "0.3 dB" in reason
    assert len(asked) == 2


def test_none_is_static_where_nothing_can_be_measured() -> None:
    """An output that is mostly noise hardly changes, whatever is added; nor is one of NaN within any limit."""
    for level in (0.1, float("nan")):
        assert bearable(["a"], lambda static, level=level: np.array([level]), lambda static: 1.0)[0] == []


@pytest.mark.parametrize("bad", ["abcdefgh"[i] for i in range(8)])
def test_what_the_outputs_do_not_bear_is_left_out(bad: str) -> None:
    """Each output counts by itself: a loud one does not hide a quiet one."""

    def noise(static: Sequence[str]) -> np.ndarray:
        return np.array([1e-3, 1e-7 * (10 if bad in static else 1)])

    chosen, _ = bearable(list("abcdefgh"), noise, lambda static: 1.0)
    assert bad not in chosen
    assert len(chosen) >= 4, "most of the others are found"


@pytest.mark.parametrize(("gain", "level"), [(1.5, 0.5), (1.5, 2.0), (1.1, 0.5)])
def test_speed_decides_where_noise_is_not_heard(gain: float, level: float) -> None:
    def noise(static: Sequence[str]) -> np.ndarray:
        return np.array([level * UNHEARD * (1.0 if static else 0.1)])

    chosen, reason = bearable(["a"], noise, lambda static: 1.0 if static else gain)
    assert bool(chosen) == (gain > 1.25 and level < 1)
    assert not chosen or f"{gain} times faster" in reason


FIRST, FLOATS, ALL = (
    Forms(),
    Forms(floats={"small": "as without"}),
    Forms(floats={"small": "as without"}, dynamic={"conv": ""}),
)


def settled(loud: dict[str, float], times: dict[str, float]) -> Forms:
    """Of three forms, by the noise that each layer adds in its form with data, and the microseconds that it saves."""

    def returned(forms: Forms) -> set[str]:
        return {*forms.floats, *forms.dynamic}

    def noise(forms: Forms) -> np.ndarray:
        return np.array([1e-4 + sum(more for name, more in loud.items() if name not in returned(forms)), 1e-9])

    def microseconds(forms: Forms) -> float:
        return 100.0 + sum(more for name, more in times.items() if name in returned(forms))

    return settle([FIRST, FLOATS, ALL], ["stem"], np.array([1e-4, 1e-9]), noise, microseconds)


def test_the_fastest_forms_stay_where_outputs_bear_them() -> None:
    assert settled({"small": 0.5 * WORSE * 1e-4, "conv": 0.4 * WORSE * 1e-4}, {"conv": 5.0}) is FIRST


def test_ranges_are_static_only_where_that_gains() -> None:
    assert settled({}, {"conv": 100 * (GAINS - 1) - 0.1}) is ALL


def test_layers_return_to_their_forms_without_data_as_far_as_it_takes() -> None:
    assert settled({"small": 1e-4}, {"small": 3.0}) == FLOATS
    assert settled({"small": 1e-4, "conv": 1e-4}, {"small": 2.0, "conv": 2.0}) == ALL


@pytest.mark.parametrize(("each", "ranges"), [(2.0, 3), (0.2, 8)])
def test_as_few_layers_have_ranges_for_each_sample_as_outputs_bear(each: float, ranges: int) -> None:
    """Those that come first, unless that hardly gains: `each` microseconds a layer."""
    shares = {f"conv{i}": 0.1 if i < 3 else 0.01 for i in range(8)}
    last = Forms(dynamic=dict.fromkeys(shares, ""))

    def noise(forms: Forms) -> np.ndarray:
        return np.array([1e-4 * (1 + sum(share for name, share in shares.items() if name not in forms.dynamic))])

    found = settle([Forms(), last], [], np.array([1e-4]), noise, lambda forms: 98.0 + each * len(forms.dynamic))
    assert list(found.dynamic) == list(shares)[:ranges]


def test_data_that_only_cost_accuracy_are_left_alone() -> None:
    assert settled({"factors": 0.5e-4}, {"conv": 5.0}) == ALL
    assert settled({"factors": 1.5e-4}, {"conv": 5.0}) == change(ALL, without_data=True)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(8, 64, 3, padding=1), nn.SiLU(), nn.Conv2d(64, 64, 3, padding=1)).eval()
    x = torch.randn(16, 8, 12, 12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantize, "WORSE", -1.0)
        patch.setattr(settling, "FASTER", np.inf)
        with_data = lowbit.convert(net, x[:1], calibration=x.split(4), progress=False)
    without = lowbit.convert(net, x[:1], progress=False)
    assert torch.equal(with_data(x), without(x))
    coded = [row for row in with_data.decisions if row["scheme"] == "int8"]
    assert coded
    assert all("as without calibration data" in row["reason"] for row in coded)


def test_speed_decides_and_says_so() -> None:
    faster = settled({"small": 1e-4, "conv": 1e-3}, {"conv": 100 * (FASTER - 1) + 1})
    assert not faster.floats
    assert not faster.dynamic
    assert "1.2 times faster so than in its forms without data" in faster.note
    assert "-29 dB, not -40 dB" in faster.note


@pytest.mark.parametrize(
    ("cost", "more", "is_spared"), [(2.0, 0.5, True), (8.0, 0.1, False), (2.0, 0.01, False), (20.0, 5, False)]
)
def test_a_loud_first_layer_stays_float_where_it_costs_little(cost: float, more: float, is_spared: bool) -> None:
    """By what it costs, percent, and the share of the noise that it makes."""
    less = 10 * np.log10(1 + more / 1.2)
    assert is_spared == (cost / 100 <= SPARED and less >= max(LEAST, WORTH * cost / 100))
    found = settled({"stem": more * 1e-4, "conv": 0.2e-4}, {"stem": cost, "conv": 50.0})
    assert ("stem" in found.floats) == is_spared
    if is_spared:
        assert f"makes the model {cost / 100:.0%} faster" in found.floats["stem"]
        assert "times faster so than" in found.note


class Mixed(nn.Module):
    """Grouped, depthwise and residual convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(8, 32, 3, padding=1), nn.ReLU())
        self.inner = nn.Conv2d(32, 32, 3, padding=1, groups=4)
        self.last = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.ReLU(), nn.Conv2d(32, 64, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        z: Tensor = self.last(y + self.inner(y))
        return z


def test_convolutions_have_ranges_of_their_own_beside_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are rounded and biases corrected for them as for others; a sample does not see its neighbours."""
    monkeypatch.setattr(quantizer, "settle", lambda candidates, *rest: candidates[-1])
    torch.manual_seed(0)
    net, shape = Mixed().eval(), (4, 8, 24, 24)
    data = [torch.randn(shape) for _ in range(4)]
    model = lowbit.convert(net, data[0], calibration=data, target="avx512vnni", progress=False)
    own = [row["node"] for row in model.decisions if "own range as without data" in row["reason"]]
    assert len(own) >= 3
    assert sqnr(net, model, shape) > sqnr(net, lowbit.convert(net, data[0], target="avx512vnni"), shape) - MARGIN
    x = torch.randn(shape)
    assert torch.equal(model(x), torch.cat([model(sample[None]) for sample in x]))
