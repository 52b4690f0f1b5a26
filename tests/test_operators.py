"""torch's functions of tensors, each converted: values, dtypes and shapes as torch's, special values among them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from against_torch import check, check_free, convert
from lowbit.errors import UnsupportedError

G = torch.Generator().manual_seed(0)
X, Y = torch.randn(3, 4, 5, generator=G), torch.randn(3, 4, 5, generator=G)
U, V = torch.rand(3, 4, 5, generator=G), torch.rand(3, 4, 5, generator=G)
NAN = X.clone()
NAN[0, 1, 2] = NAN[2, :, 0] = torch.nan
INF = torch.inf
S = torch.tensor([[0.0, -0.0, 1.0, -1.0, INF, -INF, torch.nan, 0.5, -0.5, 1e30, 1e-30, -1e20, 0.999, -30.0, 3.0]])
R = torch.tensor([[0.0], [-0.0], [1.0], [-2.5], [INF], [-INF], [torch.nan], [1e30]])
N, P = torch.randint(-9, 10, (3, 4), generator=G), torch.randint(1, 6, (3, 4), generator=G)
M, B = torch.randn(4, 4, generator=G), torch.randn(7, generator=G).sort().values
CLASSES, IMAGE_CLASSES = torch.randint(0, 5, (6,), generator=G), torch.randint(0, 4, (3, 5), generator=G)
LOGITS, WEIGHT = torch.randn(6, 5, generator=G), torch.rand(5, generator=G)
SIDES = torch.tensor([1, -1, 1, -1, 1, 1])

FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
    "inverse trigonometric": (lambda x: (x.asin(), x.acos(), x.atan(), torch.arcsin(x), torch.arctan(x)), (S,)),
    "hyperbolic": (lambda x: (x.sinh(), x.cosh(), x.asinh(), x.acosh(), x.atanh()), (S,)),
    "angles": (lambda a, b: (torch.atan2(a, b), torch.hypot(a, b), torch.deg2rad(a), torch.rad2deg(b)), (S, R)),
    "signs": (lambda a, b: (torch.copysign(a, b), a.signbit(), torch.heaviside(a, b)), (S, R)),
    "logarithms": (
        lambda a, b: (torch.xlogy(a, b), torch.logaddexp(a, b), torch.logaddexp2(a, b), torch.special.xlog1py(a, b)),
        (S, R),
    ),
    "error functions": (lambda x: (x.erfc(), torch.special.ndtr(x), torch.special.entr(x), x.sinc()), (S,)),
    "gamma functions": (
        lambda x: (x.lgamma(), x.digamma(), x.clamp(-1, 1).erfinv()),
        (torch.cat([S[0], torch.linspace(-7.9, 12, 60), torch.tensor([-1.0, -2.0, -1e-5, 2.0, 0.499])]),),
    ),
    "tests": (
        lambda a, b: (a.isposinf(), a.isneginf(), torch.isclose(a, b), torch.isclose(a, b, equal_nan=True), a.isreal()),
        (S, R),
    ),
    "nan_to_num": (lambda x: (x.nan_to_num(), x.nan_to_num(2.0, 3.0, -4.0), torch.nan_to_num(x, posinf=1.0)), (S,)),
    "other names": (lambda a, b: (a.subtract(b), a.multiply(b), a.negative(), a.absolute(), a.true_divide(b)), (S, R)),
    "shifts": (
        lambda a, b: (a << b, a >> b, 1 << b, a << 1, a.int() >> 31, a >> 63, a.int() << b.int(), a << 64, a >> 70),
        (N, P),
    ),
    "shifts of bytes": (
        lambda a, b: (a.byte() << b.byte(), a.byte() >> 1, a.char() << 3, a.char() >> b.char()),
        (N, P),
    ),
    "diagonals": (
        lambda x: (x.diagonal(), x.diagonal(1, 1, 2), x.diagonal(-2, 0, 2), x.diagonal(9), torch.linalg.diagonal(x)),
        (X,),
    ),
    "diagonal matrices": (
        lambda m: (
            m.diag(1),
            m[0].diag(-2),
            m.diag_embed(),
            m.diag_embed(1, 0, 2),
            m.trace(),
            m.long().trace(),
            m[0].diagflat(),
        ),
        (M,),
    ),
    "diagonals, written": (
        lambda m: (m.diagonal_scatter(m[0, :3], 1), m.clone().fill_diagonal_(5.0), torch.block_diag(m, m[:2], m[0])),
        (M,),
    ),
    "quarter turns": (lambda x: (x.rot90(), x.rot90(2, [0, 2]), x.rot90(-1, [1, 2]), x.rot90(3)), (X,)),
    "running extremes": (lambda x: (*x.cummax(1), *x.cummin(0), *x.round().cummax(-1), *x.long().cummin(1)), (X,)),
    "running extremes, NaN": (lambda x: (*x.cummax(1), *x.cummin(2), *x[0, 0, 0].cummax(0)), (NAN,)),
    "membership": (
        lambda n, p: (torch.isin(n, p), torch.isin(n, 3), torch.isin(n.float(), p, invert=True), torch.isin(3, n)),
        (N, P),
    ),
    "buckets": (
        lambda x: (
            torch.bucketize(x, B),
            torch.bucketize(x, B, right=True, out_int32=True),
            torch.searchsorted(B, 0.3),
        ),
        (NAN,),
    ),
    "searching": (
        lambda x, y: (
            torch.searchsorted(x.sort(-1).values, y, side="right"),
            torch.searchsorted(x, y, sorter=x.argsort(-1)),
        ),
        (X, Y),
    ),
    "quantiles": (
        lambda x: (
            x.quantile(0.3, 1),
            x.quantile(torch.tensor([0.0, 0.25, 0.9]), 2, keepdim=True),
            x.nanquantile(0.5, 2),
        ),
        (NAN,),
    ),
    "kinds of quantiles": (
        lambda x: [x.quantile(0.3, 1, interpolation=kind) for kind in ("lower", "higher", "midpoint", "nearest")],
        (X,),
    ),
    "ranks": (
        lambda x: (
            x.median(),
            *x.median(1),
            x.nanmedian(),
            *x.kthvalue(2, 1),
            *x.round().mode(1),
            x.long().median(0).values,
        ),
        (X,),
    ),
    "medians, NaN": (lambda x: (x.median(), *x.median(1)[:1], x.nanmedian(), x.nanmedian(2).values), (NAN,)),
    "without NaN": (lambda x: (x.nansum(), x.nansum(1), x.nanmean(), x.nanmean((0, 2), keepdim=True)), (NAN,)),
    "histogram": (lambda x: (x.histc(5, -1, 1), x.histc(4)), (X,)),
    "stacks": (
        lambda a: (
            torch.hstack([a, a]),
            torch.vstack([a[0], a]),
            torch.dstack([a, a]),
            torch.column_stack([a[:, 0], a]),
        ),
        (M,),
    ),
    "pieces": (
        lambda x: (*x.hsplit(2), *x.vsplit(3), *x.dsplit([2]), *torch.atleast_3d(x[0], x[0, 0]), x.ravel()),
        (X,),
    ),
    "axes": (lambda x: (x.moveaxis(0, 2), x.movedim((0, 1), (2, 0)), x.sum_to_size(1, 4, 1)), (X,)),
    "products": (
        lambda a, b: (torch.kron(a, b[0]), torch.linalg.vecdot(a, b), torch.cross(a[:, :3], b[:, 1:], dim=1)),
        (X, Y),
    ),
    "products of matrices": (
        lambda m: (m.matrix_power(5), torch.addr(m, m[0], m[1], beta=0.5, alpha=2), m.addbmm(m[None], m[None])),
        (M,),
    ),
    "norms of matrices": (
        lambda m: (
            m.norm("fro"),
            torch.linalg.matrix_norm(m, 1),
            torch.linalg.norm(m, INF),
            m.dist(m.t(), 3),
            torch.linalg.norm(m),
        ),
        (M,),
    ),
    "areas": (
        lambda x: (torch.trapz(x, dx=0.5, dim=1), torch.trapezoid(x, torch.arange(5.0)), torch.cumulative_trapezoid(x)),
        (X,),
    ),
    "places": (
        lambda x: (
            x.take_along_dim(x.argsort(1), 1),
            x.take_along_dim(x.argmax()),
            x.masked_scatter(x > 0, x.flatten()),
            x.put(N[0] + 9, x[0, 0, :4]),
        ),
        (X,),
    ),
    "scattering": (
        lambda x, n: [
            x[:, :, 0].scatter_reduce(1, n.abs() % 4, x[:, :, 1], kind, include_self=own)
            for kind in ("sum", "mean", "prod", "amax", "amin")
            for own in (True, False)
        ],
        (X, N),
    ),
    "slopes that are computed": (lambda x: F.prelu(x, x[0, :, 0]), (X,)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    function, inputs = FUNCTIONS[name]
    check(function, *inputs)


LOSSES: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
    "of distances": (
        lambda x, y, r: (
            F.mse_loss(x, y, reduction=r),
            F.l1_loss(x, y, reduction=r),
            F.smooth_l1_loss(x, y, reduction=r, beta=0.5),
            F.huber_loss(x, y, reduction=r, delta=0.7),
        ),
        (X, Y),
    ),
    "of probabilities": (
        lambda x, y, r: (
            F.binary_cross_entropy(x.round(), y, reduction=r),
            F.binary_cross_entropy(x, y, weight=y, reduction=r),
            F.binary_cross_entropy_with_logits(x * 90, y, reduction=r),
            F.binary_cross_entropy_with_logits(x, y, weight=x, pos_weight=WEIGHT, reduction=r),
            F.soft_margin_loss(x, y, reduction=r),
        ),
        (U, V),
    ),
    "of distributions": (
        lambda x, y, r: (
            F.kl_div(x, y.round(), reduction=r),
            F.kl_div(x, y, reduction=r, log_target=True),
            F.poisson_nll_loss(x, y, reduction=r),
            F.gaussian_nll_loss(x, y, y.abs(), reduction=r),
        ),
        (X, U),
    ),
    "of classes": (
        lambda x, t, r: (
            F.cross_entropy(x, t, reduction=r),
            F.cross_entropy(x, t, weight=WEIGHT, label_smoothing=0.1, ignore_index=3, reduction=r),
            F.cross_entropy(x, x.softmax(1), weight=WEIGHT, label_smoothing=0.2, reduction=r),
            F.nll_loss(x, t, weight=WEIGHT, ignore_index=1, reduction=r),
            F.cross_entropy(x[0], t[0], reduction=r),
        ),
        (LOGITS, CLASSES),
    ),
    "of the classes of pixels": (
        lambda x, t, r: (
            F.cross_entropy(x, t, label_smoothing=0.1, weight=WEIGHT[:4], reduction=r),
            F.nll_loss(x.unsqueeze(3), t.unsqueeze(2), reduction=r),
        ),
        (X, IMAGE_CLASSES),
    ),
    "of pairs": (
        lambda x, y, r: (
            F.hinge_embedding_loss(x[:, 0], y[:, 0].sign(), reduction=r),
            F.margin_ranking_loss(x, y, y.sign(), 0.3, reduction=r),
            F.triplet_margin_loss(x[0], y[0], y[1], swap=True, reduction=r),
            F.cosine_embedding_loss(x[:, :2].reshape(6, 5), y[:, 2:].reshape(6, 5), SIDES, margin=0.1, reduction=r),
        ),
        (X, Y),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_as_outputs(name: str) -> None:
    """With each reduction."""
    function, inputs = LOSSES[name]
    check(lambda *x: [function(*x, r) for r in ("none", "mean", "sum")], *inputs)


def test_sizes_stay_free() -> None:
    check_free(
        lambda x: (
            x.diagonal(),
            x.rot90(),
            *x.cummax(1),
            x.quantile(0.3, 1),
            *x.median(0),
            torch.bucketize(x, B),
            F.mse_loss(x, x + 1),
        ),
        torch.randn(5, 6),
    )


def test_what_torch_returns_by_name_is_returned_so() -> None:
    model = convert(lambda x: x.topk(2), (X,))
    found, expected = model(X), X.topk(2)
    assert type(found) is type(expected)
    assert torch.equal(found.indices, expected.indices)


def test_random_numbers_are_refused_as_such() -> None:
    with pytest.raises(UnsupportedError, match="it draws random numbers"):
        convert(lambda x: x + torch.rand_like(x), (X,))


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_ranks_of_drawn_shapes(data: st.DataObject) -> None:
    """Medians, quantiles and running extremes, with ties and NaN."""
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3), "shape"))
    axis = data.draw(st.integers(0, len(shape) - 1), "axis")
    q = data.draw(st.floats(0, 1, width=32), "q")
    values = st.sampled_from([0.0, 1.0, -1.0, 2.5, torch.nan, INF]) if data.draw(st.booleans()) else st.integers(-3, 3)
    count = int(torch.tensor(shape).prod())
    x = torch.tensor(data.draw(st.lists(values, min_size=count, max_size=count), "x"), dtype=torch.float32).view(shape)
    finite = x.nan_to_num(posinf=3.0)
    check(
        lambda x, f: (x.median(axis).values, *f.cummax(axis), *x.cummin(axis), f.quantile(q, axis), x.nanmedian()),
        x,
        finite,
    )


def test_quantiles_beside_infinity() -> None:
    """Between two ranks, torch starts from the nearer one: -inf, or the number beside it."""
    inf = torch.inf
    x = torch.tensor([[-inf, 1, 2, 3], [1, 2, 3, inf], [4, 3, 2, 1], [-inf, -inf, 1, inf]])
    for q in (0.1, 0.3, 0.5, 0.6, 0.9):
        found = convert(lambda x, q=q: x.quantile(q, 1), (x,))(x)
        assert torch.equal(found.nan_to_num(nan=99.0), x.quantile(q, 1).nan_to_num(nan=99.0))
