"""Single operators, on every instruction set of this CPU and in torch: `pytest bench/bench_kernels.py --threads 1`.

Each is a session of one integer node; what counts is that node's own time in a warm session's profile, without the
change of memory layout at its ends. Before it is timed, its result must equal the NumPy interpreter's bit for bit. How
near each comes to what binds it stands behind its time, measured in the same run (`lowbit.runtime.roofline`). The peers
compute the same layer in float32 (convolutions on channels-last images), products also in int8.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from conftest import Limits, Ratios
from layers import SLICE, Case, conv, node_timer, product, steps
from lowbit import _core
from lowbit.ops import interpreter
from lowbit.runtime import roofline
from lowbit.runtime.session import Session
from lowbit.runtime.timing import take_turns, timer

Call = Callable[[], object]
LAST = torch.channels_last


def torch_calls(case: Case) -> dict[str, Call]:
    """The same layer in torch."""
    x, w = torch.randn(case.x), torch.randn(case.w)
    if case.op == "quantized_conv2d":
        window = {"stride": case.pair("stride"), "padding": case.pair("padding"), "groups": case.attrs["groups"]}
        conv = partial(torch.conv2d, x.to(memory_format=LAST), w.to(memory_format=LAST), **window)
        return {"torch float32": conv}
    a, b = (torch.randint(-127, 128, shape, dtype=torch.int8) for shape in (case.x, case.w))
    return {"torch float32": partial(torch.mm, x, w.T), "torch _int_mm": partial(torch._int_mm, a, b.T)}


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
    graph, x = case.graph(), case.codes
    expected = interpreter.run(graph, {"x": x})["y0"]
    slices: dict[str, Callable[[], float]] = {}
    for isa in reversed(_core.cpu()["isas"]):
        session, y = Session(graph, threads=threads, isa=isa), np.empty_like(expected)
        session.run_into([x], [y])
        np.testing.assert_array_equal(y, expected)
        slices[isa] = node_timer(session, case)
        roof = roofline.measure(threads=threads, isa=isa, seconds=1.0)
        limits[name, isa] = steps(session, case, repeats=1)[0].limit(roof)
    torch.set_num_threads(threads)
    with torch.inference_mode():
        slices |= {name: timer(call, SLICE) for name, call in torch_calls(case).items()}
        times = take_turns(slices, rounds=rounds)
    ratios[name] = {contestant: timing.lowest for contestant, timing in times.items()}
    benchmark.group = case.op
    shares = {isa: limit.of(times[isa].lowest) for (case_name, isa), limit in limits.items() if case_name == name}
    benchmark.extra_info.update(ratios[name], threads=threads, of_limit=shares)
    best = Session(graph, threads=threads)
    benchmark(best.run_into, [x], [np.empty_like(expected)])
