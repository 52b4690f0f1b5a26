"""`import lowbit` is fast, needs no torch, and gives every public name when it is first asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import lowbit
from lowbit.errors import InputError, LowbitError
from lowbit.quantization import schemes


def run_python(code: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize("names", ["", "lowbit.load; lowbit.Model; lowbit.Scheme"])
def test_import_takes_less_than_a_tenth_of_a_second(names: str, tmp_path: Path) -> None:
    """Beyond numpy and safetensors, in CPU time, once the byte code is written."""
    code = (
        "import numpy, safetensors.numpy, time; t = time.process_time()\n"
        f"import lowbit; {names}\nprint(time.process_time() - t)"
    )
    cached = {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}
    assert min(float(run_python(code, **cached)) for _ in range(4)) < 0.1


TORCH = ("convert", "compress", "importers", "optimize", "quantize_")
"""The public names that import torch."""


def test_nothing_else_imports_torch() -> None:
    names = [name for name in lowbit.__all__ if name not in TORCH]
    code = (
        "import sys; sys.modules['torch'] = None; import lowbit\n"
        f"for name in {names}: getattr(lowbit, name)\n"
        "import lowbit.ops, lowbit.ops.interpreter, lowbit.runtime.format, lowbit.graph.dims\n"
        "assert not any(name.split('.')[0] == 'torch' for name in sys.modules if sys.modules[name])"
    )
    run_python(code)


def test_public_names() -> None:
    for name in lowbit.__all__:
        if name not in TORCH:
            assert getattr(lowbit, name) is not None
    assert set(lowbit.__all__) <= set(dir(lowbit))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        lowbit.nonsense  # noqa: B018
    assert issubclass(lowbit.InputError, lowbit.LowbitError)


def test_schemes() -> None:
    assert schemes.resolve("int8") == schemes.Scheme(name="int8")
    assert schemes.resolve("float32").is_float
    mine = schemes.Scheme(name="mine", range_method="percentile", percentile=99.0)
    assert schemes.resolve(mine) is mine
    with pytest.raises(InputError, match=r"no scheme .int9.; use one of int8, int8-weights, int8-e7, "):
        schemes.resolve("int9")
    for wrong in ({"weight_bits": 5}, {"range_method": "guess"}, {"percentile": 20.0}, {"granularity": "tensor"},
                  {"entropy": 8.0}, {"entropy": 1}, {"entropy": 4, "weight_bits": 4}):  # fmt: skip
        with pytest.raises(LowbitError):
            schemes.Scheme(name="wrong", **wrong)
