"""Interpolation and padding: against torch, and sessions against the references on every instruction set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import lowbit
from against_torch import check, compare, convert
from graphs import BATCH, Maker
from lowbit.capture import capture
from lowbit.errors import GraphError, InputError
from lowbit.graph.ir import Symbol
from lowbit.ops import interpreter
from lowbit.runtime.session import Session
from test_capture import check as check_capture
from test_session import check as check_session

SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))


@settings(max_examples=80, deadline=None)
@given(st.data(), SIZES, SIZES, st.sampled_from([1, 2, 3, 16, 35]), st.integers(0, 2**31))
def test_resize_in_sessions(data: st.DataObject, before: Any, after: Any, channels: int, seed: int) -> None:
    axes = data.draw(st.sampled_from([2, 2, 3]))
    mode = data.draw(st.sampled_from(["nearest", "nearest_exact", "linear", *(["cubic"] if axes == 2 else [])]))
    attrs: dict[str, Any] = {"mode": mode, "align_corners": data.draw(st.integers(0, 1)), "size": after[:axes]}
    if data.draw(st.booleans()):
        attrs["scales"] = tuple(data.draw(st.floats(0.1, 4)) for _ in range(axes))
        attrs["snap"] = data.draw(st.sampled_from([0, 12, 128]))
    m = Maker(seed, BATCH)
    x = m.input("x", "batch", channels, *before[:axes])
    q = m.node("quantize", x, scale=0.02, zero_point=110)
    check_session(m.graph(m.node("resize", x, **attrs), m.node("resize", q, **attrs)), {"batch": 2}, seed)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(0, 2**31))
def test_pad_in_sessions(data: st.DataObject, seed: int) -> None:
    rank = data.draw(st.integers(1, 5))
    shape = data.draw(st.tuples(*[st.integers(2, 5)] * rank))
    mode = data.draw(st.sampled_from(["constant", "reflect", "replicate", "circular"]))
    most = [{"reflect": size - 1, "circular": size}.get(mode, 7) for size in shape]
    padding = tuple(data.draw(st.integers(0, side)) for side in most for _ in (0, 1))
    m = Maker(seed)
    outputs = []
    for place, dtype in enumerate(("f32", "u8", "i64", "bool", "i32")):
        x = m.input(f"x{place}", *shape, dtype=dtype)
        outputs.append(m.node("pad", x, padding=padding, mode=mode, value=1.0))
    check_session(m.graph(*outputs), {}, seed)


@pytest.mark.parametrize("mode", ["reflect", "circular"])
def test_borders_wider_than_the_input_are_refused(mode: str) -> None:
    m = Maker(0, {"wide": Symbol(minimum=1, maximum=9)})
    x, w = m.input("x", 2, 3), m.input("w", "wide")
    with pytest.raises(GraphError, match="cannot add 4"):
        m.node("pad", x, padding=(0, 0, 4, 0), mode=mode)
    graph = m.graph(m.node("pad", x, padding=(0, 0, 0, "wide"), mode=mode), m.node("clip", w))
    feed = {"x": np.zeros((2, 3), np.float32), "w": np.zeros(4, np.float32)}
    with pytest.raises(GraphError, match="cannot add 4"):
        interpreter.run(graph, feed)
    with pytest.raises(InputError, match="cannot add 4"):
        Session(graph).run(**feed)


CASES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "nearest": (lambda x: F.interpolate(x, scale_factor=2), (2, 3, 5, 6)),
    "nearest down": (lambda x: F.interpolate(x, size=(3, 4)), (2, 3, 7, 9)),
    "nearest scales": (lambda x: F.interpolate(x, scale_factor=(1.7, 0.6)), (2, 3, 7, 9)),
    "recomputed": (lambda x: F.interpolate(x, scale_factor=1.7, recompute_scale_factor=True), (2, 3, 7, 9)),
    "nearest exact": (lambda x: F.interpolate(x, size=(5, 13), mode="nearest-exact"), (2, 3, 7, 9)),
    "bilinear": (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), (2, 3, 5, 6)),
    "bilinear scales": (lambda x: F.interpolate(x, scale_factor=1.3, mode="bilinear"), (2, 3, 5, 9)),
    "bilinear corners": (lambda x: F.interpolate(x, size=(9, 1), mode="bilinear", align_corners=True), (2, 3, 5, 6)),
    "bicubic": (lambda x: F.interpolate(x, scale_factor=2.5, mode="bicubic"), (2, 3, 5, 6)),
    "bicubic corners": (lambda x: F.interpolate(x, size=(4, 11), mode="bicubic", align_corners=True), (2, 3, 5, 6)),
    "trilinear": (lambda x: F.interpolate(x, scale_factor=2, mode="trilinear"), (2, 3, 3, 4, 5)),
    "nearest 3d": (lambda x: F.interpolate(x, size=(5, 3, 2)), (2, 3, 3, 4, 5)),
    "linear": (lambda x: F.interpolate(x, scale_factor=3.0, mode="linear"), (2, 3, 5)),
    "nearest 1d": (lambda x: F.interpolate(x, size=7), (2, 3, 5)),
    "area": (lambda x: F.interpolate(x, size=(3, 4), mode="area"), (2, 3, 7, 9)),
    "sizes of another": (lambda x: F.interpolate(x[:, :, ::2, ::2], size=x.shape[2:], mode="bilinear"), (2, 3, 7, 9)),
    "reflect": (lambda x: F.pad(x, (1, 2, 3, 0), mode="reflect"), (2, 3, 4, 5)),
    "reflect 1d": (lambda x: F.pad(x, (3, 2), mode="reflect"), (2, 3, 5)),
    "replicate": (lambda x: F.pad(x, (1, 7, 0, 2), mode="replicate"), (2, 3, 4, 5)),
    "replicate 3d": (lambda x: F.pad(x, (1, 2, 0, 2, 1, 1), mode="replicate"), (2, 3, 3, 4, 5)),
    "circular": (lambda x: F.pad(x, (5, 1, 0, 3), mode="circular"), (2, 3, 4, 5)),
    "modules": (nn.Sequential(nn.ReflectionPad2d(2), nn.ReplicationPad2d(1), nn.CircularPad2d(2)), (2, 3, 4, 5)),
    "zeros": (nn.Sequential(nn.ZeroPad2d((1, 2, 0, 3)), nn.ConstantPad2d(1, 2.5)), (2, 3, 4, 5)),
    "conv reflect": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (2, 3, 5, 6)),
    "conv circular": (nn.Conv2d(3, 4, 3, stride=2, padding=(1, 2), padding_mode="circular"), (2, 3, 5, 6)),
    "conv replicate": (nn.Conv1d(3, 4, 5, padding="same", padding_mode="replicate"), (2, 3, 9)),
    "mask": (lambda x: (F.pad(x.bool(), (1, 1), value=True), F.pad(x.long(), (1, 1), value=-100)), (2, 3)),
}


@pytest.mark.parametrize("name", CASES)
def test_as_torch(name: str) -> None:
    torch.manual_seed(0)
    function, shape = CASES[name]
    check_capture(function, torch.randn(shape))


@settings(max_examples=25, deadline=None)
@given(st.data(), st.sampled_from(["bilinear", "bicubic"]), st.sampled_from([1, 3, 17]), st.integers(0, 2**31))
def test_antialias_as_torch(data: st.DataObject, mode: str, channels: int, seed: int) -> None:
    """(Where the width becomes 1, torch repeats the first row; the width here does not.)"""
    size = [data.draw(st.sampled_from([1, 2, 5, 60])), data.draw(st.sampled_from([5, 8, 60]))]
    options: dict[str, Any] = {"mode": mode, "antialias": True, "align_corners": data.draw(st.booleans())}
    if data.draw(st.booleans()):
        options["size"] = [data.draw(st.integers(1, 20)), data.draw(st.sampled_from([2, 7, 20, size[1]]))]
    else:
        factors = st.one_of(st.sampled_from([1.0, 1.1, 2.0, 0.5]), st.floats(0.4, 2))
        options["scale_factor"] = [data.draw(factors.filter(lambda f, n=n: int(n * f) > 0)) for n in size]
    x = torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(seed))
    x = x.to(memory_format=torch.channels_last) if data.draw(st.booleans()) else x
    check(lambda x: F.interpolate(x, **options), x)


def test_antialias_of_bytes_and_of_free_sizes() -> None:
    def smaller(x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, scale_factor=0.4, mode="bilinear", antialias=True)

    x = torch.randint(0, 256, (2, 3, 37, 50), dtype=torch.uint8)
    found = convert(smaller, (x,))(x)
    assert found.dtype == torch.uint8
    assert int((found.int() - smaller(x).int()).abs().max()) <= 1
    free = {2: torch.export.Dim("height", min=5, max=99), 3: torch.export.Dim("width", min=5, max=99)}
    model = convert(smaller, (torch.randn(2, 3, 20, 30),), ((free,),))
    for height, width in ((5, 7), (64, 99)):
        compare(model, smaller, (torch.randn(2, 3, height, width),))


INTERPOLATIONS = {
    1: ["nearest", "nearest-exact", "linear", "area"],
    2: ["nearest", "nearest-exact", "bilinear", "bicubic", "area"],
    3: ["nearest", "nearest-exact", "trilinear", "area"],
}


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(1, 3), st.sampled_from([1, 3, 4, 5]), st.integers(0, 2**31))
def test_interpolate_as_torch(data: st.DataObject, axes: int, channels: int, seed: int) -> None:
    """Every mode; sizes that stay or double and factors that say otherwise; images that are small for torch or not."""
    mode = data.draw(st.sampled_from(INTERPOLATIONS[axes]))
    size = data.draw(st.lists(st.sampled_from([1, 2, 3, 5, 7, 9, 70][: 9 - axes]), min_size=axes, max_size=axes))
    options: dict[str, Any] = {"mode": mode}
    if mode.endswith(("linear", "cubic")):
        options["align_corners"] = data.draw(st.booleans())
    if data.draw(st.booleans()):
        options["size"] = [data.draw(st.sampled_from([n, 2 * n, 6])) for n in size]
    else:
        factors = st.one_of(st.sampled_from([1.0, 1.1, 2.0, 2.1, 1 / 3, 0.5]), st.floats(0.2, 3))
        options["scale_factor"] = [data.draw(factors.filter(lambda f, n=n: int(n * f) > 0)) for n in size]
        options["recompute_scale_factor"] = data.draw(st.sampled_from([None, True]))
    x = torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(seed))
    if axes > 1 and data.draw(st.booleans()):
        x = x.to(memory_format=torch.channels_last if axes == 2 else torch.channels_last_3d)
    # torch may fuse what finds a place among 70 pixels: 2^-18 of a pixel, times what neighbours differ by.
    check(lambda x: F.interpolate(x, **options), x, within=3e-5)


def test_nearest_where_the_size_stays_or_doubles() -> None:
    """torch then takes the factor for 1 or 2, each axis by itself."""
    x = torch.arange(63.0).reshape(1, 1, 7, 9)
    same = convert(lambda x: F.interpolate(x, scale_factor=1.1), (x,))
    assert torch.equal(same(x), x)
    mixed = convert(lambda x: F.interpolate(x, scale_factor=(1.1, 2.1)), (x[..., :8],))
    assert torch.equal(mixed(x[..., :8]), x[..., :8].repeat_interleave(2, 3))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_nearest_of_free_sizes(layout: torch.memory_format) -> None:
    """Whether a size stays or doubles, and whether the image is small, is known at the call."""

    def function(x: torch.Tensor) -> Any:
        return F.interpolate(x, scale_factor=(1.1, 2.1)), F.interpolate(x, scale_factor=1.3, mode="nearest-exact")

    free = {2: torch.export.Dim("height", min=2, max=300), 3: torch.export.Dim("width", min=2, max=300)}
    model = convert(function, (torch.randn(2, 4, 8, 12).to(memory_format=layout),), (({**free},),))
    for height, width in ((9, 9), (11, 8), (7, 100), (2, 4)):
        x = torch.randn(2, 4, height, width).to(memory_format=layout)
        compare(model, function, (x,))


def test_bytes_are_rounded() -> None:
    x = torch.randint(0, 256, (2, 3, 7, 9), dtype=torch.uint8)
    model = convert(lambda x: F.interpolate(x, size=(5, 16), mode="bilinear"), (x,))
    expected = F.interpolate(x.double(), size=(5, 16), mode="bilinear")
    assert model(x).dtype == torch.uint8
    assert float((model(x).double() - expected).abs().max()) <= 0.501


@settings(max_examples=25, deadline=None)
@given(st.data(), st.sampled_from([2, 2, 3]), st.sampled_from([1, 3, 17]), st.integers(0, 2**31))
def test_grid_sample_as_torch(data: st.DataObject, axes: int, channels: int, seed: int) -> None:
    """Places inside, outside and halfway between pixels, and such as are no numbers."""
    options = {
        "mode": data.draw(st.sampled_from(["bilinear", "nearest", *(["bicubic"] if axes == 2 else [])])),
        "padding_mode": data.draw(st.sampled_from(["zeros", "border", "reflection"])),
        "align_corners": data.draw(st.booleans()),
    }
    before, after = (data.draw(st.lists(st.integers(1, 9), min_size=axes, max_size=axes)) for _ in range(2))
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, channels, *before, generator=generator)
    grid = torch.randn(2, *after, axes, generator=generator) * data.draw(st.sampled_from([0.5, 1, 20]))
    grid = (grid * 8).round() / 8 if data.draw(st.booleans()) else grid
    odd = [0.0, 1.0, -1.0, *([1e30, torch.inf, torch.nan] if axes == 2 else [])]
    grid.view(-1)[-1] = data.draw(st.sampled_from(odd))
    check(lambda x, grid: F.grid_sample(x, grid, **options), x, grid)


@pytest.mark.parametrize("align", [False, True])
def test_affine_grid_as_torch(align: bool) -> None:
    theta = torch.tensor([[[1.0, 0.1, 0], [0, 0.9, 0.2]], [[0.5, 0, -0.3], [0.2, 1.1, 0]]])

    def moved(x: torch.Tensor, theta: torch.Tensor) -> Any:
        grid = F.affine_grid(theta, list(x.shape), align_corners=align)
        return grid, F.grid_sample(x, grid, align_corners=align)

    check(moved, torch.randn(2, 3, 4, 6), theta)
    check(lambda theta: F.affine_grid(theta, [2, 3, 4, 2, 6], align_corners=align), torch.randn(2, 3, 4))


def test_resized_codes_stay_codes() -> None:
    """Between int8 layers nothing becomes float, and the result is near torch's."""
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 32, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = F.interpolate(self.first(x).relu(), scale_factor=(1.1, 2.1))
            y = F.interpolate(y, scale_factor=0.6, mode="bilinear", antialias=True)
            out: torch.Tensor = self.last(F.interpolate(y, size=(12, 13), mode="bilinear"))
            return out

    net, data = Net().eval(), [torch.randn(2, 16, 9, 11) for _ in range(3)]
    model = lowbit.convert(net, data[0], calibration=data, progress=False)
    found = [node.op for node in model.graph]
    assert found == ["quantize", "quantized_conv2d", "resize", "resample", "resample", "resize", "quantized_conv2d"]
    with torch.no_grad():
        expected = net(data[0])
    assert float((model(data[0]) - expected).norm() / expected.norm()) < 0.02


class Pyramid(nn.Module):
    """Down, up by a factor and to the size of another, padded to fit, joined."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2)

    def forward(self, x: torch.Tensor) -> Any:
        y = self.down(x)
        z = self.up(self.pool(y))
        z = F.pad(z, (0, y.shape[3] - z.shape[3], 0, y.shape[2] - z.shape[2]))
        wide = F.interpolate(y, scale_factor=1.5, mode="bilinear")
        return torch.cat([y, z], 1), wide, F.interpolate(y, size=x.shape[2:])


def test_height_and_width_may_be_free() -> None:
    torch.manual_seed(0)
    net = Pyramid().eval()
    free = {
        "x": {
            0: torch.export.Dim("batch"),
            2: torch.export.Dim("height", min=8, max=99),
            3: torch.export.Dim("width", min=8),
        }
    }
    captured = capture(net, (torch.randn(2, 3, 16, 20),), free)
    assert captured.graph.values["x"].shape == ("batch", 3, "height", "width")
    for shape in ((1, 16, 20), (3, 17, 31), (2, 8, 9)):
        x = torch.randn(shape[0], 3, *shape[1:])
        with torch.no_grad():
            expected = net(x)
        for y, reference in zip(Session(captured.graph).run(x.numpy()), expected, strict=True):
            np.testing.assert_allclose(y, reference.numpy(), rtol=0, atol=1e-5)
