"""lowbit against its peers in one run: `python bench/bench_peers.py --models resnet50,mnist --threads 1 --rounds 15`.

Every engine gets the same network, the same calibration and the same number of threads. Its answer is checked against
float32 first; then all take turns in interleaved rounds. The table is Markdown; a peer that is not installed is named.
`--batch 8` gives each call eight images; times are those of one image. `--isa avx2` holds all engines to AVX2
(`cap.py`), and marks those that do not keep to it.
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

import cap
import lowbit
from lowbit.runtime.roofline import Limit
from lowbit.runtime.timing import Timing, interleave
from peers import ENGINES, Array, Converted, Missing, Run, version
from zoo import MODELS, Subject

CACHE = Path(__file__).parent.parent / "build" / "bench"
"""Where exported and quantized models are kept."""
OWN = "lowbit int8"
FLOOR = 8.0
"""Decibels: an engine whose logits are noisier than this against float32 does not compute the model."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One engine on one model. sqnr: of the logits against float32, dB. limit: what the machine allows, if known.

    exceeds: whether the engine executes more than the instruction set that all are held to.
    """

    engine: str
    timing: Timing
    sqnr: float
    limit: Limit | None
    exceeds: bool = False


def prepare(
    subject: Subject, *, threads: int, batch: int = 1, engines: Mapping[str, Callable[..., Run]] = ENGINES
) -> dict[str, Run]:
    """The engines that are installed and compile the model, ready to run; the others are named on standard error."""
    runs, cache = {}, CACHE / (subject.name if batch == 1 else f"{subject.name}-batch{batch}")
    cache.mkdir(parents=True, exist_ok=True)
    for name, engine in engines.items():
        try:
            runs[name] = engine(subject.net, subject.calibration, threads=threads, batch=batch, cache=cache)
        except Missing as missing:
            print(f"skipped for {subject.name}: {missing}", file=sys.stderr)
    return runs


def check(subject: Subject, runs: Mapping[str, Run], images: Array) -> dict[str, float]:
    """Each engine's SQNR in dB against float32. Raises ValueError for one below `FLOOR`."""
    with torch.inference_mode():
        reference = subject.net(torch.from_numpy(images)).numpy()
    found = {name: sqnr(reference, run(images)) for name, run in runs.items()}
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


def compare(
    subject: Subject, runs: Mapping[str, Run], *, rounds: int, batch: int = 1, seconds: float = 0.1
) -> list[Result]:
    """Check, then time the engines on `batch` images against each other."""
    images = subject.images(batch)
    quality = check(subject, runs, images)
    times = interleave({name: partial(run, images) for name, run in runs.items()}, rounds=rounds, seconds=seconds)
    limits = {name: run.limit(images) for name, run in runs.items() if isinstance(run, Converted)}
    exceeds = {name: cap.is_held() and cap.exceeds(partial(run, images)) for name, run in runs.items()}
    return [
        Result(engine=name, timing=times[name], sqnr=quality[name], limit=limits.get(name), exceeds=exceeds[name])
        for name in runs
    ]


def machine(threads: int, batch: int) -> str:
    """What the figures depend on, in one line."""
    from lowbit import _core

    cpu = _core.cpu()
    releases = ", ".join(version(engine) for engine in ENGINES if _installed(engine))
    return f"{cpu['model']}, {cpu['default_isa']}, {threads} thread{'s' * (threads > 1)}, batch {batch}; {releases}"


def table(model: str, results: list[Result], batch: int) -> list[str]:
    """Markdown rows, times of one image; the ratios are to lowbit's lowest time, above 1: slower than lowbit."""
    own = next(result for result in results if result.engine == OWN).timing.lowest
    rows = []
    for result in results:
        lowest, median = (seconds / batch * 1e3 for seconds in (result.timing.lowest, result.timing.median))
        quality = "" if result.sqnr >= 200 else f"{result.sqnr:.1f}"
        near = "" if result.limit is None else result.limit.of(result.timing.lowest)
        ratio = result.timing.lowest / own
        name = f"{result.engine}, not capped" if result.exceeds else result.engine
        rows.append(f"| {model} | {name} | {lowest:.3f} | {median:.3f} | {ratio:.2f} | {quality} | {near} |")
    return rows


def nearest(model: str, results: list[Result]) -> str:
    """How far lowbit is ahead of the best peer's int8, by the lowest times and by the medians."""
    own = next(result for result in results if result.engine == OWN).timing
    peers = [result for result in results if result.engine.endswith("int8") and result.engine != OWN]
    if not peers:
        return f"{model}: no peer's int8 is installed"
    best = min(peers, key=lambda result: result.timing.lowest)
    ratios = f"{best.timing.lowest / own.lowest:.2f} times as long as lowbit ({best.timing.median / own.median:.2f})"
    return f"{model}: the best peer, {best.engine}, takes {ratios}"


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
    parser.add_argument("--batch", type=int, default=1, help="images a call")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--engines", default="", help="parts of names, separated by commas; lowbit's is always there")
    cap.add_option(parser)
    options = parser.parse_args()
    cap.hold(options.isa)
    parts = options.engines.split(",")
    engines = {name: made for name, made in ENGINES.items() if name == OWN or any(part in name for part in parts)}
    unknown = sorted(set(options.models.split(",")) - set(MODELS))
    if unknown:
        parser.error(f"no such model: {', '.join(unknown)}; there are {', '.join(MODELS)}")
    print(machine(options.threads, options.batch), f"; {options.rounds} interleaved rounds\n", sep="")
    print(*HEADING, sep="\n")
    summary = []
    for name in options.models.split(","):
        subject = MODELS[name]()
        runs = prepare(subject, threads=options.threads, batch=options.batch, engines=engines)
        results = compare(subject, runs, rounds=options.rounds, batch=options.batch)
        print(*table(name, results, options.batch), sep="\n", flush=True)
        summary.append(nearest(name, results))
    print("", *summary, sep="\n")


if __name__ == "__main__":
    try:
        main()
    except lowbit.errors.LowbitError as error:
        sys.exit(f"{error}")
