"""Whole models under pytest-benchmark, batch 1: `pytest bench/bench_models.py --threads 1`.

The time is lowbit's own; the ratios to the peers, from interleaved rounds of the same run, stand below the table.
"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench_peers import compare, prepare
from conftest import Ratios
from zoo import MODELS


@pytest.mark.parametrize("name", MODELS)
def test_model(name: str, benchmark: BenchmarkFixture, threads: int, rounds: int, ratios: Ratios) -> None:
    """Each engine computes the model; lowbit's time is the benchmark's."""
    try:
        subject = MODELS[name]()
    except ImportError as error:
        pytest.skip(f"{name} needs a package of the extra 'bench': {error}")
    runs = prepare(subject, threads=threads)
    results = compare(subject, runs, rounds=rounds)
    ratios[name] = {result.engine: result.timing.lowest for result in results}
    benchmark.group = name
    benchmark.extra_info.update({result.engine: result.timing.lowest for result in results}, threads=threads)
    benchmark(runs["lowbit int8"], subject.image)
