"""`lowbit.quantize_`: layers swapped in place compute what a converted model computes, and behave as modules do."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import lowbit
from lowbit.compress import set_codes
from lowbit.eager.modules import ROWS, QuantizedEmbedding, QuantizedLinear
from lowbit.errors import InputError, LowbitError, UnsupportedError
from lowbit.graph.ir import Weight
from lowbit.quantization.schemes import SCHEMES

Array = npt.NDArray[Any]
AFFINE = lowbit.Scheme(name="affine", weight_bits=4, granularity="group", group_size=32, symmetric=False)


def mlp(width: int = 256) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Linear(width, 384), nn.ReLU(), nn.Linear(384, 256), nn.ReLU(), nn.Linear(256, 64, bias=False)
    return nn.Sequential(*layers).eval()


def kinds(net: nn.Sequential) -> list[str]:
    return [getattr(layer, "format", "float") for layer in net if not isinstance(layer, nn.ReLU)]


@pytest.fixture(autouse=True)
def _inference() -> Any:
    with torch.no_grad():
        yield


@pytest.mark.parametrize(
    ("scheme", "width", "expected"),
    [
        ("int8", 256, ["int8", "int8", "int8"]),
        ("int4", 256, ["int8", "int4-nibbles", "int8"]),
        ("int4-channel", 256, ["int8", "int4-nibbles", "int8"]),
        ("int3-g32", 256, ["int8", "int3-eighths", "int8"]),
        ("binary-g64", 256, ["int8", "int2-quarters", "int8"]),
        ({"0": "float32", "2": AFFINE}, 37, ["float", "int4-nibbles", "int8"]),
    ],
)
def test_the_bits_of_a_converted_model(scheme: Any, width: int, expected: list[str]) -> None:
    """The swapped module, its copies, what convert makes of it, and what convert makes of the float module."""
    net, x = mlp(width), torch.randn(2, 40, width)
    floats = net(x)
    for size in (0, 32) if isinstance(scheme, str) else ():
        same, asked = copy.deepcopy(net), dataclasses.replace(SCHEMES[scheme], activation_group_size=size)
        lowbit.quantize_(same, asked)
        assert torch.equal(same(x), lowbit.convert(net, x, scheme=asked, progress=False)(x))
    lowbit.quantize_(net, scheme)
    assert kinds(net) == expected
    y = net(x)
    assert float((y - floats).norm() / floats.norm()) < (0.6 if "int2-quarters" in expected else 0.15)
    if "float" not in expected:
        assert torch.equal(y, lowbit.convert(net, x, progress=False)(x))
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), copy.deepcopy(net).bfloat16().float()):
        assert torch.equal(other[2](net[0](x)), net[2](net[0](x)))
    fresh = nn.Sequential(*mlp(width)[:4], nn.Linear(256, 64, bias=False))
    lowbit.quantize_(fresh, scheme)
    fresh(x)
    fresh.load_state_dict(net.state_dict())
    assert torch.equal(fresh(x), y)


def test_a_layer_by_itself() -> None:
    """Any rank, any number of rows, strides, halves; an odd depth; many threads at once."""
    net = nn.Sequential(nn.Linear(33, 70))
    lowbit.quantize_(net, "int4-channel")
    layer = net[0]
    assert isinstance(layer, QuantizedLinear)
    x = torch.randn(2 * ROWS + 6, 33)
    y = layer(x)
    zero = torch.zeros(1, 33)
    assert torch.allclose(layer(zero), layer.bias)
    assert torch.equal(layer(x[5]), y[5])
    assert torch.equal(layer(x.T.contiguous().T), y)
    assert layer(x[:0]).shape == (0, 70)
    assert torch.equal(layer(x.reshape(2, -1, 33)), y.reshape(2, -1, 70))
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        low = x.to(dtype)
        assert torch.equal(layer(low), layer(low.float()).to(dtype))
    assert float((y - nn.functional.linear(x, layer.weight, layer.bias)).norm() / y.norm()) < 0.02
    assert (layer.weight.shape, layer.weight.dtype) == ((70, 33), torch.float32)
    found: list[Tensor] = []
    threads = [threading.Thread(target=lambda: found.append(layer(x))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(each, y) for each in found)
    assert "33, 70, bias=True, int4, group_size=33" in repr(layer)


def test_given_codes_and_shared_layers() -> None:
    """Codes of `set_codes` are kept; a layer in two places is one layer; subclasses and float layers stay."""

    class Own(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    shared, other = nn.Linear(64, 64), nn.Linear(64, 64)
    codes, scale = torch.randint(-8, 8, (64, 64), dtype=torch.int8), torch.rand(64, 2).half() + 0.1
    set_codes(other, codes, scale, format="int4")
    net = nn.ModuleDict({"a": shared, "b": shared, "c": other, "d": Own(64, 64), "e": nn.Linear(64, 8)})
    lowbit.quantize_(net, {"e": "float32", "*": "int8"})
    assert net["a"] is net["b"]
    assert isinstance(net["a"], QuantizedLinear)
    assert torch.equal(net["c"].weight, other.weight)
    assert [type(net[name]) for name in "de"] == [Own, nn.Linear]
    only = mlp()
    lowbit.quantize_(only, "int4-g32", filter_fn=lambda module, path: path == "2")
    assert kinds(only) == ["float", "int4-nibbles", "float"]


EIGHT = torch.zeros(384, 256).to(torch.float8_e4m3fn)
WRONG: dict[str, tuple[Callable[[nn.Sequential], object], type[Exception], str]] = {
    "no module": (lambda net: lowbit.quantize_(cast(Any, "net")), InputError, "takes a torch.nn.Module, not a str"),
    "none": (lambda net: lowbit.quantize_(net[1:2]), InputError, "no layer to quantize"),
    "filter": (lambda net: lowbit.quantize_(net, filter_fn=lambda *_: False), InputError, "of 3 layers"),
    "itself": (lambda net: lowbit.quantize_(net[0]), UnsupportedError, "wrap it"),
    "twice": (lambda net: [lowbit.quantize_(net) for _ in range(2)], InputError, "quantized already: 0, 2, 4"),
    "scheme": (lambda net: lowbit.quantize_(net, "quinary"), InputError, "no scheme 'quinary'"),
    "pattern": (lambda net: lowbit.quantize_(net, {"head": "int8"}), InputError, "no module or operation matches"),
    "nan": (lambda net: (net[0].weight[0, 0].fill_(torch.nan), lowbit.quantize_(net)), UnsupportedError, "0: .*NaN"),
    "static": (
        lambda net: lowbit.quantize_(net, lowbit.Scheme(name="s", activations="static")),
        UnsupportedError,
        "0: static activations need calibration data.*; 2: static",
    ),
    "method": (
        lambda net: lowbit.quantize_(net, lowbit.Scheme(name="s", method="gptq")),
        UnsupportedError,
        "0: method 'gptq' needs calibration data.*; 2: method",
    ),
    "no size yet": (
        lambda net: lowbit.quantize_(nn.Sequential(nn.LazyLinear(4))),
        UnsupportedError,
        "0: .*no size yet",
    ),
    "a hook's weight": (
        lambda net: (prune.l1_unstructured(net[2], "weight", 0.5), lowbit.quantize_(net)),
        UnsupportedError,
        "2: its weight is no parameter",
    ),
    "layout": (
        lambda net: (
            setattr(net[0], "weight", nn.Parameter(net[0].weight.detach().to_sparse())),
            lowbit.quantize_(net),
        ),
        UnsupportedError,
        "0: its weight is a Parameter of layout torch.sparse_coo",
    ),
    "no floats": (
        lambda net: (setattr(net[0], "weight", nn.Parameter(EIGHT, requires_grad=False)), lowbit.quantize_(net)),
        UnsupportedError,
        "0: its weight is torch.float8_e4m3fn on cpu",
    ),
    "beyond float32": (
        lambda net: (net.double()[2].bias.fill_(1e300), lowbit.quantize_(net)),
        UnsupportedError,
        "2: .*what float32 cannot hold",
    ),
    "beyond the kernels": (
        lambda net: (net[2].weight.mul_(1e30), lowbit.quantize_(net)),
        UnsupportedError,
        "2: .*1e.27",
    ),
    "device": (
        lambda net: lowbit.quantize_(net.to("meta")),
        UnsupportedError,
        "0: .*meta.*; 2: .*meta, must be float16",
    ),
    "shape": (lambda net: (lowbit.quantize_(net), net(torch.zeros(2, 100))), InputError, r"floats \[..., 256\]"),
    "integers": (lambda net: (lowbit.quantize_(net), net(torch.zeros(256).int())), InputError, "is torch.int32"),
    "tie": (
        lambda net: (lowbit.quantize_(net), setattr(net[0], "weight", nn.Parameter(torch.zeros(1)))),
        InputError,
        "tie weights",
    ),
    "move": (lambda net: (lowbit.quantize_(net), net.to("meta")), UnsupportedError, "on the CPU only"),
}


@pytest.mark.parametrize("case", WRONG)
def test_refused(case: str) -> None:
    act, error, what = WRONG[case]
    assert issubclass(error, LowbitError)
    with pytest.raises(error, match=what):
        act(mlp())


def test_all_problems_are_told_before_any_layer_is_swapped() -> None:
    """Of all layers, by name; sums that could pass 32 bits, too."""
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(70_000, 2, bias=False), nn.Linear(2, 2), nn.LazyLinear(3))
    net[1].weight.fill_(1.0)
    net[2].bias[0] = torch.inf
    before = list(net)
    with pytest.raises(UnsupportedError, match=r"1: .*32-bit sum.*2: .*infinity.*3: .*no size yet"):
        lowbit.quantize_(net, "int8")
    assert list(net) == before
    net[1].weight[:, ::2] = -0.1  # its sums stay within
    front = net[:2]
    lowbit.quantize_(front, "int8")
    assert [type(layer) for layer in front] == [QuantizedLinear, QuantizedLinear]


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from([0, 1, 2, 3, 16, 40]), min_size=2, max_size=5),
    st.sampled_from(["int8", "int4", "int4-channel", "int4-g32", AFFINE]),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
    st.booleans(),
)
def test_layers_of_any_size_and_type(widths: list[int], scheme: Any, dtype: torch.dtype, table: bool) -> None:
    """Zero, too: such have nothing to quantize, and stay."""
    torch.manual_seed(0)
    with torch.no_grad():
        layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
        net = nn.Sequential(nn.Embedding(5, widths[0]) if table else nn.Identity(), *layers).to(dtype)
        x = torch.randint(0, 5, (3,)) if table else torch.randn(3, widths[0], dtype=dtype)
        expected = net(x)
        scheme = {"*": scheme, "0": "float32"} if scheme == "int8" else scheme
        if any(layer.weight.numel() for layer in layers):
            lowbit.quantize_(net, scheme)
            for old, new in zip(layers, list(net)[1:], strict=True):
                assert isinstance(new, QuantizedLinear) == (0 not in old.weight.shape)
        y = net(x)
        assert (y.shape, y.dtype) == (expected.shape, expected.dtype)
        assert y.numel() == 0 or float((y - expected).abs().max()) < 0.25 * float(expected.abs().max()) + 0.1


def test_hooks_and_parametrizations() -> None:
    """Hooks stay with the layer and can be taken off; a parametrized weight is read; a forward of its own stays."""
    net = mlp()
    x = torch.randn(2, 256)
    net[2] = parametrizations.weight_norm(net[2])
    seen: list[nn.Module] = []
    first = net[0].register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    last = net[2].register_forward_hook(lambda module, args, kwargs, y: seen.append(module) or y + 1, with_kwargs=True)
    cast(Any, net[4]).forward = lambda x: x[:, :3]
    expected = net(x)
    lowbit.quantize_(net, "int8")
    assert [type(net[i]) for i in (0, 2, 4)] == [QuantizedLinear, QuantizedLinear, nn.Linear]
    assert float((net(x) - expected).norm() / expected.norm()) < 0.02
    assert seen[-1] is net[2]
    first.remove()
    last.remove()
    assert torch.equal(net[0](x), net[0].forward(x))
    assert len(seen) == 2


def test_a_table_and_a_head_of_the_same_codes_share_them() -> None:
    """As an imported model has them, each with its own; no note says that either's are lost."""
    rng = np.random.default_rng(0)
    weight = Weight(
        codes=rng.integers(-127, 128, (300, 96)).astype(np.int8),
        scales=rng.uniform(0.01, 0.1, (300, 3)).astype(np.float16),
        group_size=32,
    )
    net = nn.Sequential(QuantizedEmbedding(weight), nn.LayerNorm(96), QuantizedLinear(weight)).eval()
    tokens = torch.randint(0, 300, (2, 7))
    model = lowbit.convert(net, tokens, progress=False)
    assert not any("not kept" in note for note in model.notes)
    (held,) = (constant for constant in model.graph.constants.values() if isinstance(constant, Weight))
    assert np.array_equal(held.codes, weight.codes)
    assert torch.equal(model(tokens).argmax(-1), net(tokens).argmax(-1))


def test_weights_that_half_floats_cannot_scale() -> None:
    """They keep eight bits, in a converted model as well."""
    for factor in (1e8, 1e-4):
        net, x = mlp(), torch.randn(3, 256)
        net[2].weight.mul_(factor)
        expected = net(x)
        model = lowbit.convert(net, x, scheme="int4-g32", progress=False)
        lowbit.quantize_(net, "int4-g32")
        assert kinds(net) == ["int8", "int8", "int8"]
        assert torch.equal(net(x), model(x))
        assert float((net(x) - expected).norm() / expected.norm()) < 0.02
        assert any("half-float scales" in decision["reason"] for decision in model.decisions)


def test_progress_is_shown_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    lowbit.quantize_(mlp())
    assert capfd.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    lowbit.quantize_(mlp(), progress=False)
    assert "quantize" not in capfd.readouterr().err
    lowbit.quantize_(mlp(), progress=True)
    assert "quantize" in capfd.readouterr().err


def test_groups_and_ends_as_in_convert() -> None:
    """The largest group that divides a depth, else eight bits; an embedding spares the first layer."""
    net = nn.Sequential(nn.Linear(96, 96), nn.Linear(96, 520), nn.Linear(520, 37), nn.Linear(37, 64), nn.Linear(64, 2))
    lowbit.quantize_(net)
    assert [tuple(layer.scale.shape) for layer in net] == [(96,), (520, 1), (37, 5), (64,), (2,)]
    net = nn.Sequential(nn.Embedding(9, 64), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 2))
    lowbit.quantize_(net)
    assert [layer.format for layer in net] == ["int4-nibbles", "int4-nibbles", "int4-nibbles", "int8"]


@pytest.mark.parametrize(("inputs", "outputs"), [(10, 0), (0, 5), (0, 0)])
def test_layers_without_weights_stay(inputs: int, outputs: int) -> None:
    """They answer as before, alone as beside others."""
    for net in (
        nn.Sequential(nn.Linear(inputs, outputs)),
        nn.Sequential(nn.Linear(inputs, outputs), nn.Linear(outputs, 4)),
    ):
        lowbit.quantize_(net, "int8")
        assert type(net[0]) is nn.Linear
        assert net(torch.ones(3, inputs)).shape == (3, 4 if len(net) > 1 else outputs)


def test_an_embedding() -> None:
    """Rows of the numbers that its codes stand for, in the table's dtype; indices are checked."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(1000, 96).bfloat16())
    with pytest.raises(InputError, match="none was chosen"):
        lowbit.quantize_(net, "int8")
    lowbit.quantize_(net, AFFINE)
    for indices in (torch.randint(0, 1000, (3, 7)), torch.tensor(5, dtype=torch.int32), torch.empty(0, 2).long()):
        y = net(indices)
        assert y.dtype == torch.bfloat16
        assert torch.equal(y, net[0].numbers()[indices.long()].bfloat16())
        assert torch.equal(copy.deepcopy(net).float()(indices), net[0].numbers()[indices.long()])
    for wrong in (torch.tensor([1000]), torch.tensor([-1]), torch.tensor([0.5])):
        with pytest.raises(InputError, match=r"indices must|index"):
            net(wrong)
    assert "1000, 96, int4, group_size=32, affine" in repr(net[0])
    ids = torch.randint(0, 1000, (2, 5))
    assert torch.equal(lowbit.convert(net.float(), ids, progress=False)(ids), net(ids))


def test_large_embeddings_have_eight_bits() -> None:
    """With "int8", and where no group fits; as `convert` gives them."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(3000, 90))
    ids = torch.randint(0, 3000, (3, 7))
    converted = lowbit.convert(net, ids, progress=False)(ids)
    for scheme in ("int8", "int4"):
        swapped = copy.deepcopy(net)
        lowbit.quantize_(swapped, scheme)
        assert "3000, 90, int8" in repr(swapped[0])
        assert torch.equal(swapped(ids), swapped[0].numbers()[ids])
        assert torch.equal(swapped(ids), converted)
        again = lowbit.convert(swapped, ids, progress=False)
        assert [row["scheme"] for row in again.decisions if row["op"] == "take"] == ["int8"]
        assert torch.equal(again(ids), converted)


def test_gradients_are_refused() -> None:
    net = mlp()
    lowbit.quantize_(net)
    x = torch.randn(1, 256, requires_grad=True)
    assert not net(x).requires_grad
    with torch.enable_grad(), pytest.raises(UnsupportedError, match=r"call the model under torch.no_grad\(\)"):
        net(x)


def test_weights_that_others_read() -> None:
    """torch's fast path for encoders does not pass the layers by, and would compute the same if it did."""
    torch.manual_seed(0)
    net = nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 128, batch_first=True), 2).eval()
    x, mask = torch.randn(3, 5, 64), torch.arange(5) >= torch.tensor([[5], [3], [4]])
    expected = net(x, src_key_padding_mask=mask)[~mask]
    lowbit.quantize_(net, "int8")
    y = net(x, src_key_padding_mask=mask)[~mask]
    assert net.layers[1].linear2._session is not None
    assert 0 < float((y - expected).norm() / expected.norm()) < 0.02


# ------------------------------------------------------------------------------------------------- transformers


def test_weights_with_outputs_last() -> None:
    """GPT-2's."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=50, n_embd=64, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=1)
    net, given = transformers.GPT2LMHeadModel(config).eval(), torch.randint(0, 50, (1, 9))
    expected = net(given).logits
    lowbit.quantize_(net, "int8")
    assert sum(isinstance(module, QuantizedLinear) for module in net.modules()) == 2 * 4 + 1
    assert float((net(given).logits - expected).norm() / expected.norm()) < 0.02


def grouped(layer: nn.Module) -> tuple[Array, Array]:
    """The whole numbers [N, G, size] in a layer's state, and the scales [N, G] that they are multiplied with."""
    codes, scale = layer.state_dict()["codes"].numpy(), layer.state_dict()["scale"].float().numpy()
    if scale.ndim == 1:
        return codes[:, None].astype(np.float64), scale[:, None]
    whole = np.empty((codes.shape[0], 2 * codes.shape[1]))
    whole[:, 0::2], whole[:, 1::2] = codes % 16, codes // 16
    return whole.reshape(*scale.shape, -1) - 8, scale


class InNumPy(nn.Module):
    """A linear layer without bias as docs/numerics.md has it; a sum in float64, then in float32, is as one fused."""

    def __init__(self, layer: QuantizedLinear) -> None:
        super().__init__()
        assert layer.bias is None
        self.whole, self.scale = grouped(layer)
        self.size = layer.activation_group_size
        assert self.size == (0 if layer.format == "int8" else self.whole.shape[2])

    def forward(self, x: Tensor) -> Tensor:
        """A row's range, with 0 in it, has 256 codes; each group of one 255, around 0, beside weights in groups."""
        rows = x.numpy().reshape(-1, x.shape[-1])
        if self.size:
            return torch.from_numpy(self.of_groups(rows)).reshape(*x.shape[:-1], -1)
        low, high = np.minimum(rows.min(-1, keepdims=True), 0), np.maximum(rows.max(-1, keepdims=True), 0)
        step = (high - low) / np.float32(255)
        inverse = np.float32(1) / step
        zero = np.rint(-low * inverse)
        codes = np.clip(np.rint(rows * inverse) + zero, 0, 255).astype(np.float64)
        t = ((codes - zero) @ self.whole[:, 0].T).astype(np.float32) * self.scale[:, 0]
        return torch.from_numpy(t * step).reshape(*x.shape[:-1], -1)

    def of_groups(self, rows: Array) -> Array:
        """Sums of groups, one after the other."""
        t = np.zeros((len(rows), len(self.whole)), np.float32)
        for g, part in enumerate(np.split(rows, self.scale.shape[1], axis=1)):
            step = np.abs(part).max(1, keepdims=True) / np.float32(127)
            codes = np.rint(part * (np.float32(1) / step)).astype(np.float64)
            sums = (codes @ self.whole[:, g].T).astype(np.float32) * step
            t = (sums * self.scale[:, g].astype(np.float64) + t).astype(np.float32)
        return t


@pytest.mark.parametrize("scheme", ["int4", {"*down_proj": "int4-g32", "*embed*": "float32", "*": "int4-g64"}])
def test_a_language_model_generates_what_numpy_generates(scheme: Any) -> None:
    """Greedy tokens of a random Llama: equal, or apart only where two logits are nearer than 1e-3."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=500, hidden_size=256, intermediate_size=384, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=scheme == "int4",
        initializer_range=0.2,
    )  # fmt: skip
    net = transformers.LlamaForCausalLM(config).eval()
    lowbit.quantize_(net, scheme)
    layers = {path: module for path, module in net.named_modules() if isinstance(module, QuantizedLinear)}
    assert len(layers) == 3 * 7 + 1
    assert layers["lm_head"].format == "int8"
    assert sum(layer.format == "int4-nibbles" for layer in layers.values()) == 21, "the head keeps eight"
    given = torch.randint(0, 500, (2, 9))
    options = {"max_new_tokens": 24, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    ours = net.generate(given, **options)
    for path, layer in layers.items():
        net.set_submodule(path, InNumPy(layer))
    table = net.model.embed_tokens
    if scheme == "int4":
        assert isinstance(table, QuantizedEmbedding)
        whole, scale = grouped(table)
        rows = (whole * scale[..., None]).reshape(len(whole), -1)
        net.model.embed_tokens = nn.Embedding.from_pretrained(torch.from_numpy(rows.astype(np.float32)))
    reference = net.generate(given, **options)
    same = (ours.sequences == reference.sequences).all(0)
    assert len(set(reference.sequences[0, 9:].tolist())) > 3, "the text says something"
    if not same.all():
        first = int(torch.argmin(same.int())) - 9
        for row in torch.nonzero(ours.sequences[:, 9 + first] != reference.sequences[:, 9 + first])[:, 0]:
            best = reference.logits[first][row].topk(2).values
            assert float(best[0] - best[1]) < 1e-3
    assert torch.allclose(ours.logits[0], reference.logits[0], atol=1e-3)


@pytest.mark.parametrize("given", ["text", None, torch.eye(64).to_sparse()], ids=["text", "none", "sparse"])
def test_inputs_that_are_no_dense_tensors(given: Any) -> None:
    net = nn.Sequential(nn.Linear(64, 64))
    lowbit.quantize_(net, "int8")
    with torch.no_grad(), pytest.raises(InputError, match="dense tensor"):
        net(given)
