"""A study that processes share: `python tests/study/studies.py FOLDER TRIALS [SECONDS [WORKERS [ray]]]`.

Each trial sleeps for so many seconds, as training would keep a CPU busy, and leaves a line of what was trained.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from torch import nn

from lowbit import compress

SPACE = {"width": compress.between(1, 1000), "kind": compress.choice("a", "b")}


def study(folder: str, trials: str, seconds: str = "0.05", workers: str = "1", how: str = "") -> compress.SearchResult:
    """The search."""
    log, wait = Path(folder) / "trained.txt", float(seconds)  # no names of this module: a cluster does not have it

    def train(net: Any, config: Any) -> None:
        import os
        import time

        time.sleep(wait)
        with log.open("a") as file:
            file.write(f"{config['width']} {config['kind']} {os.getpid()}\n")

    def build(config: Any) -> nn.Module:
        return nn.Linear(1, config["width"])

    return compress.search(
        build, SPACE, train=train, evaluate=lambda net: float(net.out_features), method="random", trials=int(trials),
        storage=folder, workers=int(workers), ray=how == "ray", progress=False,
    )  # fmt: skip


if __name__ == "__main__":
    start = time.perf_counter()
    found = study(*sys.argv[1:])
    print(f"{len(found.trials)} trials, best {found.best().score}, {time.perf_counter() - start:.2f} s")
