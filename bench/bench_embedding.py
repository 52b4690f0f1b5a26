"""What a program in C takes to load a file and answer once, beside a Python process: whole, and load and run alone.

    python bench/bench_embedding.py net.lowbit [--rounds 9]

Both start in processes of their own, in turn, with one thread a call and warm files, and run zeros at the smallest
sizes; the C program is compiled here against the installed lowbit, or the one in this checkout. Times are the lowest of
the rounds. Below: what both readers take in one process, of which the rest is the core's. Exits with 1 where the C
program takes more than `BOUND` of Python's process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

BOUND = 0.6
"""Of the time of Python's process."""
SOURCE = r"""
#include <lowbit.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(int argc, char** argv) {
  const lowbit_api* lowbit = lowbit_get_api(LOWBIT_API_VERSION);
  lowbit_options options = {sizeof(lowbit_options), 1, NULL, 0, 0, 0};
  lowbit_model* model;
  lowbit_tensor inputs[8], outputs[8];
  size_t i, count, made;
  double start = now(), loaded;
  if (argc < 2 || lowbit->load_file(argv[1], &options, &model) != LOWBIT_OK) return 1;
  loaded = now();
  count = lowbit->input_count(model), made = lowbit->output_count(model);
  for (i = 0; i < count; ++i) {
    lowbit_port port;
    int axis;
    static const size_t sizes[] = {4, 2, 2, 8, 4, 1, 1, 1};
    lowbit->input(model, i, &port);
    inputs[i].dtype = port.dtype, inputs[i].rank = port.rank, inputs[i].bytes = sizes[port.dtype];
    for (axis = 0; axis < port.rank; ++axis)
      inputs[i].bytes *= (size_t)(inputs[i].shape[axis] = port.shape[axis] < 0 ? 1 : port.shape[axis]);
    inputs[i].data = calloc(inputs[i].bytes, 1);
  }
  if (lowbit->output_shapes(model, inputs, count, outputs, made) != LOWBIT_OK) return puts(lowbit->error_text()), 1;
  for (i = 0; i < made; ++i) outputs[i].data = malloc(outputs[i].bytes);
  if (lowbit->run(model, inputs, count, outputs, made) != LOWBIT_OK) return puts(lowbit->error_text()), 1;
  printf("{\"load\": %f, \"run\": %f}\n", loaded - start, now() - loaded);
  return 0;
}
"""
PYTHON = """
import sys, time, json
start = time.perf_counter()
import numpy as np
import lowbit
imported = time.perf_counter()
model = lowbit.load(sys.argv[1], threads=1)
loaded = time.perf_counter()
types, free = lowbit.graph.ir.DTYPES, model.session.graph.symbols
arrays = [np.zeros([1 if s in free else s for s in v.shape], types[v.dtype]) for _, v in model.session.inputs]
begin = time.perf_counter()
model.session.run_list(arrays)
print(json.dumps({"import": imported - start, "load": loaded - imported, "run": time.perf_counter() - begin}))
"""


def directories() -> tuple[Path, Path]:
    """Of headers and of the library: the installed ones, or else those of this checkout."""
    from lowbit import _core
    from lowbit.embedding import directory
    from lowbit.errors import LowbitError

    try:
        return directory("--include-dir"), directory("--library-dir")
    except LowbitError:
        assert _core
        lines = Path("/proc/self/maps").read_text().splitlines()
        library = next(Path(line.split(maxsplit=5)[5]) for line in lines if line.endswith("/liblowbit.so"))
        return Path(__file__).resolve().parent.parent / "cpp" / "include", library.parent


def compiled(folder: Path) -> Path:
    """The C program."""
    headers, library = directories()
    source, program = folder / "once.c", folder / "once"
    source.write_text(SOURCE)
    link = [f"-I{headers}", f"-L{library}", f"-Wl,-rpath,{library}", "-llowbit"]
    subprocess.run(["cc", "-O2", source, "-o", program, *link], check=True)
    return program


def once(command: list[str]) -> dict[str, float]:
    """Seconds of a process: whole, and what it says of its parts."""
    import time

    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return {"process": time.perf_counter() - start, **found, "load and run": found["load"] + found["run"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        commands = {
            "C": [str(compiled(Path(folder))), str(arguments.file)],
            "Python": [sys.executable, "-c", PYTHON, str(arguments.file)],
        }
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
        for _ in range(arguments.rounds):
            for name, command in commands.items():
                rounds[name].append(once(command))
    best = {name: {key: min(each[key] for each in found) for key in found[0]} for name, found in rounds.items()}
    for name, times in best.items():
        print(f"{name:8}" + "  ".join(f"{key} {1e3 * seconds:.1f} ms" for key, seconds in times.items()))
    ratio = best["C"]["process"] / best["Python"]["process"]
    inside = best["C"]["load and run"] / best["Python"]["load and run"]
    print(f"C takes {ratio:.2f} of Python's process, and {inside:.2f} of its load and run")
    sys.exit(ratio > BOUND)


if __name__ == "__main__":
    main()
