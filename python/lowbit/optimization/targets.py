"""What a model was asked to take and to lose, at most."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..quantization.budget import SLACK
from .result import Evaluated


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What was asked for. max_drop: inf where any drop will do."""

    max_drop: float
    microseconds: float = math.inf
    bytes: float = math.inf

    @property
    def is_open(self) -> bool:
        """Whether the drop alone is a target, under which a model is to be as fast as it can be."""
        return math.isinf(self.microseconds) and math.isinf(self.bytes)

    def missed(self, each: Evaluated, reference: float) -> list[str]:
        """What a model does not meet, in words."""
        found = []
        if each.drop > self.max_drop + SLACK * max(self.max_drop, abs(reference)):
            found.append(f"its drop is {each.drop:.4g} of {self.max_drop:g}")
        if each.microseconds > self.microseconds:
            found.append(f"a call takes {each.microseconds / 1e3:.4g} ms of {self.microseconds / 1e3:.4g}")
        if each.bytes > self.bytes:
            found.append(f"its file has {each.bytes:,} bytes of {self.bytes:,.0f}")
        return found
