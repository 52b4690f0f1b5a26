"""What people bring converts, or is refused by one error that names the line: sizes, checks, state, odd inputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lowbit
from lowbit.errors import InputError


class Function(nn.Module):
    """Calls a function on what a layer makes of the first input, and the other inputs."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.function(self.layer(inputs[0]), *inputs[1:])


def convert(net: nn.Module, *inputs: Any, **options: Any) -> lowbit.Model:
    """In float32, without warnings on the screen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return lowbit.convert(net.eval(), inputs, scheme="float32", progress=False, **options)


def assert_same(model: lowbit.Model, net: nn.Module, *inputs: Any) -> None:
    with torch.no_grad():
        torch.testing.assert_close(model(*inputs), net(*inputs), rtol=1e-4, atol=1e-5)


# --------------------------------------------------------------------------------------------- sizes that the code needs


def graph_layer(h: Tensor, edges: Tensor) -> Tensor:
    source, target = edges[0], edges[1]
    return torch.zeros_like(h).index_add(0, target, h[source])


def halves(h: Tensor) -> Tensor:
    first, second = h.chunk(2)
    return first - second


OF_A_BATCH: dict[str, Callable[[Tensor], Tensor]] = {
    "constants": lambda h: h[0] - h[1],
    "from the end": lambda h: h[-1] - h[-2],
    "one": lambda h: h[1],
    "pair": lambda h: h[:2] * torch.ones(2, 8),
    "alternating": lambda h: h[::2] - h[1::2],
    "halves": halves,
    "half": lambda h: h[: h.shape[0] // 2] - h[h.shape[0] // 2 :],
    "unbind": lambda h: torch.stack(h.unbind(0)[::-1]),
    "split": lambda h: h.split(2)[0] + h.split(2)[1],
    "view": lambda h: h.view(2, -1, 8).sum(1),
    "pairs": lambda h: h.view(-1, 2, 8).sum(1),
    "flat": lambda h: h.reshape(-1, 16),
    "best": lambda h: h.topk(2, 0).values,
    "product": lambda h: h[0] @ h[1],
    "columns": lambda h: h.T[:, 1],
    "loop": lambda h: sum((h[i] * i for i in range(h.shape[0])), torch.zeros(8)),
}


@pytest.mark.parametrize("name", OF_A_BATCH)
def test_constants_on_the_batch_axis(name: str) -> None:
    """Where torch takes another batch, so does the model, with torch's values, or it refuses it; a note says so."""
    net = Function(OF_A_BATCH[name])
    model = convert(net, torch.randn(4, 8))
    assert_same(model, net, torch.randn(4, 8))
    assert any("batch is" in note and "test_refusals.py:" in note for note in model.notes)
    for batch in (1, 2, 3, 6):
        x = torch.randn(batch, 8)
        try:
            found = model(x)
        except InputError as error:
            assert "must have shape [4" in str(error) or "must be from 2" in str(error)
        else:
            with torch.no_grad():
                torch.testing.assert_close(found, net(x), rtol=1e-4, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_random_parts_of_a_batch(data: st.DataObject) -> None:
    batch = data.draw(st.integers(2, 6))
    where = st.integers(-batch, batch - 1)
    part = st.one_of(where, st.builds(slice, where | st.none(), where | st.none(), st.integers(1, 3)))
    parts = data.draw(st.lists(part, min_size=1, max_size=3))
    net = Function(lambda h: [h[item] for item in parts])
    model = convert(net, torch.randn(batch, 8))
    assert_same(model, net, torch.randn(batch, 8))


def test_the_edges_of_a_graph() -> None:
    net = Function(graph_layer)
    model = convert(net, torch.randn(5, 8), torch.randint(0, 5, (2, 10)))
    for nodes, edges in ((5, 10), (9, 4), (1, 1)):
        assert_same(model, net, torch.randn(nodes, 8), torch.randint(0, nodes, (2, edges)))


def test_an_example_that_is_smaller_than_what_the_code_takes_is_fixed() -> None:
    net = Function(lambda h: h[:2] * torch.ones(2, 8))
    model = convert(net, torch.randn(1, 8))
    assert_same(model, net, torch.randn(1, 8))


def test_one_tensor_as_two_inputs_is_two() -> None:
    net = Function(lambda h, other: h - 2 * other)
    x = torch.randn(2, 8)
    assert_same(convert(net, x, x), net, torch.randn(3, 8), torch.randn(3, 8))
    assert_same(convert(net, x, x, dynamic=None), net, torch.randn(2, 8), torch.randn(2, 8))
