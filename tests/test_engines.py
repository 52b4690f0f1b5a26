"""Engines that spread work over processes and machines run models as one process does; each is skipped without it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lowbit

EXAMPLES = Path(__file__).parent.parent / "examples"
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "RAY_ADDRESS": "local"}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("models") / "net.lowbit"
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    lowbit.convert(net.eval(), torch.randn(1, 3, 16, 16)).save(path)
    return path


def images(rows: int) -> Any:
    return np.random.default_rng(0).standard_normal((rows, 3, 16, 16), dtype=np.float32)


@pytest.mark.parametrize(
    ("name", "needs", "printed"),
    [
        ("scale_ray_data.py", "ray.data", "1000 rows by two actors, the same bits in the same order: True"),
        ("scale_ray_serve.py", "ray.serve", "8 answers of two replicas, the same bits: True"),
        ("scale_spark.py", "pyspark", "200 rows by two workers, the same bits: True"),
        ("scale_dask.py", "distributed", "1000 rows by two workers, the same bits: True"),
        ("scale_daft.py", "daft", "1000 rows by two workers, the same bits: True"),
    ],
)
def test_example(file: Path, name: str, needs: str, printed: str) -> None:
    pytest.importorskip(needs)
    command = [sys.executable, str(EXAMPLES / name), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert printed in done.stdout


@pytest.fixture
def raylets(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster of a head without CPUs; a test adds the others."""
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        ray.data.DataContext.get_current().execution_options.preserve_order = True
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_a_raylet_that_is_killed_loses_nothing(raylets: Any, file: Path, tmp_path: Path) -> None:
    """All rows, the same bits, the same order; both raylets had answered some when one was killed."""
    import ray

    nodes = [raylets.add_node(num_cpus=1) for _ in range(2)]
    predict, x = lowbit.Predictor(file, threads=1), images(640)

    class Model:
        """Says on which node it answers."""

        def __init__(self) -> None:
            self.node = ray.get_runtime_context().get_node_id()

        def __call__(self, batch: Any) -> Any:
            time.sleep(0.05)
            with (tmp_path / self.node).open("a") as log:
                log.write(".")
            return predict({"input": batch["data"]})

    blocks = ray.data.from_numpy(list(np.split(x, 64)))
    found = blocks.map_batches(Model, compute=ray.data.ActorPoolStrategy(size=2), num_cpus=1, batch_size=10)
    rows, killed = [], False
    for batch in found.iter_batches(batch_size=10):
        rows.append(batch["output"])
        logs = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
        if not killed and len(logs) == 2 and min(logs.values()) >= 2:
            assert sum(logs.values()) < 60
            raylets.remove_node(nodes[1], allow_graceful=False)
            killed = True
    assert killed
    np.testing.assert_array_equal(np.concatenate(rows), predict({"input": x})["output"], strict=True)


def test_a_broken_file_gives_lowbits_text(raylets: Any, file: Path, tmp_path: Path) -> None:
    import ray

    raylets.add_node(num_cpus=2)  # the actor of what failed keeps one for a while
    broken = tmp_path / "broken.lowbit"
    broken.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(lowbit.FormatError) as expected:
        lowbit.load(broken)
    blocks = ray.data.from_numpy(images(4)).map_batches(
        lowbit.Predictor, fn_constructor_args=(broken,), compute=ray.data.ActorPoolStrategy(size=1), num_cpus=1
    )
    with pytest.raises(ray.exceptions.RayError) as told:
        blocks.materialize()
    assert str(expected.value) in str(told.value)
    with pytest.raises(ray.exceptions.RayError, match=r"missing: 'input'; the batch holds 'data'"):
        ray.data.from_numpy(images(4)).map_batches(
            lowbit.Predictor, fn_constructor_args=(file,), compute=ray.data.ActorPoolStrategy(size=1), num_cpus=1
        ).materialize()
