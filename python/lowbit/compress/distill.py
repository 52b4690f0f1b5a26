"""Lets a net learn from another's outputs, features and attention, in any loop.

Hooks hear what the student computes in its forward pass; `loss` runs the teacher on the same inputs and compares. The
teacher is no part of the student: its state dict, copies and optimizers do not see it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn

from ..errors import InputError
from .listening import Listener, first_tensor
from .records import record
from .teaching import (
    Projection,
    activation_attention,
    attention_divergence,
    feature_distance,
    projection_axis,
    same_places,
    soft_targets,
)

Logits = str | int | Callable[[Any], Tensor] | None
RATE = 1e-3
"""Of the Adam that trains projections: they follow features as the student changes them."""


def distill(
    net: nn.Module,
    teacher: nn.Module | Callable[..., Any],
    *,
    temperature: float = 4.0,
    weight: float = 0.9,
    match: Mapping[str, str] | None = None,
    attention: Mapping[str, str] | None = None,
    feature_weight: float = 1.0,
    attention_weight: float = 1.0,
    logits: Logits = None,
    axis: int = -1,
    projections: Mapping[str, nn.Module] | None = None,
) -> Distillation:
    """Put hooks on `net` and on `teacher`, by which the one learns from the other.

    The loss is (1 - weight) task + weight soft + feature_weight features + attention_weight attention, where soft is
    tau^2 KL of the outputs (Hinton et al. 2015, arXiv:1503.02531), and the last two are means over the pairs of modules
    that are named.

    Args:
        net: The student. Optimizers, pruning and fake quantization may come before or after.
        teacher: Is put in eval mode, called without gradients, and otherwise left as it is. Without `match` and
            `attention` it may be any function, such as a converted model, or a mean of several.
        temperature: tau: the higher it is, the more is learned of what the teacher holds for unlikely.
        weight: Of soft targets, in [0, 1]; 0 compares no outputs.
        match: `{module of the student: module of the teacher}`, by path ("" is all of it), whose outputs shall agree:
            mean squared difference over the teacher's mean square. Where widths differ, a matrix projects the
            student's: it starts from the least squares of the first batch, and `step` trains it. Images of other sizes
            are averaged to the smaller.
        attention: The same for where they look: modules that compute softmax attention by the KL divergence of their
            maps (arXiv:2002.10957), others by the squares of their activations (arXiv:1612.03928).
        feature_weight: Of `match`.
        attention_weight: Of `attention`.
        logits: What to compare of an output: a key, attribute or index, or a function of it. None: the output itself,
            its "logits", or the first tensor in it.
        axis: The classes' axis of the logits.
        projections: Modules of one's own for `match`, by the student's path: from its features to the teacher's.

    Returns:
        The handle whose `loss` is trained on.

    Raises:
        InputError: Values outside their ranges, modules that are not there or are shared, nothing to be learned.

    Examples:
        >>> import torch
        >>> big, small = torch.nn.Linear(8, 4), torch.nn.Linear(8, 4)
        >>> x, y = torch.randn(16, 8), torch.randint(4, (16,))
        >>> teacher = lowbit.compress.distill(small, big, temperature=2)
        >>> optimizer = torch.optim.SGD(small.parameters(), lr=0.1)
        >>> for _ in range(3):
        ...     loss = teacher.loss(torch.nn.functional.cross_entropy(small(x), y), x)
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        ...     teacher.step()
        >>> small = teacher.finalize()
    """
    match, attention, projections = dict(match or {}), dict(attention or {}), dict(projections or {})
    scales = {"temperature": temperature, "feature_weight": feature_weight, "attention_weight": attention_weight}
    problems = [*_problems(weight, scales, logits), *_unfit(net, teacher, match, attention, projections)]
    if not problems and not weight and not (match and feature_weight) and not (attention and attention_weight):
        problems.append("nothing would be learned: give weight, match or attention")
    if problems:
        raise InputError("; ".join(problems))
    return Distillation(
        net,
        teacher,
        match,
        attention,
        {"weight": weight, **scales},
        logits=logits,
        axis=axis,
        projections=projections,
    )


class Distillation:
    """A teacher beside a student; `lowbit.compress.distill` makes it.

    Args:
        net: The student.
        teacher: The teacher.
        match: Whose features agree, by path.
        attention: Whose attention agrees, by path.
        strengths: "weight", "temperature", "feature_weight", "attention_weight".
        logits: What to compare of an output.
        axis: The classes' axis.
        projections: From features of the student to the teacher's.

    Examples:
        >>> import torch
        >>> big, small = torch.nn.Linear(8, 64), torch.nn.Linear(8, 16)
        >>> teacher = lowbit.compress.distill(small, big, weight=0, match={"": ""})  # features alone, of another width
        >>> x = torch.randn(16, 8)  # no labels
        >>> _ = small(x)
        >>> teacher.loss(None, x).backward()
        >>> teacher.close()
    """

    def __init__(
        self,
        net: nn.Module,
        teacher: nn.Module | Callable[..., Any],
        match: Mapping[str, str],
        attention: Mapping[str, str],
        strengths: Mapping[str, float],
        *,
        logits: Logits,
        axis: int,
        projections: Mapping[str, nn.Module],
    ) -> None:
        self._net, self._teacher = net, teacher
        self._match, self._attention, self._strengths = dict(match), dict(attention), dict(strengths)
        self._logits, self._axis = logits, axis
        self._projections: dict[str, nn.Module] = dict(projections)
        self._optimizers = dict(_adams(self._projections))
        self._steps, self._is_closed = 0, False
        _HANDLES.setdefault(net, WeakSet()).add(self)
        if isinstance(teacher, nn.Module):
            teacher.eval()
        ears = (*match, *attention), attention
        self._student_ear = Listener(net, *ears, grads=True)
        self._student_ear.owner = self
        self._teacher_ear: Listener | None = None
        if isinstance(teacher, nn.Module):
            paths = (*match.values(), *attention.values()), attention.values()
            self._teacher_ear = Listener(teacher, *paths, grads=False)

    @property
    def steps(self) -> int:
        """How often `step` was called."""
        return self._steps

    def loss(self, task_loss: Tensor | None, *inputs: Any, **named: Any) -> Tensor:
        """The loss to train on, after a forward pass of the student; the teacher is called here.

        Args:
            task_loss: Against labels, a scalar; None where there are none: data without labels are as good.
            inputs: What the student was given.
            named: The same by keyword.

        Returns:
            A scalar.

        Raises:
            InputError: The student was not called before, or computes what cannot be compared with the teacher's.
        """
        self._check_open()
        ear = self._student_ear
        if ear.result is None:
            raise InputError(
                "the teacher has heard nothing of the student: call net(x), with gradients, before each "
                "teacher.loss(task_loss, x)"
            )
        if task_loss is not None and (not isinstance(task_loss, Tensor) or task_loss.ndim):
            raise InputError("task_loss must be a tensor of one number, or None, such as cross_entropy(net(x), y)")
        terms = list(self._terms(ear, self._taught(inputs, named)))
        weight = self._strengths["weight"]
        if task_loss is not None:
            terms.append((1 - weight) * task_loss)
        ear.forget()
        return torch.stack(terms).sum()

    def step(self) -> None:
        """Train the projections, by a step of Adam; where there are none, only count."""
        self._check_open()
        for path, optimizer in self._optimizers.items():
            gradients = [each.grad for each in self._projections[path].parameters() if each.grad is not None]
            if all(gradient.isfinite().all() for gradient in gradients):
                optimizer.step()
            optimizer.zero_grad()
        self._steps += 1

    def finalize(self) -> nn.Module:
        """Take the hooks off, and note on the student what it was taught (`lowbit.compress.recorded`).

        Returns:
            The student, as it is.
        """
        if not self._is_closed:
            facts = {"teacher": type(self._teacher).__name__, **self._strengths, "steps": self._steps}
            if isinstance(self._teacher, nn.Module):
                facts["parameters"] = sum(each.numel() for each in self._teacher.parameters())
            record(self._net, "distillation", **facts, match=self._match, attention=self._attention)
            self.close()
        return self._net

    def close(self) -> None:
        """Take the hooks off; the handle cannot be used any more."""
        self._is_closed = True
        _HANDLES.get(self._net, WeakSet()).discard(self)
        for ear in (self._student_ear, self._teacher_ear):
            if ear is not None:
                ear.close()

    def state_dict(self) -> dict[str, Any]:
        """Where the teaching stands, for torch.save beside the state dicts of the student and the optimizer.

        Returns:
            Steps, projections with their optimizers, and what `distill` was asked for; nothing of the teacher.

        Raises:
            InputError: The handle is closed.
        """
        self._check_open()
        return {
            "asked": self._asked(),
            "steps": self._steps,
            "projections": {path: module.state_dict() for path, module in self._projections.items()},
            "optimizers": {path: optimizer.state_dict() for path, optimizer in self._optimizers.items()},
            "axes": {path: each.axis for path, each in self._projections.items() if isinstance(each, Projection)},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another handle was, of the same arguments.

        Args:
            state: What `state_dict` gave.

        Raises:
            InputError: A state of other arguments; the message lists all that differs, and nothing is changed.
        """
        self._check_open()
        keys = {"asked", "steps", "projections", "optimizers", "axes"}
        if not isinstance(state, Mapping) or set(state) != keys:
            raise InputError(
                f"the state is no state_dict() of a lowbit.compress.Distillation, which has {sorted(keys)}"
            )
        here, there = self._asked(), dict(state["asked"])
        differ = [key for key in dict.fromkeys((*here, *there)) if here.get(key) != there.get(key)]
        if differ:
            told = "; ".join(f"{key} is {here.get(key)!r} here, {there.get(key)!r} there" for key in differ)
            raise InputError(f"the state is of another distillation: {told}")
        projections = {path: self._restored(path, saved, state["axes"]) for path, saved in state["projections"].items()}
        self._projections = projections
        self._optimizers = dict(_adams(projections))
        for path, saved in state["optimizers"].items():
            self._optimizers[path].load_state_dict(saved)
        self._steps = state["steps"]

    def _restored(self, path: str, saved: Mapping[str, Tensor], axes: Mapping[str, int]) -> nn.Module:
        module = self._projections.get(path)
        if module is None or path in axes:
            wanted, given = saved["weight"].shape
            module = Projection(given, wanted, axes[path])
        try:
            module.load_state_dict(saved)
        except RuntimeError as error:
            raise InputError(f"the projection of {path!r} in the state does not fit: {error}") from error
        return module

    def _asked(self) -> dict[str, Any]:
        """What a state must agree with, in plain values."""
        logits = self._logits if isinstance(self._logits, str | int | None) else "a function"
        paths = {"match": self._match, "attention": self._attention}
        given = [path for path in self._match if not isinstance(self._projections.get(path), Projection | None)]
        return {**self._strengths, **paths, "logits": logits, "axis": self._axis, "projections": given}

    def _check_open(self) -> None:
        if self._is_closed:
            raise InputError("the distillation is closed: its hooks are gone; call lowbit.compress.distill again")

    def __repr__(self) -> str:
        pairs = [f"{what} of {a!r} from {b!r}" for what, a, b in self._pairs()]
        strengths = ", ".join(f"{key} {value:g}" for key, value in self._strengths.items())
        return "\n".join([f"Distillation from a {type(self._teacher).__name__}: {strengths}", *pairs])

    def _pairs(self) -> Iterator[tuple[str, str, str]]:
        yield from (("features", *pair) for pair in self._match.items())
        yield from (("attention", *pair) for pair in self._attention.items())

    # ----------------------------------------------------------------------------------------------------------- terms

    @torch.no_grad()
    def _taught(self, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if isinstance(self._teacher, nn.Module):
            self._teacher.eval()
        return self._teacher(*inputs, **named)

    def _terms(self, ear: Listener, result: Any) -> Iterator[Tensor]:
        """All but the task's, each times its weight."""
        strengths = self._strengths
        if strengths["weight"]:
            student, teacher = self._logits_of(ear.result, "the student"), self._logits_of(result, "the teacher")
            if student.shape != teacher.shape:
                raise InputError(
                    f"the student's logits are {list(student.shape)}, the teacher's {list(teacher.shape)}: call both "
                    "with the same inputs, or say what to compare by logits="
                )
            soft = soft_targets(student, teacher, strengths["temperature"], self._axis)
            yield strengths["weight"] * soft
        told = self._teacher_ear
        if told is None:
            return
        for path, other in self._match.items():
            for student, teacher in _calls(ear.heard, told.heard, path, other, "match"):
                share = strengths["feature_weight"] / (len(self._match) * len(ear.heard[path]))
                yield share * feature_distance(*self._projected(path, student, teacher))
        for path, other in self._attention.items():
            yield strengths["attention_weight"] / len(self._attention) * _attention(ear, told, path, other)
        told.forget()

    def _logits_of(self, output: Any, whose: str) -> Tensor:
        found = _chosen(output, self._logits)
        if not isinstance(found, Tensor) or not found.is_floating_point() or found.ndim < 1:
            what = f"{found.dtype} {list(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise InputError(f"the logits of {whose} are {what}, must be numbers for each class: say where by logits=")
        return found

    def _projected(self, path: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        student, teacher = same_places(student, teacher)
        if path not in self._projections:
            axis = projection_axis(student, teacher, f"match={{{path!r}: {self._match[path]!r}}}")
            if axis is None:
                return student, teacher
            made = Projection(student.shape[axis], teacher.shape[axis], axis).fit(student, teacher)
            self._projections[path] = made
            self._optimizers.update(_adams({path: made}))
        student = self._projections[path](student)
        if student.shape != teacher.shape:
            raise InputError(
                f"match={{{path!r}: {self._match[path]!r}}}: the projection gives {list(student.shape)}, the teacher "
                f"has {list(teacher.shape)}"
            )
        return student, teacher


_HANDLES: WeakKeyDictionary[nn.Module, WeakSet[Distillation]] = WeakKeyDictionary()
"""Those that are open, by the student."""


def release(net: nn.Module) -> None:
    """Finalize every distillation whose student is `net` or a module in it."""
    for module in net.modules():
        for handle in list(_HANDLES.get(module, ())):
            handle.finalize()


def _attention(ear: Listener, told: Listener, path: str, other: str) -> Tensor:
    """The mean over the calls of a pair of modules: by maps where the modules made some, else by activations."""
    maps = ear.maps.get(path), told.maps.get(other)
    if all(maps):
        kind, pairs = attention_divergence, list(_calls(ear.maps, told.maps, path, other, "attention"))
    elif any(maps):
        raise InputError(
            f"attention={{{path!r}: {other!r}}}: only the {'student' if maps[0] else 'teacher'}'s computes softmax "
            "attention; name modules of one kind"
        )
    else:
        kind = activation_attention
        pairs = [same_places(*pair) for pair in _calls(ear.heard, told.heard, path, other, "attention")]
    for student, teacher in pairs:
        axis = slice(2, None) if kind is activation_attention else slice(-2, None)
        if student.ndim < 3 or teacher.ndim < 3 or student.shape[axis] != teacher.shape[axis]:
            raise InputError(
                f"attention={{{path!r}: {other!r}}}: {list(student.shape)} and {list(teacher.shape)} are no maps of "
                "the same places; name modules that give [batch, channels, height, width], or compute attention"
            )
    return torch.stack([kind(*pair) for pair in pairs]).mean()


def _calls(
    ours: Mapping[str, list[Tensor]], theirs: Mapping[str, list[Tensor]], path: str, other: str, what: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """What a module gave in each call, beside what the teacher's gave."""
    a, b = ours.get(path, []), theirs.get(other, [])
    if not a or len(a) != len(b):
        raise InputError(
            f"{what}={{{path!r}: {other!r}}}: the student's module gave {len(a)} tensor(s) in its forward pass, the "
            f"teacher's {len(b)}; name modules that are called as often as each other"
        )
    return zip(a, b, strict=True)


def _chosen(output: Any, logits: Logits) -> Any:
    """What `logits` means of an output."""
    if callable(logits):
        return logits(output)
    if logits is None:
        named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
        return first_tensor(output) if named is None else named
    if isinstance(logits, str) and hasattr(output, logits):
        return getattr(output, logits)
    try:
        if isinstance(output, Tensor):
            raise TypeError("one tensor")
        return output[logits]
    except (KeyError, IndexError, TypeError) as error:
        kind = (
            f"{type(output).__name__} with {list(output)[:9]}" if isinstance(output, Mapping) else type(output).__name__
        )
        raise InputError(f"logits={logits!r} is nothing that an output has: it is a {kind}") from error


def _adams(projections: Mapping[str, nn.Module]) -> Iterator[tuple[str, torch.optim.Optimizer]]:
    """One for each module that has something to train."""
    for path, module in projections.items():
        if parameters := [each for each in module.parameters() if each.requires_grad]:
            yield path, torch.optim.Adam(parameters, lr=RATE)


# --------------------------------------------------------------------------------------------------------------- checks


def _problems(weight: Any, scales: Mapping[str, Any], logits: Any) -> Iterator[str]:
    if not _is_number(weight) or not 0 <= weight <= 1:
        yield f"weight must be a share in [0, 1], is {weight!r}"
    for name, value in scales.items():
        if not _is_number(value) or not 0 <= value < math.inf or (name == "temperature" and not value):
            yield f"{name} must be a positive number, is {value!r}"
    if logits is not None and not isinstance(logits, str | int) and not callable(logits):
        yield f"logits must be a key, an index or a function of an output, is a {type(logits).__name__}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _unfit(
    net: Any, teacher: Any, match: Mapping[str, str], attention: Mapping[str, str], projections: Mapping[str, Any]
) -> Iterator[str]:
    """What is wrong with the modules."""
    if not isinstance(net, nn.Module):
        yield f"the student must be a torch.nn.Module, not a {type(net).__name__}"
        return
    if not isinstance(teacher, nn.Module):
        if not callable(teacher):
            yield f"the teacher must be a torch.nn.Module or a function, not a {type(teacher).__name__}"
        elif match or attention:
            yield "match and attention need a teacher that is a torch.nn.Module"
        return
    if {id(module) for module in net.modules()} & {id(module) for module in teacher.modules()}:
        yield "student and teacher share modules, which cannot be trained and fixed at once: copy.deepcopy the teacher"
    for what, pairs in (("match", match), ("attention", attention)):
        for whose, module, paths in (("student", net, pairs), ("teacher", teacher, pairs.values())):
            known = dict(module.named_modules())
            for path in paths:
                if path not in known:
                    yield f"{what}: the {whose} has no module {path!r}; it has {[*filter(None, known)][:20]}"
    for path, projection in projections.items():
        if path not in match:
            yield f"projections: {path!r} is not in match"
        if not isinstance(projection, nn.Module):
            yield f"projections: {path!r} must have a torch.nn.Module, not a {type(projection).__name__}"
