"""Arguments of a module that are outputs of its last call, as states of the converted model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lowbit
from lowbit.errors import InputError, UnsupportedError


class Recurrent(nn.Module):
    """A linear layer, an LSTM that takes and returns its states, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.lstm, self.head = nn.Linear(5, 16), nn.LSTM(16, 24, batch_first=True), nn.Linear(24, 3)

    def forward(self, x: Tensor, hx: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y, hx = self.lstm(self.up(x), hx)
        return self.head(y), hx


class Named(nn.Module):
    """A mean that fades, by names."""

    def forward(self, x: Tensor, mean: Tensor) -> dict[str, Tensor]:
        mean = 0.5 * mean + 0.5 * x
        return {"new": mean, "y": x - mean}


def recurrent() -> tuple[Recurrent, tuple[Tensor, tuple[Tensor, Tensor]]]:
    torch.manual_seed(0)
    start = torch.zeros(1, 2, 24), torch.zeros(1, 2, 24)
    return Recurrent().eval(), (torch.randn(2, 7, 5), start)


@pytest.mark.parametrize("scheme", ["float32", "int8"])
@pytest.mark.parametrize("states", [{"hx": "1"}, {"hx[0]": "[1][0]", "hx[1]": "[1][1]"}])
def test_pieces_are_the_whole(scheme: str, states: dict[str, str], tmp_path: Path) -> None:
    """A sequence in pieces, from one state, gives the bits of the sequence at once; a file keeps that."""
    net, example = recurrent()
    data = [(torch.randn(2, 7, 5),) for _ in range(3)]
    model = lowbit.convert(net, example, scheme=scheme, states=states, calibration=data, target="avx2", progress=False)
    x = torch.randn(2, 12, 5)
    whole = model(x)
    assert isinstance(whole, Tensor)
    if scheme == "float32":
        torch.testing.assert_close(whole, net(x, example[1])[0], atol=1e-5, rtol=1e-4)
    model.save(tmp_path / "net.lowbit")
    for each in (model, lowbit.load(tmp_path / "net.lowbit")):
        state = each.session.state(2)
        pieces = [each.session.run(part.numpy(), state=state)[0] for part in x.split([1, 4, 7], dim=1)]
        assert np.array_equal(np.concatenate(pieces, 1), whole.numpy())
        assert np.array_equal(each(x.numpy()), whole.numpy())
    assert model.compare(x).outputs[0].sqnr > 20


def test_states_go_by_names() -> None:
    model = lowbit.convert(Named(), (torch.ones(2, 3), torch.zeros(2, 3)), states={"mean": "new"}, progress=False)
    assert model.meta.output == {"dict": {"y": {"tensor": 0, "dtype": "f32"}}}
    state, mean = model.session.state(1), np.zeros((1, 3), np.float32)
    for step in range(4):
        x = np.full((1, 3), step, np.float32)
        mean = 0.5 * mean + 0.5 * x
        assert np.array_equal(model.session.run(x, state=state)[0], x - mean)


def test_an_output_may_be_a_state_and_returned() -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
            last = last + x
            return last, last

    model = lowbit.convert(Sum(), (torch.ones(1, 2), torch.zeros(1, 2)), states={"last": "1"}, progress=False)
    state = model.session.state()
    found = [model.session.run(np.ones((1, 2), np.float32), state=state)[0][0, 0] for _ in range(3)]
    assert found == [1, 2, 3]


def test_equal_constants_are_one_beginning() -> None:
    """Two buffers that begin alike share a constant, and are two states."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("a", torch.full((2,), 3.0))
            self.register_buffer("b", torch.full((2,), 3.0))

        def forward(self, x: Tensor) -> Tensor:
            self.a += x[0]
            self.b -= x[0]
            return torch.stack([self.a, self.b])

    net = Two().eval()
    model = lowbit.convert(net, torch.ones(1, 2), progress=False)
    assert len(model.graph.states) == 2
    state = model.session.state()
    for _ in range(3):
        np.testing.assert_array_equal(
            model.session.run(np.ones((1, 2), np.float32), state=state)[0], net(torch.ones(1, 2)).numpy()
        )


@pytest.mark.parametrize(
    ("states", "told"),
    [
        ({"hy": "1"}, "there is no argument 'hy' that is a tensor; there are x, hx\\[0\\], hx\\[1\\]"),
        ({"hx": "2"}, "there is no output '2' that is a tensor; there are 0, 1\\[0\\], 1\\[1\\]"),
        ({"hx": "0"}, "state 'hx' holds 2 tensors, and output '0' 1"),
        ({"hx[0]": "1[0]"}, "argument 'hx' is a state but for hx\\[1\\]; name all of it"),
        ({"hx[0]": "1[0]", "hx[1]": "1[0]"}, "an output is the next value of two states"),
        ({"hx": 1}, "states are \\{argument: output\\}"),
    ],
)
def test_paths_that_lead_nowhere(states: dict[str, str], told: str) -> None:
    net, example = recurrent()
    with pytest.raises(InputError, match=told):
        lowbit.convert(net, example, states=states, progress=False)


def test_what_grows_is_no_state() -> None:
    class Grows(nn.Module):
        def forward(self, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
            seen = torch.cat([seen, x], 1)
            return seen.sum(1), seen

    with pytest.raises(UnsupportedError, match=r"(?s)a state has one type and size.*causal_lm"):
        lowbit.convert(Grows(), (torch.ones(1, 2), torch.ones(1, 3)), states={"seen": "1"}, progress=False)
    with pytest.raises(InputError, match="all outputs of the module are states"):
        lowbit.convert(Named(), (torch.ones(2, 3), torch.ones(2, 3)), states={"mean": "new", "x": "y"}, progress=False)
