"""Where the time of a call goes: a session's steps, what each took, and how near it came to the machine's limit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..ops.quantized import QUANTIZED, SIGNS
from .roofline import Limit, Roofline, measure, total

REPEATS = 10
"""Calls of which a step's time is the median."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One step of a profile.

    Args:
        node: The node.
        op: Its operator.
        kernel: The compiled function that ran.
        seconds: The median of the calls.
        operations: Of one call; a multiply-add counts two.
        bytes: Of its inputs, weights and outputs, each counted once.
    """

    node: str
    op: str
    kernel: str
    seconds: float
    operations: float
    bytes: float

    @property
    def gops(self) -> float:
        """Billions of operations a second."""
        return self.operations / self.seconds / 1e9 if self.seconds > 0 else 0.0

    def limit(self, roof: Roofline) -> Limit:
        """The least time that the step can take on a machine.

        Args:
            roof: The machine's limits.

        Returns:
            The time, and what binds it.
        """
        return roof.limit(self.operations, self.bytes, "int8" if self.op.startswith((QUANTIZED, SIGNS)) else "float32")


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Where the time of a call goes, step by step; prints as a table, with each step's share of what limits it.

    Args:
        rows: The steps.
        isa: The instruction set that kernels were chosen for.
        threads: How many threads a call uses at most.

    Examples:
        >>> import torch
        >>> model = lowbit.convert(torch.nn.Linear(8, 4), torch.randn(1, 8), threads=1)
        >>> [row.op for row in model.profile(torch.randn(1, 8))]
        ['linear']
    """

    rows: tuple[Row, ...]
    isa: str
    threads: int

    @property
    def seconds(self) -> float:
        """The sum over all steps."""
        return sum(row.seconds for row in self.rows)

    @property
    def roofline(self) -> Roofline:
        """The machine's limits for these threads and instructions; the first use in a process measures for 0.3 s."""
        return measure(threads=self.threads, isa=self.isa if self.isa != "torch" else None)

    @property
    def limit(self) -> Limit:
        """The sum of the steps' limits, named after what binds most of it."""
        roof = self.roofline
        return total([row.limit(roof) for row in self.rows])

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        seconds, roof = self.seconds or 1.0, self.roofline
        lines = [("node", "op", "kernel", "ms", "GOP/s", "of limit", "share")]
        for row in self.rows:
            rate = f"{row.gops:.1f}" if row.operations else ""
            share = f"{100 * row.seconds / seconds:.1f} %"
            near = row.limit(roof).of(row.seconds)
            lines.append((row.node, row.op, row.kernel, f"{row.seconds * 1e3:.4f}", rate, near, share))
        machine, near = f"{self.isa}, threads: {self.threads}", self.limit.of(self.seconds)
        lines.append(("total", "", machine, f"{self.seconds * 1e3:.4f}", "", near, "100.0 %"))
        return table(lines, right=(3, 4, 5, 6))

    def __rich__(self) -> str:
        return str(self)


def table(lines: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Text in aligned columns, a rule under the first line; columns in `right` are flushed right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    out = []
    for line in lines:
        cells = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        out.append("  ".join(cells).rstrip())
    out.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(out)
