"""Are models with calibration data as accurate as without, or else faster? Every architecture of the tests, and MiniLM.

    python bench/bench_calibration.py [--names resnet,vit] [--threads 1] [--rounds 15] [--batch 8] [--images 1]

SQNR in dB of the worst float output on samples that no conversion has seen, and milliseconds of a call of `batch` such
samples, in interleaved rounds. `gain`: what the model with data is faster than the one without, the median of the
rounds' ratios. A network fails that is more than 0.5 dB worse with data and not at least 1.05 times faster, or of which
no decision says so; the exit code is then 1. --images: so many samples to calibrate with instead of four batches of 8.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import bench_minilm
import lowbit
from bench_architectures import sqnr, tensors
from lowbit.runtime.timing import timer

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from architectures import ARCHITECTURES, Architecture, Inputs

SAMPLES = 64
"""Samples to compare on."""
WORSE = 0.5
"""Decibels by which a model with data may be worse without being faster."""
FASTER = 1.05
SLICE = 0.03
"""Seconds of a model's turn, about."""
SAID = "times faster"
"""What a decision says that trades accuracy for speed."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network, inputs to calibrate with, and inputs to compare and to time on."""

    net: nn.Module
    calibration: Sequence[Inputs]
    samples: Sequence[Inputs]
    timed: Inputs


def architecture(subject: Architecture, batch: int) -> Subject:
    """One of the tests' networks."""
    length = subject.shapes[0][1]
    sample = subject.example(SAMPLES, length, seed=4)
    timed = subject.example(batch, length, seed=4)
    return Subject(net=subject.net(), calibration=subject.calibration(), samples=[sample], timed=timed)


def minilm(batch: int) -> Subject:
    """The sentence encoder with its weights; timed on 128 tokens."""
    net, tokens = bench_minilm.encoder()
    parts = {
        part: [
            {name: torch.from_numpy(array) for name, array in tokens(sentence).items()}
            for sentence in bench_minilm.sentences(part)
        ]
        for part in ("calibration", "dev")
    }
    ids = torch.randint(1000, 20000, (batch, bench_minilm.LONGEST))
    timed = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return Subject(net=net, calibration=parts["calibration"], samples=parts["dev"][:100], timed=timed)


def few(batches: Sequence[Inputs], count: int) -> list[Inputs]:
    """The first `count` samples of the data, one a batch."""
    singles = [
        {name: tensor[i : i + 1] for name, tensor in batch.items()}
        for batch in batches
        for i in range(len(next(iter(batch.values()))))
    ]
    return singles[:count]


def conversions(subject: Subject, threads: int) -> dict[str, lowbit.Model]:
    """With data, without, and in float32."""
    convert = partial(lowbit.convert, subject.net, subject.calibration[0], threads=threads, progress=False)
    return {
        "data": convert(calibration=subject.calibration),
        "none": convert(),
        "float32": convert(scheme="float32"),
    }


def accuracy(subject: Subject, model: lowbit.Model) -> float:
    """dB of the worst output on all samples together."""

    def outputs(call: Callable[..., Any]) -> list[np.ndarray]:
        with torch.no_grad():
            found = [[y.numpy().ravel() for y in tensors(call(**inputs))] for inputs in subject.samples]
        return [np.concatenate(parts) for parts in zip(*found, strict=True)]

    return sqnr(outputs(model), outputs(subject.net))


def rounds_of(models: Mapping[str, lowbit.Model], inputs: Inputs, rounds: int) -> dict[str, list[float]]:
    """Seconds of a call, round by round."""
    turns = {name: timer(partial(model, **inputs), SLICE) for name, model in models.items()}
    taken: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, turn in turns.items():
            taken[name].append(turn())
    return taken


def compare(name: str, subject: Subject, threads: int, rounds: int) -> tuple[str, bool]:
    """A line of the table, and whether the network keeps the promise."""
    models = conversions(subject, threads)
    data, none = (accuracy(subject, models[each]) for each in ("data", "none"))
    taken = rounds_of(models, subject.timed, rounds)
    gain = statistics.median(b / a for a, b in zip(taken["data"], taken["none"], strict=True))
    is_worse = data < none - WORSE
    says = any(SAID in row["reason"] and "one range" in row["reason"] for row in models["data"].decisions)
    verdict = ""
    if is_worse:
        verdict = "worse, faster" if gain >= FASTER and says else "FAILS" if says else "FAILS, unsaid"
    times = " | ".join(f"{min(taken[each]) * 1e3:.3f}" for each in models)
    return f"| {name} | {data:.1f} | {none:.1f} | {times} | {gain:.2f} | {verdict} |", "FAILS" not in verdict


def subjects(names: Sequence[str], batch: int) -> Iterator[tuple[str, Callable[[], Subject]]]:
    """Each network by its name."""
    for name in names:
        yield name, partial(minilm, batch) if name == "minilm" else partial(architecture, ARCHITECTURES[name], batch)


def main() -> None:
    """Print the table; exit with 1 if a network fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", default=",".join([*ARCHITECTURES, "minilm"]))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=8, help="samples of a timed call")
    parser.add_argument("--images", type=int, default=0, help="samples to calibrate with")
    options = parser.parse_args()
    print("| network | dB with data | without | ms with data | without | float32 | gain | |")
    print("|---|---:|---:|---:|---:|---:|---:|---|")
    failed = []
    for name, build in subjects(options.names.split(","), options.batch):
        made = build()
        if options.images:
            made = Subject(**{**vars(made), "calibration": few(made.calibration, options.images)})
        line, holds = compare(name, made, options.threads, options.rounds)
        failed += [] if holds else [name]
        print(line, flush=True)
    print(f"\n{len(failed)} fail{': ' if failed else ''}{', '.join(failed)}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
