"""Ray Data: actors of one CPU run a model over a data set, in order: `python examples/scale_ray_data.py FILE`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import ray

import lowbit


def main(path: str, rows: int = 1000) -> None:
    """Run rows of noise through a model of one input, and compare with one process."""
    file = Path(path).resolve()  # workers have directories of their own
    predict = lowbit.Predictor(file, threads=1)
    ((name, tensor),) = predict.types()[0].items()
    images = np.random.default_rng(0).standard_normal((rows, *map(int, tensor.shape[1:])), dtype=np.float32)

    ray.init(log_to_driver=False)
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    found = ray.data.from_numpy(list(np.split(images, 10))).map_batches(
        lowbit.Predictor,
        fn_constructor_args=(file,),
        fn_constructor_kwargs={"threads": 1, "inputs": {name: "data"}},
        compute=ray.data.ActorPoolStrategy(size=2),
        num_cpus=1,  # one thread each: as many actors as CPUs beat few actors of many threads
        batch_size=64,
    )
    answers = np.concatenate([batch["output"] for batch in found.iter_batches(batch_size=100)])
    print(f"{len(answers)} rows by two actors, the same bits in the same order:", end=" ")
    print(np.array_equal(answers, predict({name: images})["output"]))


if __name__ == "__main__":
    main(sys.argv[1])
