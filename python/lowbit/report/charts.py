"""Small charts as inline SVG, coloured by the page's style sheet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape


def bar(share: float, *, kind: str, under: float | None = None, label: str = "") -> str:
    """A bar that fills `share` of its cell; `under`: a paler one behind it, what it is compared with."""
    rects = "" if under is None else f'<rect class="under" y="0" width="{_percent(under)}" height="12" rx="1"/>'
    top, height = (0, 12) if under is None else (3, 6)
    rects += f'<rect class="{escape(kind)}" y="{top}" width="{_percent(share)}" height="{height}" rx="1"/>'
    return (
        f'<svg class="bar" viewBox="0 0 100 12" preserveAspectRatio="none" role="img" aria-label="{escape(label)}">'
        f"{rects}</svg>"
    )


def _percent(share: float) -> str:
    return f"{100 * min(max(share, 0.004), 1.0):.2f}"


def bars(rows: Sequence[tuple[str, float, str, str]]) -> str:
    """A table of bars: (name, value, what to print, kind), the longest as wide as the column."""
    most = max((value for _, value, _, _ in rows), default=0.0) or 1.0
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{bar(value / most, kind=kind, label=text)}</td>'
        f'<td class="number">{escape(text)}</td></tr>'
        for name, value, text, kind in rows
    )
    return f'<table class="bars">{lines}</table>'


def _grid(low: float, high: float, y: Callable[[float], float], left: float, width: float) -> Iterator[str]:
    """Five lines across, each with its value."""
    for tick in range(5):
        value = low + (high - low) * tick / 4
        yield f'<line class="grid" x1="{left}" x2="{width - 10}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        yield f'<text class="tick" x="{left - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.4g}</text>'


def course(name: str, values: Sequence[tuple[float, float]], marked: float | None, caption: str) -> str:
    """How a value went: a line through (x, value), with a ring where x is `marked`."""
    width, height, left, bottom = 760.0, 190.0, 66.0, 40.0
    low, high = min(value for _, value in values), max(value for _, value in values)
    margin = (high - low or abs(high) or 1.0) * 0.08
    low, high = low - margin, high + margin
    first, last = values[0][0], values[-1][0]

    def x(at: float) -> float:
        return left + 14 + (width - left - 38) * (at - first) / ((last - first) or 1.0)

    def y(value: float) -> float:
        return 10 + (height - bottom - 10) * (high - value) / (high - low)

    parts = list(_grid(low, high, y, left, width))
    points = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in values)
    parts.append(f'<polyline class="course" points="{points}"/>')
    for at, value in values:
        title = f"<title>{caption} {at:g}: {value:.6g}</title>"
        parts.append(f'<circle class="course" cx="{x(at):.1f}" cy="{y(value):.1f}" r="3">{title}</circle>')
        if at == marked:
            parts.append(f'<circle class="chosen" cx="{x(at):.1f}" cy="{y(value):.1f}" r="8"/>')
    for at in sorted({first, last, *([] if marked is None else [marked])}):
        parts.append(f'<text class="tick" x="{x(at):.1f}" y="{height - 22}" text-anchor="middle">{at:g}</text>')
    middle = (left + width) / 2
    text = f"{escape(name)} by {escape(caption)}"
    parts.append(f'<text class="tick" x="{middle}" y="{height - 4}" text-anchor="middle">{text}</text>')
    head = f'<svg class="history" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(name)}">'
    return f"{head}{''.join(parts)}</svg>"


def history(scores: Sequence[tuple[str, float, bool, bool]], limit: float | None, caption: str) -> str:
    """Scores in the order of their evaluation, a line at the limit: (what stands below, score, holds, is chosen)."""
    width, height, left, bottom = 760.0, 250.0, 66.0, 46.0
    values = [score for _, score, _, _ in scores] + ([] if limit is None else [limit])
    low, high = min(values), max(values)
    margin = (high - low or abs(high) or 1.0) * 0.12
    low, high = low - margin, high + margin

    def y(score: float) -> float:
        return 10 + (height - bottom - 10) * (high - score) / (high - low)

    step = (width - left - 20) / max(len(scores), 1)
    parts = list(_grid(low, high, y, left, width))
    if limit is not None:
        parts.append(f'<line class="limit" x1="{left}" x2="{width - 10}" y1="{y(limit):.1f}" y2="{y(limit):.1f}"/>')
        parts.append(f'<text class="limit" x="{width - 12}" y="{y(limit) - 6:.1f}" text-anchor="end">budget</text>')
    for index, (below, score, holds, chosen) in enumerate(scores):
        px, py = left + step * (index + 0.5), y(score)
        if chosen:
            parts.append(f'<circle class="chosen" cx="{px:.1f}" cy="{py:.1f}" r="10"/>')
        title = f"<title>{escape(below)}: {score:.6g}</title>"
        parts.append(
            f'<circle class="{"holds" if holds else "misses"}" cx="{px:.1f}" cy="{py:.1f}" r="6">{title}</circle>'
        )
        parts.append(f'<text class="tick" x="{px:.1f}" y="{height - 26}" text-anchor="middle">{escape(below)}</text>')
    middle = (left + width) / 2
    parts.append(f'<text class="tick" x="{middle}" y="{height - 6}" text-anchor="middle">{caption}</text>')
    head = f'<svg class="history" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="scores">'
    return f"{head}{''.join(parts)}</svg>"


@dataclass(frozen=True, kw_only=True)
class Point:
    """A mark of a plot: of what kind it is, its name, and whether a ring is around it."""

    x: float
    y: float
    kind: str
    name: str
    chosen: bool = False


SHAPES = {
    "float": '<rect class="float" x="{0:.1f}" y="{1:.1f}" width="11" height="11"/>',
    "plain": '<circle class="plain" cx="{2:.1f}" cy="{3:.1f}" r="6"/>',
    "trained": '<path class="trained" d="M{2:.1f} {4:.1f}l8 8l-8 8l-8 -8z"/>',
}
"""Marks that differ in shape, not in colour alone."""


def _shape(kind: str, x: float, y: float) -> str:
    return SHAPES[kind].format(x - 5.5, y - 5.5, x, y, y - 8)


def mark(kind: str) -> str:
    """The mark of a kind, for a legend beside its name."""
    return f'<svg class="mark" viewBox="0 0 18 18" aria-hidden="true">{_shape(kind, 9, 9)}</svg>'


def front(points: Sequence[Point]) -> list[Point]:
    """Those than which no other has as high a y at as low an x, from the left."""
    best: list[Point] = []
    for point in sorted(points, key=lambda each: (each.x, -each.y)):
        if not best or point.y > best[-1].y:
            best.append(point)
    return best


def scatter(
    name: str, points: Sequence[Point], limit: float | None, goal: float | None, unit: Callable[[float], str]
) -> str:
    """Scores against what they cost: a line through the front, dashed ones at the least score and the highest cost."""
    width, height, left, bottom = 760.0, 280.0, 66.0, 46.0
    scores = [point.y for point in points] + ([] if limit is None else [limit])
    costs = [point.x for point in points] + ([] if goal is None else [goal])
    low, high = min(scores), max(scores)
    margin = (high - low or abs(high) or 1.0) * 0.12
    low, high, most = low - margin, high + margin, (max(costs) or 1.0) * 1.06

    def x(cost: float) -> float:
        return left + (width - left - 20) * cost / most

    def y(score: float) -> float:
        return 10 + (height - bottom - 10) * (high - score) / (high - low)

    parts = list(_grid(low, high, y, left, width))
    for tick in range(5):
        cost = most / 1.06 * tick / 4
        text = f"{unit(cost) if cost else 0}"
        parts.append(f'<text class="tick" x="{x(cost):.1f}" y="{height - 26}" text-anchor="middle">{text}</text>')
    if limit is not None:
        parts.append(f'<line class="limit" x1="{left}" x2="{width - 10}" y1="{y(limit):.1f}" y2="{y(limit):.1f}"/>')
        parts.append(
            f'<text class="limit" x="{width - 12}" y="{y(limit) + 14:.1f}" text-anchor="end">least score</text>'
        )
    if goal is not None:
        parts.append(f'<line class="limit" x1="{x(goal):.1f}" x2="{x(goal):.1f}" y1="10" y2="{height - bottom}"/>')
        parts.append(f'<text class="limit" x="{x(goal) + 6:.1f}" y="{height - bottom - 8}">asked for</text>')
    steps = " ".join(f"{x(point.x):.1f},{y(point.y):.1f}" for point in front(points))
    parts.append(f'<polyline class="front" points="{steps}"/>')
    for point in sorted(points, key=lambda each: each.chosen):
        title = f"<title>{escape(point.name)}: {point.y:.6g}, {unit(point.x)}</title>"
        ring = f'<circle class="chosen" cx="{x(point.x):.1f}" cy="{y(point.y):.1f}" r="12"/>' if point.chosen else ""
        parts.append(f"<g>{title}{ring}{_shape(point.kind, x(point.x), y(point.y))}</g>")
    middle = (left + width) / 2
    parts.append(f'<text class="tick" x="{middle}" y="{height - 6}" text-anchor="middle">{escape(name)}</text>')
    head = f'<svg class="history" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(name)}">'
    return f"{head}{''.join(parts)}</svg>"
