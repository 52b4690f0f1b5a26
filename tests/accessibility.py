"""What a page of a report owes to who sees little, sees other colours, or listens to it (WCAG 2.1, by number).

Own checks, since those that are known run in a browser: contrast of all pairs of colours (1.4.3, 1.4.11), names of
pictures (1.1.1), the order of headings (1.3.1), headers of tables (1.3.1), a language (3.1.1), a title (2.4.2).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser

TEXT, GRAPHIC = 4.5, 3.0
"""The least contrast of texts, and of what is drawn."""
DECORATION = ("--line",)
"""Lines of tables and grids, which say nothing that is not said otherwise."""
GROUNDS = ("--paper", "--tint")


def contrast(one: str, other: str) -> float:
    """Of two colours such as `#fff` or `#1f6feb`, from 1 to 21 (WCAG 2.1, "contrast ratio")."""
    low, high = sorted(map(_luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    digits = colour.removeprefix("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def themes(style: str) -> dict[str, dict[str, str]]:
    """The colours of the light page, the dark one and the printed one, by their variables."""
    blocks = dict.fromkeys(("light", "dark", "print"), "")
    for head, body in re.findall(r"(@media [^{]*\{ )?:root \{([^}]*)\}", style):
        blocks["dark" if "dark" in head else "print" if "print" in head else "light"] += body
    found = {name: dict(re.findall(r"(--[\w-]+): (#[0-9a-f]+)", body)) for name, body in blocks.items()}
    return {name: {**found["light"], **own} for name, own in found.items()}


def pairs(style: str) -> Iterator[tuple[str, str, float]]:
    """Each variable that texts or drawings have, a ground that they may stand on, and the least contrast."""
    plain = re.sub(r"@media[^{]*\{|/\*.*?\*/", "", style)
    for selector, body in re.findall(r"([^{}]+)\{([^{}]*)\}", plain):
        for key, name in re.findall(r"(?<![\w-])(color|fill|stroke|background): var\((--[\w-]+)\)", body):
            if name in (*GROUNDS, *DECORATION):
                continue
            is_text = key == "color" or (key == "fill" and "text" in selector)
            for ground in GROUNDS:
                yield name, ground, TEXT if is_text else GRAPHIC


def faint(style: str) -> list[str]:
    """The pairs of colours that are too near to each other, in each theme."""
    return [
        f"{theme}: {name} on {ground}, {contrast(colours[name], colours[ground]):.2f} < {least}"
        for theme, colours in themes(style).items()
        for name, ground, least in sorted(set(pairs(style)))
        if contrast(colours[name], colours[ground]) < least
    ]


class Page(HTMLParser):
    """Collects what is wrong with a page, in `problems`."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.problems: list[str] = []
        self._level, self._row, self._in = 0, 0, list[tuple[str, dict[str, str | None]]]()
        self._named = {"title": False, "html": False}
        self._cells: list[list[str]] = []
        self.problems += [f"an empty header of a table: {each}" for each in re.findall(r"<th[^>]*></th>", page)]
        self.feed(page)
        self.close()
        self.problems += [f"no name or language: {what}" for what, known in self._named.items() if not known]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        own = dict(attrs)
        if re.fullmatch("h[1-6]", tag):
            if int(tag[1]) > self._level + 1:
                self.problems.append(f"<{tag}> after a heading of level {self._level}")
            self._level = int(tag[1])
        if tag in ("svg", "img"):
            is_image = tag == "img" or own.get("role") == "img"
            if own.get("aria-hidden") != "true" and not (is_image and (own.get("aria-label") or own.get("alt"))):
                self.problems.append(f"<{tag}> without a name: {self.get_starttag_text()}")
        if tag == "html":
            self._named["html"] = bool(own.get("lang"))
        if tag == "th" and own.get("scope") not in ("col", "row"):
            self.problems.append(f"a header of a table without scope: {self.get_starttag_text()}")
        if tag == "table":
            self._cells.append([])
        if tag in ("th", "td") and self._cells:
            self._cells[-1].append(tag)
        self._in.append((tag, own))

    def handle_endtag(self, tag: str) -> None:
        if tag == "table" and "th" not in self._cells.pop():
            self.problems.append("a table without headers")

    def handle_data(self, data: str) -> None:
        if self._in and self._in[-1][0] == "title" and len(self._in) < 8:
            self._named["title"] |= bool(data.strip())
