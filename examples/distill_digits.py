"""A small digit classifier that learns from a large one, few labels: `python examples/distill_digits.py [FILE]`.

Of 8,000 digits, 500 have labels. The small net learns from these alone, as long as then from all of them with what the
large net thinks of each. It is converted to int8; its file and report tell how it was trained.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

import lowbit
from lowbit.compress import distill, finalize, finetune
from lowbit.data import load_digits

LABELLED, RATE = 500, 4e-3
TRAINING, HELD_OUT = ((torch.from_numpy(part.images), torch.from_numpy(part.labels).long()) for part in load_digits())


def large() -> nn.Sequential:
    """90,000 weights."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Flatten(), nn.Linear(64 * 4 * 4, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def small() -> nn.Sequential:
    """4,000 weights."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=4, padding=2), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * 4 * 4, 10),
    )  # fmt: skip


def accuracy(model: Any) -> float:
    """The share of held-out digits that a torch module or a lowbit model reads right."""
    images, labels = HELD_OUT
    with torch.inference_mode():
        return float((model(images).argmax(1) == labels).double().mean())


def main(path: str = "taught_digits.lowbit", epochs: str = "6") -> None:
    """Train the three, convert, save; epochs: of the small net over all digits."""
    torch.set_num_threads(1)  # small nets: more would wait for each other
    torch.manual_seed(0)
    images, labels = TRAINING
    some = torch.where(torch.arange(len(labels)) < LABELLED, labels, -100)  # -100 is no label

    teacher = large()
    finetune(teacher, (images, labels), lr=RATE, epochs=max(int(epochs) // 2, 1))
    print(f"the large net, all labels: {accuracy(teacher):.4f}")

    alone = small()
    finetune(alone, (images[:LABELLED], labels[:LABELLED]), lr=RATE, epochs=int(epochs) * len(labels) // LABELLED)
    print(f"the small net alone, {LABELLED} labels: {accuracy(alone):.4f}")

    taught = small()
    finetune(taught, (images, some), parts=distill(taught, teacher, temperature=4), lr=RATE, epochs=int(epochs))
    print(f"the small net taught, {LABELLED} labels: {accuracy(taught):.4f}")

    model = lowbit.convert(finalize(taught), images[:1], calibration=images[:512].split(64))
    model.save(path)
    model.report(Path(path).with_suffix(".html"), images[:1])
    print(f"accuracy: torch {accuracy(taught):.4f}, lowbit {accuracy(model):.4f}")
    print(f"lowbit inspect {path} tells of {', '.join(each.kind for each in model.meta.training)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
