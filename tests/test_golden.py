"""Files that older versions wrote load for ever, and give the same bits on every instruction set (tests/golden)."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.numpy

import lowbit
from lowbit import Session, _core
from lowbit.runtime import format

FILES = sorted(Path(__file__).parent.glob("golden/v*/*.lowbit"))


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def test_there_are_files_of_every_version() -> None:
    assert {path.parent.name for path in FILES} >= {"v1", *(f"v{version}" for version in range(1, format.VERSION))}


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_file_of_long_ago_gives_the_same_bits(path: Path) -> None:
    arrays = safetensors.numpy.load_file(path.with_suffix(".safetensors"))
    inputs = {key.removeprefix("in/"): array for key, array in arrays.items() if key.startswith("in/")}
    outputs = [arrays[f"out/{place}"] for place in range(len(arrays) - len(inputs))]
    graph, meta = format.load(path)
    sessions = [Session(graph, isa=isa, allow_torch=True) for isa in _core.cpu()["isas"]]
    if meta:
        sessions.append(lowbit.load(path, allow_torch=True).session)
    for session in sessions:
        for made, expected in zip(session.run(**inputs), outputs, strict=True):
            assert (made.dtype, made.shape) == (expected.dtype, expected.shape)
            assert made.tobytes() == expected.tobytes()
