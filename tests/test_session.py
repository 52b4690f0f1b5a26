"""Compiled sessions against the NumPy interpreter, and their promises: same bits, any caller, nothing allocated."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphs import BATCH, GRAPHS, Maker, feeds
from lowbit import _core
from lowbit.errors import EnvironmentVariableError, GraphError, InputError
from lowbit.graph.ir import Array, Graph, Symbol, replace
from lowbit.ops import OPS, interpreter
from lowbit.runtime.session import Session

ISAS = _core.cpu()["isas"]
PLACES = [(isa, threads) for isa in ISAS for threads in (1, 2)]


def same(a: list[Array], b: list[Array]) -> bool:
    return len(a) == len(b) and all(
        np.array_equal(x, y, equal_nan=x.dtype.kind == "f") for x, y in zip(a, b, strict=True)
    )


def check(graph: Graph, sizes: dict[str, int] | None = None, seed: int = 0, tolerance: float = 2e-5) -> None:
    """Every ISA and number of threads gives the same bits; codes equal the interpreter's, floats are near them."""
    given = feeds(graph, sizes, seed)
    expected = interpreter.run(graph, given)
    first = Session(graph, isa="scalar", threads=1).run(**given)
    for name, y in zip(graph.outputs, first, strict=True):
        reference = expected[name]
        assert (y.dtype, y.shape) == (reference.dtype, reference.shape), name
        if y.dtype.kind == "f":
            scale = np.nan_to_num(np.abs(reference, dtype=np.float64)).max(
                initial=0.1
            )  # sums of numbers near 1 may cancel
            np.testing.assert_allclose(y, reference, rtol=0, atol=tolerance * scale, err_msg=name)
        else:
            np.testing.assert_array_equal(y, reference, err_msg=name)
    for isa, threads in PLACES:
        assert same(Session(graph, isa=isa, threads=threads).run(**given), first), (isa, threads)


# ------------------------------------------------------------------------------------------------------------ operators


def test_every_operator_is_registered_once() -> None:
    assert _core.operators() == sorted(set(OPS) - {"torch"})  # which is what segments run


@pytest.mark.parametrize("batch", [0, 1, 2, 5])
@pytest.mark.parametrize("name", GRAPHS)
def test_equals_interpreter(name: str, batch: int) -> None:
    check(GRAPHS[name](), {"batch": batch})


@st.composite
def windows(draw: st.DrawFn) -> dict[str, Any]:
    """An image and a convolution that fits it."""
    kernel, dilation = [draw(st.tuples(*[st.integers(1, most)] * 2)) for most in (4, 2)]
    padding = draw(st.tuples(*[st.integers(0, 3)] * 4))
    groups = draw(st.sampled_from([1, 2, 3, 16, 17]))
    depth, filters = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    if draw(st.booleans()):
        depth = filters = 1  # depthwise
    least = [max(1, dilation[a] * (kernel[a] - 1) + 1 - sum(padding[2 * a : 2 * a + 2])) for a in (0, 1)]
    return {
        "image": (depth * groups, *(draw(st.integers(size, size + 9)) for size in least)),
        "weight": (filters * groups, depth, *kernel),
        "conv": {
            "stride": draw(st.tuples(*[st.integers(1, 3)] * 2)),
            "padding": padding,
            "dilation": dilation,
            "groups": groups,
        },
    }


@settings(max_examples=40, deadline=None)
@given(windows(), st.integers(0, 2**31), st.integers(1, 3))
def test_convolutions(window: dict[str, Any], seed: int, batch: int) -> None:
    m = Maker(seed, BATCH)
    weight, conv = window["weight"], window["conv"]
    x = m.input("x", "batch", *window["image"])
    zero_x, zero_y = (int(zero) for zero in m.rng.integers(0, 256, 2))
    q = m.node("quantize", x, scale=0.02, zero_point=zero_x)

    def scales() -> tuple[str, str]:
        multiplier = m.rng.uniform(1e-4, 1e-3, weight[0]).astype(np.float32)
        return m.constant(multiplier), m.floats(weight[0], scale=20.0)

    static = {"zero_point_x": zero_x, "output": "u8", "zero_point_y": zero_y, "lo": 5, "hi": 251}
    a = m.node("quantized_conv2d", q, m.weight(*weight), *scales(), "", m.table(), **conv, **static)
    residual = {"output": "f32", "residual_multiplier": 0.3, "residual_zero_point": zero_y, "max": 30.0}
    b = m.node("quantized_conv2d", q, m.weight(*weight), *scales(), a, zero_point_x=zero_x, **conv, **residual)
    codes, scale, zero = m.node("dynamic_quantize", x, outputs=3, granularity="sample")
    c = m.node("quantized_conv2d", codes, m.weight(*weight), *scales(), "", "", scale, zero, output="f32", **conv)
    d = m.node("conv2d", x, m.floats(*weight), "", b, activation_min=-1.0, **conv)
    four = []
    if conv["groups"] == 1:
        channels, depth, *kernel = weight
        whole = depth * kernel[0] * kernel[1]
        size = int(m.rng.choice([s for s in range(1, whole + 1) if whole % s == 0 and (s % 8 == 0 or s == whole)]))
        w = [m.grouped(channels, whole, size, kernel=tuple(kernel), affine=affine) for affine in (False, True)]
        four = [
            m.node("quantized_conv2d", q, w[0], *scales(), "", m.table(), **conv, **static),
            m.node("quantized_conv2d", codes, w[1], *scales(), "", "", scale, zero, output="f32", **conv),
        ]
    check(m.graph(q, a, b, c, d, codes, scale, zero, *four), {"batch": batch}, seed)


@settings(max_examples=30, deadline=None)
@given(st.data(), st.integers(0, 2**31))
def test_pools_reductions_and_moves(data: st.DataObject, seed: int) -> None:
    m = Maker(seed, BATCH)
    channels, height, width = (data.draw(st.integers(1, most)) for most in (40, 12, 12))
    kernel = tuple(data.draw(st.integers(1, min(4, size))) for size in (height, width))
    window = {
        "kernel": kernel,
        "stride": data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        "padding": tuple(data.draw(st.integers(0, size - 1)) for size in kernel for _ in (0, 1)),
        "ceil_mode": data.draw(st.integers(0, 1)),
    }
    size = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    integer = {"zero_point_x": 90, "multiplier": 1.3, "zero_point_y": 20}
    x = m.input("x", "batch", channels, height, width)
    # The 1x1 convolution leaves its image channels-last: what follows must cope with that.
    y = m.node("conv2d", x, m.floats(channels, channels, 1, 1))
    q = m.node("quantize", y if data.draw(st.booleans()) else x, scale=0.02, zero_point=90)
    axes = tuple(data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True)))
    outputs = [
        m.node("max_pool2d", y, **window),
        m.node("avg_pool2d", y, count_include_pad=data.draw(st.integers(0, 1)), **window),
        m.node("adaptive_avg_pool2d", y, output_size=size),
        m.node("adaptive_max_pool2d", y, output_size=size),
        m.node("mean", y, axes=axes, keepdim=data.draw(st.integers(0, 1))),
        m.node("softmax", y, axis=data.draw(st.integers(-4, 3))),
        m.node("transpose", y, perm=tuple(data.draw(st.permutations(range(4))))),
        m.node("concat", y, m.node("unary", y, kind="sigmoid"), axis=data.draw(st.integers(1, 3))),
        m.node("mul", y, m.node("adaptive_avg_pool2d", y, output_size=(1, 1))),
        m.node("add", m.node("mean", y, axes=(1,), keepdim=1), y),
        m.node("sub", y, m.floats(channels, 1, 1)),
        m.node("pad", y, padding=(0, 0, 1, 0, 0, 2, 1, 1), value=0.5),
        m.node("slice", y, axis=data.draw(st.integers(1, 3)), start=1, stop=9, step=data.draw(st.integers(1, 3))),
    ]
    pairs = {"zero_point_a": 90, "zero_point_b": 80, "zero_point_y": 110}
    pair = {**pairs, "multiplier_a": 0.7, "multiplier_b": -0.4}
    tables = m.constant(m.rng.integers(0, 256, (channels, 256)).astype(np.uint8))
    exact = [
        m.node("lookup", q, tables),
        m.node("max_pool2d", q, **window),
        m.node("quantized_avg_pool2d", q, output="u8", count_include_pad=1, **integer, **window),
        m.node("quantized_adaptive_avg_pool2d", q, output="u8", output_size=size, **integer),
        m.node("adaptive_max_pool2d", q, output_size=size),
        m.node("quantized_add", m.node("max_pool2d", q, kernel=(1, 1), stride=(height, width)), q, **pair),
        *(
            m.node("quantized_mul", q, m.node("slice", q, axis=axis, start=0, stop=1), multiplier=0.02, **pairs)
            for axis in (1, 2, 3)
        ),
        m.node("pad", q, padding=(0, 1, 1, 0, 0, 2, 1, 1), value=90.0),
        m.node("transpose", q, perm=tuple(data.draw(st.permutations(range(4))))),
    ]
    check(m.graph(*outputs), {"batch": 2}, seed)
    # Codes of x itself are exact; those of y only up to a rounding of y.
    graph = m.graph(*exact)
    if next(node for node in graph.nodes if node.op == "quantize").inputs == ("x",):
        check(graph, {"batch": 2}, seed)


def test_large_values_are_split_between_threads() -> None:
    m = Maker(5, BATCH)
    x = m.input("x", "batch", 6, 120, 110)
    y = m.node("conv2d", x, m.floats(6, 6, 1, 1))
    codes, scale, zero = m.node("dynamic_quantize", x, outputs=3, granularity="sample")
    rows = m.node("dynamic_quantize", m.node("reshape", x, shape=("batch", 79200)), outputs=3, granularity="row")
    q = m.node("quantize", x, scale=0.02, zero_point=100)
    add = {"zero_point_a": 100, "multiplier_a": 0.6, "zero_point_b": 3, "multiplier_b": 0.3, "zero_point_y": 9}
    graph = m.graph(
        *(codes, scale, zero, *rows),
        m.node("quantized_add", q, m.node("lookup", q, m.table()), **add),
        m.node("max_pool2d", q, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1)),
        m.node("concat", q, m.node("pad", q, padding=(0, 0, 1, 1, 0, 0, 0, 0), value=7.0), axis=1),
        m.node("cast", m.node("slice", x, axis=3, start=1, stop=100, step=3), dtype="i32"),
        m.node("mul", y, m.node("mean", y, axes=(2, 3), keepdim=1)),
        m.node("softmax", y, axis=1),
        m.node("transpose", m.node("unary", y, kind="gelu"), perm=(0, 3, 1, 2)),
        m.node("mean", x, axes=(0, 3)),
        m.node("dequantize", q, scale=0.02, zero_point=100),
    )
    for batch in (1, 3):
        check(graph, {"batch": batch})


def test_casts_are_numpys_and_saturate() -> None:
    values = [0.0, -0.0, 1.5, -1.5, 255.9, 256.0, -1.0, 1e-8, 6e-8, 65504.0, 65520.0, 3e9, -3e9, 1e30, -1e30]
    x = np.array([*values, np.inf, -np.inf, np.nan], np.float32)
    for dtype in ("f16", "i64", "i32", "bool", "u8", "s8"):
        m = Maker()
        m.input("x", len(x))
        graph = m.graph(m.node("cast", "x", dtype=dtype))
        (y,) = Session(graph).run(x)
        with np.errstate(all="ignore"):
            expected = next(iter(interpreter.run(graph, {"x": x}).values()))
        np.testing.assert_array_equal(y, expected, err_msg=dtype, strict=True)
    m = Maker()
    m.input("x", 65536, dtype="f16")
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    graph = m.graph(m.node("cast", m.node("cast", "x", dtype="f32"), dtype="f16"))
    np.testing.assert_array_equal(Session(graph).run(halves)[0], halves, strict=True)


# ------------------------------------------------------------------------------------------------------------- promises


@pytest.mark.parametrize("name", GRAPHS)
def test_a_sample_does_not_depend_on_its_batch(name: str) -> None:
    graph = GRAPHS[name]()
    session = Session(graph)
    given = feeds(graph, {"batch": 7})
    together = session.run(**given)
    shapes = {name: graph.values[name].shape for name in graph.inputs}
    free = {name: shape.index("batch") for name, shape in shapes.items() if "batch" in shape}
    for i in range(7):
        alone = session.run(**{name: x.take([i], axis=free[name]) if name in free else x for name, x in given.items()})
        for name, y, all_y in zip(graph.outputs, alone, together, strict=True):
            axis = graph.values[name].shape.index("batch")
            np.testing.assert_array_equal(y, all_y.take([i], axis=axis), err_msg=name)


def test_sixteen_threads_run_one_session() -> None:
    graph = GRAPHS["integer_net"]()
    session = Session(graph, threads=2)
    calls = [feeds(graph, {"batch": i % 4 + 1}, seed=i) for i in range(16)]
    expected = [session.run(**call) for call in calls]
    wrong: list[int] = []

    def work(i: int) -> None:
        for j in range(30):
            at = (i + j) % 16
            if not same(session.run(**calls[at]), expected[at]):
                wrong.append(at)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(16)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
    assert session._core.memory()["contexts"] <= 16


PRELUDE = """
import os, sys, threading
import numpy as np
from lowbit import _core
builder = _core.GraphBuilder()
builder.input("x", "f32", [64, 256])
builder.constant("w", np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32))
builder.node("linear", "n", ["x", "w"], ["y"], {})
builder.output("y")
x = np.ones((64, 256), np.float32)
"""


def script(body: str, **environment: str) -> str:
    """What a fresh process prints; it must end well and in time."""
    code = PRELUDE + textwrap.dedent(body)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_runs_the_session_and_so_does_the_parent() -> None:
    printed = script("""
        session = builder.finish(threads=2)
        expected = session.run([x])[0]
        for _ in range(4):
            child = os.fork()
            if child == 0:
                os._exit(0 if np.array_equal(session.run([x])[0], expected) else 1)
            assert os.waitpid(child, 0)[1] == 0
        print(np.array_equal(session.run([x])[0], expected))
    """)
    assert printed == "True\n"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs CPU affinity")
def test_affinity_limits_the_threads() -> None:
    printed = script(
        """
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        before = len(os.listdir("/proc/self/task"))
        session = builder.finish()
        session.run([x])
        print(_core.cpu()["threads"], session.threads, len(os.listdir("/proc/self/task")) - before)
    """,
        LOWBIT_THREADS="",
        OMP_NUM_THREADS="",
    )
    assert printed == "1 1 1\n"  # the one that gives memory back


def test_the_process_ends_while_a_thread_still_runs() -> None:
    printed = script("""
        session = builder.finish(threads=2)
        started = threading.Event()
        def forever():
            while True:
                session.run([x])
                started.set()
        threading.Thread(target=forever, daemon=True).start()
        started.wait()
        print("end")
    """)
    assert printed == "end\n"


def test_environment_variables() -> None:
    show = 'print(_core.cpu()["threads"], builder.finish().isa)'
    assert script(show, LOWBIT_THREADS="1", LOWBIT_ISA="scalar") == "1 scalar\n"
    assert script(show, OMP_NUM_THREADS="1", LOWBIT_THREADS="", LOWBIT_ISA="scalar") == "1 scalar\n"
    assert script(show, OMP_NUM_THREADS="1", LOWBIT_THREADS="2", LOWBIT_ISA="scalar") == "2 scalar\n"
    complain = """
        from lowbit.errors import EnvironmentVariableError
        try:
            builder.finish()
        except EnvironmentVariableError as error:
            print(error)
    """
    assert "LOWBIT_THREADS" in script(complain, LOWBIT_THREADS="many")
    assert "sse9" in script(complain, LOWBIT_ISA="sse9")
    with pytest.raises(EnvironmentVariableError):
        Session(GRAPHS["integer_net"](), isa="sse9")


def test_run_into_fills_the_callers_arrays_and_allocates_nothing() -> None:
    graph = GRAPHS["integer_net"]()
    session = Session(graph)
    given = list(feeds(graph, {"batch": 3}).values())
    expected = session.run(*given)
    outputs = [np.empty_like(y) for y in expected]
    session.run_into(given, outputs)
    assert same(outputs, expected)
    before = session._core.memory()
    tracemalloc.start()
    for _ in range(10):
        session.run_into(given, outputs)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4096  # no array
    assert session._core.memory() == before


def test_run_into_refuses_arrays_that_do_not_fit() -> None:
    graph = GRAPHS["integer_net"]()
    session = Session(graph)
    given = list(feeds(graph, {"batch": 2}).values())
    fit = session.run(*given)
    frozen = fit[0].copy()
    frozen.flags.writeable = False
    for wrong in (
        fit[:2],
        [fit[0][:1], *fit[1:]],
        [fit[0].astype(np.float64), *fit[1:]],
        [np.asfortranarray(np.tile(fit[0], (1, 1))), *fit[1:]],
        [frozen, *fit[1:]],
        [fit[0], fit[0], fit[2]],
        [[1.0], *fit[1:]],
    ):
        with pytest.raises(InputError):
            session.run_into(given, wrong)  # type: ignore[arg-type]


def test_memory_is_bounded_whatever_the_shapes() -> None:
    graph = GRAPHS["float_net"]()
    session = Session(graph, threads=1)
    for batch in range(1, 31):
        session.run(**feeds(graph, {"batch": batch}))
    memory = session._core.memory()
    assert memory["plans"] <= 16
    assert memory["contexts"] == 1
    check(graph, {"batch": 30})


def test_an_empty_batch() -> None:
    m = Maker(0, {"batch": Symbol(minimum=0, maximum=9)})
    x = m.input("x", "batch", 3, 5, 5)
    y = m.node("conv2d", x, m.floats(4, 3, 3, 3))
    z = m.node("reshape", m.node("adaptive_avg_pool2d", y, output_size=(1, 1)), shape=("batch", 4))
    session = Session(m.graph(y, z))
    outputs = session.run(np.zeros((0, 3, 5, 5), np.float32))
    assert [y.shape for y in outputs] == [(0, 4, 3, 3), (0, 4)]
    pairs = replace(m.graph(y, z), symbols={"batch": Symbol(minimum=2, maximum=9)})
    with pytest.raises(InputError, match="batch"):
        Session(pairs).run(np.zeros((0, 3, 5, 5), np.float32))


@pytest.mark.parametrize(
    "arrays",
    [
        [],
        [np.zeros((1, 3, 12, 10))],
        [np.zeros((1, 3, 12), np.float32)],
        [np.zeros((1, 3, 12, 11), np.float32)],
        [np.zeros((65, 3, 12, 10), np.float32)],
        [np.zeros((1, 3, 12, 10), np.complex64)],
        [np.zeros((1, 3, 12, 10), ">f4")],
        [[1.0]],
        [None],
    ],
)
def test_inputs_that_do_not_fit(arrays: list[Any]) -> None:
    core = Session(GRAPHS["float_net"]())._core
    with pytest.raises(InputError):
        core.run(arrays)


def test_inputs_that_are_not_contiguous_are_copied() -> None:
    graph = GRAPHS["integer_net"]()
    core = Session(graph)._core
    x = next(iter(feeds(graph, {"batch": 4}).values()))
    shifted = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)  # not aligned
    for other in (np.asfortranarray(x), np.repeat(x, 2, axis=0)[::2], shifted):
        assert same(core.run([other]), core.run([x]))


def test_layouts_change_once() -> None:
    """A chain of convolutions, pools and residual additions stays channels-last from its first layer to its end."""
    m = Maker(0)
    x = m.input("x", 1, 8, 16, 16)
    y = m.node("conv2d", x, m.floats(8, 8, 3, 3), padding=(1, 1, 1, 1))  # pads: reads x as it lies
    z = m.node("conv2d", y, m.floats(8, 8, 1, 1), activation_min=0.0)
    z = m.node("add", z, m.node("unary", y, kind="silu"))
    z = m.node("adaptive_avg_pool2d", z, output_size=(1, 1))
    session = Session(m.graph(m.node("reshape", z, shape=(1, 8))))
    given = feeds(session.graph)
    assert [row["op"] for row in session._core.profile(list(given.values()), 1)].count("layout") <= 1
    check(m.graph(y, z), seed=1)


def test_profile_nodes_and_types() -> None:
    graph = GRAPHS["integer_net"]()
    session = Session(graph, isa="scalar", threads=1)
    given = list(feeds(graph, {"batch": 2}).values())
    rows = session._core.profile(given, 3)
    assert {row["node"] for row in rows} >= {node.name for node in graph.nodes if node.op != "reshape"}
    assert all(row["seconds"] >= 0 and row["bytes"] > 0 for row in rows)
    conv = next(row for row in rows if row["op"] == "quantized_conv2d")
    assert conv["operations"] == 2 * 2 * 8 * 4 * 6 * 4 * 9  # 2 a multiply-add, batch, filters, height, width, depth
    assert [row["op"] for row in session.nodes()] == [node.op for node in graph.nodes]
    assert session._core.inputs == [("x", "f32", [-1, 4, 9, 11])]
    assert [shape for _, _, shape in session._core.outputs] == [[-1, 5], [-1, 6], [-1, 8, 2, 2]]


def test_a_residual_counts_among_the_bytes() -> None:
    m = Maker(0, BATCH)
    x = m.input("x", "batch", 8, 5, 5)
    m.node("conv2d", x, m.floats(8, 8, 1, 1), "", x)
    y = m.node("linear", m.input("z", "batch", 16), m.floats(4, 16), "", m.input("r", "batch", 4))
    graph = m.graph("v0", y)
    rows = {row.op: row for row in Session(graph, threads=1).profile(**feeds(graph, {"batch": 2}), repeats=1)}
    assert rows["conv2d"].bytes == 4 * (3 * 2 * 8 * 25 + 64)
    assert rows["linear"].bytes == 4 * (2 * 16 + 2 * 4 + 2 * 4 + 64)


def test_the_builder_tells_all_problems_at_once() -> None:
    builder = _core.GraphBuilder()
    builder.input("x", "f32", [2, 3])
    builder.constant("c", np.zeros(3, np.complex128))
    builder.node("clip", "a", ["x"], ["y"], {"min": 2**70})
    builder.node("no_such_op", "b", ["nowhere"], ["z"], {"what": [1, "two"]})  # type: ignore[list-item]
    builder.output("gone\udc80".encode("utf-8", "replace").decode())
    with pytest.raises(GraphError) as error:
        builder.finish()
    for part in ("complex128", "'a'", "attribute 'min'", "unknown operator", "'nowhere'", "attribute 'what'", "gone"):
        assert part in str(error.value)


def test_threads_must_make_sense() -> None:
    builder = _core.GraphBuilder()
    builder.input("x", "f32", [2])
    builder.node("clip", "a", ["x"], ["y"], {"min": 0.0})
    builder.output("y")
    with pytest.raises(InputError, match="threads"):
        builder.finish(threads=-1)


# ------------------------------------------------------------------------------------------ what depends on no input


def masked_scores() -> Graph:
    """Scores of positions that may see each other: the mask and the bias depend on the length alone."""
    m = Maker(8, {**BATCH, "length": Symbol(minimum=1, maximum=500)})
    x = m.input("x", "batch", "length", "length")
    rows = m.node("arange", start=0, length="length", step=1, dtype="i64")
    columns = m.node("reshape", rows, shape=(1, "length"))
    distance = m.node("sub", m.node("reshape", rows, shape=("length", 1)), columns)
    mask = m.node("compare", distance, m.constant(np.asarray(0, np.int64)), kind="ge")
    bias = m.node("unary", m.node("cast", distance, dtype="f32"), kind="sin")
    y = m.node("where", mask, m.node("add", x, bias), m.constant(np.asarray(-np.inf, np.float32)))
    return m.graph(m.node("softmax", y, axis=-1), mask)


def test_what_depends_on_no_input_is_computed_once_a_plan() -> None:
    graph = masked_scores()
    check(graph, {"batch": 2, "length": 9})
    session = Session(graph)
    for length in (9, 33):
        x = np.random.default_rng(length).standard_normal((2, length, length)).astype(np.float32)
        steps = [row.op for row in session.profile(x, repeats=1).rows]
        assert set(steps) <= {"add", "where", "softmax", "layout"}, steps
    assert session._core.memory()["arena_bytes"] > 33 * 33 * 5


def test_an_error_in_what_depends_on_no_input_names_the_node() -> None:
    m = Maker(9, {"length": Symbol(minimum=1, maximum=500)})
    x = m.input("x", "length", 4)
    places = m.node("arange", start=0, length="length", step=1, dtype="i64")
    graph = m.graph(m.node("add", x, m.node("take", m.floats(8, 4), places, axis=0)))
    session = Session(graph)
    assert session.run(x=np.zeros((8, 4), np.float32))[0].shape == (8, 4)
    with pytest.raises(InputError, match=r"node 'n1_take' \(take\): index 8 is out of range for an axis of size 8"):
        session.run(x=np.zeros((9, 4), np.float32))


# -------------------------------------------------------------------------------------------------- indices at run time


@pytest.mark.parametrize("op", ["take", "gather", "index", "scatter", "index_put"])
@pytest.mark.parametrize("dtype", ["i64", "i32"])
def test_indices_out_of_range_are_refused(op: str, dtype: str) -> None:
    m = Maker(3)
    x, i = m.input("x", 5, 4), m.input("i", 3, 4, dtype=dtype)
    updates = {"scatter": m.floats(3, 4), "index_put": m.floats(3, 4, 4)}.get(op)
    operands = {"scatter": (x, i, updates), "index_put": (x, updates, i)}.get(op, (x, i))
    graph = m.graph(m.node(op, *operands, axis=0))
    session = Session(graph)
    values = np.zeros((5, 4), np.float32)
    lowest = -5 if op in ("index", "index_put") else 0
    for index in (lowest, 4):
        session.run(x=values, i=np.full((3, 4), index, i_dtype(dtype)))
    for index in (lowest - 1, 5, np.iinfo(i_dtype(dtype)).max, np.iinfo(i_dtype(dtype)).min):
        indices = np.zeros((3, 4), i_dtype(dtype))
        indices[2, 1] = index
        with pytest.raises(InputError, match=rf"node 'n0_{op}'.*index {index} is out of range for an axis of size 5"):
            session.run(x=values, i=indices)
        with pytest.raises(InputError, match="out of range"):
            interpreter.run(graph, {"x": values, "i": indices})


def i_dtype(name: str) -> Any:
    return np.int64 if name == "i64" else np.int32


def test_integers_divided_by_zero_are_refused() -> None:
    m = Maker(3)
    graph = m.graph(m.node("remainder", m.input("a", 3, dtype="i64"), m.input("b", 3, dtype="i64")))
    with pytest.raises(InputError, match=r"n0_remainder.*divided by zero"):
        Session(graph).run(a=np.ones(3, np.int64), b=np.int64([1, 0, 2]))
    (least,) = Session(graph).run(a=np.full(3, np.iinfo(np.int64).min), b=np.int64([-1, 1, 3]))
    assert list(least) == [0, 0, 1]
