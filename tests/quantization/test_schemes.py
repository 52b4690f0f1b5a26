"""Schemes by pattern: which node has which."""

from __future__ import annotations

import pytest

from lowbit.errors import InputError
from lowbit.graph.ir import Node
from lowbit.quantization.schemes import SCHEMES, Rules, Scheme, rules


def node(name: str, source: str = "") -> Node:
    return Node(op="linear", name=name, inputs=("x",), outputs=(name,), source=source)


def names(given: Rules, *nodes: Node) -> list[str]:
    return [given.of(item).name for item in nodes]


def test_the_first_pattern_that_matches_wins() -> None:
    given = rules({"a.b": "float32", "a*": "int8", "*": "float32"})
    assert names(given, node("a.b"), node("a.c"), node("ab"), node("b.a")) == ["float32", "int8", "int8", "float32"]


def test_a_pattern_that_matches_a_module_holds_for_all_in_it() -> None:
    given = rules({"encoder.?": "float32", "head": "float32"})
    inside, outside = node("encoder.3.attention.query"), node("encoder.13.attention.query")
    assert names(given, inside, outside, node("header"), node("head.add")) == ["float32", "int8", "int8", "float32"]


def test_the_module_of_the_source_counts_too() -> None:
    given = rules({"block.1": "float32"})
    fused = node("add_7", source="block.1 (net.py:12)")
    assert names(given, fused, node("add_8", source="net.py:12"), node("x", source="block.10")) == [
        "float32", "int8", "int8",
    ]  # fmt: skip


def test_one_scheme_is_for_all() -> None:
    given = rules("float32")
    assert given.is_float
    assert given.name == "float32"
    assert names(given, node("anything")) == ["float32"]
    assert rules(given) is given
    assert rules(SCHEMES["int8"]).name == "int8"
    assert not rules({"a": "float32"}).is_float


def test_patterns_are_checked() -> None:
    nodes = [node("body.conv"), node("head")]
    assert rules({"head": "float32", "*": "int8"}).check(nodes) == []
    (note,) = rules({"*": "int8", "head": "float32"}).check(nodes)
    assert "earlier pattern" in note
    (note,) = rules({"body.norm": "float32"}).check(nodes, modules=["body.norm"])
    assert "no operation of its own" in note
    with pytest.raises(InputError, match=r"'haed' \(did you mean 'head'\?\), 'zzz'"):
        rules({"haed": "float32", "zzz": "int8"}).check(nodes)


@pytest.mark.parametrize("wrong", [-2, 8, 20, 2**17])
def test_groups_of_activations_are_checked(wrong: int) -> None:
    with pytest.raises(InputError, match="activation_group_size must be -1, 0, or a multiple of 8 from 16 to 65536"):
        Scheme(name="own", activation_group_size=wrong)
    with pytest.raises(InputError, match="static activations"):
        Scheme(name="own", activation_group_size=32, activations="static")


@pytest.mark.parametrize("wrong", ["adaround", "", "GPTQ"])
def test_unknown_methods_are_refused_with_the_list(wrong: str) -> None:
    with pytest.raises(InputError, match="method must be one of auto, nearest, hqq, gptq"):
        Scheme(name="mine", method=wrong)
    with pytest.raises(InputError, match="method must be one of auto, nearest, hqq, gptq"):
        rules("int4").with_method(wrong)


def test_a_method_holds_for_all_schemes_but_float32() -> None:
    made = rules({"head": "float32", "*": "int4"}).with_method("hqq")
    assert [scheme.method for _, scheme in made.rules] == ["auto", "hqq"]
    assert rules("int4").with_method(None) == rules("int4")


def test_methods_that_compensate_exclude_none_of_it() -> None:
    with pytest.raises(InputError, match="compensate=False"):
        Scheme(name="mine", method="gptq", compensate=False)
