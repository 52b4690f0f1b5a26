"""torch.compile(net, backend="lowbit"): same results, few conversions, and torch runs only what it must."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

import lowbit
from lowbit.dynamo import compile as backend
from lowbit.dynamo.compile import Frame, counting
from lowbit.errors import InputError

BOUND = 1e-4


class Tagger(nn.Module):
    """embedding - bidirectional LSTM - linear."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 16)
        self.mix = nn.LSTM(16, 8, batch_first=True, bidirectional=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.mix(self.words(x))[0])


def images(batch: int, length: int = 0) -> torch.Tensor:
    return torch.randn(batch, 3, 16, 16)


def rows(batch: int, length: int = 0) -> torch.Tensor:
    return torch.randn(batch, 8)


def steps(batch: int, length: int = 7) -> torch.Tensor:
    return torch.randn(batch, length, 32)


def tokens(batch: int, length: int = 9) -> torch.Tensor:
    return torch.randint(0, 50, (batch, length))


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[..., torch.Tensor]]] = {
    "convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, 10),
        ),
        images,
    ),
    "perceptron": (lambda: nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.GELU()), rows),
    "encoder": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2),
        steps,
    ),
    "tagger": (Tagger, tokens),
}


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    backend._told.clear()
    torch.manual_seed(0)
    with torch.no_grad():
        yield
    torch._dynamo.reset()


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Frame]:
    """Grows with each graph that is converted."""
    made: list[Frame] = []
    original = Frame.convert

    def convert(self: Frame, options: Any) -> Any:
        made.append(self)
        return original(self, options)

    monkeypatch.setattr(Frame, "convert", convert)
    return made


def compiled(net: nn.Module, **options: Any) -> Any:
    return torch.compile(net, backend="lowbit", options={"scheme": "float32", **options})


def assert_close(result: torch.Tensor, expected: torch.Tensor) -> None:
    assert result.shape == expected.shape
    assert result.dtype == expected.dtype
    assert float((result - expected).abs().max()) <= BOUND * float(expected.abs().max())


@pytest.mark.parametrize("name", NETS)
def test_batches_from_1_to_16_take_two_conversions(name: str, conversions: list[Frame]) -> None:
    make, inputs = NETS[name]
    net = make().eval()
    fast = compiled(net)
    for batch in range(1, 17):
        x = inputs(batch)
        assert_close(fast(x), net(x))
    assert len(conversions) <= 2
    with counting() as count:
        fast(inputs(4))
    assert count.share >= 0.95
    assert count.lowbit > 0


@pytest.mark.parametrize("name", ["encoder", "tagger"])
def test_lengths_vary_too(name: str, conversions: list[Frame]) -> None:
    make, inputs = NETS[name]
    net = make().eval()
    fast = compiled(net)
    for length in (7, 3, 12, 30, 2):
        x = inputs(3, length)
        assert_close(fast(x), net(x))
    assert len(conversions) == 2


def test_the_default_is_int8() -> None:
    net = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 256)).eval()
    x = torch.randn(64, 256)
    result, expected = torch.compile(net, backend="lowbit")(x), net(x)
    noise = float(((result - expected) ** 2).sum() / (expected**2).sum())
    assert 0 < noise < 1e-3


def test_what_lowbit_lacks_runs_in_torch() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 64), nn.Linear(64, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.special.bessel_j0(self.a(x)))

    net = Mixed().eval()
    fast = compiled(net)
    for batch in (1, 2, 5):
        x = rows(batch)
        assert_close(fast(x), net(x))
    with pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match="bessel_j0"):
        torch._dynamo.reset() or compiled(net, fallback=None)(rows(2))


def test_graph_breaks_make_graphs_of_their_own(conversions: list[Frame]) -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            torch._dynamo.graph_break()
            return self.b(y) + float(y.shape[0])

    net = Broken().eval()
    fast = compiled(net)
    for batch in (2, 3, 4):
        x = rows(batch)
        assert_close(fast(x), net(x))
    assert 2 <= len(conversions) <= 4


def test_results_that_are_sizes_numbers_and_inputs() -> None:
    class Sizes(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, Any]:
            y = x * 2
            torch._dynamo.graph_break()
            return {"y": y + 1, "n": x.shape[0] * 2 + 1, "k": 3, "x": x, "none": None}

    fast = compiled(Sizes().eval())
    for batch in (2, 3, 7):
        x = rows(batch)
        result = fast(x)
        assert_close(result["y"], x * 2 + 1)
        assert (result["n"], result["k"], result["none"]) == (2 * batch + 1, 3, None)
        assert result["x"] is x


def test_gradients_keep_the_graph_in_torch_with_one_warning() -> None:
    net = nn.Sequential(nn.Linear(8, 4), nn.ReLU()).eval()
    fast, x = compiled(net), rows(3)
    with torch.enable_grad():
        with pytest.warns(UserWarning, match="no_grad"):
            y = fast(x)
        assert_close(y.detach(), net(x).detach())
        y.sum().backward()
        assert net[0].weight.grad is not None
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fast(rows(5))
    with counting() as count:
        fast(x)
    assert count.share == 1.0


def test_a_graph_that_writes_to_its_inputs_stays_in_torch() -> None:
    class Writes(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x.add_(1)
            return x * 2

    x = rows(3)
    expected = x + 1
    with pytest.warns(UserWarning, match="writes to its inputs"):
        y = compiled(Writes().eval())(x)
    assert torch.equal(x, expected)
    assert torch.equal(y, 2 * expected)


def test_a_model_in_train_mode_keeps_its_statistics_in_torch() -> None:
    net, twin = nn.BatchNorm1d(8), nn.BatchNorm1d(8)
    x = rows(16)
    with pytest.warns(UserWarning, match="leaves a graph in torch"):
        y = compiled(net.train())(x)
    assert_close(y, twin.train()(x))
    assert torch.allclose(net.running_mean, twin.running_mean)


def test_unknown_options_are_refused() -> None:
    with pytest.raises((InputError, torch._dynamo.exc.BackendCompilerFailed), match=r"unknown options \['schema'\]"):
        compiled(nn.Linear(8, 4).eval(), schema="int8")(rows(2))


ENTRY = (
    "import torch, torch._dynamo.backends.registry as registry\n"
    "from importlib.metadata import EntryPoint\n"
    "registry._lazy_import()\n"
    "registry._BACKENDS['lowbit'] = EntryPoint('lowbit', 'lowbit.dynamo.backend:entry', 'torch_dynamo_backends')"
)


@pytest.mark.parametrize(
    "imports",
    ["import lowbit, torch", "import torch._dynamo.backends.registry, torch, lowbit", ENTRY],
    ids=["lowbit first", "torch first", "entry point"],
)
def test_the_backend_is_known_and_recurrent_layers_are_captured(imports: str) -> None:
    code = (
        f"{imports}\n"
        "net = torch.nn.LSTM(4, 3).eval()\n"
        "with torch.no_grad(): y, _ = torch.compile(net, backend='lowbit')(torch.ones(5, 2, 4))\n"
        "import lowbit.dynamo.compile\n"
        "(model,) = lowbit.dynamo.compile._models.values()\n"
        "assert y.shape == (5, 2, 3) and 'lstm' in [node.op for node in model.graph]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_swapped_layers_are_compiled_with_their_codes() -> None:
    """What `lowbit.quantize_` has swapped becomes part of the graph: the same bits, and no code is chosen anew."""
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 256)).eval(), torch.randn(3, 256)
    lowbit.quantize_(net, "int4")
    with torch.no_grad(), counting() as count:
        y = torch.compile(net, backend="lowbit", options={"scheme": "int8", "fallback": None})(x)
        assert torch.equal(y, net(x))
    assert count.share == 1.0
