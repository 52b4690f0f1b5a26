"""`lowbit.optimize` without training: the solver's time, predicted against measured time, and what a drop buys.

    python bench/bench_optimize.py solver
    python bench/bench_optimize.py predicted [--nets resnet50,minilm]
    python bench/bench_optimize.py photographs [--max-drop 0.02]
    python bench/bench_optimize.py sentences [--max-drop 0.01] [--bytes 13000000]

`solver`: seconds for 100 layers of 14 candidates with two budgets. `predicted`: plans of layers in float32, in eight
bits and in four, by made-up noises in four mixtures, and the ratio of their times as predicted before they were built
to those measured. `photographs`: EfficientNet-Lite0 as in `bench_budget.py`, against `convert` with the same drop;
plans are scored on the development part, and the test part, which no choice has seen, is reported. `sentences`: MiniLM,
whose score is the mean cosine of sentences' vectors to float32's.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import bench_accuracy as accuracy
import bench_minilm as minilm
import lowbit
import zoo
from bench_budget import Agreement
from lowbit.converted_model import ConvertedModel
from lowbit.errors import AccuracyError
from lowbit.optimization import prices
from lowbit.optimization.allocate import Problem, allocate
from lowbit.optimization.candidates import Candidate, Price
from lowbit.optimization.loop import Optimization, asked
from lowbit.optimization.workshop import file_bytes
from lowbit.progress import reporter
from lowbit.runtime.timing import interleave

NOISES = {"float32": 0.0, "int8-weights": 0.01, "int8": 1.0, "int4-g32": 5.0, "int4": 8.0, "kmeans": 8.0}
"""Of made-up layers, by scheme; others are not drawn."""
MIXTURES = (0.1, 0.4, 0.8, 3.0)
"""Budgets of noise, as shares of that of all layers in eight bits."""
SENTENCES = 256
"""That calibrate, and those that the score of a plan reads; all of the test part are scored at the end."""


def solver() -> bool:
    """Solve made-up problems; whether each takes five seconds at most."""
    random, taken = np.random.default_rng(0), []
    candidates = [Candidate(scheme=name) for name in ("float32", "int8-weights", "int8", "int4", "int4-g32", "ternary")]
    candidates += [Candidate(scheme="int8", pattern="4x4", sparsity=share / 10) for share in range(1, 9)]
    for _ in range(5):
        found = {
            f"layer{index}": [
                Price(
                    candidate=candidate,
                    microseconds=float(random.uniform(1, 100)),
                    bytes=int(random.integers(100, 10**6)),
                    noise=float(10 ** random.uniform(-6, -2)),
                )
                for candidate in candidates
            ]
            for index in range(100)
        }
        problem = Problem(prices=found, fixed={})
        least = allocate(problem, {"microseconds": 1.0}, {})
        assert least is not None
        start = time.perf_counter()
        plan = allocate(problem, {"noise": 1.0}, {"microseconds": 3 * least.microseconds, "bytes": 0.5 * least.bytes})
        taken.append(time.perf_counter() - start)
        print(
            f"{len(found)} layers, {len(candidates)} candidates: {taken[-1]:.2f} s, {'solved' if plan else 'no plan'}"
        )
    return max(taken) <= 5


# ----------------------------------------------------------------------------------------------------- predicted times


def nets() -> dict[str, Callable[[], tuple[torch.nn.Module, Any, list[Any]]]]:
    """Networks with an example and calibration data, by name."""

    def image(make: Callable[[], zoo.Subject]) -> tuple[torch.nn.Module, Any, list[Any]]:
        subject = make()
        return subject.net, torch.from_numpy(subject.image), [torch.from_numpy(part) for part in subject.calibration]

    def sentences() -> tuple[torch.nn.Module, Any, list[Any]]:
        net, tokens = minilm.encoder()
        data = [_tensors(tokens(sentence)) for sentence in minilm.sentences("calibration")[:16]]
        ids = torch.from_numpy(np.random.default_rng(0).integers(1000, 20000, (1, 128)))
        return net, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, data

    images = {each.__name__: each for each in (zoo.resnet50, zoo.efficientnet_lite0, zoo.mobilenetv2)}
    return {**{name: partial(image, make) for name, make in images.items()}, "minilm": sentences}


def predicted(names: list[str]) -> bool:
    """Build plans drawn at random; whether all were predicted within a tenth."""
    print("| net | plan | predicted us | measured us | predicted / measured |\n|---|---|---:|---:|---:|")
    worst = 0.0
    for name in names:
        net, example, data = nets()[name]()
        with reporter(False) as report:
            request = asked(net, data=data, evaluate=float, max_drop=None, target=None, threads=1)
            made = Optimization(request, example, report, is_estimated=False)
            noises = made_up(made)
            problem = prices.problem(made.workshop, noises, made.base, None, report)
        models: dict[str, ConvertedModel] = {"int8": made.base.plain}
        plans = {}
        for share in MIXTURES:
            whole = sum(each[Candidate(scheme="int8")] for each in noises.values() if Candidate(scheme="int8") in each)
            goal = {"microseconds": 1 / made.base.microseconds["int8"], "bytes": 1 / made.base.bytes["int8"]}
            plan = allocate(problem, goal, {"noise": share * whole})
            if plan is not None:
                plans[str(share)], models[str(share)] = plan, ConvertedModel(made.workshop.build(plan))
        taken = prices.measured(made.workshop, models)
        for mixture, plan in plans.items():
            ratio = plan.microseconds / made.base.microseconds["int8"] / (taken[mixture] / taken["int8"])
            worst = max(worst, abs(ratio - 1))
            kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(c.scheme for c in plan.values()).items())
            own = taken[mixture] / taken["int8"] * made.base.microseconds["int8"]
            print(f"| {name} | {kinds} | {plan.microseconds:.0f} | {own:.0f} | {ratio:.3f} |", flush=True)
    return worst <= 0.1


def made_up(made: Optimization) -> dict[str, dict[Candidate, float]]:
    """Noises of layers, drawn at random."""
    random = np.random.default_rng(0)
    found = {}
    for name, offers in made.workshop.offers.items():
        level = float(random.lognormal(0, 1))
        found[name] = {
            each: math.inf if each.pattern or each.scheme not in NOISES else level * NOISES[each.scheme]
            for each in offers
        }
        made.workshop.offers[name] = tuple(each for each in offers if math.isfinite(found[name][each]))
    return found


# ----------------------------------------------------------------------------------------------------- what a drop buys


def photographs(max_drop: float, count: int) -> bool:
    """EfficientNet-Lite0; whether time and bytes are no more than those of `convert` with the same drop."""
    net = accuracy.network()
    data = [torch.from_numpy(part) for part in np.array_split(accuracy.crops("calibration"), 6)]
    scores = {part: Agreement(net, accuracy.crops(part, count)) for part in ("dev", "test")}
    return compare(net, data[0][:1], data, scores, {"max_drop": max_drop})


def sentences(max_drop: float | None, size: float | None) -> bool:
    """MiniLM, by the mean cosine of sentences to their own vectors in float32."""
    net, tokens = minilm.encoder()
    data = [_tensors(tokens(sentence)) for sentence in minilm.sentences("calibration")[:SENTENCES]]

    def likeness(part: str, of: str) -> Callable[[Any], float]:
        inputs = [tokens(sentence) for sentence in minilm.sentences(part)[: SENTENCES if part == "dev" else None]]
        expected = minilm.embed(minilm.with_torch(net, [], 1), inputs)

        def score(model: Any) -> float:
            found = minilm.embed(lambda ids, mask: np.asarray(model(ids, mask)), inputs)
            return minilm.score(expected, found)[of]

        return score

    scores = {"dev": likeness("dev", "mean"), "test": likeness("test", "mean"), "test top-1": likeness("test", "top1")}
    targets = {"max_drop": max_drop, "bytes": size}
    ids = torch.from_numpy(np.random.default_rng(0).integers(1000, 20000, (1, 128)))
    example = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return compare(net, example, data, scores, {name: each for name, each in targets.items() if each is not None})


def _tensors(feeds: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in feeds.items()}


def compare(
    net: torch.nn.Module,
    example: Any,
    data: list[Any],
    scores: Mapping[str, Callable[[Any], float]],
    targets: Mapping[str, float],
) -> bool:
    """Optimize and convert, and print both."""
    models: dict[str, Any] = {}
    start = time.perf_counter()
    drop, size = targets.get("max_drop"), targets.get("bytes")
    result = lowbit.optimize(net, example, data=data, evaluate=scores["dev"], threads=1, max_drop=drop, bytes=size)
    seconds = {"optimize": time.perf_counter() - start}
    models["optimize"] = result.model
    start = time.perf_counter()
    options: dict[str, Any] = {"evaluate": scores["dev"], "max_drop": targets.get("max_drop"), "threads": 1}
    try:
        models["convert"] = lowbit.convert(net, example, calibration=data, **options)
    except AccuracyError as error:
        models["convert, which misses"] = error.model
    seconds[next(reversed(models))] = time.perf_counter() - start
    print("| evaluation | score | us | bytes | layers |\n|---|---:|---:|---:|---|")
    for each in result.evaluations:
        kinds = Counter(candidate.name for candidate in (each.plan or {}).values())
        print(f"| {each.name} | {each.score:.4f} | {each.microseconds:.0f} | {each.bytes:,} | {dict(kinds)} |")
    taken = interleave({name: _call(model, example) for name, model in models.items()})
    print(f"\n| {targets} | ms | bytes | {' | '.join(scores)} | seconds |\n|---|---:|---:|{'---:|' * len(scores)}---:|")
    for name, model in models.items():
        found = " | ".join(f"{score(model):.4f}" for score in scores.values())
        print(f"| {name} | {1e3 * taken[name].lowest:.3f} | {file_bytes(model):,} | {found} | {seconds[name]:.0f} |")
    own, other = models["optimize"], models[next(reversed(models))]
    ratio = taken["optimize"].lowest / taken[next(reversed(models))].lowest
    print(f"\ntime {ratio:.3f}, bytes {file_bytes(own) / file_bytes(other):.3f} of convert's")
    return ratio <= 1.02 and file_bytes(own) <= file_bytes(other)


def _call(model: Any, example: Any) -> Callable[[], object]:
    return partial(model, **example) if isinstance(example, dict) else partial(model, example)


def main() -> None:
    """Print one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("solver", "predicted", "photographs", "sentences"))
    parser.add_argument("--nets", default=",".join(nets()))
    parser.add_argument("--max-drop", type=float, default=None)
    parser.add_argument("--bytes", type=float, default=None)
    parser.add_argument("--images", type=int, default=400)
    options = parser.parse_args()
    torch.set_num_threads(1)
    Path(minilm.CACHE).mkdir(parents=True, exist_ok=True)
    if options.part == "solver":
        is_met = solver()
    elif options.part == "predicted":
        is_met = predicted(options.nets.split(","))
    elif options.part == "photographs":
        is_met = photographs(0.02 if options.max_drop is None else options.max_drop, options.images)
    else:
        is_met = sentences(
            0.01 if options.max_drop is None and options.bytes is None else options.max_drop, options.bytes
        )
    raise SystemExit(0 if is_met else 1)


if __name__ == "__main__":
    main()
