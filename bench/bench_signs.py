"""Layers of signs times signs beside lowbit's int8 for the same shapes: `python bench/bench_signs.py [--isa avx2]`.

`signs` is the product of bits, `packed` with the packing of float32 inputs before it; `zeros` the product where one
input of ten is zero, so that both words are read. int8 is the kernel that a session takes, for 3x3 windows of one step
the one that filters them by fewer products. Results must be the interpreter's, bit for bit.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

import numpy as np

from layers import Case, begin, conv, node_timer, product
from lowbit.graph.ir import Array, Attribute, Graph, Node, Value, Weight
from lowbit.ops import constant_value, infer, interpreter
from lowbit.ops.signs import packed_size
from lowbit.runtime.session import Session
from lowbit.runtime.timing import Timing, take_turns

CASES: Mapping[str, Case] = {
    **{f"{rows} x {n} x {n}": product(rows, n, n) for rows, n in ((1, 4096), (128, 1024), (128, 2048), (128, 4096))},
    **{f"3x3, {c} channels, {size} x {size}": conv(c, c, size, 3) for c, size in ((256, 14), (256, 28), (128, 28))},
}


def signs(case: Case) -> Graph:
    """The layer of signs whose int8 form is `case`, floats in and floats out."""
    rng, n = np.random.default_rng(1), case.w[0]
    axis, op = (1, "sign_conv2d") if case.op == "quantized_conv2d" else (-1, "sign_linear")
    ones = np.ones(n, np.float32)
    values = np.array([-1, 1], np.float32)
    weight = Weight(codes=rng.integers(0, 2, case.w).astype(np.int8), scales=ones, bits=1, values=values)
    bias = rng.standard_normal(n).astype(np.float32)
    constants: dict[str, Array | Weight] = {"w": weight, "multiplier": ones / 16, "bias": bias}
    attrs: dict[str, Attribute] = {key: case.attrs[key] for key in ("stride", "padding") if key in case.attrs}
    nodes = (
        Node(op="pack_signs", name="pack", inputs=("x",), outputs=("bits",), attrs={"axis": axis}),
        Node(op=op, name="layer", inputs=("bits", *constants), outputs=("y",), attrs={**attrs, "output": "f32"}),
    )
    x = Value(dtype="f32", shape=case.x)
    shape = [packed_size(size) if place == axis % len(case.x) else size for place, size in enumerate(case.x)]
    known = {"x": x, "bits": Value(dtype="u8", shape=tuple(shape))}
    known |= {name: constant_value(constant) for name, constant in constants.items()}
    graph = Graph(inputs=("x",), outputs=("y",), values=known, nodes=nodes, constants=constants)
    (y,) = infer(nodes[1], graph)
    return Graph(inputs=("x",), outputs=("y",), values={**known, "y": y}, nodes=nodes, constants=constants)


def step_timer(session: Session, x: Array, *, packing: bool) -> Callable[[], float]:
    """Seconds of the layer's step."""

    def run() -> float:
        rows = session.profile(x, repeats=1).rows
        return sum(row.seconds for row in rows if row.op.startswith("sign_") or (packing and row.op == "pack_signs"))

    return run


def measure(case: Case, *, threads: int, rounds: int) -> dict[str, Timing]:
    """Check, then let all take turns. Raises AssertionError for a wrong answer."""
    graph = signs(case)
    x = np.random.default_rng(2).standard_normal(case.x).astype(np.float32)
    some = np.where(np.random.default_rng(3).random(case.x) < 0.1, np.float32(0), x)
    session = Session(graph, threads=threads)
    for numbers in (x, some):
        y = interpreter.run(graph, {"x": numbers})["y"]
        got = np.empty_like(y)
        session.run_into([numbers], [got])
        np.testing.assert_array_equal(got, y)
    turns = {
        "signs": step_timer(session, x, packing=False),
        "packed": step_timer(session, x, packing=True),
        "zeros": step_timer(session, some, packing=False),
        "int8": node_timer(Session(case.graph(), threads=threads), case),
    }
    return take_turns(turns, rounds=rounds)


def main() -> None:
    """Measure and print."""
    options, _, _ = begin(argparse.ArgumentParser(description=__doc__), [], rounds=15)
    print("| layer | signs, us | packed | zeros | int8 | int8 / signs | int8 / packed |\n|---|---|---|---|---|---|---|")
    for name, case in CASES.items():
        times = measure(case, threads=options.threads, rounds=options.rounds)
        lowest = {each: timing.lowest * 1e6 for each, timing in times.items()}
        cells = [f"{lowest[each]:.1f}" for each in ("signs", "packed", "zeros", "int8")]
        cells += [f"{lowest['int8'] / lowest[each]:.2f}" for each in ("signs", "packed")]
        print("| " + " | ".join([name, *cells]) + " |", flush=True)


if __name__ == "__main__":
    main()
