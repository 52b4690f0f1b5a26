"""Callers that do what they should not: odd sequences and arrays, memory that changes during a call, other rounding.

None may crash, and what they get is right or a LowbitError.
"""

from __future__ import annotations

import ctypes
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lowbit
from graphs import GRAPHS, Maker, feeds
from lowbit import InputError, UnsupportedError
from lowbit.graph.ir import Array, Graph
from lowbit.runtime import format

# ------------------------------------------------------------------------------------------------------------ sequences


def difference() -> Graph:
    """a - b, and b - a, of f32 [3]."""
    maker = Maker()
    a, b = maker.input("a", 3), maker.input("b", 3)
    return maker.graph(maker.node("sub", a, b), maker.node("sub", b, a))


class Fresh(Sequence[Array]):
    """Makes each array anew, as it is asked for."""

    def __init__(self, rows: Array) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        return self.rows[place] * np.float32(1)


ROWS = np.array([[1, 2, 3], [10, 20, 30]], np.float32)


@pytest.mark.parametrize("arrays", [ROWS, np.stack([*ROWS]), Fresh(ROWS), tuple(ROWS), [*ROWS]])
def test_any_sequence_of_arrays_is_held_while_it_is_read(arrays: Any) -> None:
    session = lowbit.Session(difference())
    expected = [ROWS[0] - ROWS[1], ROWS[1] - ROWS[0]]
    for _ in range(50):
        np.testing.assert_array_equal(session.run_list(arrays), expected)
        outputs = np.zeros((2, 3), np.float32)
        session._core.run_into(arrays, outputs)
        np.testing.assert_array_equal(outputs, expected)
        session._core.run_into(arrays, Fresh(outputs))  # into arrays that are gone again
    assert {row.op for row in session.profile_list(arrays, 1)} == {"sub"}


class Lying(Fresh):
    """Says that it is as long as it should be."""

    def __len__(self) -> int:
        return 2


@pytest.mark.parametrize(
    "arrays",
    [[], [ROWS[0]], [*ROWS, ROWS[0]], [ROWS[0]] * 10_000, ROWS[:1], Fresh(ROWS[:1]), range(10**9), "ab", b"ab", [1, 2]],
    ids=["none", "one", "three", "very many", "an array", "made anew", "range", "text", "bytes", "numbers"],
)
def test_wrong_counts_and_kinds_are_refused(arrays: Any) -> None:
    session, outputs = lowbit.Session(difference()), [np.zeros(3, np.float32) for _ in range(2)]
    for call in (
        lambda: session.run_list(arrays),
        lambda: session._core.run(arrays),
        lambda: session._core.run_into(arrays, outputs),
        lambda: session._core.run_into([*ROWS], arrays),
        lambda: session.profile_list(arrays, 1),
        lambda: session._core.profile(arrays, 1),
    ):
        with pytest.raises(InputError):
            call()
    with pytest.raises(IndexError):  # its own
        session.run_list(Lying(ROWS[:1]))


@pytest.mark.parametrize(
    "arrays",
    [None, 3, {"a": ROWS[0], "b": ROWS[1]}, {1, 2}, iter(ROWS)],
    ids=["None", "number", "dict", "set", "iterator"],
)
def test_what_is_no_sequence_is_refused(arrays: Any) -> None:
    session = lowbit.Session(difference())
    for call in (session.run_list, lambda arrays: session.profile_list(arrays, 1)):
        with pytest.raises(InputError, match="list of NumPy arrays"):
            call(arrays)


# --------------------------------------------------------------------------------------------------------------- arrays


class Named(np.ndarray[Any, Any]):
    """A subclass."""


def unaligned(x: Array) -> Array:
    memory = np.zeros(x.nbytes + 1, np.uint8)[1:]
    memory[:] = x.view(np.uint8)
    return memory.view(x.dtype)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.view(Named),
        lambda x: np.ma.masked_array(x, mask=[0, 1, 0]),
        lambda x: np.repeat(x, 3)[::3],
        lambda x: x[::-1].copy()[::-1],
        unaligned,
        lambda x: np.frombuffer(x.tobytes(), np.float32),
        lambda x: np.broadcast_to(x[:1], (3,)),
    ],
)
def test_kinds_of_arrays(view: Callable[[Array], Array]) -> None:
    """They are read as plain arrays of their elements would be."""
    session = lowbit.Session(difference())
    x = view(ROWS[0].copy())
    found = session.run(x, ROWS[1])
    np.testing.assert_array_equal(found[0], np.array([*np.asarray(x)], np.float32) - ROWS[1])
    assert type(found[0]) is np.ndarray


def test_arrays_that_cannot_be_written() -> None:
    session = lowbit.Session(difference())
    good = np.zeros(3, np.float32)
    constant = np.zeros(3, np.float32)
    constant.flags.writeable = False
    shared, backward = np.zeros(5, np.float32), np.zeros(6, np.float32)
    for bad in (
        constant,
        np.broadcast_to(np.zeros(1, np.float32), (3,)),
        np.zeros(6, np.float32)[::2],
        backward[::-1][:3],
        unaligned(np.zeros(3, np.float32)),
        np.zeros(3, ">f4"),
        np.zeros((3, 1), np.float32),
        np.zeros(3, np.float64),
        good,
        ROWS[0],
    ):
        with pytest.raises(InputError):
            session.run_into([*ROWS], [good, bad])
    with pytest.raises(InputError, match="shares memory"):
        session.run_into([*ROWS], [shared[:3], shared[2:]])
    with pytest.raises(InputError, match="float32"):
        session.run(ROWS[0].astype(">f4"), ROWS[1])


def test_an_array_that_changes_during_a_call() -> None:
    """Its shape may; its memory cannot go, for the call refers to it."""
    maker = Maker()
    graph = maker.graph(maker.node("sort", maker.input("x", 1 << 16), axis=0, outputs=2)[0])
    session, x = lowbit.Session(graph, threads=1), np.random.default_rng(0).random(1 << 16).astype(np.float32)
    expected, stop = np.sort(x), threading.Event()

    def change() -> None:
        while not stop.is_set():
            x.shape = (256, 256)
            x.shape = (1 << 16,)
            with suppress(ValueError):
                x.resize(3)

    changing = threading.Thread(target=change)
    kept = x.view()  # so that between two calls nothing is resized, either
    changing.start()
    try:
        for _ in range(50):
            with suppress(InputError):  # it had the other shape
                np.testing.assert_array_equal(session.run_list([x])[0], expected)
    finally:
        stop.set()
        changing.join()
    assert kept.base is x


# ----------------------------------------------------------------------------------------------- memory that changes

SECONDS = float(os.environ.get("LOWBIT_RACE_SECONDS", "0.2"))
"""How long each operator runs on an input that changes."""


def _indexed(op: str, **attrs: Any) -> tuple[Graph, Array, int]:
    """An operator that reads x [512, 4] at indices."""
    maker = Maker()
    count = 4096
    i = maker.input("i", count, dtype="i64")
    x = maker.floats(512, 4)
    if op == "gather":
        y = maker.node(op, maker.floats(512), i, axis=0)
    elif op == "scatter":
        y = maker.node(op, maker.floats(512), i, maker.floats(count), axis=0)
    elif op == "index_put":
        y = maker.node(op, x, maker.floats(count, 4), i, axis=0, reduce="add")
    elif op == "quantized_embedding":
        y = maker.node(op, i, maker.weight(512, 4))
    elif op == "embedding_bag":
        y = maker.node(op, x, i, maker.constant(np.arange(0, count, 16)), mode="sum")
    else:
        y = maker.node(op, x, i, axis=0)
    return maker.graph(y), np.arange(count) % 512, 1 << 36


def _unpool() -> tuple[Graph, Array, int]:
    maker = Maker()
    i = maker.input("i", 1, 4, 16, 16, dtype="i64")
    y = maker.node("max_unpool2d", maker.floats(1, 4, 16, 16), i, output_size=(32, 32))
    return maker.graph(y), np.arange(1024).reshape(1, 4, 16, 16), 1 << 36


def _offsets() -> tuple[Graph, Array, int]:
    maker = Maker()
    offsets = maker.input("o", 512, dtype="i64")
    weights = maker.floats(4096)
    y = maker.node(
        "embedding_bag", maker.floats(64, 4), maker.constant(np.arange(4096) % 64), offsets, weights, mode="sum"
    )
    return maker.graph(y), np.arange(512) * 8, 1 << 40


def _divided(op: str, dtype: str) -> tuple[Graph, Array, int]:
    maker = Maker()
    kind = np.dtype({"i64": np.int64, "i32": np.int32}[dtype])
    b = maker.input("b", 4096, dtype=dtype)
    y = maker.node(op, maker.constant(np.full(4096, np.iinfo(kind).min, kind)), b)
    return maker.graph(y), np.full(4096, 3, kind), 0


def _ordered(op: str) -> tuple[Graph, Array, float]:
    maker = Maker()
    x = maker.input("x", 4096)
    attrs = {"k": 100} if op == "topk" else {}
    return maker.graph(maker.node(op, x, axis=0, outputs=2, **attrs)[1]), np.arange(4096, dtype=np.float32), np.nan


def _lengths() -> tuple[Graph, Array, int]:
    maker = Maker()
    lengths = maker.input("n", 16, dtype="i64")
    y = maker.node("gru", maker.floats(32, 16, 24), maker.floats(24, 8), "", "", lengths, outputs=2)
    return maker.graph(y[0]), np.arange(16) + 1, 1 << 36


CHANGED: dict[str, Callable[[], tuple[Graph, Array, Any]]] = {
    **{
        op: partial(_indexed, op)
        for op in ("take", "gather", "index", "scatter", "index_put", "quantized_embedding", "embedding_bag")
    },
    "max_unpool2d": _unpool,
    "offsets of bags": _offsets,
    **{
        f"{op} {dtype}": partial(_divided, op, dtype)
        for op in ("floor_div", "trunc_div", "remainder", "fmod")
        for dtype in ("i64", "i32")
    },
    **{op: partial(_ordered, op) for op in ("sort", "topk")},
    "lengths of sequences": _lengths,
}


@pytest.mark.parametrize("name", CHANGED)
def test_inputs_that_another_thread_changes(name: str) -> None:
    """What was checked may be something else when it is used; the answer may be anything, or InputError."""
    graph, good, bad = CHANGED[name]()
    session, x, stop = lowbit.Session(graph, threads=1), good.copy(), threading.Event()
    expected = session.run_list([good])

    def change() -> None:
        worse = good.copy()
        worse[good.shape[0] // 2 :] = bad
        if good.dtype.kind != "f":
            worse.ravel()[-1] = -1
        while not stop.is_set():
            np.copyto(x, worse)
            np.copyto(x, good)

    changing = threading.Thread(target=change)
    changing.start()
    end = time.monotonic() + SECONDS
    try:
        while time.monotonic() < end:
            with suppress(InputError):
                session.run_list([x])
    finally:
        stop.set()
        changing.join()
    np.testing.assert_array_equal(session.run_list([good]), expected)


# ---------------------------------------------------------------------------------------------------- float environment

UPWARD = {"x86_64": 0x800, "aarch64": 0x400000}
MATH = ctypes.CDLL("libm.so.6") if platform.machine() in UPWARD and platform.system() == "Linux" else None


@contextmanager
def rounding_upward() -> Iterator[None]:
    assert MATH is not None
    MATH.fesetround(UPWARD[platform.machine()])
    try:
        yield
    finally:
        MATH.fesetround(0)


@pytest.mark.skipif(MATH is None, reason="the C library's rounding modes are known for Linux alone")
@pytest.mark.parametrize("name", GRAPHS)
def test_a_session_is_built_as_it_runs_whatever_the_callers_rounding(name: str) -> None:
    graph = GRAPHS[name]()
    given = feeds(graph, {"batch": 2})
    expected = lowbit.Session(graph, threads=1).run(**given)
    with rounding_upward():
        session = lowbit.Session(graph, threads=1)
        found = session.run(**given)
    for run in (found, session.run(**given)):
        for y, other in zip(run, expected, strict=True):
            np.testing.assert_array_equal(y, other)


@pytest.mark.skipif(MATH is None, reason="the C library's rounding modes are known for Linux alone")
def test_codes_that_are_read_as_floats_are_made_in_the_default_rounding() -> None:
    maker = Maker()
    weight = maker.weight(8, 64)
    graph = maker.graph(maker.node("add", maker.input("x", 8, 64), weight))
    expected = lowbit.Session(graph).run(np.zeros((8, 64), np.float32))
    with rounding_upward():
        found = lowbit.Session(graph).run(np.zeros((8, 64), np.float32))
    np.testing.assert_array_equal(found, expected)


# ---------------------------------------------------------------------------------------------------------------- torch


def test_a_session_runs_segments_in_torch_only_if_it_may(tmp_path: Path) -> None:
    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.inv(x) * 2

    x = torch.eye(3) * 4
    model = lowbit.convert(Net(), x, fallback="torch", dynamic=None)
    model.save(tmp_path / "net.lowbit")
    graph, _ = format.load(tmp_path / "net.lowbit")
    with pytest.raises(UnsupportedError, match="allow_torch"):
        lowbit.Session(graph)
    session = lowbit.Session(graph, allow_torch=True)
    np.testing.assert_allclose(session.run(x.numpy())[0], np.eye(3) / 2)
    hurried = lowbit.Session(graph, allow_torch=True, limits=lowbit.Limits(seconds=1e-9))
    with pytest.raises(lowbit.LimitError, match="longer"):
        hurried.run(x.numpy())
    for wrong in ([], [x.numpy()] * 2, [3], np.zeros((1, 3), np.float32)):
        for call in (session.run_list, lambda wrong: session.profile_list(wrong, 1)):
            with pytest.raises(InputError):
                call(wrong)
