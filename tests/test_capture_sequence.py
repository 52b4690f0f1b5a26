"""Capture of sequence models: products, attention and normalization compute what torch computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from test_capture import Function, check, ops


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((2, 3, 4), (2, 4, 5)),
        ((2, 6, 3, 4), (2, 1, 4, 5)),
        ((2, 3, 4), (4, 5)),
        ((3, 4), (2, 4, 5)),
        ((2, 3, 4), (4,)),
        ((4,), (2, 4, 5)),
        ((4, 3), (3,)),
        ((4,), (4,)),
        ((1, 1, 7), (3, 7, 1)),
    ],
    ids=str,
)
def test_matmul_of_computed_operands(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    check(torch.matmul, torch.randn(a), torch.randn(b), dynamic=None)


@pytest.mark.parametrize(
    "function",
    [
        torch.bmm,
        lambda a, b: torch.baddbmm(a @ b, a, b),
        lambda a, b: torch.baddbmm(a @ b, a, b, beta=0.5, alpha=2.0),
        lambda a, b: torch.mm(a[0], b[0]),
        lambda a, b: torch.mv(a[0], b[0, :, 0]),
        lambda a, b: torch.dot(a[0, 0], b[0, :, 0]),
        lambda a, b: torch.addmm(b[0, 0], a[0], b[0], beta=2, alpha=3),
        lambda a, b: torch.addmv(a[0, :, 0], a[0], b[0, :, 0]),
        lambda a, b: torch.outer(a[0, 0], b[0, 0]),
        lambda a, b: torch.inner(a, b.mT),
        lambda a, b: torch.linalg.multi_dot([a[0], b[0], torch.ones(5, 2)]),
        lambda a, b: F.linear(a, b[0].T, b[0, 0]),
        lambda a, b: F.linear(a[0, 0], b[0].T),
        lambda a, b: F.linear(a, torch.ones(2, 4), a[0, 0, :2]),
        lambda a, b: torch.matmul(torch.ones(3, 3), a),
        lambda a, b: a @ torch.ones(2, 4, 6),
    ],
)
def test_products(function: Any) -> None:
    torch.manual_seed(0)
    check(function, torch.randn(2, 3, 4), torch.randn(2, 4, 5), dynamic=None)


def test_a_constant_matrix_makes_a_linear_layer() -> None:
    weight = torch.randn(4, 5)
    assert ops(check(lambda x: x @ weight, torch.randn(2, 3, 4))) == {"linear": 1}
    assert ops(check(lambda x: torch.addmm(weight[0], x, weight, alpha=2), torch.randn(3, 4))) == {"linear": 1}


MASKS = {
    "none": None,
    "bool": torch.rand(2, 1, 5, 7) > 0.3,
    "keys": torch.rand(2, 1, 1, 7) > 0.3,
    "float": torch.randn(3, 5, 7),
    "rows": torch.randn(5, 1),
    "empty row": torch.arange(35).reshape(5, 7) > 13,
    "minus infinity": torch.zeros(5, 7).masked_fill(torch.arange(35).reshape(5, 7) < 14, -torch.inf),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention(mask: str, scale: float | None) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 7, 4), torch.randn(2, 3, 7, 6)
    captured = check(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, MASKS[mask], scale=scale), q, k, v, dynamic=None
    )
    assert ops(captured) == {"attention": 1}


@pytest.mark.parametrize("shape", [(4, 6), (3, 4, 6), (2, 3, 4, 6), (2, 2, 3, 4, 6)], ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_attention_of_any_rank(shape: tuple[int, ...], causal: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape)
    check(lambda x: F.scaled_dot_product_attention(x, x * 2, x + 1, is_causal=causal), x, dynamic=None)
    if not causal:
        mask = torch.rand(*shape[:-1], shape[-2]) > 0.3
        check(lambda x: F.scaled_dot_product_attention(x, x * 2, x + 1, mask), x, dynamic=None)


def test_attention_with_shared_heads() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 6, 5, 4), torch.randn(2, 2, 7, 4)
    check(lambda q, k: F.scaled_dot_product_attention(q, k, k, enable_gqa=True), q, k)


def test_attention_with_a_computed_mask() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 7, 4)
    captured = check(lambda q, k: F.scaled_dot_product_attention(q, k, k, q @ k.mT), q, k)
    assert ops(captured)["attention"] == 1


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.LayerNorm(6), (2, 5, 6)),
        (nn.LayerNorm((5, 6), eps=0.1), (2, 5, 6)),
        (nn.LayerNorm(6, elementwise_affine=False), (2, 6)),
        (nn.LayerNorm(6, bias=False), (2, 3, 5, 6)),
        (nn.RMSNorm(6), (2, 5, 6)),
        (nn.RMSNorm((5, 6), eps=0.01), (2, 5, 6)),
        (nn.GroupNorm(2, 6), (2, 6, 5, 3)),
        (nn.GroupNorm(6, 6, affine=False), (2, 6, 7)),
        (nn.GroupNorm(3, 6), (2, 6)),
        (nn.GroupNorm(1, 6), (2, 6, 3, 2, 2)),
        (nn.InstanceNorm1d(6), (2, 6, 9)),
        (nn.InstanceNorm2d(6, affine=True), (2, 6, 5, 3)),
        (nn.InstanceNorm2d(6, track_running_stats=True), (2, 6, 5, 3)),
        (nn.InstanceNorm3d(6), (2, 6, 2, 3, 2)),
    ],
    ids=str,
)
def test_normalization(layer: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    check(layer, torch.randn(shape))


def test_rotary_embedding_is_plain_arithmetic() -> None:
    torch.manual_seed(0)
    angles = torch.outer(torch.arange(5.0), 1 / 100 ** (torch.arange(4.0) / 4)).repeat(1, 2)

    def rotate(x: torch.Tensor) -> torch.Tensor:
        half = torch.cat([-x[..., 4:], x[..., :4]], -1)
        return x * angles.cos() + half * angles.sin()

    check(Function(rotate), torch.randn(2, 3, 5, 8))
