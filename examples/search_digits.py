"""Digit classifiers that are found: the front of accuracy against time: `python examples/search_digits.py [DIRECTORY]`.

Channels, kernels, bits and the learning rate are drawn; each net is converted and timed before it is trained. Start it
again with the same directory and more trials, and it goes on.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lowbit import compress
from lowbit.data import load_digits

TRAINING, HELD_OUT = ((torch.from_numpy(part.images), torch.from_numpy(part.labels)) for part in load_digits())
SPACE = {
    "widths": [compress.choice(8, 16, 24), compress.choice(16, 32, 48)],
    "kernels": [compress.choice(3, 5)] * 2,
    "scheme": compress.choice("int8", "int4-g32"),
    "lr": compress.between(1e-3, 2e-2, log=True),
}
"""Of two convolutions, and the rest that decides how good a net becomes."""


def build(config: Any) -> nn.Sequential:
    """Two convolutions, each with half as many pixels, and a dense layer."""
    layers: list[nn.Module] = []
    inputs = 1
    for width, kernel in zip(config["widths"], config["kernels"], strict=True):
        layers += [nn.Conv2d(inputs, width, kernel, 2, kernel // 2), nn.BatchNorm2d(width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(49 * inputs, 10))


def accuracy(model: Any) -> float:
    """The share of held-out digits that are read right."""
    images, labels = HELD_OUT
    with torch.inference_mode():
        return float((model(images).argmax(1) == labels).double().mean())


def main(directory: str = "digits_search", trials: str = "40", samples: str = "2000") -> None:
    """Search, print and draw the front, and compare the best net that is as fast as the median with float32."""
    torch.set_num_threads(1)
    images, labels = (part[: int(samples)] for part in TRAINING)

    def train(net: nn.Module, config: Any) -> None:
        compress.finetune(net, (images, labels), optimizer="adam", lr=config["lr"], epochs=2, progress=False)

    latency = compress.Latency(
        images[:1], limit_ms=1.0, scheme=lambda config: config["scheme"], calibration=images[:256].split(64)
    )
    found = compress.search(
        build,
        SPACE,
        train=train,
        evaluate=accuracy,
        latency=latency,
        method="tpe",
        trials=int(trials),
        storage=directory,
    )
    print(found)
    found.plot(Path(directory) / "front.svg")
    middle = found.front[len(found.front) // 2]
    best = found.best(latency_ms=middle.latency_ms)
    print(f"accuracy: torch {accuracy(found.net(best)):.4f}, lowbit {best.score:.4f}; the file is in {best.folder}")


if __name__ == "__main__":
    main(*sys.argv[1:])
