"""docs/extending.md's lists, each tried with what is thrown away afterwards: an operator, a pass, a pattern."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import lowbit
from lowbit import passes
from lowbit.capture import capture
from lowbit.capture.builder import Ref
from lowbit.capture.lowering import Lowering
from lowbit.capture.registry import LOWERINGS, lowers
from lowbit.compress import criteria
from lowbit.graph import blocks
from lowbit.graph.ir import Array, Graph, Node, Value
from lowbit.ops import OPS, Call, Input, Op, interpreter
from lowbit.passes.rewrite import Rewriter, rewrite
from lowbit.runtime import format

ROOT = Path(__file__).parent.parent


# ------------------------------------------------------------------------------------------------------------- operator


def bessel(call: Call) -> Sequence[Array]:
    """The reference."""
    return [np.i0(call.array(0)).astype(np.float32)]


BESSEL = Op(
    name="bessel_i0",
    inputs=(Input(name="x"),),
    infer_rule=lambda call: [Value(dtype="f32", shape=call.shape(0))],
    reference_rule=bessel,
)


@pytest.fixture
def an_operator(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Steps 1 and 3 of the list: the description with its reference, and what lowers to it."""
    known = {**OPS, BESSEL.name: BESSEL}
    for name, module in list(sys.modules.items()):
        if name.startswith("lowbit") and getattr(module, "OPS", None) is OPS:
            monkeypatch.setattr(module, "OPS", known)
    before = dict(LOWERINGS)

    @lowers("i0", "special_i0")
    def lower(c: Lowering, x: Ref) -> Ref:
        return c.emit(BESSEL.name, c.operand(x, "f32"))

    yield
    LOWERINGS.clear()
    LOWERINGS.update(before)


class Bessel(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.i0(x) + 1


@pytest.mark.usefixtures("an_operator")
def test_an_operator(tmp_path: Path) -> None:
    """What Python needs is a description and a lowering: capture, passes, interpreter, files and the table follow."""
    graph = passes.optimize(capture(Bessel().eval(), torch.randn(2, 3)).graph)
    assert [node.op for node in graph] == ["bessel_i0", "add"]
    assert graph.values[graph.outputs[0]].shape == ("batch", 3)
    x = np.linspace(-3, 3, 12, dtype=np.float32).reshape(4, 3)
    format.save(tmp_path / "net.lowbit", graph)
    loaded, _ = format.load(tmp_path / "net.lowbit")
    (y,) = interpreter.run(loaded, {graph.inputs[0]: x}).values()
    np.testing.assert_allclose(y, Bessel()(torch.from_numpy(x)).numpy(), rtol=1e-5)
    with pytest.raises(lowbit.GraphError, match="bessel_i0"):  # step 2, in C++, is what is missing
        lowbit.Session(graph)


NEW_OPERATOR = """// A throw-away operator.
#include <cmath>

#include "graph/ops/common.h"
#include "graph/ops/ops.h"

namespace lowbit::graph {
namespace {

class BesselI0 final : public Op {
 public:
  explicit BesselI0(const NodeInfo& node) {
    node.expect_inputs(1, 1);
    node.expect_outputs(1);
  }
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    require_type(inputs, 0, DType::f32);
    return {inputs[0]};
  }
  void run(const RunArgs& args) const override {
    const float* x = args.inputs[0].as<float>();
    float* y = args.outputs[0].as<float>();
    for (int64_t i = 0; i < args.outputs[0].shape.elements(); ++i)
      y[i] = static_cast<float>(std::cyl_bessel_i(0.0, x[i]));
  }
};

}  // namespace

const OpRows kBesselOps = {{"bessel_i0", make<BesselI0>}};

}  // namespace lowbit::graph
"""


@pytest.mark.skipif(not shutil.which("c++"), reason="needs a C++ compiler")
def test_an_operator_in_cpp(tmp_path: Path) -> None:
    """A file of its own, and its table's name in ops.h and registry.cpp: the three compile."""
    folder = tmp_path / "graph" / "ops"
    folder.mkdir(parents=True)
    (folder / "bessel.cpp").write_text(NEW_OPERATOR)
    for name, before, after in (
        ("ops.h", "extern const OpRows ", "extern const OpRows kBesselOps, "),
        ("registry.cpp", "kTables[] = {", "kTables[] = {&kBesselOps, "),
    ):
        text = (ROOT / "cpp" / "graph" / "ops" / name).read_text()
        assert before in text
        (folder / name).write_text(text.replace(before, after, 1))
    include = ["-I", str(tmp_path), "-I", str(ROOT / "cpp")]
    sources = [str(folder / name) for name in ("bessel.cpp", "registry.cpp")]
    subprocess.run(["c++", "-std=c++20", "-fsyntax-only", "-Wall", "-Werror", *include, *sources], check=True)


OPERATOR_PLACES = ("cpp/graph/ops", "tests/graphs.py", "tests/cpp/test_random_nodes.cpp")


@pytest.mark.parametrize("place", OPERATOR_PLACES)
def test_every_operator_is_in_every_place(place: str) -> None:
    """The list names these places, and each operator is in them ("torch" never reaches the core)."""
    assert place in (ROOT / "docs" / "extending.md").read_text()
    text = "\n".join(path.read_text() for path in [ROOT / place, *(ROOT / place).rglob("*")] if path.is_file())
    assert [name for name in OPS if not re.search(rf'"{name}"', text)] in ([], ["torch"])


# ----------------------------------------------------------------------------------------------------------------- pass


def drop_double_negation(graph: Graph) -> Graph:
    """Let a value that is negated twice be read as it is.

    before: x -> neg -> neg -> relu
    after:  x -> relu
    """
    return rewrite(graph, _drop)


def _drop(r: Rewriter, node: Node) -> Node | None:
    before = r.producer(node.inputs[0]) if _is_negation(node) else None
    if before is None or not _is_negation(before) or node.outputs[0] in r.graph.outputs:
        return node
    r.alias(node.outputs[0], before.inputs[0])
    return None


def _is_negation(node: Node) -> bool:
    return node.op == "unary" and node.attrs["kind"] == "neg"


class Twice(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x.neg().neg())


def test_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line in FLOAT_PASSES is enough for conversion to run it."""
    x = torch.randn(2, 5)
    assert [node.attrs["kind"] for node in lowbit.convert(Twice().eval(), x).graph] == ["neg", "neg", "tanh"]
    monkeypatch.setattr(passes, "FLOAT_PASSES", (*passes.FLOAT_PASSES, drop_double_negation))
    model = lowbit.convert(Twice().eval(), x)
    assert [node.attrs["kind"] for node in model.graph] == ["tanh"]
    torch.testing.assert_close(model(x), torch.tanh(x))


# -------------------------------------------------------------------------------------------------- pattern, criterion


@pytest.fixture
def a_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line in PATTERNS, at its place from coarse to fine."""
    patterns, items = blocks.PATTERNS, list(blocks.PATTERNS.items())
    place = [name for name, _ in items].index("1x4")
    known = dict([*items[:place], ("2x4", (2, 4)), *items[place:]])
    for name, module in list(sys.modules.items()):
        if name.startswith("lowbit") and getattr(module, "PATTERNS", None) is patterns:
            monkeypatch.setattr(module, "PATTERNS", known)


@pytest.mark.usefixtures("a_pattern")
def test_a_pattern_of_zeros(tmp_path: Path) -> None:
    """Pruning takes it, conversion finds and notes it, files keep it, sessions skip what they skip of it."""
    net = torch.nn.Sequential(torch.nn.Linear(256, 256), torch.nn.ReLU(), torch.nn.Linear(256, 64)).eval()
    net = lowbit.compress.prune(net, 0.9, pattern="2x4").finalize()
    data = torch.randn(64, 256)
    model = lowbit.convert(net, data[:1], calibration=data.split(16), target="avx2")
    assert {row.pattern for row in model.meta.sparsity} == {"2x4"}
    model.save(tmp_path / "net.lowbit")
    loaded = lowbit.load(tmp_path / "net.lowbit")
    np.testing.assert_array_equal(loaded(data.numpy()), model(data.numpy()))


def test_a_criterion(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name in CRITERIA is taken by prune."""
    monkeypatch.setitem(
        criteria.CRITERIA, "first", lambda layer: torch.arange(layer.weight.numel()).view_as(layer.weight)
    )
    layer = torch.nn.Linear(8, 8)
    lowbit.compress.prune(layer, 0.5, pattern="unstructured", criterion="first").finalize()
    assert (layer.weight[:4] == 0).all()
    assert (layer.weight[4:] != 0).all()
