"""Arithmetic, logic, reductions and order: what torch computes, a session computes, on every ISA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from against_torch import MASK, SPECIAL, N, P, X, Y, check

ELEMENTWISE: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
    "compare": (lambda a, b: (a > b, a >= b, a < b, a <= b, a == b, a != b, a > 0, a == 1.5, a > 1), (X, Y)),
    "compare numbers": (lambda a, b: (a > b, a == 2, a > 1.5, a != b, a >= b.float()), (N, P)),
    "compare special": (lambda a: (a == a, a > 0, a <= torch.inf, a.isnan(), a.isinf(), a.isfinite()), (SPECIAL,)),
    "compare bools": (lambda a, b: (a == b, a != b, a > b, a < b), (MASK, MASK.flip(0))),
    "logic": (
        lambda a, b: (a & b, a | b, a ^ b, ~a, a.logical_and(b), a.logical_or(b), a.logical_xor(b), a.logical_not()),
        (MASK, MASK.flip(0)),
    ),
    "logic of numbers": (
        lambda a, b: (a & b, a | b, a ^ b, ~a, a.logical_and(b), a.logical_not(), a & 3, a.int() | 5),
        (N, P),
    ),
    "where": (
        lambda c, a, b: (
            torch.where(c, a, b),
            torch.where(c, a, 1.5),
            torch.where(c, 2.0, b),
            torch.where(a > 0, 1.0, 0.0),
        ),
        (MASK, X, Y),
    ),
    "where broadcasts": (lambda c, a, b: torch.where(c[:, :1], a[0], b[:, :, :1]), (MASK, X, Y)),
    "where of numbers": (
        lambda a, b: (torch.where(a > 0, a, b), torch.where(a > 0, a, 1.5), a.masked_fill(b > 3, 7)),
        (N, P),
    ),
    "masked_fill": (
        lambda a, m: (a.masked_fill(m, -torch.inf), a.masked_fill(m, a.sum()), a.clone().masked_fill_(m, 1)),
        (X, MASK),
    ),
    "integers": (
        lambda a, b: (a + b, a - b, a * b, a + 1, 2 - a, -a, a.abs(), a.sign(), a * True, a + 0.5, a / b, a.square()),
        (N, P),
    ),
    "division": (
        lambda a, b: (
            *(torch.div(a, b, rounding_mode=mode) for mode in ("floor", "trunc")),
            a // b,
            a % b,
            torch.fmod(a, b),
            a // 3,
            a % -3,
            -7 % b,
            torch.remainder(5, b),
        ),
        (N, P),
    ),
    "division of floats": (
        lambda a, b: (
            *(torch.div(a, b, rounding_mode=mode) for mode in ("floor", "trunc")),
            a // b,
            a % b,
            torch.fmod(a, b),
            a // 0.3,
            a % -0.3,
            torch.remainder(5.0, b),
        ),
        (X, Y),
    ),
    "small integers": (
        lambda a, b: (a + b, a * b, a.maximum(b), a > b, a.float() / 2),
        (N.to(torch.int8), P.to(torch.int8)),
    ),
    "bytes": (lambda a, b: (a + b, a * 40, a.minimum(b), a & b, a == b), (P.to(torch.uint8), N.abs().to(torch.uint8))),
    "int32": (lambda a, b: (a + b, a * b, a // b, a % b, a.minimum(b), a + 1, a * 0.5), (N.int(), P.int())),
    "bool arithmetic": (lambda a, b: (a + b, a * b, a + 1, a * 2.5, a.float(), a.maximum(b)), (MASK, MASK.flip(1))),
    "extremes": (
        lambda a, b: (a.maximum(b), a.minimum(b), torch.max(a, b), torch.min(a, b), torch.fmax(a, b), torch.fmin(a, b)),
        (SPECIAL, SPECIAL.flip(1)),
    ),
    "clamp": (
        lambda a, b: (
            a.clamp(-0.5, 0.5),
            a.clamp(min=b),
            a.clamp(b, b + 1),
            a.clamp_min(0),
            a.clamp_max(b),
            a.clip(max=0.2),
        ),
        (X, Y),
    ),
    "clamp numbers": (lambda a, b: (a.clamp(-2, 3), a.clamp(min=b), a.clamp_max(2)), (N, P)),
    "powers": (
        lambda a: (a**2, a**3, a**-1, a**0.5, a**-0.5, a**4, a**1.7, 2.0**a, a**a, a**0, a.pow(-2)),
        (X.abs() + 0.1,),
    ),
    "powers special": (lambda a: (a**3.0, a**0.3, a**-1.5, a**5, 0.5**a, a**a), (SPECIAL,)),
    "powers of numbers": (lambda a, b: (a**2, a**3, a**b, b**2.5), (N, P)),
    "roundings": (
        lambda a: (a.floor(), a.ceil(), a.trunc(), a.round(), a.frac(), a.round(decimals=1)),
        (SPECIAL[:, :6],),
    ),
    "roundings of numbers": (lambda a: (a.floor(), a.ceil(), a.trunc(), a.round()), (N,)),
    "functions": (
        lambda a: (
            a.erf(),
            a.sin(),
            a.cos(),
            a.tan(),
            a.exp2(),
            a.expm1(),
            a.log1p(),
            a.sinh(),
            a.cosh(),
            a.sign(),
            a.abs(),
        ),
        (X.clamp(min=-0.9),),
    ),
    "logarithms": (
        lambda a: (a.log(), a.log2(), a.log10(), a.logit(), a.logit(0.3), a.rsqrt(), a.reciprocal()),
        (X.sigmoid(),),
    ),
    "functions of numbers": (lambda a: (a.sqrt(), a.exp(), a.sigmoid(), a.sin(), a.reciprocal()), (P,)),
    "compositions": (
        lambda a, b: (
            torch.lerp(a, b, 0.3),
            torch.lerp(a, b, b),
            torch.addcmul(a, a, b, value=0.5),
            torch.addcdiv(a, a, b + 9),
            torch.logaddexp(a, b),
            torch.hypot(a, b),
            torch.add(a, b, alpha=3),
            torch.sub(a, 1, alpha=2),
            torch.rsub(a, b),
        ),
        (X, Y),
    ),
    "nan_to_num": (lambda a: (a.nan_to_num(), a.nan_to_num(1.5)), (SPECIAL,)),
    "casts": (
        lambda a: (a.to(torch.int64), a.int(), a.bool(), a.long().float(), a.to(torch.uint8).to(torch.bool)),
        (X.abs() * 9,),
    ),
    "outer": (lambda a, b: torch.outer(a[0, 0], b[0, :, 0]), (X, Y)),
    "in place": (lambda a, b: a.clone().add_(b).mul_(2).sub_(1).clamp_(-1, 1).square_().neg_(), (X, Y)),
    "full": (
        lambda a: (
            torch.full_like(a, 2.5),
            torch.zeros_like(a),
            a.new_ones(2, 3),
            a.new_full((2,), -torch.inf),
            a.new_zeros(3),
            torch.ones(4) + a[0, 0, 0],
            torch.arange(3, dtype=a.dtype) * a[0, 0, :3],
            torch.full((2, 2), 7) + a.long()[0, :2, :2],
        ),
        (X,),
    ),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise(name: str) -> None:
    function, inputs = ELEMENTWISE[name]
    check(function, *inputs)


REDUCTIONS: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
    "sums": (lambda a: (a.sum(), a.sum(1), a.sum((0, 2)), a.sum(-1, keepdim=True), a.sum((1, 2), keepdim=True)), (X,)),
    "sums of numbers": (
        lambda a: (a.sum(), a.sum(1), (a > 0).sum(1), a.int().sum(0), a.prod(1), a.sum(1, dtype=torch.float32)),
        (N,),
    ),
    "means": (lambda a: (a.mean(), a.mean(1), a.mean((0, 2)), a.mean((1, 2), keepdim=True)), (X,)),
    "products": (lambda a: (a.prod(), a.prod(1), a.prod(2, keepdim=True)), (X,)),
    "extremes": (
        lambda a: (
            a.amax(1),
            a.amin((0, 2)),
            a.max(),
            a.min(),
            *a.max(1),
            *a.min(2, keepdim=True),
            *torch.aminmax(a, dim=1),
        ),
        (X,),
    ),
    "extremes special": (
        lambda a: (a.amax(1), a.amin(1), a.argmax(1), a.argmin(1), *a.max(1)),
        (SPECIAL.repeat(2, 1),),
    ),
    "extremes of numbers": (lambda a: (a.amax(1), a.min(), *a.max(1), (a > 0).amax(1), a.to(torch.int8).amin(0)), (N,)),
    "places": (lambda a: (a.argmax(), a.argmax(1), a.argmin(-1, keepdim=True), a.argmax(0), a.long().argmax(2)), (X,)),
    "any and all": (
        lambda m: (
            m.any(),
            m.all(),
            m.any(1),
            m.all(2, keepdim=True),
            m.float().any(0),
            torch.count_nonzero(m),
            m.long().count_nonzero(1),
        ),
        (MASK,),
    ),
    "spread": (
        lambda a: (
            a.var(),
            a.std(),
            a.var(1),
            a.std((0, 2)),
            a.var(1, unbiased=False),
            a.std(1, correction=0, keepdim=True),
            torch.var_mean(a, 1),
            torch.std_mean(a, (0, 1), correction=2),
        ),
        (X,),
    ),
    "norms": (
        lambda a: (
            a.norm(),
            a.norm(dim=1),
            a.norm(1, dim=(0, 1)),
            a.norm(3, dim=2, keepdim=True),
            torch.linalg.vector_norm(a, dim=1),
            torch.linalg.vector_norm(a, torch.inf, dim=1),
            torch.linalg.vector_norm(a, -torch.inf, dim=(0, 1)),
            torch.linalg.vector_norm(a, 0, dim=1),
            torch.linalg.norm(a, dim=1),
            F.normalize(a, dim=1),
            F.normalize(a, p=1, dim=-1),
        ),
        (X,),
    ),
    "exponentials": (
        lambda a: (
            a.logsumexp(1),
            a.logsumexp((0, 2), keepdim=True),
            a.log_softmax(1),
            a.log_softmax(-1),
            a.softmax(0),
        ),
        (X * 20,),
    ),
    "logsumexp of nothing": (lambda a: a.logsumexp(1), (torch.tensor([[-torch.inf, -torch.inf], [0.0, -torch.inf]]),)),
    "running": (lambda a: (a.cumsum(0), a.cumsum(1), a.cumsum(-1), a.cumprod(1)), (X,)),
    "running of numbers": (lambda a, m: (a.cumsum(1), a.int().cumsum(0), m.cumsum(2), m.long().cumsum(1)), (N, MASK)),
    "order": (
        lambda a: (*a.sort(1), *a.sort(descending=True), a.argsort(0), *a.topk(2), *a.topk(3, 1, largest=False)),
        (X,),
    ),
    "order of numbers": (
        lambda a: (*a.sort(dim=1, stable=True), *a.sort(dim=1, descending=True, stable=True), a.topk(2, 0).values),
        (N,),
    ),
    "order special": (lambda a: (a.sort(1).values, a.sort(1, descending=True).values, a.topk(4).values), (SPECIAL,)),
    "median": (lambda a: (*a.median(1), *a.median(2, keepdim=True)), (X,)),
    "differences": (
        lambda a: (a.diff(), a.diff(dim=0), a.diff(n=2, dim=1), a.diff(dim=1, prepend=a[:, :1]), (a > 0).diff()),
        (X,),
    ),
    "scalars": (
        lambda a: (a.sum().cumsum(0), a.sum().amax(), a.sum().argmax(), a.max().sum(), a.sum().var(unbiased=False)),
        (X,),
    ),
}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions_and_order(name: str) -> None:
    function, inputs = REDUCTIONS[name]
    check(function, *inputs)
