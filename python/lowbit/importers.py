"""Models whose weights other programs quantized, with their codes, none of them rounded anew.

    model = lowbit.importers.gguf("smollm2.Q4_1.gguf")            # llama.cpp's files: Q4_0, Q4_1, Q8_0
    model = lowbit.importers.checkpoint("directory")              # safetensors: GPTQ, AWQ, compressed-tensors, BitNet
    lowbit.importers.restore(net, tensors)                        # such tensors into any module with linear layers

What comes out is a torch module whose layers run on codes, as after `lowbit.quantize_`: `generate()` works, and
`lowbit.convert` takes the codes on. torchao's tensors need no importer: `lowbit.convert` and `lowbit.quantize_` read
them where they are. The first two need transformers, and `gguf` the package of that name.
"""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .eager.modules import QuantizedEmbedding, QuantizedLayer, QuantizedLinear
from .errors import FormatError, InputError, UnsupportedError
from .foreign import blocks
from .foreign.layers import SUFFIXES, read
from .graph.ir import Array, Weight
from .graph.ir import replace as replaced

# ---------------------------------------------------------------------------------------------------------- safetensors


def restore(net: nn.Module, tensors: Mapping[str, Tensor], *, method: str = "", plus_one: bool = True) -> list[str]:
    """Put layers on codes in the place of linear layers whose quantized tensors are given.

    Args:
        net: A module; what has `in_features` and `out_features` at a tensor's path is replaced.
        tensors: A checkpoint's, by name: `<path>.qweight`, `.qzeros`, `.scales`, `.g_idx` (GPTQ, AWQ), or
            `<path>.weight_packed`, `.weight_scale`, `.weight_shape`, `.weight_zero_point`, `.weight_g_idx`
            (compressed-tensors, and int8 `.weight` beside `.weight_scale`), or `.weight` of uint8 beside a
            `.weight_scale` of one number (BitNet, as transformers packs it). `<path>.bias` is the layer's bias, where
            it is given. A module's own `state_dict()` will do. Others are left alone.
        method: "gptq" or "awq", by default what the shapes say; of BitNet "bitlinear", whose scale divides, as by
            default, or "autobitlinear", whose scale multiplies.
        plus_one: Whether GPTQ's zero points are stored one less than they are ("gptq_v2" stores them as they are).

    Returns:
        The names of the tensors that were taken.

    Raises:
        InputError: No such tensors, or such as do not fit each other or the module.
        UnsupportedError: Codes that lowbit has no form for.

    Examples:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(32, 8, bias=False))
        >>> codes = torch.full((8, 4), 0x76543210, dtype=torch.int32)  # eight codes a word: -8 .. -1
        >>> parts = {"0.weight_packed": codes, "0.weight_scale": torch.full((8, 1), 0.5)}
        >>> lowbit.importers.restore(net, parts)
        ['0.weight_packed', '0.weight_scale']
        >>> net[0].numbers()[0, :4]
        tensor([-4.0000, -3.5000, -3.0000, -2.5000])
    """
    found = _by_layer(tensors)
    if not found:
        raise InputError(f"none of {len(tensors)} tensors is a quantized layer's ({', '.join(SUFFIXES)})")
    made = {
        path: _restored(net, path, parts, tensors.get(f"{path}.bias"), method, plus_one)
        for path, parts in found.items()
    }
    for path, layer in made.items():
        parent, _, name = path.rpartition(".")
        setattr(net.get_submodule(parent), name, layer.train(net.training))
    taken = [f"{path}.{part}" for path, parts in found.items() for part in parts]
    return taken + [f"{path}.bias" for path in found if f"{path}.bias" in tensors]


def _by_layer(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors of each quantized layer, by its path."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        path, _, part = name.rpartition(".")
        if part in SUFFIXES and path:
            found.setdefault(path, {})[part] = tensor
    for path, parts in found.items():
        whole = tensors.get(f"{path}.weight")
        if "weight_scale" in parts and "weight_packed" not in parts and whole is not None:
            parts["weight"] = whole
    return {path: parts for path, parts in found.items() if {"qweight", "weight_packed", "weight"} & parts.keys()}


def _restored(
    net: nn.Module, path: str, parts: Mapping[str, Tensor], bias: Tensor | None, method: str, plus_one: bool
) -> QuantizedLinear:
    try:
        old: Any = net.get_submodule(path)
        shape = int(old.out_features), int(old.in_features)
    except (AttributeError, TypeError):
        raise InputError(f"{type(net).__name__} has no linear layer {path!r}, which the tensors are for") from None
    try:
        layer = read(parts, shape, method=method, plus_one=plus_one)
    except (InputError, UnsupportedError) as error:
        raise type(error)(f"{path}: {error}") from None
    if layer.weight.shape != shape:
        raise InputError(
            f"{path}: the tensors are of a layer {list(layer.weight.shape)}, the module's is {list(shape)}"
        )
    order = None if layer.order is None else torch.from_numpy(layer.order)
    held = getattr(old, "bias", None) if bias is None else bias
    return QuantizedLinear(layer.weight, held, order=order)


def checkpoint(path: str | os.PathLike[str]) -> Any:
    """A language model of transformers from a directory with a quantized checkpoint in safetensors.

    Args:
        path: The directory: config.json, whose quantization_config names GPTQ, AWQ, compressed-tensors or BitNet, and
            its `.safetensors` files.

    Returns:
        The model, in float32, its quantized layers on their codes.

    Raises:
        FormatError: There is no such directory, or it holds no such checkpoint.
        InputError, UnsupportedError: As `restore`, and for other methods and options.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM

    files = sorted(Path(path).glob("*.safetensors"))
    try:
        told = json.loads(Path(path, "config.json").read_text()).get("quantization_config") or {}
        tensors = {name: tensor for file in files for name, tensor in load_file(file).items()}
    except (OSError, ValueError, SafetensorError) as error:
        raise FormatError(f"{path} is no checkpoint: {error}") from None
    options = _options(told)
    config = AutoConfig.from_pretrained(path)
    del config.quantization_config
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config)
    taken = set(restore(skeleton, tensors, **options))
    layers = {name: part for name, part in skeleton.named_modules() if isinstance(part, QuantizedLayer)}
    return _built(config, layers, {name: tensor for name, tensor in tensors.items() if name not in taken})


def _options(told: Mapping[str, Any]) -> dict[str, Any]:
    """What a quantization_config says to `restore`. Raises UnsupportedError."""
    method = told.get("quant_method")
    if method == "gptq":
        return {"method": "gptq", "plus_one": told.get("checkpoint_format", "gptq") != "gptq_v2"}
    if method == "awq":
        version = str(told.get("version", "gemm")).lower()
        if version != "gemm" or told.get("bits", told.get("w_bit", 4)) != 4:
            raise UnsupportedError(f"AWQ of version {version}; the one that lowbit reads is gemm with four bits")
        return {"method": "awq"}
    if method == "compressed-tensors" and told.get("format") in ("pack-quantized", "int-quantized", "naive-quantized"):
        return {}
    if method == "bitnet" and not told.get("use_rms_norm") and told.get("quantization_mode", "offline") == "offline":
        return {"method": told.get("linear_class", "bitlinear")}
    raise UnsupportedError(
        f"a checkpoint quantized by {method!r}, format {told.get('format')!r}; those that lowbit reads are gptq, awq, "
        "compressed-tensors (pack-quantized, int-quantized) and bitnet (offline, without norms of its own)"
    )


def _built(config: Any, layers: Mapping[str, QuantizedLayer], tensors: Mapping[str, Tensor]) -> Any:
    """A transformers model with these layers, and these tensors for all else."""
    from transformers import AutoModelForCausalLM

    from .transformers import LowbitConfig

    described = LowbitConfig("int4", layers={path: layer.description() for path, layer in layers.items()})
    config.quantization_config = described.to_dict()
    state = dict(tensors)
    for path, layer in layers.items():
        state |= {f"{path}.{name}": tensor for name, tensor in layer.state_dict().items()}
    kind: Any = AutoModelForCausalLM._model_mapping[type(config)]
    model = kind.from_pretrained(None, config=config, state_dict=state, dtype=torch.float32)
    return model.eval()


# ----------------------------------------------------------------------------------------------------------------- GGUF


@dataclass(frozen=True, kw_only=True)
class _Architecture:
    """How a model of transformers is called, and what its tensors are called in a file.

    turned: those whose rows of a head ggml keeps in another order, for its rotary embedding.
    """

    config: str
    turned: bool


_ARCHITECTURES = {
    "llama": _Architecture(config="LlamaConfig", turned=True),
    "qwen2": _Architecture(config="Qwen2Config", turned=False),
}
_TENSORS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LEFT_OUT = ("rope_freqs",)
"""Tensors that follow from the configuration."""


def gguf(path: str | os.PathLike[str]) -> Any:
    """A language model of transformers from a GGUF file of llama.cpp.

    Args:
        path: The file: of the architecture llama (Llama, Mistral, SmolLM) or qwen2. Codes of matrices in Q4_0, Q4_1
            and Q8_0 are kept; all others become float32 numbers, and a warning says how many.

    Returns:
        The model, in float32, quantized layers and tables on their codes. Its tokenizer is transformers'
        `AutoTokenizer.from_pretrained(directory, gguf_file=name)`.

    Raises:
        FormatError: The file is none, or does not hold what its architecture needs.
        UnsupportedError: Other architectures.
    """
    reader = _opened(path)
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("tokenizer.")}
    config, turned = _config(fields, {tensor.name: tensor for tensor in reader.tensors})
    layers: dict[str, QuantizedLayer] = {}
    state: dict[str, Tensor] = {}
    biases = {t.name: t for t in reader.tensors if t.name.endswith(".bias")}
    others = Counter(kind for t in reader.tensors if not _is_known(kind := t.tensor_type.name))
    if others:
        told = ", ".join(f"{count} of type {kind}" for kind, count in others.items())
        note = f"{path}: {told} are read as float32 numbers; codes are kept of {', '.join(blocks.TYPES)}"
        warnings.warn(note, stacklevel=2)
    for tensor in reader.tensors:
        stem, _, part = tensor.name.rpartition(".")
        if stem in _LEFT_OUT:
            continue
        name, heads = _name(stem), _heads(stem, config) if turned else 0
        order = _turned(int(tensor.shape[-1]), heads) if heads else None
        if tensor.tensor_type.name not in blocks.TYPES:
            if part == "weight" or name not in layers:
                state[f"{name}.{part}"] = _floats(tensor, order)
            continue
        weight = _rows(blocks.weight(tensor.data, tensor.tensor_type.name), order)
        if name == "model.embed_tokens":
            layers[name] = QuantizedEmbedding(weight)
            if "output.weight" not in {each.name for each in reader.tensors}:
                layers["lm_head"] = QuantizedLinear(weight)
        else:
            bias = biases.get(f"{stem}.bias")
            layers[name] = QuantizedLinear(weight, None if bias is None else _floats(bias, order))
    state = {name: tensor for name, tensor in state.items() if name.rpartition(".")[0] not in layers}
    return _built(config, layers, state)


def _opened(path: str | os.PathLike[str]) -> Any:
    try:
        from gguf import GGUFReader
    except ImportError:
        raise UnsupportedError("reading GGUF files needs the package gguf: pip install gguf") from None
    try:
        return GGUFReader(Path(path))
    except (OSError, ValueError, IndexError, KeyError, OverflowError) as error:
        raise FormatError(f"{path} is no GGUF file: {error}") from None


def _config(fields: Mapping[str, Any], tensors: Mapping[str, Any]) -> tuple[Any, bool]:
    """transformers' configuration, and whether rows of heads are turned."""
    import transformers

    kind = fields.get("general.architecture")
    if kind not in _ARCHITECTURES:
        raise UnsupportedError(
            f"GGUF files of architecture {kind!r}; those that lowbit reads are {', '.join(_ARCHITECTURES)}"
        )
    needed = ("block_count", "embedding_length", "feed_forward_length", "attention.head_count")
    missing = [name for name in (f"{kind}.{each}" for each in needed) if name not in fields]
    missing += [name for name in ("token_embd.weight", "output_norm.weight") if name not in tensors]
    if missing:
        raise FormatError(f"the GGUF file lacks {', '.join(missing)}")

    def field(name: str, default: Any = None) -> Any:
        return fields.get(f"{kind}.{name}", default)

    unsupported = [name for name in ("rope.scaling.type", "expert_count") if field(name) not in (None, 0, "none")]
    if unsupported:
        raise UnsupportedError(f"GGUF files with {', '.join(f'{kind}.{name}' for name in unsupported)}")
    heads = field("attention.head_count")
    vocabulary = int(tensors["token_embd.weight"].shape[-1])
    config = getattr(transformers, _ARCHITECTURES[kind].config)(
        vocab_size=vocabulary,
        hidden_size=field("embedding_length"),
        intermediate_size=field("feed_forward_length"),
        num_hidden_layers=field("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=field("attention.head_count_kv", heads),
        head_dim=field("attention.key_length", field("embedding_length") // heads),
        max_position_embeddings=field("context_length", 2048),
        rms_norm_eps=field("attention.layer_norm_rms_epsilon", 1e-6),
        rope_parameters={"rope_type": "default", "rope_theta": float(field("rope.freq_base", 10000.0))},
        tie_word_embeddings="output.weight" not in tensors,
        architectures=[_ARCHITECTURES[kind].config.replace("Config", "ForCausalLM")],
    )
    return config, _ARCHITECTURES[kind].turned


def _is_known(kind: str) -> bool:
    return kind in blocks.TYPES or kind in ("F32", "F16", "BF16")


def _name(stem: str) -> str:
    """`blk.3.attn_q` -> `model.layers.3.self_attn.q_proj`. Raises UnsupportedError."""
    *block, last = stem.split(".")
    if last not in _TENSORS or (block and (len(block) != 2 or block[0] != "blk")):
        raise UnsupportedError(f"a tensor {stem!r}, which the architecture has no place for")
    return f"model.layers.{block[1]}.{_TENSORS[last]}" if block else _TENSORS[last]


def _heads(stem: str, config: Any) -> int:
    """How many heads a tensor has whose rows are turned; 0: they are not."""
    last = stem.rpartition(".")[2]
    heads: dict[str, int] = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    return heads.get(last, 0)


def _turned(rows: int, heads: int) -> Array:
    """Which row of ggml's each of transformers' is: pairs lie side by side there, half a head apart here."""
    order: Array = np.arange(rows).reshape(heads, -1, 2).transpose(0, 2, 1).reshape(-1)
    return order


def _rows(weight: Weight, order: Array | None) -> Weight:
    """The weight with its rows in that order."""
    if order is None:
        return weight
    parts = ("codes", "scales", "zero_points", "offsets")
    held = {name: part[order] for name in parts if (part := getattr(weight, name)) is not None}
    return replaced(weight, **held)


def _floats(tensor: Any, order: Array | None) -> Tensor:
    """A tensor of floats, as float32."""
    from gguf import dequantize

    numbers = np.array(dequantize(tensor.data, tensor.tensor_type), np.float32)
    return torch.from_numpy(numbers if order is None else numbers[order])
