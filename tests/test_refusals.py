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
from torch import distributions as D
from torch.nn import functional as F

import lowbit
from lowbit.errors import InputError, UnsupportedError


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


# ------------------------------------------------------------------------------------------------------------- sizes


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
        free = model.graph.symbols.get("batch")
        if free is not None and batch >= free.minimum:
            assert_same(model, net, torch.randn(batch, 8))
        else:
            with pytest.raises(InputError, match=r"must have shape \[4|must be from 2"):
                model(torch.randn(batch, 8))


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


def test_code_that_takes_another_way_for_one_sample() -> None:
    net = Function(lambda h: h * 2 if h.shape[0] > 1 else h - 1)
    model = convert(net, torch.randn(3, 8))
    assert any("at least 2" in note and "test_refusals.py:" in note for note in model.notes)
    assert_same(model, net, torch.randn(2, 8))
    with pytest.raises(InputError, match="from 2"):
        model(torch.randn(1, 8))
    assert_same(convert(net, torch.randn(1, 8)), net, torch.randn(1, 8))


def test_one_tensor_as_two_inputs_is_two() -> None:
    net = Function(lambda h, other: h - 2 * other)
    x = torch.randn(2, 8)
    assert_same(convert(net, x, x), net, torch.randn(3, 8), torch.randn(3, 8))
    assert_same(convert(net, x, x, dynamic=None), net, torch.randn(2, 8), torch.randn(2, 8))


# --------------------------------------------------------------------------------------------------------------- checks

WIDTH, STEPS, MEMORY = 16, 5, 7


class Masked(nn.Module):
    """A transformer's part that is called with masks: constants, made for the input's length, or inputs."""

    def __init__(self, net: nn.Module, call: Callable[..., Tensor], **buffers: Tensor) -> None:
        super().__init__()
        self.net, self.call = net, call
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.call(self, *inputs)


def causal(steps: int) -> Tensor:
    return nn.Transformer.generate_square_subsequent_mask(steps)


def encoder(**options: Any) -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, 2, 32, batch_first=True, **options), 1)


def decoder() -> nn.Module:
    return nn.TransformerDecoder(nn.TransformerDecoderLayer(WIDTH, 2, 32, batch_first=True), 1)


def whole() -> nn.Module:
    return nn.Transformer(WIDTH, 2, 1, 1, 32, batch_first=True)


def ends(batch: int, steps: int) -> Tensor:
    """A padding mask: the second half of every other row."""
    return (torch.arange(steps) > steps // 2) & (torch.arange(batch) % 2 == 1)[:, None]


MASKED: dict[str, tuple[Callable[[], Masked], Callable[[int, int, int], tuple[Tensor, ...]], bool]] = {
    "constant": (
        lambda: Masked(encoder(), lambda m, x: m.net(x, mask=causal(STEPS))),
        lambda b, n, k: (torch.randn(b, STEPS, WIDTH),),
        False,
    ),
    "constant of truth values": (
        lambda: Masked(encoder(norm_first=True), lambda m, x: m.net(x, mask=causal(STEPS) < 0)),
        lambda b, n, k: (torch.randn(b, STEPS, WIDTH),),
        False,
    ),
    "buffer": (
        lambda: Masked(encoder(), lambda m, x: m.net(x, mask=m.mask), mask=causal(STEPS)),
        lambda b, n, k: (torch.randn(b, STEPS, WIDTH),),
        False,
    ),
    "part of a buffer": (
        lambda: Masked(encoder(), lambda m, x: m.net(x, mask=m.mask[: x.shape[1], : x.shape[1]]), mask=causal(30)),
        lambda b, n, k: (torch.randn(b, n, WIDTH),),
        True,
    ),
    "of the length": (
        lambda: Masked(encoder(), lambda m, x: m.net(x, mask=causal(x.shape[1]))),
        lambda b, n, k: (torch.randn(b, n, WIDTH),),
        True,
    ),
    "input": (
        lambda: Masked(encoder(), lambda m, x, mask: m.net(x, mask=mask)),
        lambda b, n, k: (torch.randn(b, n, WIDTH), causal(n)),
        True,
    ),
    "input of truth values": (
        lambda: Masked(encoder(), lambda m, x, mask: m.net(x, mask=mask)),
        lambda b, n, k: (torch.randn(b, n, WIDTH), causal(n) < 0),
        True,
    ),
    "both": (
        lambda: Masked(encoder(), lambda m, x, mask, pad: m.net(x, mask=mask, src_key_padding_mask=pad)),
        lambda b, n, k: (torch.randn(b, n, WIDTH), causal(n) < 0, ends(b, n)),
        True,
    ),
    "decoder": (
        lambda: Masked(decoder(), lambda m, x, y: m.net(x, y, tgt_mask=causal(x.shape[1]))),
        lambda b, n, k: (torch.randn(b, n, WIDTH), torch.randn(b, k, WIDTH)),
        True,
    ),
    "decoder's inputs": (
        lambda: Masked(
            decoder(),
            lambda m, x, y, mask, other, pad: m.net(x, y, tgt_mask=mask, memory_mask=other, tgt_key_padding_mask=pad),
        ),
        lambda b, n, k: (
            torch.randn(b, n, WIDTH),
            torch.randn(b, k, WIDTH),
            causal(n),
            torch.randn(n, k),
            torch.zeros(b, n).masked_fill(ends(b, n), float("-inf")),
        ),
        True,
    ),
    "transformer": (
        lambda: Masked(whole(), lambda m, x, y: m.net(x, y, tgt_mask=causal(y.shape[1]))),
        lambda b, n, k: (torch.randn(b, n, WIDTH), torch.randn(b, k, WIDTH)),
        True,
    ),
    "transformer's inputs": (
        lambda: Masked(
            whole(),
            lambda m, x, y, mask, pad: m.net(
                x, y, tgt_mask=mask, src_key_padding_mask=pad, memory_key_padding_mask=pad
            ),
        ),
        lambda b, n, k: (torch.randn(b, n, WIDTH), torch.randn(b, k, WIDTH), causal(k) < 0, ends(b, n)),
        True,
    ),
}


@pytest.mark.parametrize("name", MASKED)
def test_masks_that_torch_looks_at(name: str) -> None:
    """By default lengths are free, unless the module has them; with dynamic=None all is as in the example."""
    make, inputs, free = MASKED[name]
    net = make().eval()
    example = inputs(2, STEPS, MEMORY)
    assert_same(convert(net, *example, dynamic=None), net, *example)
    model = convert(net, *example)
    for sizes in ((2, STEPS, MEMORY), (3, 9, 4), (1, 2, 1)) if free else ((2, STEPS, MEMORY), (4, STEPS, MEMORY)):
        assert_same(model, net, *inputs(*sizes))


def test_padding_alone() -> None:
    """Where torch pads with zeros once gradients are off, the steps that count are compared."""
    net = Masked(encoder(), lambda m, x, pad: m.net(x, src_key_padding_mask=pad))
    model = convert(net, torch.randn(2, STEPS, WIDTH), ends(2, STEPS))
    for batch, steps in ((2, STEPS), (3, 9)):
        x, pad = torch.randn(batch, steps, WIDTH), ends(batch, steps)
        with torch.no_grad():
            torch.testing.assert_close(model(x, pad)[~pad], net(x, pad)[~pad], rtol=1e-4, atol=1e-5)


DISTRIBUTIONS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Tensor]] = {
    "normal": (lambda h, y: D.Normal(h, h.exp()).log_prob(y), torch.randn(4, 8)),
    "asked for": (lambda h, y: D.Normal(h, h.exp(), validate_args=True).log_prob(y), torch.randn(4, 8)),
    "of numbers": (lambda h, y: D.Normal(0.5, 2.0).log_prob(h + y), torch.randn(4, 8)),
    "log-normal": (lambda h, y: D.LogNormal(h, h.exp()).log_prob(y), torch.rand(4, 8) + 0.1),
    "laplace": (lambda h, y: D.Laplace(h, h.exp()).log_prob(y), torch.randn(4, 8)),
    "uniform": (lambda h, y: D.Uniform(h - 9, h + 9).log_prob(y), torch.randn(4, 8)),
    "exponential": (lambda h, y: D.Exponential(h.exp()).log_prob(y), torch.rand(4, 8)),
    "categorical": (lambda h, y: D.Categorical(logits=h).log_prob(y), torch.randint(0, 8, (4,))),
    "probabilities": (lambda h, y: D.Categorical(probs=h.softmax(-1)).log_prob(y), torch.randint(0, 8, (4,))),
    "entropy": (lambda h, y: D.Categorical(logits=h).entropy() + y, torch.randn(4)),
    "one-hot": (lambda h, y: D.OneHotCategorical(logits=h).log_prob(y), torch.eye(8)[:4]),
    "independent": (lambda h, y: D.Independent(D.Normal(h, h.exp()), 1).log_prob(y), torch.randn(4, 8)),
    "divergence": (lambda h, y: D.kl_divergence(D.Normal(h, h.exp()), D.Normal(y, 1.0)), torch.randn(4, 8)),
    "mixture": (
        lambda h, y: D.MixtureSameFamily(D.Categorical(logits=h), D.Normal(h, h.exp())).log_prob(y),
        torch.randn(4),
    ),
    "loss": (
        lambda h, y: F.gaussian_nll_loss(h, y, h.exp(), reduction="none"),
        torch.randn(4, 8),
    ),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_what_distributions_validate(name: str) -> None:
    function, values = DISTRIBUTIONS[name]
    net = Function(function)
    model = convert(net, torch.randn(4, 8), values)
    assert_same(model, net, torch.randn(4, 8), values)
    assert model.notes == ()
    assert D.Normal(0.0, 1.0)._validate_args


def checked(h: Tensor, kind: int) -> Tensor:
    if kind == 0 and (h > 99).any():
        raise ValueError("too large")
    if kind == 1:
        assert torch.isfinite(h).all() or h.isnan().any(), "not finite"
    if kind == 2 and not (h.min().item() > -99):
        raise ValueError("too small")
    if kind == 3 and h.abs().max() > 50:
        warnings.warn("large", stacklevel=1)
    if kind == 4:
        if (h < 99).all():
            h = h * 2
        else:
            raise ValueError("too large")
    return h + 1


@pytest.mark.parametrize("kind", range(5))
def test_checks_of_the_models_own_code_are_left_out(kind: int) -> None:
    net = Function(lambda h: checked(h, kind))
    model = convert(net, torch.randn(2, 8))
    assert_same(model, net, torch.randn(3, 8))
    assert len(model.notes) == 1
    assert "a check is left out: test_refusals.py:" in model.notes[0]


DECISIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "if": lambda h: h * 2 if h.sum() > 0 else h,
    "return": lambda h: decides(h),
    "loop": lambda h: [h := h / 2 for _ in range(9) if h.max() > 1][-1],
}


def decides(h: Tensor) -> Tensor:
    if (h > 0).all():
        return h
    raise ValueError("this is no check: nothing says what comes after")


@pytest.mark.parametrize("name", DECISIONS)
def test_decisions_are_refused_with_one_message_and_nothing_else(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnsupportedError, match=r"(?s)decides by the values.*test_refusals\.py"):
        lowbit.convert(Function(DECISIONS[name]).eval(), torch.randn(2, 8))
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
