"""Language models that generate: a decode step and a prompt on lowbit's kernels, beside torch's and torchao's.

    python bench/bench_generate.py [--threads 1] [--rounds 15] [--layers 12] [--width 768] [--prompt 128]

A Llama of random weights (by default of 110 million parameters) with a cache of `prompt` tokens. A step is one call of
the model with one token, as `generate()` makes it: attention, norms and Python's share are in it. tokens/s: steps a
second. prompt: the call that fills the cache. SQNR: of the logits against torch float32's, random weights, so a check
that the same is computed rather than a measure of accuracy. weights: bytes of all linear layers and embeddings.
"""

from __future__ import annotations

import argparse
import copy
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import lowbit
from lowbit import _core
from lowbit.eager.modules import QuantizedLayer
from lowbit.runtime.profile import table
from lowbit.runtime.timing import interleave

sys.path.insert(0, str(Path(__file__).parent))
from peers import Missing, needs, quiet

VOCABULARY = 16000
LEAST = 4.0
"""dB of SQNR: what is below has computed something else. Random weights lose much by four bits, and layer by layer."""


def language_model(layers: int, width: int) -> nn.Module:
    """A Llama with random weights, in eval mode."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=width * 8 // 3 // 128 * 128,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        tie_word_embeddings=False,
    )
    net: nn.Module = LlamaForCausalLM(config)
    return net.eval()


# -------------------------------------------------------------------------------------------------------- contestants


def torch_float32(net: nn.Module, threads: int) -> nn.Module:
    """As it is."""
    return net


def torch_bfloat16(net: nn.Module, threads: int) -> nn.Module:
    """Half the bytes."""
    return copy.deepcopy(net).bfloat16()


def lowbit_scheme(scheme: str) -> Callable[[nn.Module, int], nn.Module]:
    """lowbit's, activations quantized row by row."""

    def make(net: nn.Module, threads: int) -> nn.Module:
        made = copy.deepcopy(net)
        lowbit.quantize_(made, scheme, threads=threads)
        return made

    return make


def torchao_int4(config: str, dtype: torch.dtype) -> Callable[[nn.Module, int], nn.Module]:
    """One of torchao's two kinds of four-bit weights for CPUs, in groups of 128; the head keeps its floats."""

    def make(net: nn.Module, threads: int) -> nn.Module:
        with quiet(), needs("torchao's int4 for CPUs", "torchao.prototype.quantization.int4"):
            from torchao.prototype.quantization import int4
            from torchao.quantization import quantize_

            made = copy.deepcopy(net).to(dtype)
            settings = getattr(int4, config)(group_size=128, set_inductor_config=False)
            try:
                quantize_(made, settings, lambda module, path: isinstance(module, nn.Linear) and path != "lm_head")
            except AssertionError as error:  # the release has no such kernel
                raise Missing(str(error)) from error
        return made

    return make


CONTESTANTS: dict[str, Callable[[nn.Module, int], nn.Module]] = {
    "torch float32": torch_float32,
    "torch bfloat16": torch_bfloat16,
    "torchao int4 g128, bfloat16": torchao_int4("PrototypeInt4WeightOnlyConfig", torch.bfloat16),
    "torchao int4 g128, int8": torchao_int4("Int8DynamicActivationInt4WeightConfig", torch.float32),
    "lowbit int8": lowbit_scheme("int8"),
    "lowbit int4 g128": lowbit_scheme("int4"),
    "lowbit int4 g32": lowbit_scheme("int4-g32"),
}


# ----------------------------------------------------------------------------------------------------------- measuring


class Decoder:
    """A model with a full cache: `step` takes one token and forgets it again, `prompt` fills a cache anew."""

    def __init__(self, net: nn.Module, tokens: Tensor) -> None:
        from transformers import DynamicCache

        self.net: Any = net
        self.tokens = tokens
        self.cache = DynamicCache()
        self._call(tokens[:, :-1], self.cache)

    def _call(self, tokens: Tensor, cache: Any) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = self.net(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        return logits

    def step(self) -> Tensor:
        """The logits after the last token."""
        logits = self._call(self.tokens[:, -1:], self.cache)
        self.cache.crop(-1)
        return logits

    def prompt(self) -> Tensor:
        """The logits after all but the last."""
        from transformers import DynamicCache

        return self._call(self.tokens[:, :-1], DynamicCache())


def sqnr(found: Tensor, expected: Tensor) -> float:
    """dB."""
    error = (found.double() - expected.double()).square().sum()
    return float(10 * torch.log10(expected.double().square().sum() / error.clamp(min=1e-30)))


def weight_bytes(net: nn.Module) -> int:
    """What linear layers and embeddings hold."""
    total = 0
    for module in net.modules():
        if isinstance(module, QuantizedLayer):
            total += sum(part.nbytes for part in module.state_dict().values())
        elif isinstance(module, (nn.Linear, nn.Embedding)):
            weight: Any = module.weight
            parts = [getattr(weight, name, None) for name in ("qdata", "scale_and_zero")]
            known = [part for part in parts if isinstance(part, Tensor)] or [weight]
            total += sum(part.nbytes for part in known)
    return total


def main() -> None:
    """Make, check, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("threads", 1), ("rounds", 15), ("layers", 12), ("width", 768), ("prompt", 128)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    warnings.filterwarnings("ignore", module="torch")
    torch.set_num_threads(given.threads)
    net = language_model(given.layers, given.width)
    tokens = torch.randint(0, VOCABULARY, (1, given.prompt + 1))
    nets, decoders = {}, {}
    for name, make in CONTESTANTS.items():
        try:
            nets[name] = make(net, given.threads)
            decoders[name] = Decoder(nets[name], tokens)
        except Missing as error:
            print(f"without {name}: {error}")
    reference = decoders["torch float32"].step()
    quality = {name: sqnr(decoder.step(), reference) for name, decoder in decoders.items()}
    wrong = [name for name, value in quality.items() if value < LEAST]
    if wrong:
        raise SystemExit(f"computed something else: {', '.join(wrong)}")
    steps = interleave({name: decoder.step for name, decoder in decoders.items()}, rounds=given.rounds, seconds=0.2)
    prompts = interleave({name: decoder.prompt for name, decoder in decoders.items()}, rounds=given.rounds)
    count = sum(parameter.numel() for parameter in net.parameters())
    cpu = _core.cpu()
    print(f"{cpu['model']}, {cpu['default_isa']}, threads: {given.threads}, torch {torch.__version__}")
    print(f"{count / 1e6:.0f} million parameters, a cache of {given.prompt} tokens; lowest and median of rounds\n")
    lines = [("", "step ms", "median", "tokens/s", "prompt ms", "median", "weights MB", "SQNR dB")]
    for name, net_ in nets.items():
        step, prompt = steps[name], prompts[name]
        times = (f"{step.lowest * 1e3:.2f}", f"{step.median * 1e3:.2f}", f"{1 / step.lowest:.0f}")
        rest = (f"{prompt.lowest * 1e3:.1f}", f"{prompt.median * 1e3:.1f}", f"{weight_bytes(net_) / 1e6:.0f}")
        lines.append((name, *times, *rest, f"{quality[name]:.1f}" if net_ is not net else ""))
    print(table(lines, right=range(1, 8)))


if __name__ == "__main__":
    main()
