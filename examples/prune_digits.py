"""A digit classifier with nine weights of ten zero: `python examples/prune_digits.py [FILE]`.

Blocks of 4 x 4 weights that matter least are set to zero in rounds while the net is trained on, at a lower rate, so
that the others make up for them; then it is converted to int8. The file does not hold the zeros.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

import lowbit
from lowbit.compress import Iterative, Pruning, prune
from lowbit.data import load_digits

SPARSITY, ROUNDS, EVERY = 0.9, 8, 32
"""The share of zeros, and in how many rounds they come, so many batches apart: over two epochs."""
TRAINING, HELD_OUT = ((torch.from_numpy(part.images), torch.from_numpy(part.labels)) for part in load_digits())


def build(seed: int) -> nn.Sequential:
    """Three convolutions and two dense layers. The first and the last are no whole 4 x 4 blocks and stay dense."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 24, 5, stride=2, padding=2), nn.BatchNorm2d(24), nn.ReLU(),
        nn.Conv2d(24, 48, 3, stride=2, padding=1), nn.BatchNorm2d(48), nn.ReLU(),
        nn.Conv2d(48, 96, 3, stride=2, padding=1), nn.BatchNorm2d(96), nn.ReLU(),
        nn.Flatten(), nn.Linear(96 * 4 * 4, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def train(net: nn.Module, epochs: int, rate: float, pruning: Pruning | None = None) -> None:
    """Train in place, on digits shifted by up to two pixels; prune every `EVERY` batches until that is done."""
    images, labels = TRAINING
    optimizer = torch.optim.Adam(net.parameters(), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=epochs * (len(images) // 64))
    net.train()
    for _ in range(epochs):
        for index, batch in enumerate(torch.randperm(len(images)).split(64)):
            if pruning is not None and index % EVERY == 0 and not pruning.done:
                pruning.step()
            shift = torch.randint(-2, 3, (2,)).tolist()
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[batch].roll(shift, (2, 3))), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    net.eval()


def accuracy(model: Any) -> float:
    """The share of held-out digits that a torch module or a lowbit model reads right."""
    images, labels = HELD_OUT
    with torch.inference_mode():
        return float((model(images).argmax(1) == labels).double().mean())


def convert(net: nn.Module) -> Any:
    """The net in int8, calibrated with training digits."""
    return lowbit.convert(net, TRAINING[0][:1], calibration=TRAINING[0][:512].split(64))


def main(path: str = "sparse_digits.lowbit", epochs: str = "8") -> None:
    """Train, prune, convert, save; epochs: in all, three eighths of them before pruning begins."""
    torch.set_num_threads(1)  # a small net: more would wait for each other
    net = build(0)
    before = int(epochs) * 3 // 8
    train(net, before, 4e-3)
    dense = accuracy(net)
    dense_bytes = saved(convert(net), path)

    pruning = prune(net, SPARSITY, pattern="4x4", scope="global", schedule=Iterative(rounds=ROUNDS))
    train(net, int(epochs) - before, 7e-4, pruning)
    print(pruning)
    model = convert(pruning.finalize())
    print(f"accuracy: torch {dense:.4f}, lowbit {accuracy(model):.4f}")
    print(f"file: {saved(model, path)} bytes, of the dense net in int8 {dense_bytes}")


def saved(model: Any, path: str) -> int:
    """Bytes of the model's file."""
    model.save(path)
    return Path(path).stat().st_size


if __name__ == "__main__":
    main(*sys.argv[1:])
