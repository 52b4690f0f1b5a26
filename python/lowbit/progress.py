"""How far a long job is, shown on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

Progress = Callable[[str, int, int | None], None]
"""progress(stage, done, total): total is None where it is not known."""


class Reporter(Protocol):
    """A `Progress` that also shows a note, such as a loss."""

    def __call__(self, stage: str, done: int, total: int | None, note: str = "") -> None: ...


@contextmanager
def reporter(show: bool | Reporter) -> Iterator[Reporter]:
    """A function that shows how far a stage is, on a terminal only: rich's bar, or a plain line without rich.

    show: whether it does; or the function of a longer job, whose stage this is.
    """
    if callable(show):
        yield show
        return
    if not show or not sys.stderr.isatty():
        yield lambda stage, done, total, note="": None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars
    except ImportError:
        yield _plain
        print(file=sys.stderr)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    tasks: dict[str, Any] = {}
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:

        def report(stage: str, done: int, total: int | None, note: str = "") -> None:
            if stage not in tasks:
                for task in tasks.values():
                    bars.stop_task(task)
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total, description=f"{stage} {note}".rstrip())

        yield report


def _plain(stage: str, done: int, total: int | None, note: str = "") -> None:
    text = f"{done}/{total}" if total is not None else str(done or "...")
    print(f"\rlowbit: {stage} {text} {note}\033[K", end="", file=sys.stderr, flush=True)
