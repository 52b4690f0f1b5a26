"""Training that survives being killed: all that decides what comes next, in a file that is whole or not there."""

from __future__ import annotations

import os
import pickle
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import InputError


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Tensors and plain values, in one step: whoever reads the file, whenever, finds the old or the new one whole."""
    beside = _beside(path)
    with beside.open("wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name is on the disk, too
    finally:
        os.close(folder)


def save_text(path: Path, text: str) -> None:
    """A text, in one step."""
    _beside(path).write_text(text, encoding="utf-8", newline="")
    _beside(path).replace(path)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.tmp")


def load(path: Path) -> dict[str, Any]:
    """What `save` wrote; nothing in the file is run. Raises InputError for what is no such file."""
    try:
        state = torch.load(path, weights_only=True)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path} is no checkpoint that can be read; remove it to begin anew: {reason}") from error
    if not isinstance(state, dict):
        raise InputError(f"{path} is no checkpoint of lowbit.compress.finetune; remove it to begin anew")
    return state


def random_state(data: object) -> dict[str, Any]:
    """Of the global generators of torch, NumPy and Python, and of those that shuffle `data`."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest],
        "python": random.getstate(),
        "data": [generator.get_state() for generator in _generators(data)],
    }


def set_random_state(data: object, state: Mapping[str, Any]) -> None:
    """As `random_state` found them."""
    torch.set_rng_state(state["torch"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    random.setstate(state["python"])
    for generator, saved in zip(_generators(data), state["data"], strict=True):
        generator.set_state(saved)


def set_epoch(data: object, epoch: int) -> None:
    """Tell those that shuffle by the epoch's number, such as a DistributedSampler."""
    for each in _makers(data):
        if callable(tell := getattr(each, "set_epoch", None)):
            tell(epoch)


def _generators(data: object) -> list[torch.Generator]:
    """Each once, in a fixed order."""
    found = (getattr(each, "generator", None) for each in _makers(data))
    return list({id(each): each for each in found if isinstance(each, torch.Generator)}.values())


def _makers(data: object) -> Iterator[object]:
    """A DataLoader and what it takes its order from."""
    for names in ((), ("sampler",), ("batch_sampler",), ("batch_sampler", "sampler"), ("dataset",)):
        each = data
        for name in names:
            each = getattr(each, name, None)
        if each is not None:
            yield each
