"""A digit classifier that may lose half a point, and a report: `python examples/image_classifier.py [REPORT]`.

`evaluate` is any function from a model to a score. Where int8 loses more than `max_drop`, the layers that cost most go
back to float32 until the budget holds; the report shows which, and what each costs in time.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn

import lowbit
from lowbit.data import load_digits


def train(images: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    """A small convolutional net, one epoch."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.Hardswish(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.Hardswish(),
        nn.Flatten(), nn.Linear(32 * 7 * 7, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for batch in torch.randperm(len(images)).split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images[batch]), labels[batch]).backward()
        optimizer.step()
    return net.eval()


def main(report: str = "digits.html") -> None:
    """Train, convert within the budget, write the report."""
    training, held_out = load_digits()
    images, labels = torch.from_numpy(training.images), torch.from_numpy(training.labels)
    test_images, test_labels = torch.from_numpy(held_out.images), torch.from_numpy(held_out.labels)
    net = train(images, labels)

    def accuracy(model: Any) -> float:
        with torch.inference_mode():
            return float((model(test_images).argmax(1) == test_labels).float().mean())

    calibration = images[:512].split(64)
    model = lowbit.convert(net, images[:1], calibration=calibration, evaluate=accuracy, max_drop=0.005)
    print(f"accuracy: torch {accuracy(net):.4f}, lowbit {accuracy(model):.4f}")
    model.report(report)
    print("report written to", report)


if __name__ == "__main__":
    main(*sys.argv[1:])
