"""Single operators, on every instruction set of this CPU and in torch: `pytest bench/bench_kernels.py --threads 1`.

Each is a session of one integer node; what counts is that node's own time in a warm session's profile, without the
change of memory layout at its ends. Before it is timed, its result must equal the NumPy interpreter's bit for bit. How
near each comes to what binds it stands behind its time, measured in the same run (`lowbit.roofline`). The peers compute
the same layer in float32 (convolutions on channels-last images), products also in int8.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from conftest import Limits, Ratios
from lowbit import _core, interpreter, roofline
from lowbit.ir import Array, Graph, Node, Value, Weight
from lowbit.ops import constant_value
from lowbit.session import Row, Session
from lowbit.timing import take_turns, timer

Call = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A layer: codes u8 `x`, weights s8 `w`, the integer operator, torch's contestants."""

    op: str
    x: tuple[int, ...]
    w: tuple[int, ...]
    y: tuple[int, ...]
    attrs: dict[str, int | tuple[int, ...]]

    def graph(self) -> Graph:
        """One node, zero points in the middle of the codes, output u8."""
        random = np.random.default_rng(0)
        channels = self.w[0]
        constants: dict[str, Array | Weight] = {
            "w": Weight(codes=random.integers(-127, 128, self.w, np.int8), scales=np.ones(channels, np.float32)),
            "multiplier": np.full(channels, 1 / 4096, np.float32),
            "bias": random.standard_normal(channels).astype(np.float32),
        }
        attrs = {**self.attrs, "zero_point_x": 128, "zero_point_y": 128, "lo": 0, "hi": 255, "output": "u8"}
        values = {"x": Value(dtype="u8", shape=self.x), "y": Value(dtype="u8", shape=self.y)}
        values |= {name: constant_value(constant) for name, constant in constants.items()}
        node = Node(op=self.op, name=self.op, inputs=("x", *constants), outputs=("y",), attrs=attrs)
        return Graph(inputs=("x",), outputs=("y",), values=values, nodes=(node,), constants=constants)

    def torch_calls(self) -> dict[str, Call]:
        """The same layer in torch."""
        x, w = torch.randn(self.x), torch.randn(self.w)
        if self.op == "conv2d_i8":
            pad = self.attrs["padding"]
            assert isinstance(pad, tuple)
            conv = partial(torch.conv2d, stride=self.attrs["stride"], padding=pad[0], groups=self.attrs["groups"])
            channels_last = torch.channels_last
            return {
                "torch float32": partial(conv, x.to(memory_format=channels_last), w.to(memory_format=channels_last))
            }
        a, b = (torch.randint(-127, 128, shape, dtype=torch.int8) for shape in (self.x, self.w))
        return {"torch float32": partial(torch.mm, x, w.T), "torch _int_mm": partial(torch._int_mm, a, b.T)}


def product(m: int, n: int, k: int) -> Case:
    """[m, k] x [n, k]."""
    return Case(op="linear_i8", x=(m, k), w=(n, k), y=(m, n), attrs={})


def conv(channels: int, outputs: int, size: int, kernel: int, *, stride: int = 1, groups: int = 1) -> Case:
    """A `kernel` x `kernel` convolution on [1, channels, size, size], padded to keep size / stride."""
    pad, out = kernel // 2, (size + stride - 1) // stride
    attrs: dict[str, int | tuple[int, ...]] = {
        "stride": (stride,) * 2,
        "padding": (pad,) * 4,
        "dilation": (1, 1),
        "groups": groups,
    }
    w = (outputs, channels // groups, kernel, kernel)
    return Case(op="conv2d_i8", x=(1, channels, size, size), w=w, y=(1, outputs, out, out), attrs=attrs)


CASES = {
    "product 1 4096 4096": product(1, 4096, 4096),
    "product 16 1024 1024": product(16, 1024, 1024),
    "product 128 768 3072": product(128, 768, 3072),
    "product 512 1024 1024": product(512, 1024, 1024),
    "product 3136 64 576": product(3136, 64, 576),
    "conv 3x3 64 56x56": conv(64, 64, 56, 3),
    "conv 1x1 64-256 56x56": conv(64, 256, 56, 1),
    "conv 3x3 512 7x7": conv(512, 512, 7, 3),
    "conv 7x7 3-64 224x224 / 2": conv(3, 64, 224, 7, stride=2),
    "depthwise 3x3 144 56x56": conv(144, 144, 56, 3, groups=144),
    "depthwise 5x5 240 28x28 / 2": conv(240, 240, 28, 5, stride=2, groups=240),
}


@pytest.mark.parametrize("name", CASES)
def test_operator(
    name: str, benchmark: BenchmarkFixture, threads: int, rounds: int, ratios: Ratios, limits: Limits
) -> None:
    """Every instruction set computes the interpreter's bits; the best one's time is the benchmark's."""
    case = CASES[name]
    graph = case.graph()
    x = np.random.default_rng(1).integers(0, 256, case.x, np.uint8)
    expected = interpreter.run(graph, {"x": x})["y"]
    slices: dict[str, Callable[[], float]] = {}
    for isa in reversed(_core.cpu()["isas"]):
        session, y = Session(graph, threads=threads, isa=isa), np.empty_like(expected)
        session.run_into([x], [y])
        np.testing.assert_array_equal(y, expected)
        slices[isa] = partial(node_seconds, session, case.op, x)
        roof = roofline.measure(threads=threads, isa=isa, seconds=1.0)
        limits[name, isa] = step(session, case.op, x, repeats=1).limit(roof)
    torch.set_num_threads(threads)
    with torch.inference_mode():
        slices |= {name: timer(call, seconds=0.02) for name, call in case.torch_calls().items()}
        times = take_turns(slices, rounds=rounds)
    ratios[name] = {contestant: timing.lowest for contestant, timing in times.items()}
    benchmark.group = case.op
    shares = {isa: limit.of(times[isa].lowest) for (case_name, isa), limit in limits.items() if case_name == name}
    benchmark.extra_info.update(ratios[name], threads=threads, of_limit=shares)
    best = Session(graph, threads=threads)
    benchmark(best.run_into, [x], [np.empty_like(expected)])


def step(session: Session, op: str, x: Array, repeats: int) -> Row:
    """The node's row of a profile."""
    return next(row for row in session.profile(x, repeats=repeats) if row.op == op)


def node_seconds(session: Session, op: str, x: Array) -> float:
    """The median time of the node in a profile of about 20 ms."""
    once = step(session, op, x, repeats=3)
    repeats = max(3, min(1000, round(0.02 / max(once.seconds, 1e-7))))
    return step(session, op, x, repeats=repeats).seconds
