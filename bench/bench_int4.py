"""Linear layers with four-bit weights: lowbit beside its own int8, ONNX Runtime, OpenVINO and torch.

    python bench/bench_int4.py [--layers "1 x;group 32"] [--threads 1] [--rounds 15]

Floats in, floats out: the time of a call of a session that quantizes its rows and multiplies. `kernel` is the product's
own share of it, `quantizing` that of the activations. `of limit`: of the int8 peak, or of what reading the operands
takes, from the cache that holds them; weights "from DRAM" are copies, used in turn, of twice the last cache together.
lowbit's floats must be its interpreter's; a peer's, near the product of the same real weights.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench_peers import sqnr
from int4_layers import Layer, step_timer, steps
from int4_peers import PEERS, Peer
from layers import SLICE, begin
from lowbit.ops import interpreter
from lowbit.runtime import roofline
from lowbit.runtime.roofline import Limit, Roofline
from lowbit.runtime.session import Session
from lowbit.runtime.timing import Timing, take_turns, timer
from peers import Missing

LEAST = 25.0
"""dB that an answer must have against the product of the same weights with float32 activations."""
INT8, KERNEL, QUANTIZING = "lowbit int8", "kernel", "quantizing"


def layers() -> dict[str, Layer]:
    """What is measured, by name."""
    wide = {group: Layer(rows=1, outputs=4096, depth=4096, group=group) for group in (128, 32)}
    last = max(roofline.cache_sizes().values(), default=0)
    found: dict[str, Layer] = {}
    for group, layer in wide.items():
        found[f"1 x 4096 x 4096, group {group}"] = layer
        found[f"1 x 4096 x 4096, group {group}, from DRAM"] = layer.of_copies(max(2, -(-2 * last // 2**23)))
    for rows, group in ((4, 128), (128, 128), (128, 32)):
        found[f"{rows} x 4096 x 4096, group {group}"] = Layer(rows=rows, outputs=4096, depth=4096, group=group)
    return found


@dataclass(frozen=True, kw_only=True)
class Result:
    """times: of a copy, by contestant; lowbit's layer first, its parts last. limit: of a copy."""

    times: dict[str, Timing]
    limit: Limit


def measure(layer: Layer, peers: Sequence[str], roof: Roofline, *, threads: int, rounds: int) -> Result:
    """Check, then let all take turns. Raises ValueError for a wrong answer."""
    session, eight = (Session(layer.graph(bits), threads=threads) for bits in (4, 8))
    check(layer, session)
    there = dict(contestants(layer, peers, threads))
    expected = layer.x @ layer.real(0).T
    for name, peer in there.items():
        if (quality := sqnr(expected, peer.output)) < LEAST:
            raise ValueError(f"{name}: {quality:.1f} dB")
    turns = {"lowbit": turn(layer, caller(session, layer)), INT8: turn(layer, caller(eight, layer))}
    turns |= {name: turn(layer, peer.call) for name, peer in there.items()}
    parts = {KERNEL: "quantized_linear", QUANTIZING: "dynamic_quantize"}
    turns |= {name: step_timer(session, layer, op) for name, op in parts.items()}
    return Result(times=take_turns(turns, rounds=rounds), limit=limit(session, layer, roof))


def check(layer: Layer, session: Session) -> None:
    """lowbit's floats are those of the specification."""
    graph = layer.of_copies(1).graph(4)
    np.testing.assert_array_equal(session.run(layer.x)[0], interpreter.run(graph, {"x": layer.x})["y0"])


def contestants(layer: Layer, peers: Sequence[str], threads: int) -> Iterator[tuple[str, Peer]]:
    """The peers that are installed."""
    for name in peers:
        try:
            yield name, PEERS[name](layer, threads)
        except Missing as missing:
            print(f"skipped: {missing}", file=sys.stderr)


def caller(session: Session, layer: Layer) -> Callable[[], object]:
    """A call that writes into outputs made before, as ONNX Runtime's does."""
    outputs = [np.empty((layer.rows, layer.outputs), np.float32) for _ in range(layer.copies)]
    return lambda: session.run_into([layer.x], outputs)


def turn(layer: Layer, call: Callable[[], object]) -> Callable[[], float]:
    """A slice of calls; seconds of a copy."""
    whole = timer(call, SLICE)
    return lambda: whole() / layer.copies


def limit(session: Session, layer: Layer, roof: Roofline) -> Limit:
    """What binds a copy's product; copies come from DRAM."""
    row = steps(session, layer, "quantized_linear", repeats=1)[0]
    if layer.copies == 1:
        return row.limit(roof)
    return Limit(seconds=row.bytes / roof.memory[-1].bandwidth, name=roof.memory[-1].name)


def line(name: str, layer: Layer, result: Result, others: Sequence[str]) -> str:
    """A row of the table: lowest times in microseconds, the medians' ratio in brackets."""
    times: Mapping[str, Timing] = result.times
    own, kernel = times["lowbit"], times[KERNEL]
    few = layer.rows <= 4
    rate = layer.weight_bytes / own.lowest / 1e9 if few else layer.operations / own.lowest / 1e9
    cells = [name, f"{own.lowest * 1e6:.1f}", f"{rate:.1f} {'GB/s' if few else 'GOP/s'}", result.limit.of(own.lowest)]
    cells += [f"{kernel.lowest * 1e6:.1f}", result.limit.of(kernel.lowest), f"{times[QUANTIZING].lowest * 1e6:.1f}"]
    for other in others:
        time = times.get(other)
        ratio = "" if time is None else f"{time.lowest / own.lowest:.2f} ({time.median / own.median:.2f})"
        cells += ["" if time is None else f"{time.lowest * 1e6:.1f}", ratio]
    return f"| {' | '.join(cells)} |"


def heading(others: Sequence[str]) -> str:
    """Of the table."""
    cells = ["rows x outputs x inputs", "lowbit us", "rate", "of limit", "kernel us", "of limit", "quantizing us"]
    for other in others:
        cells += [f"{other} us", "/ lowbit's"]
    return f"| {' | '.join(cells)} |\n|---|{'---:|' * (len(cells) - 1)}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", default="", help="parts of names, separated by semicolons; all by default")
    options, peers, roof = begin(parser, tuple(PEERS), rounds=15)
    others = [INT8, *peers]
    print(heading(others))
    for name, layer in layers().items():
        if any(part in name for part in options.layers.split(";")):
            result = measure(layer, peers, roof, threads=options.threads, rounds=options.rounds)
            print(line(name, layer, result, others), flush=True)


if __name__ == "__main__":
    main()
