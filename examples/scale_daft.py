"""Daft: a model over a column of tensors, in a pool of processes: `python examples/scale_daft.py FILE`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import daft
import numpy as np

import lowbit

NUMBERS = daft.DataType.float32()


class Model:
    """What Daft makes one of in each process."""

    def __init__(self, path: str, name: str) -> None:
        self.predict, self.name = lowbit.Predictor(path, threads=1), name

    def rows(self, column: Any) -> Any:
        """A series of tensors in, rows of numbers out."""
        return list(self.predict({self.name: np.stack(column.to_pylist())})["output"])

    infer = daft.method.batch(return_dtype=daft.DataType.list(NUMBERS), batch_size=64)(rows)


def main(path: str, rows: int = 1000) -> None:
    """Run rows of noise through a model of one input, and compare with one process."""
    predict = lowbit.Predictor(Path(path).resolve(), threads=1)
    ((name, tensor),) = predict.types()[0].items()
    shape = tuple(int(size) for size in tensor.shape[1:])
    images = np.random.default_rng(0).standard_normal((rows, *shape), dtype=np.float32)

    model: Any = daft.cls(Model, max_concurrency=2, use_process=True)(str(Path(path).resolve()), name)
    table = daft.from_pydict({"id": np.arange(rows), "x": list(images)})
    table = table.with_column("y", model.infer(table["x"].cast(daft.DataType.tensor(NUMBERS, shape))))
    found = np.array(table.sort("id").to_pydict()["y"], np.float32)
    print(f"{len(found)} rows by two workers, the same bits:", np.array_equal(found, predict({name: images})["output"]))


if __name__ == "__main__":
    main(sys.argv[1])
