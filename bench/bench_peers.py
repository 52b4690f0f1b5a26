"""lowbit against its peers in one run: `python bench/bench_peers.py --models resnet50,mnist --threads 1 --rounds 15`.

Every engine gets the same network, the same calibration and the same number of threads. Its answer is checked against
float32 first; then all take turns in interleaved rounds. The table is Markdown; a peer that is not installed is named.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

import lowbit
from lowbit.roofline import Limit
from lowbit.timing import Timing, interleave
from peers import ENGINES, Array, Converted, Missing, Run, version
from zoo import MODELS, Subject

CACHE = Path(__file__).parent.parent / "build" / "bench"
"""Where exported and quantized models are kept."""
FLOOR = 8.0
"""Decibels: an engine whose logits are noisier than this against float32 does not compute the model."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One engine on one model. sqnr: of the logits against float32, dB. limit: what the machine allows, if known."""

    engine: str
    timing: Timing
    sqnr: float
    limit: Limit | None


def prepare(subject: Subject, *, threads: int, engines: Mapping[str, Callable[..., Run]] = ENGINES) -> dict[str, Run]:
    """The engines that are installed, ready to run; the others are named on standard error."""
    runs, cache = {}, CACHE / subject.name
    cache.mkdir(parents=True, exist_ok=True)
    for name, engine in engines.items():
        try:
            runs[name] = engine(subject.net, subject.calibration, threads=threads, cache=cache)
        except Missing as missing:
            print(f"skipped: {missing}", file=sys.stderr)
    return runs


def check(subject: Subject, runs: Mapping[str, Run]) -> dict[str, float]:
    """Each engine's SQNR in dB against float32. Raises ValueError for one below `FLOOR`."""
    with torch.inference_mode():
        reference = subject.net(torch.from_numpy(subject.image)).numpy()
    found = {name: sqnr(reference, run(subject.image)) for name, run in runs.items()}
    wrong = [f"{name} {value:.1f} dB" for name, value in found.items() if not value >= FLOOR]
    if wrong:
        raise ValueError(f"{subject.name}: not the model's answer: {', '.join(wrong)}")
    return found


def sqnr(reference: Array, found: Array) -> float:
    """Signal to quantization noise in dB; a perfect answer counts as 200."""
    if reference.shape != found.shape:
        raise ValueError(f"the answer has shape {found.shape}, not {reference.shape}")
    noise = float(np.square(reference - found, dtype=np.float64).sum())
    signal = float(np.square(reference, dtype=np.float64).sum())
    return 200.0 if noise <= signal * 1e-20 else 10 * float(np.log10(signal / noise))


def compare(subject: Subject, runs: Mapping[str, Run], *, rounds: int, seconds: float = 0.1) -> list[Result]:
    """Check, then time the engines on `subject.image` against each other."""
    quality = check(subject, runs)
    times = interleave(
        {name: partial(run, subject.image) for name, run in runs.items()}, rounds=rounds, seconds=seconds
    )
    limits = {name: run.limit(subject.image) for name, run in runs.items() if isinstance(run, Converted)}
    return [Result(engine=name, timing=times[name], sqnr=quality[name], limit=limits.get(name)) for name in runs]


def machine(threads: int) -> str:
    """What the figures depend on, in one line."""
    from lowbit import _core

    cpu = _core.cpu()
    releases = ", ".join(version(engine) for engine in ENGINES if _installed(engine))
    return f"{cpu['model']}, {cpu['default_isa']}, {threads} thread{'s' * (threads > 1)}; {releases}"


def table(model: str, results: list[Result]) -> list[str]:
    """Markdown rows; the ratios are to lowbit's lowest time, above 1: slower than lowbit."""
    own = next(result for result in results if result.engine == "lowbit int8").timing.lowest
    return [
        f"| {model} | {result.engine} | {result.timing.lowest * 1e3:.3f} | {result.timing.median * 1e3:.3f} "
        f"| {result.timing.lowest / own:.2f} | {'' if result.sqnr >= 200 else f'{result.sqnr:.1f}'} "
        f"| {'' if result.limit is None else result.limit.of(result.timing.lowest)} |"
        for result in results
    ]


HEADING = [
    "| model | engine | lowest ms | median ms | time / lowbit's | SQNR dB | of limit |",
    "|---|---|---:|---:|---:|---:|---:|",
]


def _installed(engine: str) -> bool:
    try:
        version(engine)
    except ModuleNotFoundError:
        return False
    return True


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", default=",".join(MODELS), help=f"any of {', '.join(MODELS)}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    unknown = sorted(set(options.models.split(",")) - set(MODELS))
    if unknown:
        parser.error(f"no such model: {', '.join(unknown)}; there are {', '.join(MODELS)}")
    print(machine(options.threads), f"; {options.rounds} interleaved rounds\n", sep="")
    print(*HEADING, sep="\n")
    for name in options.models.split(","):
        subject = MODELS[name]()
        results = compare(subject, prepare(subject, threads=options.threads), rounds=options.rounds)
        print(*table(name, results), sep="\n", flush=True)


if __name__ == "__main__":
    try:
        main()
    except lowbit.errors.LowbitError as error:
        sys.exit(f"{error}")
