"""What a session may take: operations are counted as a call is planned, seconds as it runs; signals end it, too."""

from __future__ import annotations

import copy
import pickle
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lowbit
from graphs import Maker
from lowbit import InputError, LimitError, Limits
from lowbit.graph.ir import Array, Graph, Symbol
from lowbit.runtime import format


def product() -> Graph:
    """y = x w of 64 x 64 for any number of rows: 2 * 64 * 64 operations each, and the bytes."""
    maker = Maker(0, {"rows": Symbol(minimum=0)})
    x = maker.input("x", "rows", 64)
    return maker.graph(maker.node("linear", x, maker.floats(64, 64)))


def rows(count: int) -> np.ndarray[Any, Any]:
    return np.ones((count, 64), np.float32)


@pytest.mark.parametrize(
    "wrong",
    [
        {"memory": 0},
        {"memory": 1.5},
        {"memory": True},
        {"memory": 2**63},
        {"batch": 0},
        {"batch": 1e3},
        {"batch": "all"},
        {"operations": 0},
        {"operations": float("nan")},
        {"operations": float("inf")},
        {"operations": 10**400},
        {"operations": "many"},
        {"seconds": -1},
        {"seconds": False},
        {"seconds": [1]},
        {"seconds": 10**400},
    ],
)
def test_limits_are_positive_numbers(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"limits: {next(iter(wrong))} "):
        Limits(**wrong)


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_names_that_no_file_has(name: str) -> None:
    with pytest.raises(lowbit.FormatError, match="is no path"):
        lowbit.load(name)


def test_instruction_sets_are_names() -> None:
    wrong: Any = ["avx2"]
    with pytest.raises(InputError, match=r"isa must be the name of an instruction set or None, is \['avx2'\]"):
        lowbit.Session(product(), isa=wrong)


@pytest.mark.parametrize("size", [1.5, float("nan"), "x", None, [1]])
def test_sizes_of_made_up_inputs_are_integers(size: Any) -> None:
    session = lowbit.Session(product())
    with pytest.raises(InputError, match="size 'rows' must be an integer"):
        session.made_up({"rows": size})
    assert session.made_up({"rows": np.int64(3)})[0].shape == (3, 64)


def test_limits_are_limits(tmp_path: Path) -> None:
    wrong: Any = 1e9
    for make in (
        lambda: lowbit.load(tmp_path / "no.lowbit", limits=wrong),
        lambda: lowbit.Session(product(), limits=wrong),
    ):
        with pytest.raises(InputError, match=r"limits must be a lowbit\.Limits or None, not a float"):
            make()


def test_a_call_of_too_many_operations_is_refused_with_numbers() -> None:
    session = lowbit.Session(product(), limits=Limits(operations=1e6))
    expected = session.run(rows(64))
    for call in (session.run, session.profile):
        with pytest.raises(
            LimitError, match=r"takes 8\.72e\+06 operations.* in node 'n0_linear' \(linear\).* is 1e\+06.*raise it"
        ):
            call(rows(1000))
    with pytest.raises(LimitError, match="operations"):
        session.run_into([rows(1000)], [rows(1000)])
    np.testing.assert_array_equal(session.run(rows(64)), expected)


def mean(*names: str) -> Graph:
    """The larger of two numbers in each row of each input, whose rows are free sizes of these names."""
    maker = Maker(0, {name: Symbol(minimum=1) for name in names})
    inputs = [maker.input(f"x{i}", name, 2) for i, name in enumerate(names)]
    return maker.graph(*(maker.node("reduce", x, kind="max", axes=(1,)) for x in inputs))


@pytest.mark.parametrize("name", ["batch", "my_batch_size"])
def test_a_batch_has_a_bound_that_a_caller_may_raise(name: str, tmp_path: Path) -> None:
    graph, file = mean(name), tmp_path / "net.lowbit"
    format.save(file, graph)
    many, most = np.ones((65_537, 2), np.float32), np.ones((65_536, 2), np.float32)
    refusal = rf"{name} is 65537, and this session's limit is 65536\. .*fewer.* raise it: limits=lowbit\.Limits\(batch="
    for session in (lowbit.Session(graph), lowbit.load(file).session):
        session.run(most)
        for call in (session.run, session.profile, lambda x, it=session: it.run_into([x], [x[:, 0].copy()])):
            with pytest.raises(LimitError, match=refusal):
                call(many)
        session.run(most)
    for limits in (Limits(batch=65_537), Limits(batch=None)):
        assert lowbit.load(file, limits=limits).session.run(many)[0].shape == (65_537,)
    with pytest.raises(LimitError, match=r"is 4, and this session's limit is 3\."):
        lowbit.load(file, limits=Limits(batch=3)).session.run(many[:4])


def test_a_bound_of_batches_is_of_no_other_size() -> None:
    session = lowbit.Session(mean("rows", "batch"), limits=Limits(batch=2))
    x = np.ones((100_000, 2), np.float32)
    assert [y.shape for y in session.run(x, x[:2])] == [(100_000,), (2,)]
    with pytest.raises(LimitError, match="batch is 3"):
        session.run(x, x[:3])


def test_a_module_of_your_own_has_no_bound_of_batches() -> None:
    model = lowbit.convert(torch.nn.Linear(2, 1), torch.zeros(1, 2))
    assert model(np.ones((70_000, 2), np.float32)).shape == (70_000, 1)


def test_a_copy_of_an_input_beyond_the_limit_is_refused_before_it_is_made() -> None:
    session = lowbit.Session(product(), limits=Limits(memory=10_000_000))
    many = np.broadcast_to(np.float32(1), (1 << 40, 64))  # four bytes that look like 2^48
    for call in (session.run, session.profile, lambda x: session.run_into([x], [rows(1)])):
        with pytest.raises(LimitError, match=r"input 0 is not contiguous, and a copy takes .* MiB; .* hold 9\.5 MiB"):
            call(many)
    np.testing.assert_array_equal(session.run(rows(8)[::2]), session.run(rows(4)))


def test_what_is_computed_once_counts_before_it_runs() -> None:
    maker = Maker()
    large = maker.node("matmul", *[maker.node("expand", maker.floats(1, 1), shape=(1500, 1500)) for _ in "ab"])
    graph = maker.graph(maker.node("add", maker.input("x", 1), maker.node("reduce", large, kind="sum", axes=(0, 1))))
    with pytest.raises(LimitError, match=r"operations.*\(matmul\)"):
        lowbit.Session(graph, limits=Limits(operations=1e9)).run(np.ones(1, np.float32))


def test_limits_are_kept_by_files_pickles_and_copies(tmp_path: Path) -> None:
    graph, file = product(), tmp_path / "net.lowbit"
    format.save(file, graph)
    few = Limits(operations=1e6)
    session, model = lowbit.Session(graph, limits=few), lowbit.load(file, limits=few)
    kept = [session, copy.deepcopy(session), pickle.loads(pickle.dumps(session))]
    kept += [each.session for each in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model)))]
    for each in kept:
        with pytest.raises(LimitError):
            each.run(rows(1000))
    lowbit.Session(graph, limits=Limits(operations=None)).run(rows(1000))
    lowbit.load(file).session.run(rows(1000))


def _unpacks_to_much(kind: str) -> tuple[Graph, bool]:
    """The graph, and whether its file is compressed."""
    maker = Maker(bits=2)
    if kind == "sparse":
        weight = maker.sparse("unstructured", 0.0, 1024, 5120)
    elif kind == "few bits":
        weight = maker.grouped(1024, 5120, 128)
    else:
        weight = maker.constant(maker.rng.integers(0, 4, (1024, 5120)).astype(np.float32))
    return maker.graph(maker.node("linear", maker.input("x", 1, 5120), weight)), kind == "streams"


@pytest.mark.parametrize("kind", ["sparse", "few bits", "streams"])
def test_what_unpacks_to_much_is_refused_before(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, compress = _unpacks_to_much(kind)
    monkeypatch.setattr(format, "ROOM", 2**20)
    file = tmp_path / "net.lowbit"
    format.save(file, graph, compress=compress)
    with pytest.raises(LimitError, match=r"unpacked, more than the .* MiB.*limits=lowbit\.Limits\(memory"):
        format.load(file)
    with pytest.raises(LimitError, match="unpacked, more than the 9 MiB"):
        lowbit.load(file, limits=Limits(memory=10_000_000))
    model = lowbit.load(file, limits=Limits(memory=10**9))
    x = np.ones((1, 5120), np.float32)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model))(x), model(x))


# ------------------------------------------------------------------------------------------------------------- an end
# Each takes minutes, at least, if nothing ends it; with batch 1 next to nothing.


def _long(op: str) -> tuple[Graph, Array]:
    maker = Maker(0, {"n": Symbol(minimum=1)})
    match op:
        case "max_pool2d" | "avg_pool2d":
            x = maker.input("x", "n", 1, 3000, 3000)
            y = maker.node(op, x, kernel=(1400, 1400), stride=(1, 1))
        case "max_pool2d of one row":
            x = maker.input("x", "n", 1, 1400, 20000)
            y = maker.node("max_pool2d", x, kernel=(1400, 1400), stride=(1, 1))
        case "conv2d":
            x = maker.input("x", "n", 64, 256, 256)
            y = maker.node(op, x, maker.floats(64, 64, 31, 31), padding=(15, 15, 15, 15))
        case "groups":
            x = maker.input("x", "n", 256, 128, 128)
            y = maker.node("conv2d", x, maker.floats(256, 4, 61, 61), padding=(30, 30, 30, 30), groups=64)
        case "depthwise":
            x = maker.input("x", "n", 64, 512, 512)
            y = maker.node("conv2d", x, maker.floats(64, 1, 201, 201), padding=(100, 100, 100, 100), groups=64)
        case "depthwise of one row":
            x = maker.input("x", "n", 2, 301, 100_000)
            y = maker.node("conv2d", x, maker.floats(2, 1, 301, 301), padding=(0, 150, 0, 150), groups=2)
        case "matmul":
            x = maker.input("x", "n", 4096, 4096)
            y = x
            for _ in range(40):
                y = maker.node("matmul", y, x)
        case "attention":
            x = maker.input("x", "n", 1, 100_000, 64)
            y = maker.node("attention", x, x, x, scale=0.1)
        case "gru":
            x = maker.input("x", 300_000, "n", 1536)
            y = maker.node("gru", x, maker.floats(1536, 512), outputs=2)[1]
        case "sort":
            x = maker.input("x", "n", 50_000_000)
            y = x
            for _ in range(10):
                y = maker.node("sort", y, axis=1, outputs=2)[0]
        case "elements":
            x = maker.input("x", "n", 16_000_000)
            y = x
            for _ in range(1000):
                y = maker.node("unary", y, kind="erf")
        case "bags":
            x = maker.input("x", "n", dtype="i64")
            table = maker.constant(np.zeros((100, 500_000), np.float32))
            y = maker.node("embedding_bag", table, x, maker.constant(np.zeros(1, np.int64)), mode="sum")
            return maker.graph(y), np.zeros(1_000_000, np.int64)
        case _:
            raise AssertionError(op)
    shape = [1 if size == "n" else size for size in maker.made.values["x"].shape]
    return maker.graph(y), np.zeros(shape, np.float32)


LONG = (
    "max_pool2d",
    "avg_pool2d",
    "max_pool2d of one row",
    "conv2d",
    "groups",
    "depthwise",
    "depthwise of one row",
    "matmul",
    "attention",
    "gru",
    "sort",
    "elements",
    "bags",
)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("op", LONG)
def test_a_call_ends_at_its_deadline(op: str, threads: int) -> None:
    graph, x = _long(op)
    session = lowbit.Session(graph, threads=threads, limits=Limits(operations=None, seconds=0.03))
    with pytest.raises(LimitError, match=r"longer than this session's limit, 0\.03 seconds, and was ended in node '"):
        session.run_list([x])


@pytest.mark.parametrize("threads", [1, 2])
def test_after_a_call_that_was_ended_the_next_is_right(threads: int) -> None:
    maker = Maker(0, {"n": Symbol(minimum=1)})
    x = maker.input("x", "n", 64)
    y = maker.node("linear", x, maker.floats(64, 64))
    for _ in range(50):
        y = maker.node("softmax", maker.node("matmul", maker.node("softmax", y, axis=1), maker.floats(64, 64)), axis=0)
    graph = maker.graph(y)
    few, many = rows(7), rows(2_000_000)
    expected = lowbit.Session(graph, threads=threads).run_list([few])
    session = lowbit.Session(graph, threads=threads, limits=Limits(seconds=0.05))
    for _ in range(3):
        with pytest.raises(LimitError, match="seconds"):
            session.run_list([many])
        np.testing.assert_array_equal(session.run_list([few]), expected)


@pytest.mark.parametrize("op", ["max_pool2d", "matmul", "elements"])
def test_a_signal_ends_a_call_of_the_main_thread(op: str) -> None:
    """Ctrl-C."""
    graph, x = _long(op)
    session = lowbit.Session(graph, limits=Limits(operations=None))
    (_, output), *_ = session.outputs
    y = np.empty([1 if size == "n" else size for size in output.shape], np.float32)
    for call in (
        lambda: session.run_list([x]),
        lambda: session.run_into([x], [y]),
        lambda: session.profile_list([x], 2),
    ):
        interrupting = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])
        interrupting.start()
        with pytest.raises(KeyboardInterrupt):
            call()
        interrupting.join()


def test_handlers_run_during_a_call() -> None:
    graph, x = _long("elements")
    seen: list[int] = []

    def handle(*_: Any) -> None:
        seen.append(1)
        small.run(np.ones(3, np.float32))  # a call within a call
        if len(seen) == 3:
            raise TimeoutError("enough")

    maker = Maker()
    small = lowbit.Session(maker.graph(maker.node("unary", maker.input("x", 3), kind="erf")))
    session = lowbit.Session(graph, limits=Limits(operations=None))
    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    try:
        with pytest.raises(TimeoutError, match="enough"):
            session.run_list([x])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(seen) == 3


def test_other_threads_run_while_a_profile_is_planned() -> None:
    """What depends on no input is computed then; it ends at the deadline, too."""
    maker = Maker()
    large = maker.node("expand", maker.floats(1, 1), shape=(2048, 2048))
    y = large
    for _ in range(200):
        y = maker.node("matmul", y, large)
    graph = maker.graph(maker.node("add", maker.input("x", 1), maker.node("reduce", y, kind="sum", axes=(0, 1))))
    session = lowbit.Session(graph, threads=1, limits=Limits(operations=None, seconds=0.3))
    raised: list[BaseException] = []

    def profile() -> None:
        try:
            session.profile(np.ones(1, np.float32))
        except LimitError as error:
            raised.append(error)

    profiling = threading.Thread(target=profile)
    profiling.start()
    turns = 0
    while profiling.is_alive():
        profiling.join(0.001)
        turns += 1
    assert turns > 20
    assert "(matmul)" in str(raised[0])
