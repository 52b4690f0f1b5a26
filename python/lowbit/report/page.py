"""The report as one self-contained page: no script, no network, light and dark, fit to print."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from ..graph.weights import BITS
from . import charts, optimized, training
from .facts import CODED, Facts, Step, Timed
from .markup import decibels, milliseconds, scroll, section, size, table

SHOWN = 60
"""Steps in the table of layers; of a larger model the slowest, and the others folded away."""
NAMED = 40
"""Nodes named in a group of decisions."""
RECORDS = 50
"""Things done in training that are told."""
KEPT = '<th scope="col" class="number kept">kept</th>'
KINDS = {
    **{f"int{bits}": f"{bits}-bit weights" for bits in BITS[:-1]},
    "int8": "8-bit codes",
    "float32": "float32",
    "conversion": "between codes and floats",
    "torch": "a fallback segment, run by torch",
}


def render(facts: Facts) -> str:
    """The page of a report.

    Args:
        facts: All that it shows.

    Returns:
        HTML that needs nothing from elsewhere.
    """
    style = resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    title = escape(facts.name)
    sections = (
        _speed(facts),
        optimized.sections(facts),
        _accuracy(facts),
        _budget(facts),
        _trained(facts),
        _layers(facts),
        _decisions(facts),
        _notes(facts),
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{title}: lowbit report</title><style>{style}</style></head><body><main>"
        f"{_head(facts)}{''.join(sections)}</main></body></html>\n"
    )


def _head(facts: Facts) -> str:
    signature = "".join(
        f"<dt>{kind}</dt><dd>{'<br>'.join(map(escape, names))}</dd>"
        for kind, names in (
            ("inputs", facts.inputs),
            ("outputs", facts.outputs),
            ("scheme", (facts.scheme,)),
            ("made for", (facts.target,)),
        )
        if names != ("",)
    )
    tiles = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(what)}</span><small>{escape(more)}</small></div>'
        for value, what, more in _tiles(facts)
    )
    return (
        f'<header><p class="producer">{escape(facts.producer)}</p><h1>{escape(facts.name)}</h1>'
        f"<dl>{signature}</dl></header>"
        f'<div class="tiles">{tiles}</div>'
    )


def _tiles(facts: Facts) -> Iterable[tuple[str, str, str]]:
    """(value, what it is, what it is compared with) of the figures that sum the model up."""
    if facts.times:
        own, *others = facts.times
        yield milliseconds(own.lowest), "a call", ", ".join(_ratio(own.lowest, timed) for timed in others)
    if facts.weight_bytes:
        yield (
            size(facts.weight_bytes),
            "of weights",
            f"{facts.float_bytes / facts.weight_bytes:.1f} x less than in float32",
        )
    if facts.errors:
        worst = min(error.sqnr for error in facts.errors)
        yield (
            decibels(worst),
            "output SQNR",
            "against float32" + (", the worst output" if len(facts.errors) > 1 else ""),
        )
    shares = facts.shares
    if shares:
        kinds = " and ".join(shares)
        yield f"{sum(shares.values()):.0%}", f"of operations in {kinds}", f"{len(facts.steps)} steps"
    if facts.evaluations or facts.trials:
        last = next((row for row in facts.trials if row["taken"]), None) or _final(facts)
        drop = float(last["drop"])
        compared = "as float32" if drop == 0 else f"{abs(drop):.3g} {'below' if drop > 0 else 'above'} float32"
        yield f"{last['score']:.4g}", "score", compared


def _ratio(seconds: float, other: Timed) -> str:
    ratio = other.lowest / seconds
    return (
        f"{ratio:.1f} times as fast as {other.name}" if ratio >= 1 else f"{1 / ratio:.1f} times as long as {other.name}"
    )


def _final(facts: Facts) -> Mapping[str, Any]:
    """The evaluation of the model that the report is about: the last one that its decisions agree with."""
    paid = [row for row in facts.decisions if str(row.get("reason", "")).startswith("paid for")]
    floats = {row["node"] for row in paid if row["scheme"] == "float32"}
    fours = sum(row["scheme"] in CODED[:-1] for row in facts.decisions)
    same = [row for row in facts.evaluations if set(row["float_layers"]) == floats and _fours(row) == fours]
    return (same or facts.evaluations or facts.trials)[-1]


def _fours(evaluation: Mapping[str, Any]) -> int:
    """Layers with weights of few bits; files may know of none."""
    count = evaluation.get("int4_layers", 0)
    return count if isinstance(count, int) else 0


def _speed(facts: Facts) -> str:
    if not facts.times:
        return ""
    kinds = ["int8", *["float32"] * len(facts.times)]
    rows = [
        (timed.name, timed.lowest, f"{milliseconds(timed.lowest)} (median {milliseconds(timed.median)})", kind)
        for timed, kind in zip(facts.times, kinds, strict=False)
    ]
    weights = [("weights", float(facts.weight_bytes), size(facts.weight_bytes), "int8")]
    weights.append(("as float32", float(facts.float_bytes), size(facts.float_bytes), "float32"))
    how = (
        f"The lowest of interleaved rounds' medians, and the median of them, on {facts.measured_on}; {facts.cpu}, "
        f"{facts.isa}, threads: {facts.threads}."
    )
    return section("Time and size", charts.bars(rows), f'<p class="how">{escape(how)}</p>', charts.bars(weights))


def _accuracy(facts: Facts) -> str:
    if not facts.errors:
        return ""
    rows = [(error.name, decibels(error.sqnr), f"{error.largest:.3g}", f"{error.scale:.3g}") for error in facts.errors]
    how = f"Against lowbit's float32 graph, on {facts.measured_on}. SQNR is signal to noise: 6 dB are one bit."
    return section(
        "Error against float32",
        table(("output", "SQNR", "largest difference", "largest value"), rows),
        f'<p class="how">{escape(how)}</p>',
    )


def _budget(facts: Facts) -> str:
    if not facts.evaluations or facts.trials:  # which tell of the same models, and more
        return ""
    first = float(facts.evaluations[0]["score"])
    limit = None if facts.max_drop is None else first - facts.max_drop
    tolerance = 1e-9 * max(abs(first), 1.0)
    scores, final = [], _final(facts)
    mixed = any(_fours(row) for row in facts.evaluations)
    few = f"in {next((kind for kind in CODED[:-1] if any(row['scheme'] == kind for row in facts.decisions)), 'int4')}"
    kinds = (few, "in int8") if mixed else ("layers in int8",)
    rows = []
    for row in facts.evaluations:
        holds = limit is None or row["score"] >= limit - tolerance
        count = len(row["float_layers"])
        below = "all" if row["model"] == "float32" else str(count)
        if mixed:
            below = f"{_fours(row)} / {below}"
        scores.append((below, float(row["score"]), holds, row is final))
        counts = (str(_fours(row)), str(row["int8_layers"])) if mixed else (str(row["int8_layers"]),)
        texts = (*counts, str(count), f"{row['score']:.6g}", f"{row['drop']:.4g}")
        rows.append((str(row["model"]), *texts, "" if limit is None else "yes" if holds else "no"))
    asked = "" if facts.max_drop is None else f" A drop of {facts.max_drop:g} below float32 was allowed."
    text = (
        f"<p>Scores are those of the function given as evaluate; higher is better.{asked} The ring is this model.</p>"
    )
    return section(
        "Evaluations",
        text,
        charts.history(scores, limit, f"layers {few} / in float32" if mixed else "layers in float32"),
        table(("model", *kinds, "returned to float32", "score", "drop", "holds"), rows),
    )


def _trained(facts: Facts) -> str:
    if not facts.training:
        return ""
    shown = facts.training[:RECORDS]
    lines = "".join(
        f"<dt>{escape(kind)}</dt><dd>{'<br>'.join(escape(line) for line in training.told(told))}</dd>"
        for kind, told in shown
    )
    drawn = [
        charts.course(name, points, training.best(told), "epoch")
        for _, told in shown
        for name, points in training.courses(told)
    ]
    ring = "<p>The ring is the epoch whose weights this model has.</p>" if drawn else ""
    return section("How it was trained", f'<dl class="trained">{lines}</dl>', ring, *drawn)


# --------------------------------------------------------------------------------------------------------------- layers


def _layers(facts: Facts) -> str:
    if not facts.steps:
        return ""
    total = sum(step.seconds for step in facts.steps)
    count = SHOWN if len(facts.steps) > SHOWN + 10 else len(facts.steps)  # a few more are not worth folding away
    slowest = sorted(facts.steps, key=lambda step: -step.seconds)[:count]
    chosen = {id(step) for step in slowest}
    most = max(max(step.seconds, step.float_seconds or 0.0) for step in facts.steps) or 1.0
    shown = [step for step in facts.steps if id(step) in chosen]
    rest = [step for step in facts.steps if id(step) not in chosen]
    legend = "".join(
        f'<span><i class="{kind}"></i>{escape(text)}</span>'
        for kind, text in KINDS.items()
        if any(step.kind == kind for step in facts.steps)
    )
    if any(step.float_seconds is not None for step in facts.steps):
        legend += '<span><i class="under"></i>the same node in float32</span>'
    what = f"In the order in which they run; {milliseconds(total)} in all, step by step."
    if any(step.near for step in facts.steps):
        what += " Of limit: how near a step comes to this machine's arithmetic or memory, whichever binds it."
    if rest:
        what += f" The {len(shown)} slowest steps take {sum(step.seconds for step in slowest) / total:.0%} of it."
    kept = {str(row["node"]): f"{row['density']:.1%} in {row['pattern']}" for row in facts.sparsity}
    if kept:
        what += " Kept: the share of a layer's weights in blocks that are not all zero; the limit counts all blocks."
    parts = [f'<p>{escape(what)}</p><p class="legend">{legend}</p>', _steps(shown, most, total, kept)]
    if rest:
        folded = _steps(rest, most, total, kept)
        parts.append(f"<details><summary>The other {len(rest)} steps</summary>{folded}</details>")
    return section("Layer by layer", *parts)


def _steps(steps: Sequence[Step], most: float, total: float, kept: Mapping[str, str]) -> str:
    has_error, has_limit = any(step.sqnr is not None for step in steps), any(step.near for step in steps)
    number = '<th scope="col" class="number">'
    head = f'<tr><th scope="col">node</th><td class="wide"></td>{number}time</th>{number}share</th>'
    head += f"{number}of limit</th>" if has_limit else ""
    head += f'<td class="narrow"></td>{number}SQNR, dB</th>' if has_error else ""
    rows = "".join(_step(step, most, total, has_error, has_limit, kept) for step in steps)
    head += f"{number}weights</th>{KEPT if kept else ''}</tr>"
    return scroll(f'<table class="layers"><thead>{head}</thead><tbody>{rows}</tbody></table>')


def _step(step: Step, most: float, total: float, has_error: bool, has_limit: bool, kept: Mapping[str, str]) -> str:
    under = None if step.float_seconds is None or step.kind not in CODED else step.float_seconds / most
    time = charts.bar(step.seconds / most, kind=step.kind, under=under, label=milliseconds(step.seconds))
    detail = " ".join(filter(None, (step.op, step.kernel)))
    cells = [
        f'<th scope="row" class="name">{escape(step.node)}<small>{escape(detail)}</small></th>',
        f'<td class="wide">{time}</td>',
        f'<td class="number">{milliseconds(step.seconds)}</td>',
        f'<td class="number">{step.seconds / (total or 1):.1%}</td>',
    ]
    if has_limit:
        cells.append(f'<td class="number">{escape(step.near)}</td>')
    if has_error and step.sqnr is not None:
        error = charts.bar(step.sqnr / 60, kind="error", label=decibels(step.sqnr)) if math.isfinite(step.sqnr) else ""
        text = f"{step.sqnr:.1f}" if math.isfinite(step.sqnr) else "exact" if step.sqnr > 0 else "-"
        cells.append(f'<td class="narrow">{error}</td><td class="number">{text}</td>')
    elif has_error:
        cells.append("<td></td><td></td>")
    cells.append(f'<td class="number">{size(step.bytes) if step.bytes else ""}</td>')
    if kept:
        cells.append(f'<td class="number">{escape(kept.get(step.node, ""))}</td>')
    return f"<tr>{''.join(cells)}</tr>"


# ------------------------------------------------------------------------------------------------------------ decisions


def _decisions(facts: Facts) -> str:
    if not facts.decisions:
        return ""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in facts.decisions:
        groups.setdefault((str(row.get("scheme", "")), _general(str(row.get("reason", "")))), []).append(row)
    ordered = sorted(groups.items(), key=lambda item: (not item[0][1].startswith("paid"), item[0][0], -len(item[1])))
    lines = "".join(_group(scheme, reason, rows) for (scheme, reason), rows in ordered)
    return section("What was chosen, and why", f'<dl class="groups">{lines}</dl>')


def _general(reason: str) -> str:
    """The reason without what differs from node to node."""
    reason = re.sub(r"[\d.]+ times faster", "faster", reason.partition(": ")[0])
    return "part of the node before it" if reason.startswith("part of ") else re.sub(r"sums of \d+", "sums", reason)


def _group(scheme: str, reason: str, rows: Sequence[Mapping[str, Any]]) -> str:
    names = [f"<code>{escape(str(row.get('node', '')))}</code>{_detail(row)}" for row in rows]
    listed = "<br>" if reason.startswith("paid") else ", "
    body = listed.join(names[:NAMED])
    if len(names) > NAMED:
        body += f"<details><summary>and {len(names) - NAMED} more</summary>{listed.join(names[NAMED:])}</details>"
    count = f"{len(rows)} node{'s' if len(rows) > 1 else ''}"
    head = f'<dt><i class="{escape(scheme)}"></i>{escape(scheme)}: {escape(reason)} <small>{count}</small></dt>'
    return f"{head}<dd>{body}</dd>"


def _detail(row: Mapping[str, Any]) -> str:
    """What is said of this node alone, where that is the point."""
    head, _, tail = str(row.get("reason", "")).partition(": ")
    return f" {escape(tail)}" if tail and head.startswith(("paid", "runs in torch")) else ""


def _notes(facts: Facts) -> str:
    notes = list(facts.notes)
    if facts.segments:
        time = sum(step.seconds for step in facts.segments) / (sum(step.seconds for step in facts.steps) or 1.0)
        names = ", ".join(step.node for step in facts.segments)
        notes.append(f"{len(facts.segments)} segment(s) run in torch ({names}) and take {time:.0%} of the time")
    if not notes:
        return ""
    return section("Notes", f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>")
