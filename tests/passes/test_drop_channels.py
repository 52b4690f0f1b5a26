"""Channels that are constant, or that nobody reads, leave the layers, and nothing is computed otherwise."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lowbit
from graphs import BATCH, Maker
from lowbit.graph.ir import Graph
from lowbit.passes import drop_channels as module
from lowbit.passes.drop_channels import drop_channels
from lowbit.passes.layers import LAYERS
from passes.same import apply, ops


def rewritten(graph: Graph) -> Graph:
    return drop_channels(graph)[0]


def free_of_charge() -> Any:
    """Small layers, too, are worth it."""
    return patch.multiple(module, RESTORING=0, RESTORING_ROWS=0)


def pruned(m: Maker, shape: tuple[int, ...], rows: float = 0.0, columns: float = 0.0) -> str:
    weight = m.rng.standard_normal(shape).astype(np.float32)
    weight[m.rng.random(shape[0]) < rows] = 0
    weight[:, m.rng.random(shape[1]) < columns] = 0
    return m.constant(weight)


def sizes(graph: Graph) -> list[tuple[int, ...]]:
    """Of the layers' weights."""
    return [tuple(graph.constants[node.inputs[1]].shape[:2]) for node in graph if node.op in LAYERS]


def test_the_picture() -> None:
    """Rows of the first layer and the columns that read them, with what they add to the bias."""
    m = Maker(symbols=BATCH)
    weight = m.rng.standard_normal((10, 6)).astype(np.float32)
    weight[3:] = 0
    hidden = m.node("linear", m.input("x", "batch", 6), m.constant(weight), m.floats(10))
    graph = m.graph(m.node("linear", m.node("unary", hidden, kind="gelu"), m.floats(5, 10), m.floats(5)))
    after = apply(graph, rewritten)
    assert (sizes(after), ops(after)) == ([(3, 6), (5, 3)], {"linear": 2, "unary": 1})
    (first, second) = drop_channels(graph)[1]
    assert (first.outputs, first.inputs, second.outputs, second.inputs) == ((7, 10), (0, 6), (0, 5), (7, 10))
    assert str(first) == "without 7 of 10 outputs, which are constant or not read"


def test_constants_behind_padding_become_one_channel() -> None:
    """They end at the border, where a bias does not."""
    m = Maker(symbols=BATCH)
    weight = m.rng.standard_normal((8, 3, 3, 3)).astype(np.float32)
    weight[2:] = 0
    bias = np.array([0.3, -0.2, -1, 0, 0.5, 2, 1, -3], np.float32)
    hidden = m.node("conv2d", m.input("x", "batch", 3, 5, 6), m.constant(weight), m.constant(bias), padding=(1,) * 4)
    hidden = m.node("clip", hidden, min=0.0)
    after = apply(m.graph(m.node("conv2d", hidden, m.floats(4, 8, 3, 3), padding=(1, 1, 1, 1))), rewritten)
    assert sizes(after) == [(3, 3), (4, 3)]
    assert ops(after) == {"conv2d": 2, "clip": 1}


def test_what_nobody_reads_is_not_computed() -> None:
    m = Maker(symbols=BATCH)
    hidden = m.node(
        "clip", m.node("conv2d", m.input("x", "batch", 3, 5, 6), m.floats(8, 3, 1, 1), m.floats(8)), min=0.0
    )
    weight = m.rng.standard_normal((4, 8, 3, 3)).astype(np.float32)
    weight[:, [0, 2, 3, 5, 7]] = 0
    after = apply(m.graph(m.node("conv2d", hidden, m.constant(weight), padding=(1, 1, 1, 1))), rewritten)
    assert sizes(after) == [(3, 3), (4, 3)]


def test_what_costs_more_to_put_back_stays() -> None:
    """Few products an output: the layer stays whole; many: its rows go, and zeros are put back."""
    for depth, expected in ((8, [(64, 8)]), (2048, [(32, 2048)])):
        m = Maker(symbols=BATCH)
        weight = m.rng.standard_normal((64, depth)).astype(np.float32)
        weight[::2] = 0
        after = apply(
            m.graph(m.node("linear", m.input("x", "batch", depth), m.constant(weight), m.floats(64))), rewritten
        )
        assert sizes(after) == expected
        assert ("take" in ops(after)) == (depth > 8)


def test_given_weights_and_weights_that_are_not_finite_stay() -> None:
    m = Maker(symbols=BATCH)
    zeros = [m.constant(np.zeros((8, 8), np.float32)), m.constant(np.full((8, 8), np.nan, np.float32))]
    hidden = m.node("linear", m.node("linear", m.input("x", "batch", 8), zeros[0]), zeros[1])
    graph = m.graph(hidden)
    assert sizes(drop_channels(graph, keeps=lambda name: name == zeros[0])[0]) == [(8, 8), (8, 8)]


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_random_nets(data: st.DataObject) -> None:
    """All that works channel by channel, joins, groups, borders; outputs in the middle."""
    m = Maker(data.draw(st.integers(0, 10_000)), symbols=BATCH)
    share = st.sampled_from([0.0, 0.3, 0.8, 1.0])
    images = [m.input("x", "batch", 4, 5, 6)]
    outputs = []
    for _ in range(data.draw(st.integers(2, 9))):
        x = data.draw(st.sampled_from(images[-3:]))
        channels = int(m.made.values[x].shape[1])
        others = [y for y in images if m.made.values[y].shape == m.made.values[x].shape]
        kind = data.draw(
            st.sampled_from(
                ["conv", "conv", "conv", "depthwise", "groups", "unary", "clip", "pair", "factor", "pool", "cat"]
            )
        )
        pad, bias = data.draw(st.sampled_from([0, 1])), (m.floats(8),) if data.draw(st.booleans()) else ()
        if kind == "conv":
            w = pruned(m, (8, channels, 1 + 2 * pad, 1 + 2 * pad), data.draw(share), data.draw(share))
            images.append(m.node("conv2d", x, w, *bias, padding=(pad,) * 4))
        elif kind == "depthwise" and channels == 8:
            w = pruned(m, (8, 1, 3, 3), data.draw(share))
            images.append(m.node("conv2d", x, w, *bias, padding=(1,) * 4, groups=8))
        elif kind == "groups" and channels % 4 == 0:
            w = pruned(m, (8, channels // 4, 3, 3), data.draw(share))
            images.append(m.node("conv2d", x, w, *bias, padding=(1,) * 4, groups=4))
        elif kind == "unary":
            images.append(m.node("unary", x, kind=data.draw(st.sampled_from(["sigmoid", "gelu", "relu", "tanh"]))))
        elif kind == "clip":
            images.append(m.node("clip", x, min=0.0, max=6.0))
        elif kind == "pair":
            op = data.draw(st.sampled_from(["add", "mul", "sub", "maximum"]))
            images.append(m.node(op, x, data.draw(st.sampled_from(others))))
        elif kind == "factor":
            shape = data.draw(st.sampled_from([(channels, 1, 1), (5, 6), (1,), (channels, 5, 6)]))
            images.append(m.node(data.draw(st.sampled_from(["add", "mul", "prelu"])), x, m.floats(*shape)))
        elif kind == "pool":
            pools = {"max_pool2d": {}, "avg_pool2d": {"count_include_pad": 1}}
            op = data.draw(st.sampled_from(list(pools)))
            images.append(m.node(op, x, kernel=(3, 3), stride=(1, 1), padding=(1,) * 4, **pools[op]))
        elif kind == "cat" and channels < 16:
            images.append(m.node("concat", x, data.draw(st.sampled_from(images)), axis=1))
        if data.draw(st.integers(0, 5)) == 0 and images[-1] != "x":
            outputs.append(images[-1])
    x = images[-1]
    end = data.draw(st.sampled_from(["image", "mean", "flat", "last"]))
    if end == "last":
        x = m.node("transpose", x, perm=(0, 2, 3, 1))
    if end == "flat":
        x = m.node("reshape", x, shape=("batch", int(m.made.values[x].shape[1]) * 30))
    if end == "mean":
        x = m.node("mean", x, axes=(2, 3))
    if end != "image":
        x = m.node("linear", x, pruned(m, (6, int(m.made.values[x].shape[-1])), data.draw(share)), m.floats(6))
        x = m.node("unary", x, kind="relu")
        x = m.node("linear", x, pruned(m, (4, 6), data.draw(share), data.draw(share)))
    if x == "x":
        return
    graph = m.graph(*dict.fromkeys((*outputs, x)))
    if data.draw(st.booleans()):
        apply(graph, rewritten)
    else:
        with free_of_charge():
            apply(graph, rewritten)


# ---------------------------------------------------------------------------------------------------------- conversion


def zero_rows(net: nn.Module, share: float) -> None:
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                layer.weight[torch.randperm(len(layer.weight))[: int(share * len(layer.weight))]] = 0


class Block(nn.Module):
    """A residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(8, 64, 1)
        self.front = nn.Sequential(nn.Conv2d(64, 64, 1), nn.BatchNorm2d(64), nn.ReLU6())
        self.middle = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1, groups=64), nn.BatchNorm2d(64), nn.Hardswish())
        self.back = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        made: Tensor = self.head((x + self.back(self.middle(self.front(x)))).relu().mean((2, 3)))
        return made


@pytest.mark.parametrize("scheme", ["float32", "int8", "int4-g32"])
@pytest.mark.parametrize("data", [True, False])
def test_converted_models(scheme: str, data: bool) -> None:
    """Smaller layers, told in the decisions and the notes, and as near to torch as before."""
    torch.manual_seed(0)
    net = Block().eval()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-1, 1)
            layer.running_var.uniform_(0.5, 2)
    zero_rows(net, 0.8)
    x = torch.randn(2, 8, 20, 20)
    expected = net(x).detach()
    model = lowbit.convert(net, x, scheme=scheme, calibration=[x] if data else None, progress=False)
    y = model(x)
    assert (y - expected).norm() < (1e-5 if scheme == "float32" else 0.05) * expected.norm()
    told = [decision["reason"] for decision in model.decisions if "without" in decision["reason"]]
    assert any("of 64 outputs" in reason for reason in told)
    assert any("of 64 inputs" in reason for reason in told)
    assert any("is without" in note and "which are constant or not read" in note for note in model.notes)
