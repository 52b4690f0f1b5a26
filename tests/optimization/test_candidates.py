"""What a layer may become has a name and bounds; a plan is a mapping that survives JSON."""

from __future__ import annotations

import json

import pytest

from lowbit.errors import InputError
from lowbit.optimization.candidates import Candidate, Choice, Plan, Price


def price(candidate: Candidate, microseconds: float = 1.0) -> Price:
    """Of a layer."""
    return Price(candidate=candidate, microseconds=microseconds, bytes=10, noise=0.1)


@pytest.mark.parametrize(
    ("candidate", "name"),
    [
        (Candidate(scheme="int8"), "int8"),
        (Candidate(scheme="int8", pattern="4x4", sparsity=0.5), "int8 4x4 50 %"),
        (Candidate(scheme="int8", pattern="1x4", sparsity=0.875), "int8 1x4 87.5 %"),
    ],
)
def test_name(candidate: Candidate, name: str) -> None:
    """Scheme, pattern and share."""
    assert candidate.name == name


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scheme": "int5"}, "no scheme 'int5'"),
        ({"scheme": "int8", "pattern": "3x3", "sparsity": 0.5}, "pattern must be one of"),
        ({"scheme": "int8", "pattern": "4x4"}, "a pattern and a sparsity"),
        ({"scheme": "int8", "sparsity": 0.5}, "a pattern and a sparsity"),
        ({"scheme": "int8", "pattern": "4x4", "sparsity": 1.0}, "a pattern and a sparsity"),
    ],
)
def test_no_candidate(given: dict[str, object], message: str) -> None:
    """What no layer can become is refused."""
    with pytest.raises(InputError, match=message):
        Candidate(**given)  # type: ignore[arg-type]  # wrong on purpose


def test_plan_is_a_mapping_and_survives_json() -> None:
    """From layers to candidates; what its state gives is the plan again."""
    sparse, int4 = Candidate(scheme="int8", pattern="4x4", sparsity=0.5), Candidate(scheme="int4")
    first = Choice(taken=price(sparse), better=price(Candidate(scheme="int8"), 2.0))
    plan = Plan(choices={"a": first, "b": Choice(taken=price(int4))}, microseconds=2.0, bytes=20, noise=0.2)
    assert dict(plan) == {"a": sparse, "b": int4}
    again = Plan.of(json.loads(json.dumps(plan.state())))
    assert again == plan
    assert hash(again) == hash(plan)
    assert again.choices["a"].better == price(Candidate(scheme="int8"), 2.0)
