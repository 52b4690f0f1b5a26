"""Packed sequences as padded batches with lengths: outputs and last states are torch's."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import rnn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import lowbit
from against_torch import Function, compare, convert
from lowbit.errors import InputError, LowbitError, UnsupportedError
from lowbit.ops import interpreter
from lowbit.runtime.session import Session

KINDS: dict[str, Any] = {
    "lstm": nn.LSTM,
    "projected": lambda *sizes, **options: nn.LSTM(*sizes, proj_size=3, **options),
    "gru": nn.GRU,
    "tanh": nn.RNN,
    "relu": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
}


class Tagger(nn.Module):
    """packs, runs a recurrent layer, pads; the states given are h0 and, of an LSTM, c0."""

    def __init__(self, layer: nn.RNNBase, batch_first: bool, lengths: Any = None, **pad: Any) -> None:
        super().__init__()
        self.layer, self.batch_first, self.lengths, self.pad = layer, batch_first, lengths, pad
        self.sort = False

    def forward(self, x: Tensor, *rest: Tensor) -> Any:
        lengths, states = (rest[0], rest[1:]) if self.lengths is None else (self.lengths, rest)
        packed = pack_padded_sequence(x, lengths, self.batch_first, enforce_sorted=self.sort)
        hx: Any = None if not states else states if len(states) == 2 else states[0]
        y, ends = self.layer(packed, hx)
        y, n = pad_packed_sequence(y, self.batch_first, **self.pad)
        return y, ends, n


def draw_lengths(data: st.DataObject, batch: int, steps: int, ordered: bool) -> list[int]:
    """Some sequence has all the steps."""
    lengths = [steps, *(data.draw(st.integers(1, steps)) for _ in range(batch - 1))]
    return sorted(lengths, reverse=True) if ordered else data.draw(st.permutations(lengths))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_outputs_and_last_states_are_torchs(data: st.DataObject) -> None:
    """Any kind, layers, directions, layouts and orders, with and without states; lengths of an input or known."""
    torch.manual_seed(data.draw(st.integers(0, 99)))
    kind, batch_first = data.draw(st.sampled_from(list(KINDS))), data.draw(st.booleans())
    batch, steps, layers = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 7)), data.draw(st.integers(1, 2))
    both, ordered, known = data.draw(st.booleans()), data.draw(st.booleans()), data.draw(st.booleans())
    own_layout = data.draw(st.booleans())  # does not matter for what is packed
    layer = KINDS[kind](
        4, 6, num_layers=layers, bidirectional=both, batch_first=own_layout, bias=data.draw(st.booleans())
    )
    lengths = draw_lengths(data, batch, steps, ordered)
    pad = {"padding_value": data.draw(st.sampled_from([0.0, -1.5]))}
    net = Tagger(layer, batch_first, lengths if known else None, **pad).eval()
    net.sort = ordered
    x = torch.randn(batch, steps, 4)
    for b, length in enumerate(lengths):  # what is past the end is never seen
        x[b, length:] = torch.nan
    inputs = [x if batch_first else x.transpose(0, 1).contiguous()]
    inputs += [] if known else [torch.tensor(lengths)]
    if data.draw(st.booleans()):
        widths = {"lstm": (6, 6), "projected": (3, 6)}.get(kind, (6,))
        inputs += [torch.randn(layers * (2 if both else 1), batch, width) for width in widths]
    with torch.no_grad():
        compare(convert(net, tuple(inputs)), net, tuple(inputs))


@pytest.mark.parametrize("batch_first", [True, False])
def test_batch_and_steps_stay_free(batch_first: bool) -> None:
    torch.manual_seed(0)
    net = Tagger(nn.LSTM(4, 5, bidirectional=True), batch_first).eval()

    def example(*lengths: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(len(lengths), max(lengths), 4)
        return x if batch_first else x.transpose(0, 1).contiguous(), torch.tensor(lengths)

    model = lowbit.convert(net, example(3, 7), scheme="float32", progress=False)
    assert len(model.graph.symbols) == 2
    assert any("as many steps as were packed" in note and "test_packed.py" in note for note in model.notes)
    with torch.no_grad():
        for lengths in ([3, 7], [1], [2, 2, 9, 4, 1]):
            compare(model, net, example(*lengths))


@pytest.mark.parametrize("total", [9, 7, 5])
def test_a_total_length_is_exact(total: int) -> None:
    """As long as it says, whatever the lengths are."""
    torch.manual_seed(0)
    net = Tagger(nn.GRU(4, 5), True, total_length=total, padding_value=2.5).eval()
    inputs = torch.randn(3, 7, 4), torch.tensor([2, 5, 1])
    model = convert(net, inputs)
    assert not any("as many steps" in note for note in model.notes)
    with torch.no_grad():
        compare(model, net, inputs)


@pytest.mark.parametrize("longest", [lambda n: n.max(), lambda n: n.max().item()])
def test_a_total_length_by_values_is_that_of_what_was_packed(longest: Any) -> None:
    def function(x: Tensor, n: Tensor) -> Any:
        packed = pack_padded_sequence(x, n, True, False)
        return pad_packed_sequence(packed, True, 0.0, longest(n))

    inputs = torch.randn(3, 4, 2), torch.tensor([1, 4, 2])
    model = convert(function, inputs)
    compare(model, function, inputs)
    assert any("as many steps as were packed" in note for note in model.notes)


def test_lengths_from_a_mask_and_the_steps_they_pick() -> None:
    """What models do around packing: lengths by counting, sorting by hand, the last step of each, a masked mean."""
    torch.manual_seed(0)
    table, layer = nn.Embedding(9, 4, padding_idx=0), nn.GRU(4, 5, batch_first=True, bidirectional=True)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.layer = table, layer

        def forward(self, ids: Tensor) -> Any:
            n, order = (ids != 0).sum(1).sort(descending=True)
            back = order.argsort()
            y, h = self.layer(pack_padded_sequence(self.table(ids)[order], n, batch_first=True))
            y, n = pad_packed_sequence(y, batch_first=True)
            y, n = y[back], n[back]
            return y[torch.arange(y.shape[0]), n - 1], y.sum(1) / n[:, None], h[:, back]

    ids = torch.randint(1, 9, (4, 6))
    ids[0, 2:], ids[2, 5:], ids[3, 1:] = 0, 0, 0
    net = Net().eval()
    with torch.no_grad():
        compare(lowbit.convert(net, ids, scheme="float32", progress=False), net, (ids,))


class Stacked(nn.Module):
    """Two layers on one packed sequence, by the module's name; the embedding has a length input of 32 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.first, self.second = (
            nn.Embedding(11, 64),
            nn.LSTM(64, 128),
            nn.GRU(128, 64, bidirectional=True),
        )
        self.head = nn.Linear(128, 8)

    def forward(self, ids: Tensor, lengths: Tensor) -> Any:
        packed = nn.utils.rnn.pack_padded_sequence(
            self.table(ids), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        y, (_, c) = self.first(packed)
        y, h = self.second(y)
        total = ids.size(1)
        y, _ = nn.utils.rnn.pad_packed_sequence(y, batch_first=True, total_length=total)
        return self.head(y), self.head(torch.cat([h[-2], h[-1]], dim=1)), c


def test_layers_in_a_row_and_int8() -> None:
    torch.manual_seed(0)
    net = Stacked().eval()
    inputs = torch.randint(0, 11, (6, 30)), torch.tensor([4, 30, 1, 13, 29, 2], dtype=torch.int32)
    with torch.no_grad():
        compare(convert(net, inputs), net, inputs)
        model = lowbit.convert(net, inputs, progress=False)
        expected = net(*inputs)
    assert sum(node.op == "quantized_linear" for node in model.graph) >= 3
    for a, e in zip(model(*inputs), expected, strict=True):
        assert 10 * torch.log10(e.square().sum() / (a - e).square().sum()) > 25


def test_packed_and_padded_at_once() -> None:
    def function(x: Tensor, n: Tensor) -> Any:
        packed = pack_padded_sequence(x, n, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(packed, batch_first=False, padding_value=-1.0)

    inputs = torch.randn(3, 4, 2, 2), torch.tensor([4, 1, 2])
    compare(convert(function, inputs), function, inputs)


@pytest.mark.parametrize("length", [0, -1, 8, 2**40, -(2**63)])
def test_lengths_out_of_range_are_refused(length: int) -> None:
    net = Tagger(nn.RNN(4, 5), True).eval()
    x = torch.randn(2, 7, 4)
    model = convert(net, (x, torch.tensor([7, 3])))
    wrong = torch.tensor([7, length])
    with pytest.raises(InputError, match=f"length {length} of a sequence is not in 1 .. 7"):
        model(x, wrong)
    feeds = {name: value.numpy() for name, value in zip(model.graph.inputs, (x, wrong), strict=True)}
    for run in (lambda: interpreter.run(model.graph, feeds), lambda: Session(model.graph, isa="scalar").run(**feeds)):
        with pytest.raises(InputError, match="of a sequence is not in"):
            run()


def test_lengths_that_do_not_fit_the_batch_are_refused() -> None:
    with pytest.raises(LowbitError, match="pass one length a sample"):
        convert(Tagger(nn.RNN(4, 5), True).eval(), (torch.randn(2, 7, 4), torch.tensor([7, 3, 1])))


@pytest.mark.parametrize(
    ("use", "what"),
    [
        (lambda packed: packed.data.sum(), "the data of a packed sequence"),
        (lambda packed: packed.batch_sizes, "the batch_sizes of"),
        (lambda packed: packed.sorted_indices, "the sorted_indices of"),
        (lambda packed: packed[0], "a part of a packed sequence"),
        (lambda packed: PackedSequence(*packed), "a packed sequence as a tuple"),
        (rnn.unpack_sequence, "the size of its result depends on the inputs' values"),
    ],
)
def test_what_else_is_done_with_a_packed_sequence_is_refused(use: Any, what: str) -> None:
    def function(x: Tensor, n: Tensor) -> Any:
        return use(pack_padded_sequence(x, n, batch_first=True, enforce_sorted=False))

    with pytest.raises(UnsupportedError, match=what) as refusal:
        convert(function, (torch.randn(2, 7, 4), torch.tensor([7, 3])))
    assert "test_packed.py" in str(refusal.value) or use is rnn.unpack_sequence


def test_lengths_as_computed_numbers_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="without tolist"):
        convert(lambda x, n: pack_padded_sequence(x, n.tolist())[0], (torch.randn(4, 2, 3), torch.tensor([4, 2])))


def test_a_packed_result_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="the model returns a packed sequence"):
        convert(lambda x: (x, pack_padded_sequence(x, [4, 2])), (torch.randn(4, 2, 3),))


def test_a_sequence_packed_elsewhere_is_refused() -> None:
    packed = pack_padded_sequence(torch.randn(7, 2, 4), torch.tensor([7, 3]))
    for inputs in (packed, (packed,), {"input": packed}):
        with pytest.raises(InputError, match="an example input is a packed sequence"):
            lowbit.convert(nn.GRU(4, 5), inputs, progress=False)
    net = Function(lambda x: pad_packed_sequence(PackedSequence(x, packed.batch_sizes)))
    with pytest.raises(LowbitError, match=r"test_packed\.py"):
        lowbit.convert(net, packed.data, progress=False)


class Watched(nn.Module):
    """Packs in another thread while it is traced."""

    def forward(self, x: Tensor) -> Tensor:
        found: list[Any] = []
        other = threading.Thread(
            target=lambda: found.append(pack_padded_sequence(torch.ones(3, 2, 4), torch.tensor([3, 2])))
        )
        other.start()
        other.join()
        assert type(found[0]) is PackedSequence
        assert found[0].data.shape == (5, 4)
        return x + 1


def test_torchs_functions_are_its_own_elsewhere_and_afterwards() -> None:
    before = pack_padded_sequence.__code__, pad_packed_sequence.__code__
    convert(Watched(), (torch.randn(2, 3),))
    with pytest.raises(LowbitError):
        convert(lambda x: pack_padded_sequence(x, [1, 2]).data, (torch.randn(2, 2, 4),))
    assert (pack_padded_sequence.__code__, pad_packed_sequence.__code__) == before


def test_a_segment_of_torch_runs_packed_layers() -> None:
    """lowbit's operators are torch's own, wherever torch runs them."""
    torch.manual_seed(0)
    for kind in ("lstm", "gru", "rnn_tanh"):
        layer = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn_tanh": nn.RNN}[kind](4, 5, bidirectional=True, num_layers=2)
        x, n = torch.randn(7, 3, 4), torch.tensor([2, 7, 4])
        packed = pack_padded_sequence(x, n, enforce_sorted=False)
        with torch.no_grad():
            y, ends = layer(packed)
            options = (True, 2, 0.0, False, True, False, n)
            found = getattr(torch.ops.lowbit, kind)(x, [], list(layer._flat_weights), *options)
        expected = [pad_packed_sequence(y)[0], *(ends if isinstance(ends, tuple) else [ends])]
        for a, e in zip(found, expected, strict=True):
            np.testing.assert_allclose(a.numpy(), e.numpy(), rtol=1e-5, atol=1e-6)
