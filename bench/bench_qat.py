"""What training with rounded numbers costs a network of digits, beside a float control that is trained as long.

    python bench/bench_qat.py [--seeds 5] [--epochs 6] [--tune 4] [--joint 12] [--net demo] [--rows int8,int4,...]

The network of examples/prune_digits.py (`--net demo`: the demo's) is trained in float for `epochs`; copies of it go on
for `tune` epochs, in float (the control) or rounded, and are converted. Right answers are counted on 2,000 digits that
no network was trained on, by the converted models. "joint" has nine zeros of ten in 4x4 blocks, int8, and the control
as its teacher, and takes `--joint` epochs, as does a control of its own; "xnor" multiplies signs by signs, in the
network of examples/binarize_digits.py, whose control has none.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import lowbit
from lowbit import compress
from lowbit.cli.demo import build_net
from lowbit.data import load_digits

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import binarize_digits
import prune_digits

TRAINING, HELD_OUT = load_digits()
IMAGES, LABELS = torch.from_numpy(TRAINING.images), torch.from_numpy(TRAINING.labels)
DATA = list(IMAGES[:512].split(64))
ALL: dict[str, Any] = {"keep_ends": False, "keep_small": 0.0}
TERNARY = lowbit.Scheme(name="all ternary", weight_bits=2, levels=3, **ALL)
SCHEMES: dict[str, str | lowbit.Scheme] = {
    "int8": "int8", "int4": "int4", "ternary": "ternary", "all ternary": TERNARY, "binary": "binary", "pow2": "pow2",
}  # fmt: skip
ALLOWED = {
    "int8": 0.1, "int4": 0.15, "ternary": 0.3, "all ternary": 0.5, "binary": 0.5, "pow2": 0.15, "joint": 0.6,
}  # fmt: skip
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def train(net: nn.Module, epochs: int, rate: float, parts: tuple[Any, ...] = (), loss: Loss | None = None) -> float:
    """Train in place, on digits shifted by up to two pixels, the same for all; the median seconds of a step."""
    steps = epochs * (len(IMAGES) // 64)
    optimizer = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps)
    torch.manual_seed(1)
    net.train()
    taken = []
    for _ in range(epochs):
        order = torch.randperm(len(IMAGES))
        for i in range(0, len(IMAGES) - 63, 64):
            start = time.perf_counter()
            rows, shift = order[i : i + 64], torch.randint(-2, 3, (2,)).tolist()
            x = IMAGES[rows].roll(shift, (2, 3))
            optimizer.zero_grad()
            task = nn.functional.cross_entropy(net(x), LABELS[rows])
            (task if loss is None else loss(task, x)).backward()
            optimizer.step()
            for part in parts:
                part.step()
            schedule.step()
            taken.append(time.perf_counter() - start)
    net.eval()
    return statistics.median(taken)


def outputs(model: Any) -> np.ndarray[Any, Any]:
    """Of the held-out digits, [2000, 10]."""
    with torch.inference_mode():
        return np.concatenate([np.asarray(model(x)) for x in torch.from_numpy(HELD_OUT.images).split(250)])


def right(found: np.ndarray[Any, Any]) -> float:
    """The share of right answers, %."""
    return float((found.argmax(1) == HELD_OUT.labels).mean() * 100)


def rounded(net: nn.Module, scheme: Any, epochs: int, teacher: nn.Module | None = None) -> dict[str, Any]:
    """Train a copy with rounded numbers, and say what became of it."""
    net, steps = copy.deepcopy(net), epochs * (len(IMAGES) // 64)
    parts: list[Any] = []
    loss: Loss | None = None
    if teacher is not None:
        parts.append(compress.prune(net, 0.9, scope="global", schedule=compress.Cubic(steps=steps // 2, every=10)))
        taught = compress.distill(net, teacher, weight=0.7)
        parts.append(taught)
        loss = taught.loss
    parts.append(compress.qat(net, IMAGES[:1], scheme=scheme, calibration=DATA, freeze=steps * 4 // 5))
    seconds = train(net, epochs, 2e-3 if teacher is None else 3e-3, tuple(parts), loss)
    simulated = outputs(net)
    model = lowbit.convert(compress.finalize(net), IMAGES[:1], progress=False)
    found = outputs(model)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "net.lowbit"
        model.save(path, compress=True)
        size = path.stat().st_size
    same = int((found.argmax(1) == simulated.argmax(1)).sum())
    difference = float(np.abs(found - simulated).max() / np.ptp(simulated))
    return {"right": right(found), "same": same, "difference": difference, "bytes": size, "step": seconds}


def signs(seed: int, epochs: int) -> tuple[float, float]:
    """Right answers of a network of signs and of its control."""
    shares = []
    for kind in (nn.Conv2d, binarize_digits.SignConv2d):
        net = binarize_digits.build(seed, kind)
        train(net, epochs, 5e-3)
        shares.append(right(outputs(lowbit.convert(net, IMAGES[:64], calibration=DATA, progress=False))))
    return shares[0], shares[1]


def main() -> None:
    """Train, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--tune", type=int, default=4)
    parser.add_argument("--joint", type=int, default=12, help="epochs of pruning, and of its control")
    parser.add_argument("--net", default="pruned", choices=["pruned", "demo"])
    parser.add_argument("--rows", default=",".join([*SCHEMES, "joint", "xnor"]))
    parser.add_argument("--output", help="a file to which each result is written as a line of JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = options.rows.split(",")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in rows}

    def note(name: str, seed: int, control: float, result: dict[str, Any]) -> None:
        found[name].append({"row": name, "seed": seed, "control": control, "drop": control - result["right"], **result})
        print(json.dumps(found[name][-1]), file=sys.stderr, flush=True)
        if options.output:
            with Path(options.output).open("a") as file:
                print(json.dumps(found[name][-1]), file=file)

    for seed in range(options.first, options.first + options.seeds):
        net = build_net(seed) if options.net == "demo" else prune_digits.build(seed)
        train(net, options.epochs, 3e-3)
        control = copy.deepcopy(net)
        seconds = train(control, options.tune, 2e-3)
        score = right(outputs(control))
        for name in rows:
            if name in SCHEMES:
                result = rounded(net, SCHEMES[name], options.tune)
                note(name, seed, score, {**result, "ratio": result["step"] / seconds})
        if "joint" in rows:
            longer = copy.deepcopy(net)
            seconds = train(longer, options.joint, 3e-3)
            result = rounded(net, "int8", options.joint, teacher=control)
            note("joint", seed, right(outputs(longer)), {**result, "ratio": result["step"] / seconds})
        if "xnor" in rows:
            plain, ones = signs(seed, options.epochs)
            note("xnor", seed, plain, {"right": ones})
    print("| weights | right, % | control | drop, points, by seed | mean | allowed | as simulated | differ | bytes |")
    print("|---|---:|---:|---|---:|---:|---:|---:|---:|")
    for name, each in found.items():
        drops = [item["drop"] for item in each]
        mean = [statistics.mean(item[key] for item in each) for key in ("right", "control", "drop")]
        same = f"{min(item['same'] for item in each)} of 2000" if "same" in each[0] else ""
        differs = f"{max(item['difference'] for item in each):.2%}" if "same" in each[0] else ""
        listed = ", ".join(f"{drop:.2f}" for drop in drops)
        limit = ALLOWED.get(name, "")
        size = max(item.get("bytes", 0) for item in each) or ""
        cells = (name, f"{mean[0]:.2f}", f"{mean[1]:.2f}", listed, f"{mean[2]:.2f}", limit, same, differs, size)
        print(f"| {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    main()
