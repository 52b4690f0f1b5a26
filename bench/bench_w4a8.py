"""EfficientNet-Lite0 with weights of four bits, taught by its float self on crops that nobody has labelled.

    python bench/bench_w4a8.py [--steps 300] [--batch 8] [--methods nearest,auto,reconstruct] [--split test]

The net is rounded in training (`compress.qat`: weights by the scheme, activations in eight bits, ranges from the
calibration photographs), starts from the codes that `compress.refit` finds on crops of the development photographs,
and learns the float net's outputs on them, in eval mode, so that batch normalization stays as it was trained. Weights
are in groups of 32 with offsets. Beside it stands rounding alone, by `lowbit.convert` and its methods, calibrated with
the calibration photographs. Agreement is how often the first class is the float net's, on crops of photographs that
nothing was chosen by.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import time
from typing import Any

import numpy as np
import torch

import lowbit
from bench_accuracy import FEW_BITS, crops, network
from lowbit import compress
from lowbit.quantization.schemes import SCHEMES

SCHEME = dataclasses.replace(SCHEMES["int4-g32"], symmetric=False)


def agreement(model: Any, images: torch.Tensor, exact: torch.Tensor) -> tuple[float, float]:
    """The share of equal first classes, and the SQNR of the logits in dB."""
    with torch.inference_mode():
        found = torch.cat([torch.as_tensor(np.asarray(model(part))) for part in images.split(16)])
    noise = float((found - exact).double().square().sum())
    same = float((found.argmax(1) == exact.argmax(1)).double().mean())
    return same, 10 * float(np.log10(float(exact.double().square().sum()) / noise))


def last(x: Any) -> Any:
    """With channels innermost, which torch's convolutions train faster with."""
    return x.to(memory_format=torch.channels_last)


def main() -> None:
    """Round, teach, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1.5e-5)
    parser.add_argument("--refit", type=int, default=192, help="crops to find the first codes on; 0: nearest codes")
    parser.add_argument("--methods", default="nearest,auto,reconstruct", help="of rounding alone; empty: none")
    parser.add_argument("--split", default="test")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    net = last(network())
    images = last(torch.from_numpy(crops(options.split)))
    data = last(torch.from_numpy(crops("calibration", FEW_BITS)))
    with torch.inference_mode():
        exact = torch.cat([net(part) for part in images.split(16)])
    example, batches = data[:1], list(data.split(16))

    def show(name: str, model: Any) -> None:
        same, noise = agreement(model, images, exact)
        print(f"| {name} | {same:.4f} | {noise:.1f} |", flush=True)

    print("| weights | agreement | SQNR, dB |\n|---|---:|---:|", flush=True)
    student = copy.deepcopy(net)
    training = compress.qat(student, example, scheme=SCHEME, calibration=batches)
    if options.refit:
        seen = last(torch.from_numpy(crops("dev", options.refit)))
        compress.refit(student.eval(), list(seen.split(16)), dense=net, damping=0.3)
    teacher = compress.distill(student, net, temperature=2.0, weight=1.0)
    fast = [each for name, each in student.named_parameters() if each.dim() < 2 or name.endswith("step")]
    slow = [each for name, each in student.named_parameters() if each.dim() > 1 and not name.endswith("step")]
    optimizer = torch.optim.Adam([{"params": slow, "lr": options.rate}, {"params": fast, "lr": 4 * options.rate}])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, options.steps))
    lessons = last(torch.from_numpy(crops("dev", max(1, options.steps * options.batch), seed=1)))
    start = time.perf_counter()
    student.eval()
    order = torch.randperm(len(lessons))
    for step in range(options.steps):
        rows = order[step * options.batch : (step + 1) * options.batch]
        optimizer.zero_grad()
        student(lessons[rows])
        loss = teacher.loss(None, lessons[rows])
        loss.backward()
        optimizer.step()
        training.step()
        schedule.step()
        if training.steps % 10 in (0, 1):
            print(f"step {training.steps}: loss {float(loss):.4f}, {time.perf_counter() - start:.0f} s", flush=True)
    with torch.inference_mode():
        simulated = torch.cat([student(part) for part in images.split(16)])
    model = lowbit.convert(compress.finalize(student), example, progress=False)
    show(f"taught in {options.steps} steps of {options.batch} crops", model)
    same, noise = agreement(model, images, simulated)
    print(
        f"the converted model and the simulation agree on {same:.4f}, {noise:.1f} dB; left in float: {training.skipped}"
    )
    for method in filter(None, options.methods.split(",")):
        rounded = lowbit.convert(net, example, calibration=batches, scheme=SCHEME, method=method, progress=False)
        show(f"rounded alone, {method}", rounded)


if __name__ == "__main__":
    main()
