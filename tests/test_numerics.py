"""What is not finite, and what lies far from zero: the answers are torch's, on every ISA."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lowbit
from against_torch import convert
from graphs import BATCH, Maker
from lowbit import _core
from lowbit.errors import InputError
from lowbit.graph.ir import Array, Graph
from lowbit.ops import interpreter
from lowbit.runtime.session import Session

ISAS = _core.cpu()["isas"]
BAD = (np.nan, np.inf, -np.inf)
SEEDS = st.integers(0, 2**32 - 1)


def sessions(graph: Graph) -> list[Session]:
    return [Session(graph, isa=isa, threads=threads) for isa, threads in itertools.product(ISAS, (1, 2))]


def same(a: Array, b: Array) -> bool:
    return a.shape == b.shape and bool(((a == b) | (np.isnan(a) & np.isnan(b))).all())


# ------------------------------------------------------------------------------------- ranges at run time carry NaN


def scaled(m: Maker, channels: int) -> tuple[str, str]:
    return m.constant(m.rng.uniform(1e-3, 2e-2, channels).astype(np.float32)), m.floats(channels)


def linear_on_codes(m: Maker, kind: str, depth: int, outputs: int, factors: bool) -> tuple[str, str, str]:
    """Operator, weight and factors of a linear layer."""
    weights: dict[str, Callable[[], str]] = {
        "dense": lambda: m.weight(outputs, depth),
        "sparse": lambda: m.sparse("4x4", 0.1, outputs, depth),
        "int4": lambda: m.grouped(outputs, depth, 16),
        "int4 affine": lambda: m.grouped(outputs, depth, depth, affine=True),
    }
    even = m.constant(m.rng.uniform(0.5, 2, depth).astype(np.float32)) if factors else ""
    return "quantized_linear", weights[kind](), even


@settings(max_examples=25, deadline=None)
@given(
    SEEDS,
    st.sampled_from(["dense", "sparse", "int4", "int4 affine"]),
    st.sampled_from([1, 2, 3, 9, 40]),
    st.sampled_from([16, 48, 256]),
    st.sampled_from([4, 36, 128]),
    st.sampled_from([{}, {"min": 0.0}, {"min": 0.0, "max": 6.0}, {"max": -0.5}]),
    st.booleans(),
)
def test_rows_that_are_not_finite_are_nan(
    seed: int, kind: str, rows: int, depth: int, outputs: int, bounds: dict[str, float], factors: bool
) -> None:
    """Whatever the kernel and the activation behind it; the other rows are as without."""
    m = Maker(seed, BATCH)
    x = m.input("x", "batch", depth)
    op, w, even = linear_on_codes(m, kind, depth, outputs, factors)
    codes, scale, zero = m.node("dynamic_quantize", x, *[even] * factors, outputs=3, granularity="row")
    graph = m.graph(m.node(op, codes, w, *scaled(m, outputs), "", "", scale, zero, output="f32", **bounds))
    given_x = m.rng.standard_normal((rows, depth)).astype(np.float32)
    clean = interpreter.run(graph, {"x": given_x})[graph.outputs[0]]
    bad = m.rng.random(rows) < 0.5
    given_x[bad, m.rng.integers(0, depth, bad.sum())] = m.rng.choice(BAD, bad.sum())
    for session in sessions(graph):
        (y,) = session.run(given_x)
        assert np.isnan(y[bad]).all(), session.isa
        assert same(y[~bad], clean[~bad]), session.isa


@settings(max_examples=20, deadline=None)
@given(
    SEEDS,
    st.sampled_from(["dense", "pointwise", "depthwise", "groups", "transposed"]),
    st.sampled_from([{}, {"min": 0.0}, {"min": 0.0, "max": 6.0}]),
    st.integers(1, 4),
)
def test_samples_that_are_not_finite_are_nan(seed: int, kind: str, bounds: dict[str, float], samples: int) -> None:
    m = Maker(seed, BATCH)
    x = m.input("x", "batch", 16, 9, 11)
    weights = {
        "dense": (24, 16, 3, 3),
        "pointwise": (24, 16, 1, 1),
        "depthwise": (16, 1, 3, 3),
        "groups": (24, 4, 3, 3),
        "transposed": (24, 16, 2, 2),
    }
    filters, depth, *_ = weights[kind]
    codes, scale, zero = m.node("dynamic_quantize", x, outputs=3, granularity="sample")
    op = "quantized_conv_transpose2d" if kind == "transposed" else "quantized_conv2d"
    inputs = (codes, m.weight(*weights[kind]), *scaled(m, filters), "", "", scale, zero)
    graph = m.graph(m.node(op, *inputs, output="f32", groups=16 // depth, **bounds))
    given_x = m.rng.standard_normal((samples, 16, 9, 11)).astype(np.float32)
    clean = interpreter.run(graph, {"x": given_x})[graph.outputs[0]]
    bad = np.arange(samples) == m.rng.integers(0, samples)
    given_x[bad, 3, 4, m.rng.integers(0, 11)] = m.rng.choice(BAD)
    for session in sessions(graph):
        (y,) = session.run(given_x)
        assert np.isnan(y[bad]).all(), session.isa
        assert same(y[~bad], clean[~bad]), session.isa


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2 * 300_000 - 1), st.sampled_from(BAD), st.sampled_from([2, 3]))
def test_a_sample_whose_range_is_found_in_parts(place: int, bad: float, threads: int) -> None:
    """Wherever the one number lies, of few samples that all threads share."""
    m = Maker(0, BATCH)
    graph = m.graph(*m.node("dynamic_quantize", m.input("x", "batch", 300_000), outputs=3, granularity="sample"))
    x = np.random.default_rng(0).standard_normal((2, 300_000)).astype(np.float32)
    x.reshape(-1)[place] = bad
    expected = interpreter.run(graph, {"x": x})
    assert np.isnan(expected[graph.outputs[1]]).tolist() == [place < 300_000, place >= 300_000]
    for isa in ISAS:
        for name, y in zip(graph.outputs, Session(graph, isa=isa, threads=threads).run(x), strict=True):
            np.testing.assert_array_equal(y, expected[name], err_msg=isa)


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "linear": (lambda: nn.Linear(512, 512), (3, 512), "int8"),
    "two": (lambda: nn.Sequential(linear(), nn.ReLU(), linear(), nn.Hardtanh()), (3, 256), "int8"),
    "gelu": (lambda: nn.Sequential(linear(), nn.GELU(), linear(), nn.Softmax(-1)), (3, 256), "int8"),
    "conv": (lambda: nn.Sequential(nn.Conv2d(16, 64, 3), nn.ReLU6(), nn.Conv2d(64, 64, 1)), (3, 16, 24, 24), "int8"),
    "int4": (lambda: nn.Sequential(linear(), nn.ReLU(), linear()), (3, 256), "int4"),
}


def linear() -> nn.Module:
    return nn.Linear(256, 256)


@pytest.mark.parametrize("name", NETS)
def test_models_without_data_answer_nan(name: str) -> None:
    """The same of one row alone, and by every instruction set."""
    make, shape, scheme = NETS[name]
    torch.manual_seed(0)
    net, x = make().eval(), torch.randn(shape)
    model = lowbit.convert(net, (x,), scheme=scheme, progress=False)
    assert any(node.op == "dynamic_quantize" for node in model.graph)
    clean = model(x)
    for bad in BAD:
        y = x.clone()
        y[1].view(-1)[5] = bad
        found = model(y)
        assert found[1].isnan().all()
        assert torch.equal(found[[0, 2]], clean[[0, 2]])
        assert model(y[1:2]).isnan().all()
        for isa in ISAS:
            assert same(Session(model.graph, isa=isa).run(y.numpy())[0], found.numpy())


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_swapped_layers_and_torch_compile_answer_nan(scheme: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 128)).eval()
    x = torch.randn(4, 128)
    x[2, 7] = torch.nan
    compiled = torch.compile(net, backend="lowbit", options={"scheme": scheme})
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answers = [compiled(x)]
        lowbit.quantize_(net, scheme)
        answers.append(net(x))
    for y in answers:
        assert y.isnan().all(1).tolist() == [False, False, True, False]
        assert y.isnan().any(1).tolist() == [False, False, True, False]


def test_a_row_as_wide_as_float32_keeps_its_range() -> None:
    """hi - lo overflows; the scale does not."""
    x = np.float32([[3e38, -3e38, 0, 1e38], [1, 2, 3, 4]])
    m = Maker(0, BATCH)
    codes, scale, zero = m.node("dynamic_quantize", m.input("x", "batch", 4), outputs=3, granularity="row")
    graph = m.graph(codes, scale, zero)
    expected = interpreter.run(graph, {"x": x})
    assert np.isfinite(expected[scale]).all()
    real = (expected[codes][0].astype(float) - expected[zero][0]) * expected[scale][0]
    np.testing.assert_allclose(real, x[0].astype(float), atol=2e36)
    for session in sessions(graph):
        for name, y in zip(graph.outputs, session.run(x), strict=True):
            np.testing.assert_array_equal(y, expected[name])


# ----------------------------------------------------------------------------------- ranges from calibration saturate


@pytest.mark.parametrize("zero_point", [0, 7, 255])
def test_static_codes_of_what_is_not_finite(zero_point: int) -> None:
    """NaN has the code of 0, infinity that of the nearest end."""
    m = Maker(0, BATCH)
    graph = m.graph(m.node("quantize", m.input("x", "batch", 37), scale=0.1, zero_point=zero_point))
    x = np.tile(np.float32([np.nan, np.inf, -np.inf, 0.0, 3.4e38, -3.4e38]), 37).reshape(6, 37)
    expected = np.tile(np.uint8([zero_point, 255, 0, zero_point, 255, 0]), 37).reshape(6, 37)
    np.testing.assert_array_equal(interpreter.run(graph, {"x": x})[graph.outputs[0]], expected)
    for session in sessions(graph):
        np.testing.assert_array_equal(session.run(x)[0], expected)


def test_models_with_data_read_what_is_not_finite_as_the_nearest_number() -> None:
    """The first layer's codes are static: NaN counts as 0, infinity as a number beyond the range."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Conv2d(32, 16, 3)).eval()
    x = torch.randn(4, 16, 12, 12)
    model = lowbit.convert(net, (x,), calibration=[x], progress=False)
    assert model.graph.nodes[0].op == "quantize"
    for bad, number in zip(BAD, (0.0, 1e6, -1e6), strict=True):
        y, z = x.clone(), x.clone()
        y[1, 2, 3, 4], z[1, 2, 3, 4] = bad, number
        assert torch.equal(model(y), model(z))
        with pytest.raises(InputError, match="of 9216 values"):
            model(y, check_finite=True)


class Pair(nn.Module):
    def forward(self, images: Tensor, extra: dict[str, Tensor]) -> Tensor:
        return images + extra["ids"] + extra["mask"]


def test_check_finite(tmp_path: Path) -> None:
    """Names the arguments as the caller does, and counts; integers are not looked at."""
    ones = torch.ones(2, 5)
    extra = {"ids": torch.ones(2, 5, dtype=torch.int64), "mask": ones.double().float()}
    model = lowbit.convert(Pair().eval(), (ones, extra), scheme="float32", progress=False)
    model.save(tmp_path / "pair.lowbit")
    loaded = lowbit.load(tmp_path / "pair.lowbit")
    bad = {**extra, "mask": torch.tensor([[1, torch.nan, 3, torch.inf, -torch.inf]] * 2)}
    arrays = {name: it.numpy() for name, it in bad.items()}
    for call in (
        lambda **how: model(ones, bad, **how),
        lambda **how: model(images=ones, extra=bad, **how),
        lambda **how: loaded(ones.numpy(), arrays, **how),
    ):
        assert np.isnan(np.asarray(call())).sum() == 2
        with pytest.raises(InputError, match=r"^input 'extra'\['mask'\] has 2 NaN and 4 infinite of 10 values"):
            call(check_finite=True)
    assert torch.equal(model(ones, extra, check_finite=True), model(ones, extra))
    session = model.session
    feeds = dict(zip(session.graph.inputs, (ones.numpy(), *arrays.values()), strict=True))
    with pytest.raises(InputError, match="2 NaN and 4 infinite of 10"):
        session.run(**feeds, check_finite=True)


def test_check_finite_of_halves_and_of_a_first_call() -> None:
    model = lowbit.convert(nn.ReLU().eval(), scheme="float32", progress=False)
    x = torch.tensor([[1.0, torch.nan, torch.inf]], dtype=torch.float16)
    with pytest.raises(InputError, match="input 'input' has 1 NaN and 1 infinite of 3 values"):
        model(x, check_finite=True)
    assert model(x).isnan().tolist() == [[False, True, False]]


# ------------------------------------------------------------------------------------- float operators carry NaN, too

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    **{name: getattr(F, name) for name in ("relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "silu", "mish")},
    **{name: getattr(F, name) for name in ("elu", "selu", "celu", "leaky_relu", "softplus", "logsigmoid", "softsign")},
    **{name: getattr(F, name) for name in ("softshrink", "hardshrink", "tanhshrink")},
    **{name: getattr(torch, name) for name in ("sigmoid", "tanh", "exp", "log", "sqrt", "rsqrt", "reciprocal", "sin")},
    **{name: getattr(torch, name) for name in ("square", "neg", "abs", "erf", "exp2", "expm1", "log2", "log1p", "cos")},
    **{name: getattr(torch, name) for name in ("floor", "ceil", "trunc", "round", "sign", "sinh", "cosh")},
    "gelu": lambda x: F.gelu(x.clamp(max=1e30)),  # torch's own of infinity is NaN in vectors, infinite alone
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "threshold": lambda x: F.threshold(x, 0.1, 20.0),
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "clamp_min": lambda x: x.clamp(min=0.1),
    "clamp_max": lambda x: x.clamp(max=0.1),
    "prelu": lambda x: F.prelu(x, torch.tensor([0.1, -0.2, 0.3])),
    "pow": lambda x: x**3,
    "zero": lambda x: x * 0,
}
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    **{name: getattr(torch, name) for name in ("maximum", "minimum", "fmax", "fmin", "add", "mul", "sub", "fmod")},
    "where": lambda x, y: torch.where(x > y, x, y),
    "greater": lambda x, y: (x > y).float(),
    "lerp": lambda x, y: torch.lerp(x, y, 0.3),
}
FINAL: dict[str, Callable[[Tensor], Any]] = {
    "softmax": lambda x: x.softmax(-1),
    "softmax 1": lambda x: x.softmax(1),
    "log_softmax": lambda x: x.log_softmax(-1),
    "logsumexp": lambda x: x.logsumexp(-1),
    "max": lambda x: tuple(x.max(-1)),
    "min": lambda x: tuple(x.min(1)),
    "amax": lambda x: x.amax((1, 2)),
    "amin": lambda x: x.amin(-1),
    "argmax": lambda x: x.argmax(-1),
    "argmin": lambda x: x.argmin(1),
    "aminmax": lambda x: tuple(torch.aminmax(x, dim=1)),
    "sort": lambda x: torch.sort(x, dim=-1, stable=True)[0],
    "topk": lambda x: x.topk(7)[0],
    "least": lambda x: x.topk(7, largest=False)[0],
    "median": lambda x: tuple(x.median(-1)),
    "sum": lambda x: x.sum(-1),
    "mean": lambda x: x.mean(1),
    "pooled": lambda x: x.mean((2, 3)),
    "var": lambda x: x.var(-1),
    "std": lambda x: x.std((1, 2)),
    "prod": lambda x: x.clamp(-2, 2).prod(1),
    "cumsum": lambda x: x.cumsum(-1),
    "norm": lambda x: x.norm(dim=-1),
    "largest": lambda x: x.norm(torch.inf, dim=1),
    "normalize": lambda x: F.normalize(x, dim=1),
    "any": lambda x: x.any(-1),
    "max_pool": lambda x: F.max_pool2d(x, 3, 1, 1),
    "avg_pool": lambda x: F.avg_pool2d(x, 2),
    "adaptive": lambda x: (F.adaptive_max_pool2d(x, 2), F.adaptive_avg_pool2d(x, 1)),
    "layer_norm": lambda x: F.layer_norm(x, (34,)).clamp(-1, 1),
    "group_norm": lambda x: F.relu(F.group_norm(x, 3)),
    "rms_norm": lambda x: F.rms_norm(x, (34,)),
    "linear": lambda x: F.relu(F.linear(x, torch.ones(5, 34))),
    "conv": lambda x: F.relu6(F.conv2d(x, torch.ones(4, 3, 3, 3))),
    "depthwise": lambda x: F.relu6(F.conv2d(x, torch.ones(3, 1, 3, 3), groups=3)),
    "transposed": lambda x: F.relu(F.conv_transpose2d(x, torch.ones(3, 4, 2, 2), stride=2)),
    "pad": lambda x: F.pad(x, (1, 2), value=-torch.inf),
    "nan_to_num": lambda x: torch.nan_to_num(x),
    "itself": lambda x: x,
}


def leaves(y: Any) -> list[Any]:
    return list(y) if isinstance(y, tuple) else [y]


def check_special(function: Callable[[Tensor], Any], x: Tensor) -> None:
    """Where torch answers NaN or infinity, so do every session and the interpreter; the rest is near."""
    model, expected = convert(function, (x,)), leaves(function(x))
    feeds = {model.graph.inputs[0]: x.numpy()}
    scalar = Session(model.graph, isa="scalar", threads=1).run(x.numpy())
    reference = interpreter.run(model.graph, feeds)
    for session in sessions(model.graph):
        for y, other in zip(scalar, session.run(x.numpy()), strict=True):
            np.testing.assert_array_equal(y, other, err_msg=session.isa)
    for found in (scalar, [reference[name] for name in model.graph.outputs]):
        for y, want in zip(found, expected, strict=True):
            np.testing.assert_allclose(y, want.numpy(), rtol=2e-4, atol=2e-5)


def draw_special(seed: int, count: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, 6, 34, generator=generator)
    places = torch.randint(0, x.numel(), (count,), generator=generator)
    x.view(-1)[places] = torch.tensor([torch.nan, torch.inf, -torch.inf]).repeat(count)[:count]
    return x


@pytest.mark.parametrize("name", [*UNARY, *(name for name in FINAL if name != "itself")])
def test_float_operators_carry_what_is_not_finite(name: str) -> None:
    check_special(UNARY.get(name) or FINAL[name], draw_special(0))


@settings(max_examples=15, deadline=None)
@given(
    SEEDS,
    st.lists(st.sampled_from([*UNARY]), min_size=1, max_size=2),
    st.sampled_from([*BINARY]),
    st.sampled_from([*FINAL]),
)
def test_float_nets_carry_what_is_not_finite(seed: int, unary: list[str], binary: str, final: str) -> None:
    def net(x: Tensor) -> Any:
        y = x
        for name in unary:
            y = UNARY[name](y).clamp(-1e3, 1e3)
        return FINAL[final](BINARY[binary](y, x.flip(-1)))

    check_special(net, draw_special(seed, 1 + seed % 4))


# ------------------------------------------------------------------------------------------------------ far from zero


def far(seed: int, shape: tuple[int, ...], offset: float, spread: float) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * spread + offset


def near(function: Callable[[Tensor], Any], x: Tensor, rtol: float, atol: float) -> None:
    """Every session's answer has the same bits, and is as near to torch's in float64 as said.

    (That of contiguous images: of others torch's group norm takes E[x^2] - E[x]^2.)
    """
    graph, expected = convert(function, (x,)).graph, leaves(function(x.double().contiguous()))
    first: list[Array] | None = None
    for session in sessions(graph):
        found = session.run(x.numpy())
        first = first or found
        for y, other, want in zip(found, first, expected, strict=True):
            np.testing.assert_array_equal(y, other, err_msg=session.isa)
            np.testing.assert_allclose(y, want.numpy(), rtol=rtol, atol=atol)
    reference = interpreter.run(graph, {graph.inputs[0]: x.numpy()})
    for name, want in zip(graph.outputs, expected, strict=True):
        np.testing.assert_allclose(reference[name], want.numpy(), rtol=rtol, atol=atol)


@pytest.mark.parametrize("size", [1, 7, 64, 768, 4096, 9001])
@pytest.mark.parametrize("number", [12345.678, -0.1, 3e30])
def test_a_row_of_one_number_is_normalized_to_zero(size: int, number: float) -> None:
    x = torch.full((3, size, 2), number)
    for graph in (
        convert(lambda x: F.layer_norm(x, (size, 2)), (x,)).graph,
        convert(lambda x: F.instance_norm(x.transpose(1, 2)) if size > 1 else x * 0, (x,)).graph,
    ):
        for session in sessions(graph):
            assert not session.run(x.numpy())[0].any()


@settings(max_examples=20, deadline=None)
@given(
    SEEDS,
    st.sampled_from([2, 5, 16, 33, 300, 4100, 13000]),
    st.sampled_from([0.0, -100.0, 1e4, 1e6]),
    st.sampled_from([1.0, 1e-2, 1e3]),
    st.sampled_from(["plain", "outlier first", "outlier last"]),
)
def test_layer_norm_far_from_zero(seed: int, size: int, offset: float, spread: float, kind: str) -> None:
    x = far(seed, (2, size), offset, spread)
    if kind != "plain":
        x[:, 0 if kind == "outlier first" else -1] = 1e3 * (abs(offset) + spread)
    weight = torch.linspace(0.5, 1.5, size)
    near(lambda x: F.layer_norm(x, (size,), weight.to(x.dtype), eps=1e-8), x, rtol=3e-6, atol=3e-6)


@settings(max_examples=15, deadline=None)
@given(
    SEEDS,
    st.sampled_from([(2, 6, 5, 7), (1, 6, 40, 33), (3, 12, 11)]),
    st.sampled_from([0.0, 1e4, -1e6]),
    st.booleans(),
)
def test_group_and_instance_norm_far_from_zero(seed: int, shape: tuple[int, ...], offset: float, last: bool) -> None:
    x = far(seed, shape, offset, 1.0)
    if last and x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    near(lambda x: (F.group_norm(x, 3), F.instance_norm(x)), x, rtol=3e-6, atol=3e-6)


AXES = [(0,), (1,), (-1,), (0, 2), (1, 2), (1, 3), (0, 2, 3), (2, 3), (0, 1, 2, 3)]


@settings(max_examples=20, deadline=None)
@given(
    SEEDS,
    st.sampled_from([(3, 4, 5, 6), (2, 8, 40, 33), (2, 70, 1, 9), (1, 2, 3, 5000)]),
    st.sampled_from(AXES),
    st.sampled_from([0.0, 1e4, -1e6]),
    st.sampled_from([0, 1]),
    st.booleans(),
)
def test_spread_and_mean_far_from_zero(
    seed: int, shape: tuple[int, ...], axes: tuple[int, ...], offset: float, correction: int, keepdim: bool
) -> None:
    """Rounded once from float64: within a unit or two of float32's last place."""
    x = far(seed, shape, offset, 1.0)
    single = int(np.prod([shape[axis] for axis in axes])) <= correction
    how: dict[str, Any] = {"dim": axes, "correction": 0 if single else correction, "keepdim": keepdim}

    def net(x: Tensor) -> Any:
        return *torch.std_mean(x, **how), *torch.var_mean(x, **how), x.var(**how), x.std(**how), x.sum(axes)

    near(net, x, rtol=5e-7, atol=1e-6 * (abs(offset) < 1))


@settings(max_examples=8, deadline=None)
@given(SEEDS, st.sampled_from([1, 9, 31, 300, 20000]), st.integers(1, 18), st.sampled_from([0.1, 1e4, 1e6]))
def test_means_of_many_numbers(seed: int, size: int, columns: int, offset: float) -> None:
    x = far(seed, (2, columns, size), offset, 0.01 * offset)
    near(
        lambda x: (x.mean(-1), x.transpose(1, 2).contiguous().mean(1), x.mean(), F.avg_pool1d(x, min(size, 200))),
        x,
        rtol=3e-6,
        atol=0,
    )
    near(lambda x: F.adaptive_avg_pool2d(x.unsqueeze(-1), 1), x, rtol=3e-6, atol=0)


def test_a_row_of_one_number_has_its_mean_and_no_variance() -> None:
    for size in (1, 3, 7, 65, 768, 70001):
        x = torch.full((2, size), 12345.678)
        graph = convert(lambda x: (x.mean(-1) - x[:, 0], *torch.var_mean(x - 0, -1, correction=0)), (x,)).graph
        for session in sessions(graph):
            difference, variance, mean = session.run(x.numpy())
            assert not difference.any()
            assert not variance.any()
            assert (mean == x[0, 0].item()).all()


def test_a_variance_of_nothing_left_is_nan() -> None:
    x = torch.randn(3, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's: no degrees of freedom
        near(lambda x: (x.var(-1), x.std(-1, correction=2), x.var(-1, correction=0)), x, rtol=0, atol=0)


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_a_deviation_fits_where_its_square_does_not(size: float) -> None:
    near(lambda x: (x.std(-1), torch.std_mean(x, 0)[0]), far(0, (9, 40), 0.0, size), rtol=5e-7, atol=0)


@pytest.mark.parametrize("size", [1e4, 1e30, 3e38])
def test_softmax_and_logsumexp_of_large_numbers(size: float) -> None:
    x = torch.tensor([[1.0, -1.0, 0.5, 0.999], [0.1, 0.1, -1.0, -0.5]]) * size
    near(lambda x: (x.softmax(-1), x.softmax(0), x.logsumexp(-1)), x, rtol=1e-6, atol=1e-30)


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.sampled_from([0.0, 1e4]))
def test_what_is_written_out_far_from_zero(seed: int, offset: float) -> None:
    """A layer norm by hand is as good as its mean, and cosines do not suffer."""
    x = far(seed, (2, 96), offset, 1.0)

    def by_hand(x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True, correction=0) + 1e-5)

    near(by_hand, x, rtol=1e-6, atol=1e-6 + 1e-7 * offset)
    near(lambda x: (F.normalize(x, dim=-1), F.cosine_similarity(x, x.flip(0), -1)), x, rtol=1e-6, atol=3e-7)
