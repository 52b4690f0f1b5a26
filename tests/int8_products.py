"""Integer products and convolutions for the tests of the matrix kernels: what gemm_i8.h asks for, and random calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from lowbit.ops.integer import fma

Array = npt.NDArray[Any]


def gather(x: Array, grid: tuple[int, int, int], strides: tuple[int, int, int], taps: list[int], run: int) -> Array:
    """The receptive fields [rows][taps * run] that the contract describes, by index arithmetic."""
    starts = sum(np.indices(grid)[axis].ravel() * strides[axis] for axis in range(3))
    offsets = np.asarray(starts)[:, None, None] + np.array(taps)[:, None] + np.arange(run)
    windows: Array = x.ravel()[offsets].reshape(-1, len(taps) * run)
    return windows


def epilogue(acc: Array, p: dict[str, Any], samples: Array) -> Array:
    """kernel.h's epilogue, each operation rounded to float32 once."""
    t, factor, bias = acc.astype(np.float32), p["multiplier"], p["bias"]
    t = fma(t, factor, bias) if p.get("row_scale") is None else fma(t * factor, p["row_scale"][samples, None], bias)
    if p.get("residual") is not None:
        t = fma(p["residual"][:, : t.shape[1]].astype(np.float32), np.float32(p["residual_multiplier"]), t)
    assert t.dtype == np.float32
    if p["output"] == "f32":
        return np.asarray(np.minimum(np.maximum(t, np.float32(p["min"])), np.float32(p["max"])))
    codes = np.rint(np.clip(t, p["lo"], p["hi"])).astype(np.int64)
    return np.asarray(codes.astype(np.uint8) if p.get("table") is None else p["table"][codes])


def expected_i8(x: Array, w: Array, p: dict[str, Any]) -> Array:
    n, run = w.shape[0], w.shape[-1]
    grid = p.get("grid") or (1, 1, x.size // run)
    fields = gather(x, grid, p.get("strides") or (0, 0, run), p.get("taps") or [0], run).astype(np.int64)
    samples = np.indices(grid)[0].ravel()
    zero_points = (
        p["x_zero_points"][samples, None].astype(np.int64) if p.get("x_zero_points") is not None else p["x_zero_point"]
    )
    return epilogue((fields - zero_points) @ w.reshape(n, -1).astype(np.int64).T, p, samples)


def check_i8(
    run: Callable[..., Any], kernel: str, x: Array, w: Array, p: dict[str, Any], tasks: int = 1, gap: int = 0
) -> None:
    """Runs a row of a kernel, gemm_i8 or spmm_i8."""
    n = w.shape[0]
    y = run(kernel, x, w, tasks=tasks, pitch=n + gap, **p)
    np.testing.assert_array_equal(y[:, :n], expected_i8(x, w, p), err_msg=kernel, strict=True)
    assert np.all(np.ascontiguousarray(y[:, n:]).view(np.uint8) == 0xA5), f"{kernel} wrote beyond its channels"


def random_epilogue(
    rng: np.random.Generator, n: int, samples: int, rows: int, pitch: int, k: int, flags: int
) -> dict[str, Any]:
    """Parameters of a call whose outputs spread over the codes; the bits of `flags` say what is in it."""
    lo, hi = (0, 255) if rng.integers(2) else sorted(int(bound) for bound in rng.integers(0, 256, 2))
    p: dict[str, Any] = {
        "multiplier": (rng.uniform(0.2, 2.0, n) * 40 / (np.sqrt(k) * 128 * 64)).astype(np.float32),
        "bias": (rng.integers(0, 256) + rng.uniform(-40, 40, n)).astype(np.float32),
        "x_zero_point": int(rng.integers(0, 256)),
        "lo": lo,
        "hi": hi,
        "min": float(np.float32(rng.choice([-np.inf, 0.0, -7.5]))),
        "max": float(np.float32(rng.choice([np.inf, 6.0, 31.25]))),
        "output": "f32" if flags & 1 else "u8",
        "bounded": bool(flags & 32),  # they are: see multiplier
    }
    if flags & 2:
        p["residual"] = rng.integers(0, 256, (rows, pitch), dtype=np.uint8)
        p["residual_multiplier"] = float(np.float32(rng.uniform(0.01, 1.5)))
    if flags & 4 and not flags & 1:
        p["table"] = rng.integers(0, 256, 256, dtype=np.uint8)
    if flags & 8:
        p["x_zero_points"] = rng.integers(0, 256, samples, dtype=np.uint8)
    if flags & 16 and flags & 1:
        p["row_scale"] = rng.uniform(0.5, 2.0, samples).astype(np.float32)
    return p


def random_operands(rng: np.random.Generator, x_size: int, w_shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Codes of the whole range, the extreme ones often."""
    x = rng.integers(0, 256, x_size, dtype=np.uint8)
    lowest = rng.choice([-128, -127])
    w = rng.integers(lowest, 128, w_shape).astype(np.int8)
    x[rng.random(x_size) < 0.2] = rng.choice([0, 255])
    w[rng.random(w_shape) < 0.2] = rng.choice([lowest, 127])
    return x, w


@st.composite
def convolutions(draw: st.DrawFn) -> dict[str, Any]:
    shape = {name: draw(st.integers(1, high)) for name, high in (("batch", 3), ("h", 9), ("w", 9), ("channels", 13))}
    shape |= {
        name: draw(st.integers(1, 3))
        for name in ("kernel_h", "kernel_w", "stride_h", "stride_w", "dilation_h", "dilation_w", "groups")
    }
    return shape | {"n": draw(st.integers(1, 40)), "flags": draw(st.integers(0, 31)), "tasks": draw(st.integers(1, 4))}


def convolution(conv: dict[str, int], seed: int) -> tuple[Array, Array, dict[str, Any]]:
    """Over a padded NHWC image, as the graph calls it: a tap a kernel row, or a position where those are apart."""
    rng = np.random.default_rng(seed)
    c, kh, kw = conv["channels"], conv["kernel_h"], conv["kernel_w"]
    pixel = c * conv["groups"]  # one group of several: the others' channels lie between
    h = (conv["h"] - 1) * conv["stride_h"] + (kh - 1) * conv["dilation_h"] + 1
    w = (conv["w"] - 1) * conv["stride_w"] + (kw - 1) * conv["dilation_w"] + 1
    joined = conv["dilation_w"] == 1 and conv["groups"] == 1
    line = w * pixel
    taps = [i * conv["dilation_h"] * line for i in range(kh)]
    if not joined:
        taps = [tap + j * conv["dilation_w"] * pixel for tap in taps for j in range(kw)]
    grid = (conv["batch"], conv["h"], conv["w"])
    rows, n = int(np.prod(grid)), conv["n"]
    x, weights = random_operands(rng, conv["batch"] * h * line, (n, len(taps), c * (kw if joined else 1)))
    p = random_epilogue(rng, n, conv["batch"], rows, n, weights[0].size, conv["flags"])
    p |= {"grid": grid, "strides": (h * line, conv["stride_h"] * line, conv["stride_w"] * pixel), "taps": taps}
    return x, weights, p
