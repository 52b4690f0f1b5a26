"""Pools over any number of axes, windows as columns, and pixels traded for channels: as torch computes them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from test_capture import check

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
