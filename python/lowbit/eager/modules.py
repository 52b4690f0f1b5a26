"""Layers of torch modules that run on lowbit's kernels, without a captured graph around them.

Such a layer holds its codes as buffers, in torch's own memory, and at its first call makes a session of a node or two:
of a linear layer, each group of adjacent values of the input (or each row) finds its range and becomes codes, and the
product with the weight's codes becomes floats. Its arithmetic is that of the same layer in a converted model, bit
for bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..dequantize import arrays, dequantize, weight_of
from ..errors import InputError, UnsupportedError
from ..graph.ir import Array, Graph, Node, Symbol, Value, Weight
from ..graph.weights import format_of, pack
from ..ops import constant_value
from ..quantization import few_bits
from ..quantization.fuse_requantize import Emitter, IntegerLayer, put_dynamic_layer
from ..quantization.known_weights import codes_of
from ..runtime.limits import OWN
from ..runtime.session import Session
from ..torch_internals import DisableTorchFunctionSubclass, pytree, shell

FREE = "like"
"""The buffer whose dtype may change."""
ROWS = 256
"""A call takes so many at a time: what a session keeps for its work stays small, and no bit depends on it."""


class QuantizedLayer(nn.Module, ABC):
    """What layers on codes have in common: a weight [N, K] in codes, and a session that is made at the first call.

    Its buffers keep their types when the module around it changes its own: they are numbers of a format.
    """

    codes: Tensor
    """int8 [N, K], or uint8 [N, K / 2] with two codes a byte (`lowbit.dequantize` says what they mean)."""
    scale: Tensor
    zero_point: Tensor | None
    offset: Tensor | None

    def __init__(self, weight: Weight, threads: int | None) -> None:
        super().__init__()
        self.threads = threads
        self.shape = weight.shape
        self.format, codes = _stored(weight)
        parts = {"codes": codes, "scale": weight.scales, "zero_point": weight.zero_points, "offset": weight.offsets}
        for name, part in parts.items():
            self.register_buffer(name, None if part is None else torch.from_numpy(part.copy()))
        self._session: Session | None = None

    def description(self) -> dict[str, Any]:
        """What `shell_of` makes an empty layer of, as plain JSON: all but the numbers."""
        parts = {
            name: None if part is None else [str(part.dtype).removeprefix("torch."), list(part.shape)]
            for name, part in self._buffers.items()
        }
        return {"kind": type(self).__name__, "format": self.format, "shape": list(self.shape), "parts": parts}

    def numbers(self) -> Tensor:
        """The float32 numbers [N, K] that the codes stand for, computed anew each time."""
        made: Tensor = dequantize(self.codes, self.scale, self.zero_point, None, self.format, self.offset)
        return made

    @property
    def weight(self) -> Tensor:
        """Stands for `numbers()`: it has their shape and dtype, and what computes with it computes with them."""
        return self.numbers() if torch.compiler.is_compiling() else LazyWeight(self)

    def stored(self) -> Weight:
        """The codes and scales. Raises InputError if they were changed to what they cannot be."""
        offset = None if self.offset is None else self.offset.float().numpy()
        return weight_of(*arrays(self.codes, self.scale, self.zero_point, None), self.format, offset)

    @abstractmethod
    def graph(self) -> Graph:
        """What a call computes, of x ["rows", ...] y ["rows", ...]."""

    def run(self, x: Array, y: Array) -> None:
        """x and y are read and written where they lie."""
        session = self._session
        if session is None:
            session = self._session = Session(self.graph(), threads=self.threads, limits=OWN)
        for first in range(0, len(x), ROWS):
            session.run_into((x[first : first + ROWS],), (y[first : first + ROWS],))

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """There are none. Raises InputError."""
        raise InputError(f"a quantized layer has codes, no parameter {name!r}: assign or tie weights before quantizing")

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._session = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantizedLayer:
        for name, buffer in self._buffers.items():
            if buffer is None:
                continue
            moved = fn(buffer)
            if moved.device.type != "cpu":
                raise UnsupportedError(f"a quantized layer runs on the CPU only; it cannot be moved to {moved.device}")
            if moved.dtype == buffer.dtype or name == FREE:
                self._buffers[name] = moved
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Without the session, which a copy makes for itself."""
        return {**self.__dict__, "_session": None}

    def extra_repr(self) -> str:
        """What print() shows: sizes as torch's layers, bits, groups."""
        groups = f", group_size={self.shape[1] // self.scale.shape[1]}" if self.scale.dim() == 2 else ""
        affine = ", affine" if self.zero_point is not None or self.offset is not None else ""
        return f"{self.format.split('-')[0]}{groups}{affine}"


class QuantizedLinear(QuantizedLayer):
    """y = x W^T + b with the weight in codes: x [..., in_features] of float32, float16 or bfloat16, y of its dtype.

    It computes in float32, on the CPU, and for inference only: under torch.no_grad() or torch.inference_mode(). In a
    module that torch.export or torch.compile looks at, it is `lowbit::dequantize` and a linear layer, so that
    `lowbit.convert` finds the codes. Raises InputError for inputs that do not fit, UnsupportedError where gradients
    are wanted.
    """

    bias: Tensor | None

    order: Tensor | None
    activation_group_size: int

    def __init__(
        self,
        weight: Weight,
        bias: Tensor | None = None,
        *,
        order: Tensor | None = None,
        activation_group_size: int = -1,
        threads: int | None = None,
    ) -> None:
        """order: int64 [in_features]: the input that each column of the weight is for, if they are in another.

        activation_group_size: how many adjacent values of an input share a scale, if such groups divide those of the
        weight; 0: all of a row; -1: as the weight's, 128 at most.
        """
        super().__init__(weight, threads)
        self.out_features, self.in_features = weight.shape
        self.activation_group_size = few_bits.activation_group_size(
            self.in_features, weight.group_size, activation_group_size
        )
        self.register_buffer("bias", None if bias is None else bias.detach().float().clone())
        self.register_buffer("order", order)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        if torch.compiler.is_compiling():
            ordered = x if self.order is None else x.index_select(-1, self.order)
            return nn.functional.linear(ordered.float(), self._columns(), self.bias).to(x.dtype)
        self._check(x)
        ordered = x.detach() if self.order is None else x.detach().index_select(-1, self.order)
        single = ordered if x.dtype == torch.float32 else ordered.float()
        y = np.empty((*x.shape[:-1], self.out_features), np.float32)
        self.run(single.numpy().reshape(-1, self.in_features), y.reshape(-1, self.out_features))
        answer = torch.from_numpy(y)
        return answer if x.dtype == torch.float32 else answer.to(x.dtype)

    def numbers(self) -> Tensor:
        """[N, K] in the order of the inputs."""
        columns = self._columns()
        return columns if self.order is None else columns.index_select(1, self.order.argsort())

    def _columns(self) -> Tensor:
        return super().numbers()

    def _check(self, x: Tensor) -> None:
        if not isinstance(x, Tensor) or x.layout != torch.strided or x.is_nested:
            kind = f"tensor of layout {x.layout}" if isinstance(x, Tensor) else type(x).__name__
            raise InputError(f"the input must be a dense tensor, is a {kind}")
        if x.requires_grad and torch.is_grad_enabled():
            raise UnsupportedError(
                "a quantized layer has no gradients, and its input wants some: call the model under torch.no_grad() or "
                "torch.inference_mode()"
            )
        if not x.is_floating_point() or x.dim() == 0 or x.shape[-1] != self.in_features or x.device.type != "cpu":
            raise InputError(
                f"the input must be floats [..., {self.in_features}] on the CPU, is {x.dtype} {list(x.shape)} on "
                f"{x.device}"
            )

    def description(self) -> dict[str, Any]:
        """With how its input is quantized."""
        return {**super().description(), "activation_group_size": self.activation_group_size}

    def graph(self) -> Graph:
        """quantize_groups(x), or dynamic_quantize(x) -> quantized_linear -> y."""
        weight = self.stored()
        values = {
            "x": Value(dtype="f32", shape=("rows", self.in_features)),
            "y": Value(dtype="f32", shape=("rows", self.out_features)),
        }
        layer = Node(op="linear", name="linear", inputs=("x",), outputs=("y",))
        emit = Emitter(_of_rows(values, (layer,), {}), {})
        bias = torch.zeros(self.out_features) if self.bias is None else self.bias
        put_dynamic_layer(
            emit,
            layer,
            IntegerLayer(
                codes=codes_of(weight, weight.shape),
                bias=bias.double().numpy(),
                activation_group_size=self.activation_group_size,
            ),
        )
        return emit.finish()

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, {super().extra_repr()}"


class QuantizedEmbedding(QuantizedLayer):
    """Rows of a table in codes: indices of int64 or int32 [...], y [..., embedding_dim].

    y has the dtype that the table had, until `.to(dtype)` changes it. Raises InputError for indices that are none of
    the table's.
    """

    like: Tensor
    """Empty: of the dtype of the answers."""

    def __init__(self, weight: Weight, dtype: torch.dtype = torch.float32, *, threads: int | None = None) -> None:
        super().__init__(weight, threads)
        self.num_embeddings, self.embedding_dim = weight.shape
        self.register_buffer(FREE, torch.empty(0, dtype=dtype), persistent=False)

    def forward(self, indices: Tensor) -> Tensor:
        """See the class."""
        if torch.compiler.is_compiling():
            return nn.functional.embedding(indices, self.numbers()).to(self.like.dtype)
        if indices.dtype not in (torch.int64, torch.int32) or indices.device.type != "cpu":
            raise InputError(f"indices must be int64 or int32 on the CPU, are {indices.dtype} on {indices.device}")
        y = np.empty((*indices.shape, self.embedding_dim), np.float32)
        self.run(indices.long().numpy().reshape(-1), y.reshape(-1, self.embedding_dim))
        return torch.from_numpy(y).to(self.like.dtype)

    def graph(self) -> Graph:
        """quantized_embedding(indices) -> y."""
        weight = self.stored()
        values = {
            "x": Value(dtype="i64", shape=("rows",)),
            "w": constant_value(weight),
            "y": Value(dtype="f32", shape=("rows", self.embedding_dim)),
        }
        gather = Node(op="quantized_embedding", name="embedding", inputs=("x", "w"), outputs=("y",))
        return _of_rows(values, (gather,), {"w": weight})

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, {super().extra_repr()}"


def shell_of(description: Mapping[str, Any], threads: int | None = None) -> QuantizedLayer:
    """A layer as described, whose tensors are on torch's device "meta" until others are put in their place.

    Raises InputError for a description that is none.
    """
    kinds: dict[str, type[QuantizedLayer]] = {kind.__name__: kind for kind in (QuantizedLinear, QuantizedEmbedding)}
    try:
        kind, (rows, columns) = kinds[description["kind"]], map(int, description["shape"])
        layer = kind.__new__(kind)
        nn.Module.__init__(layer)
        layer.threads, layer.shape, layer.format = threads, (rows, columns), str(description["format"])
        layer._session = None
        for name, part in description["parts"].items():
            made = None if part is None else torch.empty(part[1], dtype=getattr(torch, part[0]), device="meta")
            layer.register_buffer(name, torch.empty(0, dtype=made.dtype) if name == FREE and made is not None else made)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise InputError(f"this describes no quantized layer: {error!r}") from None
    if isinstance(layer, QuantizedLinear):
        layer.out_features, layer.in_features = rows, columns
        layer.activation_group_size = int(description.get("activation_group_size", 0))
    elif isinstance(layer, QuantizedEmbedding):
        layer.num_embeddings, layer.embedding_dim = rows, columns
        layer._non_persistent_buffers_set.add(FREE)
    return layer


def _read_numbers(cls: type, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
    """An operator on lazy weights, on their numbers."""

    def plain(item: Any) -> Any:
        return item._layer.numbers() if isinstance(item, LazyWeight) else item

    return func(*pytree.tree_map(plain, args), **pytree.tree_map(plain, kwargs or {}))


class LazyWeight(Tensor):
    """The weight of a quantized layer, for code that looks at a layer's weight, or computes with it past the layer."""

    _layer: QuantizedLayer

    @staticmethod
    def __new__(cls, layer: QuantizedLayer) -> LazyWeight:
        """Of the layer's shape."""
        made: LazyWeight = shell(cls, layer.shape)
        made._layer = layer
        return made

    __torch_dispatch__: Any = classmethod(_read_numbers)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """As every tensor's, but that there is one tells torch's fast paths that it is no plain tensor."""
        with DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


def _stored(weight: Weight) -> tuple[str, Array]:
    """The format and the codes as a layer holds them: packed where a row fills its bytes."""
    kind = format_of(weight)
    if kind is None or not kind.packed or weight.shape[1] * weight.bits % 8 != 0:
        return f"int{weight.bits}", weight.codes
    return kind.packed, pack(weight)


def _of_rows(values: Mapping[str, Value], nodes: tuple[Node, ...], constants: Mapping[str, Weight]) -> Graph:
    """x -> y, for any number of rows."""
    return Graph(
        inputs=("x",), outputs=("y",), values=values, nodes=nodes, constants=constants, symbols={"rows": Symbol()}
    )
