"""The converted model: called as the module was, from many threads, compared with it, saved and loaded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import lowbit
from lowbit.capture import Example
from lowbit.errors import InputError


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclass
class Result:
    score: Any
    parts: Any


pytree.register_dataclass(Result)


class Many(nn.Module):
    """Several inputs, of all kinds, and nested outputs of own classes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, x: Any, options: Any, flag: bool = True, *, scale: Any) -> Result:
        y = self.linear(x) * scale + options["offsets"][0]
        return Result(score=y, parts={"pair": Pair(y.sigmoid(), [y * 2, None]), "flag": flag})


def inputs() -> tuple[tuple[Any, ...], dict[str, Any]]:
    torch.manual_seed(0)
    return (torch.randn(3, 6), {"offsets": (torch.randn(3, 4),)}), {"scale": torch.randn(3, 1)}


@pytest.fixture(scope="module")
def many() -> tuple[Many, lowbit.Model]:
    net = Many().eval()
    args, kwargs = inputs()
    return net, lowbit.convert(net, Example(args=args, kwargs=kwargs), scheme="float32", progress=False)


def leaves(result: Result) -> list[Any]:
    return [result.score, result.parts["pair"].left, result.parts["pair"].right[0]]


def test_nested_calls_return_the_modules_own_classes(many: tuple[Many, Any]) -> None:
    net, model = many
    args, kwargs = inputs()
    result, expected = model(*args, **kwargs), net(*args, **kwargs)
    assert isinstance(result, Result)
    assert isinstance(result.parts["pair"], Pair)
    assert result.parts["flag"] is True
    assert result.parts["pair"].right[1] is None
    for a, e in zip(leaves(result), leaves(expected), strict=True):
        assert torch.allclose(a, e, atol=1e-5)
    named = model(scale=kwargs["scale"], options=args[1], x=args[0], flag=True)
    assert all(torch.equal(a, b) for a, b in zip(leaves(named), leaves(result), strict=True))


def test_arrays_in_arrays_out(many: tuple[Many, Any]) -> None:
    _, model = many
    args, kwargs = inputs()
    tensors = leaves(model(*args, **kwargs))
    arrays = pytree.tree_map_only(torch.Tensor, lambda x: x.numpy(), (args, kwargs))
    result = model(*arrays[0], **arrays[1])
    assert all(isinstance(leaf, np.ndarray) for leaf in leaves(result))
    assert all(np.array_equal(a, t.numpy()) for a, t in zip(leaves(result), tensors, strict=True))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a, k: (a[:1], k), "missing: 'options'"),
        (lambda a, k: (a, {}), "missing: 'scale'"),
        (lambda a, k: ((*a, True, 1), k), "positional inputs were given"),
        (lambda a, k: (a, {**k, "size": 1}), "there is no input 'size'"),
        (lambda a, k: (a, {**k, "x": a[0]}), "given twice"),
        (lambda a, k: ((*a, False), k), "cannot change to False"),
        (lambda a, k: ((a[0], {"offset": a[1]["offsets"]}), k), "must be a dict of"),
        (lambda a, k: ((a[0], {"offsets": a[1]["offsets"] * 2}), k), "must be a tuple of 1"),
        (lambda a, k: ((a[0][:, :5], a[1]), k), "shape"),
        (lambda a, k: ((a[0][0], a[1]), k), "'x'"),
        (lambda a, k: ((a[0][:2], a[1]), k), "shape"),
        (lambda a, k: ((a[0].double(), a[1]), k), r"must be torch\.float32, is torch\.float64"),
        (lambda a, k: ((a[0].numpy().astype(np.float64), a[1]), k), "must be float32, is float64"),
        (lambda a, k: ((a[0].tolist(), a[1]), k), "NumPy array"),
    ],
)
def test_inputs_that_do_not_fit(many: tuple[Many, Any], change: Any, words: str) -> None:
    args, kwargs = change(*inputs())
    with pytest.raises(InputError, match=words):
        many[1](*args, **kwargs)


def test_gradients_and_strides_do_not_matter(many: tuple[Many, Any]) -> None:
    args, kwargs = inputs()
    expected = leaves(many[1](*args, **kwargs))
    strided = args[0].T.contiguous().T.requires_grad_()
    result = leaves(many[1](strided, args[1], **kwargs))
    assert all(torch.equal(a, e) and not a.requires_grad for a, e in zip(result, expected, strict=True))


class Shifted(nn.Module):
    """hardtanh(x) + a buffer."""

    def __init__(self, shift: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("shift", shift)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.hardtanh(x, -0.5, 0.5) + self.shift


def test_a_sign_that_torch_keeps_aside_is_applied() -> None:
    """The imaginary part of a conjugate is a view of the other sign: as an input, and as a buffer."""
    x, shift = torch.randn(2, 1, 4, dtype=torch.complex64).conj().imag
    assert x.is_neg()
    assert shift.is_neg()
    net = Shifted(shift).eval()
    assert torch.equal(lowbit.convert(net, x, progress=False)(x), net(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_outside_float32_inside(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)).eval()
    x = torch.randn(2, 3, 8, 8)
    expected = net(x).detach()
    model = lowbit.convert(net.to(dtype), x.to(dtype), scheme="float32", progress=False)
    result = model(x.to(dtype))
    assert result.dtype == dtype
    assert torch.allclose(result.float(), expected, atol=0.02)
    assert model(x).dtype == dtype  # float32 is what it computes in: taken as it is
    with pytest.raises(InputError, match="must be"):
        model(x.to(torch.int32))


def test_whole_numbers_in() -> None:
    class Scaled(nn.Module):
        def forward(self, x: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
            return x * k

    x, k = torch.randn(2, 3), torch.tensor([[1, 2, 3], [4, 5, 6]])
    model = lowbit.convert(Scaled().eval(), (x, k), scheme="float32", progress=False)
    assert torch.equal(model(x, k), x * k)


def test_many_threads_share_one_model_also_at_its_first_call(small_net: nn.Module) -> None:
    torch.manual_seed(3)
    images = torch.randn(16, 3, 16, 16)
    model = lowbit.convert(small_net, progress=False)
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(model, images.split(1)))
    assert torch.equal(torch.cat(results), model(images))


def test_profile_names_every_step(small_net: nn.Module) -> None:
    x = torch.randn(2, 3, 16, 16)
    model = lowbit.convert(small_net, x, calibration=[x], progress=False)
    profile = model.profile(x, repeats=3)
    assert {"0", "3", "6"} <= {row.node for row in profile}
    assert profile.seconds > 0
    assert "GOP/s" in str(profile)
    assert {row["node"] for row in model.nodes} >= {"0", "3", "6"}


def test_compare_pairs_every_value_with_the_float_graphs(small_net: nn.Module) -> None:
    torch.manual_seed(4)
    x = torch.randn(4, 3, 16, 16)
    exact = lowbit.convert(small_net, x, scheme="float32", progress=False).compare(x)
    assert all(row.sqnr == float("inf") and row.largest == 0 for row in exact)
    for calibration in ([x], None):
        model = lowbit.convert(small_net, x, calibration=calibration, progress=False)
        found = model.compare(x)
        assert {"0", "3"} <= {row.node for row in found}
        assert all(20 < row.sqnr < 200 for row in found)
        y, expected = model(x).double(), small_net(x).detach().double()
        sqnr = 10 * torch.log10((expected**2).sum() / ((y - expected) ** 2).sum())
        assert found.outputs[0].sqnr == pytest.approx(float(sqnr), abs=0.5)
        assert "SQNR dB" in str(found)


def test_decisions_say_why(small_net: nn.Module) -> None:
    x = torch.randn(2, 3, 16, 16)
    model = lowbit.convert(small_net, x, calibration=[x], progress=False)
    assert all(row["scheme"] in ("int8", "float32") and row["reason"] for row in model.decisions)
    assert "reason" in str(model.decisions).splitlines()[0]
    assert model.notes == ()


def test_a_saved_model_gives_the_same_bits(tmp_path: Path, small_net: nn.Module) -> None:
    x = torch.randn(3, 3, 16, 16)
    for options in ({"scheme": "float32"}, {}, {"calibration": [x]}):
        model = lowbit.convert(small_net, x, progress=False, **options)
        model.save(tmp_path / "net.lowbit")
        loaded = lowbit.load(tmp_path / "net.lowbit")
        assert np.array_equal(loaded(x.numpy()), model(x.numpy()))
        assert np.array_equal(loaded(x.numpy()[:1]), model(x.numpy()[:1]))
        assert [dict(row) for row in loaded.decisions] == list(model.decisions)


def test_a_loaded_model_stands_in_for_classes_it_does_not_know(tmp_path: Path, many: tuple[Many, Any]) -> None:
    _, model = many
    model.save(tmp_path / "many.lowbit")
    loaded = lowbit.load(tmp_path / "many.lowbit")
    args, kwargs = pytree.tree_map_only(torch.Tensor, lambda x: x.numpy(), inputs())
    result, expected = loaded(*args, **kwargs), model(*args, **kwargs)
    assert np.array_equal(result.score, expected.score)
    assert np.array_equal(result["parts"]["pair"].left, expected.parts["pair"].left)
