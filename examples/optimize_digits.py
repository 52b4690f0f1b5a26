"""A digit classifier that takes 8 ms where there are 3: `python examples/optimize_digits.py [FOLDER] [EPOCHS]`.

Each layer gets the form that costs least of what is right: codes of eight bits or four, blocks of zeros; where that
does not do, the net is trained for it. docs/optimize.md tells the story.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

import lowbit
from lowbit.compress import finetune
from lowbit.data import load_digits

(images, labels), (held_images, held_labels) = (
    (torch.from_numpy(part.images), torch.from_numpy(part.labels)) for part in load_digits()
)
training, aside = (images[:7000], labels[:7000]), (images[7000:], labels[7000:])
calibration = images[:256].split(64)


def build() -> nn.Sequential:
    """Three convolutions and a linear layer."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, 4, 2), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 64, 3, 1, 1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Conv2d(64, 64, 3, 1, 1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip


def accuracy(model: Any) -> float:
    """The share of digits that were put aside which a model reads right."""
    with torch.inference_mode():
        return float((model(aside[0]).argmax(1) == aside[1]).double().mean())


def main(folder: str = "optimized_digits", epochs: str = "6", max_drop: str = "0.01", target: str = "") -> None:
    """Train, optimize, report. target: the instruction set that times are estimated for, instead of measured."""
    torch.set_num_threads(1)  # a small net: more would wait for each other
    net = build()
    finetune(net, training, epochs=int(epochs), lr=3e-3, batch_size=128)

    result = lowbit.optimize(
        net,
        images[:16],
        data=calibration,
        evaluate=accuracy,
        max_drop=float(max_drop),
        speedup=8 / 3,
        train=training,
        finetune={"epochs": int(epochs), "lr": 2e-3, "batch_size": 128},
        target=target or None,
        threads=1,
        out=folder,
    )
    print(result)

    for layer, candidate in result.plan.items():
        print(layer, candidate.name)

    result.report(Path(folder, "report.html"))

    model = lowbit.load(Path(folder, "model.lowbit"))
    right = (model(held_images.numpy()).argmax(1) == held_labels.numpy()).mean()
    print(f"of digits that nothing was chosen by, right: {right:.4f}; float32 {right_of(net):.4f}")


def right_of(net: nn.Module) -> float:
    """The same share of the float net's."""
    with torch.inference_mode():
        return float((net(held_images).argmax(1) == held_labels).double().mean())


if __name__ == "__main__":
    main(*sys.argv[1:])
