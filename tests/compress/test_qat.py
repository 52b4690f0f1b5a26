"""Quantization-aware training: what is trained is what runs, code by code, and it trains in anybody's loop."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

import lowbit
from lowbit.cli.demo import build_net, one_thread
from lowbit.compress import finalize, prune, qat
from lowbit.compress.places import Hooks
from lowbit.compress.rounding import RoundedValue, RoundedWeight
from lowbit.compress.set_codes import codes_given
from lowbit.errors import InputError
from lowbit.graph.ir import Weight
from lowbit.quantization.schemes import SCHEMES
from lowbit.runtime import format

pytestmark = pytest.mark.filterwarnings("ignore:the model is in train mode")


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    """Small nets: threads would only wait for each other."""
    with one_thread():
        yield


class Residual(nn.Module):
    """One ReLU for all, and a sum in place."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.a = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.na, self.nb = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.b = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        is_plain = stride == 1 and inputs == outputs
        self.short: nn.Module = nn.Identity() if is_plain else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.nb(self.b(self.relu(self.na(self.a(x)))))
        y += self.short(x)
        return self.relu(y)


class Inverted(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1, wider: int = 4) -> None:
        super().__init__()
        wide = wider * inputs
        self.expand = nn.Sequential(nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6())
        self.depth = nn.Sequential(
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()
        )
        self.project = nn.Sequential(nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.project(self.depth(self.expand(x)))
        return x + y if self.adds else y


class Transformer(nn.Module):
    def __init__(self, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, length, width = x.shape
        q, k, v = self.mix(self.before(x)).reshape(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, width)
        x = x + self.drop(self.out(y))
        return x + self.drop(self.down(F.gelu(self.up(self.after(x)))))


class Joined(nn.Module):
    """A concatenation whose parts others read, too, and a product."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(4, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(16, 8, 1)
        self.gate = nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = F.relu(self.a(x))
        b = F.relu(self.b(a))
        y = self.c(torch.cat([a, b], 1))
        return y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))


class Shared(nn.Module):
    """A convolution that is called three times, on sums of what it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, 1, 1), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.silu(self.first(x))
        for _ in range(3):
            x = x + F.relu(self.again(x))
        y: torch.Tensor = self.head(x.mean((2, 3)))
        return y


def sequence() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(4, 16, 5, padding=2), nn.BatchNorm1d(16), nn.ReLU(), nn.Conv1d(16, 32, 3, 2), nn.ReLU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, 5),
    )  # fmt: skip


def resnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), Residual(16, 16),
        Residual(16, 32, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


def mobilenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU6(), Inverted(16, 16), Inverted(16, 16), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip


def efficientnet() -> nn.Module:
    """EfficientNet-Lite's kinds of layers, few of each."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6(), Inverted(32, 16, wider=1),
        Inverted(16, 24, 2, 6), Inverted(24, 24, 1, 6), nn.Conv2d(24, 64, 1, bias=False), nn.BatchNorm2d(64),
        nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 10),
    )  # fmt: skip


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "digits": (build_net, (1, 28, 28)),
    "resnet": (resnet, (3, 20, 20)),
    "mobilenet": (mobilenet, (3, 14, 14)),
    "efficientnet": (efficientnet, (3, 28, 28)),
    "transformer": (Transformer, (6, 64)),
}
OTHERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "joined": (Joined, (4, 8, 8)),
    "shared": (Shared, (3, 12, 12)),
    "sequence": (sequence, (4, 20)),
}


def begun(name: str, seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
    """A net whose batch normalization has seen something, signs of gamma included, and data."""
    torch.manual_seed(seed)
    make, shape = (NETS | OTHERS)[name]
    net = make()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 1.0)
            nn.init.normal_(module.bias)
    x = torch.randn(16, *shape)
    with torch.no_grad():
        net.train()(x)
    return net, x


def train(net: nn.Module, x: torch.Tensor, handles: tuple[Any, ...], steps: int = 3, seed: int = 0) -> None:
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    net.train()
    for _ in range(steps):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
        for handle in handles:
            handle.step()
    net.eval()


def numbers(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = net(x)
    return found


def check_codes(net: nn.Module, path: Path, layers: set[str]) -> None:
    """Every weight in the file has the codes and steps of the module's layer, and no layer of these is float."""
    graph = format.load(path)[0]
    found = set()
    for layer in layers:
        given = codes_given(net.get_submodule(layer))
        assert given is not None
        nodes = [node for node in graph if node.source.partition(" (")[0] == layer and "quantized" in node.op]
        assert nodes, layer
        for node in nodes:
            weight = graph.constants[node.inputs[1]]
            assert isinstance(weight, Weight)
            assert np.array_equal(weight.codes.reshape(given.codes.shape), given.codes.numpy())
            assert np.array_equal(weight.scales.astype(np.float32), given.scale.float().numpy())
            found.add(layer)
    assert found == layers


def rounded(net: nn.Module) -> set[str]:
    return {name.split(".parametrizations")[0] for name, m in net.named_modules() if isinstance(m, RoundedWeight)}


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        *((name, scheme) for name in NETS for scheme in ("int8", "int4-g32", "ternary")),
        *((name, "int4-g32") for name in OTHERS),
    ],
)
def test_codes_are_those_of_training(name: str, scheme: str, tmp_path: Path) -> None:
    net, x = begun(name)
    training = qat(net, x[:1], scheme=scheme, calibration=[x])
    assert not training.skipped
    train(net, x, (training,))
    trained, layers = numbers(net, x), rounded(net)
    assert finalize(net) is net
    assert torch.equal(numbers(net, x), trained)
    lowbit.convert(net, x[:1], dynamic=None if name != "digits" else "auto").save(tmp_path / "net.lowbit")
    model = lowbit.load(tmp_path / "net.lowbit")
    x, trained = (x, trained) if name == "digits" else (x[:1], trained[:1])
    check_codes(net, tmp_path / "net.lowbit", layers)
    difference = (torch.from_numpy(np.asarray(model(x.numpy()))) - trained).abs()
    assert float(difference.max()) <= 0.02 * float(trained.max() - trained.min())
    assert float(difference.mean()) <= 0.002 * float(trained.max() - trained.min())


@pytest.mark.parametrize(
    "schemes",
    [
        ("binary", "pow2", "int3-g32"),
        ("kmeans", "int2-g32", "int4-channel"),
        ("int8-e4", "int8-e3", "int8-e6"),
    ],
)
def test_other_formats_are_exact_too(schemes: tuple[str, ...], tmp_path: Path) -> None:
    """Signs, tables, offsets: what the file has are the numbers of training."""
    scheme = {**dict(zip(("4", "8", "12"), schemes, strict=True)), "*": "int8"}
    net, x = begun("digits")
    training = qat(net, x[:1], scheme=scheme, calibration=[x])
    train(net, x, (training,))
    trained, layers = numbers(net, x), rounded(net)
    finalize(net)
    model = lowbit.convert(net, x[:1])
    model.save(tmp_path / "net.lowbit")
    check_codes(net, tmp_path / "net.lowbit", layers)
    assert float((model(x) - trained).abs().max()) <= 0.01 * float(trained.max() - trained.min())


def test_a_value_is_rounded_once_for_all_who_read_it() -> None:
    """What a block gives is rounded where it is made: for the next convolution and for the residual sum."""
    net, x = begun("resnet")
    qat(net, x[:1], calibration=[x])
    values = [name for name, module in net.named_modules() if isinstance(module, RoundedValue)]
    # The image, the pooled stem, the sum of the first block, one between each block's convolutions, an operand that is
    # no other layer's input, and what the head reads.
    assert len(values) == 7
    seen: dict[str, list[torch.Tensor]] = {}
    readers = ("4.a", "5.a", "5.short")
    for name in readers:
        net.get_submodule(name).register_forward_pre_hook(
            lambda _, args, name=name: seen.setdefault(name, []).append(args[0])
        )
    net.eval()(x)
    assert len(seen["5.a"][0].unique()) <= 256
    assert torch.equal(seen["5.a"][0], seen["5.short"][0])


@pytest.mark.parametrize("is_first", [True, False])
def test_masks_and_rounding_in_either_order(is_first: bool, tmp_path: Path) -> None:
    """Zeros stay zeros in the file, steps begin from kept weights, and the criterion sees weights before rounding."""
    net, x = begun("digits")
    handles: list[Any] = []
    for act in ("prune", "qat") if is_first else ("qat", "prune"):
        if act == "prune":
            handles.append(prune(net, 0.75, skip=["0"]))
        else:
            handles.append(qat(net, x[:1], scheme="int4-g32", calibration=[x]))
    train(net, x, tuple(handles))
    shares = next(handle for handle in handles if isinstance(handle, lowbit.compress.Pruning)).sparsity()
    trained, layers = numbers(net, x), rounded(net)
    lowbit.convert(finalize(net), x[:1]).save(tmp_path / "net.lowbit")
    check_codes(net, tmp_path / "net.lowbit", layers)
    for name in shares:
        given = codes_given(net.get_submodule(name))
        assert given is not None
        assert float((given.codes == 0).double().mean()) >= 0.75
    model = lowbit.load(tmp_path / "net.lowbit")
    assert np.abs(model(x.numpy()) - trained.numpy()).max() <= 0.01 * float(trained.max() - trained.min())
    assert {note["kind"] for note in lowbit.compress.recorded(net)} == {"pruning", "quantization"}


def test_signs_and_masks_exclude_each_other() -> None:
    net = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8))
    prune(net, 0.5)
    with pytest.raises(InputError, match="without zero"):
        qat(net, torch.randn(1, 32), scheme="binary")
    assert not rounded(net)


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    """Net, optimizer and handle, saved while ranges are observed and loaded into fresh ones: the same bits."""

    def begin(seed: int) -> tuple[nn.Module, Any, torch.optim.Optimizer, torch.Tensor]:
        net, x = begun("resnet", seed)
        training = qat(net, x[:1], scheme="int4-g32", observe=3, freeze=5)
        return net, training, torch.optim.SGD(net.parameters(), 0.01, momentum=0.9), x

    def go(net: nn.Module, training: Any, optimizer: torch.optim.Optimizer, x: torch.Tensor, steps: int) -> None:
        net.train()
        for _ in range(steps):
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
            training.step()

    for before in (2, 6):
        parts = begin(0)
        x = parts[3]
        go(*parts, steps=before)
        torch.save([each.state_dict() for each in parts[:3]], tmp_path / "state.pt")
        other = begin(1)
        for each, state in zip(other[:3], torch.load(tmp_path / "state.pt", weights_only=True), strict=True):
            each.load_state_dict(state)
        assert other[1].steps == before
        go(*parts, steps=3)
        go(*other[:3], x, steps=3)
        for a, b in zip(parts[0].state_dict().values(), other[0].state_dict().values(), strict=True):
            assert torch.equal(a, b)
    with pytest.raises(InputError, match="another training"):
        parts[1].load_state_dict(qat(begun("digits")[0], torch.randn(1, 1, 28, 28)).state_dict())
    with pytest.raises(InputError, match="no state_dict"):
        parts[1].load_state_dict({})


def test_statistics_are_frozen_late() -> None:
    net, x = begun("resnet")
    training = qat(net, x[:1], calibration=[x], freeze=2)
    norm = net[1]
    assert isinstance(norm, nn.BatchNorm2d)
    train(net, x, (training,), steps=2)
    frozen = norm.running_mean.clone()
    train(net, x + 1, (training,), steps=2)
    assert torch.equal(norm.running_mean, frozen)


def test_copies_averages_and_recomputed_blocks() -> None:
    """deepcopy and EMA train and convert by themselves; a block that is computed again for gradients rounds again."""
    net, x = begun("joined")
    training = qat(net, x[:1], calibration=[x])
    copied, average = copy.deepcopy(net), AveragedModel(net)
    train(net, x, (training,))
    average.update_parameters(net)
    train(copied, x, ())
    assert torch.equal(numbers(copied, x), numbers(net, x))
    finalize(copied)
    assert torch.equal(numbers(copied, x), numbers(net, x))
    model = lowbit.convert(finalize(average.module), x[:1])
    assert torch.allclose(model(x), numbers(average.module, x), atol=1e-3)

    block, y = begun("transformer")
    qat(block, y[:1], scheme=lowbit.Scheme(name="static", activations="static"), calibration=[y])
    block.eval()
    grads = []
    for run in (block, lambda y: checkpoint(block, y, use_reentrant=False)):
        block.zero_grad()
        run(y).square().sum().backward()
        grads.append([parameter.grad for parameter in block.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_it_trains_as_a_distributed_module(tmp_path: Path) -> None:
    """DistributedDataParallel finds every parameter used, and steps get gradients."""
    distributed = torch.distributed
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        net, x = begun("joined")
        prune(net, 0.5, pattern="unstructured")
        training = qat(net, x[:1], calibration=[x])
        shared = nn.parallel.DistributedDataParallel(net)
        for _ in range(2):
            shared(x).square().mean().backward()
            training.step()
        assert all(parameter.grad is not None for parameter in net.parameters())
    finally:
        distributed.destroy_process_group()


def test_mixed_precision_trains_the_same_codes() -> None:
    """Under autocast, layers compute in 16 bits and codes stay codes."""
    net, x = begun("mobilenet")
    training = qat(net, x[:1], calibration=[x])
    with torch.autocast("cpu", torch.bfloat16):
        train(net, x, (training,))
    trained = numbers(net, x[:1])
    model = lowbit.convert(finalize(net), x[:1], dynamic=None)
    assert float((model(x[:1]) - trained).abs().max()) <= 0.02 * float(trained.max() - trained.min())


def test_gradients_are_the_papers() -> None:
    """Straight to weights within the codes; to steps code - x / step inside and the end outside."""
    link = RoundedWeight(*_start([[0.3, -0.2, 5.0, -5.0]], step=0.25))
    weight = torch.tensor([[0.3, -0.2, 5.0, -5.0]], requires_grad=True)
    y = link(weight)
    assert y.tolist() == [[0.25, -0.25, 1.75, -2.0]]
    y.backward(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    assert weight.grad is not None
    assert weight.grad.tolist() == [[1.0, 2.0, 0.0, 0.0]]
    step = 1 * (1 - 1.2) + 2 * (-1 + 0.8) + 3 * 7 + 4 * -8
    share = 0.25 * np.log(2) * step  # of the logarithm to base 2
    assert link.step.grad is not None
    assert float(link.step.grad) == pytest.approx(share * 2 / (0.3**2 + 0.2**2 + 2 * 5.0**2), rel=1e-4)


@pytest.mark.parametrize("order", [(0, 2, 3, 1), (0, 1, 2, 3), (3, 0, 2, 1)])
def test_gradients_do_not_depend_on_how_a_value_lies_in_memory(order: tuple[int, ...]) -> None:
    plain = torch.randn(3, 8, 5, 4, generator=torch.Generator().manual_seed(0))
    given = torch.randn(plain.shape, generator=torch.Generator().manual_seed(1))
    back = tuple(order.index(axis) for axis in range(4))
    lying = plain.permute(order).contiguous().permute(back)
    assert torch.equal(lying, plain)
    gradients = []
    for x in (plain, lying):
        rounding = RoundedValue(SCHEMES["int8"])
        rounding(plain)
        assert rounding.settle()
        x = x.clone().requires_grad_()
        rounding(x).backward(given)
        assert x.grad is not None
        assert rounding.step is not None
        assert rounding.step.grad is not None
        gradients.append((x.grad, rounding.step.grad))
    assert torch.equal(gradients[0][0], gradients[1][0])
    torch.testing.assert_close(gradients[0][1], gradients[1][1], rtol=1e-4, atol=1e-4)


def _start(weight: list[list[float]], step: float) -> tuple[Any, torch.Tensor, None]:
    from lowbit.compress.rounding import Form

    return Form(bits=4, group_size=len(weight[0]), low=-8, high=7), torch.full((len(weight), 1), step), None


def test_what_is_left_float_is_named_and_what_is_wrong_refused() -> None:
    net, x = begun("mobilenet")
    with pytest.raises(InputError, match="no module or operation matches"):
        qat(net, x[:1], scheme={"nowhere": "int4", "*": "int8"})
    with pytest.raises(InputError, match="float32"):
        qat(net, x[:1], scheme="float32")
    with pytest.raises(InputError, match="activation_group_size"):
        qat(net, x[:1], scheme=lowbit.Scheme(name="groups", activation_group_size=32))
    with pytest.raises(InputError, match="freeze must be"):
        qat(net, x[:1], freeze=-1)
    with pytest.raises(InputError, match="no layer to round"):
        qat(nn.Sequential(nn.ReLU()), x[:1])
    with pytest.raises(InputError, match="takes a torch"):
        qat(3, x)  # type: ignore[arg-type]  # wrong on purpose
    assert not any(isinstance(module, RoundedWeight) for module in net.modules())
    training = qat(net, x[:1], scheme={"0": "float32", "*": "int8"})
    assert training.skipped == {"0": "the scheme of '0' is float32"}
    assert "ranges of 0 of" in repr(training)
    with pytest.raises(InputError, match="no range is known"):
        finalize(net)
    with pytest.raises(InputError, match=r"compress\.finalize"):
        lowbit.convert(net, x[:1])
    with pytest.raises(InputError, match="rounded in training already"):
        qat(net, x[:1])
    training.calibrate([x])
    model = lowbit.convert(training.finalize(), x[:1], dynamic=None)
    assert model.decisions[0]["scheme"] == "float32"
    with pytest.raises(InputError, match="is final"):
        training.step()


def test_hooks_are_gone_after_a_refusal() -> None:
    net, x = begun("digits")
    with pytest.raises(InputError, match="no module"):
        qat(net, x[:1], scheme={"nowhere": "int4"})
    hooks = Hooks(net, lambda place, value: value, functions=True)
    hooks.remove()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_a_module_in_training_is_no_reason_to_warn() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="the model is in train mode")
        training = qat(nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)).train(), torch.randn(1, 16))
    assert training.steps == 0
