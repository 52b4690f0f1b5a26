"""Prune, share values, code by entropy, as "Deep Compression" does: `python examples/deep_compression.py [DIRECTORY]`.

Han et al. 2016 (arXiv:1510.00149) in lowbit's terms: weights that matter least become zero while a digit net is trained
on; what is left shares sixteen values a layer (`scheme="kmeans"`); and the file leaves out what frequencies tell
(`compress=True`). Printed are the sizes of the files, step by step, and the accuracy; then the same sizes for layers as
large as ResNet-50's, with random weights of which as many are zero as the paper prunes of such nets.
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

TRAINING, HELD_OUT = ((torch.from_numpy(part.images), torch.from_numpy(part.labels)) for part in load_digits())
SHARED = lowbit.Scheme(name="16 values", weight_bits=4, values="kmeans", keep_ends=False)
"""As "kmeans", for first and last layers, too."""


def digit_net() -> nn.Sequential:
    """Three convolutions and two dense layers."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 24, 5, stride=2, padding=2), nn.ReLU(),
        nn.Conv2d(24, 48, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(48, 96, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(96 * 4 * 4, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


def large_layers() -> nn.Sequential:
    """A block of ResNet-50's fourth stage, and a layer of its last."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1024, 256, 1), nn.ReLU(), nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 1024, 1), nn.ReLU(), nn.Conv2d(1024, 512, 1),
    )  # fmt: skip


def train(net: nn.Module, epochs: int, rate: float, pruning: Pruning | None = None) -> None:
    """Train in place; with `pruning`, prune a step every 16 batches."""
    images, labels = TRAINING
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    net.train()
    for _ in range(epochs):
        for index, batch in enumerate(torch.randperm(len(images)).split(64)):
            if pruning is not None and index % 16 == 0 and not pruning.done:
                pruning.step()
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[batch]), labels[batch]).backward()
            optimizer.step()
    net.eval()


def accuracy(model: Any) -> float:
    """The share of held-out digits that a model reads right."""
    images, labels = HELD_OUT
    with torch.inference_mode():
        return float((model(images).argmax(1) == labels).double().mean())


def files(model: Any, directory: Path) -> tuple[int, int]:
    """Bytes of the model's file, as it is and entropy coded."""
    sizes = []
    for compress in (False, True):
        model.save(directory / "net.lowbit", compress=compress)
        sizes.append((directory / "net.lowbit").stat().st_size)
    return sizes[0], sizes[1]


def show(title: str, name: str, size: int, first: int, note: str = "") -> None:
    """A line of the chain."""
    print(f"{title}, {name:<33} {size:>9,} bytes, 1/{first / size:.1f}{note}")


def digits(directory: Path, epochs: int) -> None:
    """Train, prune and convert the digit net."""
    net, data = digit_net(), list(TRAINING[0][:256].split(64))
    train(net, epochs, 2e-3)
    model = lowbit.convert(net, calibration=data, scheme="float32")
    first, _ = files(model, directory)
    show("digits", "float32", first, first, f", accuracy {accuracy(model):.4f}")
    pruning = prune(net, 0.9, pattern="unstructured", scope="global", schedule=Iterative(rounds=8))
    train(net, epochs, 1e-3, pruning)
    sparse = pruning.finalize()
    for scheme in ("int8", SHARED):
        model = lowbit.convert(sparse, calibration=data, scheme=scheme)
        name, (plain, coded) = getattr(scheme, "name", scheme), files(model, directory)
        show("digits", f"pruned, {name}", plain, first, f", accuracy {accuracy(model):.4f}")
        show("digits", f"pruned, {name}, entropy coded", coded, first)


def layers(directory: Path) -> None:
    """Prune and convert large layers, without training and data."""
    net, image = large_layers().eval(), torch.randn(1, 1024, 7, 7)
    first, _ = files(lowbit.convert(net, image, scheme="float32"), directory)
    show("layers", "float32", first, first)
    sparse = prune(net, 0.7, pattern="unstructured").finalize().eval()
    for scheme in ("int8", SHARED):
        model = lowbit.convert(sparse, image, scheme=scheme)
        name, (plain, coded) = getattr(scheme, "name", scheme), files(model, directory)
        show("layers", f"pruned, {name}", plain, first)
        show("layers", f"pruned, {name}, entropy coded", coded, first)


def main(directory: str = ".", epochs: str = "4") -> None:
    """Both chains; files are left in the directory."""
    torch.set_num_threads(1)  # a small net: more would wait for each other
    digits(Path(directory), int(epochs))
    layers(Path(directory))


if __name__ == "__main__":
    main(*sys.argv[1:])
