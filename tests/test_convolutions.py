"""Convolutions of every kind: references against torch, sessions against references on every instruction set."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from graphs import BATCH, Maker
from lowbit.errors import GraphError
from lowbit.graph.ir import Node
from lowbit.ops import OPS
from test_capture import check as check_capture
from test_session import check as check_session


@st.composite
def windows(draw: st.DrawFn) -> dict[str, Any]:
    """A convolution, an image that it fits, and the shape of its weight."""
    axes, transposed = draw(st.sampled_from([2, 2, 3])), draw(st.booleans())

    def sizes(most: int) -> tuple[int, ...]:
        return draw(st.tuples(*[st.integers(1, most)] * axes))

    kernel, dilation, stride = sizes(4 if axes == 2 else 3), sizes(3), sizes(3)
    reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    groups = draw(st.sampled_from([1, 1, 2, 3, 16, 17]))
    depth, filters = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    if draw(st.booleans()):
        depth = filters = 1  # depthwise
    conv: dict[str, Any] = {"stride": stride, "dilation": dilation, "groups": groups}
    if transposed:
        conv["padding"] = tuple(draw(st.integers(0, most + 4)) for most in reach for _ in (0, 1))
        pairs = zip(stride, dilation, strict=True)
        conv["output_padding"] = tuple(draw(st.integers(0, max(pair) - 1)) for pair in pairs)
        cut = [sum(conv["padding"][2 * a : 2 * a + 2]) - reach[a] for a in range(axes)]  # off the output
        least = [max(1, 1 - -cut[a] // stride[a]) for a in range(axes)]
    else:
        conv["padding"] = tuple(draw(st.integers(0, 3)) for _ in range(2 * axes))
        least = [max(1, reach[a] + 1 - sum(conv["padding"][2 * a : 2 * a + 2])) for a in range(axes)]
    spread = 9 if axes == 2 else 3
    return {
        "op": f"conv{'_transpose' if transposed else ''}{axes}d",
        "image": (depth * groups, *(draw(st.integers(size, size + spread)) for size in least)),
        "weight": (filters * groups, depth, *kernel),
        "conv": conv,
    }


DEPTHWISE_PLANES: dict[str, Any] = {
    "op": "conv_transpose3d",
    "image": (2, 4, 4, 4),
    "weight": (2, 1, 1, 1, 1),
    "conv": {
        "stride": (1, 1, 1),
        "dilation": (1, 1, 1),
        "groups": 2,
        "padding": (1, 0, 0, 0, 0, 0),
        "output_padding": (0, 0, 0),
    },
}
"""Whose first output does not meet the first plane of the input."""


@settings(max_examples=80, deadline=None)
@given(windows(), st.integers(0, 2**31), st.integers(1, 3))
@example(DEPTHWISE_PLANES, 0, 1)
def test_sessions_give_the_references_bits(window: dict[str, Any], seed: int, batch: int) -> None:
    m = Maker(seed, BATCH)
    op, weight, conv = window["op"], window["weight"], window["conv"]
    x = m.input("x", "batch", *window["image"])
    zero_x, zero_y = (int(zero) for zero in m.rng.integers(0, 256, 2))
    q = m.node("quantize", x, scale=0.02, zero_point=zero_x)

    def scales() -> tuple[str, str]:
        multiplier = m.rng.uniform(1e-4, 1e-3, weight[0]).astype(np.float32)
        return m.constant(multiplier), m.floats(weight[0], scale=20.0)

    static = {"zero_point_x": zero_x, "output": "u8", "zero_point_y": zero_y, "lo": 5, "hi": 251}

    def slope() -> str:
        return m.floats(weight[0]) if m.rng.integers(2) else ""

    a = m.node(f"quantized_{op}", q, m.weight(*weight), *scales(), "", m.table(), "", "", slope(), **conv, **static)
    residual = {"output": "f32", "residual_multiplier": 0.3, "residual_zero_point": zero_y, "max": 30.0}
    b = m.node(
        f"quantized_{op}",
        q,
        m.weight(*weight),
        *scales(),
        a,
        "",
        "",
        "",
        slope(),
        zero_point_x=zero_x,
        **conv,
        **residual,
    )
    codes, scale, zero = m.node("dynamic_quantize", x, outputs=3, granularity="sample")
    c = m.node(
        f"quantized_{op}", codes, m.weight(*weight), *scales(), "", "", scale, zero, slope(), output="f32", **conv
    )
    d = m.node(op, x, m.floats(*weight), "", b, activation_min=-1.0, **conv)
    e = m.node(op, x, m.floats(*weight), m.floats(weight[0]), **conv)
    check_session(m.graph(q, a, b, c, d, e), {"batch": batch}, seed)


@settings(max_examples=30, deadline=None)
@given(windows(), st.integers(0, 2**31))
def test_images_without_height_or_width(window: dict[str, Any], seed: int) -> None:
    """A window may lie in the padding alone, where sizes are free; nothing divides by such a size."""
    if "transpose" in window["op"]:
        return
    m = Maker(seed, BATCH)
    axes, conv, weight = len(window["conv"]["stride"]), window["conv"], window["weight"]
    reach = [d * (k - 1) for d, k in zip(conv["dilation"], weight[2:], strict=True)]
    conv = conv | {"padding": tuple(most + int(m.rng.integers(0, 2)) + side for most in reach for side in (0, 1))}
    image = [0 if m.rng.integers(2) else size for size in window["image"][1:]]
    x = m.input("x", "batch", window["image"][0], *image[: axes - 1], 0)
    q = m.node("quantize", x, scale=0.02, zero_point=7)
    ones = m.constant(np.ones(weight[0], np.float32))
    a = m.node(f"quantized_{window['op']}", q, m.weight(*weight), ones, ones, zero_point_x=7, output="f32", **conv)
    b = m.node(window["op"], x, m.floats(*weight), m.floats(weight[0]), **conv)
    check_session(m.graph(a, b), {"batch": 2}, seed)


def test_transposed_convolutions_with_any_padding() -> None:
    """All small ones along an axis, against torch's without padding, cut, and with zeros beyond."""
    ranges = (range(1, 4), range(1, 4), range(1, 4), range(1, 3), range(4), range(4), range(3))
    rng, count = np.random.default_rng(0), 0
    for size, kernel, stride, dilation, begin, end, more in itertools.product(*ranges):
        whole = (size - 1) * stride + dilation * (kernel - 1) + 1
        if more >= max(stride, dilation) or whole - begin - end + more < 1:
            continue
        x = rng.standard_normal((1, 1, size, 2)).astype(np.float32)
        w = rng.standard_normal((1, 1, kernel, 1)).astype(np.float32)
        attrs = {"stride": (stride, 1), "dilation": (dilation, 1)}
        y = F.conv_transpose2d(torch.from_numpy(x), torch.from_numpy(w), **attrs)
        wide = F.pad(y, (0, 0, 0, max(begin, more)))
        node = Node(
            op="conv_transpose2d",
            name="n",
            inputs=("x", "w"),
            outputs=("y",),
            attrs={**attrs, "padding": (begin, end, 0, 0), "output_padding": (more, 0)},
        )
        (found,) = OPS[node.op].reference(node, [x, w])
        np.testing.assert_allclose(found, wide[:, :, begin : whole - end + more].numpy(), rtol=1e-5, atol=1e-6)
        count += 1
    assert count > 900


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["1x1", "3x3", "depthwise", "sparse", "linear", "four bits"]),
    st.integers(1, 32),
    st.integers(0, 2**31),
    st.sampled_from([0.3, 9.0]),
    st.booleans(),
)
def test_epilogues_of_wide_layers(kind: str, fours: int, seed: int, factor: float, has_residual: bool) -> None:
    """Slopes, bounds and tables, where vectors of channels are full, or partly so, and sums may saturate the codes."""
    m, n = Maker(seed, BATCH), 4 * fours + (seed % 4 if kind != "sparse" else 0)
    shape = (16,) if kind in ("linear", "four bits") else (n if kind == "depthwise" else 16, 5, 7)
    x = m.input("x", "batch", *shape)
    q = m.node("quantize", x, scale=0.03, zero_point=120)
    weights = {
        "1x1": lambda: m.weight(n, 16, 1, 1),
        "3x3": lambda: m.weight(n, 16, 3, 3),
        "depthwise": lambda: m.weight(n, 1, 3, 3),
        "sparse": lambda: m.sparse("4x4", 0.2, n, 16, 3, 3),
        "linear": lambda: m.weight(n, 16),
        "four bits": lambda: m.grouped(n, 16, 8),
    }
    op = "quantized_linear" if kind in ("linear", "four bits") else "quantized_conv2d"
    geometry: dict[str, Any] = {} if len(shape) == 1 else {"padding": (0,) * 4}
    geometry |= {"groups": n} if kind == "depthwise" else {}
    scale = m.constant(m.rng.uniform(1e-4, 2e-3, n).astype(np.float32) * np.float32(factor))
    made = []
    residual, more = "", {}
    for table in ("", m.table()):
        w, bias, slope = weights[kind](), m.floats(n, scale=20.0), m.floats(n)
        attrs = {"zero_point_x": 120, "zero_point_y": 90, "lo": 3 if table else 0, "output": "u8", **geometry, **more}
        made.append(m.node(op, q, w, scale, bias, residual, table, "", "", slope, **attrs))
        residual = made[-1] if has_residual else ""
        more = {"residual_multiplier": 0.4, "residual_zero_point": 90} if has_residual else {}
    check_session(m.graph(*made), {"batch": 2}, seed)


def random_layer(rng: np.random.Generator) -> tuple[nn.Module, tuple[int, ...]]:
    """A convolution of torch and the shape of an image without batch."""
    axes, transposed = int(rng.integers(1, 4)), bool(rng.integers(2))
    groups = int(rng.integers(1, 4))
    inputs, outputs = groups * int(rng.integers(1, 4)), groups * int(rng.integers(1, 4))
    kernel, stride, dilation = (tuple(rng.integers(1, 4, axes).tolist()) for _ in range(3))
    options: dict[str, Any] = {"stride": stride, "dilation": dilation, "groups": groups, "bias": bool(rng.integers(2))}
    options["padding"] = tuple(int(rng.integers(0, d * (k - 1) + 1)) for k, d in zip(kernel, dilation, strict=True))
    if transposed:
        pairs = zip(stride, dilation, strict=True)
        options["output_padding"] = tuple(int(rng.integers(0, max(pair))) for pair in pairs)
    kind = getattr(nn, f"Conv{'Transpose' if transposed else ''}{axes}d")
    return kind(inputs, outputs, kernel, **options), (inputs, *rng.integers(7, 10, axes).tolist())


@pytest.mark.parametrize("seed", range(24))
def test_layers_of_torch(seed: int) -> None:
    layer, shape = random_layer(np.random.default_rng(seed))
    check_capture(layer, torch.randn(2, *shape))


def test_transposed_layers_that_leave_holes_or_have_no_batch() -> None:
    check_capture(nn.ConvTranspose2d(2, 3, 2, stride=3, output_padding=1), torch.randn(2, 2, 3, 4))
    check_capture(nn.ConvTranspose2d(2, 3, 3, stride=2), torch.randn(2, 3, 4), dynamic=None)
    check_capture(nn.Conv3d(2, 3, 3, padding="same"), torch.randn(2, 4, 3, 4), dynamic=None)
    check_capture(nn.ConvTranspose1d(4, 4, 16, stride=8, padding=4, groups=4), torch.randn(2, 4, 5))


@pytest.mark.parametrize(
    "attrs",
    [{"stride": (70, 70)}, {"output_padding": (2, 0)}, {"padding": (40, 40, 0, 0)}, {"groups": 2}, {"stride": (1,)}],
    ids=str,
)
def test_what_no_transposed_convolution_can_be_is_refused(attrs: dict[str, Any]) -> None:
    m = Maker()
    x = m.input("x", 1, 3, 5, 5)
    with pytest.raises(GraphError):
        m.node("conv_transpose2d", x, m.floats(4, 3, 3, 3), **attrs)
