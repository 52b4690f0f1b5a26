"""The instruction sets that a model may be converted for: which layers are int8 is decided for one of them."""

from __future__ import annotations

LEVELS = ("scalar", "avx2", "avxvnni", "avx512vnni")
"""Lower ones first."""


def this_level() -> str:
    """The highest instruction set that sessions use on this CPU, as LOWBIT_ISA caps it."""
    from .. import _core

    return str(_core.cpu()["default_isa"])
