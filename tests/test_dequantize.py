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
from lowbit.capture import capture
from lowbit.compress import set_codes
from lowbit.dequantize import dequantize
from lowbit.eager.modules import QuantizedLinear
from lowbit.errors import InputError, UnsupportedError
from lowbit.graph.ir import Weight
from lowbit.ops.interpreter import run
from lowbit.runtime import format as file_format

Array = npt.NDArray[Any]
N, K, GROUP = 256, 512, 64


def given(kind: str) -> tuple[dict[str, Tensor], str]:
    """Random codes, extreme ones too, and what goes with them."""
    torch.manual_seed(0)
    if kind in ("int8", "bytes"):
        groups = (K // GROUP,) if kind == "bytes" else ()
        scale = torch.rand(N, *groups) / 100 + 1e-3
        return {"codes": torch.randint(-128, 128, (N, K), dtype=torch.int8), "scale": scale}, "int8"
    if kind in ("halves", "floats"):
        scale, offset = torch.rand(2, N, K // GROUP) / 10 + 1e-2
        parts = {"codes": torch.randint(0, 16, (N, K), dtype=torch.int8), "scale": scale, "offset": offset - 0.5}
        return {n: p if kind == "floats" or n == "codes" else p.half() for n, p in parts.items()}, "int4"
    scale = (torch.rand(N, K // GROUP) / 10 + 1e-2).half()
    zero_point = torch.randint(0, 16, scale.shape, dtype=torch.uint8)
    if kind == "eighths":
        codes = torch.randint(0, 256, (N, K * 3 // 8), dtype=torch.uint8)
        return {"codes": codes, "scale": scale, "zero_point": zero_point % 8}, "int3-eighths"
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
    if scale.ndim == 1:
        return codes, codes * scale[:, None]
    if form == "int4-nibbles":
        codes = np.stack([codes & 15, codes >> 4], axis=2).reshape(N, K).astype(np.int8) - 8
    if form == "int3-eighths":
        bits = np.unpackbits(codes, axis=1, bitorder="little").reshape(N, K, 3)
        codes = (bits @ np.array([1, 2, 4])).astype(np.int8)
    zero = parts["zero_point"].numpy() if "zero_point" in parts else np.zeros_like(scale)
    offset = parts["offset"].numpy() if "offset" in parts else np.zeros_like(scale)
    numbers = (codes - np.repeat(zero, GROUP, axis=1)) * np.repeat(scale, GROUP, axis=1)
    return codes, numbers + np.repeat(offset, GROUP, axis=1)


@pytest.mark.parametrize("kind", ["int8", "symmetric", "affine", "nibbles", "eighths", "bytes", "halves", "floats"])
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
    bits = int(form[3])
    assert [row["scheme"] for row in model.decisions] == [f"int{bits}"]
    assert kind == "int8" or f"came with {bits}-bit codes in groups of 64" in model.decisions[0]["reason"]
    model.save(tmp_path / "net.lowbit")
    graph, _ = file_format.load(tmp_path / "net.lowbit")
    (weight,) = (constant for constant in graph.constants.values() if isinstance(constant, Weight))
    np.testing.assert_array_equal(weight.codes, codes, strict=True)
    assert np.array_equal(weight.scales, parts["scale"].numpy())
    for name, held in (("zero_point", weight.zero_points), ("offset", weight.offsets)):
        assert (held is None) == (name not in parts)
        assert held is None or np.array_equal(held, parts[name].numpy())
    y = lowbit.load(tmp_path / "net.lowbit")(x.numpy())
    assert np.array_equal(y, run(graph, {graph.inputs[0]: x.numpy()})[graph.outputs[0]])
    assert np.abs(y - expected).max() < 0.03 * np.abs(expected).max()
    lowbit.quantize_(net, progress=False)
    assert isinstance(net[0], QuantizedLinear)
    np.testing.assert_array_equal(net[0].numbers(), weight.numbers)
    with torch.no_grad():
        np.testing.assert_allclose(net(x), y, rtol=1e-5, atol=1e-4)
    kept = lowbit.convert(net, x, progress=False)
    assert np.array_equal(np.asarray(kept(x)), y)


def test_operator() -> None:
    """Shapes without numbers, groups in any order, torch's own checks of a custom operator."""
    for kind in ("int8", "symmetric", "affine", "nibbles", "eighths", "bytes", "floats"):
        parts, form = given(kind)
        beside = parts.get("zero_point"), parts.get("g_idx"), form, parts.get("offset")
        arguments = (parts["codes"], parts["scale"], *beside)
        if kind in ("affine", "nibbles"):
            torch.library.opcheck(dequantize, arguments)
        assert np.allclose(dequantize(*arguments).numpy(), unpacked(parts, form)[1], rtol=1e-6, atol=1e-6)
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
    "infinite": (lambda p: {"scale": p["scale"].float() * torch.inf}, InputError, "not finite and positive"),
    "order": (lambda p: {"g_idx": p["g_idx"].flip(0)}, UnsupportedError, "static_groups"),
    "shape": (lambda p: {"codes": p["codes"][1:], "scale": p["scale"][1:]}, InputError, "the module's is"),
    "format": (lambda p: {"format": "int5"}, InputError, "there are int8, int4, int3, int2, int1, int4-nibbles"),
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


# --------------------------------------------------------------------------------------- codes that passes come across


def give(layer: Any, form: str, groups: int = 1, name: str = "weight") -> dict[str, Tensor]:
    """Random codes for a layer; "affine": int4 with zero points."""
    shape = getattr(layer, name).shape
    if form == "int8":
        parts = {"codes": torch.randint(-128, 128, shape, dtype=torch.int8), "scale": torch.rand(shape[0]) / 100 + 1e-3}
    else:
        low = 0 if form == "affine" else -8
        parts = {"codes": torch.randint(low, low + 16, shape, dtype=torch.int8)}
        parts["scale"] = (torch.rand(shape[0], groups) / 10 + 0.01).half()
        if form == "affine":
            parts["zero_point"] = torch.randint(0, 16, parts["scale"].shape, dtype=torch.uint8)
    set_codes(layer, **parts, format="int8" if form == "int8" else "int4", name=name)
    return parts


def as_stored(parts: dict[str, Tensor]) -> Array:
    """A row an output."""
    codes = parts["codes"]
    rows: Array = codes.flatten(1).numpy()
    return rows


def held(model: lowbit.Model) -> list[Weight]:
    return [constant for constant in model.graph.constants.values() if isinstance(constant, Weight)]


def normed(channels: int, norm: type[nn.Module], seed: int) -> Any:
    """A batch normalization with factors of both signs, and one that is zero."""
    torch.manual_seed(seed)
    made: Any = norm(channels)
    made.weight.data = torch.randn(channels)
    made.weight.data[seed % channels] = 0
    made.bias.data = torch.randn(channels)
    made.running_mean.uniform_(-1, 1)
    made.running_var.uniform_(0.5, 2)
    return made


@pytest.mark.parametrize(
    ("form", "kernel", "bias", "data", "around"),
    [
        ("int8", 3, True, True, "norm"),
        ("int4", 3, False, False, "norm"),
        ("affine", 1, True, True, "twice"),
        ("int8", 3, False, False, "factor"),
        ("int4", 3, True, True, "sum"),
        ("int8", 3, True, True, "sum"),
        ("affine", 3, False, False, "pad"),
    ],
)
def test_codes_survive_the_passes(form: str, kernel: int, bias: bool, data: bool, around: str) -> None:
    """Batch norms, factors, pads, residual additions and equalized neighbours leave a convolution's codes alone."""
    torch.manual_seed(0)
    front, conv, end = nn.Conv2d(16, 64, 1), nn.Conv2d(64, 64, kernel, bias=bias), nn.Conv2d(64, 64, 1)
    parts = give(conv, form, groups=kernel * kernel)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.front, self.conv, self.end, self.norm = front, conv, end, normed(64, nn.BatchNorm2d, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.front(x).relu()
            pad = (kernel // 2,) * 4
            y: Tensor = self.conv(nn.functional.pad(x, pad) if around != "none" else x)
            y = self.norm(y) if around in ("norm", "twice") else y
            y = y / torch.linspace(-2, -1, 64)[:, None, None] if around in ("factor", "twice") else y
            y = y + x if around == "sum" else y
            out: Tensor = self.end(y.relu())
            return out

    net, x = Net().eval(), torch.rand(2, 16, 20, 20)
    expected = net(x).detach()
    model = lowbit.convert(net, x, calibration=[x] if data else None, progress=False)
    assert (model(x) - expected).norm() < 0.05 * expected.norm()
    assert not any("not kept" in note for note in model.notes)
    (weight,) = (each for each in held(model) if np.array_equal(each.codes.reshape(64, -1), as_stored(parts)))
    assert np.array_equal(weight.scales, parts["scale"].numpy())
    assert "zero_point" not in parts or np.array_equal(weight.zero_points, parts["zero_point"].numpy())


@pytest.mark.parametrize("form", ["int8", "int4", "affine"])
@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv1d])
def test_codes_of_other_layers_survive_a_batch_norm(form: str, kind: Any) -> None:
    layer = nn.Linear(64, 96) if kind is nn.Linear else nn.Conv1d(64, 96, 3, padding=1)
    parts = give(layer, form, groups=layer.weight[0].numel() // 64)
    net = nn.Sequential(layer, normed(96, nn.BatchNorm1d, 3), nn.ReLU()).eval()
    x = torch.randn(8, 64) if kind is nn.Linear else torch.randn(2, 64, 40)
    expected = net(x).detach()
    model = lowbit.convert(net, x, progress=False)
    assert (model(x) - expected).norm() < 0.05 * expected.norm()
    (weight,) = held(model)
    assert np.array_equal(weight.codes.reshape(96, -1), as_stored(parts))


def test_nibbles_of_a_convolution() -> None:
    """Two a byte, as a file has them: the same as codes of the weight's shape."""
    torch.manual_seed(0)
    conv, packed = nn.Conv2d(32, 64, 3), nn.Conv2d(32, 64, 3)
    packed.load_state_dict(conv.state_dict())
    parts = give(conv, "int4", groups=9)
    rows = (parts["codes"].movedim(1, -1).flatten(1) + 8).to(torch.uint8)
    set_codes(packed, rows[:, ::2] | rows[:, 1::2] << 4, parts["scale"], format="int4-nibbles")
    assert torch.equal(conv.weight, packed.weight)
    x = torch.randn(1, 32, 30, 30)
    models = [lowbit.convert(nn.Sequential(each), x, progress=False) for each in (conv, packed)]
    assert torch.equal(models[0](x), models[1](x))
    assert all(np.array_equal(held(model)[0].codes.reshape(64, -1), as_stored(parts)) for model in models)
    index = torch.arange(9).repeat_interleave(32)
    numbers = (parts["codes"].movedim(1, -1).flatten(1) * parts["scale"].float()[:, index]).unflatten(1, (3, 3, 32))
    torch.testing.assert_close(conv.weight.detach(), numbers.movedim(-1, 1))


def test_rows_of_a_weight_keep_their_codes() -> None:
    """Attention cuts one weight into three."""
    torch.manual_seed(0)
    net = nn.MultiheadAttention(64, 4, batch_first=True).eval()
    parts = give(net, "int8", name="in_proj_weight")
    q, k = torch.randn(2, 9, 64), torch.randn(2, 12, 64)
    model = lowbit.convert(net, (q, k, k), progress=False)
    codes = parts["codes"].numpy()
    found = [weight.codes for weight in held(model) if weight.codes.shape[1] == 64]
    assert {row.tobytes() for row in codes} <= {row.tobytes() for each in found for row in each}


def test_codes_are_found_again_whatever_happens_to_rows() -> None:
    """Turned, cut, joined with other weights, put into another order, multiplied: by where a constant comes from."""
    torch.manual_seed(0)
    first, second = nn.Linear(96, 64), nn.Linear(96, 32)
    parts = [give(first, "int8"), give(second, "int8")]
    order = torch.randperm(96)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = first, second
            self.register_buffer("order", order)
            self.register_buffer("factors", torch.linspace(-2, 2, 96)[:, None])

        def forward(self, x: Tensor) -> Tensor:
            both = torch.cat([self.first.weight.t().t(), self.second.weight])
            return x @ (both[self.order] * self.factors).t()

    net, x = Net().eval(), torch.randn(5, 96)
    model = lowbit.convert(net, x, progress=False)
    (weight,) = held(model)
    np.testing.assert_array_equal(weight.codes, np.concatenate([as_stored(each) for each in parts])[order])
    assert (model(x) - net(x).detach()).norm() < 0.02 * net(x).norm()


def test_equal_numbers_of_other_origin_bring_no_codes() -> None:
    """A weight is known by where it comes from, not by what it holds."""
    torch.manual_seed(0)
    coded, plain = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)
    parts = give(coded, "int8")
    plain.weight.data = coded.weight.detach().clone()
    both = nn.ModuleList([coded, plain]).eval()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = both

        def forward(self, x: Tensor) -> Tensor:
            return self.layers[1](torch.relu(self.layers[0](x)))

    captured = capture(Net().eval(), (torch.randn(3, 64),))
    names = [node.inputs[1] for node in captured.graph if node.op == "linear"]
    assert [len(captured.graph.origins.get(name, ())) for name in names] == [1, 0]
    (found,) = captured.graph.origins[names[0]]
    np.testing.assert_array_equal(found.weight.codes, parts["codes"].numpy())


def test_a_tables_codes_are_kept() -> None:
    table = nn.Embedding(50, 64)
    parts = give(table, "affine", groups=2)
    net, x = nn.Sequential(table, nn.Linear(64, 8)), torch.randint(0, 50, (2, 7))
    model = lowbit.convert(net, x, progress=False)
    assert any(np.array_equal(weight.codes, as_stored(parts)) for weight in held(model))
    assert any("its table came with 4-bit codes" in decision["reason"] for decision in model.decisions)


def test_codes_that_are_lost_are_told() -> None:
    """A transposed convolution has a scale an input channel: a note and a warning say so. Others are refused."""
    net = nn.Sequential(nn.ConvTranspose2d(16, 32, 3))
    give(net[0], "int8")
    x = torch.randn(1, 16, 9, 9)
    with pytest.warns(UserWarning, match="not kept"):
        model = lowbit.convert(net, x, progress=False)
    assert any("weight" in note and "not kept" in note for note in model.notes)
    for layer in (nn.Conv2d(16, 32, 3, groups=2), nn.Conv3d(16, 32, 3), nn.ConvTranspose2d(16, 32, 3)):
        with pytest.raises(
            UnsupportedError, match=rf"{type(layer).__name__} with groups=\d has no kernel for four-bit"
        ):
            give(layer, "int4")
    with pytest.raises(InputError, match=r"\[32, 16, 3\]; the module's is \[32, 16, 3, 3\]"):
        set_codes(nn.Conv2d(16, 32, 3), torch.zeros(32, 16, 3).char(), torch.ones(32, 1).half(), format="int4")
