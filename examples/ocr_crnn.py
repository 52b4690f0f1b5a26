"""Reads numbers in images: convolutions, a BiLSTM and CTC, on strings of real digits: `python examples/ocr_crnn.py`.

The width of the image is free (`dynamic`), so one file reads short and long numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import lowbit
from lowbit.data import Digits, load_digits

BLANK = 10


class Reader(nn.Module):
    """Images [N, 1, 28, W] -> log-probabilities of 10 digits and the blank, [W / 4, N, 11]."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 48, (7, 3), padding=(0, 1)), nn.BatchNorm2d(48), nn.ReLU(),
        )  # fmt: skip
        self.lstm, self.head = nn.LSTM(48, 32, bidirectional=True), nn.Linear(64, 11)

    def forward(self, x: Tensor) -> Tensor:
        columns = self.features(x).squeeze(2).permute(2, 0, 1)
        return nn.functional.log_softmax(self.head(self.lstm(columns)[0]), dim=2)


def numbers(digits: Digits, count: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images of `length` digits side by side, and the digits."""
    chosen = np.random.default_rng(seed).integers(0, len(digits.labels), (count, length))
    images = digits.images[chosen][:, :, 0].transpose(0, 2, 1, 3).reshape(count, 1, 28, 28 * length)
    return torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(digits.labels[chosen])


def read(log_probabilities: Tensor) -> list[list[int]]:
    """The best path: repetitions and blanks dropped."""
    texts = []
    for path in log_probabilities.argmax(2).T.tolist():
        letters = [now for before, now in zip([BLANK, *path], path, strict=False) if now not in (before, BLANK)]
        texts.append(letters)
    return texts


def train(digits: Digits, steps: int = 200) -> nn.Module:
    """CTC on numbers of three digits."""
    torch.manual_seed(0)
    net = Reader()
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for step in range(steps):
        images, labels = numbers(digits, 16, 3, seed=step)
        scores = net(images)
        widths = torch.full((len(images),), len(scores))
        loss = nn.functional.ctc_loss(scores, labels, widths, torch.full((len(images),), 3), blank=BLANK)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    return net.eval()


def main() -> None:
    """Train on numbers of three digits, read numbers of five."""
    training, held_out = load_digits()
    net = train(training)
    calibration = [(numbers(training, 16, length, seed=1000 + length)[0],) for length in (2, 3, 4)]
    batch, width = torch.export.Dim("batch"), torch.export.Dim("width", min=28, max=28 * 64)
    model = lowbit.convert(net, calibration[0], calibration=calibration, dynamic={"x": {0: batch, 3: width}})

    def exact(model: Any, length: int) -> float:
        images, labels = numbers(held_out, 200, length, seed=7)
        with torch.inference_mode():
            return float(np.mean([a == b for a, b in zip(read(model(images)), labels.tolist(), strict=True)]))

    for length in (1, 3, 5):
        scores = f"torch {exact(net, length):.3f}, lowbit {exact(model, length):.3f}"
        print(f"{length} digits read without a mistake: {scores}")


if __name__ == "__main__":
    main()
