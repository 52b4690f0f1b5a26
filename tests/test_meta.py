"""What a file says beside its graph: read back as it was, refused by key where it is not sound, nothing lost."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

import lowbit
from graphs import float_net
from lowbit.errors import FormatError
from lowbit.runtime import format
from lowbit.runtime.meta import Chosen, Decision, Evaluation, Kept, Meta, Size, Trained, Trial

WHOLE = Meta(
    producer="lowbit 0.1.0",
    name="Net",
    scheme="int8",
    target="avx2",
    output={"tensor": 0},
    decisions=(Decision(node="a", op="linear", scheme="int8", reason="faster", cost_int8_us=1.5, cost_float_us=3.0),),
    sparsity=(Kept(node="a", pattern="4x4", density=0.25),),
    evaluations=(Evaluation(model="int8", score=0.9, drop=0.01, int8_layers=3, float_layers=("b",)),),
    max_drop=0.02,
    training=(Trained(kind="pruning", facts={"layers": {"a": {"zeros": 0.75}}}),),
    goal={"milliseconds": 3.0},
    trials=(
        Trial(model="float32", score=0.91, drop=0.0, milliseconds=8.0, bytes=4000, holds=False),
        Trial(model="a", score=0.9, drop=0.01, milliseconds=2.5, bytes=700, width=0.5, trained=True, taken=True),
    ),
    choices=(
        Chosen(
            layer="a", taken="int4", microseconds=2.0, bytes=512, noise=1e-3, better="int8", better_microseconds=1.5,
            better_bytes=1024, better_noise=1e-5,
        ),
    ),
    sizes=(Size(step="float32", bytes=4000), Size(step="the file", bytes=700)),
    notes=("one",),
    writes=("x",),
    more={"team": {"name": "vision"}},
)  # fmt: skip


def test_it_survives_a_file(tmp_path: Path) -> None:
    path = tmp_path / "net.lowbit"
    format.save(path, float_net(), WHOLE.document())
    assert Meta.read(format.load(path)[1]) == WHOLE == lowbit.load(path).meta
    assert Meta.read(json.loads(json.dumps(Meta().document()))) == Meta()
    with pytest.raises(FrozenInstanceError):
        WHOLE.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("producer", 3),
        ("name", None),
        ("target", ["avx2"]),
        ("signature", []),
        ("output", "x"),
        ("decisions", "none"),
        ("decisions", [3]),
        ("decisions", [{"op": "linear"}]),
        ("decisions", [{"node": "a", "cost_int8_us": "long"}]),
        ("sparsity", {"a": 1}),
        ("sparsity", [{"node": "a", "pattern": "4x4"}]),
        ("evaluations", [{"model": 1}]),
        ("evaluations", [{"model": "a", "score": True, "drop": 0, "int8_layers": 0, "float_layers": []}]),
        ("max_drop", "x"),
        ("training", {"kind": "pruning"}),
        ("training", [{"facts": {}}]),
        ("training", [{"kind": "pruning", "facts": [1]}]),
        ("goal", {"milliseconds": "3"}),
        ("goal", [3]),
        ("trials", [{"model": "a"}]),
        ("trials", [{"model": "a", "score": 1, "drop": 0, "milliseconds": 1, "bytes": 1, "taken": 1}]),
        ("choices", [{"layer": "a", "taken": "int8", "microseconds": 1, "bytes": 1e301, "noise": 0}]),
        ("sizes", [{"step": 1, "bytes": 1}]),
        ("notes", None),
        ("notes", [1]),
        ("writes", "x"),
    ],
)
def test_what_is_not_sound_is_refused_by_its_key(tmp_path: Path, key: str, value: Any) -> None:
    path = tmp_path / "net.lowbit"
    format.save(path, float_net(), {key: value})
    with pytest.raises(FormatError, match=rf"meta\['{key}'\] (must be|lacks)"):
        lowbit.load(path)
