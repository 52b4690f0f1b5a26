"""What lowbit relies on in torch without torch's promise: each name is asked for it, so that a new torch tells."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lowbit
from lowbit import torch_internals as internals

SOURCES = [path for path in Path(lowbit.__file__).parent.rglob("*.py") if path != Path(internals.__file__)]
PRIVATE = re.compile(
    r"\btorch\.(?:\w+\.)*_[a-z]\w*|^\s*from torch\S* import _|\bfrom torch\.fx\.experimental|"
    r"\.(?:_parameters|_modules|_schema|_version|_flat_weights_names|_make_wrapper_subclass)\b",
    re.M,
)


def test_no_other_module_uses_such_names() -> None:
    code = {path: re.sub(r'""".*?"""|#.*', "", path.read_text(), flags=re.S | re.M) for path in SOURCES}
    found = {path.name: PRIVATE.findall(text) for path, text in code.items() if PRIVATE.search(text)}
    assert found == {}


def test_operators_and_their_schemas() -> None:
    assert isinstance(torch.ops.aten.add.Tensor, internals.OpOverload)
    assert isinstance(torch.ops.higher_order.cond, internals.HigherOrderOperator)
    schema = internals.schema(torch.ops.aten.add.Tensor)
    assert schema.name == "aten::add"
    assert [argument.name for argument in schema.arguments] == ["self", "other", "alpha"]
    assert internals.schema(len) is None


@pytest.mark.parametrize("take", [internals.ENCODER_LAYER, internals.ATTENTION])
def test_fast_paths_are_functions(take: Any) -> None:
    assert callable(take)


def test_modules_parts_can_be_written() -> None:
    net = nn.Sequential(nn.Linear(2, 3))
    assert set(internals.parameters(net[0])) == {"weight", "bias"}
    internals.parameters(net[0])["bias"] = None
    assert net[0].bias is None
    internals.children(net)["0"] = nn.Identity()
    assert isinstance(net[0], nn.Identity)
    assert internals.weight_names(nn.LSTM(2, 3))[:2] == ["weight_ih_l0", "weight_hh_l0"]


def test_padding_of_convolutions() -> None:
    assert internals.padding_of(nn.Conv2d(1, 1, (3, 2), padding="same")) == ([0, 1, 1, 1], "constant")
    reflected = nn.Conv2d(1, 1, 3, padding=(1, 2), padding_mode="reflect")
    assert internals.padding_of(reflected) == ([2, 2, 1, 1], "reflect")


def test_packing_and_back() -> None:
    x = torch.arange(12.0).reshape(2, 3, 2)
    data, sizes = internals.pack(x, torch.tensor([3, 1]), True)
    assert data.shape == (4, 2)
    assert sizes.tolist() == [2, 1, 1]
    back = internals.pad(data, sizes, True, 3)
    assert torch.equal(back[0], x[0])
    assert torch.equal(back[1], torch.cat([x[1, :1], torch.zeros(2, 2)]))


def test_versions_count_writes() -> None:
    x = torch.zeros(2)
    before = internals.version(x)
    x += 1
    assert internals.version(x) == before + 1


def test_a_shell_has_a_shape_and_no_memory() -> None:
    class Shell(torch.Tensor):
        __torch_dispatch__ = classmethod(lambda cls, *call: None)  # type: ignore[assignment]

    made = internals.shell(Shell, (1 << 20, 1 << 20))
    assert (type(made), made.shape, made.dtype) == (Shell, (1 << 20, 1 << 20), torch.float32)


def test_the_lock_can_be_taken_twice_by_its_thread() -> None:
    with internals.compile_lock(), internals.compile_lock():
        pass


def test_what_is_replaced_while_a_module_is_captured_exists() -> None:
    for owner, name in (internals.LOOKS_AT_MASKS, internals.CHECKS_ARGUMENTS):
        assert hasattr(owner, name)
    assert hasattr(internals.ShapeEnv, "evaluate_expr")
    assert hasattr(internals.SymNode, "bool_")
    assert internals.symbolic_shapes.__file__ in internals.symbolic_shapes.uninteresting_files()
    assert internals.trace_of_export().__name__ == "torch.export._trace"


def test_dynamo_takes_recurrent_layers() -> None:
    import torch._dynamo.config as config

    before = config.allow_rnn
    try:
        internals.allow_recurrent_layers()
        assert config.allow_rnn
    finally:
        config.allow_rnn = before


def test_code_outside_of_tracing_sees_plain_tensors() -> None:
    with internals.outside_of_tracing():
        assert type(torch.ones(2) + 1) is torch.Tensor
