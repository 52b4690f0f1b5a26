"""What `lowbit.optimize` makes of a residual net with `train=`, beside a float control trained as long, over seeds.

    python bench/bench_optimize_train.py [--seeds 3] [--epochs 5] [--speedup 3] [--max-drop 0.004] [--out FOLDER]

The net has 64, 128 and 256 channels and reads digits of 32 x 32. For each seed it is trained in float; a thousand of
the training digits stay aside, by whose accuracy models are chosen. `optimize` is asked for a model so many times as
fast as plain int8, and trains for `epochs` in each of its rounds; the control is the float net, trained on for as many.
Both are scored on 2,000 held-out digits, and timed in interleaved rounds, one image, one thread. Fails unless every
seed is at least so much faster, and at most half a point below its control.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import lowbit
from lowbit.compress import finetune
from lowbit.data import load_digits
from lowbit.runtime.timing import interleave

RATE, FIRST_EPOCHS = 5e-4, 4
DROP = 0.5
"""Points below the control that are allowed."""


class Block(nn.Module):
    """Two convolutions of 3 x 3, the first of stride 2, beside one of 1 x 1."""

    def __init__(self, given: int, made: int) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(given, made, 3, 2, 1, bias=False), nn.BatchNorm2d(made)
        self.second, self.second_norm = nn.Conv2d(made, made, 3, 1, 1, bias=False), nn.BatchNorm2d(made)
        self.skip, self.skip_norm = nn.Conv2d(given, made, 1, 2, bias=False), nn.BatchNorm2d(made)

    def forward(self, x: Tensor) -> Tensor:
        """Half as high and wide."""
        inner = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(self.second_norm(self.second(inner)) + self.skip_norm(self.skip(x)))


def build(seed: int) -> nn.Sequential:
    """A stem, two blocks, and a linear layer."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 64, 3, 2, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(), Block(64, 128), Block(128, 256),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10),
    ).eval()  # fmt: skip


def accuracy(images: Tensor, labels: Tensor) -> Callable[[Any], float]:
    """The share of right answers of a model."""

    def score(model: Any) -> float:
        with torch.inference_mode():
            return float((model(images).argmax(1) == labels).double().mean())

    return score


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--speedup", type=float, default=3.0)
    parser.add_argument("--max-drop", type=float, default=0.004)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    (images, labels), held = ((torch.from_numpy(part.images), torch.from_numpy(part.labels)) for part in load_digits())
    training, aside = (images[:-1000], labels[:-1000]), (images[-1000:], labels[-1000:])
    test, one, calibration = accuracy(*held), images[:1], images[:256].split(64)
    print("| seed | float | plain int8 | control | optimized | drop, points | int8, us | optimized, us | speedup |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    misses = 0
    for seed in range(arguments.seeds):
        net = build(seed)
        finetune(net, training, epochs=FIRST_EPOCHS, lr=2e-3, warmup=0.1, seed=seed, progress=False)
        control = copy.deepcopy(net)
        finetune(control, training, epochs=arguments.epochs, lr=RATE, clip=1.0, warmup=0.05, seed=seed, progress=False)
        result = lowbit.optimize(
            net,
            one,
            data=calibration,
            evaluate=accuracy(*aside),
            max_drop=arguments.max_drop,
            speedup=arguments.speedup * 1.03,
            train=training,
            finetune={"epochs": arguments.epochs, "lr": RATE, "seed": seed},
            threads=1,
            out=None if arguments.out is None else arguments.out / str(seed),
        )
        plain = lowbit.convert(net, one, calibration=calibration, threads=1)
        calls = {"int8": lambda: plain(one), "optimized": lambda: result.model(one)}  # noqa: B023  timed at once
        times = {name: time.lowest * 1e6 for name, time in interleave(calls).items()}
        speedup, drop = times["int8"] / times["optimized"], 100 * (test(control) - test(result.model))
        print(
            f"| {seed} | {100 * test(net):.2f} | {100 * test(plain):.2f} | {100 * test(control):.2f} | "
            f"{100 * test(result.model):.2f} | {drop:.2f} | {times['int8']:.1f} | {times['optimized']:.1f} | "
            f"{speedup:.2f} |",
            flush=True,
        )
        print(f"\n{result}\n", file=sys.stderr)
        misses += drop > DROP or speedup < arguments.speedup
    return int(misses > 0)


if __name__ == "__main__":
    sys.exit(main())
