"""What weights of few bits cost the demo's digit network, by scheme and method: its share of right answers.

    python bench/bench_digits.py [--epochs 2] [--schemes int8,int4,int4-g32,int3-g32,int2-g32,ternary-g32]

2,000 digits that the network was not trained on; 512 of the others calibrate.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

import lowbit
from lowbit.cli.demo import build_net, train
from lowbit.data import load_digits


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--schemes", default="int8,int4,int4-g32,int3-g32,int2-g32,ternary-g32")
    parser.add_argument("--methods", default="auto,reconstruct")
    options = parser.parse_args()
    training, held_out = load_digits()
    net = build_net()
    train(net, training, epochs=options.epochs)
    images, labels = torch.from_numpy(held_out.images), held_out.labels
    with torch.inference_mode():
        exact = float((net(images).argmax(1).numpy() == labels).mean())
    print("| scheme | method | right, % | less than float32 | seconds to quantize |\n|---|---|---:|---:|---:|")
    print(f"| float32 | | {exact:.2%} | | |")
    data = torch.from_numpy(training.images[:512])
    for scheme in options.schemes.split(","):
        for method in options.methods.split(",") if scheme != "int8" else ["auto"]:
            start = time.perf_counter()
            model = lowbit.convert(
                net, data[:1], calibration=list(data.split(64)), scheme=scheme, method=method, progress=False
            )
            seconds = time.perf_counter() - start
            right = float((np.asarray(model(held_out.images)).argmax(1) == labels).mean())
            print(f"| {scheme} | {method} | {right:.2%} | {exact - right:.2%} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
