"""Single rows of the kernel tables, for tests; wheels leave this module out. `_core.kernels()` lists the rows.

A call finds its row by name, runs it in `tasks` shares in one thread, and returns the result in a new array, unless it
takes one as `y`. Gaps behind the channels of a result are filled with 0xa5. Raises InputError.
"""

from collections.abc import Sequence
from typing import Any, Literal, TypedDict

import numpy as np
import numpy.typing as npt
from typing_extensions import Unpack

_Array = npt.NDArray[Any]
_F32 = npt.NDArray[np.float32]
_U8 = npt.NDArray[np.uint8]
_S8 = npt.NDArray[np.int8]
_Pair = Sequence[int]

class Placement(TypedDict, total=False):
    """Over x: grid and strides (n, h, w), an offset a tap; pitch: elements from row to row of the result.

    By default a product of matrices, x [rows][k].
    """

    grid: Sequence[int]
    strides: Sequence[int]
    taps: Sequence[int]
    pitch: int
    tasks: int

class Bounds(TypedDict, total=False):
    """Of float32 results; infinite by default."""

    min: float
    max: float

class Epilogue(Bounds, total=False):
    """As in cpp/kernels/kernel.h."""

    x_zero_point: int
    x_zero_points: _U8 | None
    row_scale: _F32 | None
    residual: _U8 | None
    residual_multiplier: float
    lo: int
    hi: int
    table: _U8 | None
    output: Literal["u8", "f32"]
    bounded: bool

class Product(Placement, Epilogue, total=False): ...

class ProductI4(Product, total=False):
    """zero_points, offsets: as scales; run: of k that are adjacent in x."""

    zero_points: _U8 | None
    offsets: npt.NDArray[np.uint16] | _F32 | None
    run: int

class ProductS8(Product, total=False):
    """scales [n][groups]: bits of half floats, or floats if wide; zero_points, offsets: as scales."""

    group_size: int
    wide: bool
    scales: npt.NDArray[np.uint16] | _F32 | None
    zero_points: _U8 | None
    offsets: npt.NDArray[np.uint16] | _F32 | None

class ProductF32(Placement, Bounds, total=False):
    bias: _F32 | None
    residual: _F32 | None

class Window(TypedDict, total=False):
    """Of an image; gap: elements behind a pixel's channels in the result."""

    stride: _Pair
    dilation: _Pair
    gap: int
    tasks: int

class Depthwise(Window, Epilogue, total=False):
    """padding: top, left, bottom, right."""

    padding: Sequence[int]

class DepthwiseF32(Window, Bounds, total=False):
    """padding: top, left, bottom, right."""

    padding: Sequence[int]
    bias: _F32 | None
    residual: _F32 | None

class Pool(Window, total=False):
    """outputs: their number, of an adaptive pool. padding: top, left, bottom, right."""

    outputs: _Pair | None
    window: _Pair
    padding: Sequence[int]
    count_include_pad: bool
    x_zero_point: int
    multiplier: float
    zero_point: int
    lo: int
    hi: int
    output: Literal["u8", "f32"]

class Scales(TypedDict, total=False):
    """One scale and zero point, or one for each index of axis 0."""

    scale: float
    zero_point: int
    scales: _F32 | None
    zero_points: _U8 | None
    tasks: int

class Sum(TypedDict, total=False):
    zero_point_a: int
    multiplier_a: float
    zero_point_b: int
    multiplier_b: float
    zero_point: int
    lo: int
    hi: int
    table: _U8 | None
    tasks: int

class Unary(Bounds, total=False):
    alpha: float
    tasks: int

class Attention(TypedDict, total=False):
    """mask: [batch][heads][length][keys] of float32 or bool; strides of 0 repeat. threads: as many share the work."""

    mask: _Array | None
    scale: float
    causal: bool
    nan_if_empty: bool
    divides_last: bool
    threads: int

class RnnStep(TypedDict, total=False):
    """As in cpp/kernels/rnn/rnn.h; c with four gates, and the panels are run in `tasks` parts."""

    gates: int
    bias: _F32
    c: _F32
    relu: bool
    backward: bool
    tasks: int

class Norm(TypedDict, total=False):
    """As in cpp/kernels/norm/norm.h; weight and bias [cycle * row / inner]."""

    weight: _F32 | None
    bias: _F32 | None
    inner: int
    cycle: int
    eps: float
    centered: bool
    tasks: int

class Blend(TypedDict, total=False):
    """channels: of a pixel; counts: taps of each pixel; gap: elements behind a pixel's channels in the result."""

    channels: int
    counts: npt.NDArray[np.int32] | None
    gap: int

# Products [rows][pitch] of weights [n][taps][run] or [n][k]; four-bit codes are [n][ceil(k / 2)], two a byte, their
# scales the bits of half floats [n][groups], or floats where there are offsets.

def gemm_i8(kernel: str, x: _U8, w: _S8, multiplier: _F32, bias: _F32, **rest: Unpack[Product]) -> _Array: ...
def spmm_i8(kernel: str, x: _U8, w: _S8, multiplier: _F32, bias: _F32, **rest: Unpack[Product]) -> _Array: ...
def winograd_i8(kernel: str, x: _U8, w: _S8, multiplier: _F32, bias: _F32, **rest: Unpack[Product]) -> _Array: ...
def gemm_i4(
    kernel: str,
    x: _U8,
    codes: _U8,
    scales: npt.NDArray[np.uint16] | _F32,
    group_size: int,
    multiplier: _F32,
    bias: _F32,
    **rest: Unpack[ProductI4],
) -> _Array: ...
def gemm_i2(
    kernel: str,
    x: _U8,
    codes: _U8,
    scales: npt.NDArray[np.uint16],
    group_size: int,
    multiplier: _F32,
    bias: _F32,
    **rest: Unpack[ProductI4],
) -> _Array: ...
def gemm_s8(
    kernel: str,
    x: _S8,
    x_scales: _F32,
    x_group: int,
    codes: _U8,
    multiplier: _F32,
    bias: _F32,
    **rest: Unpack[ProductS8],
) -> _F32: ...
def gemm_i1(
    kernel: str, x: _U8, w: npt.NDArray[np.uint32], multiplier: _F32, bias: _F32, **rest: Unpack[Product]
) -> _Array: ...
def signs(kernel: str, x: _F32, zero: int) -> _U8: ...
def gemm_f32(kernel: str, x: _F32, w: _F32, **rest: Unpack[ProductF32]) -> _F32: ...
def select_gemm_i8(n: int, taps: int, run: int, rows: int = 0, isa: str = "") -> str: ...
def select_gemm_f32(n: int, taps: int, run: int, rows: int = 0, isa: str = "") -> str: ...

# Images [n][h][w][c] and weights [c][kh][kw]; the results' rows are c + gap long.

def dwconv_i8(kernel: str, x: _U8, w: _S8, multiplier: _F32, bias: _F32, **rest: Unpack[Depthwise]) -> _Array: ...
def dwconv_f32(kernel: str, x: _F32, w: _F32, **rest: Unpack[DepthwiseF32]) -> _F32: ...
def pool(kernel: str, x: _Array, kind: Literal["max", "avg"], **rest: Unpack[Pool]) -> _Array: ...

# Elements: x, a, b and y of any strides where y is given.

def copy(kernel: str, x: _Array, y: _Array, *, tasks: int = 1) -> None: ...
def quantize(kernel: str, x: _F32, y: _U8, **rest: Unpack[Scales]) -> None: ...
def dequantize(kernel: str, x: _U8, y: _F32, **rest: Unpack[Scales]) -> None: ...
def dynamic_quantize(kernel: str, x: _F32, *, factors: _F32 | None = None, tasks: int = 1) -> tuple[_U8, _F32, _U8]:
    """Codes, scales and zero points of rows x [rows][row], times `factors` [row]."""

def quantize_groups(
    kernel: str, x: _F32, group: int, *, factors: _F32 | None = None, tasks: int = 1
) -> tuple[_S8, _F32]:
    """Codes, and the scales of groups of so many adjacent values, of rows x [rows][row] times `factors` [row]."""

def lookup(kernel: str, x: _U8, table: _U8, *, tasks: int = 1) -> _U8: ...
def add_i8(kernel: str, a: _U8, b: _U8, **rest: Unpack[Sum]) -> _U8: ...
def binary(kernel: str, kind: str, a: _F32, b: _F32, y: _F32, *, tasks: int = 1) -> None:
    """kind: add, sub, mul, div, minimum, maximum or prelu."""

def unary(kernel: str, kind: str, x: _F32, **rest: Unpack[Unary]) -> _F32: ...
def unary_kinds() -> list[str]: ...
def softmax(kernel: str, x: _F32, *, tasks: int = 1) -> _F32: ...

# Layers: q [batch][heads][length][depth], k and v [batch][key heads][keys][depth]; x [rows][row]; cells of `hidden`
# units; pixels of x [rows][elements] at offsets [pixels][taps]; a row of a table of four-bit codes, packed as above.

def attention(kernel: str, q: _F32, k: _F32, v: _F32, **rest: Unpack[Attention]) -> _F32: ...
def norm(kernel: str, x: _F32, **rest: Unpack[Norm]) -> _F32: ...
def lstm(kernel: str, gates: _F32, c: _F32) -> tuple[_F32, _F32]:
    """The states c and h after a step, of gates [4 * hidden]."""

def gru(kernel: str, x: _F32, s: _F32, before: _F32) -> _F32:
    """The state after a step, of x and s [3 * hidden]."""

def rnn_step(kernel: str, w: _S8, scales: _F32, h: _F32, x: _F32, **rest: Unpack[RnnStep]) -> tuple[_F32, _F32]:
    """The states h and c after a step on codes, of states h [rows][k], codes w [gates * hidden][k] and x."""

def blend(
    kernel: str,
    x: _Array,
    row_weights: _F32,
    offsets: npt.NDArray[np.int64],
    weights: _F32,
    **rest: Unpack[Blend],
) -> _Array: ...
def gather(
    kernel: str,
    codes: _Array,
    scales: _Array,
    k: int,
    row: int,
    *,
    bits: int = 4,
    zero_points: _U8 | None = None,
    offsets: _Array | None = None,
    weight: float | None = None,
    y: _F32 | None = None,
) -> _F32: ...
