"""What a teacher is worth to a small network of digits when few have labels, beside a control that is trained as long.

    python bench/bench_distill.py [--seeds 3] [--epochs 8] [--output FILE]

The networks of examples/distill_digits.py. The large one learns from all 8,000 labels. The small one learns from 500
labels alone (the control), from these and the others' images with the large one's soft targets, with attention transfer
beside them (`at`) or alone (`at only`), and with matched features (`features`); then with all labels, alone and taught.
All see as many batches of 64. Right answers are counted on 2,000 digits that no network was trained on. Fails unless
the taught one is 5 points above the control.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lowbit.compress import distill, finetune

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import distill_digits as digits

LAYERS = {"2": "5", "5": "8"}
"""Of the small and the large one: what stands before the last but one and before the last reduction of the image."""
FEW: Mapping[str, Mapping[str, Any] | None] = {
    "alone": None,
    "taught": {},
    "taught, at": {"attention": LAYERS},
    "at only": {"attention": LAYERS, "weight": 0},
    "taught, features": {"match": LAYERS},
}
LEAST = 5.0


def trained(seed: int, teacher: nn.Module, asked: Mapping[str, Any] | None, epochs: int, *, few: bool) -> float:
    """The small one's share of right answers, in percent."""
    images, labels = digits.TRAINING
    torch.manual_seed(seed)
    net = digits.small()
    count = digits.LABELLED if few else len(labels)
    if asked is None:
        data, passes = (images[:count], labels[:count]), epochs * len(labels) // count
    else:
        data, passes = (images, torch.where(torch.arange(len(labels)) < count, labels, -100)), epochs
    parts = [] if asked is None else [distill(net, teacher, **asked)]
    finetune(net, data, parts=parts, lr=digits.RATE, epochs=passes, seed=seed, progress=False)
    for part in parts:
        part.finalize()
    return 100 * digits.accuracy(net)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    teacher = digits.large()
    finetune(teacher, digits.TRAINING, lr=digits.RATE, epochs=options.epochs, progress=False)
    print(f"the teacher, all 8,000 labels: {100 * digits.accuracy(teacher):.2f} %\n", flush=True)
    print("| labels | the small network | right, % | each seed | above the control |\n|---|---|---:|---|---:|")
    rows: dict[str, list[float]] = {}
    for few, kinds in ((True, FEW), (False, {"alone": None, "taught": {}})):
        labels = f"{digits.LABELLED}" if few else "all"
        for kind, asked in kinds.items():
            found = [trained(seed, teacher, asked, options.epochs, few=few) for seed in range(options.seeds)]
            rows[f"{labels} {kind}"] = found
            mean, gain = statistics.mean(found), statistics.mean(found) - statistics.mean(rows[f"{labels} alone"])
            each = ", ".join(f"{score:.2f}" for score in found)
            print(f"| {labels} | {kind} | {mean:.2f} | {each} | {gain:+.2f} |", flush=True)
    if options.output is not None:
        options.output.write_text(json.dumps(rows, indent=1) + "\n")
    gain = statistics.mean(rows[f"{digits.LABELLED} taught"]) - statistics.mean(rows[f"{digits.LABELLED} alone"])
    if gain < LEAST:
        raise SystemExit(f"the taught one is {gain:.2f} points above the control, must be {LEAST:g}")


if __name__ == "__main__":
    main()
