"""An accuracy budget on a real network: EfficientNet-Lite0, scored by how often it agrees with float32 on photographs.

    python bench/bench_budget.py [--max-drop 0.03] [--images 400] [--report budget.html]

The photographs are those of `bench_accuracy.py`: one part calibrates, the development part is scored by the budget, and
the test part, which no choice has seen, says what the budget is worth on new pictures. Agreement is with torch's own
answers, so float32 scores 1. Latency is measured in interleaved rounds of the same run.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import bench_accuracy as accuracy
import lowbit
from lowbit.converted_model import ConvertedModel
from lowbit.runtime.timing import interleave

Array = npt.NDArray[Any]


class Agreement:
    """evaluate(model): the share of images for which the model's first class is float32's."""

    def __init__(self, net: torch.nn.Module, images: Array) -> None:
        self.images = images
        self.expected = accuracy.float_logits(net, images).argmax(axis=1)

    def __call__(self, model: Any) -> float:
        found = accuracy.logits(lambda batch: np.asarray(model(batch)), self.images).argmax(axis=1)
        return float((found == self.expected).mean())


def paid(model: ConvertedModel) -> list[str]:
    """The layers that the budget returned to float32."""
    return [row["node"] for row in model.decisions if row["reason"].startswith("paid for the accuracy budget")]


def main() -> None:
    """Print what plain int8 scores, what the budget chose, and what both cost in time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-drop", type=float, default=0.03, help="how far agreement may fall below 1")
    parser.add_argument("--images", type=int, default=400, help="crops to score, of the development part and of test")
    parser.add_argument("--report", default="", help="write the model's report to this file")
    options = parser.parse_args()
    net = accuracy.network()
    calibration = [torch.from_numpy(part) for part in np.array_split(accuracy.crops("calibration"), 6)]
    dev = Agreement(net, accuracy.crops("dev", options.images))
    test = Agreement(net, accuracy.crops("test", options.images))
    plain = lowbit.convert(net, calibration[0][:1], calibration=calibration)
    start = time.perf_counter()
    model = lowbit.convert(net, calibration[0][:1], calibration=calibration, evaluate=dev, max_drop=options.max_drop)
    seconds = time.perf_counter() - start
    floats = lowbit.convert(net, calibration[0][:1], scheme="float32")

    print(f"EfficientNet-Lite0, max_drop {options.max_drop:g} of top-1 agreement, {options.images} crops\n")
    print("| evaluation | agreement | layers in int8 | layers returned to float32 |\n|---|---:|---:|---:|")
    for trial in model.meta.evaluations:
        print(f"| {trial.model} | {trial.score:.4f} | {trial.int8_layers} | {len(trial.float_layers)} |")
    print(f"\nconverted in {seconds:.0f} s; these layers paid:")
    for row in model.decisions:
        if row["node"] in paid(model):
            print(f"  {row['node']}: {row['reason']}")
    x = accuracy.crops("dev", 5)[:1]
    models = {"float32": floats, "int8": plain, "int8 within the budget": model}
    times = interleave({name: partial(made, x) for name, made in models.items()})
    print("\n| model | dev agreement | test agreement | ms a picture |\n|---|---:|---:|---:|")
    for name, made in models.items():
        print(f"| {name} | {dev(made):.4f} | {test(made):.4f} | {times[name].lowest * 1e3:.2f} |")
    if options.report:
        model.report(options.report, x)
    met = 1 - dev(model) <= options.max_drop + 1e-9
    print(f"\nthe budget is {'met' if met else 'MISSED'}")
    raise SystemExit(0 if met else 1)


if __name__ == "__main__":
    main()
