"""Charts for the documentation: SVG files that stand alone, readable on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #444 } .grid { stroke: #8884; stroke-width: 1 }
circle { fill: #2a78b8; fill-opacity: 0.55 } .mean { stroke: #d2691e; stroke-width: 3 } .value { font-weight: 600 }
@media (prefers-color-scheme: dark) { text { fill: #ccc } circle { fill: #6db3ee } .mean { stroke: #f0a060 } }
polyline { fill: none; stroke-width: 2.5 }
.c0 { stroke: #2a78b8 } .c1 { stroke: #d2691e } .c2 { stroke: #7a9a3a } .c3 { stroke: #9060b0 }
.c4 { stroke: #c03a5b } .c5 { stroke: #2a9d8f } .c6 { stroke: #8a6d3b } .c7 { stroke: #888 }
"""
COLOURS = 8
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 720.0, 320.0, 58.0, 34.0, 34.0


def strips(groups: Mapping[str, Sequence[float]], title: str, *, digits: int = 1) -> str:
    """Dots of each group over its name, a line and a number at their mean."""
    values = [value for group in groups.values() for value in group]
    margin = 0.1 * (max(values) - min(values) or 1.0)
    low, high = min(values) - margin, max(values) + margin

    def y(value: float) -> float:
        return TOP + (HEIGHT - BOTTOM - TOP) * (high - value) / (high - low)

    parts = [f'<text x="{LEFT}" y="18">{escape(title)}</text>']
    for tick in range(5):
        value = low + (high - low) * tick / 4
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - 8}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.{digits}f}</text>')
    step = (WIDTH - LEFT - 8) / len(groups)
    for index, (name, group) in enumerate(groups.items()):
        middle, mean = LEFT + step * (index + 0.5), sum(group) / len(group)
        parts += [
            f'<circle cx="{middle + 7 * (place - (len(group) - 1) / 2):.1f}" cy="{y(value):.1f}" r="5"/>'
            for place, value in enumerate(group)
        ]
        wide, at = 7 * (len(group) + 1) / 2, y(mean)
        parts.append(
            f'<line class="mean" x1="{middle - wide:.1f}" x2="{middle + wide:.1f}" y1="{at:.1f}" y2="{at:.1f}"/>'
        )
        parts.append(f'<text class="value" x="{middle + wide + 4:.1f}" y="{at + 4:.1f}">{mean:.{digits + 1}f}</text>')
        parts.append(f'<text x="{middle:.1f}" y="{HEIGHT - 10}" text-anchor="middle">{escape(name)}</text>')
    return _page(title, parts)


def lines(series: Mapping[str, Sequence[float]], places: Sequence[str], title: str, *, ticks: Sequence[float]) -> str:
    """A line for each of at most four series over equally spaced `places`, on a logarithmic scale marked at `ticks`."""
    low, high = math.log(min(ticks)), math.log(max(ticks))

    def y(value: float) -> float:
        return TOP + (HEIGHT - BOTTOM - TOP) * (high - math.log(value)) / (high - low)

    right = WIDTH - 60
    step = (right - LEFT) / (len(places) - 1)
    parts = [f'<text x="{LEFT}" y="18">{escape(title)}</text>']
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for index, place in enumerate(places):
        parts.append(
            f'<text x="{LEFT + step * index:.1f}" y="{HEIGHT - 10}" text-anchor="middle">{escape(place)}</text>'
        )
    for number, (name, values) in enumerate(series.items()):
        points = " ".join(f"{LEFT + step * index:.1f},{y(value):.1f}" for index, value in enumerate(values))
        parts.append(f'<polyline class="c{number}" points="{points}"/>')
        parts.append(f'<text class="value" x="{right + 6:.1f}" y="{y(values[-1]) + 4:.1f}">{escape(name)}</text>')
    return _page(title, parts)


def curves(
    series: Mapping[str, Sequence[tuple[float, float]]],
    title: str,
    *,
    ticks: Sequence[float],
    marks: Sequence[float],
    is_linear: bool = False,
) -> str:
    """A line with dots for each series of (x, y), its name beside its last dot; y is logarithmic, or linear."""
    scale = float if is_linear else math.log
    low, high = scale(min(ticks)), scale(max(ticks))
    bottom = 1.5 * HEIGHT - BOTTOM

    def x(value: float) -> float:
        return LEFT + 20 + (WIDTH - LEFT - 175) * (value - marks[0]) / (marks[-1] - marks[0])

    def y(value: float) -> float:
        return TOP + (bottom - TOP) * (high - scale(value)) / (high - low)

    ends, lowest = {}, -math.inf  # of names, so that none lies on another
    for name, values in sorted(series.items(), key=lambda item: -item[1][-1][1]) if is_linear else ():
        lowest = ends[name] = max(y(values[-1][1]), lowest + 15)
    parts = [f'<text x="{LEFT}" y="18">{escape(title)}</text>']
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - 8}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for mark in marks:
        parts.append(f'<text x="{x(mark):.1f}" y="{bottom + 24:.1f}" text-anchor="middle">{mark:g}</text>')
    for number, (name, values) in enumerate(series.items()):
        points = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in values)
        parts.append(f'<polyline class="c{number % COLOURS}" points="{points}"/>')
        parts += [f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="4"/>' for a, b in values]
        a, b = values[-1]
        place, anchor = (9, "start") if len(values) > 1 else (-9, "end")
        at = f'x="{x(a) + place:.1f}" y="{ends.get(name, y(b)) + 4:.1f}" text-anchor="{anchor}"'
        parts.append(f'<text class="value" {at}>{escape(name)}</text>')
    return _page(title, parts, 1.5 * HEIGHT)


def _page(title: str, parts: Sequence[str], height: float = HEIGHT) -> str:
    size = f'viewBox="0 0 {WIDTH:.0f} {height:.0f}" width="{WIDTH:.0f}" height="{height:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(title)}">'
    return f"{head}<style>{STYLE}</style>{''.join(parts)}</svg>\n"
