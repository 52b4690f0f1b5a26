"""Calls with a batch of 0: torch's shapes, dtypes and values, in every scheme, before and after a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import lowbit
from architectures import ARCHITECTURES
from lowbit import InputError
from lowbit.ops import interpreter

SCHEMES = ("float32", "int8", "int8 static", "int4")


class Net(nn.Module):
    """A function of the inputs and of a layer's result."""

    def __init__(self, function: Callable[..., Any], layer: nn.Module | None = None) -> None:
        super().__init__()
        self.function, self.layer = function, layer or nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Any:
        return self.function(x, self.layer(x))


def converted(net: nn.Module, inputs: Any, scheme: str) -> lowbit.Model:
    more: dict[str, Any] = {"calibration": [inputs]} if scheme == "int8 static" else {}
    return lowbit.convert(net, inputs, scheme=scheme.split()[0], progress=False, **more)


def leaves(output: Any) -> list[Tensor]:
    return [torch.as_tensor(leaf) for leaf in pytree.tree_leaves(output)]


def assert_same(found: Any, expected: Any) -> None:
    results, wanted = leaves(found), leaves(expected)
    assert [(y.shape, y.dtype) for y in results] == [(y.shape, y.dtype) for y in wanted]
    for y, z in zip(results, wanted, strict=True):
        torch.testing.assert_close(y, z, equal_nan=True)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["siamese", "embedding_bag", "gru_tagger"])
def test_architectures(name: str, scheme: str) -> None:
    """A whole net answers a batch of 0 as torch does."""
    architecture = ARCHITECTURES[name]
    net, inputs = architecture.net(), architecture.example(*architecture.shapes[0])
    empty = {key: x[:0] for key, x in inputs.items()}
    model = converted(net, inputs, scheme)
    with torch.no_grad():
        assert_same(model(**empty, check_finite=True), net(**empty))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_way_to_call(scheme: str, tmp_path: Path) -> None:
    """NumPy arrays, a loaded file, a session and the reference agree."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5)).eval()
    model = converted(net, (torch.randn(2, 3, 8, 8),), scheme)
    x = np.zeros((0, 3, 8, 8), np.float32)
    model.save(tmp_path / "net.lowbit")
    loaded = lowbit.load(tmp_path / "net.lowbit")
    into = np.empty((0, 5), np.float32)
    model.session.run_into([x], [into])
    (reference,) = interpreter.run(model.graph, {model.graph.inputs[0]: x}).values()
    for y in (model(x), loaded(x), loaded(x, check_finite=True), *model.session.run(x), reference):
        assert (type(y), y.shape, y.dtype) == (np.ndarray, (0, 5), np.float32)
    assert len(model.profile(x)) == 0
    assert len(model.compare(x)) > 0
    assert model(np.ones((1, 3, 8, 8), np.float32)).shape == (1, 5)


ANSWERED: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "rows": lambda x, y: {"y": y, "best": y.argmax(1), "top": y.topk(2, 1), "size": x.shape[0]},
    "sums": lambda x, y: (y.sum(0), y.sum(), (x > 0).sum(), x.prod(0), (x > 0).any(), (x > 0).all(0)),
    "means": lambda x, y: (y.mean(0), y.mean(), x.mean((0, 1), keepdim=True), y - y.mean(0), x.var(0), x.std()),
    "losses": lambda x, y: (F.mse_loss(y, y * 2), x.norm(), y.sum(0) / x.shape[0]),
    "products over the batch": lambda x, y: (y.T @ x, y @ y.T, torch.einsum("bi,bj->ij", y, x)),
    "joins": lambda x, y: (
        torch.cat([y, torch.ones(2, 4)]),
        torch.cat([y, y]),
        torch.stack([x, x]),
        F.pad(x, (0, 0, 1, 1)),
    ),
    "shapes": lambda x, y: (y.reshape(-1), y.reshape(-1, 2), y.flip(0), y.repeat(2, 1), torch.arange(x.shape[0])),
    "along the batch": lambda x, y: (y.softmax(0), y.cumsum(0), F.normalize(x, dim=0), x.sort(0)),
    "complex": lambda x, y: torch.complex(y, y),
    "half precision": lambda x, y: (y.half(), y.to(torch.float64), y.to(torch.bfloat16)),
    "attention": lambda x, y: F.scaled_dot_product_attention(*(y.reshape(x.shape[0] * 2, 1, 2) for _ in range(3))),
    "pairs": lambda x, y: y.reshape(x.shape[0] // 2, 2, 4).sum(1),
}


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
@pytest.mark.parametrize("scheme", ["float32", "int8"])
@pytest.mark.parametrize("name", ANSWERED)
def test_results(name: str, scheme: str) -> None:
    """Outputs with and without a batch axis are torch's."""
    net = Net(ANSWERED[name]).eval()
    model = converted(net, (torch.randn(4, 6),), scheme)
    with torch.no_grad():
        assert_same(model(torch.zeros(0, 6)), net(torch.zeros(0, 6)))


@pytest.mark.parametrize(
    "function",
    [lambda x, y: y.amax(0), lambda x, y: y.argmax(0), lambda x, y: y[0], lambda x, y: y[-1]],
    ids=["amax", "argmax", "first", "last"],
)
def test_no_answer(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    """What torch refuses is refused by the line, and the model goes on."""
    model = converted(Net(function).eval(), (torch.randn(4, 6),), "int8")
    with pytest.raises(InputError, match=r"no answer where batch is 0: test_empty\.py:\d+"):
        model(torch.zeros(0, 6))
    assert model(torch.ones(2, 6)).shape[-1] == 4


def test_two_samples() -> None:
    """A model that needs two samples says so."""
    model = converted(Net(lambda x, y: y + x[0, :4] - x[1, :4]).eval(), (torch.randn(4, 6),), "float32")
    with pytest.raises(InputError, match=r"batch.* at least 2; it is 0"):
        model(torch.zeros(0, 6))


def test_one_of_two_batches() -> None:
    """Batches of their own may be empty one by one."""

    class Scores(nn.Module):
        def forward(self, images: Tensor, texts: Tensor) -> Tensor:
            return images @ texts.T

    model = converted(Scores().eval(), (torch.randn(2, 6), torch.randn(3, 6)), "float32")
    for sizes in ((0, 3), (2, 0), (0, 0)):
        assert model(*(torch.zeros(size, 6) for size in sizes)).shape == sizes


def test_compiled_by_dynamo() -> None:
    """A backend's graph for an empty batch is torch's own."""
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU()).eval()
    compiled = torch.compile(net, backend="lowbit")
    with torch.no_grad():
        assert [tuple(compiled(torch.zeros(size, 6)).shape) for size in (2, 0, 3)] == [(2, 4), (0, 4), (3, 4)]
