"""Spark: a model in `predict_batch_udf`, loaded once a worker: `python examples/scale_spark.py FILE`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import SparkSession
from pyspark.sql.types import ArrayType, FloatType

import lowbit


def main(path: str, rows: int = 200) -> None:
    """Run rows of noise through a model of one input, and compare with one process."""
    predict = lowbit.Predictor(Path(path).resolve(), threads=1)
    ((name, tensor),) = predict.types()[0].items()
    shape = [int(size) for size in tensor.shape[1:]]
    images = np.random.default_rng(0).standard_normal((rows, *shape), dtype=np.float32)

    def make() -> Callable[[Any], Any]:
        return lambda batch: predict({name: batch})["output"]

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # of the workers
    spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    table = spark.createDataFrame(
        [(i, row.ravel().tolist()) for i, row in enumerate(images)], "id long, x array<float>"
    )
    infer = predict_batch_udf(make, return_type=ArrayType(FloatType()), batch_size=64, input_tensor_shapes=[shape])
    answers = table.select("id", infer("x").alias("y")).orderBy("id").collect()
    found = np.array([row.y for row in answers], np.float32)
    spark.stop()
    print(f"{len(found)} rows by two workers, the same bits:", np.array_equal(found, predict({name: images})["output"]))


if __name__ == "__main__":
    main(sys.argv[1])
