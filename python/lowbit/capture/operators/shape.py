"""What moves elements, changes their type, or nothing."""

from __future__ import annotations

from collections.abc import Sequence

from ...graph import dims
from ...graph.ir import Dim
from ..builder import Ref, Unlowerable
from ..lowering import Lowering
from ..registry import Lowered, lowers
from ..sizes import MAXIMUM
from .common import part


@lowers(
    "flatten", "unflatten", "squeeze", "unsqueeze", "squeeze_copy", "unsqueeze_copy", "view_as", "reshape_as", "ravel",
)  # fmt: skip
def reshape(c: Lowering, x: Ref) -> Ref:
    return c.reshape(x)


@lowers("view.default", "reshape", "_unsafe_view", "_reshape_copy", "view_copy")
def view(c: Lowering, x: Ref, given: Sequence[Dim]) -> Ref:
    """The sizes as they are given: torch's own result may say less, h // (h // 2) for a 2."""
    known = dims.mul(*(size for size in given if size != -1))
    rest = dims.simplify(dims.floordiv(dims.mul(*x.shape), known), c.limits.symbols) if -1 in given and known else -1
    shape = tuple(rest if size == -1 else dims.simplify(size, c.limits.symbols) for size in given)
    return c.reshape(x, shape if -1 not in shape else None)


@lowers(
    "contiguous", "clone", "alias", "detach", "detach_", "lift_fresh_copy", "lift_fresh", "identity", "positive",
    "resolve_conj", "resolve_neg", "alias_copy", "detach_copy", "lift",
)  # fmt: skip
def identity(c: Lowering, x: Ref) -> Ref:
    return x


@lowers("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout")
def dropout(c: Lowering, x: Ref, p: float, train: bool) -> Lowered:
    if train and p > 0:
        raise Unlowerable(
            "dropout that stays active in eval mode gives random results",
            "pass training=self.training to functional dropout",
        )
    return (x, None) if isinstance(c.node.meta["val"], tuple | list) else x


@lowers("to", "_to_copy", "type_as")
def to(c: Lowering, x: Ref) -> Ref:
    """All floats are float32 here, so most conversions are nothing."""
    return c.cast(x, c.out_dtype())


@lowers("permute", "permute_copy")
def permute(c: Lowering, x: Ref, axes: Sequence[int]) -> Ref:
    perm = tuple(axis % x.rank for axis in axes)
    return x if perm == tuple(range(x.rank)) else c.emit("transpose", x, perm=perm)


@lowers("transpose.int", "swapaxes", "swapdims", "transpose_copy")
def transpose(c: Lowering, x: Ref, a: int, b: int) -> Ref:
    axes = list(range(x.rank))
    axes[a], axes[b] = axes[b], axes[a]
    return permute(c, x, axes)


@lowers("t", "numpy_T", "t_copy")
def transposed(c: Lowering, x: Ref) -> Ref:
    return permute(c, x, list(range(x.rank))[::-1])


@lowers("mT", "matrix_H", "mH", "adjoint")
def matrix_transposed(c: Lowering, x: Ref) -> Ref:
    return transpose(c, x, -2, -1)


@lowers("movedim", "moveaxis")
def movedim(c: Lowering, x: Ref, source: int | Sequence[int], destination: int | Sequence[int]) -> Ref:
    """The axes that move, at their places; the others in their order."""
    moving, places = ([item] if isinstance(item, int) else list(item) for item in (source, destination))
    goals = {place % x.rank: axis % x.rank for axis, place in zip(moving, places, strict=True)}
    rest = iter(axis for axis in range(x.rank) if axis not in goals.values())
    return permute(c, x, [goals[place] if place in goals else next(rest) for place in range(x.rank)])


@lowers("cat", "concat", "concatenate")
def cat(c: Lowering, tensors: Sequence[Ref], axis: int) -> Ref:
    """Empty vectors take part in nothing, as in torch."""
    parts = [c.operand(item, c.out_dtype()) for item in tensors if item.shape != (0,)]
    return parts[0] if len(parts) == 1 else c.emit("concat", *parts, axis=c.axis(parts[0], axis))


@lowers("stack")
def stack(c: Lowering, tensors: Sequence[Ref], axis: int) -> Ref:
    axis %= tensors[0].rank + 1
    parts = [c.operand(item, c.out_dtype()) for item in tensors]
    parts = [c.reshape(item, (*item.shape[:axis], 1, *item.shape[axis:])) for item in parts]
    return parts[0] if len(parts) == 1 else c.emit("concat", *parts, axis=axis)


def _at_least(c: Lowering, x: Ref, rank: int) -> Ref:
    """torch's atleast_nd: of an image, the third axis comes last."""
    if x.rank >= rank:
        return x
    shape: tuple[Dim, ...] = x.shape
    if rank == 1:
        return c.reshape(x, (1,))
    if rank == 2 or x.rank == 0:
        return c.reshape(x, (*(1,) * (rank - x.rank), *shape))
    return c.reshape(x, (1, *shape, 1) if x.rank == 1 else (*shape, 1))


def _register_at_least(rank: int) -> None:
    def lowering(c: Lowering, x: Ref | Sequence[Ref]) -> Lowered:
        return _at_least(c, x, rank) if isinstance(x, Ref) else tuple(_at_least(c, item, rank) for item in x)

    lowers(f"atleast_{rank}d")(lowering)


for _rank in (1, 2, 3):
    _register_at_least(_rank)


def _register_stacking(name: str, rank: int, axis: int, columns: bool = False) -> None:
    """Tensors with at least `rank` axes, side by side; columns: vectors become such."""

    def lowering(c: Lowering, tensors: Sequence[Ref]) -> Ref:
        grown = [
            c.reshape(x, (dims.mul(*x.shape), 1)) if columns and x.rank < 2 else _at_least(c, x, rank) for x in tensors
        ]
        return cat(c, grown, 0 if name == "hstack" and grown[0].rank == 1 else axis)

    lowers(name)(lowering)


for _name, _kind in {"hstack": (1, 1), "vstack": (2, 0), "row_stack": (2, 0), "dstack": (3, 2)}.items():
    _register_stacking(_name, *_kind)
_register_stacking("column_stack", 2, 1, columns=True)


@lowers("slice.Tensor", "slice_copy.Tensor")
def slice_(c: Lowering, x: Ref, axis: int, start: Dim | None, stop: Dim | None, step: int) -> Ref:
    """Sizes may be free: the result's length is torch's, the start counts from the front."""
    axis = c.axis(x, axis)
    length = c.out_shape()[axis]
    if length == x.shape[axis]:
        return x
    if isinstance(stop, int) and stop > MAXIMUM and isinstance(start, int) and start >= 0:
        return c.emit("slice", x, axis=axis, start=start, stop=x.shape[axis], step=int(step))
    first: Dim = 0 if start is None else start
    if isinstance(first, int) and first < 0:
        first = dims.maximum(0, dims.add(x.shape[axis], first))
    return part(c, x, axis, first, length, int(step))


@lowers("narrow")
def narrow(c: Lowering, x: Ref, axis: int, start: Dim, length: Dim) -> Ref:
    axis = c.axis(x, axis)
    first = dims.add(x.shape[axis], start) if isinstance(start, int) and start < 0 else start
    c.require("natural", dims.sub(x.shape[axis], dims.add(first, length)), "narrow goes beyond the end")
    return x if length == x.shape[axis] else part(c, x, axis, first, length)


@lowers("select.int", "select_copy.int")
def select(c: Lowering, x: Ref, axis: int, index: Dim) -> Ref:
    axis = c.axis(x, axis)
    start = dims.add(x.shape[axis], index) if isinstance(index, int) and index < 0 else index
    return c.reshape(part(c, x, axis, start, 1))


@lowers(
    "split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_chunk", "tensor_split", "unbind", "split_copy",
    "split_with_sizes_copy", "unsafe_split_with_sizes", "unbind_copy", "hsplit", "vsplit", "dsplit",
)  # fmt: skip
def split(c: Lowering, x: Ref) -> Lowered:
    """The pieces are torch's; the axis is the one that they divide."""
    named = {"hsplit": 1 if x.rank > 1 else 0, "vsplit": 0, "dsplit": 2}.get(str(c.node.target).split(".")[1])
    axis = named if named is not None else c.axis(x, c.argument("dim", 0))
    _same_pieces(c, x.shape[axis], len(c.node.meta["val"]))
    unbind = "unbind" in str(c.node.target)
    parts: list[Ref] = []
    start: Dim = 0
    for tensor in c.node.meta["val"]:
        shape = c.shape_of(tensor)
        length: Dim = 1 if unbind else shape[axis]
        piece = x if length == x.shape[axis] else part(c, x, axis, start, length)
        parts.append(c.reshape(piece, shape))
        start = dims.add(start, length)
    return tuple(parts)


def _same_pieces(c: Lowering, size: Dim, count: int) -> None:
    """How many pieces there are may depend on the size: it must be such that there are as many as here."""
    name = str(c.node.target)
    each = c.argument("split_size", None)
    if "chunk" in name:
        chunks = int(c.argument("chunks", 1))
        each = dims.floordiv(dims.add(size, chunks - 1), chunks)
    if each is None or isinstance(each, Ref | tuple | list) or count < 2:
        return
    what = f"a split into other than {count} pieces"
    c.require("natural", dims.sub(size, dims.add(dims.mul(each, count - 1), 1)), what)
    if "chunk" not in name:
        c.require("natural", dims.sub(dims.mul(each, count), size), what)
