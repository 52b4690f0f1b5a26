"""What `lowbit.optimize` returns."""

from __future__ import annotations

from dataclasses import dataclass

from ..converted_model import ConvertedModel
from .candidates import Plan


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """A model that `evaluate` scored.

    Args:
        name: "float32", "int8", or "plan 1" and so on.
        plan: What its layers became; None for float32.
        score: Its score.
        drop: How far that is below float32's.
        microseconds: Of one call, as measured, or as estimated for a named target.
        bytes: Of its file.
    """

    name: str
    plan: Plan | None
    score: float
    drop: float
    microseconds: float
    bytes: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """The model that `lowbit.optimize` chose, and how it came there.

    Args:
        model: The model, scored and within all targets.
        plan: What its layers became, with what else they might have become.
        evaluations: All that was scored, the first of float32, the second of plain int8.
    """

    model: ConvertedModel
    plan: Plan
    evaluations: tuple[Evaluated, ...]
