"""How far a student is from its teacher: one function a kind of knowledge, each a mean over the batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import InputError

RIDGE = 0.1
"""Of the mean square of a feature, which stands beside the squares of a first batch."""


def soft_targets(student: Tensor, teacher: Tensor, temperature: float, axis: int) -> Tensor:
    """tau^2 KL(softmax(teacher / tau) || softmax(student / tau)) (Hinton et al. 2015, arXiv:1503.02531).

    tau^2 keeps gradients as large as those of labels. One logit a sample is a sigmoid's.

    Args:
        student: Logits, floats of any width.
        teacher: Of the same shape.
        temperature: tau.
        axis: Of the classes.

    Returns:
        A scalar.
    """
    student, teacher = (two_classes(each.float(), axis) / temperature for each in (student, teacher))
    axis = axis if teacher.ndim > 1 else 0
    known, guessed = teacher.log_softmax(axis), student.log_softmax(axis)
    # p (log p - log q) is 0 where p is, although neither logarithm may be finite there
    guessed = guessed.clamp(min=torch.finfo(torch.float32).min)
    divergence = torch.xlogy(known.exp(), known.exp()) - known.exp() * guessed
    return temperature**2 * divergence.sum(axis).mean()


def two_classes(logits: Tensor, axis: int) -> Tensor:
    """Logits as they are; one number a sample, z, as the two logits z, 0."""
    if logits.ndim < 2:
        return torch.stack((logits, torch.zeros_like(logits)), -1)
    if logits.shape[axis] == 1:
        return torch.cat((logits, torch.zeros_like(logits)), axis)
    return logits


def feature_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared difference over the teacher's mean square: 1 is as far as zeros are.

    As hints of FitNets (Romero et al. 2015, arXiv:1412.6550), but for the scale.

    Args:
        student: Features, projected to the teacher's shape.
        teacher: Features.

    Returns:
        A scalar.
    """
    student, teacher = student.float(), teacher.float()
    power = teacher.square().mean().clamp(min=torch.finfo(torch.float32).tiny)
    return (student - teacher).square().mean() / power


def activation_attention(student: Tensor, teacher: Tensor) -> Tensor:
    """The squared distance of normalized maps sum_c x_c^2 (Zagoruyko and Komodakis 2017, arXiv:1612.03928).

    Args:
        student: [batch, channels, ...]
        teacher: The same but for the channels.

    Returns:
        A scalar in [0, 2].
    """
    maps = (nn.functional.normalize(each.float().square().mean(1).flatten(1)) for each in (student, teacher))
    return torch.sub(*maps).square().sum(1).mean()


def attention_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of each query's attention (MiniLM: Wang et al. 2020, arXiv:2002.10957).

    Where the numbers of heads differ, their means are compared.

    Args:
        student: [batch, heads, queries, keys] or [batch, queries, keys]; rows sum to 1.
        teacher: The same but for the heads.

    Returns:
        A scalar.
    """
    student, teacher = student.float(), teacher.float()
    if student.shape != teacher.shape:
        student, teacher = (each.mean(1) if each.ndim == 4 else each for each in (student, teacher))
    least = torch.finfo(torch.float32).tiny
    sees = ~(student + teacher).isnan().any(-1)  # a query that may see no key has no attention
    student, teacher = student[sees], teacher[sees]
    return (torch.xlogy(teacher, teacher) - teacher * student.clamp(min=least).log()).sum(-1).mean()


def same_places(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Images of features at the same places: the larger is averaged to the smaller's height and width."""
    if not student.ndim == teacher.ndim == 4 or student.shape[2:] == teacher.shape[2:]:
        return student, teacher
    size = min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3])
    student, teacher = (nn.functional.adaptive_avg_pool2d(each, size) for each in (student, teacher))
    return student, teacher


class Projection(nn.Module):
    """A matrix along one axis, from the student's width to the teacher's; learned, without bias.

    Args:
        given: The student's width.
        wanted: The teacher's.
        axis: Where it lies, from the front.
    """

    def __init__(self, given: int, wanted: int, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.weight = nn.Parameter(torch.zeros(wanted, given))

    @torch.no_grad()
    def fit(self, student: Tensor, teacher: Tensor) -> Projection:
        """Start from the least squares of a batch, drawn to zero since a batch is little."""
        x, y = (each.float().movedim(self.axis, -1).flatten(0, -2) for each in (student, teacher))
        square = x.T @ x
        ridge = (RIDGE * square.diagonal().mean()).clamp(min=1e-12) * torch.eye(len(square), device=x.device)
        self.weight = nn.Parameter(torch.linalg.solve(square + ridge, x.T @ y).T.contiguous())
        return self

    def forward(self, features: Tensor) -> Tensor:
        """Features with the teacher's width."""
        return nn.functional.linear(features.float().movedim(self.axis, -1), self.weight).movedim(-1, self.axis)


def projection_axis(student: Tensor, teacher: Tensor, what: str) -> int | None:
    """The one axis along which widths differ; None where none does. InputError where no matrix could help."""
    differ = [axis for axis, (a, b) in enumerate(zip(student.shape, teacher.shape, strict=False)) if a != b]
    if student.ndim == teacher.ndim and len(differ) <= 1 and differ != [0]:
        return differ[0] if differ else None
    raise InputError(
        f"{what}: features {list(student.shape)} cannot be compared with the teacher's {list(teacher.shape)}; match "
        "modules whose features differ in one width, or give projections={module: a module that maps them}"
    )
