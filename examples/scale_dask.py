"""Dask: a model on the blocks of an array, in worker processes: `python examples/scale_dask.py FILE`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
from dask.distributed import Client, LocalCluster

import lowbit


def main(path: str, rows: int = 1000) -> None:
    """Run rows of noise through a model of one input, and compare with one process."""
    predict = lowbit.Predictor(Path(path).resolve(), threads=1)
    ((name, tensor),) = predict.types()[0].items()
    images = np.random.default_rng(0).standard_normal((rows, *map(int, tensor.shape[1:])), dtype=np.float32)
    expected = predict({name: images})["output"]

    def infer(block: Any) -> Any:
        return predict({name: np.ascontiguousarray(block)})["output"]

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
        blocks = dask.array.from_array(images, chunks=(64, *images.shape[1:]))
        found = blocks.map_blocks(
            infer,
            chunks=(blocks.chunks[0], *expected.shape[1:]),
            drop_axis=[*range(expected.ndim, images.ndim)],
            meta=expected[:0],
        ).compute()
    print(f"{len(found)} rows by two workers, the same bits:", np.array_equal(found, expected))


if __name__ == "__main__":
    main(sys.argv[1])
