"""The benchmarks run, check their results and name the peers that are missing; how fast anything is, is not tested."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import bench_int4
import bench_never_slower
import bench_peers
import bench_sparse
from int4_layers import Layer
from int4_peers import PEERS
from layers import product
from lowbit import _core
from lowbit.runtime import roofline
from lowbit.runtime.timing import interleave, take_turns

BENCH = Path(__file__).parent.parent / "bench"
ASKING = """#include <cpuid.h>
unsigned features(void) { unsigned a, b, c, d; __cpuid_count(7, 0, a, b, c, d); return b; }
"""
"""A library that asks the CPU what it has, in C: AVX2 is bit 5."""
CAPPED = """
import ctypes, sys
from pathlib import Path
import cap
cap._watcher().answer_cpuid()
original, copy = Path(sys.argv[1]), cap._copy(Path(sys.argv[1]))
asked = [ctypes.CDLL(str(path)).features() & 0xFFFFFFFF for path in (original, copy)]
print(*asked, cap.exceeds(lambda: sum(range(1000)), 0.1), cap._watcher().sampled() > 0)
"""


def test_take_turns() -> None:
    """Every contestant is measured once a round, in order; the lowest and the median are those of the rounds."""
    seconds = iter([5.0, 50.0, 1.0, 10.0, 3.0, 30.0])
    order: list[str] = []

    def contestant(name: str) -> float:
        order.append(name)
        return next(seconds)

    times = take_turns({name: partial(contestant, name) for name in "ab"}, rounds=3)
    assert order == ["a", "b"] * 3
    assert (times["a"].lowest, times["a"].median) == (1.0, 3.0)
    assert (times["b"].lowest, times["b"].median) == (10.0, 30.0)


def test_interleave() -> None:
    """Calls are timed in seconds, and called at least three times a round."""
    calls: list[int] = []
    times = interleave({"append": lambda: calls.append(0)}, rounds=2, seconds=1e-9)
    assert len(calls) >= 3 + 2 * 3
    assert 0 < times["append"].lowest <= times["append"].median < 1


def test_sqnr() -> None:
    """Ten times less noise amplitude is 20 dB; another shape is not an answer."""
    reference = np.ones(100, np.float32)
    assert bench_peers.sqnr(reference, reference * np.float32(0.9)) == pytest.approx(20, abs=1e-4)
    assert bench_peers.sqnr(reference, reference.copy()) == 200
    with pytest.raises(ValueError, match="shape"):
        bench_peers.sqnr(reference, reference[:50])


def test_peers() -> None:
    """The table has a row for each engine that is installed, all held to an instruction set; the others are named."""
    command = [sys.executable, str(BENCH / "bench_peers.py"), "--models", "mnist", "--rounds", "1", "--batch", "2"]
    done = subprocess.run([*command, "--isa", "avx2"], capture_output=True, text=True, check=True)
    for engine, modules in {
        "ONNX Runtime": ("onnx", "onnxruntime", "onnxscript"),
        "OpenVINO": ("openvino", "nncf"),
        "torch": ("torchao",),
    }.items():
        installed = all(find_spec(module) for module in modules)
        assert (f"| mnist | {engine} int8 |" in done.stdout) == installed
        assert (f"skipped for mnist: {engine}" in done.stderr) == (not installed)
    assert re.search(r"\| mnist \| lowbit int8 \|.*\| \d+ % \w+ \|", done.stdout)
    assert "| mnist | torch float32 |" in done.stdout
    assert ", batch 2;" in done.stdout
    assert "avx512vnni" not in done.stdout
    assert "not capped" not in done.stdout


def test_isa(tmp_path: Path) -> None:
    """A library that asks the CPU hears of AVX2 and all before, and of no more; what runs is looked at."""
    source, library = tmp_path / "asking.c", tmp_path / "asking.so"
    source.write_text(ASKING)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    program = [sys.executable, "-c", CAPPED, str(library)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(BENCH), *sys.path])}
    done = subprocess.run(program, capture_output=True, text=True, check=True, env=environment)
    cpu, held, exceeds, sampled = done.stdout.split()
    avx512 = sum(1 << bit for bit in (16, 17, 21, 26, 27, 28, 30, 31))
    assert int(held) == int(cpu) & ~avx512
    assert int(held) & 1 << 5 or "avx2" not in _core.cpu()["isas"]
    assert (exceeds, sampled) == ("False", "True")


def test_kernels() -> None:
    """An operator is checked on every instruction set, then timed."""
    command = [sys.executable, "-m", "pytest", str(BENCH / "bench_kernels.py"), "--rounds=1", "-k", "product and 16"]
    done = subprocess.run(
        [*command, "--benchmark-max-time=0.1"], capture_output=True, text=True, check=False, cwd=BENCH.parent
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"product 16 1024 1024: \S+ [\d.]+ ms \(\d+ % \w+\);.* scalar [\d.]+ \(\d+ % \w+\)", done.stdout)
    assert "torch float32" in done.stdout


def test_layers() -> None:
    """A layer is checked, then timed against the peers; what all take on average stands below."""
    command = [sys.executable, str(BENCH / "bench_layers.py"), "--sections", "depthwise", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.search(r"\| 7 x 7 x 960 \| [\d.]+ \| \d+ % \w+ \| [\d.]+ \| [\d.]+ \([\d.]+\) \| \S+ % \|", done.stdout)
    assert re.search(r"geometric mean of the times / lowbit's: oneDNN [\d.]+ \([\d.]+\)", done.stdout)


def test_int4() -> None:
    """A layer in two copies is checked against all peers that are installed, and timed with them."""
    roof = roofline.measure(threads=1, seconds=0.02)
    layer = Layer(rows=3, outputs=64, depth=128, group=32, copies=2)
    result = bench_int4.measure(layer, tuple(PEERS), roof, threads=1, rounds=1)
    assert {"lowbit", "lowbit int8", "torch", "kernel", "quantizing"} <= set(result.times)
    assert re.search(r"GB/s \| \d+ % DRAM \|", bench_int4.line("layer", layer, result, ["torch"]))


def test_sparse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A small layer through the sections that are quick: a line for each pattern, a verdict, a picture."""
    monkeypatch.setattr(bench_sparse, "SHAPES", {"small": product(40, 64, 64)})
    monkeypatch.setattr(bench_sparse, "LAYERS", bench_sparse.SHAPES)
    monkeypatch.setattr(bench_sparse, "SPARSITIES", (0.0, 0.9))
    monkeypatch.setattr(bench_sparse, "NOTABLE", 1e9)
    roof = roofline.measure(threads=1, seconds=0.02)
    options = bench_sparse.Options(threads=1, rounds=6, roof=roof, plot=tmp_path / "plot.svg")
    text = "\n".join(
        line for name in ("patterns", "break-even", "slower") for line in bench_sparse.SECTIONS[name](options)
    )
    assert len(re.findall(r"\d\.\d\d \(\d+\.\d\d\)", text)) == 6
    assert "0 of 4 are slower with zeros" in text
    assert (tmp_path / "plot.svg").read_text().count("<polyline") == 2


def test_load() -> None:
    """Every installed engine answers in a process of its own; lowbit's figures are held against the bounds."""
    command = [sys.executable, str(BENCH / "bench_load.py"), "--model", "mnist", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert re.search(r"\| lowbit int8 \|( \d+\.\d+ \|){4}( \d+ \|){2}", done.stdout), done.stderr
    assert re.search(r"session.run [\d.]+ us, session.run_into [\d.]+ us", done.stdout)


def test_order() -> None:
    """The intervals of tables for the sign test: from the first of 6 values to the last, from the fourth of 15."""
    assert [bench_never_slower.order(count) for count in (6, 8, 9, 15, 21)] == [0, 0, 1, 3, 5]
    with pytest.raises(ValueError, match="5 rounds"):
        bench_never_slower.order(5)


def test_never_slower() -> None:
    """Every network has a line for the whole, and for the layers nearest to float32's time."""
    command = [sys.executable, str(BENCH / "bench_never_slower.py"), "--models", "mnist", "--rounds", "6"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "| mnist | the whole network |" in done.stdout, done.stderr
    assert done.stdout.count("| mnist | ") >= 4
    assert re.search(r"\d of \d+ are slower in int8", done.stdout)


def test_roofline() -> None:
    """A line for each instruction set and number of threads."""
    command = [sys.executable, str(BENCH / "bench_roofline.py"), "--threads", "1,2", "--seconds", "0.02"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line.split() for line in done.stdout.splitlines()[4:]]
    assert [line[:2] for line in lines] == [[isa, n] for isa in reversed(_core.cpu()["isas"]) for n in ("1", "2")]
    assert all(float(rate) > 0 for line in lines for rate in line[2:])


def test_dynamic() -> None:
    """Free sizes give the numbers of fixed ones; every length has a row."""
    command = [sys.executable, str(BENCH / "bench_dynamic.py"), "--lengths", "1,5", "--rounds", "1", "--layers", "1"]
    done = subprocess.run([*command, "--seconds", "0.001"], capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in done.stdout.splitlines()[2:4]] == ["1", "5"]
    assert "largest ratio" in done.stdout


def test_compile() -> None:
    """torch.compile on one architecture stays within the benchmark's bounds."""
    command = [sys.executable, str(BENCH / "bench_compile.py"), "super_resolution", "--batches", "1,2,3"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "super_resolution  1.0000" in done.stdout
