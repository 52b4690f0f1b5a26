"""Weights of many zeros: lowbit's sparse int8 kernels against its own dense ones, layers and whole networks.

    python bench/bench_sparse.py [--sections patterns,break-even,row,slower,networks] [--threads 1] [--rounds 21] \\
        [--plot docs/sparse_speed.svg]

A layer is a node of a session, so its time holds all that the choice of a kernel brings: the epilogue, and the changes
of layout before and after. Zeros lie in random blocks of output x input channels. The dense row must be near the
machine's peak for a ratio to mean something: its share is printed, and the time of oneDNN's dense kernel over lowbit's
beside it. Outputs must equal the interpreter's. Ratios are dense / sparse of the lowest times, those of the medians in
brackets; where the session keeps the dense kernel, of the same code.

slower: layers of ResNet-50 and BERT-base from no zeros to 99 %. Each round gives a ratio, sparse / dense; a layer is
slower where the 95 % interval of their median lies above 1.02, and then the exit code is 1. Where the session keeps
the dense kernel, there is nothing to compare.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

import lowbit
import plots
from bench_layers import contestants, limit
from bench_never_slower import order
from layers import Case, conv, node_timer, product
from lowbit import _core
from lowbit.compress import prune
from lowbit.ops import interpreter
from lowbit.runtime import roofline
from lowbit.runtime.roofline import Roofline
from lowbit.runtime.session import Session
from lowbit.runtime.timing import Timing, interleave, take_turns
from zoo import resnet50

PATTERNS = {"4x4": 4, "8x4": 8, "16x4": 16, "1x4": 1}
SHAPES = {
    "128 x 768 x 3072": product(128, 768, 3072),
    "512 x 1024 x 1024": product(512, 1024, 1024),
    "196 x 256 x 2304, 3x3": conv(256, 256, 14, 3),
    "3136 x 64 x 576, 3x3": conv(64, 64, 56, 3),
}
LAYERS = {
    **SHAPES,
    "3136 x 256 x 64": conv(64, 256, 56, 1),
    "3136 x 64 x 256": conv(256, 64, 56, 1),
    "784 x 128 x 1152, 3x3": conv(128, 128, 28, 3),
    "196 x 1024 x 256": conv(256, 1024, 14, 1),
    "196 x 256 x 2304, 3x3 / 2": conv(256, 256, 28, 3, stride=2),
    "49 x 512 x 4608, 3x3": conv(512, 512, 7, 3),
    "49 x 2048 x 512": conv(512, 2048, 7, 1),
    "128 x 768 x 768": product(128, 768, 768),
    "128 x 3072 x 768": product(128, 3072, 768),
    "16 x 1024 x 1024": product(16, 1024, 1024),
    "1 x 4096 x 4096": product(1, 4096, 4096),
}
SPARSITIES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
NOTABLE = 1.02
"""A ratio that may still be the clock's."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to measure."""

    threads: int
    rounds: int
    roof: Roofline
    plot: Path | None = None


def pruned(case: Case, pattern: str, sparsity: float) -> Case:
    """The layer with zeros."""
    return replace(case, sparsity=sparsity, block=PATTERNS[pattern])


def checked(case: Case, threads: int) -> Session:
    """Its session, whose codes are right."""
    session = Session(case.graph(), threads=threads)
    np.testing.assert_array_equal(session.run(case.codes)[0], interpreter.run(case.graph(), {"x": case.codes})["y0"])
    return session


def timed(case: Case, options: Options) -> Callable[[], float]:
    """A turn of its node."""
    return node_timer(Session(case.graph(), threads=options.threads), case)


def kernel(session: Session) -> str:
    """Of its node."""
    return str(session.nodes()[0]["kernel"])


def ratio(dense: Timing, sparse: Timing) -> str:
    """Of the lowest times and, in brackets, of the medians."""
    return f"{dense.lowest / sparse.lowest:.2f} ({dense.median / sparse.median:.2f})"


def patterns(options: Options) -> Iterator[str]:
    """Patterns at the sparsities that pruning reaches, and the dense kernel's share of the peak."""
    chosen = (("4x4", 0.8), ("4x4", 0.9), ("8x4", 0.8), ("8x4", 0.9), ("1x4", 0.9), ("16x4", 0.8))
    names = [f"{pattern}, {sparsity:.0%}" for pattern, sparsity in chosen]
    yield f"| M x N x K | dense us | of limit | oneDNN / dense | {' | '.join(names)} |"
    yield f"|---|---:|---:|---:|{'---:|' * len(names)}"
    ratios: dict[str, list[float]] = {name: [] for name in names}
    for title, case in SHAPES.items():
        dense = checked(case, options.threads)
        turns: dict[str, Callable[[], float]] = {"dense": node_timer(dense, case)}
        peers = dict(contestants(case, ("oneDNN",), options.threads))
        turns |= {name: peer.turn for name, peer in peers.items()}
        for name, (pattern, sparsity) in zip(names, chosen, strict=True):
            zeros = pruned(case, pattern, sparsity)
            turns[name] = node_timer(checked(zeros, options.threads), zeros)
        times = take_turns(turns, rounds=options.rounds)
        for name in names:
            ratios[name].append(times["dense"].lowest / times[name].lowest)
        own, peer = times["dense"], f"{times['oneDNN'].lowest / times['dense'].lowest:.2f}" if peers else ""
        cells = [title, f"{own.lowest * 1e6:.0f}", limit(dense, case, options.roof).of(own.lowest), peer]
        yield f"| {' | '.join([*cells, *(ratio(own, times[name]) for name in names)])} |"
    means = [f"{statistics.geometric_mean(ratios[name]):.2f}" for name in names]
    yield f"| geometric mean | | | | {' | '.join(means)} |"


def break_even(options: Options) -> Iterator[str]:
    """Dense / sparse from few zeros to nearly all: where 4x4 and 1x4 begin to pay; with `plot`, a picture of it."""
    yield f"| M x N x K | pattern | {' | '.join(f'{sparsity:.0%}' for sparsity in SPARSITIES)} |"
    yield f"|---|---|{'---:|' * len(SPARSITIES)}"
    found: dict[str, list[list[float]]] = {"4x4": [], "1x4": []}
    for title, case in SHAPES.items():
        for pattern, ratios in found.items():
            turns = {"dense": timed(case, options)}
            turns |= {f"{s}": timed(pruned(case, pattern, s), options) for s in SPARSITIES}
            times = take_turns(turns, rounds=options.rounds)
            ratios.append([times["dense"].lowest / times[f"{s}"].lowest for s in SPARSITIES])
            yield f"| {title} | {pattern} | {' | '.join(f'{value:.2f}' for value in ratios[-1])} |"
    means = {
        name: [statistics.geometric_mean(column) for column in zip(*rows, strict=True)] for name, rows in found.items()
    }
    for pattern, values in means.items():
        yield f"| geometric mean | {pattern} | {' | '.join(f'{value:.2f}' for value in values)} |"
    if options.plot is not None:
        title = "Times as fast as dense int8, by the share of zeros; geometric mean of four layers"
        places = [f"{sparsity:.0%}" for sparsity in SPARSITIES]
        options.plot.write_text(plots.lines(means, places, title, ticks=(1, 2, 4, 8, 16, 32)))


def row(options: Options) -> Iterator[str]:
    """A single row, its weights from the last cache and, in copies of twice its size together, from memory."""
    last = max(roofline.cache_sizes().values(), default=0)
    case = product(1, 4096, 4096)
    yield "| M x N x K | pattern | dense us | sparse us | dense / sparse |\n|---|---|---:|---:|---:|"
    for place in ("", ", from DRAM"):
        for pattern, sparsity in (("4x4", 0.8), ("4x4", 0.9), ("1x4", 0.9)):
            turns = {}
            for name, zeros in (("dense", case), ("sparse", pruned(case, pattern, sparsity))):
                copies = -(-2 * last // int(4096 * 4096 * (1 - zeros.sparsity))) if place else 1
                turns[name] = timed(replace(zeros, copies=copies), options)
            times = take_turns(turns, rounds=options.rounds)
            dense, sparse = times["dense"], times["sparse"]
            what = f"1 x 4096 x 4096{place} | {pattern}, {sparsity:.0%}"
            yield f"| {what} | {dense.lowest * 1e6:.0f} | {sparse.lowest * 1e6:.0f} | {ratio(dense, sparse)} |"


def slower(options: Options) -> Iterator[str]:
    """Whether any zeros make a layer slower. Ends the program with 1 where they do."""
    yield "| M x N x K | pattern | zeros | kernel | sparse / dense | 95 % interval | |"
    yield "|---|---|---:|---|---:|---:|---|"
    outside, count, found = order(options.rounds), 0, 0
    for title, case in LAYERS.items():
        dense, usual = timed(case, options), kernel(Session(case.graph(), threads=options.threads))
        for pattern in ("4x4", "1x4"):
            for sparsity in SPARSITIES:
                zeros = pruned(case, pattern, sparsity)
                session = Session(zeros.graph(), threads=options.threads)
                count += 1
                if kernel(session) == usual:
                    yield f"| {title} | {pattern} | {sparsity:.0%} | {usual} | | | dense |"
                    continue
                turn = node_timer(session, zeros)
                ratios = sorted(turn() / dense() for _ in range(options.rounds))
                low, high = ratios[outside], ratios[-1 - outside]
                found += low > NOTABLE
                verdict = "slower" if low > NOTABLE else ""
                yield (
                    f"| {title} | {pattern} | {sparsity:.0%} | {kernel(session)} | {statistics.median(ratios):.2f} "
                    f"| {low:.2f} - {high:.2f} | {verdict} |"
                )
    yield f"\n{found} of {count} are slower with zeros"
    if found:
        sys.exit(1)


class Encoder(nn.Module):
    """BERT-base as a plain function of token ids, random weights."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        torch.manual_seed(0)
        self.net = BertModel(BertConfig(), add_pooling_layer=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.net(ids).last_hidden_state
        return states


def networks(options: Options) -> Iterator[str]:
    """Whole nets, their convolutions or linear layers pruned at once: how fast, not how good."""
    yield "| network | zeros | dense ms | sparse ms | dense / sparse |\n|---|---|---:|---:|---:|"
    image = resnet50()
    ids = torch.randint(0, 30000, (9, 128), generator=torch.Generator().manual_seed(0))
    images = [torch.from_numpy(batch) for batch in image.calibration]
    subjects: dict[str, tuple[Callable[[], nn.Module], torch.Tensor, list[torch.Tensor]]] = {
        "ResNet-50": (lambda: resnet50().net, torch.from_numpy(image.image), images),
        "BERT-base, 128 tokens": (lambda: Encoder().eval(), ids[:1], [ids[1:5], ids[5:]]),
    }
    for name, (build, example, calibration) in subjects.items():
        for sparsity in (0.8, 0.9):
            models = {}
            for kind in ("dense", "sparse"):
                net = build()
                if kind == "sparse":
                    kinds = nn.Conv2d if name == "ResNet-50" else nn.Linear
                    chosen = [path for path, module in net.named_modules() if isinstance(module, kinds)]
                    net = prune(net, sparsity, pattern="4x4", modules=chosen).finalize()
                models[kind] = lowbit.convert(
                    net, (example,), calibration=calibration, threads=options.threads, progress=False
                )
            times = interleave(
                {kind: partial(model, example.numpy()) for kind, model in models.items()}, rounds=options.rounds
            )
            dense, sparse = times["dense"], times["sparse"]
            yield (
                f"| {name} | 4x4, {sparsity:.0%} | {dense.lowest * 1e3:.2f} | {sparse.lowest * 1e3:.2f} "
                f"| {ratio(dense, sparse)} |"
            )


SECTIONS: dict[str, Callable[[Options], Iterator[str]]] = {
    "patterns": patterns,
    "break-even": break_even,
    "row": row,
    "networks": networks,
    "slower": slower,
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", default=",".join(SECTIONS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--plot", type=Path, help="where the picture of break-even goes, as SVG")
    arguments = parser.parse_args()
    chosen = arguments.sections.split(",")
    if unknown := sorted(set(chosen) - set(SECTIONS)):
        parser.error(f"no such section: {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    roof = roofline.measure(threads=arguments.threads, seconds=2.0)
    print(f"{_core.cpu()['model']}; {roof}; {arguments.rounds} interleaved rounds")
    options = Options(threads=arguments.threads, rounds=arguments.rounds, roof=roof, plot=arguments.plot)
    for name in chosen:
        print(f"\n{name}\n")
        for line in SECTIONS[name](options):
            print(line, flush=True)


if __name__ == "__main__":
    main()
