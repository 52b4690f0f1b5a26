"""Capture of sequence models: products, attention and normalization compute what torch computes."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lowbit.capture import capture
from test_capture import Function, assert_close, call, check, ops


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((2, 3, 4), (2, 4, 5)),
        ((2, 6, 3, 4), (2, 1, 4, 5)),
        ((2, 3, 4), (4, 5)),
        ((3, 4), (2, 4, 5)),
        ((2, 3, 4), (4,)),
        ((4,), (2, 4, 5)),
        ((4, 3), (3,)),
        ((4,), (4,)),
        ((1, 1, 7), (3, 7, 1)),
    ],
    ids=str,
)
def test_matmul_of_computed_operands(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    check(torch.matmul, torch.randn(a), torch.randn(b), dynamic=None)


@pytest.mark.parametrize(
    "function",
    [
        torch.bmm,
        lambda a, b: torch.baddbmm(a @ b, a, b),
        lambda a, b: torch.baddbmm(a @ b, a, b, beta=0.5, alpha=2.0),
        lambda a, b: torch.mm(a[0], b[0]),
        lambda a, b: torch.mv(a[0], b[0, :, 0]),
        lambda a, b: torch.dot(a[0, 0], b[0, :, 0]),
        lambda a, b: torch.addmm(b[0, 0], a[0], b[0], beta=2, alpha=3),
        lambda a, b: torch.addmv(a[0, :, 0], a[0], b[0, :, 0]),
        lambda a, b: torch.outer(a[0, 0], b[0, 0]),
        lambda a, b: torch.inner(a, b.mT),
        lambda a, b: torch.linalg.multi_dot([a[0], b[0], torch.ones(5, 2)]),
        lambda a, b: F.linear(a, b[0].T, b[0, 0]),
        lambda a, b: F.linear(a[0, 0], b[0].T),
        lambda a, b: F.linear(a, torch.ones(2, 4), a[0, 0, :2]),
        lambda a, b: torch.matmul(torch.ones(3, 3), a),
        lambda a, b: a @ torch.ones(2, 4, 6),
    ],
)
def test_products(function: Any) -> None:
    torch.manual_seed(0)
    check(function, torch.randn(2, 3, 4), torch.randn(2, 4, 5), dynamic=None)


def test_a_constant_matrix_makes_a_linear_layer() -> None:
    weight = torch.randn(4, 5)
    assert ops(check(lambda x: x @ weight, torch.randn(2, 3, 4))) == {"linear": 1}
    assert ops(check(lambda x: torch.addmm(weight[0], x, weight, alpha=2), torch.randn(3, 4))) == {"linear": 1}


EQUATIONS = {
    "bij,bjk->bik": ((2, 3, 4), (2, 4, 5)),
    "bhid,bhjd->bhij": ((2, 3, 4, 6), (2, 3, 5, 6)),
    "bhij,bjhd->bihd": ((2, 3, 4, 5), (2, 5, 3, 6)),
    "ij,jk": ((3, 4), (4, 5)),
    "ba,ab": ((3, 4), (4, 3)),
    "i,j->ij": ((3,), (4,)),
    "bi,bi->b": ((2, 5), (2, 5)),
    "bi,bi->bi": ((2, 5), (2, 5)),
    "...ij->...ji": ((2, 3, 4),),
    "...ij->...": ((2, 3, 4),),
    "ij->": ((3, 4),),
    "ii->i": ((4, 4),),
    "bii->b": ((2, 4, 4),),
    "iji->j": ((3, 2, 3),),
    "...d,...d->...": ((2, 3, 4), (3, 4)),
    "...ij,...jk->...ik": ((2, 1, 3, 4), (5, 4, 6)),
    "bi,ij,bj->b": ((2, 3), (3, 4), (2, 4)),
    "nchw,kc,kd->nhwd": ((2, 3, 4, 5), (6, 3), (6, 7)),
    "bij,bjk->b": ((2, 3, 4), (2, 4, 5)),
    "ab,cd->dacb": ((2, 3), (4, 5)),
    "ij,ij->j": ((1, 4), (3, 4)),
    " b i , j i -> b j ": ((2, 3), (4, 3)),
    "bi,j->b": ((2, 3), (4,)),
}


@pytest.mark.parametrize("equation", EQUATIONS)
def test_einsum(equation: str) -> None:
    torch.manual_seed(0)
    operands = [torch.randn(shape) for shape in EQUATIONS[equation]]
    check(lambda *x: torch.einsum(equation, *x), *operands, dynamic=None)
    if len(operands) > 1:  # the last, or the first, a constant
        check(lambda *x: torch.einsum(equation, *x, operands[-1]), *operands[:-1], dynamic=None)
        check(lambda *x: torch.einsum(equation, operands[0], *x), *operands[1:], dynamic=None)


def test_einsum_with_a_constant_is_a_linear_layer() -> None:
    weight = torch.randn(5, 4)
    assert ops(check(lambda x: torch.einsum("btd,kd->btk", x, weight), torch.randn(2, 3, 4)))["linear"] == 1


def test_bilinear() -> None:
    torch.manual_seed(0)
    check(nn.Bilinear(3, 4, 5), torch.randn(2, 6, 3), torch.randn(2, 6, 4))


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b: F.normalize(a, dim=1),
        lambda a, b: torch.tensordot(a, b.mT, dims=([1], [2])),
        lambda a, b: torch.tensordot(a, b, dims=([-1, 1], [-1, -2])),
        lambda a, b: F.cosine_similarity(a[:, :3], b[:, :3], dim=-1),
        lambda a, b: F.cosine_similarity(a[:, :1], b, dim=2),
        lambda a, b: F.pairwise_distance(a[:, :3], b[:, :3]),
        lambda a, b: F.pairwise_distance(a[:, :3], b[:, :3], p=1, keepdim=True),
        torch.cdist,
    ],
)
def test_norms_and_distances(function: Any) -> None:
    torch.manual_seed(0)
    check(function, torch.randn(2, 3, 4), torch.randn(2, 3, 4), dynamic=None)


MASKS = {
    "none": None,
    "bool": torch.rand(2, 1, 5, 7) > 0.3,
    "keys": torch.rand(2, 1, 1, 7) > 0.3,
    "float": torch.randn(3, 5, 7),
    "rows": torch.randn(5, 1),
    "empty row": torch.arange(35).reshape(5, 7) > 13,
    "minus infinity": torch.zeros(5, 7).masked_fill(torch.arange(35).reshape(5, 7) < 14, -torch.inf),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention(mask: str, scale: float | None) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 7, 4), torch.randn(2, 3, 7, 6)
    captured = check(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, MASKS[mask], scale=scale), q, k, v, dynamic=None
    )
    assert ops(captured) == {"attention": 1}


@pytest.mark.parametrize("shape", [(4, 6), (3, 4, 6), (2, 3, 4, 6), (2, 2, 3, 4, 6)], ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_attention_of_any_rank(shape: tuple[int, ...], causal: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape)
    check(lambda x: F.scaled_dot_product_attention(x, x * 2, x + 1, is_causal=causal), x, dynamic=None)
    if not causal:
        mask = torch.rand(*shape[:-1], shape[-2]) > 0.3
        check(lambda x: F.scaled_dot_product_attention(x, x * 2, x + 1, mask), x, dynamic=None)


def test_attention_with_shared_heads() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 6, 5, 4), torch.randn(2, 2, 7, 4)
    check(lambda q, k: F.scaled_dot_product_attention(q, k, k, enable_gqa=True), q, k)


def test_attention_with_a_computed_mask() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 7, 4)
    captured = check(lambda q, k: F.scaled_dot_product_attention(q, k, k, q @ k.mT), q, k)
    assert ops(captured)["attention"] == 1


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.LayerNorm(6), (2, 5, 6)),
        (nn.LayerNorm((5, 6), eps=0.1), (2, 5, 6)),
        (nn.LayerNorm(6, elementwise_affine=False), (2, 6)),
        (nn.LayerNorm(6, bias=False), (2, 3, 5, 6)),
        (nn.RMSNorm(6), (2, 5, 6)),
        (nn.RMSNorm((5, 6), eps=0.01), (2, 5, 6)),
        (nn.GroupNorm(2, 6), (2, 6, 5, 3)),
        (nn.GroupNorm(6, 6, affine=False), (2, 6, 7)),
        (nn.GroupNorm(3, 6), (2, 6)),
        (nn.GroupNorm(1, 6), (2, 6, 3, 2, 2)),
        (nn.InstanceNorm1d(6), (2, 6, 9)),
        (nn.InstanceNorm2d(6, affine=True), (2, 6, 5, 3)),
        (nn.InstanceNorm2d(6, track_running_stats=True), (2, 6, 5, 3)),
        (nn.InstanceNorm3d(6), (2, 6, 2, 3, 2)),
    ],
    ids=str,
)
def test_normalization(layer: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    check(layer, torch.randn(shape))


def test_rotary_embedding_is_plain_arithmetic() -> None:
    torch.manual_seed(0)
    angles = torch.outer(torch.arange(5.0), 1 / 100 ** (torch.arange(4.0) / 4)).repeat(1, 2)

    def rotate(x: torch.Tensor) -> torch.Tensor:
        half = torch.cat([-x[..., 4:], x[..., :4]], -1)
        return x * angles.cos() + half * angles.sin()

    check(Function(rotate), torch.randn(2, 3, 5, 8))


# ----------------------------------------------------------------------------------------------------- recurrent layers

STEPS = torch.export.Dim("steps", min=1)
BATCH = torch.export.Dim("batch", min=1)


def check_recurrent(net: nn.Module, x: torch.Tensor, *states: Any) -> None:
    """With steps and batch free: one capture for other sizes, too."""
    axes = {0: BATCH, 1: STEPS} if net.batch_first else {0: STEPS, 1: BATCH}
    given = (states if len(states) > 1 else states[0],) if states else ()
    shapes: list[Any] = [axes]
    if states:
        shapes.append(({1: BATCH},) * len(states) if len(states) > 1 else {1: BATCH})
    captured = capture(net.eval(), (x, *given), tuple(shapes))
    for batch, steps in ((2, 3), (1, 7), (4, 1)):
        other = torch.randn(*((batch, steps) if net.batch_first else (steps, batch)), x.shape[-1])
        begin = tuple(torch.randn(state.shape[0], batch, state.shape[-1]) for state in states)
        begin = (begin if len(begin) > 1 else begin[0],) if begin else ()
        with torch.no_grad():
            assert_close(call(captured, other, *begin), net(other, *begin))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 2, "dropout": 0.5},
        {"bidirectional": True},
        {"bidirectional": True, "num_layers": 3, "batch_first": True},
        {"bias": False, "batch_first": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("with_states", [False, True])
@pytest.mark.filterwarnings("ignore:dropout option")
def test_recurrent_layers(kind: type[nn.RNNBase], options: dict[str, Any], with_states: bool) -> None:
    torch.manual_seed(0)
    net = kind(5, 6, **options)
    x = torch.randn(2, 3, 5) if net.batch_first else torch.randn(3, 2, 5)
    cells = net.num_layers * (2 if net.bidirectional else 1)
    states = [torch.randn(cells, 2, 6) for _ in range(2 if kind is nn.LSTM else 1)] if with_states else []
    check_recurrent(net, x, *states)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_projected_lstm(bidirectional: bool) -> None:
    torch.manual_seed(0)
    net = nn.LSTM(5, 6, num_layers=2, proj_size=4, bidirectional=bidirectional)
    cells = 4 if bidirectional else 2
    check_recurrent(net, torch.randn(3, 2, 5))
    check_recurrent(net, torch.randn(3, 2, 5), torch.randn(cells, 2, 4), torch.randn(cells, 2, 6))


def test_rnn_of_relu_and_unbatched() -> None:
    torch.manual_seed(0)
    check_recurrent(nn.RNN(5, 6, nonlinearity="relu"), torch.randn(3, 2, 5))
    for net in (nn.LSTM(5, 6), nn.GRU(5, 6, batch_first=True, bidirectional=True)):
        check(net, torch.randn(4, 5), dynamic=None)
        cells = 2 if net.bidirectional else 1
        check(lambda x, h, net=net: net(x, (h, h * 2) if isinstance(net, nn.LSTM) else h), torch.randn(4, 5),
              torch.randn(cells, 6), dynamic=None)  # fmt: skip


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
@pytest.mark.parametrize("bias", [True, False])
def test_cells(kind: type[nn.RNNCellBase], bias: bool) -> None:
    torch.manual_seed(0)
    cell = kind(5, 6, bias=bias)
    if kind is nn.LSTMCell:
        check(lambda x, h, c: cell(x, (h, c)), torch.randn(2, 5), torch.randn(2, 6), torch.randn(2, 6))
    else:
        check(cell, torch.randn(2, 5), torch.randn(2, 6))
        check(lambda x, h: cell(x, torch.relu(cell(x, h))), torch.randn(2, 5), torch.randn(2, 6))


class Shared(nn.Module):
    """A layer under two names, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.LSTM(5, 5))
        self.b = self.a[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, state = self.a(x)
        return self.b(y, state)[0]


def test_shared_layers_and_what_is_restored() -> None:
    torch.manual_seed(0)
    net = Shared().eval()
    torch.backends.mha.set_fastpath_enabled(True)
    check(net, torch.randn(3, 2, 5), dynamic=({1: BATCH, 0: STEPS},))
    assert "forward" not in net.b.__dict__
    assert torch.backends.mha.get_fastpath_enabled()
    assert ops(capture(net, torch.randn(3, 2, 5)))["lstm"] == 2


def test_the_input_projection_is_a_linear_layer() -> None:
    captured = capture(nn.LSTM(5, 6, num_layers=2, bidirectional=True).eval(), torch.randn(3, 2, 5))
    assert ops(captured)["linear"] == 4


def test_lengths_free_in_attention_layers() -> None:
    """nn.MultiheadAttention and nn.Transformer take no fused fast path."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    x = torch.randn(2, 5, 8)
    masks = {"key_padding_mask": torch.tensor([[False] * 4 + [True], [False] * 5]), "attn_mask": None}
    for need_weights, average in itertools.product([False, True], [False, True]):
        check(
            lambda x, n=need_weights, a=average: attention(
                x, x * 2, x, need_weights=n, average_attn_weights=a, **masks
            )[: 1 + n],
            x,
            dynamic=None,
        )
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    captured = check(encoder, x, dynamic=({0: BATCH, 1: STEPS},), batches=())
    assert ops(captured)["attention"] == 2
    for batch, steps in ((1, 3), (3, 9)):
        other = torch.randn(batch, steps, 8)
        with torch.no_grad():
            assert_close(call(captured, other), encoder(other))


@pytest.mark.parametrize("causal", [False, True])
def test_transformer(causal: bool) -> None:
    torch.manual_seed(0)
    net = nn.Transformer(8, 2, 1, 1, 16, activation="gelu").eval()
    mask = nn.Transformer.generate_square_subsequent_mask(4) if causal else None
    check(lambda a, b: net(a, b, tgt_mask=mask, tgt_is_causal=causal), torch.randn(5, 2, 8), torch.randn(4, 2, 8),
          dynamic=None)  # fmt: skip


def test_layers_of_a_program_that_torch_functionalizes() -> None:
    """A write seen through a view makes capture ask torch for its decomposed form."""
    torch.manual_seed(0)
    norm, group, rnn = nn.LayerNorm(8), nn.GroupNorm(2, 4), nn.GRU(8, 8, batch_first=True)
    rms, attention = nn.RMSNorm(8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()

    def forward(x: torch.Tensor) -> torch.Tensor:
        y = norm(x)
        y[:, 0].mul_(2)
        return attention(rnn(group(rms(y)))[0])

    check(forward, torch.randn(2, 4, 8))


def test_recurrent_functions_of_aten() -> None:
    """As other exporters leave them."""
    torch.manual_seed(0)
    x, h = torch.randn(3, 2, 5), torch.randn(4, 2, 6)
    for name, net in (("lstm", nn.LSTM), ("gru", nn.GRU), ("rnn_tanh", nn.RNN)):
        weights = [w.detach() for w in net(5, 6, num_layers=2, bidirectional=True)._flat_weights]
        function = getattr(torch._VF, name)

        def run(x: torch.Tensor, h: torch.Tensor, weights: Any = weights, f: Any = function, n: str = name) -> Any:
            return f(x, (h, h) if n == "lstm" else h, weights, True, 2, 0.0, False, True, False)

        check(run, x, h, dynamic=None)


def test_weights_that_are_computed_from_parameters() -> None:
    torch.manual_seed(0)
    net = nn.LSTM(5, 6)
    for name in ("weight_ih_l0", "weight_hh_l0"):
        nn.utils.parametrizations.weight_norm(net, name)
    check(net, torch.randn(3, 2, 5), dynamic=None)
    assert ops(capture(net, torch.randn(3, 2, 5)))["lstm"] == 1
