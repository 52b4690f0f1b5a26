"""A digit classifier whose weights are -1, 0 and 1 times a step: `python examples/qat_digits.py [FILE] [EPOCHS]`.

Rounding a trained net to three values loses most of what it knows. Trained on while it is rounded, it learns to do
without, and what was trained is what runs: the file has the very codes.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import lowbit
from lowbit.compress import Qat, finalize, qat
from lowbit.data import load_digits

TRAINING, HELD_OUT = ((torch.from_numpy(part.images), torch.from_numpy(part.labels)) for part in load_digits())
CALIBRATION = TRAINING[0][:512].split(64)
EVERYWHERE = lowbit.Scheme(name="ternary everywhere", weight_bits=2, levels=3, keep_ends=False, keep_small=0)


def build(seed: int) -> nn.Sequential:
    """Three convolutions and two dense layers."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 24, 5, stride=2, padding=2), nn.BatchNorm2d(24), nn.ReLU(),
        nn.Conv2d(24, 48, 3, stride=2, padding=1), nn.BatchNorm2d(48), nn.ReLU(),
        nn.Conv2d(48, 96, 3, stride=2, padding=1), nn.BatchNorm2d(96), nn.ReLU(),
        nn.Flatten(), nn.Linear(96 * 4 * 4, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def train(net: nn.Module, epochs: int, rate: float, training: Qat | None = None) -> None:
    """Train in place, on digits shifted by up to two pixels."""
    images, labels = TRAINING
    optimizer = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=epochs * -(-len(images) // 64))
    net.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            shift = torch.randint(-2, 3, (2,)).tolist()
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[batch].roll(shift, (2, 3))), labels[batch]).backward()
            optimizer.step()
            schedule.step()
            if training is not None:
                training.step()
    net.eval()


def outputs(model: Any) -> Tensor:
    """Of the held-out digits."""
    with torch.inference_mode():
        found: Tensor = model(HELD_OUT[0])
    return found


def accuracy(found: Tensor) -> float:
    """The share of right answers."""
    return float((found.argmax(1) == HELD_OUT[1]).double().mean())


def main(path: str = "ternary_digits.lowbit", epochs: str = "4") -> None:
    """Train in float, then as long rounded, and beside it in float; convert, compare, save."""
    torch.set_num_threads(1)  # a small net: more would wait for each other
    net, count = build(0), int(epochs)
    train(net, count, 4e-3)
    control = copy.deepcopy(net)
    train(control, count, 2e-3)
    rounded = lowbit.convert(net, TRAINING[0][:1], calibration=CALIBRATION, scheme=EVERYWHERE)

    steps = count * -(-len(TRAINING[0]) // 64)
    training = qat(net, TRAINING[0][:1], scheme=EVERYWHERE, calibration=CALIBRATION, freeze=steps * 4 // 5)
    print(training)
    train(net, count, 2e-3, training)
    simulated = outputs(net)
    model = lowbit.convert(finalize(net), TRAINING[0][:1])
    model.save(path)
    found = outputs(model)
    print(f"accuracy: torch {accuracy(outputs(control)):.4f}, lowbit {accuracy(found):.4f}")
    print(f"rounded without training: {accuracy(outputs(rounded)):.4f}")
    print(f"the same answers as in training: {int((found.argmax(1) == simulated.argmax(1)).sum())} of {len(found)}")
    print(f"file: {Path(path).stat().st_size} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
