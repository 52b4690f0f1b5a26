"""Models of transformers: language models with caches of their own, and loading with layers on codes.

    lm = lowbit.transformers.causal_lm(net, scheme="int4-g32")      # one graph for prompts and steps
    lm.generate(**tokenizer("Hello", return_tensors="pt"))          # transformers' own generate
    lm.save("chat.lowbit"); lowbit.load("chat.lowbit").generate([[1, 2, 3]])    # runs without torch

    config = lowbit.transformers.LowbitConfig("int4-g32")           # rounded while it is read
    model = AutoModelForCausalLM.from_pretrained(directory, quantization_config=config)

Both keep a model's weights in codes; the first runs without torch, the second layer by layer in it.
"""

from .causal import causal_lm
from .generation import CausalLM
from .loading import METHOD, LowbitConfig

__all__ = ["METHOD", "CausalLM", "LowbitConfig", "causal_lm"]
