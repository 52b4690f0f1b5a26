"""Models that torchao has quantized: their own scales and codes, and torch's own answers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lowbit
from lowbit import Session, _core
from lowbit.capture import capture
from lowbit.converted_model import ConvertedModel
from lowbit.errors import AccuracyError, UnsupportedError
from lowbit.graph.ir import Weight

pytest.importorskip("torchao.quantization.pt2e")
SAME = 0.999
"""Of the output codes; none may be off by more than 1."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torch")
        yield


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.na = nn.BatchNorm2d(outputs)
        self.b = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.nb = nn.BatchNorm2d(outputs)
        self.short = nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.nb(self.b(torch.relu(self.na(self.a(x)))))
        return torch.relu(y + self.short(x))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2))
        self.blocks = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(self.blocks(self.stem(x))).flatten(1))


class Inverted(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 4 * channels
        self.expand = nn.Sequential(nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6())
        self.depth = nn.Sequential(
            nn.Conv2d(wide, wide, 3, 1, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()
        )
        self.project = nn.Sequential(nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.project(self.depth(self.expand(x)))


def mobilenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU6(), Inverted(16), Inverted(16), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 10),
    )  # fmt: skip


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 96), nn.Hardtanh(), nn.Linear(96, 8))


class Transformer(nn.Module):
    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, length, width = x.shape
        q, k, v = self.mix(self.before(x)).reshape(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, width)
        x = x + self.out(y)
        return x + self.down(F.gelu(self.up(self.after(x))))


# As in the real networks, the last maps are 7 x 7: the mean of an even number of codes may lie exactly between two
# codes, and which of them torch takes then depends on how its float32 sum happens to be rounded.
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet": (ResNet, (3, 28, 28)),
    "mobilenet": (mobilenet, (3, 14, 14)),
    "mlp": (mlp, (64,)),
    "transformer": (Transformer, (12, 32)),
}


def x86() -> Any:
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as module

    quantizer = module.X86InductorQuantizer()
    return quantizer.set_global(module.get_default_x86_inductor_quantization_config())


def xnnpack() -> Any:
    module = pytest.importorskip("torchao.testing.pt2e._xnnpack_quantizer")
    return module.XNNPACKQuantizer().set_global(module.get_symmetric_quantization_config(is_per_channel=True))


QUANTIZERS: dict[str, Callable[[], Any]] = {"x86": x86, "xnnpack": xnnpack}


def quantized(net: nn.Module, shape: tuple[int, ...], quantizer: Any) -> nn.Module:
    """Post-training quantization as torchao's tutorial does it, with a free batch."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    torch.manual_seed(1)
    free = ({0: torch.export.Dim("batch", min=1)},)
    prepared = prepare_pt2e(
        torch.export.export(net.eval(), (torch.randn(2, *shape),), dynamic_shapes=free).module(), quantizer
    )
    with torch.no_grad():
        for _ in range(4):
            prepared(torch.randn(16, *shape))
    made: nn.Module = convert_pt2e(prepared)
    return made


def make(name: str) -> nn.Module:
    torch.manual_seed(0)
    net = NETS[name][0]()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.2)
    return net


def compare(model: ConvertedModel, reference: nn.Module, x: torch.Tensor) -> None:
    """Output codes: of the model's last quantization, or of 8 bits over the outputs where it leaves them in float."""
    with torch.no_grad():
        expected = reference(x).double()
    found = model(x).double()
    step = float(expected.max() - expected.min()) / 255
    ends = [node for node in model.graph if node.op == "dequantize" and node.outputs[0] in model.graph.outputs]
    if ends:
        step = float(ends[0].attrs["scale"])  # type: ignore[arg-type]
    difference = ((found - expected) / step).abs()
    assert float((difference < 0.5).double().mean()) >= SAME
    assert float(difference.max()) <= 1 + 1e-3


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("name", NETS)
def test_codes_are_torchs_own(name: str, quantizer: str, tmp_path: Path) -> None:
    shape = NETS[name][1]
    reference = quantized(make(name), shape, QUANTIZERS[quantizer]())
    model = lowbit.convert(reference, (torch.randn(2, *shape),), progress=False)
    torch.manual_seed(2)
    x = torch.randn(64, *shape)
    compare(model, reference, x)
    compare(model, reference, x[:1])
    layers = [row for row in model.decisions if row["op"] in ("conv2d", "linear")]
    assert layers
    assert all(row["scheme"] == "int8" and row["reason"].startswith("came quantized") for row in layers)
    model.save(tmp_path / "net.lowbit")
    again = lowbit.load(tmp_path / "net.lowbit")
    np.testing.assert_array_equal(again(x.numpy()), model(x.numpy()))


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_scales_and_codes_are_unchanged(quantizer: str) -> None:
    reference = quantized(make("resnet"), NETS["resnet"][1], QUANTIZERS[quantizer]())
    model = lowbit.convert(reference, (torch.randn(2, *NETS["resnet"][1]),), progress=False)
    buffers = dict(reference.named_buffers())
    weights = {
        name: buffer.numpy() for name, buffer in buffers.items() if buffer.dtype == torch.int8 and buffer.dim() > 1
    }
    held = [constant for constant in model.graph.constants.values() if isinstance(constant, Weight)]
    assert len(held) == len(weights) == 7
    for codes in weights.values():
        assert any(codes.shape == item.codes.shape and np.array_equal(codes, item.codes) for item in held)
    scales = {
        float(scale) for name, buffer in buffers.items() if name.startswith("_scale") for scale in buffer.reshape(-1)
    }
    assert {float(scale) for item in held for scale in item.scales} <= scales
    wanted = {
        (node.args[1], node.args[2] + (128 if node.args[5] == torch.int8 else 0))
        for node in reference.graph.nodes  # type: ignore[union-attr]
        if "quantize_per_tensor" in str(node.target)
    }
    kept = {(value.quant.scale, value.quant.zero_point) for value in model.graph.values.values() if value.quant}
    assert kept == wanted


def test_between_layers_all_is_integer() -> None:
    """And the same on every instruction set, although torch's weights hold -128."""
    reference = quantized(make("resnet"), NETS["resnet"][1], x86())
    x = torch.randn(5, *NETS["resnet"][1])
    model = lowbit.convert(reference, (x,), progress=False)
    assert any(w.codes.min() == -128 for w in model.graph.constants.values() if isinstance(w, Weight))
    for isa in _core.cpu()["isas"]:
        (found,) = Session(model.graph, isa=isa).run(x.numpy())
        np.testing.assert_array_equal(found, model(x).numpy())
    ops = [node.op for node in model.graph]
    assert ops.count("quantized_conv2d") == 6
    assert not {"conv2d", "linear", "clip", "add"} & set(ops)
    assert sum(len(node.inputs) > 4 for node in model.graph if node.op == "quantized_conv2d") == 2  # residuals


def test_quantization_aware_training_converts_too() -> None:
    from torchao.quantization.pt2e import move_exported_model_to_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_qat_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as module

    torch.manual_seed(0)  # without batch norm, whose patterns take torchao half a minute to make
    net, shape = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 10)).train(), (3, 8, 8)
    quantizer = module.X86InductorQuantizer()
    quantizer.set_global(module.get_default_x86_inductor_quantization_config(is_qat=True))
    torch.manual_seed(3)
    free = ({0: torch.export.Dim("batch", min=2)},)
    exported = torch.export.export(net, (torch.randn(4, *shape),), dynamic_shapes=free)
    prepared = prepare_qat_pt2e(exported.module(), quantizer)
    optimizer = torch.optim.SGD(prepared.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        prepared(torch.randn(16, *shape)).square().mean().backward()
        optimizer.step()
    move_exported_model_to_eval(prepared)
    reference = convert_pt2e(prepared)
    move_exported_model_to_eval(reference)
    model = lowbit.convert(reference, (torch.randn(4, *shape),), progress=False)
    compare(model, reference, torch.randn(64, *shape))
    assert {row["scheme"] for row in model.decisions if row["op"] == "conv2d"} == {"int8"}


def test_float32_runs_the_roundings_in_float() -> None:
    reference = quantized(make("resnet"), NETS["resnet"][1], x86())
    model = lowbit.convert(reference, (torch.randn(2, *NETS["resnet"][1]),), scheme="float32", progress=False)
    compare(model, reference, torch.randn(16, *NETS["resnet"][1]))
    assert {row["scheme"] for row in model.decisions} == {"float32"}


def test_a_budget_measures_but_does_not_change_the_model() -> None:
    reference = quantized(make("mlp"), NETS["mlp"][1], x86())
    x = torch.randn(32, 64)
    with torch.no_grad():
        expected = make("mlp")(x)

    def score(model: Any) -> float:
        return -float((model(x) - expected).square().mean())

    model = lowbit.convert(reference, (x,), evaluate=score, max_drop=1.0, progress=False)
    assert [row.model for row in model.meta.evaluations] == ["float32", "int8"]
    with pytest.raises(AccuracyError, match="below float32"):
        lowbit.convert(reference, (x,), evaluate=score, max_drop=0, progress=False)


def test_what_pt2e_leaves_in_float_stays_so() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(torch.softmax(self.first(x), 1)) + x

    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as module

    torch.manual_seed(0)
    quantizer = module.X86InductorQuantizer()
    quantizer.set_global(module.get_default_x86_inductor_quantization_config())
    quantizer.set_module_name_qconfig("second", None)
    reference = quantized(Half(), (64,), quantizer)
    model = lowbit.convert(reference, (torch.randn(2, 64),), progress=False)
    schemes = {row["node"]: (row["scheme"], row["reason"]) for row in model.decisions}
    assert schemes["first"][0] == "int8"
    assert schemes["second"] == ("float32", "the model leaves it in float32")
    compare(model, reference, torch.randn(64, 64))


def test_dynamic_quantization_is_refused_with_a_remedy() -> None:
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as module

    quantizer = module.X86InductorQuantizer()
    quantizer.set_global(module.get_default_x86_inductor_quantization_config(is_dynamic=True))
    reference = quantized(make("mlp"), (64,), quantizer)
    with pytest.raises(UnsupportedError, match=r"(?s)over the whole batch.*remedy: quantize statically"):
        lowbit.convert(reference, (torch.randn(2, 64),), progress=False)


def test_weights_alone_keep_their_codes() -> None:
    """Activations are lowbit's own business then: dynamic here, calibrated there."""

    class Stored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.register_buffer("codes", torch.randint(-128, 128, (256, 256), dtype=torch.int8))
            self.register_buffer("scales", torch.rand(256) / 1000 + 1e-3)
            self.register_buffer("zero_points", torch.zeros(256, dtype=torch.int64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weight = torch.ops.quantized_decomposed.dequantize_per_channel(
                self.codes, self.scales, self.zero_points, 0, -128, 127, torch.int8
            )
            return F.linear(x, weight)

    import torch.ao.quantization.fx._decomposed

    net = Stored().eval()
    x = torch.randn(64, 256)
    assert len(capture(net, (x,)).codes) == 1
    for calibration in (None, [x]):
        model = lowbit.convert(net, (x,), calibration=calibration, progress=False)
        (held,) = (constant for constant in model.graph.constants.values() if isinstance(constant, Weight))
        np.testing.assert_array_equal(held.codes, net.codes.numpy())
        np.testing.assert_array_equal(held.scales, net.scales.numpy())
        assert float((model(x) - net(x)).abs().max() / net(x).abs().max()) < 0.03


@pytest.mark.parametrize("config", ["Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig"])
def test_quantize_keeps_its_codes_too(config: str) -> None:
    import torchao.quantization as torchao

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256)).eval()
    torchao.quantize_(net, getattr(torchao, config)())
    before = net[0].weight
    x = torch.randn(64, 256)
    model = lowbit.convert(net, (x,), progress=False)
    assert net[0].weight is before
    held = {node.name: model.graph.constants[node.inputs[1]] for node in model.graph if node.op == "quantized_linear"}
    for name, layer in (("0", net[0]), ("2", net[2])):
        weight = held[name]
        assert isinstance(weight, Weight)
        np.testing.assert_array_equal(weight.codes, layer.weight.qdata.numpy())
        np.testing.assert_array_equal(weight.scales, layer.weight.scale.reshape(-1).numpy())
    assert any("2 keep their codes" in note for note in model.notes)
    with torch.no_grad():
        expected = net(x)
    assert float((model(x) - expected).abs().max() / expected.abs().max()) < 0.03
