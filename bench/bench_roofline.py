"""What this machine can do at most: the peaks and bandwidths that the other benchmarks' shares refer to.

    python bench/bench_roofline.py [--threads 1,2] [--seconds 1]

One line for each instruction set and number of threads; see `lowbit.runtime.roofline`.
"""

from __future__ import annotations

import argparse

from lowbit import _core
from lowbit.runtime import roofline
from lowbit.runtime.profile import table


def line(roof: roofline.Roofline) -> tuple[str, ...]:
    """Of the table."""
    rates = (roof.int8, roof.float32, *(memory.bandwidth for memory in roof.memory))
    return (roof.isa, str(roof.threads), *(f"{rate / 1e9:.1f}" for rate in rates))


def main() -> None:
    """Print the machine and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", default="1")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each line")
    options = parser.parse_args()
    sizes = roofline.cache_sizes()
    print(f"{_core.cpu()['model']}; {', '.join(f'{name} {size >> 10:,} KiB' for name, size in sizes.items())}\n")
    lines = [("kernels", "threads", "int8 GOP/s", "float32 GFLOP/s", *(f"{name} GB/s" for name in sizes), "DRAM GB/s")]
    for isa in reversed(_core.cpu()["isas"]):
        for threads in map(int, options.threads.split(",")):
            lines.append(line(roofline.measure(threads=threads, isa=isa, seconds=options.seconds)))
    print(table(lines, right=range(1, len(lines[0]))))


if __name__ == "__main__":
    main()
