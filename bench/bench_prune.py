"""What nine weights of ten are worth: iterative against one-shot pruning and chance, over seeds.

    python bench/bench_prune.py [--seeds 5] [--sparsity 0.9] [--epochs 5] [--scope global] [--plot FILE]

The net, its training and its digits are those of `examples/prune_digits.py`. For each seed a net is trained densely;
copies of it are pruned to the same sparsity in 4 x 4 blocks and trained on for the same number of epochs at the same
rate. The iterative one is converted to int8. Fails unless the means are in order, the int8 one's at most half a point
below the dense one's.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

import plots
from lowbit.compress import Iterative, OneShot, Schedule, prune

KINDS = ("dense", "iterative", "iterative int8", "one-shot", "random")


def example() -> ModuleType:
    """`examples/prune_digits.py` as a module."""
    path = Path(__file__).parents[1] / "examples" / "prune_digits.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compare(digits: ModuleType, seed: int, sparsity: float, epochs: int, scope: str) -> dict[str, float]:
    """The accuracy of each kind on the held-out digits."""
    net = digits.build(seed)
    digits.train(net, 3, 4e-3)

    def pruned(schedule: Schedule, criterion: str) -> nn.Module:
        copied = copy.deepcopy(net)
        torch.manual_seed(1000 + seed)
        pruning = prune(copied, sparsity, criterion=criterion, scope=scope, schedule=schedule, seed=seed)
        digits.train(copied, epochs, 7e-4, pruning)
        return pruning.finalize()

    iterative = pruned(Iterative(rounds=digits.ROUNDS), "magnitude")
    return {
        "dense": digits.accuracy(net),
        "iterative": digits.accuracy(iterative),
        "iterative int8": digits.accuracy(digits.convert(iterative)),
        "one-shot": digits.accuracy(pruned(OneShot(), "magnitude")),
        "random": digits.accuracy(pruned(OneShot(), "random")),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--epochs", type=int, default=5, help="from the first zeros on")
    parser.add_argument("--scope", default="global", choices=("layer", "global"))
    parser.add_argument("--plot", type=Path, help="write a chart of each seed's accuracies")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    digits, rows = example(), []
    print(f"{arguments.sparsity:.0%} zero in 4x4 blocks, {arguments.epochs} epochs", *KINDS, sep="\t")
    for seed in range(arguments.seeds):
        start = time.perf_counter()
        row = compare(digits, seed, arguments.sparsity, arguments.epochs, arguments.scope)
        rows.append(row)
        print(
            f"seed {seed} ({time.perf_counter() - start:.0f} s)",
            *(f"{row[k]:.4f}" for k in KINDS),
            sep="\t",
            flush=True,
        )
    means = {kind: sum(row[kind] for row in rows) / len(rows) for kind in KINDS}
    print("mean", *(f"{means[kind]:.4f}" for kind in KINDS), sep="\t")
    if arguments.plot is not None:
        title = f"Accuracy in % of {len(rows)} nets, {arguments.sparsity:.0%} of the weights zero in 4x4 blocks"
        arguments.plot.write_text(plots.strips({kind: [100 * row[kind] for row in rows] for kind in KINDS}, title))
    in_order = means["iterative"] > means["one-shot"] > means["random"]
    is_near = means["iterative int8"] >= means["dense"] - 0.005
    print(f"iterative > one-shot > random: {in_order}; int8 within half a point of dense float32: {is_near}")
    return 0 if in_order and is_near else 1


if __name__ == "__main__":
    sys.exit(main())
