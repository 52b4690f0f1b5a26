"""einsum and what it can say: sums over shared labels, one pair of operands after the other, as matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...graph import dims
from ...graph.ir import Dim
from ..builder import Ref, Unlowerable
from ..lowering import Lowering
from ..registry import lowers
from .common import part
from .shape import permute


@dataclass(frozen=True)
class _Term:
    """A tensor with a label for each axis, all different."""

    ref: Ref
    labels: tuple[str, ...]

    def size(self, label: str) -> Dim:
        return self.ref.shape[self.labels.index(label)]


@lowers("einsum")
def einsum(c: Lowering, equation: str, operands: Sequence[Ref]) -> Ref:
    """Every equation that torch takes; sizes of 1 broadcast."""
    subscripts, output = _parse(equation, [operand.rank for operand in operands])
    terms = [
        _diagonal(c, c.operand(operand, "f32"), labels) for operand, labels in zip(operands, subscripts, strict=True)
    ]
    return _evaluate(c, terms, output)


@lowers("bilinear")
def bilinear(c: Lowering, a: Ref, b: Ref, weight: Ref, bias: Ref | None) -> Ref:
    rows = tuple(f"row {axis}" for axis in range(a.rank - 1))
    terms = [_Term(a, (*rows, "i")), _Term(weight, ("o", "i", "j")), _Term(b, (*rows, "j"))]
    y = _evaluate(c, terms, (*rows, "o"))
    return y if bias is None else c.emit("add", y, bias)


@lowers("tensordot")
def tensordot(c: Lowering, a: Ref, b: Ref, axes_a: Sequence[int], axes_b: Sequence[int]) -> Ref:
    labels_a, labels_b = [f"a{axis}" for axis in range(a.rank)], [f"b{axis}" for axis in range(b.rank)]
    for place, (axis_a, axis_b) in enumerate(zip(axes_a, axes_b, strict=True)):
        labels_a[axis_a] = labels_b[axis_b] = f"sum {place}"
    output = tuple(label for label in (*labels_a, *labels_b) if not label.startswith("sum"))
    return _evaluate(c, [_Term(a, tuple(labels_a)), _Term(b, tuple(labels_b))], output)


def _parse(equation: str, ranks: Sequence[int]) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """Labels of each operand's axes and of the result's; an ellipsis stands for labels counted from its end."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    texts = left.split(",")
    hidden = [rank - len(text.replace("...", "")) for text, rank in zip(texts, ranks, strict=True)]
    longest = max((count for text, count in zip(texts, hidden, strict=True) if "..." in text), default=0)

    def labels(text: str, count: int) -> tuple[str, ...]:
        before, dots, after = text.partition("...")
        covered = [f"...{longest - count + place}" for place in range(count)] if dots else []
        return (*before, *covered, *after)

    subscripts = [labels(text, count) for text, count in zip(texts, hidden, strict=True)]
    if arrow:
        return subscripts, labels(right, longest)
    letters = sorted(label for label in left.replace("...", "").replace(",", ""))
    return subscripts, (*labels("...", longest), *(label for label in letters if letters.count(label) == 1))


def _diagonal(c: Lowering, x: Ref, labels: tuple[str, ...]) -> _Term:
    """Of axes with the same label, the elements with equal indices: every n + 1st of the n * n."""
    for label in labels:
        if labels.count(label) == 1:
            continue
        axes = [axis for axis, other in enumerate(labels) if other == label][:2]
        rest = [axis for axis in range(x.rank) if axis not in axes]
        size = x.shape[axes[0]]
        if not isinstance(size, int):
            raise Unlowerable("the diagonal of axes whose size is free")
        flat = c.reshape(permute(c, x, [*rest, *axes]), (*(x.shape[axis] for axis in rest), size * size))
        return _diagonal(c, part(c, flat, len(rest), 0, size, size + 1), (*(labels[axis] for axis in rest), label))
    return _Term(x, labels)


def _evaluate(c: Lowering, terms: Sequence[_Term], output: tuple[str, ...]) -> Ref:
    total = terms[0]
    for place, term in enumerate(terms[1:], start=2):
        later = {label for other in terms[place:] for label in other.labels}
        total = _contract(c, total, term, later | set(output))
    total = _sum(c, total, [label for label in total.labels if label not in output])
    return permute(c, total.ref, [total.labels.index(label) for label in output])


def _sum(c: Lowering, term: _Term, labels: Sequence[str]) -> _Term:
    """Summed over these labels."""
    if not labels:
        return term
    axes = tuple(term.labels.index(label) for label in labels)
    kept = tuple(label for label in term.labels if label not in labels)
    return _Term(c.emit("reduce", term.ref, kind="sum", axes=axes, keepdim=0), kept)


def _without_ones(c: Lowering, a: _Term, b: _Term, keep: set[str]) -> _Term:
    """`a` without the axes of one that only stretch over an axis of `b`, or over none that is kept."""
    dropped = [label for label in a.labels if a.size(label) == 1 and (label in b.labels or label not in keep)]
    kept = tuple(label for label in a.labels if label not in dropped)
    return _Term(c.reshape(a.ref, tuple(a.size(label) for label in kept)), kept)


def _contract(c: Lowering, a: _Term, b: _Term, keep: set[str]) -> _Term:
    """The product, summed over the labels of both that are not kept."""
    a = _without_ones(c, a, b, keep)
    b = _without_ones(c, b, a, keep)
    a = _sum(c, a, [label for label in a.labels if label not in b.labels and label not in keep])
    b = _sum(c, b, [label for label in b.labels if label not in a.labels and label not in keep])
    if a.ref.name in c.constants and b.ref.name not in c.constants:
        a, b = b, a  # a constant on the right may become a layer's weight
    shared = [label for label in a.labels if label in b.labels]
    summed = [label for label in shared if label not in keep]
    batch = [label for label in shared if label in keep]
    rows = [label for label in a.labels if label not in shared]
    columns = [label for label in b.labels if label not in shared]
    labels = (*batch, *rows, *columns)
    if not summed:
        ones = (1,) * len(columns)
        left = c.reshape(_ordered(c, a, [*batch, *rows]), (*(a.size(label) for label in (*batch, *rows)), *ones))
        spread = (*(b.size(label) for label in batch), *((1,) * len(rows)), *(b.size(label) for label in columns))
        return _Term(c.emit("mul", left, c.reshape(_ordered(c, b, [*batch, *columns]), spread)), labels)
    y = _multiply(c, a, b, (batch, rows, columns, summed))
    shape = [a.size(label) for label in (*batch, *rows)] + [b.size(label) for label in columns]
    return _Term(c.reshape(y, tuple(shape)), labels)


def _multiply(c: Lowering, a: _Term, b: _Term, labels: tuple[list[str], ...]) -> Ref:
    """[batch, rows, summed] times [batch, columns, summed], the axes of each kind as one."""
    batch, rows, columns, summed = labels
    left = _grouped(c, a, batch, rows, summed)
    if not batch and b.ref.name in c.constants:
        order = [b.labels.index(label) for label in (*columns, *summed)]
        whole = np.ascontiguousarray(c.constants[b.ref.name].transpose(order))
        weight = whole.reshape(int(np.prod(whole.shape[: len(columns)], dtype=np.int64)), -1)
        if weight.size:
            return c.emit("linear", left, c.constant(weight, f"{b.ref.name}.matrix"))
    if b.labels[-1] in columns:
        return c.emit("matmul", left, _grouped(c, b, batch, summed, columns))
    return c.emit("matmul", left, _grouped(c, b, batch, columns, summed), transpose_b=1)


def _ordered(c: Lowering, term: _Term, labels: Sequence[str]) -> Ref:
    return permute(c, term.ref, [term.labels.index(label) for label in labels])


def _grouped(c: Lowering, term: _Term, batch: list[str], first: list[str], second: list[str]) -> Ref:
    """The axes in this order; those of `first` and of `second` as one each."""
    x = _ordered(c, term, [*batch, *first, *second])
    ends = (dims.mul(*(term.size(label) for label in group)) for group in (first, second))
    return c.reshape(x, (*(term.size(label) for label in batch), *ends))
