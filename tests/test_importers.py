"""Codes that other programs wrote: the numbers are those of their own formulas, and the codes reach the graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import lowbit
from lowbit.eager.modules import QuantizedEmbedding, QuantizedLinear
from lowbit.errors import FormatError, InputError, UnsupportedError
from lowbit.foreign import blocks, torchao
from lowbit.graph.ir import Weight
from lowbit.graph.weights import is_ternary
from lowbit.transformers import LowbitConfig

Array = npt.NDArray[Any]


def words(codes: Tensor, bits: int) -> Tensor:
    """Rows of codes as 32-bit words, from the lowest bits on, one bit after the other."""
    flat = (codes[..., None].long() >> torch.arange(bits)) & 1
    flat = flat.flatten(1)
    flat = nn.functional.pad(flat, (0, -flat.shape[1] % 32)).unflatten(1, (-1, 32))
    whole = (flat << torch.arange(32)).sum(-1)
    return torch.where(whole >= 2**31, whole - 2**32, whole).int()


def gptq(
    shape: tuple[int, int], group: int, bits: int, *, act_order: bool, seed: int
) -> tuple[dict[str, Tensor], Tensor]:
    """A layer as AutoGPTQ packs it, and its weight: scale[g] * (code - zero[g]), with g = g_idx[k]."""
    torch.manual_seed(seed)
    outputs, inputs = shape
    codes = torch.randint(0, 2**bits, (inputs, outputs))
    zeros = torch.randint(1, 2**bits + 1, (inputs // group, outputs))
    scales = (torch.rand(inputs // group, outputs) / 10 + 0.01).half()
    g_idx = torch.arange(inputs) // group
    g_idx = g_idx[torch.randperm(inputs)] if act_order else g_idx
    parts = {
        "qweight": words(codes.T, bits).T.contiguous(),
        "qzeros": words(zeros - 1, bits),
        "scales": scales,
        "g_idx": g_idx.int(),
    }
    return parts, (scales.float()[g_idx] * (codes - zeros[g_idx])).T


def awq(shape: tuple[int, int], group: int, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """A layer as AutoAWQ packs it."""
    torch.manual_seed(seed)
    outputs, inputs = shape
    codes, zeros = (torch.randint(0, 16, (rows, outputs)) for rows in (inputs, inputs // group))
    scales = (torch.rand(inputs // group, outputs) / 10 + 0.01).half()

    def packed(whole: Tensor) -> Tensor:
        return words(whole.unflatten(1, (-1, 8))[:, :, [0, 2, 4, 6, 1, 3, 5, 7]].flatten(1), 4)

    parts = {"qweight": packed(codes), "qzeros": packed(zeros), "scales": scales}
    return parts, ((codes - zeros.repeat_interleave(group, 0)) * scales.float().repeat_interleave(group, 0)).T


def compressed(
    shape: tuple[int, int], group: int, bits: int, *, affine: bool, seed: int
) -> tuple[dict[str, Tensor], Tensor]:
    """A layer as compressed-tensors packs it, codes and zero points around zero."""
    torch.manual_seed(seed)
    outputs, inputs = shape
    low, groups = -(2 ** (bits - 1)), inputs // group
    codes, zeros = (torch.randint(low, -low, (outputs, columns)) for columns in (inputs, groups))
    zeros = zeros if affine else torch.zeros_like(zeros)
    scales = (torch.rand(outputs, groups) / 10 + 0.01).bfloat16()
    parts = {
        "weight_packed": words(codes - low, bits),
        "weight_scale": scales,
        "weight_shape": torch.tensor([outputs, inputs]),
    }
    if affine:
        parts["weight_zero_point"] = words((zeros - low).T, bits).T.contiguous() if bits < 8 else zeros.to(torch.int8)
    return parts, (codes - zeros.repeat_interleave(group, 1)) * scales.float().repeat_interleave(group, 1)


def check(parts: dict[str, Tensor], expected: Tensor, bits: int, **options: Any) -> QuantizedLinear:
    """The layer's numbers are the formula's, it computes with them, and conversion keeps the codes."""
    net: Any = nn.Sequential(nn.Linear(expected.shape[1], expected.shape[0]))
    bias = net[0].bias.detach()
    taken = lowbit.importers.restore(net, {f"0.{name}": part for name, part in parts.items()}, **options)
    assert set(taken) == {f"0.{name}" for name in parts}
    layer: QuantizedLinear = net[0]
    np.testing.assert_allclose(layer.numbers(), expected, rtol=0 if bits <= 4 else 1e-6, atol=1e-6)
    x = torch.randn(3, expected.shape[1])
    y = x @ expected.T + bias
    with torch.no_grad():
        assert float((net(x) - y).norm() / y.norm()) < 0.02
    return layer


@settings(max_examples=20, deadline=None)
@given(
    shape=st.tuples(st.sampled_from([32, 64, 96]), st.sampled_from([96, 192])),
    group=st.sampled_from([24, 32, 96]),
    bits=st.sampled_from([2, 3, 4, 8]),
    act_order=st.booleans(),
    seed=st.integers(0, 99),
)
def test_gptq(shape: tuple[int, int], group: int, bits: int, act_order: bool, seed: int) -> None:
    parts, expected = gptq(shape, group, bits, act_order=act_order, seed=seed)
    layer = check(parts, expected, bits)
    assert act_order == (layer.order is not None) or group == shape[1]
    stored = layer.stored()
    assert (stored.bits, stored.group_size or shape[1]) == (bits, group)


@settings(max_examples=10, deadline=None)
@given(group=st.sampled_from([32, 64, 128]), seed=st.integers(0, 99))
def test_awq(group: int, seed: int) -> None:
    parts, expected = awq((48, 128), group, seed)
    check(parts, expected, 4, method="awq")
    check(parts, expected, 4)


@settings(max_examples=20, deadline=None)
@given(
    group=st.sampled_from([32, 64, 128]), bits=st.sampled_from([2, 4, 8]), affine=st.booleans(), seed=st.integers(0, 99)
)
def test_compressed_tensors(group: int, bits: int, affine: bool, seed: int) -> None:
    parts, expected = compressed((40, 128), group, bits, affine=affine, seed=seed)
    check(parts, expected, bits)


def bitnet(shape: tuple[int, int], seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """A layer as transformers packs BitNet's, and its codes: blocks of rows, one above the other in a byte."""
    torch.manual_seed(seed)
    outputs, inputs = shape
    codes, rows = torch.randint(-1, 2, shape), -(-outputs // 4)
    padded = torch.cat([codes + 1, torch.zeros(4 * rows - outputs, inputs, dtype=torch.int64)])
    packed = (padded.unflatten(0, (4, rows)) << torch.tensor([0, 2, 4, 6])[:, None, None]).sum(0)
    return {"weight": packed.to(torch.uint8), "weight_scale": torch.rand(1).bfloat16() + 0.1}, codes


@settings(max_examples=10, deadline=None)
@given(outputs=st.integers(1, 70), inputs=st.sampled_from([32, 40, 96]), seed=st.integers(0, 99))
def test_bitnet(outputs: int, inputs: int, seed: int) -> None:
    """Ternary in the layer, in the graph, and in a file."""
    parts, codes = bitnet((outputs, inputs), seed)
    scale = parts["weight_scale"].float()
    for method, expected in (("", codes / scale), ("bitlinear", codes / scale), ("autobitlinear", codes * scale)):
        layer = check(parts, expected, 2, method=method)
        np.testing.assert_array_equal(layer.numbers(), expected)
        stored = layer.stored()
        assert (stored.bits, stored.group_size, is_ternary(stored)) == (2, inputs, True)
        np.testing.assert_array_equal(stored.codes, codes)


def test_writers_of_bitnet_say_the_same() -> None:
    """transformers' own packing, and what its layers compute: but for how inputs are rounded, the same."""
    from transformers.integrations.bitnet import AutoBitLinear, BitLinear, pack_weights

    torch.manual_seed(1)
    codes, scale = torch.randint(-1, 2, (64, 128)), torch.tensor([3.5])
    for method, layer in (
        ("bitlinear", BitLinear(128, 64, bias=False, dtype=torch.float32)),
        ("autobitlinear", AutoBitLinear(128, 64, bias=False)),
    ):
        packed = pack_weights(codes.clone())
        net: Any = nn.Sequential(nn.Linear(128, 64, bias=False))
        lowbit.importers.restore(net, {"0.weight": packed, "0.weight_scale": scale}, method=method)
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            layer.weight.data = packed if method == "bitlinear" else codes.float()
            layer.weight_scale.copy_(scale)
            x = torch.randn(5, 128)
            expected = layer(x)
            assert float((net(x) - expected).norm() / expected.norm()) < 0.02


WRONG_BITNET: dict[str, tuple[dict[str, Any], str]] = {
    "rows": ({"weight": torch.zeros(15, 32, dtype=torch.uint8)}, "is not of a layer"),
    "code": ({"weight": torch.full((16, 32), 0b11, dtype=torch.uint8)}, "a code is 3"),
    "scales": ({"weight_scale": torch.ones(64)}, "a weight_scale of one number"),
    "zero": ({"weight_scale": torch.zeros(1)}, "its scale is 0.0"),
    "nan": ({"weight_scale": torch.full((1,), torch.nan)}, "its scale is nan"),
}


@pytest.mark.parametrize("case", WRONG_BITNET)
def test_tensors_that_are_none_of_bitnet_are_refused(case: str) -> None:
    change, what = WRONG_BITNET[case]
    parts = {**bitnet((64, 32), 0)[0], **change}
    with pytest.raises(InputError, match=rf"0: .*{what}"):
        lowbit.importers.restore(nn.Sequential(nn.Linear(32, 64)), {f"0.{n}": part for n, part in parts.items()})


def test_converted_codes_are_those_of_the_checkpoint() -> None:
    """With groups in the order of the inputs, and in another: then the graph sorts the inputs first."""
    for act_order in (False, True):
        parts, expected = gptq((64, 128), 32, 4, act_order=act_order, seed=3)
        net: Any = nn.Sequential(nn.Linear(128, 64, bias=False)).eval()
        lowbit.importers.restore(net, {f"0.{name}": part for name, part in parts.items()})
        x = torch.randn(5, 128)
        model = lowbit.convert(net, x, progress=False)
        (held,) = (each for each in model.graph.constants.values() if isinstance(each, Weight))
        stored = net[0].stored()
        for part in ("codes", "scales", "zero_points", "offsets"):
            np.testing.assert_array_equal(getattr(held, part), getattr(stored, part))
        assert float((model(x) - x @ expected.T).norm() / (x @ expected.T).norm()) < 0.02


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "missing": ({"qzeros": None}, InputError, "lacks qzeros"),
    "scales": ({"scales": torch.ones(3, 7).half()}, InputError, "are not of a layer"),
    "infinite": ({"scales": torch.full((4, 64), torch.inf).half()}, InputError, "not finite"),
    "words": ({"qweight": torch.zeros(1, 64, dtype=torch.int32)}, InputError, "bits for 128 codes"),
    "floats": ({"qweight": torch.zeros(16, 64)}, InputError, "must be int32"),
    "unequal": ({"g_idx": torch.zeros(128, dtype=torch.int32)}, UnsupportedError, "unlike numbers"),
}


@pytest.mark.parametrize("case", WRONG)
def test_tensors_that_do_not_fit_are_refused(case: str) -> None:
    """By the layer's name, before the module is changed."""
    change, error, what = WRONG[case]
    parts: dict[str, Any] = {**gptq((64, 128), 32, 4, act_order=False, seed=0)[0], **change}
    net = nn.Sequential(nn.Linear(128, 64))
    with pytest.raises(error, match=rf"0: .*{what}"):
        lowbit.importers.restore(net, {f"0.{name}": part for name, part in parts.items() if part is not None})
    assert type(net[0]) is nn.Linear


def test_layers_that_are_not_there_are_refused() -> None:
    parts = gptq((64, 128), 32, 4, act_order=False, seed=0)[0]
    for net, path in ((nn.Sequential(nn.ReLU()), "0"), (nn.Sequential(), "3.up")):
        with pytest.raises(InputError, match=f"no linear layer '{path}'"):
            lowbit.importers.restore(net, {f"{path}.{name}": part for name, part in parts.items()})
    with pytest.raises(InputError, match="none of 1 tensors"):
        lowbit.importers.restore(nn.Linear(2, 2), {"weight": torch.ones(2, 2)})


# ----------------------------------------------------------------------------------------------------------------- GGUF


def block(kind: str, rng: np.random.Generator, rows: int, groups: int) -> tuple[Array, Array]:
    """Random blocks, with scales of both signs and zero where the writer has such, and their numbers."""
    scale = rng.uniform(0.01, 0.1, (rows, groups, 1)).astype(np.float16)
    scale[rng.random(scale.shape) < 0.1] = 0
    if kind == "Q8_0":
        codes = rng.integers(-127, 128, (rows, groups, 32)).astype(np.int8)
        return np.concatenate([scale.view(np.uint8), codes.view(np.uint8)], -1), codes * scale.astype(np.float32)
    data = rng.integers(0, 256, (rows, groups, 16)).astype(np.uint8)
    codes = np.concatenate([data & 15, data >> 4], -1).astype(np.float32)
    if kind == "Q4_0":
        scale *= rng.choice(np.array([-1, 1], np.float16), scale.shape)
        return np.concatenate([scale.view(np.uint8), data], -1), (codes - 8) * scale.astype(np.float32)
    least = rng.uniform(-1, 0, scale.shape).astype(np.float16)
    return np.concatenate([scale.view(np.uint8), least.view(np.uint8), data], -1), codes * scale.astype(
        np.float32
    ) + least.astype(np.float32)


@pytest.mark.parametrize("kind", blocks.TYPES)
@pytest.mark.parametrize("seed", range(3))
def test_blocks(kind: str, seed: int) -> None:
    data, numbers = block(kind, np.random.default_rng(seed), 24, 4)
    weight = blocks.weight(data.reshape(24, -1), kind)
    assert (weight.bits, weight.group_size, weight.scales.dtype) == (8 if kind == "Q8_0" else 4, 32, np.float16)
    np.testing.assert_array_equal(weight.numbers, numbers.reshape(24, -1))
    with pytest.raises(UnsupportedError, match="Q4_0, Q4_1, Q8_0"):
        blocks.weight(data.reshape(24, -1), "Q6_K")


def small(**changes: Any) -> LlamaConfig:
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
    return LlamaConfig(**{**sizes, "vocab_size": 160, "num_key_value_heads": 2, "head_dim": 16, **changes})


def turned(weight: Tensor, heads: int) -> Tensor:
    """The rows as llama.cpp's converter orders them."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_gguf(path: Path, net: LlamaForCausalLM, kind: str, table: str) -> None:
    """A llama file with matrices of one type and a table of another."""
    library = pytest.importorskip("gguf")
    config, writer = net.config, library.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(config.head_dim)
    types = library.GGMLQuantizationType
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for name, tensor in net.state_dict().items():
        place = name.removesuffix(".weight").removeprefix("model.")
        if place == "lm_head" and config.tie_word_embeddings:
            continue
        if place.startswith("layers."):
            _, index, rest = place.split(".", 2)
            stem = NAMES[rest]
            tensor = turned(tensor, heads[stem]) if stem in heads else tensor
            stem = f"blk.{index}.{stem}"
        else:
            stem = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}[place]
        data, of = tensor.numpy(), table if stem in ("token_embd", "output") else kind
        if tensor.dim() == 1:
            writer.add_tensor(f"{stem}.weight", data)
        else:
            writer.add_tensor(f"{stem}.weight", library.quantize(data, types[of]), raw_dtype=types[of])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def with_numbers(net: Any, like: Any) -> Any:
    """The float model, with the numbers that the codes of another stand for."""
    for path, layer in like.named_modules():
        if isinstance(layer, (QuantizedLinear, QuantizedEmbedding)):
            net.get_submodule(path).weight = nn.Parameter(layer.numbers(), requires_grad=False)
    return net


@pytest.mark.parametrize(("kind", "table", "tied"), [("Q4_1", "Q8_0", True), ("Q4_0", "Q4_0", False)])
def test_a_gguf_file_is_a_model(kind: str, table: str, tied: bool, tmp_path: Path) -> None:
    """Its numbers are the file's, its logits near those of the float model with these numbers; both ways to run it."""
    library = pytest.importorskip("gguf")
    torch.manual_seed(0)
    net = LlamaForCausalLM(small(tie_word_embeddings=tied)).eval()
    write_gguf(tmp_path / "net.gguf", net, kind, table)
    model = lowbit.importers.gguf(tmp_path / "net.gguf")
    for path, layer in model.named_modules():
        if isinstance(layer, (QuantizedLinear, QuantizedEmbedding)):
            of = table if path in ("lm_head", "model.embed_tokens") else kind
            rounded = library.quantize(
                net.get_submodule(path).weight.detach().numpy(), library.GGMLQuantizationType[of]
            )
            expected = library.dequantize(rounded, library.GGMLQuantizationType[of])
            np.testing.assert_array_equal(layer.numbers(), expected, err_msg=path)
    ids = torch.randint(0, 160, (2, 7))
    with torch.no_grad():
        y, expected = model(ids).logits, with_numbers(net, model)(ids).logits
    assert float((y - expected).norm() / expected.norm()) < 0.03
    assert not model.model.layers[0].self_attn.q_proj.training
    model.config.use_cache = False
    converted = lowbit.convert(model, {"input_ids": ids}, progress=False)
    held = [each for each in converted.graph.constants.values() if isinstance(each, Weight)]
    codes = {layer.stored().codes.tobytes() for layer in model.modules() if isinstance(layer, QuantizedLinear)}
    assert codes <= {each.codes.tobytes() for each in held}
    np.testing.assert_allclose(converted(input_ids=ids).logits, y, rtol=1e-3, atol=1e-4)


def test_other_files_are_refused(tmp_path: Path) -> None:
    library = pytest.importorskip("gguf")
    (tmp_path / "text.gguf").write_text("no such file")
    for path in (tmp_path / "text.gguf", tmp_path / "none.gguf"):
        with pytest.raises(FormatError, match="is no GGUF file"):
            lowbit.importers.gguf(path)
    for kind, error, what in (
        ("mamba", UnsupportedError, "architecture 'mamba'"),
        ("llama", FormatError, "lacks llama."),
    ):
        writer = library.GGUFWriter(tmp_path / f"{kind}.gguf", kind)
        writer.add_tensor("some", np.zeros(4, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with pytest.raises(error, match=what):
            lowbit.importers.gguf(tmp_path / f"{kind}.gguf")


# ---------------------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("method", ["gptq", "awq", "compressed-tensors", "bitnet"])
def test_a_checkpoint_is_a_model(method: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = small()
    net = LlamaForCausalLM(config).eval()
    tensors = dict(net.state_dict())
    numbers = {}
    for seed, (path, layer) in enumerate(net.model.named_modules(prefix="model")):
        if isinstance(layer, nn.Linear):
            shape = layer.out_features, layer.in_features
            if method == "gptq":
                parts, numbers[path] = gptq(shape, 32, 4, act_order=seed % 2 == 0, seed=seed)
            elif method == "awq":
                parts, numbers[path] = awq(shape, 32, seed)
            elif method == "bitnet":
                parts, codes = bitnet(shape, seed)
                parts["weight_scale"] /= 4
                numbers[path] = codes * parts["weight_scale"].float()
            else:
                parts, numbers[path] = compressed(shape, 32, 4, affine=False, seed=seed)
            del tensors[f"{path}.weight"]
            tensors |= {f"{path}.{name}": part for name, part in parts.items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    told = {"quant_method": method, "bits": 4, "format": "pack-quantized", "linear_class": "autobitlinear"}
    (tmp_path / "config.json").write_text(json.dumps({**config.to_dict(), "quantization_config": told}))
    model = lowbit.importers.checkpoint(tmp_path)
    for path, expected in numbers.items():
        np.testing.assert_allclose(model.get_submodule(path).numbers(), expected, rtol=0, atol=1e-6)
        net.get_submodule(path).weight.data = expected.contiguous()
    ids = torch.randint(0, 160, (2, 7))
    with torch.no_grad():
        y, expected = model(ids).logits, net(ids).logits
    assert float((y - expected).norm() / expected.norm()) < 0.1  # three random blocks amplify 8-bit activations' noise
    model.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(again(ids).logits, y)
    (tmp_path / "config.json").write_text(
        json.dumps({**config.to_dict(), "quantization_config": {"quant_method": "aqlm"}})
    )
    with pytest.raises(UnsupportedError, match="'aqlm'"):
        lowbit.importers.checkpoint(tmp_path)
    for wrong in ({"use_rms_norm": True}, {"quantization_mode": "online"}):
        told = {"quant_method": "bitnet", **wrong}
        (tmp_path / "config.json").write_text(json.dumps({**config.to_dict(), "quantization_config": told}))
        with pytest.raises(UnsupportedError, match="bitnet"):
            lowbit.importers.checkpoint(tmp_path)


@pytest.mark.parametrize("scheme", ["int4-g32", {"*.mlp.*": "int8", "*": "int4-g32"}])
@pytest.mark.parametrize("tied", [True, False])
def test_transformers_round_while_loading(scheme: Any, tied: bool, tmp_path: Path) -> None:
    """The codes are `lowbit.quantize_`'s; saved and loaded, they are the same."""
    torch.manual_seed(0)
    net = LlamaForCausalLM(small(tie_word_embeddings=tied)).eval()
    net.save_pretrained(tmp_path / "float")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "float", quantization_config=LowbitConfig(scheme))
    lowbit.quantize_(net, scheme, progress=False)
    expected = net.state_dict()
    assert model.state_dict().keys() == expected.keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    ids = torch.randint(0, 160, (2, 7))
    with torch.no_grad():
        y = model(ids).logits
        assert torch.equal(y, net(ids).logits)
        model.save_pretrained(tmp_path / "codes")
        assert not any(tensor.dtype == torch.float32 and tensor.numel() > 160 for tensor in saved(tmp_path / "codes"))
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "codes")
        assert torch.equal(again(ids).logits, y)
        assert torch.equal(again.generate(ids, max_new_tokens=3), model.generate(ids, max_new_tokens=3))


def saved(path: Path) -> list[Tensor]:
    return [tensor for file in path.glob("*.safetensors") for tensor in load_file(file).values()]


def test_schemes_by_their_names() -> None:
    with pytest.raises(InputError, match="there is no scheme 'int5'"):
        LowbitConfig("int5")
    with pytest.raises(InputError, match="by their names"):
        LowbitConfig(lowbit.Scheme(name="own"))  # type: ignore[arg-type]  # on purpose
    assert LowbitConfig.from_dict(LowbitConfig("int4-g32").to_dict()).scheme == "int4-g32"


# -------------------------------------------------------------------------------------------------------------- torchao


def ao_config(kind: str) -> Any:
    from torchao import quantization as ao
    from torchao.quantization.granularity import PerAxis, PerGroup

    def few(bits: int, *options: Any) -> Any:
        return ao.IntxWeightOnlyConfig(getattr(torch, f"int{bits}"), *options)

    return {
        "int8": ao.Int8WeightOnlyConfig,
        "int8 in groups": lambda: ao.Int8WeightOnlyConfig(granularity=PerGroup(32)),
        "int4": lambda: few(4, PerGroup(32)),
        "int4 a row": lambda: few(4, PerAxis(0)),
        "int4, affine": lambda: few(4, PerGroup(32), ao.MappingType.ASYMMETRIC),
        "int3": lambda: few(3, PerGroup(64)),
        "int6, affine": lambda: few(6, PerGroup(64), ao.MappingType.ASYMMETRIC),
        "dynamic": lambda: ao.Int8DynamicActivationIntxWeightConfig(
            weight_dtype=torch.int4, weight_granularity=PerGroup(32)
        ),
    }[kind]()


@pytest.mark.parametrize(
    "kind", ["int8", "int8 in groups", "int4", "int4 a row", "int4, affine", "int3", "int6, affine", "dynamic"]
)
def test_torchao(kind: str) -> None:
    """Its own numbers, and its codes in a graph and in a layer; half floats and bfloat16 too."""
    library = pytest.importorskip("torchao.quantization")
    torch.manual_seed(0)
    net: Any = nn.Sequential(nn.Linear(256, 128)).eval()
    library.quantize_(net, ao_config(kind))
    given = net[0].weight
    weight = torchao.weight(given)
    assert weight is not None
    np.testing.assert_allclose(weight.numbers, given.dequantize(), rtol=1e-6 if "affine" in kind else 0, atol=1e-7)
    x = torch.randn(4, 256)
    expected = x @ given.dequantize().T + net[0].bias.detach()
    model = lowbit.convert(net, x, progress=False)
    (held,) = (each for each in model.graph.constants.values() if isinstance(each, Weight))
    np.testing.assert_array_equal(held.codes, weight.codes)
    np.testing.assert_array_equal(held.scales, weight.scales)
    lowbit.quantize_(net, progress=False)
    np.testing.assert_array_equal(net[0].numbers(), weight.numbers)
    with torch.no_grad():
        for y in (net(x), model(x)):
            assert float((y - expected).norm() / expected.norm()) < 0.02
