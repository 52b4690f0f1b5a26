"""Runs a saved model with NumPy alone: `python examples/run_without_torch.py FILE`. torch need not be installed."""

from __future__ import annotations

import sys

import numpy as np

import lowbit


def main(path: str) -> None:
    """Load, run batches of several sizes, show that a sample's answer does not depend on its neighbours."""
    model = lowbit.load(path)
    images = np.random.default_rng(0).standard_normal((5, 3, 32, 32), dtype=np.float32)
    together = model(images)
    alone = np.concatenate([model(image[None]) for image in images])
    print("classes:", together.argmax(1))
    print("the same bits in a batch and alone:", np.array_equal(together, alone))
    print("torch imported:", "torch" in sys.modules)


if __name__ == "__main__":
    main(*sys.argv[1:])
