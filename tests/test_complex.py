"""Complex values and Fourier transforms: pairs of real ones in the graph, torch's numbers in the answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lowbit
from against_torch import Function, check, check_free, convert
from lowbit.errors import InputError, UnsupportedError

fft = torch.fft
G = torch.Generator().manual_seed(0)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=G)


def paired(x: Tensor) -> Tensor:
    """[..., 2n] as n complex numbers."""
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))


X, Y = noise(3, 4, 8), noise(3, 4, 8)
W = torch.complex(noise(4, 5), noise(4, 5))
V = torch.complex(noise(6, 3), noise(6, 3))


def both(z: Tensor) -> Tensor:
    return torch.view_as_real(z.resolve_conj())


VALUES: dict[str, Callable[..., Any]] = {
    "sums": lambda p, q, r: both(p + q - (r - q) * 2 + (1 - 2j) + torch.add(p, r, alpha=3)),
    "products": lambda p, q, r: both(p * q * r * (0.5 + 2j) * 1j),
    "quotients": lambda p, q, r: both(p / (q + 3) + q / (2 + 1j) + 1 / (p + 4) + r / (q + 3) + q / 2),
    "parts": lambda p, q, r: p.real + q.imag + p.conj().imag,
    "polar": lambda p, q, r: (p.abs(), p.angle(), both(torch.polar(r.abs(), p.real)), (-r).angle()),
    "functions": lambda p, q, r: [
        both(f(p)) for f in (torch.exp, torch.log, torch.sqrt, torch.square, torch.sgn, torch.reciprocal)
    ],
    "powers": lambda p, q, r: both(p**2 + q**3 + (p + 4) ** -1 + (p + 4) ** 0.5),
    "moves": lambda p, q, r: both(
        torch.cat([p.transpose(0, 1), q.permute(1, 0, 2)[:, :, :2].flip(2)], -1)[1:, [0, 2]].roll(1, 0)
    ),
    "shapes": lambda p, q, r: both(
        torch.stack([p.flatten(1), q.reshape(3, -1)]).unsqueeze(0).squeeze().sum(1).expand(2, 16)
    ),
    "choice": lambda p, q, r: both(torch.where(r > 0, p, q).masked_fill(r > 1, 0)),
    "pieces": lambda p, q, r: both(p.chunk(2, -1)[1] * q.split([1, 3], 1)[1][..., :2].mean(1, keepdim=True)),
    "matrices": lambda p, q, r: (
        both(p @ q.transpose(-1, -2)),
        both(p[0] @ W),
        both(torch.einsum("bij,jk->bki", p, W)),
    ),
    "einsum": lambda p, q, r: both(
        torch.einsum("bij,bkj->bik", p, q).sum(-1) + torch.einsum("bij,bkj,ij->bi", p, q, r[0].cfloat())
    ),
    "comparison": lambda p, q, r: (p == p, p.ne(q), torch.isnan(p)),
    "norm": lambda p, q, r: p.norm(dim=-1) + torch.linalg.vector_norm(q, dim=-1),
    "creation": lambda p, q, r: both(
        torch.zeros(3, 2, dtype=torch.cfloat)
        + torch.full((3, 2), 1 + 2j)
        + torch.eye(3, 2, dtype=torch.cfloat) * p[:, 0, :2]
    ),
    "written": lambda p, q, r: both(_written(p, q)),
    "types": lambda p, q, r: both(r.to(torch.cfloat) + q.imag.cfloat() * 1j),
    "rotary embedding": lambda p, q, r: both(
        p * torch.polar(torch.ones(4, 4), torch.arange(16.0).view(4, 4) / 7)
    ).flatten(2),
    "padding": lambda p, q, r: both(torch.nn.functional.pad(p, (1, 2))),
    "in place": lambda p, q, r: both(p.clone().mul_(2j).add_(q)),
}


def _written(a: Tensor, b: Tensor) -> Tensor:
    out = torch.zeros(3, 4, 6, dtype=torch.cfloat)
    out[..., :4] = a
    out[:, 1:3, -2:] += b[:, 1:3, :2]
    out[:, 3], out[0, 0] = 0, 2j
    return out


@pytest.mark.parametrize("name", VALUES)
def test_complex_values(name: str) -> None:
    function = VALUES[name]
    check(lambda a, b: function(paired(a), paired(b), b[..., :4]), X, Y)


TRANSFORMS: dict[str, Callable[[Tensor], Any]] = {
    "fft": lambda x: [
        both(fft.fft(x)),
        both(fft.ifft(x * 1j, norm="ortho")),
        both(fft.fft(paired(x), 5, 1, "forward")),
    ],
    "rfft": lambda x: [fft.rfft(x).abs(), both(fft.rfft(x, 5, 1, "ortho")), both(fft.rfft(x, 12, 0))],
    "irfft": lambda x: [
        fft.irfft(paired(x)),
        fft.irfft(paired(x), 5),
        fft.irfft(paired(x), 12, 1, "ortho"),
        fft.irfft(x),
    ],
    "hermitian": lambda x: [
        fft.hfft(paired(x)),
        fft.hfft(paired(x), 7, norm="ortho"),
        both(fft.ihfft(x, norm="forward")),
    ],
    "two axes": lambda x: [
        fft.fft2(x).real,
        both(fft.rfft2(x, s=(6, 5))),
        fft.irfft2(fft.rfft2(x, norm="ortho"), s=(4, 8), norm="ortho"),
    ],
    "many axes": lambda x: [
        both(fft.fftn(x)),
        both(fft.ifftn(x, dim=(0, 2), norm="ortho")),
        fft.irfftn(fft.rfftn(x) * 2, x.shape),
        both(fft.rfftn(x, (3, -1), (0, 1))),
    ],
    "shifts": lambda x: [fft.fftshift(x), fft.ifftshift(x[:, :3], 1), both(fft.fftshift(fft.fft(x), (1,)))],
    "frequencies": lambda x: [x * fft.fftfreq(8, 0.5), x[..., :5] + fft.rfftfreq(8)],
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms(name: str) -> None:
    check(TRANSFORMS[name], X)


@pytest.mark.parametrize("n", [1, 2, 3, 64, 400, 1000, 1024, 1021])
def test_lengths(n: int) -> None:
    """In one product and in two stages, there and back."""
    x = noise(2, n)
    z = torch.complex(noise(2, n), noise(2, n))
    cases: list[Callable[[Tensor], Tensor]] = [
        lambda x: both(fft.rfft(x)),
        lambda x: both(fft.fft(x * z, norm="ortho")),
        lambda x: fft.irfft(fft.rfft(x * z.real), n),
        lambda x: both(fft.ifft(fft.fft(z) * x)),
    ]
    for function in cases:
        expected = function(x)
        found = convert(function, (x,))(x)
        assert float((found - expected).abs().max()) <= 3e-6 * float(expected.abs().max())


@pytest.mark.parametrize("name", ["rfft", "inverse", "fft2"])
def test_free_lengths(name: str) -> None:
    """The tables are made for the call's own length."""
    functions: dict[str, Callable[[Tensor], Any]] = {
        "rfft": lambda x: both(fft.rfft(x, dim=1, norm="ortho")),
        "inverse": lambda x: fft.irfft(fft.rfft(x, dim=1) * 2, n=x.shape[1], dim=1),
        "fft2": lambda x: fft.fftn(x, dim=(1, 2), norm="forward").real,
    }
    check_free(functions[name], noise(5, 6, 8))


WINDOWS = {"none": None, "hann": torch.hann_window, "ones": torch.ones}


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_short_time_transforms(data: st.DataObject) -> None:
    """stft, and istft of it, for drawn options."""
    size = data.draw(st.integers(2, 40), "n_fft")
    hop = data.draw(st.integers(1, size), "hop")
    width = data.draw(st.integers(max(size // 2, hop), size), "win_length")
    center, normalized, onesided = (data.draw(st.booleans()) for _ in range(3))
    mode = data.draw(st.sampled_from(["reflect", "constant", "replicate"]))
    window = data.draw(st.sampled_from(["none", "hann", "ones"]))
    shape = data.draw(st.sampled_from([(97,), (2, 80), (1, 64)]))
    x = noise(*shape)
    made = WINDOWS[window]
    given_window = None if made is None else made(width)

    def function(x: Tensor) -> Tensor:
        z = torch.stft(
            x,
            size,
            hop,
            width,
            given_window,
            center,
            mode,
            normalized=normalized,
            onesided=onesided,
            return_complex=True,
        )
        return both(z)

    expected = function(x)
    found = convert(function, (x,))(x)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{}, {"hop_length": 24}, {"normalized": True, "onesided": False}, {"win_length": 48}]
)
@pytest.mark.parametrize("length", [None, 300])
def test_and_back(options: dict[str, Any], length: int | None) -> None:
    options = {"n_fft": 64, "window": torch.hamming_window(options.get("win_length", 64)), **options}

    def function(x: Tensor) -> Tensor:
        z = torch.stft(x, return_complex=True, **options)
        return torch.istft(z * (0.5 + 0.5j), length=length, **options)

    check(function, noise(2, 320))


def test_short_time_transforms_of_any_length() -> None:
    options: dict[str, Any] = {"n_fft": 64, "hop_length": 24, "window": torch.hamming_window(64)}

    def function(x: Tensor) -> Tensor:
        return torch.istft(torch.stft(x, return_complex=True, **options) * 2j, **options)

    names = {0: torch.export.Dim("batch", max=16), 1: torch.export.Dim("length", min=200, max=4000)}
    model = convert(function, (noise(2, 320),), ((names,),))
    for size in (256, 999):
        x = noise(3, size)
        torch.testing.assert_close(model(x), function(x), rtol=2e-5, atol=2e-6)


def test_a_call_takes_and_returns_complex_tensors(tmp_path: Path) -> None:
    """As they are, in torch and in NumPy; of another type, the error says so."""

    def function(x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"sum": x + y, "as it is": x, "wide": (x * y).to(torch.complex128)}

    x, y = torch.randn(3, 4, dtype=torch.cfloat), torch.randn(3, 4)
    model = convert(function, (x, y), "auto")
    model.save(tmp_path / "net.lowbit")
    loaded = lowbit.load(tmp_path / "net.lowbit")
    z = torch.randn(5, 4, dtype=torch.cfloat)
    expected = function(z.conj(), z.real)
    found, again = model(z.conj(), z.real), loaded(z.conj().resolve_conj().numpy(), z.real.numpy())
    for name, e in expected.items():
        torch.testing.assert_close(found[name], e, rtol=1e-5, atol=1e-6)
        assert again[name].dtype == e.resolve_conj().numpy().dtype
        np.testing.assert_array_equal(again[name], found[name].numpy())
    with pytest.raises(InputError, match=r"must be torch\.complex64, is torch.float32"):
        model(z.real, z.real)
    with pytest.raises(InputError, match="must be complex64, is float32"):
        loaded(z.real.numpy(), z.real.numpy())


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: torch.prod(paired(x), 1).abs(), "a product of complex numbers over an axis"),
        (lambda x: torch.linalg.inv(paired(x) @ paired(x).mT).abs(), "no operator for it"),
        (lambda x: fft.rfft(x, 8209).abs(), "a Fourier transform of length 8209"),
        (lambda x: paired(x).tanh().abs(), "no operator for it on complex numbers"),
    ],
)
def test_what_is_refused(function: Callable[[Tensor], Tensor], reason: str) -> None:
    with pytest.raises(UnsupportedError, match=reason):
        convert(function, (X,))
    model = lowbit.convert(
        Function(function).eval(), X, scheme="float32", dynamic=None, fallback="torch", progress=False
    )
    torch.testing.assert_close(model(X), function(X), rtol=1e-3, atol=1e-4)


class GlobalFilter(nn.Module):
    """GFNet (Rao et al. 2021): features times a learned filter in the frequency domain, then an MLP."""

    def __init__(self, width: int = 16, side: int = 6) -> None:
        super().__init__()
        self.side = side
        self.weight = nn.Parameter(0.1 * noise(side, side // 2 + 1, width, 2))
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, count, width = x.shape
        y = fft.rfft2(x.view(batch, self.side, self.side, width), dim=(1, 2), norm="ortho")
        y = fft.irfft2(y * torch.view_as_complex(self.weight), s=(self.side, self.side), dim=(1, 2), norm="ortho")
        return x + self.mlp(y.reshape(batch, count, width))


class FourierOperator(nn.Module):
    """A layer of FNO (Li et al. 2021): complex weights for the lowest frequencies, zeros for the others."""

    def __init__(self, width: int = 6, modes: int = 3) -> None:
        super().__init__()
        self.modes, self.skip = modes, nn.Conv2d(width, width, 1)
        weights = [
            torch.complex(noise(width, width, modes, modes), noise(width, width, modes, modes)) for _ in range(2)
        ]
        self.low, self.high = (nn.Parameter(weight / width) for weight in weights)

    def forward(self, x: Tensor) -> Tensor:
        m, z = self.modes, fft.rfft2(x)
        y = torch.zeros_like(z)
        y[:, :, :m, :m] = torch.einsum("bixy,ioxy->boxy", z[:, :, :m, :m], self.low)
        y[:, :, -m:, :m] = torch.einsum("bixy,ioxy->boxy", z[:, :, -m:, :m], self.high)
        return nn.functional.gelu(fft.irfft2(y, s=x.shape[-2:]) + self.skip(x))


class FourierMixing(nn.Module):
    """A block of FNet (Lee-Thorp et al. 2021): tokens mixed by a transform over sequence and features."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embedding, self.linear = nn.Embedding(50, width), nn.Linear(width, width)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embedding(input_ids)
        return self.linear(nn.functional.layer_norm(x + fft.fftn(x, dim=(1, 2)).real, x.shape[-1:]))


class Rotary(nn.Module):
    """Rotary embeddings as Llama's own code has them: a complex buffer, cut to the sequence."""

    def __init__(self, width: int = 16, longest: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, width)
        turns = torch.outer(torch.arange(longest), 10000 ** (-torch.arange(0, width, 2) / width))
        self.turns = nn.Buffer(torch.polar(torch.ones_like(turns), turns))

    def forward(self, input_ids: Tensor) -> Tensor:
        x, turns = self.embedding(input_ids), self.turns[: input_ids.shape[1]]
        return torch.view_as_real(paired(x) * turns).flatten(2)


class Spectrogram(nn.Module):
    """Whisper's features: the log of the energy in bands, cut 8 below the largest."""

    def __init__(self) -> None:
        super().__init__()
        self.window, self.bank = nn.Buffer(torch.hann_window(40)), nn.Buffer(torch.rand(8, 21))

    def forward(self, x: Tensor) -> Tensor:
        z = torch.stft(x, 40, 16, window=self.window, return_complex=True)
        bands = (self.bank @ z[..., :-1].abs() ** 2).clamp(min=1e-10).log10()
        return (torch.maximum(bands, bands.amax((1, 2), keepdim=True) - 8) + 4) / 4


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[int, int], Tensor], Any]] = {
    "GFNet": (GlobalFilter, lambda batch, _: noise(batch, 36, 16), "auto"),
    "FNO": (FourierOperator, lambda batch, _: noise(batch, 6, 8, 10), "auto"),
    "FNet": (FourierMixing, lambda batch, length: torch.randint(0, 50, (batch, length)), "auto"),
    "rotary embedding": (Rotary, lambda batch, length: torch.randint(0, 50, (batch, length)), "auto"),
    "log-mel": (Spectrogram, lambda batch, length: noise(batch, 40 * length), {"x": {0: "batch", 1: "samples"}}),
}


@pytest.mark.parametrize("name", NETS)
def test_spectral_nets(name: str) -> None:
    """Whole, with all their sizes free; what goes into a logarithm stays float32."""
    torch.manual_seed(0)
    build, inputs, dynamic = NETS[name]
    net = build().eval()
    model = lowbit.convert(net, inputs(2, 8), scheme="float32", dynamic=dynamic, progress=False)
    for batch, length in ((1, 5), (3, 11)):
        x = inputs(batch, length)
        with torch.no_grad():
            expected = net(x)
        torch.testing.assert_close(model(x), expected, rtol=2e-5, atol=2e-5)
    if name == "log-mel":
        quantized = lowbit.convert(net, inputs(2, 8), dynamic=dynamic, progress=False)
        assert not any(row["scheme"] == "int8" for row in quantized.decisions)
        with torch.no_grad():
            torch.testing.assert_close(quantized(x), net(x), rtol=1e-4, atol=1e-4)
