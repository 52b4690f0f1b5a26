"""What half the channels are worth: a digit net that loses them, beside controls trained just as long, over seeds.

    python bench/bench_shrink.py [--seeds 5] [--epochs 10] [--criteria magnitude,wanda,taylor] [--share 0.5]

The net, its training and its digits are those of `examples/prune_digits.py`. For each seed a net is trained for half
the epochs; copies lose channels by each criterion and are trained on for the other half, as is the control with all of
its channels. A net that is as small from the beginning is trained for all of them. Accuracies are of the int8 models
on 2,000 held-out digits; time is that of 16 images in lowbit, one thread, the lowest of interleaved rounds. Fails
unless the best criterion is at most half a point below the control on average, in at most 0.7 of its time.
"""

from __future__ import annotations

import argparse
import copy
import sys
from functools import partial

import torch

from bench_prune import example
from lowbit.compress import resize, shrink, widths
from lowbit.runtime.timing import interleave


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--criteria", default="magnitude,wanda,taylor")
    parser.add_argument("--share", type=float, default=0.5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    digits, half = example(), arguments.epochs // 2
    images, labels = digits.TRAINING
    calibration = [(images[at], labels[at]) for at in torch.arange(512).split(64)]
    rows: list[dict[str, float]] = []
    kinds: list[str] = []
    ratio = 0.0
    for seed in range(arguments.seeds):
        net = digits.build(seed)
        digits.train(net, half, 4e-3)
        nets = {"control": copy.deepcopy(net)}
        for criterion in arguments.criteria.split(","):
            nets[criterion] = shrink(
                copy.deepcopy(net),
                images[:1],
                arguments.share,
                criterion=criterion,
                calibration=calibration,
                loss=torch.nn.functional.cross_entropy,
            )
        small = widths(nets[criterion])
        nets["from scratch"] = resize(digits.build(seed), small)
        digits.train(nets["from scratch"], half, 4e-3)
        for each in nets.values():
            torch.manual_seed(1000 + seed)
            digits.train(each, half, 2e-3)
        models = {name: digits.convert(each) for name, each in nets.items()}
        rows.append({name: digits.accuracy(model) for name, model in models.items()})
        if not kinds:
            kinds = list(models)
            print("", *kinds, sep="\t")
            timed = {name: partial(models[name], images[:16]) for name in ("control", "from scratch")}
            times = interleave(timed, rounds=15)
            ratio = times["from scratch"].lowest / times["control"].lowest
        print(f"seed {seed}", *(f"{rows[-1][kind]:.4f}" for kind in kinds), sep="\t", flush=True)
    means = {kind: sum(row[kind] for row in rows) / len(rows) for kind in kinds}
    print("mean", *(f"{means[kind]:.4f}" for kind in kinds), sep="\t")
    best = max(means[criterion] for criterion in arguments.criteria.split(","))
    print(f"time of the smaller net: {ratio:.2f} of the control's; drop of the best: {means['control'] - best:.4f}")
    return 0 if best >= means["control"] - 0.005 and ratio <= 0.7 else 1


if __name__ == "__main__":
    sys.exit(main())
