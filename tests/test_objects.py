"""The object files of ISA-specific sources define nothing that the linker could share with code for an older CPU.

A weak symbol (an inline function, a template instance) compiled with AVX-512 may be the copy that the linker keeps for
all, and the baseline path would then stop with an illegal instruction. So those objects hold no `W`, `V` or `u`.
The objects are those of the build in this checkout; where there is none, or an older one, they are compiled here.
"""

from __future__ import annotations

import json
import platform
import re
import shlex
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
    objects = ROOT.glob(f"build/cp*/cpp/CMakeFiles/lowbit_objects.dir/{source.relative_to(CPP)}.o")
    return next((path for path in objects if path.stat().st_mtime > changed), None)


def compiled(source: Path, folder: Path) -> Path:
    """One ISA source compiled as the build does."""
    target = folder / f"{source.stem}.o"
    flags = [*BUILD_FLAGS, "-fno-math-errno", "-fvisibility-inlines-hidden", "-w", *isa_flags()[isa_of(source)]]
    subprocess.run(["c++", *flags, "-I", CPP, "-c", source, "-o", target], check=True)
    return target


def test_each_instruction_set_has_its_line() -> None:
    """kIsas is in the order of Isa."""
    text = (CPP / "base" / "cpu.h").read_text()
    names = re.findall(r'^ *{"(\w+)", "\w+", \d+, ', text, re.MULTILINE)
    match = re.search(r"enum class Isa { (.+) };", text)
    assert match
    assert match[1].split(", ") == names


def test_every_isa_source_has_flags() -> None:
    assert SOURCES
    assert {isa_of(source) for source in SOURCES} == set(isa_flags())


on_x86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the ISA sources are for x86-64")


@on_x86
@pytest.mark.skipif(not (shutil.which("c++") and shutil.which("nm")), reason="needs c++ and nm")
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: str(source.relative_to(CPP)))
def test_isa_objects_share_no_symbol(source: Path, tmp_path: Path) -> None:
    target = built(source) or compiled(source, tmp_path)
    listing = subprocess.run(["nm", "-C", target], check=True, capture_output=True, text=True).stdout
    assert [line for line in listing.splitlines() if re.search(r" [WVu] ", line)] == []


NEW_ROW = """// A throw-away instruction set.
#if !defined(__AVX512F__) || defined(__AVX512VNNI__)
#error "not compiled with the features of avx512"
#endif
#include "kernels/gemm_f32/tile.h"
#include "simd/vectors512.h"

namespace lowbit::kernels {

extern constinit const GemmF32Kernel gemm_f32_avx512_2x16 = {
    {"avx512_2x16", Isa::avx512}, 2, 16, tiles<Avx512, 2, 1>()};

}  // namespace lowbit::kernels
"""
THREE_FILES = {
    "base/cpu.h": [
        ("enum class Isa { scalar, ", "enum class Isa { scalar, avx512, "),
        (
            '    {"avx2", "x86", ',
            '    {"avx512", "x86", 16, "avx2 fma f16c avx512f avx512bw avx512dq avx512vl"},\n    {"avx2", "x86", ',
        ),
    ],
    "kernels/gemm_f32/x86_avx512.cpp": [("", NEW_ROW)],
    "kernels/x86.cpp": [
        ("extern const GemmF32Kernel ", "extern const GemmF32Kernel gemm_f32_avx512_2x16, "),
        (" kGemmF32[] = {", " kGemmF32[] = {&gemm_f32_avx512_2x16, "),
    ],
}


@on_x86
@pytest.mark.skipif(not (shutil.which("c++") and shutil.which("nm") and shutil.which("cmake")), reason="needs cmake")
def test_a_row_of_a_new_instruction_set_takes_three_files(tmp_path: Path) -> None:
    """As docs/extending.md says: the build finds its flags, and the table of the architecture its row."""
    shutil.copy(ROOT / "CMakeLists.txt", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(CPP, tmp_path / "cpp")
    for name, changes in THREE_FILES.items():
        path = tmp_path / "cpp" / name
        text = path.read_text() if path.exists() else ""
        for before, after in changes:
            assert before in text
            text = text.replace(before, after, 1)
        path.write_text(text)
    build = tmp_path / "build"
    configure = ["cmake", "-S", tmp_path, "-B", build, "-DLOWBIT_PYTHON=OFF", f"-DLOWBIT_JSON_INCLUDE={tmp_path}"]
    subprocess.run(configure, check=True, capture_output=True)
    commands = {entry["file"]: entry["command"] for entry in json.loads((build / "compile_commands.json").read_text())}
    symbols = {}
    for source in ("kernels/gemm_f32/x86_avx512.cpp", "kernels/x86.cpp", "base/cpu.cpp"):
        command = shlex.split(commands[str(tmp_path / "cpp" / source)])
        command[command.index("-o") + 1] = str(build / "object.o")
        subprocess.run(command, check=True, cwd=build)
        listing = subprocess.run(["nm", build / "object.o"], check=True, capture_output=True, text=True).stdout
        symbols[source] = set(re.findall(r" (\w) \w*gemm_f32_avx512_2x16", listing))
    (defined,) = symbols["kernels/gemm_f32/x86_avx512.cpp"]
    assert defined in "DR"
    assert symbols["kernels/x86.cpp"] == {"U"}
