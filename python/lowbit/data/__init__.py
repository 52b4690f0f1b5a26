"""Ten thousand real handwritten digits, for the demo, the tests and the benchmarks (see README.md beside this file)."""

from __future__ import annotations

from importlib import resources
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

TRAINING = 8_000
"""The first 8,000 digits are for training and calibration, the last 2,000 for evaluation only."""


class Digits(NamedTuple):
    """Images float32 [n, 1, 28, 28] in 0..1 and labels int64 [n]."""

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


def load_digits() -> tuple[Digits, Digits]:
    """The (training, held-out) digits: 8,000 and 2,000 of MNIST, in a fixed order."""
    with resources.files(__package__).joinpath("digits.npz").open("rb") as file, np.load(file) as arrays:
        images = arrays["images"][:, None].astype(np.float32) / np.float32(255)
        labels = arrays["labels"].astype(np.int64)
    return Digits(images[:TRAINING], labels[:TRAINING]), Digits(images[TRAINING:], labels[TRAINING:])
