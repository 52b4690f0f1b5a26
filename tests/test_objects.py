"""The object files of ISA-specific sources define nothing that the linker could share with code for an older CPU.

A weak symbol (an inline function, a template instance) compiled with AVX-512 may be the copy that the linker keeps for
all, and the baseline path would then stop with an illegal instruction. So those objects hold no `W`, `V` or `u`.
The objects are those of the build in this checkout; where there is none, or an older one, they are compiled here.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CPP = ROOT / "cpp"
SOURCES = sorted(CPP.glob("kernels/*/x86_*.cpp"))
BUILD_FLAGS = [
    "-std=c++20",
    "-O3",
    "-DNDEBUG",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
]


def isa_flags() -> dict[str, list[str]]:
    """Compiler flags of the x86 instruction sets in cpp/base/cpu.h, as cpp/isa.cmake makes them."""
    rows = re.findall(r'^ *{"(\w+)", "x86", \d+, "([^"]*)"}', (CPP / "base" / "cpu.h").read_text(), re.MULTILINE)
    return {isa: [f"-m{feature}" for feature in features.split()] for isa, features in rows}


def isa_of(source: Path) -> str:
    return source.stem.removeprefix("x86_")


def built(source: Path) -> Path | None:
    """The object that pip's build made of a source, unless something in cpp/ has changed since."""
    changed = max(path.stat().st_mtime for path in CPP.rglob("*"))
    objects = ROOT.glob(f"build/cp*/cpp/CMakeFiles/lowbit.dir/{source.relative_to(CPP)}.o")
    return next((path for path in objects if path.stat().st_mtime > changed), None)


def compiled(source: Path, folder: Path) -> Path:
    """One ISA source compiled as the build does."""
    target = folder / f"{source.stem}.o"
    flags = [*BUILD_FLAGS, "-fno-math-errno", "-fvisibility-inlines-hidden", "-w", *isa_flags()[isa_of(source)]]
    subprocess.run(["c++", *flags, "-I", CPP, "-c", source, "-o", target], check=True)
    return target


def test_every_isa_source_has_flags() -> None:
    assert SOURCES
    assert {isa_of(source) for source in SOURCES} == set(isa_flags())


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the ISA sources are for x86-64")
@pytest.mark.skipif(not (shutil.which("c++") and shutil.which("nm")), reason="needs c++ and nm")
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: str(source.relative_to(CPP)))
def test_isa_objects_share_no_symbol(source: Path, tmp_path: Path) -> None:
    target = built(source) or compiled(source, tmp_path)
    listing = subprocess.run(["nm", "-C", target], check=True, capture_output=True, text=True).stdout
    assert [line for line in listing.splitlines() if re.search(r" [WVu] ", line)] == []
