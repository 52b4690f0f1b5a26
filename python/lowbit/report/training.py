"""What a file tells of training, as lines of text and courses of values; it may be anything that JSON can say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, TypeGuard

SHOWN = 20
"""Groups of layers, items of a list, and names in a line that are told; of others at most how many."""
LONG, LINE, DEEP, POINTS = 60, 400, 3, 1000
"""Letters of a text and of a line, levels of nested values, and points of a course that are told."""
COURSES = ("loss", "task", "score")
"""What is drawn of a history, epoch by epoch."""


def told(facts: Mapping[str, Any]) -> Iterator[str]:
    """The facts as lines: single values, then how a history went, then layers, those of equal facts together.

    Args:
        facts: Of one thing that was done.

    Yields:
        A line each.
    """
    single = {key: value for key, value in facts.items() if key not in ("layers", "history")}
    if line := ", ".join(_pairs(single)):
        yield _short(line, LINE)
    for name, points in courses(facts):
        yield f"{name} {points[0][1]:.4g} in epoch {points[0][0]:g}, {points[-1][1]:.4g} in epoch {points[-1][0]:g}"
    layers = facts.get("layers")
    if isinstance(layers, Mapping):
        yield from _layers(layers)


def courses(facts: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """Of a history, each value that two epochs or more have: its name, and (epoch, value) in order."""
    history = facts.get("history")
    rows = [row for row in history if isinstance(row, Mapping)] if isinstance(history, list) else []
    told_already: list[tuple[float, float]] = []
    for name in COURSES:
        numbered = [(row.get("epoch"), row.get(name)) for row in rows]
        points = sorted((epoch, value) for epoch, value in numbered if _is_number(epoch) and _is_number(value))
        if len(points) > 1 and points != told_already:  # without a teacher, the task's loss is the loss
            every = 1 + len(points) // POINTS
            yield name, points[::-1][::every][::-1]  # the last stays
            told_already = points


def best(facts: Mapping[str, Any]) -> float | None:
    """The epoch whose weights the net has, where it is told."""
    found = facts.get("best")
    return found if _is_number(found) else None


def _layers(layers: Mapping[str, Any]) -> Iterator[str]:
    groups: dict[str, list[str]] = {}
    for name, facts in layers.items():
        text = ", ".join(_pairs(facts)) if isinstance(facts, Mapping) else _text(facts)
        groups.setdefault(text, []).append(_short(name))
    for text, names in list(groups.items())[:SHOWN]:
        yield _short(f"{_some(names)}: {text}", LINE)
    if len(groups) > SHOWN:
        yield f"and {sum(map(len, list(groups.values())[SHOWN:])):,} more layers"


def _pairs(facts: Mapping[str, Any]) -> Iterator[str]:
    """What is not empty."""
    for key, value in islice(facts.items(), SHOWN):
        if value is not None and value not in ("", [], {}) and (value != 0 or value is False):
            yield f"{_short(key)} {_text(value)}"


def _text(value: Any, level: int = 1) -> str:
    if isinstance(value, Mapping | list) and level > DEEP:
        return "..."
    if isinstance(value, Mapping):
        pairs = islice(value.items(), SHOWN)
        return _some([f"{_short(key)} from {_text(other, level + 1)}" for key, other in pairs], len(value))
    if isinstance(value, list):
        return _some([_text(each, level + 1) for each in value[:SHOWN]], len(value))
    return f"{value:.4g}" if isinstance(value, float) else _short(f"{value:,}" if type(value) is int else str(value))


def _some(texts: list[str], count: int | None = None) -> str:
    """Some texts of so many."""
    more = (len(texts) if count is None else count) - SHOWN
    return ", ".join(texts[:SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def _short(text: str, most: int = LONG) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30
