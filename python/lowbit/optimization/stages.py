"""A run that is killed goes on: what a stage found is in a file of its directory, whole or not there.

A stage is what takes long and gives plain values: prices, a score, a plan. What is decided between stages follows from
these alone, so a run that begins anew makes the same decisions until it comes to a stage that has no file yet.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..compress import checkpoints
from ..errors import InputError

ASKED = "asked.json"


class Stages:
    """The files of a run; without a directory nothing is kept.

    Args:
        folder: The directory, which is made if it is not there.
        asked: The arguments of the run, in plain values.

    Raises:
        InputError: The directory holds a run of other arguments.
        OSError: It cannot be written.
    """

    def __init__(self, folder: str | Path | None, asked: Mapping[str, Any]) -> None:
        self._folder = None if folder is None else Path(folder)
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        here, file = json.loads(json.dumps(asked)), self._folder / ASKED
        there = _read(file) if file.exists() else None
        if there is None:
            checkpoints.save_text(file, json.dumps(here, indent=1))
        elif there != here:
            told = "; ".join(
                f"{key} is {here.get(key)!r:.80} here, {there.get(key)!r:.80} there"
                for key in dict.fromkeys((*here, *there))
                if here.get(key) != there.get(key)
            )
            raise InputError(f"the run in {self._folder} is another, give it a directory of its own: {told}")

    def at(self, name: str) -> Path | None:
        """A file or directory of the run."""
        return None if self._folder is None else self._folder / name

    def once(self, name: str, find: Callable[[], Any]) -> Any:
        """What a stage found when it ran, or finds now.

        Args:
            name: Of the stage, and of its file.
            find: Runs it, and gives values that JSON knows.

        Returns:
            The values, as JSON gives them back.
        """
        file = self.at(f"{name}.json")
        if file is not None and file.exists():
            return _read(file)
        found = json.loads(json.dumps(find()))
        self.keep(name, found)
        return found

    def keep(self, name: str, found: Any) -> None:
        """Write what a stage found, instead of what it had found before.

        Args:
            name: Of the stage, and of its file.
            found: Values that JSON knows.
        """
        file = self.at(f"{name}.json")
        if file is not None:
            checkpoints.save_text(file, json.dumps(found, indent=1))


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values in such that JSON knows; functions and objects by their names."""

    def say(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): say(each) for key, each in value.items()}
        known = value is None or isinstance(value, str | int | float)
        return value if known else getattr(value, "__name__", type(value).__name__)

    return {key: say(value) for key, value in values.items()}


def identity(net: nn.Module) -> str:
    """A short name of a net, its structure and its weights."""
    digest = hashlib.sha256(str(net).encode())
    for name, value in net.state_dict().items():
        digest.update(name.encode())
        digest.update(str(value.dtype).encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} is nothing that lowbit.optimize wrote; remove it to begin anew: {error}") from error
