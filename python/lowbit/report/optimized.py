"""What `lowbit.optimize` found: the models it scored, as plots; what each layer became; and sizes, step by step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from . import charts
from .facts import Facts
from .markup import milliseconds, section, size, table

Row = Mapping[str, Any]
LAYERS = 400
"""Layers whose choice is told."""


def sections(facts: Facts) -> str:
    """The trials, the layers' choices, and the chain of sizes; "" of what is not known."""
    return f"{_trials(facts)}{_choices(facts)}{_sizes(facts)}"


def asked(goal: Mapping[str, float], max_drop: float | None) -> str:
    """What was asked for, in words.

    Args:
        goal: "milliseconds" of a call and "bytes" of a file, at most.
        max_drop: How far the score may fall.

    Returns:
        A text, or "".
    """
    parts = []
    if "milliseconds" in goal:
        parts.append(f"{milliseconds(goal['milliseconds'] / 1e3)} a call")
    if "bytes" in goal:
        parts.append(f"{size(goal['bytes'])} of a file")
    if max_drop is not None:
        parts.append(f"a score {max_drop:g} below float32's")
    return f"at most {', '.join(parts)}." if parts else ""


def trial_row(row: Row) -> tuple[str, ...]:
    """A trial in words: what, score, drop, time, bytes, whether it holds.

    Args:
        row: As `runtime.meta.Trial` says it.

    Returns:
        The cells of `TRIAL`.
    """
    holds = "this model" if row["taken"] else "yes" if row["holds"] else "no"
    return (
        str(row["model"]),
        f"{row['score']:.6g}",
        f"{row['drop']:.4g}",
        milliseconds(row["milliseconds"] / 1e3),
        size(row["bytes"]),
        holds,
    )


TRIAL = ("model", "score", "drop", "a call", "file", "holds")


def choice_row(row: Row) -> tuple[str, ...]:
    """A layer's choice in words, and what the next better and the next cheaper would change.

    Args:
        row: As `runtime.meta.Chosen` says it.

    Returns:
        The cells of `CHOICE`.
    """
    taken = (str(row["taken"]), f"{row['microseconds']:.3g} us", size(row["bytes"]), f"{row['noise']:.2g}")
    return (str(row["layer"]), *taken, _other(row, "better"), _other(row, "cheaper"))


CHOICE = ("layer", "became", "time", "weights", "noise", "the next better", "the next cheaper")
WORDS = ("became", "the next better", "the next cheaper")
"""The columns of `CHOICE` that hold no numbers."""


def _other(row: Row, which: str) -> str:
    """`int4-g32: +1.2 us, -300 B, noise x 0.2`."""
    name = row.get(which)
    time, count, noise = (row.get(f"{which}_{what}") for what in ("microseconds", "bytes", "noise"))
    if not name or time is None or count is None or noise is None:
        return "none"
    bytes_more = count - row["bytes"]
    more = f"{time - row['microseconds']:+.2g} us, {'-' if bytes_more < 0 else '+'}{size(abs(bytes_more))}"
    louder = f"x {noise / row['noise']:.2g}" if row["noise"] else f"{noise:.2g}"
    return f"{name}: {more}, noise {louder}"


def _trials(facts: Facts) -> str:
    if not facts.trials:
        return ""
    limit = None if facts.max_drop is None else float(facts.trials[0]["score"]) - facts.max_drop
    points = {
        what: [charts.Point(x=float(row[what]), y=float(row["score"]), **_look(row)) for row in facts.trials]
        for what in ("milliseconds", "bytes")
    }
    plots = [
        charts.scatter("score against time", points["milliseconds"], limit, facts.goal.get("milliseconds"), _ms),
        charts.scatter("score against the size of the file", points["bytes"], limit, facts.goal.get("bytes"), size),
    ]
    legend = "".join(
        f"<span>{charts.mark(kind)}{escape(text)}</span>"
        for kind, text in KINDS.items()
        if any(_kind(row) == kind for row in facts.trials)
    )
    text = (
        f"Asked for: {asked(facts.goal, facts.max_drop) or 'nothing in particular.'} Each mark is a model that was "
        "measured and scored. The ring is this model; the line joins those that no other beats in both."
    )
    return section(
        "Accuracy against time and size",
        f'<p>{escape(text)}</p><p class="legend">{legend}</p>',
        *plots,
        table(TRIAL, map(trial_row, facts.trials)),
    )


KINDS = {"float": "float32", "plain": "not trained", "trained": "trained"}


def _kind(row: Row) -> str:
    return "trained" if row["trained"] else "float" if row["model"] == "float32" else "plain"


def _look(row: Row) -> dict[str, Any]:
    return {"kind": _kind(row), "name": str(row["model"]), "chosen": bool(row["taken"])}


def _ms(value: float) -> str:
    return milliseconds(value / 1e3)


def _choices(facts: Facts) -> str:
    if not facts.choices:
        return ""
    text = (
        "As predicted before the whole model was measured. Noise is what a layer adds to the output's error. The next "
        "better has less of it, the next cheaper is faster or smaller; beside each stands what it would change."
    )
    more = len(facts.choices) - LAYERS
    rest = f"<p>And {more:,} more layers.</p>" if more > 0 else ""
    rows = map(choice_row, facts.choices[:LAYERS])
    return section("What each layer became", f"<p>{escape(text)}</p>", table(CHOICE, rows, texts=WORDS), rest)


def _sizes(facts: Facts) -> str:
    if not facts.sizes:
        return ""
    first = float(facts.sizes[0]["bytes"]) or 1.0
    return section("Size, step by step", charts.bars(list(_bars(facts, first))))


def _bars(facts: Facts, first: float) -> Iterator[tuple[str, float, str, str]]:
    for index, row in enumerate(facts.sizes):
        count = float(row["bytes"])
        share = f", 1/{first / count:.3g}" if index and count else ""
        yield str(row["step"]), count, f"{size(count)}{share}", "int8" if index else "float32"
