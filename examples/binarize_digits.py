"""A digit classifier of signs, one bit a weight and activation: `python examples/binarize_digits.py [FILE] [EPOCHS]`.

It is trained with straight-through gradients (XNOR-Net, https://arxiv.org/abs/1603.05279), whose layers lowbit finds by
itself: they count bits, exactly. The first and the last layer see real numbers, and become int8.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import lowbit
from lowbit.data import load_digits

TRAINING, HELD_OUT = ((torch.from_numpy(part.images), torch.from_numpy(part.labels)) for part in load_digits())


class Sign(torch.autograd.Function):
    """-1 and 1. Its gradient is that of hardtanh."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.where(x >= 0, 1.0, -1.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.where(x.abs() <= 1, grads[0], 0.0)


signs: Callable[[Tensor], Tensor] = Sign.apply


class SignConv2d(nn.Conv2d):
    """Signs of the input times signs of the weights, times the mean size of each output channel's weights."""

    def forward(self, x: Tensor) -> Tensor:
        size = self.weight.abs().mean((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(signs(x), signs(self.weight) * size, self.bias, self.stride, self.padding)


def build(seed: int, kind: type[nn.Conv2d] = SignConv2d) -> nn.Sequential:
    """A convolution of images, three of `kind`, each behind a normalization that lets half of the signs be positive,
    and a head."""
    torch.manual_seed(seed)
    bend = nn.Identity if kind is SignConv2d else nn.ReLU
    return nn.Sequential(
        nn.Conv2d(1, 64, 5, stride=2, padding=2), nn.BatchNorm2d(64), bend(),
        kind(64, 128, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(128), bend(),
        kind(128, 128, 3, padding=1, bias=False), nn.BatchNorm2d(128), bend(),
        kind(128, 128, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(128), nn.ReLU(),
        nn.Flatten(), nn.Linear(128 * 4 * 4, 10),
    )  # fmt: skip


def train(net: nn.Module, epochs: int) -> None:
    """Train in place, on digits shifted by up to two pixels."""
    images, labels = TRAINING
    optimizer = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=epochs * -(-len(images) // 64))
    net.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
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


def seconds(model: Any, images: Tensor) -> float:
    """What the three convolutions take, with packing."""
    rows = model.profile(images).rows
    layers = [row for row in rows if row.op.endswith("conv2d")][-3:]
    return float(sum(row.seconds for row in rows if row in layers or row.op == "pack_signs"))


def main(path: str = "binarized_digits.lowbit", epochs: str = "3") -> None:
    """Train, convert, compare."""
    torch.set_num_threads(1)  # a small net: more would wait for each other
    net = build(seed=1)
    train(net, int(epochs))
    sample = TRAINING[0][:64]
    calibration = TRAINING[0][:512].split(64)
    model = lowbit.convert(net, sample, calibration=calibration, threads=1)
    model.save(path)
    eight = lowbit.convert(build(1, nn.Conv2d).eval(), sample, calibration=calibration, threads=1)
    print(f"accuracy: torch {accuracy(net):.4f}, lowbit {accuracy(model):.4f}")
    print(f"layers of signs: {sum(row['scheme'] == 'signs' for row in model.decisions)}")
    print(f"file: {Path(path).stat().st_size} bytes")
    own, other = seconds(model, sample), seconds(eight, sample)
    print(f"their time: {own * 1e6:.0f} us for {len(sample)} images, of the same layers in int8 {other * 1e6:.0f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
