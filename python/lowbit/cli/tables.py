"""Profiles as rich tables, for the command line and the demo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.markup import escape
from rich.table import Table

from lowbit.runtime.profile import Profile


def heading(title: str, left: Sequence[str], right: Sequence[str] = ()) -> Table:
    """An empty table; columns in `left` hold text, those in `right` numbers."""
    table = Table(title=title, title_justify="left")
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def profile_table(profile: Profile, sqnr: Mapping[str, float] | None = None) -> Table:
    """A line a step: kernel, time, rate, nearness to its limit, share; with `sqnr` (dB, by node) also the error."""
    numbers = ("ms", "GOP/s", "of limit", "share", *(("SQNR dB",) if sqnr is not None else ()))
    table = heading(f"Layer by layer ({profile.isa}, threads: {profile.threads})", ("node", "op", "kernel"), numbers)
    total, roof = profile.seconds or 1.0, profile.roofline
    for row in profile:
        rate = f"{row.gops:.0f}" if row.operations else ""
        error = () if sqnr is None else (f"{sqnr[row.node]:.1f}" if row.node in sqnr else "",)
        near = row.limit(roof).of(row.seconds)
        cells = (f"{row.seconds * 1e3:.3f}", rate, near, f"{row.seconds / total:.0%}", *error)
        kernel = row.kernel.removeprefix(f"{profile.isa}_")  # the title names the ISA
        table.add_row(*(escape(text) for text in (row.node, row.op, kernel)), *cells)
    return table
