"""What people bring converts, or is refused by one error that names the line: sizes, checks, state, odd inputs."""

from __future__ import annotations

import collections
import copy
import dataclasses
import pickle
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch import distributions as D
from torch.nn import functional as F
from torch.utils import _pytree as pytree

import lowbit
from lowbit.errors import InputError, LowbitError, UnsupportedError
from lowbit.graph import limits


class Function(nn.Module):
    """Calls a function on what a layer makes of the first input, and the other inputs."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.function(self.layer(inputs[0]), *inputs[1:])


@dataclasses.dataclass
class Answer:
    value: Tensor


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
        if free is not None and limits.allowed(free, batch):
            assert_same(model, net, torch.randn(batch, 8))
        else:
            with pytest.raises(InputError, match=r"must have shape \[4|must be (at least 2|a multiple of 2)"):
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
    with pytest.raises(InputError, match="must be at least 2"):
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
    "bernoulli": (lambda h, y: D.Bernoulli(logits=h).log_prob(y), torch.randint(0, 2, (4, 8)).float()),
    "gamma": (lambda h, y: D.Gamma(h.exp(), h.exp()).log_prob(y), torch.rand(4, 8) + 0.1),
    "poisson": (lambda h, y: D.Poisson(h.exp()).log_prob(y), torch.randint(0, 5, (4, 8)).float()),
    "loss": (
        lambda h, y: F.gaussian_nll_loss(h, y, h.exp(), reduction="none"),
        torch.randn(4, 8),
    ),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_what_distributions_validate(name: str) -> None:
    function, values = DISTRIBUTIONS[name]
    net, validates = Function(function), D.Normal(0.0, 1.0)._validate_args  # torch.compile turns it off for good
    model = convert(net, torch.randn(4, 8), values)
    assert_same(model, net, torch.randn(4, 8), values)
    assert model.notes == ()
    assert D.Normal(0.0, 1.0)._validate_args == validates


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


# ----------------------------------------------------------------------------------------------------------- odd inputs


class Table(nn.Module):
    """Adds what a function makes of a buffer."""

    def __init__(self, table: Tensor, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.register_buffer("table", table)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer(x), self.table)


ODD_DTYPES = [torch.complex64, torch.int16, torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn]


@pytest.mark.parametrize("dtype", ODD_DTYPES, ids=str)
def test_buffers_of_types_that_graphs_have_not(dtype: torch.dtype) -> None:
    """What only torch reads at conversion may be of any type; whole numbers and floats are widened."""
    table = torch.arange(8).to(dtype)
    for function in (lambda y, t: y, lambda y, t: y + t.to(torch.float32)):
        net = Table(table, function)
        assert_same(convert(net, torch.randn(2, 8)), net, torch.randn(3, 8))


def test_narrow_whole_numbers_wrap_as_in_torch() -> None:
    table = (torch.arange(8) * 5000).to(torch.int16)
    net = Table(table, lambda y, t: y + (t * t).float() + t[y.argmax(1)].float()[:, None])
    assert_same(convert(net, torch.randn(2, 8)), net, torch.randn(3, 8))


UNUSABLE: dict[str, tuple[Callable[[], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "sparse": (lambda: torch.eye(8).to_sparse(), lambda y, t: torch.sparse.mm(t, y.T).T),
    "rows": (lambda: torch.eye(8).to_sparse_csr(), lambda y, t: (t @ y.T).T),
    "int16": (lambda: torch.arange(8).to(torch.int16), lambda y, t: (t[y.argmax(1)] * 300).float()),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("name", UNUSABLE)
def test_buffers_that_cannot_be_are_named(name: str) -> None:
    make, function = UNUSABLE[name]
    with pytest.raises(UnsupportedError, match=r"(?s)(buffer 'table'|int16).*test_refusals\.py:\d+.*remedy"):
        convert(Table(make(), function), torch.randn(2, 8))


@pytest.mark.parametrize("dtype", [torch.uint64, torch.bits8], ids=str)
def test_a_returned_buffer_that_cannot_be_is_named(dtype: torch.dtype) -> None:
    net = Table(torch.arange(8, dtype=torch.uint8).repeat_interleave(8).view(dtype), lambda y, t: t)
    with pytest.raises(UnsupportedError, match=rf"buffer 'table' is of {dtype}.*another type"):
        convert(net, torch.randn(2, 8))


@pytest.mark.parametrize("free", ["batch", 3.5])
def test_dynamic_that_names_no_axes_is_told(free: Any) -> None:
    with pytest.raises(LowbitError, match="dynamic"):
        lowbit.convert(nn.Linear(8, 8), torch.randn(2, 8), dynamic={"input": free}, progress=False)


def test_a_default_dict_is_returned_as_one() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Any:
            found: collections.defaultdict[str, Any] = collections.defaultdict(list)
            found["twice"] = x * 2
            return found

    found = convert(Net(), torch.randn(2, 8))(torch.ones(3, 8))
    assert isinstance(found, collections.defaultdict)
    assert torch.equal(found["twice"], torch.full((3, 8), 2.0))


def test_torchscript_is_refused() -> None:
    layer = nn.Linear(8, 8).eval()
    for script in (torch.jit.trace(layer, torch.randn(2, 8)), torch.jit.script(layer)):
        for inputs in (None, torch.randn(2, 8)):
            with pytest.raises(InputError, match=r"convert the nn\.Module"):
                lowbit.convert(script, inputs)
    with pytest.raises(UnsupportedError, match=r"'1' is TorchScript: use the nn\.Module"):
        lowbit.convert(nn.Sequential(nn.ReLU(), torch.jit.script(layer)), torch.randn(2, 8))


ODD_INPUTS: dict[str, Callable[[], Any]] = {
    "sparse": lambda: torch.randn(2, 8).to_sparse(),
    "rows": lambda: torch.randn(2, 8).to_sparse_csr(),
    "meta": lambda: torch.randn(2, 8, device="meta"),
    "quantized": lambda: torch.quantize_per_tensor(torch.randn(2, 8), 0.1, 0, torch.qint8),
    "nested": lambda: torch.nested.nested_tensor([torch.randn(2, 8), torch.randn(3, 8)]),
    "int16": lambda: torch.ones(2, 8).short(),
    "text": lambda: np.array(["a"]),
    "record": lambda: np.zeros(2, [("a", "f4")]),
    "object": object,
    "generator": lambda: (i for i in range(2)),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors", "ignore:Sparse CSR")
@pytest.mark.parametrize("name", ODD_INPUTS)
def test_odd_tensors_are_refused_wherever_they_come(name: str) -> None:
    net, x = nn.Linear(8, 8).eval(), torch.randn(2, 8)
    model = convert(net, x)
    calls: list[Callable[[Any], Any]] = [
        model,
        model.compare,
        model.profile,
        model.session.run,
        lambda odd: model.session.run_list([odd]),
        lambda odd: lowbit.convert(net, odd, progress=False),
        lambda odd: lowbit.convert(net, progress=False)(odd),
        lambda odd: lowbit.convert(net, x, calibration=[odd], progress=False),
    ]
    for call in calls:
        with pytest.raises(LowbitError):
            call(ODD_INPUTS[name]())


def test_arrays_of_any_layout_are_examples() -> None:
    whole = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    for array in (whole[:, ::-1], whole.astype(">f4"), np.asfortranarray(whole), np.broadcast_to(whole[:1], (2, 8))):
        net = nn.Linear(8, 8)
        assert_same(convert(net, array), net, torch.randn(3, 8))


WRONG: list[Any] = [0, -1, 2.5, "x", b"x", [], [1], {}, {"a": 1}, {1: 2}, set(), object(), np.zeros(2), 10**30, ...]


@pytest.mark.parametrize("name", ["calibration", "scheme", "dynamic", "max_drop", "fallback", "tune", "threads"])
def test_wrong_options_raise_nothing_else(name: str) -> None:
    net, x = nn.Linear(8, 8).eval(), torch.randn(2, 8)
    for value in WRONG:
        with suppress(LowbitError):
            lowbit.convert(net, x, progress=False, **{name: value})


def test_wrong_arguments_raise_nothing_else(tmp_path: Path) -> None:
    model = convert(nn.Linear(8, 8), torch.randn(2, 8))
    model.save(tmp_path / "a.lowbit")
    fields = [field.name for field in dataclasses.fields(lowbit.Scheme)]
    for value in WRONG:
        calls: list[Callable[[], Any]] = [
            lambda v=value: lowbit.load(v),
            lambda v=value: lowbit.load(tmp_path / "a.lowbit", threads=v),
            lambda v=value: lowbit.Session(v),
            lambda v=value: lowbit.convert(v),
            lambda v=value: model(v),
            lambda v=value: model(input=v),
            lambda v=value: model.profile(torch.randn(2, 8), repeats=v),
            lambda v=value: model.session.run(v),
            lambda v=value: model.session.run_list(v),
            lambda v=value: model.session.run_into(v, v),
            lambda v=value: model.session.made_up(v),
            *(lambda v=value, f=field: lowbit.Scheme(**{"name": "mine", f: v}) for field in fields),
        ]
        for call in calls:
            with suppress(LowbitError, FileNotFoundError):
                call()


# ----------------------------------------------------------------------------------------------------- threads, pickles


def test_threads_that_convert_at_once() -> None:
    """Recurrent layers are replaced for a while, so conversions take turns; torch.compile's too."""

    def run(place: int) -> None:
        net = nn.Sequential(nn.Linear(8 + place, 8), nn.GRU(8, 8, batch_first=True)).eval()
        x = torch.randn(2, 5, 8 + place)
        with torch.no_grad():
            if place == 0:
                found = torch.compile(net, backend="lowbit", options={"scheme": "float32"})(x)
            else:
                found = lowbit.convert(net, x, scheme="float32", progress=False)(x)
            torch.testing.assert_close(found, net(x), rtol=1e-4, atol=1e-5)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(4)))


def test_pickles_and_copies_of_models(small_net: nn.Module, tmp_path: Path) -> None:
    x = torch.randn(2, 3, 16, 16)
    model = lowbit.convert(small_net, x, progress=False)
    expected = model(x)
    model.save(tmp_path / "a.lowbit")
    loaded = lowbit.load(tmp_path / "a.lowbit", threads=1)
    assert len(pickle.dumps(model)) < 1.2 * (tmp_path / "a.lowbit").stat().st_size
    for copied in (copy.deepcopy(model), copy.copy(model)):
        assert copied.session is model.session
        assert torch.equal(copied(x), expected)
    again = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(model))))
    assert torch.equal(again(x), expected)
    with pytest.raises(LowbitError, match="no float graph"):
        again.compare(x)
    other = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(loaded))))
    assert other.session.threads == 1
    for plain in (loaded, copy.deepcopy(loaded), other):
        np.testing.assert_array_equal(plain(x.numpy()), expected.numpy())
    session = pickle.loads(pickle.dumps(model.session))
    assert copy.deepcopy(session) is session
    np.testing.assert_array_equal(session.run(x.numpy())[0], expected.numpy())
    (tmp_path / "a.lowbit").unlink()
    with pytest.raises(LowbitError, match="gone or has changed"):
        pickle.dumps(loaded)


def test_a_model_to_be_captured_is_copied_and_not_pickled(small_net: nn.Module) -> None:
    model = lowbit.convert(small_net, progress=False)
    with pytest.raises(LowbitError, match="call it once"):
        pickle.dumps(model)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), model(x))


def test_pickles_bring_segments_and_classes() -> None:
    net = Function(lambda h: Answer(value=torch.special.i0(h)))
    model = convert(net, torch.randn(2, 8), fallback="torch")
    found = pickle.loads(pickle.dumps(model))(torch.randn(3, 8))
    assert type(found) is Answer


# -------------------------------------------------------------------------------------------------------------- results


@dataclasses.dataclass(frozen=True)
class Frozen:
    value: Tensor
    count: int = 3
    name: str = "a"


@dataclasses.dataclass
class Wider(Answer):
    more: Any = None
    parts: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(kw_only=True)
class Finished:
    value: Tensor
    twice: Tensor = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.twice = self.value * 2
        self.value = self.value + 1


RESULTS: dict[str, Callable[[Tensor], Any]] = {
    "plain": lambda h: Answer(h),
    "frozen": lambda h: Frozen(h, h.shape[1]),
    "subclass": lambda h: Wider(h, (h, None, 1.5), {"a": [h + 1]}),
    "nested": lambda h: (Wider(h, Answer(h * 2)), {"b": Frozen(h)}, [None]),
    "finished": lambda h: Finished(value=h),
}


def unfolded(value: Any) -> Any:
    """The classes and tensors of a result."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value)]
        return [type(value).__name__, *(unfolded(getattr(value, name)) for name in fields)]
    if isinstance(value, dict):
        return {key: unfolded(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [unfolded(item) for item in value]
    return value.detach() if isinstance(value, Tensor) else value


@pytest.mark.parametrize("name", RESULTS)
def test_dataclasses_are_results(name: str) -> None:
    net = Function(RESULTS[name])
    model = convert(net, torch.randn(2, 8))
    x = torch.randn(3, 8)
    for found, expected in zip(*map(pytree.tree_leaves, map(unfolded, (model(x), net(x)))), strict=True):
        if isinstance(expected, Tensor):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        else:
            assert found == expected
    assert set(pytree.SUPPORTED_NODES).isdisjoint({Answer, Frozen, Wider, Finished}), "nothing is left registered"


@pytest.mark.parametrize(
    "result", [{1}, object(), torch.float32, "text", None, ()], ids=["set", "object", "dtype", "text", "none", "empty"]
)
def test_results_that_are_refused(result: Any) -> None:
    with pytest.raises(UnsupportedError, match="the model returns"):
        convert(Function(lambda h: result), torch.randn(2, 8))


# ---------------------------------------------------------------------------------------------------------------- state


class Stateful(nn.Module):
    """Writes to a buffer in one of many ways."""

    def __init__(self, write: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.write = write
        self.register_buffer("calls", torch.tensor(2.0))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.full((8,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x)
        found = self.write(self, h)
        return found if isinstance(found, Tensor) and found.shape == h.shape else h


def counts(net: Any, h: Tensor) -> None:
    net.calls += 1


def averages(net: Any, h: Tensor) -> None:
    net.mean.mul_(0.9).add_(h.mean(0), alpha=0.1)


def assigns(net: Any, h: Tensor) -> None:
    net.mean = h.mean(0)


def marks(net: Any, h: Tensor) -> None:
    net.mean[h.argmax(1)] = 1.0


def uses_the_new(net: Any, h: Tensor) -> Tensor:
    net.mean.copy_(h.mean(0))
    return h - net.mean


def clears(net: Any, h: Tensor) -> Tensor:
    net.mean.zero_()
    net.mean += h.mean(0)
    return h + net.mean


def remembers(net: Any, h: Tensor) -> None:
    net.last = h.mean()


def reads_before(net: Any, h: Tensor) -> Tensor:
    scaled = h * net.calls
    net.calls += 1
    return scaled


def reads_after(net: Any, h: Tensor) -> Tensor:
    net.calls += 1
    return h * net.calls


def centers(net: Any, h: Tensor) -> Tensor:
    net.mean.mul_(0.9).add_(h.mean(0), alpha=0.1)
    return h - net.mean


def fills_a_part(net: Any, h: Tensor) -> Tensor:
    net.mean[0] = 1.0
    return h + net.mean


WRITES = [counts, lambda net, h: net.seen.add_(1), averages, assigns, marks, uses_the_new, clears]


@pytest.mark.parametrize("write", WRITES)
def test_what_no_call_sees_of_the_last_one_is_noted(write: Callable[[Any, Tensor], Any]) -> None:
    """Any number of calls gives what the module gives; its buffers stay."""
    net = Stateful(write).eval()
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    model = convert(net, torch.randn(2, 8))
    assert all(torch.equal(buffer, before[name]) for name, buffer in net.named_buffers())
    assert len(model.notes) == 1
    assert "writes to its buffer" in model.notes[0]
    assert "test_refusals.py:" in model.notes[0]
    for _ in range(2):
        assert_same(model, net, torch.randn(3, 8))


def test_an_attribute_is_no_buffer() -> None:
    net = Stateful(remembers)
    assert_same(convert(net, torch.randn(2, 8)), net, torch.randn(3, 8))


READ = [reads_before, reads_after, centers, fills_a_part]


@pytest.mark.parametrize("write", READ)
def test_what_the_next_call_sees_is_a_state(write: Callable[[Any, Tensor], Any]) -> None:
    """Calls with a state are the module's, one after the other; calls without begin as the module was."""
    net, again = Stateful(write).eval(), Stateful(write).eval()
    again.load_state_dict(net.state_dict())
    model = convert(net, torch.randn(2, 8))
    assert "reads and writes its buffer" in model.notes[0]
    state = model.session.state()
    first = torch.randn(3, 8)
    with torch.no_grad():
        wanted = [net(first)]
        (found,) = model.session.run(first.numpy(), state=state)
        np.testing.assert_allclose(found, wanted[0].numpy(), atol=1e-5)
        for _ in range(3):
            x = torch.randn(5, 8)
            (found,) = model.session.run(x.numpy(), state=state)
            np.testing.assert_allclose(found, net(x).numpy(), atol=1e-5)
        for _ in range(2):
            np.testing.assert_allclose(model(first).numpy(), wanted[0].numpy(), atol=1e-5)


@pytest.mark.parametrize("write", READ)
def test_compiled_modules_with_states_stay_in_torch(write: Callable[[Any, Tensor], Any]) -> None:
    net, again = Stateful(write).eval(), Stateful(write).eval()
    again.load_state_dict(net.state_dict())
    torch._dynamo.reset()
    compiled = torch.compile(again, backend="lowbit")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(3):
            x = torch.randn(2, 8)
            torch.testing.assert_close(compiled(x), net(x))


@pytest.mark.filterwarnings("ignore:backend='lowbit' leaves a graph in torch")
def test_compiled_modules_keep_their_counts() -> None:
    net = Stateful(counts).eval()
    compiled = torch.compile(net, backend="lowbit")
    with torch.no_grad():
        for _ in range(3):
            compiled(torch.randn(2, 8))
    assert float(net.calls) == 5.0


BRANCHES: dict[str, Callable[[Tensor], Any]] = {
    "one result": lambda h: torch.cond(h.sum() > 0, lambda y: y + 1, lambda y: y * 2, (h,)),
    "several": lambda h: torch.cond(h.mean() > 0, lambda y: (y, y.sum(1)), lambda y: (y * 2, y.mean(1)), (h,)),
    "not finite": lambda h: torch.cond(h.sum() > 0, lambda y: y / y.relu().sum(), lambda y: y * float("inf"), (h,)),
    "nested": lambda h: torch.cond(
        h.sum() > 0,
        lambda y: torch.cond(y.max() > 1, lambda z: z * 3, lambda z: z - 1, (y,)),
        lambda y: torch.cond(y.min() < -1, lambda z: z * 4, lambda z: z - 2, (y,)),
        (h,),
    ),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_branches_of_cond(name: str) -> None:
    net = Function(BRANCHES[name])
    model = convert(net, torch.randn(2, 8))
    for shift in (-3.0, -0.5, 0.5, 3.0):
        assert_same(model, net, torch.randn(3, 8) + shift * net.layer.weight.detach().sum(0))
