"""Packed sequences while torch.export looks at a module: padded batches with lengths.

How many elements `pack_padded_sequence` keeps depends on values. During export it and `pad_packed_sequence` therefore
make and read a `Padded`, and recurrent layers take its lengths; the batch keeps its order, so there is none to undo.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import CodeType, FunctionType
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import rnn
from torch.nn.utils.rnn import PackedSequence

from ..errors import UnsupportedError
from ..torch_internals import free_unbacked_symbols, pytree
from .asked import caller_line

_NOTES: ContextVar[list[str] | None] = ContextVar("notes", default=None)
"""Where notes go while this thread exports; other threads have torch's own functions all the while."""


class Padded(PackedSequence):
    """x [T, B, ...] ([B, T, ...] if batch_first); lengths [B], int64; ends_in_zeros: whether x is 0 past each end."""

    x: Tensor
    lengths: Tensor
    batch_first: bool
    ends_in_zeros: bool

    def __new__(cls, x: Tensor, lengths: Tensor, batch_first: bool, ends_in_zeros: bool = False) -> Padded:
        made = tuple.__new__(cls)
        made.x, made.lengths, made.batch_first, made.ends_in_zeros = x, lengths, batch_first, ends_in_zeros
        return made

    def __getattribute__(self, name: str) -> Any:
        if name in PackedSequence._fields:
            _refuse(f"the {name} of a packed sequence")
        return super().__getattribute__(name)

    def __getitem__(self, index: Any) -> Any:
        _refuse("a part of a packed sequence")

    def __iter__(self) -> Any:
        if sys._getframe(1).f_code.co_filename != pytree.__file__:  # where torch looks for sizes in local variables
            _refuse("a packed sequence as a tuple")
        return iter(())


def _refuse(what: str) -> NoReturn:
    raise UnsupportedError(
        f"{what} is not supported: {caller_line()}\nA converted model has the padded batch and its lengths; hand "
        "packed sequences to recurrent layers and pad_packed_sequence alone, and compute all else on the padded batch."
    )


def padded(sequence: PackedSequence) -> Padded:
    """A sequence packed during this export. Raises UnsupportedError for another."""
    if isinstance(sequence, Padded):
        return sequence
    raise UnsupportedError(
        f"a sequence that was not packed by pack_padded_sequence within the model is not supported: {caller_line()}\n"
        "Pass the padded batch and its lengths, and pack them in the model's forward."
    )


@contextmanager
def masks_for_packing(notes: list[str]) -> Iterator[None]:
    """For a while, torch's functions make and read a `Padded`, whatever name they were imported by."""
    functions: dict[str, Any] = {name: getattr(rnn, name) for name in _CODES}
    before = {name: function.__code__ for name, function in functions.items()}
    token = _NOTES.set(notes)
    for name, code in _CODES.items():
        functions[name].__code__ = code
    try:
        yield
    finally:
        for name, code in before.items():
            functions[name].__code__ = code
        _NOTES.reset(token)


def pack(input: Tensor, lengths: Any, batch_first: bool, enforce_sorted: bool) -> PackedSequence:
    """As torch's; the lengths may be in any order."""
    if _NOTES.get() is None:
        packed: PackedSequence = _TORCHS["pack_padded_sequence"](input, lengths, batch_first, enforce_sorted)
        return packed
    if isinstance(lengths, list | tuple) and any(map(_is_computed, lengths)):
        raise UnsupportedError(
            f"lengths as numbers that follow from a tensor's values are not supported: {caller_line()}\nPass the "
            "tensor itself to pack_padded_sequence, without tolist()."
        )
    lengths = torch.as_tensor(lengths).to(torch.int64)
    batch = input.shape[0 if batch_first else 1]
    if lengths.dim() != 1 or lengths.shape[0] != batch:
        raise ValueError(f"lengths of shape {list(lengths.shape)} for a batch of {batch}; pass one length a sample")
    return Padded(input, lengths, batch_first)


def _is_computed(size: Any) -> bool:
    """Whether a number follows from a tensor's values."""
    return isinstance(size, Tensor) or bool(free_unbacked_symbols(size))


def pad(sequence: Any, batch_first: bool, padding_value: float, total_length: Any) -> tuple[Tensor, Tensor]:
    """As torch's; as long as what was packed if the total length is not given as a size, but by values."""
    notes = _NOTES.get()
    if notes is None:
        result: tuple[Tensor, Tensor] = _TORCHS["pad_packed_sequence"](
            sequence, batch_first, padding_value, total_length
        )
        return result
    made = padded(sequence)
    x = made.x if made.batch_first else made.x.transpose(0, 1)
    steps = x.shape[1]
    if not made.ends_in_zeros or padding_value != 0:
        past = torch.arange(steps) >= made.lengths.unsqueeze(1)
        x = x.masked_fill(past.reshape(*past.shape, *(1 for _ in x.shape[2:])), padding_value)
    if total_length is None or _is_computed(total_length):
        note = f"pad_packed_sequence gives as many steps as were packed, not the longest length: {caller_line()}"
        notes += [] if note in notes else [note]
    elif total_length > steps:
        x = F.pad(x, (*(0 for _ in range(2 * (x.dim() - 2))), 0, total_length - steps), value=padding_value)
    elif total_length < steps:
        x = x[:, :total_length]
    return x if batch_first else x.transpose(0, 1), made.lengths


# The code below runs in place of torch's, with torch's globals and defaults.


def pack_padded_sequence(input: Any, lengths: Any, batch_first: Any, enforce_sorted: Any) -> Any:
    from lowbit.capture.packed import pack

    return pack(input, lengths, batch_first, enforce_sorted)


def pad_packed_sequence(sequence: Any, batch_first: Any, padding_value: Any, total_length: Any) -> Any:
    from lowbit.capture.packed import pad

    return pad(sequence, batch_first, padding_value, total_length)


_CODES: dict[str, CodeType] = {made.__name__: made.__code__ for made in (pack_padded_sequence, pad_packed_sequence)}
_TORCHS = {name: FunctionType(getattr(rnn, name).__code__, vars(rnn), name) for name in _CODES}
"""torch's own, while what their names are bound to is replaced."""
