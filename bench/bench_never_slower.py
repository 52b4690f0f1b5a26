"""Is int8 ever slower than lowbit's own float32? Every convolution and linear layer of the networks, and each whole.

    python bench/bench_never_slower.py [--models resnet50,mnist] [--drawn 20] [--threads 1] [--rounds 21] [--all]

Both conversions of a network take turns; a layer's times are its steps' in their profiles, so each runs where it does
in earnest. What an int8 layer takes with it (a function, an addition) counts to the float32 layer, too. A round gives a
ratio, int8 / float32; the interval that holds the median of the ratios with at least 95 % confidence follows from their
order alone. Layers whose interval lies above 1 are slower: they are named, and the exit code is 1. Without --all, only
these and the three nearest to them of each network are printed. --drawn: so many random small networks besides.
LOWBIT_ISA=avx2 asks the same of CPUs without AVX-512.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

import lowbit
from lowbit import _core
from lowbit.converted_model import ConvertedModel
from lowbit.passes.layers import LAYERS
from lowbit.runtime.timing import timer
from zoo import MODELS, SMALL, Subject, drawn

SLICE = 0.05
"""Seconds of a conversion's turn, about."""
NEAREST = 3
"""How many layers of a network are printed that are not slower."""
WHOLE = "the whole network"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Seconds in int8 and float32, round by round."""

    name: str
    what: str
    int8: tuple[float, ...]
    float32: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """int8 / float32, ascending."""
        return sorted(own / other for own, other in zip(self.int8, self.float32, strict=True))

    @property
    def interval(self) -> tuple[float, float]:
        """Of the median ratio, 95 %."""
        ratios, outside = self.ratios, order(len(self.int8))
        return ratios[outside], ratios[-1 - outside]

    @property
    def is_slower(self) -> bool:
        """Whether equality is excluded, on the wrong side."""
        return self.interval[0] > 1

    def line(self, model: str) -> str:
        """Of the table."""
        low, high = self.interval
        times = " | ".join(f"{min(seconds) * 1e6:.1f}" for seconds in (self.int8, self.float32))
        ratio, verdict = statistics.median(self.ratios), "slower" if self.is_slower else ""
        return f"| {model} | {self.name} | {self.what} | {times} | {ratio:.2f} | {low:.2f} - {high:.2f} | {verdict} |"


def order(count: int) -> int:
    """How many of `count` values may be left out on either side of an interval that holds the median with 95 %.

    Each value is below the median with probability 1/2, so how many are is binomial. Raises ValueError below 6 values.
    """
    outside, tail = 0, 0.5**count
    if 2 * tail > 0.05:
        raise ValueError(f"{count} rounds do not make an interval of 95 %; 6 do")
    while 2 * (tail + math.comb(count, outside + 1) * 0.5**count) <= 0.05:
        outside += 1
        tail += math.comb(count, outside) * 0.5**count
    return outside


def conversions(subject: Subject, threads: int) -> dict[str, ConvertedModel]:
    """The network in int8 and in float32."""
    examples = (torch.from_numpy(subject.image),)
    batches = [torch.from_numpy(batch) for batch in subject.calibration]
    return {
        scheme: lowbit.convert(
            subject.net, examples, calibration=batches, scheme=scheme, threads=threads, progress=False
        )
        for scheme in ("int8", "float32")
    }


def layers(model: ConvertedModel, image: Any, repeats: int) -> dict[str, float]:
    """The median seconds of each step but changes of memory layout, by node."""
    return {row.node: row.seconds for row in model.profile(image, repeats=repeats) if row.op != "layout"}


def compare(subject: Subject, *, threads: int, rounds: int) -> list[Pair]:
    """The whole network, then its layers that are integer in int8."""
    models, image = conversions(subject, threads), subject.image
    if not integer(models["int8"]):  # both are the same graph
        same = tuple(timer(partial(models["float32"], image), SLICE)() for _ in range(rounds))
        return [Pair(name=WHOLE, what="all in float32", int8=same, float32=same)]
    turns: dict[str, Callable[[], float]] = {
        scheme: timer(partial(model, image), SLICE) for scheme, model in models.items()
    }
    repeats = {scheme: max(3, min(1000, round(SLICE / turn()))) for scheme, turn in turns.items()}
    whole: dict[str, list[float]] = {scheme: [] for scheme in models}
    steps: dict[str, list[dict[str, float]]] = {scheme: [] for scheme in models}
    for _ in range(rounds):
        for scheme, turn in turns.items():
            whole[scheme].append(turn())
        for scheme, model in models.items():
            steps[scheme].append(layers(model, image, repeats[scheme]))
    found = [Pair(name=WHOLE, what="", **{scheme: tuple(taken) for scheme, taken in whole.items()})]
    for name, what in integer(models["int8"]).items():
        parts = {"int8": {name}, "float32": counterpart(models["int8"], models["float32"], name)}
        taken = {
            scheme: tuple(sum(step.get(part, 0.0) for part in parts[scheme]) for step in steps[scheme])
            for scheme in parts
        }
        found.append(Pair(name=name, what=what, **taken))
    return found


def counterpart(model: ConvertedModel, floats: ConvertedModel, name: str) -> set[str]:
    """The nodes of the float32 model that an int8 layer does the work of: from the layer of its name to its output."""
    node = next(node for node in model.session.graph if node.name == name)
    graph = floats.session.graph

    def back(value: str) -> set[str] | None:
        maker = graph.producer(value)
        if maker is None or maker.name == name:
            return None if maker is None else {name}
        if maker.op in LAYERS:
            return None
        ways = [back(operand) for operand in maker.inputs if operand in graph.values]
        return next((way | {maker.name} for way in ways if way is not None), None)

    return back(node.outputs[0].removesuffix(".codes")) or {name}


def integer(model: ConvertedModel) -> dict[str, str]:
    """The layers that are integer, each with its operator and shapes."""
    graph = model.session.graph
    found = {}
    for node in graph.nodes:
        if node.op in ("quantized_conv2d", "quantized_linear"):
            shapes = [graph.values[name].shape for name in (node.inputs[0], node.inputs[1], node.outputs[0])]
            found[node.name] = f"{node.op} {' '.join('x'.join(map(str, shape)) for shape in shapes)}"
    return found


def report(model: str, pairs: Sequence[Pair], everything: bool) -> list[str]:
    """The lines of a network: the whole, then layers from the slowest."""
    whole, *rest = pairs
    rest.sort(key=lambda pair: -statistics.median(pair.ratios))
    slower = [pair for pair in rest if pair.is_slower]
    others = [pair for pair in rest if not pair.is_slower]
    return [pair.line(model) for pair in (whole, *slower, *(others if everything else others[:NEAREST]))]


def main() -> None:
    """Print the table; exit with 1 if anything is slower."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = {**MODELS, **SMALL}
    parser.add_argument("--models", default=",".join(known))
    parser.add_argument("--drawn", type=int, default=0, help="random small networks besides")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--all", action="store_true", help="print every layer")
    options = parser.parse_args()
    order(options.rounds)
    cpu = _core.cpu()
    print(f"{cpu['model']}, {cpu['default_isa']}, threads: {options.threads}; {options.rounds} interleaved rounds\n")
    print("| model | layer | input, weights, output | int8 us | float32 us | int8 / float32 | 95 % interval | |")
    print("|---|---|---|---:|---:|---:|---:|---|")
    slower, counted = [], 0
    subjects = {name: known[name] for name in options.models.split(",") if name}
    subjects |= {f"drawn {seed}": partial(drawn, seed) for seed in range(options.drawn)}
    for name, subject in subjects.items():
        pairs = compare(subject(), threads=options.threads, rounds=options.rounds)
        print(*report(name, pairs, options.all), sep="\n", flush=True)
        slower += [pair for pair in pairs if pair.is_slower]
        counted += len(pairs)
    print(f"\n{len(slower)} of {counted} are slower in int8")
    sys.exit(bool(slower))


if __name__ == "__main__":
    main()
