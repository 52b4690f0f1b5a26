"""Single int8 layers, kernel against kernel: lowbit, oneDNN (through torch), ONNX Runtime and OpenVINO.

    python bench/bench_layers.py [--sections products,3x3] [--threads 1] [--rounds 30] [--isa avx2]

All take u8 codes and give u8 codes, with s8 weights per output, bias and zero points; images are channels-last. What
counts is the kernel's own time, not the call's: a node's in lowbit's profile, oneDNN's verbose mode; from ONNX
Runtime's and OpenVINO's calls those of a tiny layer are subtracted. Weights "from DRAM" are copies, used in turn, of
twice the last cache together. lowbit's codes must equal its interpreter's; `wrong` is the share of a peer's that are
off by more than 1, as they are where 16-bit sums saturate: on AVX2, in oneDNN.
`--isa avx2` holds all of them to AVX2 (`cap.py`).
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

import trained
from layer_peers import PEERS, Codes, Contestant, kernel_time
from layers import Case, begin, conv, node_timer, product, steps
from lowbit.ops import interpreter
from lowbit.runtime import roofline
from lowbit.runtime.roofline import Limit, Roofline
from lowbit.runtime.session import Session
from lowbit.runtime.timing import Timing, take_turns
from peers import Missing

SIZES = ((512, 1024, 1024), (128, 768, 3072), (3136, 64, 576), (16, 1024, 1024), (1, 4096, 4096))
DEPTHWISE = (
    (32, 112, 1), (96, 112, 2), (144, 56, 1), (144, 56, 2), (192, 28, 1), (192, 28, 2), (384, 14, 1), (576, 14, 1),
    (576, 14, 2), (960, 7, 1),
)  # fmt: skip
"""Channels, size and stride of MobileNetV2's."""
WRONG = 1e-3
"""The share of codes that a peer may get wrong where nothing saturates."""


def copies(layer: Case) -> int:
    """So many that their weights are twice the last cache."""
    last = max(roofline.cache_sizes().values(), default=0)
    return max(2, -(-2 * last // int(np.prod(layer.w))))


def sections() -> dict[str, Callable[[], dict[str, Case]]]:
    """What is measured, by the name of the section and of the layer; the networks' layers raise `Missing`."""
    networks = {"EfficientNet-Lite0's products": trained.efficientnet, "MiniLM's products": trained.minilm}
    return {title: partial(dict, cases) for title, cases in drawn().items()} | networks


def drawn() -> dict[str, dict[str, Case]]:
    """Layers whose weights are drawn."""
    cold = product(1, 4096, 4096)
    return {
        "products": {f"{m} x {n} x {k}": product(m, n, k) for m, n, k in SIZES},
        "products, weights from DRAM": {"1 x 4096 x 4096": product(1, 4096, 4096, copies=copies(cold))},
        "3x3": {
            f"{size} x {size} x {channels}": conv(channels, channels, size, 3)
            for channels, size in ((64, 56), (128, 28), (256, 14), (512, 7))
        },
        "depthwise 3x3": {
            f"{size} x {size} x {channels}" + f" / {stride}" * (stride > 1): conv(
                channels, channels, size, 3, stride=stride, groups=channels
            )
            for channels, size, stride in DEPTHWISE
        },
    }


@dataclass(frozen=True, kw_only=True)
class Result:
    """times: by contestant, lowbit's first. wrong: by peer, the share of codes that are off by more than 1."""

    times: dict[str, Timing]
    wrong: dict[str, float]
    limit: Limit


def measure(case: Case, peers: Sequence[str], roof: Roofline, *, threads: int, rounds: int) -> Result:
    """Check, then let all take turns. Raises ValueError for wrong codes where nothing saturates."""
    session = Session(case.graph(), threads=threads)
    own = session.run(case.codes)[0]
    np.testing.assert_array_equal(own, interpreter.run(single(case).graph(), {"x": case.codes})["y0"])
    there = dict(contestants(case, peers, threads))
    wrong = {name: off(own, peer.output) for name, peer in there.items()}
    if max(wrong.values(), default=0) > WRONG and session.isa not in ("avx2", "scalar"):
        raise ValueError(f"wrong codes: {wrong}")
    turns = {"lowbit": node_timer(session, case)} | {name: peer.turn for name, peer in there.items()}
    empties = {f"{name}, empty": peer.empty for name, peer in there.items() if peer.empty is not None}
    taken = take_turns(turns | empties, rounds=rounds)
    times = {name: kernel_time(taken[name], taken.get(f"{name}, empty")) for name in turns}
    return Result(times=times, wrong=wrong, limit=limit(session, case, roof))


def single(case: Case) -> Case:
    """One copy of it."""
    return replace(case, copies=1)


def contestants(case: Case, peers: Sequence[str], threads: int) -> Iterator[tuple[str, Contestant]]:
    """The peers that are installed and know the layer."""
    for name in peers:
        if case.op != "quantized_linear" and name != "oneDNN":
            continue
        try:
            yield name, PEERS[name](case, threads)
        except Missing as missing:
            print(f"skipped: {missing}", file=sys.stderr)


def off(expected: Codes, found: Codes) -> float:
    """The share of codes that differ by more than the last place, where a rounding may fall the other way."""
    if expected.shape != found.shape:
        raise ValueError(f"the answer has shape {found.shape}, not {expected.shape}")
    return float((np.abs(expected.astype(np.int16) - found.astype(np.int16)) > 1).mean())


def limit(session: Session, case: Case, roof: Roofline) -> Limit:
    """What binds one copy; copies come from DRAM."""
    row = steps(session, case, repeats=1)[0]
    if case.copies == 1:
        return row.limit(roof)
    return Limit(seconds=row.bytes / roof.memory[-1].bandwidth, name=roof.memory[-1].name)


def line(name: str, result: Result, peers: Sequence[str]) -> str:
    """A row of the table: lowest times in microseconds, the medians' ratio in brackets."""
    own = result.times["lowbit"]
    cells = [name, f"{own.lowest * 1e6:.1f}", result.limit.of(own.lowest)]
    for peer in peers:
        time = result.times.get(peer)
        if time is None:
            cells += ["", ""]
        else:
            ratio = f"{time.lowest / own.lowest:.2f} ({time.median / own.median:.2f})"
            cells += [f"{time.lowest * 1e6:.1f}", ratio]
        if peer == "oneDNN":
            cells.append(f"{100 * result.wrong[peer]:.2g} %" if peer in result.wrong else "")
    return f"| {' | '.join(cells)} |"


def heading(title: str, peers: Sequence[str]) -> str:
    """Of a section's table."""
    cells = [title, "lowbit us", "of limit"]
    for peer in peers:
        cells += [f"{peer} us", "/ lowbit's", *(["wrong"] if peer == "oneDNN" else [])]
    return f"| {' | '.join(cells)} |\n|---|{'---:|' * (len(cells) - 1)}"


def summary(results: Sequence[Result], peers: Sequence[str]) -> str:
    """Geometric means of the ratios of the lowest times, and of the medians."""
    means = []
    for peer in peers:
        pairs = [(result.times[peer], result.times["lowbit"]) for result in results if peer in result.times]
        if pairs:
            lowest = statistics.geometric_mean([their.lowest / own.lowest for their, own in pairs])
            median = statistics.geometric_mean([their.median / own.median for their, own in pairs])
            means.append(f"{peer} {lowest:.2f} ({median:.2f})")
    return f"\ngeometric mean of the times / lowbit's: {', '.join(means)}\n"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", default="", help="parts of names, separated by commas; all by default")
    options, peers, roof = begin(parser, tuple(PEERS), rounds=30)
    for title, make in sections().items():
        if not any(part in title for part in options.sections.split(",")):
            continue
        try:
            cases = make()
        except Missing as missing:
            print(f"skipped: {missing}", file=sys.stderr)
            continue
        print(heading(title, peers))
        results = []
        for name, case in cases.items():
            results.append(measure(case, peers, roof, threads=options.threads, rounds=options.rounds))
            print(line(name, results[-1], peers), flush=True)
        print(summary(results, peers))


if __name__ == "__main__":
    main()
