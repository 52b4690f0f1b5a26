"""What all sections of a page are made of: frames, rows, and numbers for people."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Sequence
from html import escape


def section(title: str, *parts: str) -> str:
    """A heading and what stands below it."""
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def scroll(frame: str) -> str:
    """On a narrow screen a table moves sideways in its own frame."""
    return f'<div class="scroll" tabindex="0">{frame}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, texts: Container[str] = ()) -> str:
    """Cells in columns, of numbers but for those in `texts`; the first of a row says what the row is about."""
    kinds = ["" if not index or name in texts else ' class="number"' for index, name in enumerate(head)]
    names = "".join(f'<th scope="col"{kind}>{escape(text)}</th>' for kind, text in zip(kinds, head, strict=True))
    lines = "".join(_line(line, kinds) for line in rows)
    return scroll(f'<table class="plain"><thead><tr>{names}</tr></thead><tbody>{lines}</tbody></table>')


def _line(texts: Sequence[str], kinds: Sequence[str]) -> str:
    first, *others = map(escape, texts)
    cells = "".join(f"<td{kind}>{text}</td>" for kind, text in zip(kinds[1:], others, strict=True))
    return f'<tr><th scope="row">{first}</th>{cells}</tr>'


def milliseconds(seconds: float) -> str:
    """Three digits and a unit."""
    return (
        f"{seconds * 1e6:.3g} us"
        if seconds < 1e-3
        else f"{seconds * 1e3:.3g} ms"
        if seconds < 1
        else f"{seconds:.3g} s"
    )


def size(count: float) -> str:
    """Bytes for people."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:g} B"


def decibels(value: float) -> str:
    """One digit after the point; what is equal has no noise at all."""
    return f"{value:.1f} dB" if math.isfinite(value) else "exact" if value > 0 else "no signal"
