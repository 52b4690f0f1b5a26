"""Hold all engines of a benchmark to AVX2 on a CPU that has more, and see of each whether it keeps to that.

Most have a variable in the environment, read when the library is loaded; so the process begins anew with all of them.
ONNX Runtime has none and asks the CPU. It gets a copy of its library, in which `cap.c` answers in the CPU's place.
While an engine runs, a timer looks at the instruction that is next: AVX-512's begin with a byte of their own.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parent.parent / "build" / "bench" / "cap"
HELD = "LOWBIT_BENCH_HELD"
ENVIRONMENT = {
    HELD: "1",
    "LOWBIT_ISA": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # torch's, CTranslate2's and OpenVINO's own copies of oneDNN
    "OV_CPU_MAX_ISA": "AVX2",  # OpenVINO's other kernels; must be as oneDNN's
    "ATEN_CPU_CAPABILITY": "avx2",  # torch's kernels and Inductor's
    "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "CT2_FORCE_CPU_ISA": "AVX2",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW,-AVX512DQ",  # memcpy's
}
ASKS = "onnxruntime.capi.onnxruntime_pybind11_state"
"""The library that asks the CPU."""
SOME = 0.02
"""A share of samples that is more than a stray one."""


def add_option(parser: argparse.ArgumentParser) -> None:
    """`--isa avx2`."""
    parser.add_argument("--isa", choices=("avx2",), help="hold all engines to it, where the CPU has more")


def hold(isa: str | None) -> None:
    """Hold all engines to the `isa` of `--isa`: does not return, the first time, but runs the program anew.

    Call it before any engine runs. Needs a C compiler and objdump, which read and build what holds ONNX Runtime.
    """
    if isa is None or not _has_more():
        return
    if HELD not in os.environ:
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ENVIRONMENT)
    _watcher().answer_cpuid()
    sys.meta_path.insert(0, _Asking())


def is_held() -> bool:
    """Whether `hold` holds this process."""
    return HELD in os.environ


def exceeds(run: Callable[[], object], seconds: float = 0.5) -> bool:
    """Whether `run` executes AVX-512's instructions, by samples of `seconds` of it."""
    watcher, end = _watcher(), time.perf_counter() + seconds
    watcher.watch()
    signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)
    while time.perf_counter() < end:
        run()
    signal.setitimer(signal.ITIMER_PROF, 0)
    return bool(watcher.sampled_wide() > SOME * watcher.sampled())


def _has_more() -> bool:
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    return "avx512f" in flags or "avx_vnni" in flags


@functools.cache
def _watcher() -> ctypes.CDLL:
    FOLDER.mkdir(parents=True, exist_ok=True)
    source, library = Path(__file__).with_suffix(".c"), FOLDER / "cap.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, source], check=True)
    return ctypes.CDLL(str(library))


class _Asking:
    """An import hook that finds the copy of `ASKS`."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != ASKS or path is None:
            return None
        original = next(Path(path[0]).glob(f"{name.rpartition('.')[2]}.*so"))
        return importlib.util.spec_from_file_location(name, _copy(original))


def _copy(original: Path) -> Path:
    """The library, with signals instead of `cpuid`; what it loads from its own folder stands beside it."""
    folder = FOLDER / f"{original.name}-{original.stat().st_size}"
    folder.mkdir(exist_ok=True)
    for neighbour in set(original.parent.glob("*.so*")) - {original}:
        link = folder / neighbour.name
        if not link.exists():
            link.symlink_to(neighbour)
    path = folder / original.name
    if not path.exists():
        code = bytearray(original.read_bytes())
        for place in _places(original, "cpuid"):
            code[place] = 0x06
        path.write_bytes(code)
    return path


def _places(library: Path, instruction: str) -> list[int]:
    """Where an instruction stands in the file."""
    program = ["objdump", "--section-headers", "--disassemble", "--section=.text", "--no-show-raw-insn", str(library)]
    shown = subprocess.run(program, check=True, capture_output=True, text=True).stdout
    text = re.search(r" \.text +\w+ +(\w+) +\w+ +(\w+)", shown)
    if text is None:
        raise ValueError(f"{library} has no code")
    address, offset = (int(number, 16) for number in text.groups())
    found = re.findall(rf"^ *(\w+):\t{instruction}\s*$", shown, re.MULTILINE)
    return [int(place, 16) - address + offset for place in found]
