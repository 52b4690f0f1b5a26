"""Fallback segments: what lowbit lacks runs in torch, by name, and a file with such segments loads on request only."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

import lowbit
from lowbit.errors import GraphError, InputError, UnsupportedError
from lowbit.graph.ir import Graph, replace
from lowbit.ops import interpreter, torch_program
from lowbit.runtime import format
from lowbit.runtime.segments import split

BOUND = 1e-4


class Function(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function, self.inner = function, nn.Linear(6, 6)
        self.eval()

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(self.inner, x)


def hard(x: torch.Tensor) -> torch.Tensor:
    """An operation that lowbit has not."""
    return torch.special.bessel_j0(x)


FUNCTIONS: dict[str, tuple[int, Callable[..., Any]]] = {
    "between layers": (1, lambda f, x: f(hard(f(x)))),
    "neighbours": (1, lambda f, x: hard(hard(f(x)) + hard(x * 2))),  # the sum lies on the way: two groups
    "several outputs": (1, lambda f, x: (lambda a: (f(a[0]), a[1] * 1.0))(torch.frexp(f(x)))),
    "around a layer": (2, lambda f, x: hard(x) + hard(f(hard(x)))),
    "sizes": (1, lambda f, x: hard(x)[:, : x.shape[1] - 1].repeat_interleave(2, dim=0).i0() + 1),
    "values decide sizes": (1, lambda f, x: f(x) + x[x > 0].sum()),
    "complex numbers": (
        1,
        lambda f, x: (hard(f(x)) * torch.fft.fft(x)).abs() + torch.linalg.eigvals(_square(f(x))).abs().sum(),
    ),
    "complex operands": (1, lambda f, x: torch.linalg.inv(_square(x) * 1j + 9 * torch.eye(4)).conj().imag + 0),
    "numbers of 16 bits": (1, lambda f, x: x + (f(x) * 10).to(torch.int16).float()),
    "held back on the way": (1, lambda f, x: _around((f(x) * 10).short()).float() + f(x)),
    "float8": (1, lambda f, x: f(x).to(torch.float8_e4m3fn).float() * 2),
    "in place": (1, lambda f, x: f(f(x).clone().i0_().clamp_(-1, 1))),
    "without gradient": (1, lambda f, x: _without_grad(f, x) + 1),
    "an index": (1, lambda f, x: torch.gcd((f(x) * 9).long(), (x * 9).long()).float()),
    "all of it": (1, lambda f, x: hard(x)),
    "infinities": (1, lambda f, x: torch.nextafter(f(x), torch.full_like(x, float("inf")))),
}


def _without_grad(f: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.enable_grad():
        return f(hard(x) * 3)


def _square(x: torch.Tensor) -> torch.Tensor:
    return x @ x.transpose(-1, -2)


def _around(x: torch.Tensor) -> torch.Tensor:
    """A type that lowbit lacks, read again behind operations that it has: all of it is one segment."""
    return x * x.float().relu().mul(2).to(torch.int16)


def in_torch(graph: Graph) -> list[str]:
    return [node.name for node in graph if node.op == "torch"]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_segments_compute_what_torch_does(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Function(FUNCTIONS[name][1])
    model = lowbit.convert(net, torch.randn(2, 4, 6), scheme="float32", fallback="torch", progress=False)
    model.save(tmp_path / "net.lowbit")
    loaded = lowbit.load(tmp_path / "net.lowbit", allow_torch=True)
    assert in_torch(model.graph)
    for batch in (1, 2, 5):
        x = torch.randn(batch, 4, 6)
        with torch.no_grad():
            expected = pytree.tree_leaves(net(x.clone()))
        results = pytree.tree_leaves(model(x))
        feeds = dict(zip(model.graph.inputs, [x.numpy()], strict=True))
        plain = list(interpreter.run(model.graph, feeds).values())
        for y, z, wanted, kept in zip(results, plain, expected, pytree.tree_leaves(loaded(x.numpy())), strict=True):
            assert y.shape == wanted.shape
            scale = max(float(wanted.abs().max()), 1e-3)
            assert float((y - wanted).abs().max()) <= BOUND * scale
            assert float(np.abs(z - wanted.numpy()).max()) <= BOUND * scale
            assert np.array_equal(y.numpy(), kept)


def test_operations_that_feed_each_other_are_one_segment_unless_lowbit_runs_something_between() -> None:
    def function(f: nn.Module, x: torch.Tensor) -> torch.Tensor:
        a = hard(x)
        b = torch.special.bessel_j1(a)  # with a
        return b + hard(f(a))  # what reads a through the layer cannot be with a

    model = lowbit.convert(Function(function), torch.randn(2, 4, 6), fallback="torch", progress=False)
    segments = [node for node in model.graph if node.op == "torch"]
    assert [len(node.outputs) for node in segments] == [2, 1]
    assert segments[0].name.endswith("+1")
    kinds = [piece.op if not isinstance(piece, Graph) else len(piece.nodes) for piece in split(model.graph)]
    assert [kind for kind in kinds if isinstance(kind, str)] == ["torch", "torch"]


def test_all_of_it_is_named(tmp_path: Path) -> None:
    net = Function(lambda f, x: f(hard(f(x))))
    model = lowbit.convert(net, torch.randn(2, 4, 6), fallback="torch", progress=False)
    (name,) = in_torch(model.graph)
    assert any(name in note and "bessel_j0" in note and "test_segments.py:" in note for note in model.notes)
    row = next(row for row in model.decisions if row["node"] == name)
    assert row["scheme"] == "torch"
    assert "special_bessel_j0" in row["reason"]
    steps = {step.node: step for step in model.profile(torch.randn(2, 4, 6), repeats=2)}
    assert steps[name].kernel == "torch"
    assert steps[name].seconds > 0
    assert f"{name} " in str(model.profile(torch.randn(2, 4, 6), repeats=2))
    assert {step["node"] for step in model.nodes} >= {name, "inner"}
    model.save(tmp_path / "net.lowbit")
    with pytest.raises(UnsupportedError, match=rf"{name} \(test_segments\.py:\d+\).*allow_torch=True"):
        lowbit.load(tmp_path / "net.lowbit")


def test_layers_around_a_segment_are_quantized() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(16, 64, 3), Hard(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3)).eval()
    x = torch.randn(4, 16, 20, 20)
    for calibration in (None, [x]):
        model = lowbit.convert(net, x, calibration=calibration, fallback="torch", progress=False)
        assert [row["scheme"] for row in model.decisions if row["op"] == "conv2d"] == ["int8"] * 3
        with torch.no_grad():
            expected = net(x)
        noise = ((model(x) - expected) ** 2).sum() / (expected**2).sum()
        assert float(noise) < 10 ** (-2.5)
        assert torch.equal(torch.cat([model(x[i : i + 1]) for i in range(4)]), model(x))
        assert len(model.compare(x)) > 3


class Hard(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return hard(x)


def test_without_a_fallback_and_with_nothing_to_fall_back(small_net: nn.Module) -> None:
    with pytest.raises(UnsupportedError, match="bessel_j0"):
        lowbit.convert(Function(lambda f, x: hard(x)), torch.randn(2, 6), progress=False)
    model = lowbit.convert(small_net, torch.randn(2, 3, 16, 16), fallback="torch", progress=False)
    assert not in_torch(model.graph)
    with pytest.raises(InputError, match="fallback must be"):
        lowbit.convert(small_net, torch.randn(2, 3, 16, 16), fallback="onnx", progress=False)


def test_what_no_segment_can_hold_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="size of its result depends on the inputs' values"):
        lowbit.convert(Function(lambda f, x: x[x > 0]), torch.randn(2, 6), fallback="torch", progress=False)


# ---------------------------------------------------------------------------------------------------------- files


def converted(tmp_path: Path) -> Path:
    path = tmp_path / "net.lowbit"
    net = Function(lambda f, x: f(hard(x)))
    lowbit.convert(net, torch.randn(2, 6), scheme="float32", fallback="torch", progress=False).save(path)
    return path


def with_program(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Write the file again with another program in its segment."""
    graph, meta = format.load(path)
    (node,) = (node for node in graph if node.op == "torch")
    document = json.loads(np.asarray(graph.constants[node.inputs[0]]).tobytes())
    changed = change(document)
    text = changed if isinstance(changed, bytes) else json.dumps(document).encode()
    program = np.frombuffer(text, np.uint8)
    value = replace(graph.values[node.inputs[0]], shape=program.shape)
    constants = {**graph.constants, node.inputs[0]: program}
    format.save(path, replace(graph, constants=constants, values={**graph.values, node.inputs[0]: value}), meta)


def test_a_file_with_segments_brings_no_torch_unless_allowed(tmp_path: Path) -> None:
    path = converted(tmp_path)
    code = (
        "import sys, lowbit\n"
        f"try: lowbit.load({str(path)!r})\n"
        "except lowbit.UnsupportedError as error: assert 'allow_torch' in str(error)\n"
        "else: raise SystemExit('loaded')\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: b"not json",
        lambda d: b"[]",
        lambda d: b"{" * 100_000,
        lambda d: d.pop("outputs"),
        lambda d: d["nodes"][0].pop("args"),
        lambda d: d["nodes"][0].update(op="os.system.default"),
        lambda d: d["nodes"][0].update(op="aten.nothing_of_the_kind.default"),
        lambda d: d["nodes"][0].update(op="aten.__class__.default"),
        lambda d: d["nodes"][0].update(op="__import__"),
    ],
)
def test_programs_that_are_not_sound_are_refused_at_load(tmp_path: Path, change: Callable[[Any], Any]) -> None:
    path = converted(tmp_path)
    with_program(path, change)
    with pytest.raises(UnsupportedError, match="allow_torch"):
        lowbit.load(path)
    with pytest.raises(UnsupportedError):
        lowbit.load(path, allow_torch=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["nodes"][0].update(args=[{"input": 7}]),
        lambda d: d["nodes"][0].update(args=[{"node": 0}]),
        lambda d: d["nodes"][0].update(args=[{"size": 0}]),
        lambda d: d["nodes"][0].update(args=[{"input": 0, "node": 0}]),
        lambda d: d["nodes"][0].update(args=[{"dtype": "nn"}]),
        lambda d: d["nodes"][0].update(args=["text"]),
        lambda d: d["nodes"][0].update(kwargs={"nothing": 1}),
        lambda d: d.update(outputs=[]),
        lambda d: d.update(outputs=[{"input": 5}]),
        lambda d: (
            d["nodes"].append({"op": "aten.unsqueeze.default", "args": [{"node": 0}, 0]})
            or d.update(outputs=[{"node": 1}])
        ),
    ],
)
def test_programs_that_do_something_else_raise_when_they_run(tmp_path: Path, change: Callable[[Any], Any]) -> None:
    path = converted(tmp_path)
    with_program(path, change)
    model = lowbit.load(path, allow_torch=True)
    with pytest.raises((InputError, UnsupportedError)):
        model(np.zeros((2, 6), np.float32))


def test_segments_whose_types_do_not_agree_are_no_graph(tmp_path: Path) -> None:
    graph, _ = format.load(converted(tmp_path))
    for attrs in ({"dtypes": ("f99",)}, {"ranks": (9,)}, {"ranks": (1,)}, {"dims": (-3, 6)}, {"sizes": ("x**2",)}):
        nodes = tuple(replace(n, attrs={**n.attrs, **attrs}) if n.op == "torch" else n for n in graph)
        with pytest.raises(GraphError):
            interpreter.validate(replace(graph, nodes=nodes))


def test_operations_of_a_program_are_listed_without_torch() -> None:
    program = {"nodes": [{"op": name, "args": []} for name in ("aten.a.b", "getitem", "add", "aten.a.b", "x.y.z")]}
    assert torch_program.operations(json.dumps({**program, "outputs": []}).encode()) == ["aten.a.b", "x.y.z"]


def test_torchs_own_error_is_told() -> None:
    class Solve(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.inv(x)

    model = lowbit.convert(Solve().eval(), torch.eye(3).expand(2, 3, 3).clone(), fallback="torch", progress=False)
    assert F.mse_loss(model(2 * torch.eye(3)[None]), 0.5 * torch.eye(3)[None]) < 1e-12
    with pytest.raises(InputError, match="singular"):
        model(torch.zeros(1, 3, 3))
