"""transformers models with layers on codes: rounded while they are loaded, saved with their codes, and loaded again.

    config = lowbit.transformers.LowbitConfig("int4-g32")
    model = AutoModelForCausalLM.from_pretrained(directory, quantization_config=config)
    model.save_pretrained(other)                                   # codes, and what they are in config.json
    model = AutoModelForCausalLM.from_pretrained(other)            # after `import lowbit.transformers`

Each weight is rounded when it has been read, before the next is: the float model is never in memory as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers.core_model_loading import ConversionOps
from transformers.quantizers import HfQuantizer
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from ..eager.in_place import Codable, pick, replace_layer
from ..eager.modules import QuantizedLayer, shell_of
from ..errors import InputError, UnsupportedError
from ..graph.ir import Weight
from ..quantization.schemes import Scheme, rules

METHOD = "lowbit"
"""What config.json calls it."""


@register_quantization_config(METHOD)
class LowbitConfig(QuantizationConfigMixin):  # type: ignore[misc]  # transformers has no types
    """How layers of a transformers model are quantized, or are already.

    Args:
        scheme: As `lowbit.quantize_` takes it, by names: "int4-g32", or {pattern: name}.
        layers: Of a model that has codes, what each layer is; `save_pretrained` writes it.

    Raises:
        InputError, UnsupportedError: There is no such scheme.

    Examples:
        >>> from lowbit.transformers import LowbitConfig
        >>> LowbitConfig("int4-g32").to_dict()
        {'quant_method': 'lowbit', 'scheme': 'int4-g32', 'layers': {}}
    """

    def __init__(
        self,
        scheme: str | Mapping[str, str] = "int4",
        layers: Mapping[str, Mapping[str, Any]] | None = None,
        **rest: Any,
    ) -> None:
        named = scheme.values() if isinstance(scheme, Mapping) else [scheme]
        if any(isinstance(each, Scheme) for each in named):
            raise InputError("LowbitConfig takes schemes by their names, which config.json can hold")
        rules(scheme)
        self.quant_method = METHOD
        self.scheme = dict(scheme) if isinstance(scheme, Mapping) else scheme
        self.layers = dict(layers or {})


@register_quantizer(METHOD)
class LowbitQuantizer(HfQuantizer):  # type: ignore[misc]  # transformers has no types
    """What `from_pretrained` and `save_pretrained` call."""

    requires_calibration = False

    def __init__(self, quantization_config: LowbitConfig, **rest: Any) -> None:
        super().__init__(quantization_config, **rest)
        self.waiting: dict[str, Codable] = {}
        """Layers whose weights have not been read yet."""
        self.made: dict[str, Weight] = {}
        self.tied: dict[str, list[str]] = {}
        """By the path of a layer, others that have the same weight."""

    def _process_model_before_weight_loading(self, model: Any, **rest: Any) -> None:
        if self.pre_quantized:
            for path, description in self.quantization_config.layers.items():
                _put(model, path, shell_of(description))
        else:
            self.waiting = {layer.path: layer for layer in pick(model, self.quantization_config.scheme)}
            for other, source in model.all_tied_weights_keys.items():
                names = [name.removesuffix(".weight") for name in (source, other)]
                if all(name in self.waiting for name in names):
                    self.tied.setdefault(names[0], []).append(names[1])
        _untie(model)

    def param_needs_quantization(self, model: Any, param_name: str, **rest: Any) -> bool:
        """Whether it is the weight of a layer that gets codes."""
        return param_name.removesuffix(".weight") in self.waiting and param_name.endswith(".weight")

    def get_quantize_ops(self) -> ConversionOps:
        """What rounds a weight that has been read."""
        return Round(self)

    def round(self, path: str, weight: Tensor) -> Tensor | None:
        """Keep the codes of a layer's weight, or give the weight back where it stays as it is."""
        layer = self.waiting.pop(path)
        layer.module.weight = nn.Parameter(weight, requires_grad=False)
        problems = layer.problems()
        if problems:
            raise UnsupportedError(f"{path} cannot be quantized so; give it another scheme: {'; '.join(problems)}")
        if not layer.is_worth_it:
            return weight
        self.made[path] = layer.codes()
        layer.module.weight = nn.Parameter(weight.to("meta"), requires_grad=False)
        return None

    def _process_model_after_weight_loading(self, model: Any, **rest: Any) -> None:
        if not self.pre_quantized:
            for path, weight in self.made.items():
                replace_layer(model, path, weight)
        self.made = {}
        layers = {path: part for path, part in model.named_modules() if isinstance(part, QuantizedLayer)}
        self.quantization_config.layers = {path: layer.description() for path, layer in layers.items()}

    def is_serializable(self, **rest: Any) -> bool:
        """Codes are saved as they are."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Codes have no gradients."""
        return False


class Round(ConversionOps):  # type: ignore[misc]  # transformers has no types
    """A step of loading: a weight in, and nothing out where its layer keeps codes instead."""

    def __init__(self, quantizer: LowbitQuantizer) -> None:
        self.quantizer = quantizer

    def convert(
        self,
        input_dict: dict[str, Any],
        full_layer_name: str = "",
        missing_keys: set[str] | None = None,
        **rest: Any,
    ) -> dict[str, Tensor]:
        """input_dict: the one tensor of that name, perhaps in a list."""
        (value,) = input_dict.values()
        weight = value[0] if isinstance(value, list) else value
        path = full_layer_name.removesuffix(".weight")
        kept = {}
        for name in (path, *self.quantizer.tied.pop(path, [])):
            stays = self.quantizer.round(name, weight)
            if stays is not None:
                kept[f"{name}.weight"] = stays
            elif missing_keys is not None:
                missing_keys.discard(f"{name}.weight")
        return kept


def _untie(model: Any) -> None:
    """Each layer on codes has its own, and none has a weight that could be another's."""
    model.config.tie_word_embeddings = False
    model.config.get_text_config(decoder=True).tie_word_embeddings = False
    model.all_tied_weights_keys = {}
    for part in model.modules():
        if getattr(part, "_tied_weights_keys", None):
            part._tied_weights_keys = None


def _put(model: Any, path: str, layer: QuantizedLayer) -> None:
    """In the place of a layer. Raises InputError where the model has none."""
    parent, _, name = path.rpartition(".")
    try:
        model.get_submodule(path)
    except AttributeError:
        raise InputError(f"{type(model).__name__} has no layer {path!r}, which its config.json describes") from None
    setattr(model.get_submodule(parent), name, layer.train(False))


__all__ = ["LowbitConfig"]
