"""Converts a small convolutional network with calibration data, saves it: `python examples/convert_cnn.py [FILE]`."""

from __future__ import annotations

import sys

import torch
from torch import nn

import lowbit


class Residual(nn.Module):
    """conv - batch norm - relu - conv - batch norm, plus the input: becomes two fused integer convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(x + self.second_norm(self.second(y)))


def build() -> nn.Module:
    """A classifier of 32 x 32 colour images into 10 classes, with random weights."""
    torch.manual_seed(0)
    stem = [nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)]
    return nn.Sequential(*stem, Residual(32), Residual(32), *head).eval()


def main(path: str = "cnn.lowbit") -> None:
    """Convert, look at what it cost, save."""
    net = build()
    calibration = [torch.randn(16, 3, 32, 32) for _ in range(4)]  # in earnest: batches of your own data
    model = lowbit.convert(net, (calibration[0][:1],), calibration=calibration, scheme="int8")

    image = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        print("float32:", net(image).numpy().round(3))
    print("int8:   ", model(image).numpy().round(3))
    print(model.profile(image))  # where the time goes
    print(model.compare(image))  # where the error comes from
    model.save(path)
    print("saved", path)


if __name__ == "__main__":
    main(*sys.argv[1:])
