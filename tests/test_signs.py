"""Nets of signs: what torch programs write for them is recognised, and gives torch's results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lowbit
from graphs import BATCH, Maker
from lowbit import _core
from lowbit.errors import GraphError
from lowbit.graph.ir import Weight
from lowbit.ops import interpreter
from lowbit.ops.interpreter import validate
from lowbit.passes.count_signs import count_signs
from lowbit.runtime.session import Session
from passes.same import apply, ops

Function = Callable[[Tensor], Tensor]


class Sign(torch.autograd.Function):
    """Its gradient goes straight through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


def straight_through(x: Tensor) -> Tensor:
    """As ReActNet and Bi-Real nets write it."""
    signs, bounded = torch.sign(x), torch.clamp(x, -1.0, 1.0)
    return signs.detach() - bounded.detach() + bounded


SIGNS: dict[str, Function] = {
    "sign": torch.sign,
    "function": Sign.apply,
    "of hardtanh": lambda x: F.hardtanh(x).sign(),
    "of relu": lambda x: x.relu().sign(),
    "straight through": straight_through,
    "straight through x": lambda x: x + (x.sign() - x).detach(),
    "where ge": lambda x: torch.where(x >= 0, 1.0, -1.0),
    "where gt": lambda x: torch.where(x > 0, 1.0, -1.0),
    "where lt": lambda x: torch.where(x < 0, -torch.ones_like(x), torch.ones_like(x)),
    "scaled": lambda x: torch.where(x >= 0, 0.25, -0.25),
    "from flags": lambda x: (x > 0).float() * 2 - 1,
    "from flags, shifted": lambda x: ((x >= 0).to(x.dtype) - 0.5) * 2,
    "flags": lambda x: (x > 0).float(),
    "copysign": lambda x: torch.copysign(torch.ones_like(x), x),
    "pooled": lambda x: F.pad(x.sign(), (0, 1, 0, 1), value=-1.0).unfold(2, 5, 1).unfold(3, 5, 1)[:, :, 0, 0],
}


class Net(nn.Module):
    """A convolution and a linear layer of signs behind batch normalization, which leaves zeros here and there."""

    def __init__(self, sign: Function, *, inputs: int = 32, binary: Function = torch.sign) -> None:
        super().__init__()
        self.sign, self.binary = sign, binary
        self.conv = nn.Conv2d(inputs, 40, 3, padding=1)
        self.norm = nn.BatchNorm2d(40)
        self.linear = nn.Linear(40 * 25, 7)
        with torch.no_grad():
            self.norm.running_mean.normal_(0, 0.3)
            self.norm.weight.normal_()

    def binarized(self, weight: Tensor) -> Tensor:
        axes = tuple(range(1, weight.dim()))
        return self.binary(weight) * weight.abs().mean(axes, keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(self.sign(x), self.binarized(self.conv.weight), self.conv.bias, padding=1)
        y = F.hardtanh(self.norm(y))
        return F.linear(self.sign(y).flatten(1), self.binarized(self.linear.weight), self.linear.bias)


def close(net: nn.Module, x: Tensor, counted: int, **how: Any) -> Any:
    """The converted model: so many of its layers count bits, and its outputs are torch's within float32's rounding."""
    torch.manual_seed(2)
    net.eval()
    with torch.inference_mode():
        want = net(x)
    model = lowbit.convert(net, x, progress=False, **how)
    assert sum(node.op.startswith("sign_") for node in model.graph) == counted
    got = model(x)
    assert (got - want).abs().max() <= 2e-6 * want.abs().max()
    return model


def images(channels: int = 32) -> Tensor:
    """Some of their pixels are zero."""
    x = torch.randn(3, channels, 5, 5)
    return torch.where(torch.rand_like(x) < 0.2, 0.0, x)


class Ways(nn.Module):
    """A convolution of signs for each way to write the signs of numbers, and of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(9, 32, 3, 3) / 10)

    def forward(self, x: Tensor) -> list[Tensor]:
        size = self.weight.abs().mean((1, 2, 3), keepdim=True)
        weights = [sign(self.weight) * size for sign in (Sign.apply, lambda w: torch.where(w > 0, 1.0, -1.0))]
        bounded = self.weight.clamp(-1, 1)
        weights.append((weights[0].detach() - bounded).detach() + bounded)
        ways = [F.conv2d(sign(x), weights[0], padding=1) for sign in SIGNS.values()]
        return ways + [F.conv2d(x.sign(), weight, padding=1) for weight in weights]


def test_what_programs_write() -> None:
    """Straight-through weights are rounded, so that they differ in their last bits."""
    torch.manual_seed(1)
    net, x = Ways().eval(), images()
    model = lowbit.convert(net, x, progress=False)
    assert [node.op for node in model.graph].count("sign_conv2d") == len(SIGNS) + 3
    with torch.inference_mode():
        wanted = net(x)
    for name, want, got in zip([*SIGNS, *"abc"], wanted, model(x), strict=True):
        assert (got - want).abs().max() <= 2e-6 * want.abs().max(), name


def test_a_file_and_the_report(tmp_path: Path) -> None:
    torch.manual_seed(4)
    x = images()
    model = close(Net(torch.sign), x, 2, calibration=[images()])
    model.save(tmp_path / "net.lowbit")
    loaded = lowbit.load(tmp_path / "net.lowbit")
    np.testing.assert_array_equal(np.asarray(loaded(x.numpy())), model(x).numpy())
    assert (tmp_path / "net.lowbit").stat().st_size < 40 * 288 / 8 + 7 * 1000 / 8 + 12000
    assert {row["scheme"] for row in model.decisions if row["op"].startswith("sign_")} == {"signs"}
    assert model.profile(x).rows[0].seconds > 0
    model.report(tmp_path / "report.html")


@settings(max_examples=25, deadline=None)
@given(
    window=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    padding=st.tuples(*[st.integers(0, 3)] * 4),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    inputs=st.sampled_from([32, 33, 63, 96]),
    filters=st.sampled_from([1, 8, 17]),
    seed=st.integers(0, 1000),
)
def test_geometry(window: tuple[int, int], inputs: int, filters: int, seed: int, **geometry: tuple[int, ...]) -> None:
    """Borders add nothing, whatever the window; every instruction set has the interpreter's bits."""
    m = Maker(seed, BATCH)
    x = m.input("x", "batch", inputs, 7, 8)
    signs = np.sign(m.rng.standard_normal((filters, inputs, *window)))
    weight = m.constant((signs * m.rng.uniform(0.1, 1, (filters, 1, 1, 1))).astype(np.float32))
    rounded = m.node("unary", m.node("mul", x, m.constant(np.float32([2]))), kind="round")  # many zeros
    bits = m.node("unary", rounded, kind="sign")
    y = m.node("conv2d", bits, weight, m.floats(filters), activation_max=3.0, **geometry)
    after = apply(m.graph(y), count_signs)
    assert ops(after)["sign_conv2d"] == 1
    images = m.rng.standard_normal((2, inputs, 7, 8)).astype(np.float32)
    expected = interpreter.run(after, {"x": images})[after.outputs[0]]
    for isa in _core.cpu()["isas"]:
        found = np.empty_like(expected)
        Session(after, isa=isa, threads=1).run_into([images], [found])
        np.testing.assert_array_equal(found, expected)


def with_zero(w: Tensor) -> Tensor:
    return torch.where(torch.arange(w.numel()).reshape(w.shape) == 5, 0.0, w.sign())


LEFT_ALONE: dict[str, tuple[Function, Function]] = {
    "no signs": (torch.tanh, torch.sign),
    "one and two": (lambda x: (x > 0).float() + 1, torch.sign),
    "uneven": (lambda x: torch.where(x > 0, 1.0, -0.5), torch.sign),
    "almost signs": (lambda x: x.sign() + 1e-3 * x, torch.sign),
    "real weights": (torch.sign, torch.tanh),
    "a weight of zero": (torch.sign, with_zero),
}


def test_what_is_left_alone() -> None:
    class Others(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(64, 64, 3, 3) / 10)
            self.depthwise = nn.Parameter(torch.randn(64, 1, 3, 3).sign())
            self.few = nn.Parameter(torch.randn(8, 5, 3, 3).sign())

        def forward(self, x: Tensor) -> list[Tensor]:
            others = [F.conv2d(sign(x), binary(self.weight)) for sign, binary in LEFT_ALONE.values()]
            signs = x.sign()
            return [*others, F.conv2d(signs, self.depthwise, groups=64), F.conv2d(signs[:, :5], self.few)]

    torch.manual_seed(5)
    net, x = Others().eval(), images(64)
    model = lowbit.convert(net, x, progress=False, scheme="float32")
    assert {node.op for node in model.graph}.isdisjoint({"pack_signs", "sign_conv2d"})
    with torch.inference_mode():
        wanted = net(x)
    for want, got in zip(wanted, model(x), strict=True):
        assert (got - want).abs().max() <= 1e-5 * want.abs().max()


def test_a_channel_of_zeros() -> None:
    m = Maker(6, BATCH)
    weight = np.sign(m.rng.standard_normal((4, 40))).astype(np.float32) * np.float32([[0.5], [0], [2], [1]])
    y = m.node("linear", m.node("unary", m.input("x", "batch", 40), kind="sign"), m.constant(weight), m.floats(4))
    assert ops(apply(m.graph(y), count_signs)) == {"pack_signs": 1, "sign_linear": 1}


def test_a_sequence() -> None:
    """Rows of any rank, and a convolution over one axis."""

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Parameter(torch.randn(64, 48, 3).sign() * 0.2)
            self.linear = nn.Parameter(torch.randn(5, 64).sign() * 0.1)

        def forward(self, x: Tensor) -> Tensor:
            y = F.conv1d(x.sign(), self.conv, padding=1) + 0.05  # no ties
            return F.linear(y.transpose(1, 2).sign(), self.linear)

    torch.manual_seed(7)
    close(Tagger(), torch.randn(2, 48, 9), 2)


def layer(weight: Weight, size: int = 16, op: str = "sign_linear") -> Any:
    m = Maker(symbols=BATCH)
    x = m.input("x", "batch", size, dtype="u8")
    n = len(weight.codes)
    return m.graph(m.node(op, x, m.constant(weight), m.floats(n), m.floats(n), output="f32"))


def test_refusals() -> None:
    codes, ones = np.ones((3, 40), np.int8), np.ones(3, np.float32)
    good = {"codes": codes, "scales": ones, "bits": 1, "values": np.float32([-1, 1])}
    validate(layer(Weight(**good)))
    for change in (
        {"values": np.float32([-1, 2])},
        {"values": None, "codes": 0 * codes},
        {"bits": 2, "values": np.float32([-1, 1, 0, 0])},
        {"scales": ones.astype(np.float16)},
        {"scales": np.ones((3, 5), np.float32), "group_size": 8},
    ):
        graph = layer(Weight(**{**good, **change}))
        with pytest.raises(GraphError, match="no kernel of sign_linear reads"):
            validate(graph)
        with pytest.raises(lowbit.LowbitError):
            Session(graph)
    with pytest.raises(GraphError, match="do not fit"):
        layer(Weight(**good), size=24)
    m = Maker(symbols=BATCH)
    with pytest.raises(GraphError, match="axis must be 1"):
        m.node("pack_signs", m.input("x", "batch", 3), axis=0)
