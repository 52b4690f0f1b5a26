"""The roofline: what is measured is plausible, what binds a piece of work follows from it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lowbit
from graphs import feeds
from lowbit import _core
from lowbit.errors import InputError
from lowbit.runtime import roofline
from lowbit.runtime.roofline import Limit, Memory, Roofline
from test_session import GRAPHS

ROOF = Roofline(
    isa="avx2",
    threads=1,
    int8=1000.0,
    float32=100.0,
    memory=(
        Memory(name="L1", size=10, bandwidth=50.0),
        Memory(name="L2", size=100, bandwidth=20.0),
        Memory(name="DRAM", size=math.inf, bandwidth=5.0),
    ),
)


def test_the_machines_own() -> None:
    """Peaks are positive, dot products faster than float, the nearest memory not slower than the farthest."""
    roof = roofline.measure()
    names = [level.name for level in roof.memory]
    assert names == [*sorted(names[:-1]), "DRAM"]
    assert all(value > 1e8 for value in (roof.int8, roof.float32, *(level.bandwidth for level in roof.memory)))
    if "vnni" in roof.isa:
        assert roof.int8 > roof.float32
    assert roof.memory[0].bandwidth > 0.7 * roof.memory[-1].bandwidth
    assert [level.size for level in roof.memory] == sorted(level.size for level in roof.memory)
    assert roof.memory[-1].size == math.inf
    for text in (roof.isa, "threads: 1", "int8", "float32", *names):
        assert text in str(roof)


def test_measured_once_a_process() -> None:
    """The same question gives the same object, also when its default is said."""
    assert roofline.measure() is roofline.measure(threads=1, isa=_core.cpu()["default_isa"])
    assert roofline.measure(seconds=0.01, sizes={"L1": 1 << 15}) is not roofline.measure()


@pytest.mark.parametrize("isa", [row["isa"] for row in _core.kernels()["peak"] if row["available"]])
def test_every_instruction_set(isa: str) -> None:
    """Each row of the table can be asked for; caches are measured as they are given, with any number of threads."""
    roof = roofline.measure(isa=isa, threads=2, seconds=0.01, sizes={"L1": 1 << 14, "L2": 1 << 18})
    assert (roof.isa, roof.threads) == (isa, 2)
    assert [(level.name, level.size) for level in roof.memory] == [("L1", 1 << 14), ("L2", 1 << 18), ("DRAM", math.inf)]
    assert min(roof.int8, roof.float32, *(level.bandwidth for level in roof.memory)) > 0


@pytest.mark.parametrize(
    "wrong", [{"threads": 0}, {"threads": 1.5}, {"seconds": 0}, {"seconds": math.nan}, {"sizes": {"L1": 0}}]
)
def test_wrong_questions(wrong: dict[str, Any]) -> None:
    """Numbers that make no sense are refused."""
    with pytest.raises(InputError):
        roofline.measure(**wrong)
    with pytest.raises(lowbit.EnvironmentVariableError):
        roofline.measure(isa="sse9")


def test_loops_refuse_what_they_cannot_measure() -> None:
    """A row that is not there, a time or a number of threads out of range; data of less than a block are no data."""
    for arguments in ({"seconds": -1.0}, {"seconds": 100.0}, {"seconds": 0.0, "threads": 0}):
        with pytest.raises(InputError):
            _core.peak_int8("scalar", **arguments)
    with pytest.raises(InputError, match="no kernel"):
        _core.peak_f32("nothing", seconds=0.0)
    assert _core.peak_read("scalar", np.ones(100, np.uint8), seconds=0.0) == 0


@pytest.mark.parametrize(
    ("operations", "bytes", "dtype", "seconds", "name"),
    [
        (2000, 10, "int8", 2.0, "int8"),
        (2000, 10, "float32", 20.0, "float32"),
        (1, 10, "int8", 0.2, "L1"),
        (1, 11, "int8", 0.55, "L2"),
        (1, 1000, "float32", 200.0, "DRAM"),
        (0, 0, "float32", 0.0, "float32"),
    ],
)
def test_what_binds(operations: float, bytes: float, dtype: Any, seconds: float, name: str) -> None:
    """The larger of the two times; bytes come from the nearest memory that holds them."""
    limit = ROOF.limit(operations, bytes, dtype)
    assert (limit.seconds, limit.name) == (pytest.approx(seconds), name)


def test_a_limit_as_text_and_in_sum() -> None:
    """A sum has the name of what binds most of it; what took no time has no share."""
    limits = [Limit(seconds=1.0, name="L2"), Limit(seconds=1.5, name="int8"), Limit(seconds=1.0, name="L2")]
    assert roofline.total(limits) == Limit(seconds=3.5, name="L2")
    assert roofline.total([]) == Limit(seconds=0.0, name="")
    assert roofline.total(limits).of(7.0) == "50 % L2"
    assert roofline.total(limits).of(0.0) == ""


def cache(root: Path, index: int, **files: str) -> None:
    """What Linux tells of a cache."""
    folder = root / f"index{index}"
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text + "\n")


def test_cache_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches of data, as many as the threads have; two CPUs share a core here, four a third level."""
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    cache(tmp_path, 0, type="Data", level="1", size="48K", shared_cpu_list="0,4")
    cache(tmp_path, 1, type="Instruction", level="1", size="32K", shared_cpu_list="0,4")
    cache(tmp_path, 2, type="Unified", level="2", size="2M", shared_cpu_list="0,4")
    cache(tmp_path, 3, type="Unified", level="3", size="16384K", shared_cpu_list="0-1,4-5")
    cache(tmp_path, 4, type="Unified", level="4", size="?", shared_cpu_list="0-7")
    assert roofline.cache_sizes(1, tmp_path) == {"L1": 48 << 10, "L2": 2 << 20, "L3": 16 << 20}
    assert roofline.cache_sizes(3, tmp_path) == {"L1": 144 << 10, "L2": 6 << 20, "L3": 32 << 20}
    assert roofline.cache_sizes(99, tmp_path) == {"L1": 192 << 10, "L2": 8 << 20, "L3": 32 << 20}
    assert roofline.cache_sizes(1, tmp_path / "nothing") == roofline.ASSUMED


def test_footprints() -> None:
    """Half of a cache, but more than the nearer one holds, and less than all of it."""
    assert roofline.footprints({"L1": 32, "L2": 1024, "L3": 32768}) == {"L1": 16, "L2": 512, "L3": 16384}
    assert roofline.footprints({"L1": 32, "L2": 96, "L3": 100}) == {"L1": 16, "L2": 64, "L3": 75}


def test_profiles_are_measured_against_it() -> None:
    """Each step and the whole have a limit; a product of codes has int8's; the whole is the sum."""
    graph = GRAPHS["integer_net"]()
    profile = lowbit.Session(graph, threads=1).profile(*feeds(graph).values(), repeats=2)
    assert profile.roofline is roofline.measure(isa=profile.isa)
    limits = [row.limit(profile.roofline) for row in profile]
    assert all(limit.seconds > 0 for limit in limits)
    assert profile.limit.seconds == pytest.approx(sum(limit.seconds for limit in limits))
    product = next(row for row in profile if row.op == "quantized_conv2d")
    assert product.limit(ROOF).seconds == max(product.operations / 1000, product.bytes / 5)
    printed = str(profile).splitlines()
    assert printed[2 + list(profile).index(product)].count(f" % {product.limit(profile.roofline).name} ") == 1
    assert f" % {profile.limit.name} " in printed[-1]


def test_a_rate_that_no_thread_had_time_to_measure_is_measured_longer() -> None:
    asked: list[float] = []

    def rate(seconds: float, threads: int) -> float:
        asked.append(seconds)
        return 0.0 if seconds < 0.03 else 4.0

    assert roofline._seconds(rate, 0.01, threads=999) == 0.25
    assert asked == [0.01, 0.02, 0.04]
