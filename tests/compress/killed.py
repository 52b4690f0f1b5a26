"""A training run that is killed again and again: `python tests/compress/killed.py [KILLS]`.

Each run trains a small net with masks, rounding, a teacher with a learned projection, dropout, and noise from the
random numbers of three libraries. It is killed after random times until it ends by itself; its weights must be those of
a run that nobody killed. Prints `same N of N runs, K kills`.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lowbit.compress import Cubic, distill, finetune, prune, qat

EPOCHS = 10


class Noisy(torch.utils.data.Dataset[Any]):
    """Samples that differ each time, by the random numbers of torch, NumPy and Python."""

    def __init__(self) -> None:
        self.x = torch.randn(96, 1, 8, 8, generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        noise = random.random() + np.random.rand() + torch.rand(())
        return self.x[index] + 0.1 * noise, int(self.x[index].sum() > 0)


def net(width: int) -> nn.Sequential:
    """A convolution, batch norm and dropout."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(),
        nn.Linear(16 * width, 2),
    )  # fmt: skip


def train(folder: Path, *, seed: int = 0, epochs: int = EPOCHS) -> None:
    """The run; its weights go to folder/weights.pt."""
    torch.set_num_threads(1)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    student = net(8)
    torch.manual_seed(7)  # a teacher is trained before
    teacher = net(12)
    torch.manual_seed(seed)
    pruning = prune(student, 0.5, pattern="1x4", criterion="random", schedule=Cubic(steps=30))
    rounding = qat(student.eval(), Noisy().x[:2], scheme="int4", observe=10)
    teaching = distill(student, teacher, match={"2": "2"})
    held = Noisy().x
    finetune(
        student, Noisy(), parts=[pruning, rounding, teaching], epochs=epochs, batch_size=16, warmup=0.1, clip=1.0,
        l1=1e-4, weight_decay=0.01, evaluate=lambda model: -float(model(held).square().mean()), checkpoint=folder,
    )  # fmt: skip
    torch.save({"net": student.state_dict(), "pruning": pruning.state_dict()}, folder / "weights.pt")


def forked(job: Callable[[], None], seconds: float) -> bool:
    """Whether the job ended by itself; after so many seconds it is killed."""
    child = os.fork()
    if not child:
        try:
            job()
            os._exit(0)
        finally:
            os._exit(1)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if status:
                raise SystemExit(f"a run failed: {status}")
            return True
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def equal(a: Any, b: Any) -> bool:
    """Of nested dicts of tensors: bit for bit."""
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def main(kills: str = "20") -> None:
    """Kill that often at least, over as many runs as that takes."""
    moments = random.Random(os.getpid())
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        train(root / "first", epochs=1)  # imports what each child needs
        start = time.monotonic()
        assert forked(lambda: train(root / "whole"), 600)
        whole, took = torch.load(root / "whole" / "weights.pt"), time.monotonic() - start
        killed = runs = same = 0
        while killed < int(kills):
            folder = root / str(runs)
            # other seeds, for the beginning of a run that was killed decides, not that of its successors
            attempt = 0
            # forked() is over with the lambda before `attempt` changes.
            while not forked(lambda: train(folder, seed=attempt), moments.uniform(0.05, 1) * took):  # noqa: B023
                killed += 1
                attempt += (folder / "last.pt").exists()
            same += equal(torch.load(folder / "weights.pt"), whole)
            runs += 1
    print(f"same {same} of {runs} runs, {killed} kills; unbroken, a run takes {took:.1f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
