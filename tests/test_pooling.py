"""Pools over any number of axes, windows as columns, and pixels traded for channels: as torch computes them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from against_torch import check as check_value
from against_torch import compare, convert
from graphs import BATCH, Maker
from lowbit.errors import GraphError, InputError
from test_capture import check
from test_session import check as check_session

CASES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "max 3d": (nn.MaxPool3d(3, 2, padding=1), (2, 3, 5, 6, 7)),
    "max 3d, unlike": (nn.MaxPool3d((1, 2, 3), (1, 2, 1), dilation=(1, 2, 1), ceil_mode=True), (2, 3, 3, 8, 7)),
    "max 3d, one": (nn.MaxPool3d(2), (3, 4, 6, 6)),
    "max 1d": (nn.MaxPool1d(3, 2, padding=1, dilation=2), (2, 4, 9)),
    "avg 3d": (nn.AvgPool3d(3, 2, padding=1, count_include_pad=False, ceil_mode=True), (2, 3, 5, 6, 8)),
    "avg 3d, depth": (nn.AvgPool3d((3, 1, 1), 1, padding=(1, 0, 0)), (2, 3, 5, 4, 4)),
    "avg, own divisor": (lambda x: F.avg_pool2d(x, 3, 2, 1, divisor_override=4), (2, 3, 7, 8)),
    "avg 1d": (nn.AvgPool1d(3, 2, padding=1), (2, 4, 9)),
    "adaptive avg 3d": (nn.AdaptiveAvgPool3d((2, 3, 1)), (2, 3, 5, 7, 4)),
    "adaptive avg 3d, one": (nn.AdaptiveAvgPool3d(1), (2, 3, 5, 7, 4)),
    "adaptive avg, kept": (nn.AdaptiveAvgPool2d((None, 2)), (2, 3, 5, 7)),
    "adaptive max 1d": (nn.AdaptiveMaxPool1d(4), (2, 3, 9)),
    "adaptive max 2d": (nn.AdaptiveMaxPool2d((3, 1)), (2, 3, 7, 5)),
    "adaptive max 3d": (nn.AdaptiveMaxPool3d((2, None, 3)), (2, 3, 5, 4, 7)),
    "lp 2d": (nn.LPPool2d(2, 3, 2), (2, 3, 7, 8)),
    "pixel shuffle": (nn.PixelShuffle(3), (2, 18, 4, 5)),
    "pixel unshuffle": (nn.PixelUnshuffle(2), (2, 3, 4, 6)),
    "channel shuffle": (nn.ChannelShuffle(3), (2, 12, 4, 5)),
    "unfold": (nn.Unfold((2, 3), dilation=(1, 2), padding=(1, 0), stride=(2, 1)), (2, 3, 6, 8)),
    "unfold, one": (nn.Unfold(2), (3, 6, 8)),
    "fold": (nn.Fold((6, 8), (2, 3), padding=(1, 0), stride=2), (2, 18, 12)),
    "fold and unfold": (nn.Sequential(nn.Unfold(3, padding=1), nn.Fold((5, 6), 3, padding=1)), (2, 4, 5, 6)),
    "local response norm": (nn.LocalResponseNorm(3, alpha=0.1), (2, 6, 4, 5)),
    "batch norm 3d": (nn.BatchNorm3d(4), (2, 4, 3, 4, 5)),
    "instance norm 3d": (nn.InstanceNorm3d(4, affine=True), (2, 4, 3, 4, 5)),
    "dropout 3d": (nn.Sequential(nn.Conv3d(2, 4, 3), nn.Dropout3d(), nn.ReLU()), (2, 2, 4, 5, 6)),
}


@pytest.mark.parametrize("name", CASES)
def test_as_torch(name: str) -> None:
    torch.manual_seed(0)
    function, shape = CASES[name]
    check(function, torch.randn(shape), dynamic="auto" if len(shape) > 3 or "one" not in name else None)


def draw_window(data: st.DataObject, axes: int, size: list[int]) -> dict[str, list[int]]:
    """A window that need not fit: with ceil_mode it may stick out, and be wider than the image."""
    kernel = [data.draw(st.sampled_from([1, 2, 3, 4, 9, 40])) for _ in range(axes)]
    return {
        "kernel_size": kernel,
        "stride": [data.draw(st.sampled_from([1, 2, 3, k])) for k in kernel],
        "padding": [data.draw(st.integers(0, k // 2)) for k in kernel],
    }


def fits(function: Any, x: torch.Tensor) -> bool:
    """Whether torch takes it, and no window is empty: torch's index is then none of the image."""
    try:
        y = function(x)
    except RuntimeError:
        return False
    return isinstance(y, torch.Tensor) or bool(y[0].isfinite().all())


@settings(max_examples=30, deadline=None)
@given(st.data(), st.integers(1, 3), st.sampled_from(["max", "avg"]), st.integers(0, 2**31))
def test_pools_as_torch(data: st.DataObject, axes: int, kind: str, seed: int) -> None:
    size = [data.draw(st.integers(1, 9)) for _ in range(axes)]
    options: dict[str, Any] = draw_window(data, axes, size) | {"ceil_mode": data.draw(st.booleans())}
    if kind == "max":
        options["dilation"] = [data.draw(st.integers(1, 3)) for _ in range(axes)]
        options["return_indices"] = data.draw(st.booleans())
    else:
        options["count_include_pad"] = data.draw(st.booleans())
        if axes > 1:
            options["divisor_override"] = data.draw(st.sampled_from([None, 1, 7]))
    pool = getattr(F, f"{kind}_pool{axes}d")
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed))
    x = (2 * x).round() / 2 if data.draw(st.booleans()) else x  # many maxima are equal
    assume(fits(lambda x: pool(x, **options), x))
    check_value(lambda x: pool(x, **options), x)


@settings(max_examples=40, deadline=None)
@given(st.data(), st.tuples(st.integers(1, 9), st.integers(1, 9)), st.sampled_from([1, 3, 17]), st.integers(0, 2**31))
def test_pools_in_sessions(data: st.DataObject, size: tuple[int, int], channels: int, seed: int) -> None:
    """Floats and codes."""
    window = draw_window(data, 2, list(size))
    (top, left), stride = window["padding"], window["stride"]
    sides = zip(window["kernel_size"], size, (top, left), stride, strict=True)
    kernel = [min(k, n + 2 * p + s - 1) for k, n, p, s in sides]
    frame = tuple(min(side, k - 1) for side, k in zip((top, left), kernel, strict=True) for _ in (0, 1))
    attrs = {"kernel": tuple(kernel), "stride": tuple(stride), "padding": frame}
    include = data.draw(st.integers(0, 1))
    m = Maker(seed, BATCH)
    x = m.input("x", "batch", channels, *size)
    q = m.node("quantize", x, scale=0.02, zero_point=110)
    codes = {"zero_point_x": 110, "multiplier": 0.8, "output": "u8", "zero_point_y": 90}
    outputs = [m.node("max_pool2d", v, **attrs, ceil_mode=1) for v in (x, q)]
    outputs.append(m.node("avg_pool2d", x, **attrs, ceil_mode=1, count_include_pad=include))
    outputs.append(m.node("quantized_avg_pool2d", q, **attrs, ceil_mode=1, count_include_pad=include, **codes))
    check_session(m.graph(*outputs), {"batch": 2}, seed)


def unpooled(axes: int, *window: Any, like: bool = False) -> Any:
    """Pooled and put back, and where."""

    def function(x: torch.Tensor) -> Any:
        y, places = getattr(F, f"max_pool{axes}d")(x, *window, return_indices=True)
        size = x.shape[-axes:] if like else None
        return getattr(F, f"max_unpool{axes}d")(2 * y, places, *window, output_size=size), places

    return function


UNPOOLED = {
    "1d": (unpooled(1, 2), (2, 3, 8)),
    "1d, overlapping": (unpooled(1, 3, 2, 1, like=True), (2, 3, 9)),
    "2d": (unpooled(2, 2), (2, 20, 8, 6)),
    "2d, overlapping": (unpooled(2, 3, 2, 1, like=True), (2, 5, 9, 7)),
    "2d, no batch": (unpooled(2, (2, 3)), (3, 8, 6)),
    "3d": (unpooled(3, 2), (2, 3, 8, 4, 6)),
    "3d, rest": (unpooled(3, 2, like=True), (2, 3, 5, 5, 6)),
    "adaptive 1d": (lambda x: F.adaptive_max_pool1d(x, 4, return_indices=True), (2, 3, 9)),
    "adaptive 2d": (lambda x: F.adaptive_max_pool2d(x, (4, None), return_indices=True), (2, 17, 9, 7)),
    "adaptive 3d": (lambda x: F.adaptive_max_pool3d(x, (2, 3, 4), return_indices=True), (2, 3, 5, 7, 6)),
}


@pytest.mark.parametrize("name", UNPOOLED)
def test_places_of_maxima(name: str) -> None:
    function, shape = UNPOOLED[name]
    check_value(function, (2 * torch.randn(shape)).round())


def test_places_of_what_does_not_compare() -> None:
    """The last NaN of a window; of minus infinities the first."""
    x = torch.randn(2, 18, 9, 7)
    x[0, :, 2:5, 3:5], x[1, :, :7] = torch.nan, -torch.inf
    check_value(lambda x: F.max_pool2d(x, 3, 2, 1, return_indices=True), x)


def test_a_place_outside_is_refused() -> None:
    """When the values are known, and before anything is written."""
    y = torch.randn(1, 2, 2, 3)
    places = torch.zeros(1, 2, 2, 3, dtype=torch.int64)
    model = convert(lambda y, places: F.max_unpool2d(y, places, 2), (y, places))
    for wrong in (-1, 24, 2**40):
        places[0, 1, 1, 2] = wrong
        with pytest.raises(InputError, match=f"{wrong} is out of range"):
            model(y, places)


def test_a_window_wider_than_the_image() -> None:
    """With ceil_mode it is cut off, whatever its size; without, or with steps that skip the image, it is refused."""
    x = torch.randn(2, 3, 2, 5)
    for function in (
        lambda x: F.avg_pool2d(x, 640, ceil_mode=True),
        lambda x: F.avg_pool2d(x, (9000, 9000), ceil_mode=True, divisor_override=10),
        lambda x: F.max_pool2d(x, 30, padding=3, dilation=2, ceil_mode=True, stride=60),
        lambda x: F.avg_pool1d(x[0], 77, padding=3, ceil_mode=True, count_include_pad=False),
    ):
        check_value(function, x)
    free = {2: torch.export.Dim("height", min=1, max=99), 3: torch.export.Dim("width", min=1, max=99)}
    pool = nn.AvgPool2d(640, ceil_mode=True)
    model = convert(pool, (x,), ((free,),))
    for size in ((1, 1), (2, 2), (40, 7)):
        compare(model, pool, (torch.randn(2, 3, *size),))
    m = Maker(0)
    y = m.input("y", 1, 3, 2, 5)
    for stride in ((640, 3), (637, 640)):
        with pytest.raises(GraphError, match="a window of 640 does not fit"):
            m.node("avg_pool2d", y, kernel=(640, 640), stride=stride, ceil_mode=1)
