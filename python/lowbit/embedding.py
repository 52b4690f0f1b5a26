"""Where builds in C and C++ find lowbit: `python -m lowbit --cmake-dir` and its like print it (docs/embedding.md)."""

from __future__ import annotations

from pathlib import Path

from .errors import LowbitError

DIRECTORIES = {
    "--cmake-dir": "lib/cmake/lowbit",
    "--include-dir": "include",
    "--library-dir": "lib",
    "--pkg-config-dir": "lib/pkgconfig",
}
"""Options of `python -m lowbit`, and what they print, beside the extension module."""


def directory(option: str) -> Path:
    """Where it is. Raises LowbitError where lowbit was not installed with its C library."""
    from . import _core

    found = Path(_core.__file__).resolve().parent / DIRECTORIES[option]
    if not found.is_dir():
        raise LowbitError(f"there is no {found}: this lowbit was not installed, only built; pip install it")
    return found
