"""The code that a compiler makes of hot tiles: what their innermost loops pass through the stack, and how large it is.

Neither is seen by tests of results, and either may cost a third of the speed.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from disassembly import disassemble, functions

ROOT = Path(__file__).parent.parent
INT8, FLOAT = r"vpmaddubsw|vpmaddwd|vpdpbusd", r"vfmadd\d+ps|vmulps"


@dataclass(frozen=True)
class Bounds:
    """Of a family's functions that multiply in loops.

    tile: what is found in their names. product: the instructions that multiply. stack: vectors stored on the stack or
    read from it in an innermost loop, for each product in it. Then bytes of a loop's code, and of the function's.
    """

    tile: str
    product: str = INT8
    stack: float = 0
    loop_bytes: int = 1024
    tile_bytes: int = 12 * 1024


FAMILIES = {
    "gemm_i8": Bounds(r"\bTile<"),
    "gemm_f32": Bounds(r"\bTile<", FLOAT),
    # On 256 bits, sums of 16 bits are in registers, and the accumulators they go to lie on the stack.
    "gemm_i4": Bounds(r"\bTile<", stack=0.6, loop_bytes=1536, tile_bytes=16 * 1024),
    "gemm_s8": Bounds(r"\bTile<", stack=0.6, loop_bytes=2560, tile_bytes=16 * 1024),
    # Bits of bytes are counted by shuffles; two rows' sums of bytes lie on the stack on AVX2.
    "gemm_i1": Bounds(r"\btile<", "vpshufb", stack=1.5, loop_bytes=1536, tile_bytes=16 * 1024),
    # Beside a pair of blocks, one sum lies on the stack on AVX2.
    "spmm_i8": Bounds(r"\bproduct<", stack=0.1),
    "winograd_i8": Bounds(r"\bmultiply<", r"vpmaddwd|vpdpwssd"),
    # A window's weights lie on the stack where registers do not hold them.
    "dwconv_i8": Bounds(r"\bstrip_tiles<|\bwalk_", stack=1.8, loop_bytes=8 * 1024, tile_bytes=24 * 1024),
    "light": Bounds(r"\bdwconv_f32::.*\b(tiles|walk_3x3)<", FLOAT, stack=0.5, loop_bytes=3 * 1024),
}


def release_builds() -> list[Path]:
    """Directories of the core's objects, newest last; not those for sanitizers or a debugger."""
    found = []
    for cache in ROOT.glob("build/*/CMakeCache.txt"):
        settings, library = cache.read_text(), cache.parent / "cpp" / "embedding" / "liblowbit.so"
        release = "CMAKE_BUILD_TYPE:STRING=Release\n" in settings and "LOWBIT_SANITIZE:BOOL=ON" not in settings
        if release and library.exists():
            found.append((library.stat().st_mtime, cache.parent / "cpp" / "CMakeFiles" / "lowbit_objects.dir"))
    return [directory for _, directory in sorted(found)]


@pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump is not installed")
@pytest.mark.skipif(not release_builds(), reason="the core was not built in build/ of this checkout")
@pytest.mark.parametrize("family", FAMILIES)
def test_tiles_keep_to_registers(family: str) -> None:
    """In each innermost loop that multiplies, of each instruction set that was built."""
    bounds = FAMILIES[family]
    for path in sorted(release_builds()[-1].glob(f"kernels/{family}/x86_*.o")):
        loops = 0
        for function in disassemble(path):
            if not re.search(bounds.tile, function.name):
                continue
            where = f"{family}/{path.name}: {function.name}"
            assert function.code.bytes <= bounds.tile_bytes, where
            for loop in function.innermost_loops():
                products = loop.count(bounds.product)
                loops += products > 0
                if products > 0:
                    assert len(loop.spills()) <= bounds.stack * products, f"{where}: {loop.spills()}"
                    assert loop.bytes <= bounds.loop_bytes, where
        assert loops > 0, f"{family}/{path.name} has no tile that multiplies in a loop; how are they named now?"


LISTING = """
0000000000000000 <f(float const*)>:
   0:\tpush   %rbp
   1:\tmov    %rsp,%rbp
   4:\tvmovaps %ymm0,-0x20(%rbp)
  10:\txor    %eax,%eax
  12:\tvmovdqa %ymm1,-0x40(%rbp)
  20:\t{vex} vpdpbusd (%rsi),%ymm0,%ymm1
  24:\tvpaddd -0x20(%rbp),%ymm1,%ymm1
  28:\tvmovdqa %xmm1,0x40(%rsp)
  2c:\ttest   %edx,%edx
  30:\tjne    50 <f(float const*)+0x50>
  32:\tvpmaddwd 0x20(%rdi),%ymm2,%ymm3
  38:\tadd    $0x4,%rax
  3c:\tjb     20 <f(float const*)+0x20>
  40:\tdec    %edx
  42:\tjne    12 <f(float const*)+0x12>
  44:\tret
  50:\tvmovdqa %ymm3,0x20(%rsp)
  54:\tjmp    32 <f(float const*)+0x32>
0000000000000060 <g>:
  60:\tvmovdqa (%rbp),%ymm1
  64:\tjmp    60 <g>
"""


def test_loops_are_understood() -> None:
    """An innermost loop with a block out of line; %rbp is the stack's in the first function only."""
    first, second = functions(LISTING)
    assert first.name == "f(float const*)"
    (loop,) = first.innermost_loops()
    assert loop.count(INT8) == 2
    assert loop.spills() == ["vpaddd -0x20(%rbp),%ymm1,%ymm1", "vmovdqa %ymm3,0x20(%rsp)"]
    assert loop.bytes == (0x40 - 0x20) + (0x55 - 0x50)
    assert [loop.spills() for loop in second.innermost_loops()] == [[]]
