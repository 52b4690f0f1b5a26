"""What a second actor of Ray is worth: images a second of one actor of one CPU and of two, in turn.

    python bench/bench_ray.py FILE [--rows 512] [--rounds 5]

FILE is a model of images, such as MobileNetV2. Rounds take turns, the best of each counts; actors are there before a
round's clock starts. Every answer is compared with that of one process. Exits with 1 where two are not 1.8 times one.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray

import lowbit

LEAST = 1.8
BATCH = 16


class Actor:
    """A predictor on a CPU of its own."""

    def __init__(self, file: str) -> None:
        self._predict = lowbit.Predictor(file, threads=1)
        (self._name,) = self._predict.inputs

    def __call__(self, batch: Any) -> Any:
        return self._predict({self._name: batch})["output"]


def rate(actors: list[Any], blocks: list[Any], count: int, expected: Any) -> float:
    """Images a second; each actor takes the next block when it is done with one."""
    pool = ray.util.ActorPool(actors)
    start = time.perf_counter()
    found = [*pool.map(lambda actor, block: actor.__call__.remote(block), blocks)]
    taken = time.perf_counter() - start
    assert np.array_equal(np.concatenate(found), expected)
    return count / taken


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    file = str(given.file.resolve())
    predict = lowbit.Predictor(file, threads=1)
    ((name, tensor),) = predict.types()[0].items()
    shape = tuple(int(size) for size in tensor.shape[1:])
    images = np.random.default_rng(0).standard_normal((given.rows, *shape), dtype=np.float32)
    parts = np.split(images, range(BATCH, given.rows, BATCH))
    expected = np.concatenate([predict({name: part})["output"] for part in parts])
    ray.init(log_to_driver=False, address="local", include_dashboard=False)
    blocks = [ray.put(part) for part in parts]
    kind: Any = ray.remote(num_cpus=1)(Actor)
    actors = [kind.remote(file) for _ in range(2)]
    for actor in actors:
        ray.get(actor.__call__.remote(blocks[0]))
    found: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(given.rounds):
        for count, rates in found.items():
            rates.append(rate(actors[:count], blocks, given.rows, expected))
    one, two = max(found[1]), max(found[2])
    print(f"one actor {one:.0f} images/s, two {two:.0f}: {two / one:.2f} times")
    raise SystemExit(0 if two >= LEAST * one else 1)


if __name__ == "__main__":
    main()
