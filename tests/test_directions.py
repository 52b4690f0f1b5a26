"""Two directions of a recurrent layer run at once on several threads, with the bits that each has alone."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import lowbit
from graphs import Maker
from lowbit.errors import InputError
from lowbit.runtime.session import Session

KINDS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


@pytest.mark.parametrize("scheme", ["float32", "int8"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 5, 40])
def test_threads_change_no_bit(kind: str, scheme: str, batch: int, tmp_path: Path) -> None:
    """Two layers of two directions each; two threads take one each, five split each direction."""
    torch.manual_seed(0)
    net, x = KINDS[kind](24, 37, num_layers=2, bidirectional=True).eval(), torch.randn(9, batch, 24)
    path = tmp_path / "m.lowbit"
    lowbit.convert(net, (x,), scheme=scheme, progress=False).save(path)
    alone = lowbit.load(path, threads=1).session
    expected = alone.run(x.numpy())
    for threads in (2, 3, 5):
        session = lowbit.load(path, threads=threads).session
        for found, wanted in zip(session.run(x.numpy()), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
        assert sorted(row.node for row in session.profile(x.numpy(), repeats=1).rows if kind in row.op) == sorted(
            row.node for row in alone.profile(x.numpy(), repeats=1).rows if kind in row.op
        )
    steps = [step["node"] for step in session.nodes() if kind in step["op"]]
    assert len(steps) == 2
    assert all(" + " in name for name in steps)


def two(m: Maker, lengths: str = "", *, in_turn: bool = False, reverse: int = 1) -> Session:
    """A GRU of 4 units, and a second one of the same gates, or in turn of the first one's outputs."""
    x = m.input("x", 6, 2, 12)
    y, _ = m.node("gru", x, m.floats(12, 4), "", "", lengths, outputs=2)
    gates = m.node("concat", y, y, y, axis=2) if in_turn else x
    z, _ = m.node("gru", gates, m.floats(12, 4), "", "", lengths, outputs=2, reverse=reverse)
    return Session(m.graph(y, z), threads=2)


def joined(session: Session) -> list[bool]:
    return [" + " in step["node"] for step in session.nodes() if step["op"] == "gru"]


def test_only_directions_are_joined() -> None:
    """Not a layer that reads the other's outputs, nor two of the same direction."""
    assert joined(two(Maker())) == [True]
    assert joined(two(Maker(), in_turn=True)) == [False, False]
    assert joined(two(Maker(), reverse=0)) == [False, False]


def test_lengths_are_checked_before_both() -> None:
    m = Maker()
    session = two(m, m.input("lengths", 2, dtype="i64"))
    x = np.zeros((6, 2, 12), np.float32)
    assert joined(session) == [True]
    session.run(x=x, lengths=np.array([3, 6]))
    with pytest.raises(InputError, match=re.escape("the length 7 of a sequence is not in 1 .. 6")):
        session.run(x=x, lengths=np.array([3, 7]))
