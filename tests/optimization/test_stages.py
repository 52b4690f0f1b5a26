"""A run's directory: what a stage found is found again, whole or not at all, and other arguments are refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lowbit.errors import InputError
from lowbit.optimization.stages import Stages, identity, plain

ASKED = {"net": "abc", "speedup": 3.0, "finetune": {"epochs": 2}}


def test_what_was_found_is_found_again(tmp_path: Path) -> None:
    found: list[Any] = []

    def find() -> Any:
        found.append(1)
        return {"score": 0.1 + 0.2, "plan": [1, None, "a"]}

    first = Stages(tmp_path / "run", ASKED).once("a stage", find)
    again = Stages(tmp_path / "run", ASKED).once("a stage", find)
    assert first == again == {"score": 0.1 + 0.2, "plan": [1, None, "a"]}
    assert len(found) == 1
    assert [Stages(None, ASKED).once("a stage", find) for _ in range(2)] == [first, first]
    assert len(found) == 3


def test_a_stage_that_was_killed_runs_again(tmp_path: Path) -> None:
    """At whatever moment: nothing is there, or what is half written is not looked at."""

    def killed() -> Any:
        raise KeyboardInterrupt

    stages = Stages(tmp_path, ASKED)
    with pytest.raises(KeyboardInterrupt):
        stages.once("a", killed)
    (tmp_path / "a.json.tmp").write_text('{"sco')
    assert Stages(tmp_path, ASKED).once("a", lambda: 3) == 3
    assert json.loads((tmp_path / "a.json").read_text()) == 3


def test_other_arguments_are_refused_by_name(tmp_path: Path) -> None:
    Stages(tmp_path, ASKED)
    with pytest.raises(InputError, match=r"another, give it a directory of its own: speedup is 2 here, 3\.0 there$"):
        Stages(tmp_path, {**ASKED, "speedup": 2})
    with pytest.raises(InputError, match=r"bytes is 5 here, None there"):
        Stages(tmp_path, {**ASKED, "bytes": 5})


@pytest.mark.parametrize("content", ["", "{", b"\xff\xfe\x00"])
def test_what_is_no_such_file_is_refused(tmp_path: Path, content: str | bytes) -> None:
    data = content if isinstance(content, bytes) else content.encode()
    Stages(tmp_path, ASKED)
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(InputError, match=r"a\.json is nothing that lowbit\.optimize wrote; remove it"):
        Stages(tmp_path, ASKED).once("a", lambda: 3)
    (tmp_path / "asked.json").write_bytes(data)
    with pytest.raises(InputError, match=r"asked\.json is nothing"):
        Stages(tmp_path, ASKED)


def test_identity() -> None:
    """Of a net's structure and every weight, whatever its type."""
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Embedding(3, 2, dtype=torch.bfloat16))
    other = copy.deepcopy(net)
    assert identity(net) == identity(other)
    with torch.no_grad():
        other[2].weight[0, 0] += 1
    assert identity(net) != identity(other)
    assert identity(nn.Sequential(nn.ReLU())) != identity(nn.Sequential(nn.Tanh()))


def test_plain_values() -> None:
    given = {"optimizer": torch.optim.SGD, "schedule": lambda part: part, "lr": 0.1, "distill": {"logits": "logits"}}
    assert plain(given) == {"optimizer": "SGD", "schedule": "<lambda>", "lr": 0.1, "distill": {"logits": "logits"}}
