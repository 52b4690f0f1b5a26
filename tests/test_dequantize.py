"""Codes that were decided elsewhere reach the file as they are, through `lowbit::dequantize`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

import lowbit
from lowbit import format as file_format
from lowbit.compress import set_codes
from lowbit.dequantize import dequantize
from lowbit.errors import InputError, UnsupportedError
from lowbit.interpreter import run
from lowbit.ir import Weight

Array = npt.NDArray[Any]
N, K, GROUP = 256, 512, 64


def given(kind: str) -> tuple[dict[str, Tensor], str]:
    """Random codes, extreme ones too, and what goes with them."""
    torch.manual_seed(0)
    if kind == "int8":
        return {"codes": torch.randint(-128, 128, (N, K), dtype=torch.int8), "scale": torch.rand(N) / 100 + 1e-3}, kind
    scale = (torch.rand(N, K // GROUP) / 10 + 1e-2).half()
    zero_point = torch.randint(0, 16, scale.shape, dtype=torch.uint8)
    if kind == "nibbles":
        return {"codes": torch.randint(0, 256, (N, K // 2), dtype=torch.uint8), "scale": scale}, "int4-nibbles"
    if kind == "affine":
        codes = torch.randint(0, 16, (N, K), dtype=torch.int8)
        return {"codes": codes, "scale": scale, "zero_point": zero_point}, "int4"
    codes, g_idx = torch.randint(-8, 8, (N, K), dtype=torch.int8), torch.arange(K) // GROUP
    return {"codes": codes, "scale": scale, "g_idx": g_idx}, "int4"


def unpacked(parts: dict[str, Tensor], form: str) -> tuple[Array, Array]:
    """Codes as a file's reader sees them, and the numbers they stand for."""
    codes, scale = parts["codes"].numpy(), parts["scale"].numpy().astype(np.float64)
    if form == "int8":
        return codes, codes * scale[:, None]
    if form == "int4-nibbles":
        codes = np.stack([codes & 15, codes >> 4], axis=2).reshape(N, K).astype(np.int8) - 8
    zero = parts["zero_point"].numpy() if "zero_point" in parts else np.zeros_like(scale)
    return codes, (codes - np.repeat(zero, GROUP, axis=1)) * np.repeat(scale, GROUP, axis=1)


@pytest.mark.parametrize("kind", ["int8", "symmetric", "affine", "nibbles"])
def test_codes_reach_the_file(kind: str, tmp_path: Path) -> None:
    """The file holds the codes and scales that were given; the session computes what NumPy computes from them."""
    parts, form = given(kind)
    codes, numbers = unpacked(parts, form)
    net = nn.Sequential(nn.Linear(K, N), nn.ReLU()).eval()
    set_codes(net[0], **parts, format=form)
    x = torch.randn(16, K)
    expected = np.maximum(x.numpy() @ numbers.T + net[0].bias.detach().numpy(), 0)
    np.testing.assert_allclose(net(x).detach().numpy(), expected, rtol=1e-4, atol=1e-3)
    model = lowbit.convert(net, x, progress=False)
    bits = 8 if form == "int8" else 4
    assert [row["scheme"] for row in model.decisions] == [f"int{bits}"]
    assert bits == 8 or "came with 4-bit codes in groups of 64" in model.decisions[0]["reason"]
    model.save(tmp_path / "net.lowbit")
    graph, _ = file_format.load(tmp_path / "net.lowbit")
    (weight,) = (constant for constant in graph.constants.values() if isinstance(constant, Weight))
    np.testing.assert_array_equal(weight.codes, codes, strict=True)
    assert np.array_equal(weight.scales, parts["scale"].numpy())
    if "zero_point" in parts:
        assert np.array_equal(weight.zero_points, parts["zero_point"].numpy())
    y = lowbit.load(tmp_path / "net.lowbit")(x.numpy())
    assert np.array_equal(y, run(graph, {graph.inputs[0]: x.numpy()})[graph.outputs[0]])
    assert np.abs(y - expected).max() < 0.03 * np.abs(expected).max()


def test_operator() -> None:
    """Shapes without numbers, groups in any order, torch's own checks of a custom operator."""
    for kind in ("int8", "symmetric", "affine", "nibbles"):
        parts, form = given(kind)
        arguments = (parts["codes"], parts["scale"], parts.get("zero_point"), parts.get("g_idx"), form)
        if kind in ("affine", "nibbles"):
            torch.library.opcheck(dequantize, arguments)
        assert np.allclose(dequantize(*arguments).numpy(), unpacked(parts, form)[1], rtol=1e-6)
    parts, form = given("symmetric")
    order = torch.randperm(K)
    mixed = dequantize(parts["codes"][:, order], parts["scale"], None, parts["g_idx"][order], form)
    assert torch.equal(mixed, dequantize(parts["codes"], parts["scale"], None, None, form)[:, order])


def test_a_state_dict_holds_the_codes() -> None:
    parts, form = given("affine")
    first, second = nn.Linear(K, N), nn.Linear(K, N)
    set_codes(first, **parts, format=form)
    set_codes(second, **{**parts, "codes": 15 - parts["codes"]}, format=form)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.weight, second.weight)
    with pytest.raises(InputError, match="cannot be assigned to"):
        first.weight = torch.zeros(N, K)


WRONG: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Any]], type[Exception], str]] = {
    "code": (lambda p: {"codes": p["codes"] + 8}, InputError, "a code is not in -8"),
    "groups": (lambda p: {"scale": p["scale"][:, :3]}, InputError, "as many groups as divide the columns"),
    "scale": (lambda p: {"scale": -p["scale"]}, InputError, "not finite and positive"),
    "float32": (lambda p: {"scale": p["scale"].float() + 1e-6}, UnsupportedError, "must be float16 numbers"),
    "order": (lambda p: {"g_idx": p["g_idx"].flip(0)}, UnsupportedError, "static_groups"),
    "shape": (lambda p: {"codes": p["codes"][1:], "scale": p["scale"][1:]}, InputError, "the module's is"),
    "format": (lambda p: {"format": "int3"}, InputError, "there are int8, int4, int4-nibbles"),
    "name": (lambda p: {"name": "kernel"}, InputError, "no plain parameter 'kernel'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_refused(case: str) -> None:
    """Before the module is changed."""
    change, error, what = WRONG[case]
    parts, form = given("symmetric")
    layer = nn.Linear(K, N)
    with pytest.raises(error, match=what):
        set_codes(layer, **{"format": form, **parts, **change(parts)})
    assert list(layer.state_dict()) == ["weight", "bias"]


def test_groups_that_are_not_adjacent_are_refused_by_capture() -> None:
    """A module may call the operator itself."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            parts, self.form = given("symmetric")
            for name, part in parts.items():
                self.register_buffer(name, part)

        def forward(self, x: Tensor) -> Tensor:
            weight = torch.ops.lowbit.dequantize(self.codes, self.scale, None, self.g_idx, self.form)
            return nn.functional.linear(x, weight)

    net = Net().eval()
    assert lowbit.convert(net, torch.randn(2, K), progress=False).graph.constants
    net.g_idx = net.g_idx.flip(0)
    with pytest.raises(UnsupportedError, match="g_idx spreads a group"):
        lowbit.convert(net, torch.randn(2, K), progress=False)


def test_a_convolution_of_single_pixels_takes_given_groups() -> None:
    """Its weights lie as a matrix's; those of a wider window do not, and are rounded anew."""

    class Net(nn.Module):
        def __init__(self, kernel: int) -> None:
            super().__init__()
            parts, _ = given("symmetric")
            self.kernel = kernel
            self.register_buffer("codes", parts["codes"])
            self.register_buffer("scale", parts["scale"])

        def forward(self, x: Tensor) -> Tensor:
            weight = torch.ops.lowbit.dequantize(self.codes, self.scale, None, None, "int4")
            return nn.functional.conv2d(x, weight.reshape(N, -1, self.kernel, self.kernel))

    for kernel, kept in ((1, True), (2, False)):
        net, x = Net(kernel).eval(), torch.randn(2, K // kernel**2, 14, 14)
        model = lowbit.convert(net, x, progress=False)
        (weight,) = (constant for constant in model.graph.constants.values() if isinstance(constant, Weight))
        assert (weight.bits == 4 and np.array_equal(weight.codes.reshape(N, K), net.codes.numpy())) == kept
        assert float((model(x) - net(x)).norm() / net(x).norm()) < 0.02
