"""The object files of ISA-specific sources define nothing that the linker could share with code for an older CPU.

A weak symbol (an inline function, a template instance) compiled with AVX-512 may be the copy that the linker keeps for
all, and the baseline path would then stop with an illegal instruction. So those objects hold no `W`, `V` or `u`.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

CPP = Path(__file__).parents[1] / "cpp"
SOURCES = sorted(CPP.glob("kernels/*/x86_*.cpp"))
BUILD_FLAGS = [
    "-std=c++20",
    "-O3",
    "-DNDEBUG",
    "-DLOWBIT_HAVE_X86=1",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
]


def isa_flags() -> dict[str, list[str]]:
    """cpp/isa.cmake's list: ISA -> compiler flags."""
    lines = re.findall(r"^set\(LOWBIT_FLAGS_(\w+) (.+)\)$", (CPP / "isa.cmake").read_text(), re.MULTILINE)
    return {isa: flags.split() for isa, flags in lines}


def isa_of(source: Path) -> str:
    return source.stem.removeprefix("x86_")


def shared_symbols(source: Path, folder: Path) -> list[str]:
    """Compiles one ISA source as the build does; its weak, weak-object and unique symbols."""
    target = folder / f"{source.parent.name}_{source.stem}.o"
    flags = [*BUILD_FLAGS, "-fno-math-errno", "-fvisibility-inlines-hidden", "-w", *isa_flags()[isa_of(source)]]
    subprocess.run(["c++", *flags, "-I", CPP, "-c", source, "-o", target], check=True)
    listing = subprocess.run(["nm", "-C", target], check=True, capture_output=True, text=True).stdout
    return [line for line in listing.splitlines() if re.search(r" [WVu] ", line)]


def test_every_isa_source_has_flags() -> None:
    assert SOURCES
    assert {isa_of(source) for source in SOURCES} == set(isa_flags())


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the ISA sources are for x86-64")
@pytest.mark.skipif(not (shutil.which("c++") and shutil.which("nm")), reason="needs c++ and nm")
def test_isa_objects_share_no_symbol(tmp_path: Path) -> None:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = dict(zip(SOURCES, pool.map(lambda source: shared_symbols(source, tmp_path), SOURCES), strict=True))
    assert {str(source.relative_to(CPP)): symbols for source, symbols in found.items() if symbols} == {}
