"""Memory in proportion: what is one in a model exists once, and what a session holds has a bound."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphs import Maker
from lowbit import LimitError, Limits, _core
from lowbit.graph.ir import Array, Graph, Symbol, Weight, replace
from lowbit.ops import interpreter
from lowbit.runtime import format
from lowbit.runtime.session import Session

ISAS = _core.cpu()["isas"]
MIB = 1 << 20


def packed_bytes(graph: Graph, isa: str | None = None) -> int:
    return Session(graph, threads=1, isa=isa)._core.memory()["packed_bytes"]


def constant_bytes(graph: Graph) -> int:
    parts = [[it.codes, it.scales] if isinstance(it, Weight) else [it] for it in graph.constants.values()]
    return sum(part.nbytes for some in parts for part in some)


# --------------------------------------------------------------------------------------------------------------- shared


def sparse(m: Maker, *shape: int) -> str:
    codes = m.rng.integers(-127, 128, shape).astype(np.int8)
    codes[m.rng.random(shape) < 0.97] = 0
    return m.constant(Weight(codes=codes, scales=np.ones(shape[0], np.float32)))


def scaled(m: Maker, channels: int) -> tuple[str, str]:
    return m.constant(m.rng.uniform(1e-4, 2e-3, channels).astype(np.float32)), m.floats(channels)


def codes_of(m: Maker, *shape: int) -> str:
    return str(m.node("quantize", m.input("x", *shape), scale=0.03, zero_point=120))


CODES = {"zero_point_x": 120, "zero_point_y": 7, "output": "u8"}
PAD1 = (1, 1, 1, 1)


def layers(m: Maker, op: str, x: str, *constants: str, **attrs: Any) -> Callable[[], str]:
    return lambda: str(m.node(op, x, *constants, **attrs))


def on_codes(m: Maker, op: str, shape: tuple[int, ...], weight: str, **attrs: Any) -> Callable[[], str]:
    channels = np.asarray(m.made.constants[weight]).shape[0]
    return layers(m, f"quantized_{op}", codes_of(m, *shape), weight, *scaled(m, channels), **CODES, **attrs)


def recurrent(m: Maker) -> Callable[[], str]:
    x, w = m.input("x", 2, 1, 256), m.floats(256, 256)
    return lambda: str(m.node("rnn", x, w, outputs=2, kind="relu")[0])


READERS: dict[str, Callable[[Maker], Callable[[], str]]] = {
    "linear": lambda m: layers(m, "linear", m.input("x", 2, 256), m.floats(256, 256), m.floats(256)),
    "wide linear": lambda m: layers(m, "linear", m.input("x", 2, 1), m.floats(1 << 16, 1), m.floats(1 << 16)),
    "conv": lambda m: layers(m, "conv2d", m.input("x", 1, 64, 5, 5), m.floats(64, 64, 3, 3), padding=PAD1),
    "depthwise": lambda m: layers(m, "conv2d", m.input("x", 1, 4096, 3, 3), m.floats(4096, 1, 3, 3), groups=4096),
    "groups": lambda m: layers(m, "conv2d", m.input("x", 1, 512, 2, 2), m.floats(512, 32, 2, 2), groups=16),
    "transposed": lambda m: layers(
        m, "conv_transpose2d", m.input("x", 1, 64, 2, 2), m.floats(64, 64, 3, 3), stride=(2, 5)
    ),
    "int8 linear": lambda m: on_codes(m, "linear", (2, 512), m.weight(512, 512)),
    "int4 linear": lambda m: on_codes(m, "linear", (2, 512), m.grouped(512, 512, 32)),
    "sparse linear": lambda m: on_codes(m, "linear", (2, 1024), sparse(m, 1024, 1024)),
    "int8 conv": lambda m: on_codes(m, "conv2d", (1, 128, 12, 12), m.weight(128, 128, 3, 3), padding=PAD1),
    "int4 conv": lambda m: on_codes(m, "conv2d", (1, 64, 5, 5), m.grouped(64, 576, 32, kernel=(3, 3))),
    "sparse conv": lambda m: on_codes(m, "conv2d", (1, 256, 8, 8), sparse(m, 256, 256, 3, 3), padding=PAD1),
    "int8 depthwise": lambda m: on_codes(m, "conv2d", (1, 2048, 3, 3), m.weight(2048, 1, 3, 3), groups=2048),
    "int8 transposed": lambda m: on_codes(m, "conv_transpose2d", (1, 64, 2, 2), m.weight(64, 64, 3, 3), stride=(2, 4)),
    "rnn": recurrent,
    "table": lambda m: layers(m, "lookup", codes_of(m, 1, 512, 1), m.constant(np.zeros((512, 256), np.uint8))),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", READERS)
def test_nodes_that_read_one_constant_share_what_is_packed(name: str, isa: str) -> None:
    """Eight nodes take about what one does, and give the bits of eight nodes with constants of their own."""

    def made(count: int) -> Graph:
        m = Maker(3)
        node = READERS[name](m)
        return m.graph(*(node() for _ in range(count)))

    graph = made(8)
    assert packed_bytes(graph, isa) < 1.2 * packed_bytes(made(1), isa) + 20_000
    outputs = Session(graph, threads=1, isa=isa).run(*Session(graph).made_up())
    alone = Session(made(1), threads=1, isa=isa).run(*Session(graph).made_up())
    for y in outputs:
        np.testing.assert_array_equal(y, alone[0])


def test_layers_that_differ_do_not_share() -> None:
    """One weight under different strides, groups, sizes and biases: each gives what it gives alone."""
    m = Maker(4)
    x, w, bias = m.input("x", 1, 16, 9, 9), m.floats(16, 16, 3, 3), m.floats(16)
    options = [
        {},
        {"stride": (2, 1)},
        {"dilation": (2, 3)},
        {"padding": (4, 3, 1, 0)},
        {"stride": (2, 2), "padding": PAD1},
        {"activation_min": 0.0},
    ]
    ys = [m.node("conv2d", x, w, bias, **attrs) for attrs in options]
    ys += [m.node("conv_transpose2d", x, w, bias, **attrs) for attrs in options[:-1]]
    ys.append(m.node("conv2d", m.input("z", 1, 16, 40, 40), w))
    q = m.node("quantize", x, scale=0.03, zero_point=120)
    codes, multiplier = m.weight(16, 16, 3, 3), scaled(m, 16)[0]
    for zero_point in (3, 9):
        attrs = CODES | {"zero_point_y": zero_point}
        ys.append(m.node("quantized_conv2d", q, codes, multiplier, bias, padding=PAD1, **attrs))
        ys.append(
            m.node("quantized_conv2d", q, codes, multiplier, bias, q, padding=PAD1, residual_zero_point=zero_point,
                   residual_multiplier=0.25, **attrs)
        )  # fmt: skip
    graph = m.graph(*ys)
    feeds = {name: m.rng.standard_normal(graph.values[name].shape).astype(np.float32) for name in graph.inputs}
    for name, y in zip(graph.outputs, Session(graph).run(**feeds), strict=True):
        (alone,) = Session(replace(graph, outputs=(name,))).run(**feeds)
        np.testing.assert_array_equal(y, alone, err_msg=name)
        np.testing.assert_allclose(y, interpreter.run(graph, feeds)[name], atol=1e-4)


def test_constants_that_are_one_array_are_held_once() -> None:
    """As arrays, as outputs, as weights, and as the numbers of weights."""
    m = Maker(0)
    array = m.rng.standard_normal((512, 512)).astype(np.float32)
    weight = Weight(codes=m.rng.integers(-127, 128, (512, 512)).astype(np.int8), scales=np.ones(512, np.float32))
    x = m.input("x", 1, 512)
    total, many = x, 12
    for i in range(many):
        total = m.node("add", total, m.constant(array, f"array{i}"))
        total = m.node("add", total, m.constant(weight, f"weight{i}"))
    q = m.node("quantize", x, scale=0.03, zero_point=120)
    more = [m.node("quantized_linear", q, f"weight{i}", *scaled(m, 512), **CODES) for i in range(many)]
    graph = m.graph(total, *more, "array3", "array5")
    assert packed_bytes(graph) < 4 * MIB
    given = m.rng.standard_normal((1, 512)).astype(np.float32)
    session, expected = Session(graph), interpreter.run(graph, {"x": given})
    for name, y in zip(graph.outputs, session.run(given), strict=True):
        np.testing.assert_allclose(y, expected[name], rtol=1e-5, atol=1e-4, err_msg=name)


# ----------------------------------------------------------------------------------------------------------- proportion


def transposed(m: Maker, weight: tuple[int, ...], size: tuple[int, ...], quantized: bool, **attrs: Any) -> Graph:
    channels = weight[1] * attrs.get("groups", 1)
    op = f"conv_transpose{len(size)}d"
    if not quantized:
        return m.graph(m.node(op, m.input("x", 2, channels, *size), m.floats(*weight), m.floats(weight[0]), **attrs))
    x = codes_of(m, 2, channels, *size)
    return m.graph(m.node(f"quantized_{op}", x, m.weight(*weight), *scaled(m, weight[0]), **CODES, **attrs))


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("groups", [1, 64])
def test_outputs_that_no_tap_meets_take_no_weights(groups: int, quantized: bool) -> None:
    graph = transposed(Maker(1), (64, 64 // groups, 1, 1), (2, 3), quantized, stride=(64, 64), groups=groups)
    given = np.random.default_rng(0).standard_normal((2, 64, 2, 3)).astype(np.float32)
    expected = interpreter.run(graph, {"x": given})[graph.outputs[0]]
    for isa in ISAS:
        assert packed_bytes(graph, isa) < 8 * constant_bytes(graph) + 10_000
        (y,) = Session(graph, isa=isa).run(given)
        np.testing.assert_allclose(y, expected, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_transposed_convolutions_with_gaps(data: st.DataObject) -> None:
    """Any strides, kernels, dilations and groups: all instruction sets alike, as the interpreter says."""
    axes = data.draw(st.sampled_from([2, 2, 3]))

    def sizes(low: int, high: int) -> tuple[int, ...]:
        return tuple(data.draw(st.integers(low, high)) for _ in range(axes))

    groups = data.draw(st.sampled_from([1, 1, 2, 6]))
    depth, filters = data.draw(st.sampled_from([(1, 1), (1, 1), (3, 2), (4, 3)]))
    attrs = {"stride": sizes(1, 6), "dilation": sizes(1, 4), "groups": groups}
    quantized = data.draw(st.booleans())
    graph = transposed(
        Maker(data.draw(st.integers(0, 99))), (filters * groups, depth, *sizes(1, 3)), sizes(1, 4), quantized, **attrs
    )
    given = np.random.default_rng(0).standard_normal(graph.values["x"].shape).astype(np.float32)
    expected = interpreter.run(graph, {"x": given})[graph.outputs[0]]
    first = Session(graph, isa="scalar", threads=1).run(given)[0]
    np.testing.assert_allclose(first, expected, atol=1e-4)
    for isa in ISAS:
        np.testing.assert_array_equal(Session(graph, isa=isa, threads=2).run(given)[0], first)


def test_a_gap_does_not_look_at_its_input() -> None:
    graph = transposed(Maker(1), (3, 2, 1, 1), (2, 2), False, stride=(3, 3))
    given = np.full((2, 2, 2, 2), np.inf, np.float32)
    (bias,) = (array for array in graph.constants.values() if isinstance(array, np.ndarray) and array.ndim == 1)
    for isa in ISAS:
        (y,) = Session(graph, isa=isa).run(given)
        assert not np.isfinite(y[:, :, ::3, ::3]).any()
        np.testing.assert_array_equal(y[:, :, 1::3], np.broadcast_to(bias[:, None, None], y[:, :, 1::3].shape))


def grouped(groups: int, quantized: bool) -> Graph:
    m = Maker(0)
    if not quantized:
        return m.graph(m.node("conv2d", m.input("x", 1, 2 * groups, 1, 1), m.floats(groups, 2, 1, 1), groups=groups))
    x = codes_of(m, 1, 2 * groups, 1, 1)
    return m.graph(m.node("quantized_conv2d", x, m.weight(groups, 2, 1, 1), *scaled(m, groups), groups=groups, **CODES))


@pytest.mark.parametrize("quantized", [False, True])
def test_weights_that_grow_out_of_proportion_are_refused_with_numbers(quantized: bool) -> None:
    """A panel of 16 channels or more for each group of one; a limit that the caller sets is taken instead."""
    graph = grouped(200_000, quantized)
    with pytest.raises(LimitError, match=r"node '.*conv2d' .* MiB beside the .* MiB .* may hold .* MiB\. .*memory="):
        Session(graph)
    assert Session(grouped(2_000, quantized)).nodes()
    few = grouped(2_000, quantized)
    with pytest.raises(LimitError, match="MiB"):
        Session(few, limits=Limits(memory=100_000))
    assert Session(few, limits=Limits(memory=20 * MIB)).nodes()


# ----------------------------------------------------------------------------------------------- what a process may use


def file_system(root: Path, cgroup: str, limits: dict[str, str]) -> str:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, text in limits.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


V1 = "9223372036854771712\n"  # what version 1 says where there is no limit
CGROUPS: dict[str, tuple[str, dict[str, str], int | None]] = {
    "none": ("0::/\n", {}, None),
    "v2, own group": ("0::/app\n", {"app/memory.max": "67108864\n"}, 64 * MIB),
    "v2, no limit": ("0::/app\n", {"app/memory.max": "max\n"}, None),
    "v2, a group above": (
        "0::/slice/app/leaf\n",
        {"slice/memory.max": "1048576\n", "slice/app/memory.max": "max\n", "slice/app/leaf/memory.max": "4194304\n"},
        MIB,
    ),
    "v2, as a container sees it": ("0::/\n", {"memory.max": "33554432\n"}, 32 * MIB),
    "v2 beside v1": ("1:cpu:/\n0::/app\n", {"unified/app/memory.max": "2097152\n"}, 2 * MIB),
    "v1": ("3:cpu,cpuacct:/\n5:memory:/app\n", {"memory/app/memory.limit_in_bytes": "16777216\n"}, 16 * MIB),
    "v1, no limit": ("5:memory:/\n", {"memory/memory.limit_in_bytes": V1}, None),
    "v1, a group above": (
        "5:hugetlb,memory:/docker/id\n",
        {"memory/docker/memory.limit_in_bytes": "8388608\n", "memory/docker/id/memory.limit_in_bytes": V1},
        8 * MIB,
    ),
    "v1, as a container sees it": ("5:memory:/docker/id\n", {"memory/memory.limit_in_bytes": "3145728\n"}, 3 * MIB),
    "of another controller": ("5:memoryless:/app\n", {"memory/app/memory.limit_in_bytes": "1024\n"}, None),
    "damaged": ("nonsense\n5:memory\n0::/../x\n", {"memory.max": "", "x/memory.max": "12\n"}, None),
}


@pytest.mark.parametrize("name", CGROUPS)
def test_the_limits_of_cgroups(name: str, tmp_path: Path) -> None:
    cgroup, limits, expected = CGROUPS[name]
    own = _core.available_memory(str(tmp_path / "empty"))
    assert _core.available_memory(file_system(tmp_path / "root", cgroup, limits)) == (expected or own)


def test_the_address_space_is_a_limit() -> None:
    program = "import resource as r; r.setrlimit(r.RLIMIT_AS, (3 << 30,) * 2)\n"
    program += "from lowbit import _core; print(_core.available_memory())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 3 << 30


# ------------------------------------------------------------------------------------------------------ a session's own


def wide(rows: str = "rows") -> Graph:
    """y [rows, 64] by way of 1024 numbers a row: 4 KiB and more of working memory for each."""
    m = Maker(0, {rows: Symbol(minimum=1)})
    y = m.node("linear", m.node("linear", m.input("x", rows, 64), m.floats(1024, 64)), m.floats(64, 1024))
    return m.graph(y)


def ones(rows: int) -> Array:
    return np.ones((rows, 64), np.float32)


def memory(session: Session) -> Any:
    return session._core.memory()


def test_the_default_is_what_the_process_may_use() -> None:
    session = Session(wide())
    assert memory(session)["limit_bytes"] == _core.available_memory()
    assert memory(Session(wide(), limits=Limits(memory=MIB)))["limit_bytes"] == MIB


def test_constants_beyond_the_limit_are_refused() -> None:
    with pytest.raises(LimitError, match=r"constants take 0\.5 MiB, and the session may hold 0\.1 MiB"):
        Session(wide(), limits=Limits(memory=MIB // 8))


def test_a_call_beyond_the_limit_is_refused_with_numbers_and_the_next_one_runs() -> None:
    session = Session(wide(), threads=1, limits=Limits(memory=4 * MIB))
    expected = session.run(ones(100))[0]
    for rows in (10_000, 1 << 22):
        with pytest.raises(LimitError, match=r"needs [\d.]+ MiB for .* outputs, beside the [\d.]+ MiB .* 4\.0 MiB"):
            session.run(np.zeros((rows, 64), np.float32))
        assert memory(session)["held_bytes"] <= 4 * MIB
        np.testing.assert_array_equal(session.run(ones(100))[0], expected)
    session._core.trim(0.0)
    assert memory(session)["held_bytes"] == memory(session)["packed_bytes"]


def test_outputs_count() -> None:
    """One of 2^38 bytes and more is refused before anybody asks for it; so is one beyond the limit of the session."""
    column = np.ones((1, 1 << 20), np.float32)
    m = Maker(0, {"rows": Symbol(minimum=1), "columns": Symbol(minimum=1)})
    x, z = m.input("x", "rows", 1), m.input("z", 1, "columns")
    graph = m.graph(m.node("mul", x, z))
    row = np.ones((1 << 18, 1), np.float32)
    with pytest.raises(LimitError, match=r"needs 1048576\.0 MiB for .* outputs"):
        Session(graph, limits=Limits(operations=None)).run(row, column)
    session = Session(graph, limits=Limits(memory=MIB))
    session.run(row[:64], column[:, :64])
    with pytest.raises(LimitError, match=r"needs 1\.0 MiB"):
        session.run(row[:512], column[:, :512])
    with pytest.raises(LimitError, match=r"needs 1\.0 MiB"):
        session.run_into([row[:512], column[:, :512]], [np.empty((512, 512), np.float32)])


def test_a_padded_copy_counts() -> None:
    """One number between 16,000 of padding on all sides: 4.1 GB as an output, and as the copy that is read."""
    m = Maker(0)
    graph = m.graph(m.node("conv2d", m.input("x", 1, 1, 1, 1), m.floats(1, 1, 1, 1), padding=(16_000,) * 4))
    few = m.graph(
        m.node("conv2d", "x", m.floats(1, 1, 2, 2), padding=(16_000,) * 4, stride=(32_000,) * 2, dilation=(7,) * 2)
    )
    for each, least in ((graph, 7813), (few, 3906)):
        with pytest.raises(LimitError, match=rf"needs {least}\.\d MiB .* may hold 512\.0 MiB"):
            Session(each, limits=Limits(memory=512 * MIB)).run(np.ones((1, 1, 1, 1), np.float32))


def test_what_depends_on_no_input_counts_while_it_is_made() -> None:
    m = Maker(0, {"rows": Symbol(minimum=1)})
    x = m.input("x", "rows", 1)
    positions = m.node("reshape", m.node("arange", start=0, length="rows", step=1, dtype="i64"), shape=("rows", 1))
    graph = m.graph(m.node("add", x, m.node("cast", positions, dtype="f32")))
    session = Session(graph, limits=Limits(memory=MIB))
    assert session.run(np.ones((1000, 1), np.float32))[0][-1] == 1000
    with pytest.raises(LimitError, match="needs"):
        session.run(np.ones((500_000, 1), np.float32))
    assert session.run(np.ones((2000, 1), np.float32))[0][-1] == 2000


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 1500), min_size=1, max_size=12), st.integers(1, 8))
def test_whatever_the_sizes_a_session_stays_within_its_limit(sizes: list[int], limit: int) -> None:
    """What fits a fresh session, fits one that met other sizes."""
    graph = wide()

    def fits(session: Session, rows: int) -> bool:
        try:
            return session.run(ones(rows))[0].shape == (rows, 64)
        except LimitError:
            return False

    limits = Limits(memory=limit * MIB)
    session = Session(graph, threads=1, limits=limits)
    for rows in sizes:
        assert fits(session, rows) == fits(Session(graph, threads=1, limits=limits), rows)
        assert memory(session)["held_bytes"] <= limit * MIB
    session._core.trim(0.0)
    assert memory(session)["held_bytes"] == memory(session)["packed_bytes"]


def in_threads(count: int, work: Callable[[int], None]) -> None:
    failures: list[BaseException] = []

    def run(i: int) -> None:
        try:
            work(i)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_calls_of_many_threads_share_one_limit() -> None:
    """Three of eight fit at once; the others are refused, and no answer is wrong."""
    session = Session(wide(), threads=1, limits=Limits(memory=6 * MIB))
    inputs = [np.random.default_rng(i).standard_normal((200 + 10 * i, 64)).astype(np.float32) for i in range(8)]
    expected = [Session(wide(), threads=1).run(x)[0] for x in inputs]
    done = [0] * 8

    def work(i: int) -> None:
        for j in range(40):
            at = (i + j) % 8
            try:
                (y,) = session.run(inputs[at])
            except LimitError:
                continue
            np.testing.assert_array_equal(y, expected[at])
            done[i] += 1
            assert memory(session)["held_bytes"] <= 6 * MIB

    in_threads(8, work)
    assert sum(done) > 0
    session._core.trim(0.0)
    after = memory(session)
    assert after["held_bytes"] == after["packed_bytes"]
    assert after["contexts"] == after["arena_bytes"] == 0


def test_plans_of_all_contexts_have_one_bound() -> None:
    """Each plan keeps 32 MiB of positions: some are made anew, and the answers stay."""
    m = Maker(0, {"rows": Symbol(minimum=1)})
    x = m.input("x", "rows", 1)
    positions = m.node("reshape", m.node("arange", start=0, length="rows", step=1, dtype="i64"), shape=("rows", 1))
    session = Session(m.graph(m.node("add", x, m.node("cast", positions, dtype="f32"))), threads=1)
    at_once = threading.Barrier(3)

    def work(i: int) -> None:
        for j in range(4):
            at_once.wait()
            rows = (1 << 22) + 4 * i + j
            assert session.run(np.zeros((rows, 1), np.float32))[0][-1] == np.float32(rows - 1)

    in_threads(3, work)
    assert memory(session)["arena_bytes"] < 300 * MIB
    assert memory(session)["plans"] >= 5


def test_memory_that_nobody_uses_is_given_back() -> None:
    session = Session(wide(), threads=1)
    at_once = threading.Barrier(4)

    def work(i: int) -> None:
        for _ in range(3):
            at_once.wait()
            session.run(ones(3000))

    in_threads(4, work)
    session.run(ones(5000))
    time.sleep(0.02)
    session.run(ones(1))
    session._core.trim(0.01)
    after = memory(session)
    assert after["contexts"] <= 1
    assert after["arena_bytes"] < 2 * MIB
    assert after["held_bytes"] < after["packed_bytes"] + 2 * MIB
    np.testing.assert_array_equal(session.run(ones(5000))[0][0], session.run(ones(1))[0][0])


IDLE = """
    import os, sys, time
    sys.path.insert(0, {tests!r})
    import numpy as np
    from lowbit import _core
    from lowbit.runtime.session import Session
    from test_memory import memory, ones, wide

    _core.give_back_after(0.2)
    session, other = Session(wide(), threads=1), Session(wide(), threads=1)
    weights = memory(session)["packed_bytes"]

    def kept(): return memory(session)["held_bytes"] - weights

    def given_back():
        end = time.monotonic() + 60
        while kept() and time.monotonic() < end: time.sleep(0.02)
        return not kept()

    def resident(): return int(open("/proc/self/statm").read().split()[1]) * 4096

    expected = session.run(ones(20))[0]
    before = resident()
"""


@pytest.mark.parametrize(
    "rest",
    {
        "one large batch": """
            session.run(ones(12_000))
            assert kept() > 45 << 20 and resident() > before + (45 << 20)
            assert given_back() and resident() < before + (8 << 20)
        """,
        "again, after all was given back": """
            for _ in range(3):
                assert (session.run(ones(20))[0] == expected).all() and given_back()
                time.sleep(0.3)  # the thread has nothing to look after
        """,
        "one session of two is used still": """
            session.run(ones(12_000))
            end = time.monotonic() + 60
            while kept() and time.monotonic() < end: other.run(ones(20))
            assert not kept() and memory(other)["held_bytes"] > weights
        """,
        "a session that goes, and one that comes": """
            session.run(ones(20))
            del other
            other = Session(wide(), threads=1)
            other.run(ones(20))
            assert given_back()
            del session
            end = time.monotonic() + 60
            while memory(other)["held_bytes"] > weights and time.monotonic() < end: time.sleep(0.02)
            assert memory(other)["held_bytes"] == weights
        """,
        "a forked child": """
            session.run(ones(20))
            time.sleep(0.05)
            child = os.fork()
            if child == 0:
                session.run(ones(12_000))
                os._exit(0 if given_back() else 1)
            assert os.waitpid(child, 0)[1] == 0 and given_back()
        """,
    }.items(),
    ids=lambda item: item[0],
)
def test_what_is_kept_is_given_back_without_another_call(rest: tuple[str, str]) -> None:
    """In a process of its own, which waits for tenths of a second instead of ten."""
    program = textwrap.dedent(IDLE).format(tests=str(Path(__file__).parent)) + textwrap.dedent(rest[1])
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)


def test_models_that_threads_load_again_and_again_leave_nothing(tmp_path: Path) -> None:
    """As a server that reloads does: the heap, which keeps what it is given back for each thread, has no weights."""
    m = Maker(0, {"rows": Symbol(minimum=1)})
    graph = m.graph(m.node("linear", m.input("x", "rows", 2048), m.floats(2048, 2048)))
    format.save(tmp_path / "heavy.lowbit", graph)
    program = """
        import sys, threading
        import lowbit
        def resident(): return int(open("/proc/self/statm").read().split()[1]) * 4096
        def load(): models.append(lowbit.load(sys.argv[1], threads=1))
        models = []
        load()
        before = resident()
        for _ in range(8):
            thread = threading.Thread(target=load)
            thread.start()
            thread.join()
            del models[0]
        assert resident() < before + (8 << 20), (resident(), before)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program), tmp_path / "heavy.lowbit"], check=True, timeout=300)


def test_a_known_shape_books_nothing_more() -> None:
    session = Session(wide(), threads=1)
    for rows in (3, 500, 3):
        session.run(ones(rows))
    before = memory(session)
    for _ in range(20):
        session.run(ones(3))
    assert memory(session) == before


def test_a_process_with_little_address_space_refuses_instead_of_failing() -> None:
    program = f"""
        import resource, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import numpy as np
        from graphs import Maker
        from lowbit import LimitError
        from lowbit.graph.ir import Symbol
        from lowbit.runtime.session import Session
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30,) * 2)
        m = Maker(0, {{"rows": Symbol(minimum=1)}})
        graph = m.graph(m.node("linear", m.input("x", "rows", 1), m.floats(1 << 12, 1)))
        session = Session(graph, threads=1)
        try:
            session.run(np.zeros((1 << 18, 1), np.float32))
        except LimitError as error:
            print(error)
        print(session.run(np.zeros((3, 1), np.float32))[0].shape)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)
    assert "may hold 4096.0 MiB" in done.stdout, done.stderr
    assert "(3, 4096)" in done.stdout


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("bits", "more"),
    [(8, {}), (4, {}), (4, {"affine": True}), (4, {"offsets": "float16"}), (2, {}), (2, {"affine": True})],
)
def test_a_table_that_is_a_layers_weight_is_held_once(isa: str, bits: int, more: dict[str, Any]) -> None:
    """Its rows are read from what the layer multiplies by, and are the same numbers."""
    m = Maker(4, {"batch": Symbol()})
    ids, x = m.input("ids", "batch", 3, dtype="i64"), m.input("x", "batch", 96)
    table = m.grouped(501, 96, 32, bits=bits, **more)
    codes, scales = m.node("quantize_groups", x, outputs=2, group_size=32)
    one, zero = m.constant(np.ones(501, np.float32)), m.constant(np.zeros(501, np.float32))
    y = m.node("quantized_linear", codes, table, one, zero, "", "", scales, x_group_size=32, output="f32")
    graph = m.graph(m.node("quantized_embedding", ids, table), y)
    feeds = {"ids": m.rng.integers(0, 501, (40, 3)), "x": m.rng.standard_normal((40, 96)).astype(np.float32)}
    found = Session(graph, isa=isa, threads=2).run(**feeds)
    expected = interpreter.run(graph, feeds)
    for name, array in zip(graph.outputs, found, strict=True):
        assert array.tobytes() == expected[name].tobytes()
    alone = replace(graph, outputs=graph.outputs[1:])
    assert packed_bytes(graph, isa) == packed_bytes(alone, isa)
