"""Parts of unlike ranges beside each other: each keeps codes as fine as its own range allows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lowbit
from lowbit.capture import capture, example
from lowbit.ops.interpreter import run, validate
from lowbit.passes import optimize
from lowbit.quantization.balance_joins import balance_joins

Between = Callable[[Tensor], Tensor]
BETWEEN: dict[str, Between] = {
    "nothing": lambda x: x,
    "relu": F.relu,
    "max pool": lambda x: F.max_pool2d(x, 2),
    "average pool": lambda x: F.avg_pool2d(x, 3, 1, 1),
    "nearest": lambda x: F.interpolate(x, scale_factor=2.0),
    "bilinear": lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
    "pad": lambda x: F.pad(x, (1, 1, 1, 1)),
}
READERS: dict[str, Callable[[int], nn.Module]] = {
    "1x1": lambda c: nn.Conv2d(c, 24, 1),
    "3x3": lambda c: nn.Conv2d(c, 24, 3, padding=1),
    "depthwise": lambda c: nn.Sequential(nn.Conv2d(c, c, 3, padding=1, groups=c), nn.Conv2d(c, 24, 1)),
    "grouped": lambda c: nn.Conv2d(c, 24, 3, groups=4),
    "transposed": lambda c: nn.ConvTranspose2d(c, 24, 2, 2),
}
KINDS = ("plain", "nested", "added", "two readers", "returned", "pooled beside", "silu", "shared part")


class Join(nn.Module):
    """Two or three convolutions, whose results differ in range by `ratio`, and who reads them joined."""

    def __init__(self, kind: str, between: str, reader: str, ratio: float) -> None:
        super().__init__()
        self.kind, self.between = kind, BETWEEN[between]
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.wide, self.narrow, self.last = nn.Conv2d(16, 8, 1), nn.Conv2d(16, 8, 1), nn.Conv2d(16, 8, 1)
        self.read, self.other = READERS[reader](24), nn.Conv2d(24, 8, 1)
        with torch.no_grad():
            self.wide.weight *= ratio
            self.wide.bias *= ratio  # type: ignore[operator]
            for module in (self.read, self.other):
                first = module[0] if isinstance(module, nn.Sequential) else module
                flat = first.weight.transpose(0, 1) if isinstance(first, nn.ConvTranspose2d) else first.weight
                if getattr(first, "groups", 1) == 1:
                    flat[:, :8] /= ratio  # all parts matter

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        x = F.relu(self.stem(x))
        a, b, c = self.wide(x), self.narrow(x), self.last(x)
        if self.kind == "silu":
            b = F.silu(b)
        joined = torch.cat([a, torch.cat([b, c], 1)], 1) if self.kind == "nested" else torch.cat([a, b, c], 1)
        if self.kind == "added":
            joined = joined + torch.cat([a, c, b], 1)
        y = self.read(self.between(joined))
        if self.kind == "two readers":
            return y, self.other(joined)
        if self.kind == "returned":
            return y, joined
        if self.kind == "pooled beside":
            return y, F.adaptive_avg_pool2d(joined, 1).sigmoid()
        if self.kind == "shared part":
            return y, self.other(torch.cat([b, b, b], 1))
        return y


def images(count: int, seed: int) -> list[Tensor]:
    torch.manual_seed(seed)
    return [torch.randn(4, 3, 16, 16) for _ in range(count)]


def worst(net: nn.Module, model: lowbit.Model, x: Tensor) -> float:
    """dB, of the worst output."""
    with torch.no_grad():
        expected, found = net(x), model(x)
    pairs = [(found, expected)] if isinstance(expected, Tensor) else zip(found, expected, strict=True)
    return min(
        10 * float(np.log10(float((y.double() ** 2).sum() / ((z.double() - y.double()) ** 2).sum()))) for z, y in pairs
    )


def made(net: nn.Module, data: list[Tensor]) -> lowbit.Model:
    model: lowbit.Model = lowbit.convert(net, data[0], calibration=data, target="avx512vnni", progress=False)
    return model


def built(kind: str, between: str, reader: str, ratio: float) -> nn.Module:
    torch.manual_seed(3)
    return Join(kind, between, reader, ratio).eval()


@pytest.mark.parametrize("seed", range(10))
def test_the_function_stays_the_same(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kind, between, reader = (str(rng.choice(list(names))) for names in (KINDS, BETWEEN, READERS))
    net, data = built(kind, between, reader, float(rng.choice([30, 640]))), images(2, seed)
    graph = optimize(capture(net, example(net, data[0])).graph)
    feeds = [{graph.inputs[0]: x.numpy()} for x in data]
    after = validate(balance_joins(graph, feeds))
    assert any(".balanced" in name for name in after.values), "something was scaled"
    for name in graph.outputs:
        expected = run(graph, feeds[1])[name]
        np.testing.assert_allclose(run(after, feeds[1])[name], expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("reader", list(READERS))
@pytest.mark.parametrize("kind", ["plain", "nested", "two readers", "silu"])
def test_a_narrow_part_beside_a_wide_one_is_not_lost(kind: str, reader: str) -> None:
    """As near as the same net with parts alike, within 3 dB."""
    data = images(2, 1)
    near, far = (
        worst(net, made(net, data), images(1, 2)[0]) for net in (built(kind, "relu", reader, r) for r in (1, 640))
    )
    assert far > min(near - 3, 30)


def test_an_image_of_unlike_channels_keeps_each() -> None:
    """Depth in millimetres beside colours up to 1."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 16, 3)).eval()
    with torch.no_grad():
        net[0].weight[:, 3] /= 4000
    scale = torch.tensor([1.0, 1.0, 1.0, 4000.0]).reshape(4, 1, 1)
    data = [torch.rand(4, 4, 20, 20) * scale for _ in range(3)]
    assert worst(net, made(net, data[:2]), data[2]) > 30


def test_parts_alike_stay_as_they_are() -> None:
    net, data = built("plain", "relu", "3x3", 1.0), images(2, 1)
    graph = optimize(capture(net, example(net, data[0])).graph)
    assert balance_joins(graph, [{graph.inputs[0]: x.numpy()} for x in data]) is graph


BEYOND: dict[str, Between] = {
    "nothing": lambda x: x,
    "silu": F.silu,
    "cut": lambda x: x[:, :, 1:, :-1],
    "doubled": lambda x: x * 2,
    "pool": lambda x: F.max_pool2d(x, 2),
    "interleaved": lambda x: torch.stack([x[:, :8], x[:, 8:16], x[:, 16:]], 1).flatten(1, 2),
}


class Read(nn.Module):
    """A join of unlike parts, what lies between, and the layer that reads it."""

    def __init__(self, between: str, ratio: float) -> None:
        super().__init__()
        self.join, self.between = Join("plain", "nothing", "3x3", ratio), BEYOND[between]
        self.last = nn.Conv2d(24, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.join.stem(x))
        y = torch.cat([self.join.wide(x), self.join.narrow(x), self.join.last(x)], 1)
        out: Tensor = self.last(self.join.read(self.between(y)).relu())
        return out


@pytest.mark.parametrize("between", list(BEYOND))
def test_what_no_factor_reaches_is_read_in_float(between: str) -> None:
    """Codes of one scale would lose a part: 4 dB. Other layers stay in int8, and so do all where parts are alike."""
    torch.manual_seed(4)
    net, data = Read(between, 300.0).eval(), images(3, 1)
    model = made(net, data[:2])
    assert worst(net, model, data[2]) > 30
    assert any(node.op == "quantized_conv2d" for node in model.graph)
    alike = Read(between, 1.0).eval()
    assert "conv2d" not in [node.op for node in made(alike, data[:2]).graph if node.name.startswith("join.read")]


@pytest.mark.parametrize("between", [name for name in BEYOND if name != "interleaved"])
def test_without_data_unlike_weights_tell_of_unlike_parts(between: str) -> None:
    torch.manual_seed(4)
    x = images(1, 1)[0]
    for ratio, least, reader in ((300.0, 30, "conv2d"), (1.0, 30, "quantized_conv2d")):
        net = Read(between, ratio).eval()
        model = lowbit.convert(net, x, progress=False, target="avx512vnni")
        assert worst(net, model, x) > least
        assert [node.op for node in model.graph if node.name == "join.read"] == [reader]
        if ratio > 1:
            reason = next(row["reason"] for row in model.decisions if row["node"] == "join.read")
            assert "calibration data would tell" in reason
