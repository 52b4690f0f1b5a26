"""Whether a search finds better nets than chance does: fronts of digit nets by each method, at equal trials.

    python bench/bench_search.py [--trials 40] [--table-seeds 20] [--seeds 3] [--methods random,evolution,...]
        [--table build/bench/search_table.json] [--plot docs/search.svg]
    python bench/bench_search.py --ray [--trials 40]

The space has 128 nets, whose parts are all passed through `compress.mixed`, so every method can search it: blocks, ways
to halve the image, heads. Each is trained for two epochs on 2,000 of the digits, converted to int8, scored on the 2,000
held-out digits and timed, one image, one thread. All 128 are tried once, which makes a table (kept in a file). Then
the samplers of `compress.search` draw from it, with `--table-seeds` seeds: they are told what the table says, so what
differs between seeds is what they draw. The supernet of "gradient" is trained for each of `--seeds` seeds, and draws as
often with what it learned; how many trials its training takes the time of is printed. With `--plot`, `compress.search`
itself runs by evolution, and its front stands beside the net of `prune_digits.py`, which is trained on as many digits
for as long.

What is compared is the hyper-volume of the front: the area, in points of accuracy times the logarithm of time, between
it and a corner that is as bad as the worst net in both. Fails unless evolution and TPE are above random, and policy and
gradient not below, on average.

`--ray` trains nets drawn at random as tasks of a Ray cluster on this machine, with one worker and with two, and fails
unless two need 0.6 of one's time at most. The clusters run already, and their workers have imported torch.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench_prune import example
from lowbit import compress
from lowbit.data import load_digits
from lowbit.progress import reporter
from lowbit.study.processes import Study
from lowbit.study.space import fill, key_of
from lowbit.study.store import DONE
from lowbit.study.supernet import teach
from lowbit.study.trying import Plan

Table = dict[str, tuple[float, float]]

METHODS = ("random", "evolution", "tpe", "policy", "gradient")
SPACE: dict[str, Any] = {
    "blocks": [compress.choice("none", "depthwise", "narrow", "wide")] * 2,
    "halve": [compress.choice("pool", "conv")] * 2,
    "head": compress.choice("mean", "dense"),
}
WIDTHS = (16, 32, 48)
TRAINING, HELD_OUT = ((torch.from_numpy(part.images), torch.from_numpy(part.labels)) for part in load_digits())
SAMPLES, EPOCHS = 2_000, 2


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """With batch norm and ReLU."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


def block(kind: str, width: int) -> nn.Module:
    """Of equal width before and after."""
    if kind == "depthwise":
        return nn.Sequential(conv(width, width, groups=width), conv(width, width, 1))
    if kind == "narrow":
        return nn.Sequential(conv(width, width // 2, 1), conv(width // 2, width))
    return nn.Sequential(conv(width, width), conv(width, width)) if kind == "wide" else nn.Identity()


def halve(kind: str, inputs: int, outputs: int) -> nn.Module:
    """Half as many pixels each way."""
    if kind == "pool":
        return nn.Sequential(nn.MaxPool2d(2, ceil_mode=True), conv(inputs, outputs, 1))
    return conv(inputs, outputs, 3, 2)


def head(kind: str, width: int) -> nn.Module:
    """From 4 x 4 pixels to ten digits."""
    if kind == "mean":
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))
    return nn.Sequential(nn.Flatten(), nn.Linear(16 * width, 64), nn.ReLU(), nn.Linear(64, 10))


def build(config: Any) -> nn.Module:
    """A net, or the supernet of all."""
    a, b, c = WIDTHS
    mixed, blocks, halves = compress.mixed, config["blocks"], config["halve"]
    return nn.Sequential(
        conv(1, a, 3, 2),
        mixed(blocks[0], lambda kind: block(kind, a)),
        mixed(halves[0], lambda kind: halve(kind, a, b)),
        mixed(blocks[1], lambda kind: block(kind, b)),
        mixed(halves[1], lambda kind: halve(kind, b, c)),
        mixed(config["head"], lambda kind: head(kind, c)),
    )


def train(net: nn.Module, config: Any, *, samples: int = SAMPLES, epochs: int = EPOCHS) -> None:
    """The same for all."""
    images, labels = (part[:samples] for part in TRAINING)
    optimizer = torch.optim.Adam(net.parameters())
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=6e-3, total_steps=epochs * math.ceil(samples / 64))
    net.train()
    for _ in range(epochs):
        for batch in torch.randperm(samples).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[batch]), labels[batch]).backward()
            optimizer.step()
            rates.step()


def accuracy(model: Any) -> float:
    """In %, of the held-out digits."""
    images, labels = HELD_OUT
    return 100 * float((model(images).argmax(1) == labels).double().mean())


def latency() -> compress.Latency:
    """One image; ranges from training digits."""
    return compress.Latency(TRAINING[0][:1], calibration=TRAINING[0][:256].split(64), rounds=5)


def everything(path: Path) -> dict[str, tuple[float, float]]:
    """Of each configuration accuracy and milliseconds; what is in the file is not tried again."""
    found: dict[str, tuple[float, float]] = json.loads(path.read_text()) if path.exists() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    clock = latency()
    blocks, halves = (each.options for each in (SPACE["blocks"][0], SPACE["halve"][0]))
    for a, b, c, d, last in itertools.product(blocks, blocks, halves, halves, SPACE["head"].options):
        config = {"blocks": [a, b], "halve": [c, d], "head": last}
        key = key_of(config)
        if key in found:
            continue
        torch.manual_seed(len(found))
        net = build(config)
        ms = clock.milliseconds(clock.model(net, config))
        train(net, config)
        model = clock.model(net, config)
        found[key] = accuracy(model), min(ms, clock.milliseconds(model))
        path.write_text(json.dumps(found, indent=0))
        print(f"{len(found)} of 128: {found[key]} {key}", flush=True)
    return found


def volume(points: Iterable[tuple[float, float]], worst: tuple[float, float]) -> float:
    """The area between (accuracy, milliseconds) and the worst corner, time on a logarithmic scale."""
    area, best = 0.0, worst[0]
    for score, ms in sorted(points, key=lambda point: (point[1], -point[0])):
        if score > best and ms < worst[1]:
            area += (score - best) * math.log(worst[1] / ms)
            best = score
    return area


def drawn(method: str, seed: int, trials: int, table: Table, taught: Path | None = None) -> list[tuple[float, float]]:
    """What trials of a method meet in the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if taught is not None:
            shutil.copy(taught, folder / "supernet.json")
        store = Study(folder=folder, asked={}, method=method, goals=2, seed=seed).open()
        points = []
        with store.working():
            while (asked := store.ask(trials, partial(fill, tree=SPACE))) is not None:
                points.append(table[key_of(asked.config)])
                store.tell(asked, DONE, list(points[-1]), latency_ms=points[-1][1])
    return points


def supernet(seed: int, path: Path) -> float:
    """Train one, unless that was done; its seconds."""
    start = time.perf_counter()
    if not path.exists():
        plan = Plan(
            build=build, space=partial(fill, tree=SPACE), train=train, evaluate=accuracy, latency=latency(), trials=1,
            seed=seed,
        )  # fmt: skip
        with reporter(True) as report:
            teach(plan, path, report)
    return time.perf_counter() - start


def compare(
    table: Table, trials: int, methods: list[str], table_seeds: int, seeds: int, folder: Path
) -> dict[str, float]:
    """Print the share of the best volume that each method reaches; the means."""
    worst = min(score for score, _ in table.values()), max(ms for _, ms in table.values())
    best = volume(table.values(), worst)
    means: dict[str, float] = {}
    print(f"share of the best front's volume, {trials} trials of {len(table)} nets", "mean", "worst", "seeds", sep="\t")
    for method in methods:
        taught: list[Path | None] = [None]
        if method == "gradient":
            taught = [folder / f"supernet_{seed}.json" for seed in range(seeds)]
            took = [supernet(seed, path) for seed, path in enumerate(taught) if path is not None]
            print(f"a supernet: {statistics.mean(took):.0f} s (0: kept from before)")
        runs = itertools.islice(itertools.product(range(table_seeds), taught), table_seeds)
        shares = [volume(drawn(method, seed, trials, table, path), worst) / best for seed, path in runs]
        means[method] = statistics.mean(shares)
        print(method, f"{means[method]:.4f}", f"{min(shares):.4f}", len(shares), sep="\t", flush=True)
    return means


def plot(path: Path, trials: int, storage: Path) -> None:
    """Search with nets that are trained and timed, and compare with a net that a person made."""
    found = compress.search(
        build, SPACE, train=train, evaluate=accuracy, latency=latency(), trials=trials,
        storage=storage,
    )  # fmt: skip
    print(found)
    hand, clock = example().build(0), latency()
    ms = min(clock.milliseconds(clock.model(hand, {})) for _ in range(3))
    by_hand = statistics.mean(trained(example().build(seed), seed) for seed in range(3))
    best = found.best(latency_ms=ms)
    again = statistics.mean(trained(build(best.config), seed) for seed in range(3))
    title = f"Accuracy in % of {trials} trials by evolution, int8, one image, one thread"
    found.plot(path, title=title, marks={"the net of prune_digits.py": (ms, by_hand)}, lowest=86)
    print(f"by hand: {by_hand:.2f} % in {ms:.4f} ms (mean of 3 trainings)")
    print(f"found: {best.score:.2f} %, trained again {again:.2f} (mean of 3) in {best.latency_ms:.4f} ms")


def by_workers(trials: int) -> bool:
    """Whether a study by two Ray workers takes 0.6 of the time that one needs, at most."""
    import ray

    taken = {}
    for workers in (1, 2):
        ray.init(address="local", num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        with tempfile.TemporaryDirectory() as folder:
            for name, count in ("first", 2 * workers), ("all", trials):
                start = time.perf_counter()
                compress.search(
                    build, SPACE, train=train, evaluate=accuracy, method="random", trials=count,
                    storage=Path(folder) / name, workers=workers, ray=True, progress=False,
                )  # fmt: skip
                taken[workers] = time.perf_counter() - start
        ray.shutdown()
        print(f"{workers} of Ray's workers: {trials} trials in {taken[workers]:.1f} s", flush=True)
    print(f"two need {taken[2] / taken[1]:.2f} of one's time")
    return taken[2] <= 0.6 * taken[1]


def trained(net: nn.Module, seed: int) -> float:
    """The accuracy of a net after a training."""
    torch.manual_seed(seed)
    train(net, {})
    return accuracy(latency().model(net, {}))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--table-seeds", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--table", type=Path, default=Path("build/bench/search_table.json"))
    parser.add_argument("--plot", type=Path, help="search with nets that are trained, and write the front")
    parser.add_argument("--ray", action="store_true", help="time a study by one Ray worker and by two instead")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.ray:
        return 0 if by_workers(arguments.trials) else 1
    table = everything(arguments.table)
    methods = arguments.methods.split(",")
    means = compare(table, arguments.trials, methods, arguments.table_seeds, arguments.seeds, arguments.table.parent)
    if arguments.plot is not None:
        plot(arguments.plot, arguments.trials, arguments.table.parent / "search_study")
    chance = means.get("random", 0.0)
    is_above = all(means[method] > chance for method in ("evolution", "tpe") if method in means)
    is_near = all(means[method] >= chance for method in ("policy", "gradient") if method in means)
    print(f"evolution and tpe above random: {is_above}; policy and gradient not below: {is_near}")
    return 0 if is_above and is_near else 1


if __name__ == "__main__":
    sys.exit(main())
