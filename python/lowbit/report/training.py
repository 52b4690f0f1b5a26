"""What a file tells of training, as lines of text and courses of values; it may be anything that JSON can say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

SHOWN = 20
"""Groups of layers, items of a list, and names in a line that are told; of others only how many."""
LONG = 60
"""Letters of a text in a line."""
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
        yield line
    for name, points in courses(facts):
        yield f"{name} {points[0][1]:.4g} in epoch {points[0][0]:g}, {points[-1][1]:.4g} in epoch {points[-1][0]:g}"
    layers = facts.get("layers")
    if isinstance(layers, Mapping):
        yield from _layers(layers)


def courses(facts: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """Of a history, each value that two epochs or more have: its name, and (epoch, value) in order."""
    history = facts.get("history")
    rows = [row for row in history if isinstance(row, Mapping)] if isinstance(history, list) else []
    for name in COURSES:
        if name == "task" and all(row.get("task") == row.get("loss") for row in rows):
            continue
        points = [
            (row["epoch"], row[name]) for row in rows if _is_number(row.get("epoch")) and _is_number(row.get(name))
        ]
        if len(points) > 1:
            yield name, sorted(points)


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
        yield f"{_some(names)}: {text}"
    if len(groups) > SHOWN:
        yield f"and {sum(map(len, list(groups.values())[SHOWN:])):,} more layers"


def _pairs(facts: Mapping[str, Any]) -> Iterator[str]:
    """What is not empty."""
    for key, value in facts.items():
        if value is not None and value not in ("", [], {}) and (value != 0 or value is False):
            yield f"{_short(key)} {_text(value)}"


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return _some([f"{_short(key)} from {_text(other)}" for key, other in value.items()])
    if isinstance(value, list):
        return _some([_text(each) for each in value])
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else _short(str(value))


def _some(texts: list[str]) -> str:
    more = f" and {len(texts) - SHOWN:,} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more


def _short(text: str) -> str:
    return text if len(text) <= LONG else f"{text[: LONG - 3]}..."


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30
