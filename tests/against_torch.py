"""One function in torch, and converted: the same dtypes, shapes and values, on every ISA and by the interpreter."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import lowbit
from lowbit.ops import interpreter
from lowbit.runtime.session import Session

FREE = {0: "rows", 1: "columns"}
"""Both leading sizes of every input, where a test says so."""


class Function(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs)


def convert(function: Callable[..., Any], inputs: tuple[Tensor, ...], dynamic: Any = None) -> lowbit.Model:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = Function(function).eval()
        return lowbit.convert(net, inputs, scheme="float32", dynamic=dynamic, progress=False)


def compare(
    model: lowbit.Model, function: Callable[..., Any], inputs: tuple[Tensor, ...], within: float = 2e-6
) -> None:
    """dtypes, shapes and values as torch's; every session and the interpreter agree."""
    expected = pytree.tree_leaves(function(*(x.clone() for x in inputs)))
    found = pytree.tree_leaves(model(*inputs))
    assert len(found) == len(expected)
    for place, (a, e) in enumerate(zip(found, expected, strict=True)):
        assert (a.dtype, a.shape) == (e.dtype, e.shape), place
        torch.testing.assert_close(a, e, rtol=2e-5, atol=within, equal_nan=True, msg=lambda m, p=place: f"{p}: {m}")
    graph = model.graph
    feeds = dict(zip(graph.inputs, (x.numpy() for x in inputs), strict=True))
    reference = interpreter.run(graph, feeds)
    scalar = Session(graph, isa="scalar", threads=1).run(**feeds)
    for name, y in zip(graph.outputs, scalar, strict=True):
        if y.dtype.kind == "f":
            np.testing.assert_allclose(y, reference[name], rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(y, reference[name])
    for y, other in zip(scalar, Session(graph, threads=2).run(**feeds), strict=True):
        np.testing.assert_array_equal(y, other)


def check(function: Callable[..., Any], *inputs: Tensor, within: float = 2e-6) -> None:
    compare(convert(function, inputs), function, inputs, within)


def check_free(
    function: Callable[..., Any], *inputs: Tensor, sizes: tuple[tuple[int, int], ...] = ((1, 4), (7, 3))
) -> None:
    """One conversion for other sizes of the first two axes, too."""
    names = [
        {place: torch.export.Dim(FREE[place], min=1 + 2 * place, max=64) for place in range(min(x.dim(), 2))}
        for x in inputs
    ]
    model = convert(function, inputs, (tuple(names),))
    compare(model, function, inputs)
    for rows, columns in sizes:
        generator = torch.Generator().manual_seed(rows)
        other = []
        for x in inputs:
            shape = [*((rows, columns)[: x.dim()]), *x.shape[2:]]
            noise = torch.randn(shape, generator=generator)
            other.append(noise if x.is_floating_point() else (noise * 5).to(x.dtype))
        compare(model, function, tuple(other))


torch.manual_seed(0)
X = torch.randn(3, 4, 5)
Y = torch.randn(3, 4, 5)
SPECIAL = torch.tensor([[0.0, -0.0, 1.5, -2.5, torch.inf, -torch.inf, torch.nan, 0.5, -0.5, 1e30, 2.5, 7.0]])
N = torch.randint(-9, 10, (3, 4))
P = torch.randint(1, 6, (3, 4))
MASK = torch.randn(3, 4, 5) > 0
IDS = torch.randint(0, 3, (2, 4))
TABLE = torch.randn(11, 6)
