"""Reading and writing at computed places, sizes as values, and what is refused: against torch, on every ISA."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lowbit
from against_torch import IDS, TABLE, Function, N, X, Y, check, check_free
from lowbit.capture import capture
from lowbit.errors import InputError, UnsupportedError
from lowbit.passes import optimize


def put(x: Tensor, *indices: Any, value: Any = 1.0, accumulate: bool = False) -> Tensor:
    value = value if isinstance(value, Tensor) else torch.tensor(value)
    return x.index_put(indices, value, accumulate)


INDEXING: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
    "embedding": (lambda t, i: (F.embedding(i, t), F.embedding(i.int(), t, padding_idx=1), t[i]), (TABLE, IDS)),
    "index_select": (
        lambda a, i: (a.index_select(0, i[0]), a.index_select(1, i[1]), a.index_select(-1, i[0]), a.take(i)),
        (X, IDS),
    ),
    "index": (
        lambda a, i: (
            a[i],
            a[:, i],
            a[..., i],
            a[i, i],
            a[:, i, i],
            a[i, :, i],
            a[i[:, :1], i[0]],
            a[i, 1],
            a[:, i, 1],
            a[None, i],
        ),
        (X, IDS),
    ),
    "negative indices": (lambda a, i: (a[i - 3], a[:, -1 - i, i], a[-1], a[:, -2:]), (X, IDS)),
    "index by a constant": (lambda a: (a[:, [2, 0, 1]], a[[0, 1], [2, 3]]), (X,)),
    "steps": (lambda a: (a[::2], a[:, 1::2], a[..., -3:-1], a[1], a[:, :, ::3], a[1:, ::2, 2:]), (X,)),
    "gather": (
        lambda a, i: (
            a.gather(1, i[None].expand(3, 2, 4)[..., None][:, :, 0]),
            a[:, :2, :4].gather(2, i[None].expand(3, 2, 4)),
        ),
        (X, IDS),
    ),
    "scatter": (
        lambda a, i: (
            a[0, :2, :4].scatter(1, i, a[1, :2, :4]),
            a[0, :2, :4].scatter_add(1, i, a[1, :2, :4]),
            a[0, :2, :4].scatter(1, i, 2.0),
            a[0, :2, :4].scatter_reduce(1, i, a[1, :2, :4], "amax"),
            a[0, :2].scatter(1, i.clamp(max=0)[:, :1], 7.0),
            torch.zeros(2, 5).scatter_(1, i, 1.0),
        ),
        (X, torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]])),
    ),
    "index_put": (
        lambda a, i: (
            put(a, i[0, :2], value=a[:2] * 2),
            put(a, i[0, :2], i[0, :2]),
            put(a, i, i, value=a[0, 0, 0], accumulate=True),
            put(a.long(), i[0], value=3),
            put(a, a > 0, value=0.5),
        ),
        (X, torch.tensor([[0, 2, 1, 1], [1, 0, 0, 2]])),
    ),
    "assignment": (lambda a, i: _assign(a, i), (X, torch.tensor([2, 0]))),
    "index_add": (
        lambda a, i: (
            a.index_add(1, i, a[:, :2]),
            a.index_add(0, i, a[:2], alpha=0.5),
            a.index_copy(1, i, a[:, 2:]),
            a.index_fill(2, i, 0.5),
            a.long().index_add(0, i, a[:2].long()),
        ),
        (X, torch.tensor([2, 0])),
    ),
    "slices replaced": (
        lambda a, b: (
            torch.select_scatter(a, b[0], 0, 1),
            torch.select_scatter(a, b[:, :, 0], 2, -1),
            torch.slice_scatter(a, b[:, :2], 1, 1, 3),
            torch.slice_scatter(a, b[:, :2], 1, 0, 4, 2),
            torch.slice_scatter(a, b[:, :2], 1, -2),
        ),
        (X, Y),
    ),
    "triangles": (
        lambda a, b: (
            a.tril(),
            a.triu(),
            a.tril(-1),
            a.triu(2),
            a.tril(1),
            a.triu(-9),
            b.tril(),
            (a > 0).triu(1),
            a.tril(9),
        ),
        (X, N),
    ),
    "bags": (
        lambda t, i, o: (
            F.embedding_bag(i, t),
            F.embedding_bag(i, t, mode="sum"),
            F.embedding_bag(i, t, mode="max"),
            F.embedding_bag(i.flatten(), t, o, mode="sum"),
            F.embedding_bag(i.flatten(), t, o, mode="mean", padding_idx=1),
            F.embedding_bag(i.flatten(), t, torch.cat([o, o[-1:] + 3]), mode="max", include_last_offset=True),
            F.embedding_bag(i.flatten(), t, o, mode="sum", per_sample_weights=t[0, :4].repeat(2)),
        ),
        (TABLE, IDS, torch.tensor([0, 3, 3, 5])),
    ),
    "one_hot": (lambda i: F.one_hot(i, 5), (IDS,)),
    "repeats": (
        lambda a: (
            a.repeat(2, 1, 3),
            a.repeat(2, 1, 1, 1),
            a.tile(2),
            a.repeat_interleave(3, 1),
            a.repeat_interleave(2),
            a.expand(2, -1, -1, -1),
        ),
        (X,),
    ),
    "turns": (
        lambda a: (
            a.roll(1, 0),
            a.roll((1, -2), (1, 2)),
            a.roll(3),
            a.flip(1),
            a.flip(0, 2),
            torch.fliplr(a),
            a.unfold(1, 2, 1),
            a.unfold(2, 3, 2),
        ),
        (X,),
    ),
    "grids": (
        lambda a: (
            *torch.meshgrid(a[0, 0], a[0, :, 0], indexing="ij"),
            *torch.meshgrid(a[0, 0], a[0, :, 0], indexing="xy"),
            *torch.broadcast_tensors(a[:, :1], a[0]),
        ),
        (X,),
    ),
    "copies": (
        lambda a, b: (a.clone().copy_(b[0]), a.clone().fill_(2.0), a.clone().zero_(), torch.eye(3) + a[0, 0, 0]),
        (X, Y),
    ),
}


def _assign(x: Tensor, indices: Tensor) -> Tensor:
    y = x.clone()
    y[0] = 1.0
    y[:, 1] = x[:, 2]
    y[indices] = 0.25
    y[y > 2] = 2.0
    y[..., ::2] += 1.0
    return y


@pytest.mark.parametrize("name", INDEXING)
def test_indexing(name: str) -> None:
    function, inputs = INDEXING[name]
    check(function, *inputs)


FREE_SIZES: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
    "sizes as numbers": (
        lambda a: (a + a.shape[0], a * a.shape[1], a.sum() / a.shape[1], a - a.shape[0] * a.shape[1]),
        (X,),
    ),
    "sums": (
        lambda a: (a.sum(1), a.mean((0, 1)), a.var(1), a.sum((0, 1, 2)), a.log_softmax(1), a.logsumexp(0), a.amax(1)),
        (X,),
    ),
    "positions": (
        lambda a: (
            torch.arange(a.shape[1]),
            torch.arange(1, a.shape[0] + 1) * 2,
            torch.arange(a.shape[1], dtype=torch.float32) * 0.5,
        ),
        (X,),
    ),
    "causal": (
        lambda a: (
            a[:, :, :1]
            .squeeze(-1)[:, None]
            .expand(-1, a.shape[1], -1)
            .masked_fill(torch.ones(a.shape[1], a.shape[1], dtype=torch.bool).triu(1), -torch.inf)
        ),
        (X,),
    ),
    "made": (
        lambda a: (
            a.new_zeros(a.shape[1], 2),
            torch.full((a.shape[0],), 2.5),
            torch.ones_like(a),
            torch.zeros(a.shape[0], a.shape[1]).long(),
        ),
        (X,),
    ),
    "turned": (
        lambda a: (a.flip(1), a.roll(1, 1), a.repeat(1, 2, 1), a.repeat_interleave(2, 0), a.tril(), a[:, :-1].sum(1)),
        (X,),
    ),
    "places": (lambda a: (a.argmax(1), *a.sort(1), a.cumsum(1), a.topk(1, 1).indices, a.median(1).values), (X,)),
    "last of each": (lambda n: n[torch.arange(n.shape[0]), (n > 0).int().argmax(-1)], (N,)),
    "from a mask": (lambda n: ((n != 1).int().cumsum(1) * (n != 1).int()).long() + 1, (N,)),
    "replaced": (lambda a: torch.slice_scatter(a, a[:, 1:] * 2, 1, 0, a.shape[1] - 1), (X,)),
    "one of free many": (lambda n: F.one_hot(n.abs(), 60).sum(), (N,)),
}


@pytest.mark.parametrize("name", FREE_SIZES)
def test_free_sizes(name: str) -> None:
    function, inputs = FREE_SIZES[name]
    check_free(function, *inputs)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda a: a[a > 0], "depends on the inputs' values"),
        (lambda a: a.nonzero(), "depends on the inputs' values"),
        (lambda a: torch.masked_select(a, a > 0), "depends on the inputs' values"),
        (lambda a: torch.unique(a), "depends on the inputs' values"),
        (lambda a: a.as_strided((2, 2), (1, 2)), "memory"),
        (lambda a: F.one_hot(a.long().abs()), "values"),
    ],
)
def test_what_depends_on_values_is_refused(function: Callable[..., Any], reason: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        capture(Function(function).eval(), X)
    assert re.search(reason, str(caught.value))
    assert re.search(r"(against_torch|test_indexing)\.py", str(caught.value))


def test_sizes_known_at_conversion_fold_away() -> None:
    """Positions and masks of fixed size are constants; nothing of their making is left."""

    def attend(x: Tensor) -> Tensor:
        places = torch.arange(x.shape[1])
        return x.masked_fill(places[:, None] < places, -torch.inf).softmax(-1) + (places * 0.1)

    graph = optimize(capture(Function(attend).eval(), (torch.randn(2, 6, 6),)).graph)
    assert {node.op for node in graph} <= {"where", "softmax", "add"}
    check(attend, torch.randn(2, 6, 6))


def test_an_index_out_of_range_is_the_callers_error() -> None:
    net = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 2)).eval()
    model = lowbit.convert(net, torch.tensor([[1, 2]]), scheme="float32", progress=False)
    with pytest.raises(InputError, match=r"'0' \(take\): index 10 is out of range for an axis of size 10"):
        model(torch.tensor([[1, 10]]))
    with pytest.raises(InputError, match="index -1 is out of range"):
        model(torch.tensor([[1, -1]]))
