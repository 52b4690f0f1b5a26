"""Mutated files, and sound ones of odd shapes: each is refused with a LowbitError, or runs as the interpreter says; and
neither loading nor running takes more memory or time than is promised (docs/reliability.md).

Run for longer, or under a sanitizer, as `python tests/test_fuzz.py --seconds 120`; a seed and a number repeat one case.
"""

from __future__ import annotations

import argparse
import faulthandler
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lowbit
from fuzz_seeds import alone
from graphs import GRAPHS, feeds
from lowbit.errors import LowbitError
from lowbit.graph import dims
from lowbit.graph.ir import Array, Graph
from lowbit.ops import interpreter
from lowbit.runtime import format
from lowbit.runtime import model as runtime_model
from mutations import CHANGES, Document, File, Many, mutate, packed, vary
from resources import MB, Spent, give_back, measured, resident

SANITIZED = "asan" in os.environ.get("LD_PRELOAD", "")
"""The sanitizer's own memory and time are not lowbit's."""
SLOWEST = 120.0
"""Seconds after which a case hangs, on a busy machine and under a sanitizer."""
MEMORY, SECONDS = 256 * MB, 1.0
LIMITS = lowbit.Limits(memory=MEMORY, operations=1e9, seconds=SECONDS)
"""Of each session."""
DEFAULT = lowbit.Limits(operations=1e9, seconds=SECONDS)
"""Without a limit of memory, which would be how much packed tensors may take unpacked."""
MAX_INPUT = 4e6
"""Elements of inputs that are worth a run."""
MAX_WORK = 3e7
"""Elements and multiply-adds beyond which the interpreter does not repeat a run; less in most cases of a long one."""
EXACT = {
    "quantize", "dequantize", "dynamic_quantize", "quantize_groups", "lookup", "quantized_conv2d", "quantized_conv3d",
    "quantized_conv_transpose2d", "quantized_conv_transpose3d", "quantized_embedding", "quantized_linear",
    "quantized_embedding_bag", "quantized_add", "quantized_mul", "quantized_avg_pool2d",
    "pack_signs", "sign_conv2d", "sign_linear",
    "quantized_adaptive_avg_pool2d", "max_pool2d", "reshape",
    "transpose", "pad", "concat", "slice", "clip", "add", "sub",
    "mul", "resize", "prelu", "max_pool2d_with_indices", "adaptive_max_pool2d_with_indices", "max_unpool2d",
    "minimum", "maximum", "floor_div", "trunc_div", "remainder", "fmod", "compare", "logical", "logical_not", "where",
    "expand", "triangle", "take", "gather", "index", "scatter", "index_put", "argmax", "sort", "topk",
    "arange", "dim_value",
}  # fmt: skip
"""Operators whose float outputs are the interpreter's bit for bit."""


class TooMuchError(AssertionError):
    """Memory or time beyond what is promised."""


def require(spent: Spent, peak: float, seconds: float, what: str) -> None:
    if SANITIZED:
        return
    if spent.peak > peak:
        raise TooMuchError(f"{what} took {spent.peak / MB:.0f} MB, more than {peak / MB:.0f}")
    if spent.seconds > seconds:
        raise TooMuchError(f"{what} took {spent.seconds:.1f} s, more than {seconds:.1f}")


def load(path: Path, base: int | None, limits: lowbit.Limits = LIMITS) -> lowbit.Model:
    """Loads it within what is promised of a file of this size. Raises LowbitError, TooMuchError."""
    size = path.stat().st_size
    try:
        with measured(base) as spent:
            return runtime_model.load(path, threads=1, limits=limits)
    finally:
        require(spent, 64 * MB + 8 * size, 2 + 2 * size / MB, f"loading {size} bytes")


def call(model: lowbit.Model, feed: dict[str, Array]) -> list[Array]:
    """Runs it within its limits, and once as a model. Raises LowbitError, TooMuchError."""
    try:
        with measured() as spent:
            got = model.session.run(**feed)
    finally:
        require(spent, MEMORY + 8 * MB, SECONDS + 1, "a call")
    model(**feed)
    return got


def elements(graph: Graph, name: str, sizes: dict[str, int], first: int = 0) -> float:
    """How many elements a value has, over its axes from `first` on."""
    return math.prod(float(dims.evaluate(dim, sizes)) for dim in graph.values[name].shape[first:])


def work(graph: Graph, sizes: dict[str, int]) -> float:
    """About how many elements are touched and multiplied."""
    total = sum(elements(graph, name, sizes) for name in graph.inputs)
    for node in graph.nodes:
        each = math.prod(map(float, node.attrs.get("kernel", ())))  # type: ignore[arg-type]
        if node.op.startswith(("conv", "linear")):
            each = elements(graph, node.inputs[1], sizes, first=1)
        total += each * sum(elements(graph, name, sizes) for name in node.outputs)
    return total


def compare(graph: Graph, got: list[Array], feed: dict[str, Array]) -> None:
    expected = interpreter.run(graph, feed, keep=[name for node in graph.nodes for name in node.outputs])
    ops = {node.op for node in graph.nodes}
    # Of weights, too: sums with huge ones pass what a float holds in one order, and not in another.
    numbers = [*expected.values(), *(each for each in graph.constants.values() if isinstance(each, np.ndarray))]
    with np.errstate(invalid="ignore"):
        largest = max(float(np.abs(array.astype(np.float64)).max(initial=0)) for array in numbers)
    for name, array in zip(graph.outputs, got, strict=True):
        assert (array.dtype, array.shape) == (expected[name].dtype, expected[name].shape)
        if ops <= EXACT:
            np.testing.assert_array_equal(array, expected[name])
        elif not ops & {"quantize", "dynamic_quantize", "quantize_groups", "cast"} and largest < 1000:
            np.testing.assert_allclose(array, expected[name], rtol=1e-3, atol=1e-3)


def try_file(path: Path, base: int | None = None, most: float = MAX_WORK) -> str:
    """ "refused", "loaded", "ran" or "equal" to the interpreter; anything but a LowbitError on the way is a failure."""
    try:
        try:
            model = load(path, base)
        except TooMuchError:  # within the limit of memory, perhaps, but not within what is promised without
            model = load(path, base, DEFAULT)
        graph = model.session.graph
        sizes = {name: symbol.minimum for name, symbol in graph.symbols.items()}
        if sum(elements(graph, name, sizes) for name in graph.inputs) > MAX_INPUT:
            return "loaded"
        feed = feeds(graph, sizes)
        got = call(model, feed)
        if work(graph, sizes) > most:
            return "ran"
        compare(format.load(path)[0], got, feed)
    except LowbitError:
        return "refused"
    return "equal"


def described(graph: Graph) -> dict[str, Any]:
    """Metadata of a call by position, whose result is a dict."""
    parameters = [{"name": i, "kind": "positional", "tree": {"tensor": i, "dtype": "f32"}} for i in graph.inputs]
    output = {"dict": {f"output {index}": {"tensor": index} for index in range(len(graph.outputs))}}
    return {"signature": {"parameters": parameters}, "output": output, "producer": "lowbit"}


def originals(directory: Path) -> list[bytes]:
    """The sound files that cases start from: whole graphs, and a node of each operator."""
    graphs, known = [make() for make in GRAPHS.values()], set[str]()
    for graph in tuple(graphs):
        for place, node in enumerate(graph.nodes):
            if node.op not in known:
                graphs.append(alone(graph, place))
                known.add(node.op)
    files, path = [], directory / "original.lowbit"
    for index, graph in enumerate(graphs):
        format.save(path, graph, described(graph), compress=index % 2 == 1)
        load(path, None)
        files.append(path.read_bytes())
    return files


def case(files: list[bytes], rng: random.Random, most: int) -> bytes:
    """One case in sixteen is another sound file, one in fifty packs much; the others are mutated."""
    if not rng.randrange(50):
        return packed(rng, most * rng.choice([1, 1, 1, 4]))
    if rng.randrange(16):
        return mutate(rng.choice(files), rng, most)
    graph = GRAPHS[rng.choice(list(GRAPHS))]()
    for _ in range(50):
        try:
            changed = vary(graph, rng)
            return format.dumps(changed, described(changed))
        except LowbitError:
            continue
    return format.dumps(graph, described(graph))


def confirm(path: Path) -> bool:
    """Whether a file takes too much in a process of its own, too, where nothing of earlier cases is left."""
    return subprocess.run([sys.executable, __file__, "--file", path], capture_output=True, check=False).returncode != 0


@dataclass(frozen=True, kw_only=True)
class Run:
    """Cases of a seed, from the number `first` on; most: bytes that items may add where they become many."""

    seed: int
    first: int = 0
    most: int = 1 << 18

    def cases(self, directory: Path, seconds: float, count: float = math.inf) -> Counter[str]:
        """Tries cases until the time is over; a case that fails stays in the directory. Returns how they ended."""
        files, counts, slowest = originals(directory), Counter[str](), (0.0, 0)
        path, base, begin, index = directory / "case.lowbit", resident(), time.monotonic(), self.first
        watched = -math.inf
        while index < self.first + count and (now := time.monotonic()) - begin < seconds:
            if now - watched > SLOWEST / 10:  # it starts a thread, which takes as long as a case
                faulthandler.dump_traceback_later(SLOWEST, exit=True)
                watched = now
            if resident() > base + 8 * MB:  # what earlier cases left is none of this one's
                give_back()
                base = resident()
            rng = random.Random(f"{self.seed}:{index}")
            path.unlink(missing_ok=True)  # to overwrite one waits for the disk on some file systems
            path.write_bytes(case(files, rng, self.most))
            start = time.process_time()
            try:
                counts[try_file(path, base, MAX_WORK * rng.choice([0, 0, 0, 1e-2, 1]))] += 1
            except BaseException as error:
                faulthandler.cancel_dump_traceback_later()  # confirming may take long on a busy machine
                watched = -math.inf
                if not isinstance(error, TooMuchError) or confirm(path):
                    print(f"failed: --seed {self.seed} --first {index} --count 1 --most {self.most}", flush=True)
                    raise
            slowest, index = max(slowest, (time.process_time() - start, index)), index + 1
        faulthandler.cancel_dump_traceback_later()
        took = f"slowest {slowest[0]:.3f} s (number {slowest[1]})"
        print(f"seed {self.seed}: {sum(counts.values())} cases, {dict(counts)}, {took}", flush=True)
        return counts


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return originals(tmp_path_factory.mktemp("originals"))


@pytest.mark.parametrize("seed", [1, 3])
def test_mutated_files(seed: int, tmp_path: Path) -> None:
    counts = Run(seed=seed).cases(tmp_path, 3.0)
    assert counts["refused"] > 0


@pytest.mark.parametrize("change", dict.fromkeys(CHANGES), ids=lambda change: change.__name__)
def test_many_items_take_no_more_than_promised(
    change: Callable[[Many, Document], None], files: list[bytes], tmp_path: Path
) -> None:
    rng, path = random.Random(change.__name__), tmp_path / "case.lowbit"
    for _ in range(6):
        file = File.read(rng.choice(files))
        if file.document["constants"] and file.document["symbols"]:
            change(Many(rng, 1 << 18), file.document)
            path.write_bytes(file.bytes())
            with suppress(LowbitError):
                load(path, None)


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_packed_weights_take_no_more_than_promised(first: int, tmp_path: Path) -> None:
    """Codes of few bits, blocks and streams, read as codes, as numbers, by the caller, in very many groups."""
    path, counts = tmp_path / "case.lowbit", Counter[bool]()
    for seed in range(first, first + 10):
        path.write_bytes(packed(random.Random(seed), MB))
        try:
            load(path, None, DEFAULT)
            counts[True] += 1
        except LowbitError:
            counts[False] += 1
        except TooMuchError:
            assert not confirm(path)
    assert counts[True] > 3


def test_too_much_is_seen() -> None:
    """A block's own peak, though it is gone at the end."""
    give_back()
    with measured() as spent:
        np.ones(200 * MB, np.uint8)
    assert spent.peak >= 100 * MB  # the system may page out what is idle meanwhile
    with pytest.raises(TooMuchError, match="a test took 30 MB, more than 20"):
        require(Spent(peak=30 * MB), 20 * MB, 1, "a test")
    with pytest.raises(TooMuchError, match="a test took 3"):
        require(Spent(seconds=3.0), 20 * MB, 1, "a test")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument("--count", type=float, default=math.inf, help="of cases")
    parser.add_argument("--most", type=int, default=1 << 18, help="bytes that items may add where they become many")
    parser.add_argument("--processes", type=int, default=1, help="with seeds one after the other")
    parser.add_argument("--file", type=Path, help="a file instead")
    parser.add_argument("--keep", type=Path, help="where a case is written; else in a directory that goes")
    arguments = parser.parse_args()
    faulthandler.enable()
    with tempfile.TemporaryDirectory() as temporary:
        directory = arguments.keep or Path(temporary)
        if arguments.file is not None:
            originals(directory)  # imports all that a load needs
            print(try_file(arguments.file))
        elif arguments.processes > 1:
            sys.exit(several(arguments.processes, arguments.seed, sys.argv[1:]))
        else:
            run = Run(seed=arguments.seed, first=arguments.first, most=arguments.most)
            run.cases(directory, arguments.seconds, arguments.count)


def several(processes: int, seed: int, options: list[str]) -> int:
    """The same in many processes. Returns 1 if one of them failed."""
    commands = [
        [sys.executable, __file__, *options, "--processes", "1", "--seed", f"{seed + i}"] for i in range(processes)
    ]
    running = [subprocess.Popen(command) for command in commands]
    return max(1 if process.wait() else 0 for process in running)


if __name__ == "__main__":
    main()
