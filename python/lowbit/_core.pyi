"""The compiled core: graphs become sessions, and every kernel row can be run by name for tests and benchmarks."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt

__version__: str

_Array = npt.NDArray[Any]
_F32 = npt.NDArray[np.float32]
_U8 = npt.NDArray[np.uint8]
_S8 = npt.NDArray[np.int8]
_Pair = Sequence[int]
_Three = Sequence[int]
_Attribute = int | float | str | Sequence[int] | Sequence[float] | Sequence[Sequence[int]]
_Output = Literal["u8", "f32"]

class Cpu(TypedDict):
    """`isas` ascending; `default_isa` and `threads` after LOWBIT_ISA and LOWBIT_THREADS."""

    model: str
    isas: list[str]
    default_isa: str
    threads: int

class Memory(TypedDict):
    """packed_bytes: weights and tables, once a session. The rest is that of contexts that no call holds just now."""

    packed_bytes: int
    arena_bytes: int
    contexts: int
    plans: int

class KernelRow(TypedDict):
    """A row of a kernel table, best first; mr and nr (matrix kernels): the tile, rows x output channels."""

    name: str
    isa: str
    available: bool
    mr: NotRequired[int]
    nr: NotRequired[int]

def cpu() -> Cpu:
    """What this machine is. Raises EnvironmentVariableError."""

def operators() -> list[str]:
    """The names of all operators that a graph may use."""

class GraphBuilder:
    """Takes a graph piece by piece, in topological order; what is wrong with it is told, all at once, by `finish`.

    A size is an int, or reverse Polish notation: flattened (opcode, operand) pairs as in `DimOp` (cpp/graph/op.h).
    """

    def __init__(self) -> None: ...
    def symbol(
        self, name: str, minimum: int, maximum: int, multiple: int = 1, remainder: int = 0, trial: int = 0
    ) -> int:
        """The symbol's index in size expressions; trial: a size at which the graph is validated, 0 for the smallest."""
    def condition(self, kind: str, size: list[int]) -> None:
        """What sizes must fulfil together: an expression that is "zero", "nonzero" or "natural"."""

    def input(self, name: str, dtype: str, shape: Sequence[int | Sequence[int]]) -> None: ...
    def constant(self, name: str, array: _Array) -> None:
        """The array is copied."""

    def node(
        self,
        op: str,
        name: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        attributes: Mapping[str, _Attribute],
    ) -> None:
        """inputs: "" for an absent optional one. A list of lists is a list of sizes."""

    def output(self, name: str) -> None: ...
    def finish(self, isa: str = "", threads: int = 0) -> Session:
        """Validates, chooses kernels and packs weights; the builder is empty afterwards.

        isa "": LOWBIT_ISA, else the best. threads 0: LOWBIT_THREADS, else what the process may use.
        Raises GraphError with every problem, InputError (threads), EnvironmentVariableError.
        """

class Session:
    """A compiled graph. Immutable; any number of threads may run it at once."""

    @property
    def inputs(self) -> list[tuple[str, str, list[int]]]:
        """(name, dtype, shape); -1 for a size that is not fixed."""

    @property
    def outputs(self) -> list[tuple[str, str, list[int]]]:
        """(name, dtype, shape); -1 for a size that is not fixed."""

    @property
    def isa(self) -> str: ...
    @property
    def threads(self) -> int: ...
    def run(self, inputs: Sequence[_Array]) -> list[_Array]:
        """The outputs, in new arrays. Raises InputError for a wrong number, dtype or shape."""

    def run_into(self, inputs: Sequence[_Array], outputs: Sequence[_Array]) -> None:
        """`run` into writeable, C-contiguous arrays apart from each other and from the inputs. Raises InputError."""

    def profile(self, inputs: Sequence[_Array], repeats: int = 10) -> list[dict[str, Any]]:
        """One row a step: node, op, kernel, seconds (median), and operations and bytes of one call.

        A multiply-add counts two. A layout conversion has the op "layout" and its value's name. Raises InputError.
        """

    def nodes(self) -> list[dict[str, Any]]:
        """node, op and kernel of each node that outputs need."""

    def memory(self) -> Memory: ...

# Kernel rows by name, for tests and benchmarks: results and seconds a call (0 unless `repeats`).

def gemm_i8_kernels() -> list[KernelRow]: ...
def spmm_i8_kernels() -> list[KernelRow]: ...
def gemm_f32_kernels() -> list[KernelRow]: ...
def dwconv_i8_kernels() -> list[KernelRow]: ...
def dwconv_f32_kernels() -> list[KernelRow]: ...
def pool_kernels() -> list[KernelRow]: ...
def eltwise_kernels() -> list[KernelRow]: ...
def unary_kinds() -> list[str]: ...
def select_gemm_i8(n: int, taps: int, run: int, rows: int = 0, isa: str = "") -> str: ...
def select_gemm_f32(n: int, taps: int, run: int, rows: int = 0, isa: str = "") -> str: ...
def gemm_i8(
    kernel: str,
    x: _U8,
    w: _S8,
    multiplier: _F32,
    bias: _F32,
    *,
    grid: _Three | None = None,
    strides: _Three | None = None,
    taps: Sequence[int] | None = None,
    x_zero_point: int = 0,
    x_zero_points: _U8 | None = None,
    row_scale: _F32 | None = None,
    residual: _U8 | None = None,
    residual_multiplier: float = 0.0,
    lo: int = 0,
    hi: int = 255,
    table: _U8 | None = None,
    min: float = ...,
    max: float = ...,
    output: _Output = "u8",
    bounded: bool = False,
    pitch: int = 0,
    tasks: int = 1,
    threads: int = 1,
    repeats: int = 0,
) -> tuple[_Array, float]: ...

spmm_i8 = gemm_i8

def gemm_i4_kernels() -> list[KernelRow]: ...
def gemm_i4(
    kernel: str,
    x: _U8,
    codes: _U8,
    scales: npt.NDArray[np.uint16],
    group_size: int,
    multiplier: _F32,
    bias: _F32,
    *,
    zero_points: _U8 | None = None,
    run: int | None = None,
    grid: _Three | None = None,
    strides: _Three | None = None,
    taps: Sequence[int] | None = None,
    x_zero_point: int = 0,
    x_zero_points: _U8 | None = None,
    row_scale: _F32 | None = None,
    residual: _U8 | None = None,
    residual_multiplier: float = 0.0,
    lo: int = 0,
    hi: int = 255,
    table: _U8 | None = None,
    min: float = ...,
    max: float = ...,
    output: _Output = "u8",
    pitch: int = 0,
    tasks: int = 1,
    threads: int = 1,
    repeats: int = 0,
    copies: int = 1,
) -> tuple[npt.NDArray[Any], float]: ...
def gemm_f32(
    kernel: str,
    x: _F32,
    w: _F32,
    bias: _F32 | None = None,
    *,
    grid: _Three | None = None,
    strides: _Three | None = None,
    taps: Sequence[int] | None = None,
    residual: _F32 | None = None,
    min: float = ...,
    max: float = ...,
    pitch: int = 0,
    tasks: int = 1,
    threads: int = 1,
    repeats: int = 0,
) -> tuple[_F32, float]: ...
def dwconv_i8(
    kernel: str,
    x: _U8,
    w: _S8,
    multiplier: _F32,
    bias: _F32,
    *,
    stride: _Pair = (1, 1),
    dilation: _Pair = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    x_zero_point: int = 0,
    x_zero_points: _U8 | None = None,
    row_scale: _F32 | None = None,
    residual: _U8 | None = None,
    residual_multiplier: float = 0.0,
    lo: int = 0,
    hi: int = 255,
    table: _U8 | None = None,
    min: float = ...,
    max: float = ...,
    output: _Output = "u8",
    bounded: bool = False,
    gap: int = 0,
    tasks: int = 1,
    repeats: int = 0,
) -> tuple[_Array, float]: ...
def dwconv_f32(
    kernel: str,
    x: _F32,
    w: _F32,
    bias: _F32 | None = None,
    *,
    stride: _Pair = (1, 1),
    dilation: _Pair = (1, 1),
    residual: _F32 | None = None,
    min: float = ...,
    max: float = ...,
    gap: int = 0,
    tasks: int = 1,
    repeats: int = 0,
) -> tuple[_F32, float]: ...
def pool(
    kernel: str,
    x: _Array,
    kind: str,
    *,
    outputs: _Pair | None = None,
    window: _Pair = (1, 1),
    stride: _Pair = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: _Pair = (1, 1),
    count_include_pad: bool = False,
    x_zero_point: int = 0,
    multiplier: float = 1.0,
    zero_point: int = 0,
    lo: int = 0,
    hi: int = 255,
    output: _Output = "u8",
    gap: int = 0,
    tasks: int = 1,
    repeats: int = 0,
) -> tuple[_Array, float]: ...
def copy(kernel: str, x: _Array, y: _Array, *, tasks: int = 1, repeats: int = 0) -> float: ...
def quantize(
    kernel: str,
    x: _F32,
    y: _U8,
    *,
    scale: float = 1.0,
    zero_point: int = 0,
    scales: _F32 | None = None,
    zero_points: _U8 | None = None,
    tasks: int = 1,
    repeats: int = 0,
) -> float: ...
def dequantize(
    kernel: str,
    x: _U8,
    y: _F32,
    *,
    scale: float = 1.0,
    zero_point: int = 0,
    scales: _F32 | None = None,
    zero_points: _U8 | None = None,
    tasks: int = 1,
    repeats: int = 0,
) -> float: ...
def dynamic_quantize(
    kernel: str, x: _F32, *, factors: _F32 | None = None, tasks: int = 1, repeats: int = 0
) -> tuple[_U8, _F32, _U8, float]: ...
def lookup(kernel: str, x: _U8, table: _U8, *, tasks: int = 1, repeats: int = 0) -> tuple[_U8, float]: ...
def add_i8(
    kernel: str,
    a: _U8,
    b: _U8,
    *,
    zero_point_a: int = 0,
    multiplier_a: float = 1.0,
    zero_point_b: int = 0,
    multiplier_b: float = 1.0,
    zero_point: int = 0,
    lo: int = 0,
    hi: int = 255,
    table: _U8 | None = None,
    tasks: int = 1,
    repeats: int = 0,
) -> tuple[_U8, float]: ...
def binary(kernel: str, kind: str, a: _F32, b: _F32, y: _F32, *, tasks: int = 1, repeats: int = 0) -> float: ...
def unary(
    kernel: str,
    kind: str,
    x: _F32,
    *,
    alpha: float = 1.0,
    min: float = ...,
    max: float = ...,
    tasks: int = 1,
    repeats: int = 0,
) -> tuple[_F32, float]: ...
def rounding_errors(x: _F32, factor: _F32, low: _F32, high: _F32, *, kernel: str = "") -> _F32: ...
def softmax(kernel: str, x: _F32, *, tasks: int = 1, repeats: int = 0) -> tuple[_F32, float]: ...

# Loops that do one thing, for the roofline: rates a second over about `seconds`, of all threads together.

def peak_kernels() -> list[KernelRow]: ...
def select_peak(isa: str = "") -> str: ...
def peak_int8(kernel: str, *, seconds: float, threads: int = 1) -> float: ...
def peak_f32(kernel: str, *, seconds: float, threads: int = 1) -> float: ...
def peak_read(kernel: str, data: _U8, *, seconds: float, threads: int = 1) -> float:
    """Bytes read; each thread reads its own part of `data` again and again."""
