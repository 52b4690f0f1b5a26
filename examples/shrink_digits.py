"""A digit classifier with half the channels: `python examples/shrink_digits.py [FILE]`.

Channels that matter least leave a trained net, which is then trained on and converted. Beside it stand what makes the
comparison fair: the net trained just as long with all its channels, and a net that was as small from the beginning.
"""

from __future__ import annotations

import copy
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from prune_digits import HELD_OUT, TRAINING, accuracy, build, convert, train

from lowbit.compress import resize, shrink, widths
from lowbit.runtime.timing import interleave


def main(path: str = "small_digits.lowbit", epochs: str = "10", seed: str = "0") -> None:
    """Train, shrink, train on, convert, save; epochs: in all, half of them before channels leave."""
    torch.set_num_threads(1)  # a small net: more would wait for each other
    half = max(int(epochs) // 2, 1)
    net = build(int(seed))
    train(net, half, 4e-3)
    control, calibration = copy.deepcopy(net), TRAINING[0][:512].split(64)
    small = shrink(net, TRAINING[0][:1], 0.5, criterion="wanda", calibration=calibration)
    train(small, half, 2e-3)
    train(control, half, 2e-3)
    scratch = resize(build(int(seed)), widths(small))
    train(scratch, half, 4e-3)
    train(scratch, half, 2e-3)

    nets = {"control": control, "half the channels": small, "small from scratch": scratch}
    models = {name: convert(each) for name, each in nets.items()}
    for name, model in models.items():
        size = bytes_of(model, path)
        print(f"{name}: accuracy: torch {accuracy(nets[name]):.4f}, lowbit {accuracy(model):.4f}, {size} bytes")
    times = interleave({name: partial(model, HELD_OUT[0][:16]) for name, model in models.items()}, rounds=9)
    print(f"time: {times['half the channels'].lowest / times['control'].lowest:.2f} of the control's")

    torch.save({"widths": widths(small), "state": small.state_dict()}, Path(path).with_suffix(".pt"))
    saved = torch.load(Path(path).with_suffix(".pt"), weights_only=True)
    again = resize(build(0), saved["widths"]).eval()
    again.load_state_dict(saved["state"])
    print(f"rebuilt from its state dict: {torch.equal(again(HELD_OUT[0]), small(HELD_OUT[0]))}")
    bytes_of(models["half the channels"], path)


def bytes_of(model: Any, path: str) -> int:
    """The size of the model's file."""
    model.save(path)
    return Path(path).stat().st_size


if __name__ == "__main__":
    main(*sys.argv[1:])
