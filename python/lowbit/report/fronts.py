"""A chart of scores against times: all that was tried, and what no other is better than."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import NamedTuple

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #444 } .grid { stroke: #8884 } .name { font-weight: 600 }
.tried { fill: #888; fill-opacity: .5 } .front { fill: #2a78b8 } .mark { fill: #b4530c }
.line { fill: none; stroke: #2a78b8; stroke-width: 2 } .slow { stroke-dasharray: 4 4 }
@media (prefers-color-scheme: dark) {
text { fill: #ccc } .tried { fill: #999 } .front { fill: #6db3ee } .line { stroke: #6db3ee } .mark { fill: #f0a060 } }
"""
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720.0, 440.0, 64.0, 24.0, 56.0, 52.0


class Dot(NamedTuple):
    """Milliseconds, a score, and what it is."""

    ms: float
    score: float
    name: str


def front_chart(
    tried: Sequence[Dot], front: Sequence[Dot], title: str, marks: Mapping[str, tuple[float, float]]
) -> str:
    """An SVG file that stands alone, readable on light and dark pages; time is logarithmic."""
    others = [Dot(*at, name) for name, at in marks.items()]
    everything = [*tried, *front, *others]
    low, high = _padded(min(each.score for each in everything), max(each.score for each in everything))
    first, last = _padded(*(math.log(of(each.ms for each in everything)) for of in (min, max)))

    def x(ms: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (math.log(ms) - first) / (last - first)

    def y(score: float) -> float:
        return TOP + (HEIGHT - BOTTOM - TOP) * (high - score) / (high - low)

    parts = [f'<text class="name" x="{LEFT}" y="20">{escape(title)}</text>', *_legend(bool(others))]
    for score in _ticks(low, high):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(score):.1f}" y2="{y(score):.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(score) + 4:.1f}" text-anchor="end">{score:.4g}</text>')
    for ms in _log_ticks(math.exp(first), math.exp(last)):
        parts.append(f'<line class="grid" x1="{x(ms):.1f}" x2="{x(ms):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{x(ms):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{ms:.3g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 10}" text-anchor="middle">milliseconds a call</text>')
    steps = " ".join(f"{x(a.ms):.1f},{y(a.score):.1f}" for a in _steps(front))
    parts += [_dot("tried", x(each.ms), y(each.score), 4, each) for each in tried]
    parts.append(f'<polyline class="line" points="{steps}"/>')
    parts += [_dot("front", x(each.ms), y(each.score), 5, each) for each in front]
    for each in others:
        at, side = x(each.ms), "end" if x(each.ms) > WIDTH * 0.7 else "start"
        parts.append(_diamond(at, y(each.score), each))
        shift = -11 if side == "end" else 11
        parts.append(
            f'<text class="name" x="{at + shift:.1f}" y="{y(each.score) + 17:.1f}" text-anchor="{side}">'
            f"{escape(each.name)}</text>"
        )
    size = f'viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" width="{WIDTH:.0f}" height="{HEIGHT:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(title)}">'
    return f"{head}<style>{STYLE}</style>{''.join(parts)}</svg>\n"


def _legend(has_marks: bool) -> Iterator[str]:
    names = [("tried", "tried"), ("front", "on the front"), *([("mark", "to compare with")] if has_marks else [])]
    for place, (kind, name) in enumerate(names):
        at = LEFT + 8 + 130 * place
        yield _diamond(at, 38, None) if kind == "mark" else _dot(kind, at, 38, 5, None)
        yield f'<text x="{at + 12}" y="42">{name}</text>'


def _dot(kind: str, x: float, y: float, radius: int, dot: Dot | None) -> str:
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}">{_title(dot)}</circle>'


def _diamond(x: float, y: float, dot: Dot | None) -> str:
    return f'<path class="mark" d="M{x:.1f} {y - 7:.1f}l7 7l-7 7l-7 -7z">{_title(dot)}</path>'


def _title(dot: Dot | None) -> str:
    return "" if dot is None else f"<title>{escape(dot.name)}: {dot.score:.4f}, {dot.ms:.4f} ms</title>"


def _steps(front: Sequence[Dot]) -> Iterator[Dot]:
    """Up to each dot at its time, and on to the next one's: what is known to be reached within a time."""
    for number, each in enumerate(front):
        if number:
            yield Dot(each.ms, front[number - 1].score, "")
        yield each


def _padded(low: float, high: float) -> tuple[float, float]:
    margin = 0.06 * ((high - low) or abs(high) or 1.0)
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, four to eight of them."""
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 8)
    return [step * number for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [factor * 10.0**decade for decade in decades for factor in (1, 2, 5)]
    found = [each for each in found if low <= each <= high]
    return found if len(found) > 2 else _ticks(low, high)
