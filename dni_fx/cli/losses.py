"""Losses that the command line knows by name, or looks up."""

from __future__ import annotations

from typing import Any, cast

import torch.nn.functional as F
import torch.utils._pytree as pytree
from torch import Tensor

from dni_fx.cli.code import look_up
from dni_fx.cli.commands.training import CROSS_ENTROPY
from dni_fx.decoupled import Decoupled, cutting_of
from dni_fx.errors import DniError, FileError
from dni_fx.feedback import writes_of
from dni_fx.fields import with_fields
from dni_fx.runtimes import Loss
from passes import Registry
from passes.words import counted

_NO_LABEL = -100
"""What torch takes no loss of."""


def cross_entropy(outputs: Any, target: Tensor) -> Tensor:
    """Mean cross entropy of scores and class numbers, of every token or pixel where there are several.

    Raises:
        DniError: the target has not one class number for each row of scores.
    """
    scores = _classes_last(outputs, target)
    return F.cross_entropy(scores.flatten(0, -2), target.flatten())


def check_labels(outputs: Any, few: Tensor, labels: Tensor, where: str) -> None:
    """Do nothing if the model has a score for every label; the label -100 stands for none.

    `outputs` are those for `few` of the labels.

    Raises:
        DniError: a label is none of the classes, or is no class number.
    """
    last = classes_of(outputs, few)
    wrong = labels[(labels != _NO_LABEL) & ((labels < 0) | (labels >= last))]
    if wrong.numel():
        worst = int(wrong.max() if int(wrong.max()) >= last else wrong.min())
        raise DniError(f"{where} has the label {worst}, and the model has {counted(last, 'output')}.")


def classes_of(outputs: Any, few: Tensor) -> int:
    """How many classes a model has scores for.

    Raises:
        DniError: the target has not one class number for each row of scores.
    """
    return _classes_last(outputs, few).shape[-1]


def accuracy(outputs: Any, target: Tensor) -> Tensor:
    """Part of the class numbers that have the largest score."""
    return (_classes_last(outputs, target).argmax(-1) == target).float().mean()


def mse(outputs: Any, target: Tensor) -> Tensor:
    """Mean squared error.

    Raises:
        DniError: output and target differ in shape, which would be broadcast in silence.
    """
    value = first_tensor(outputs)
    if value.shape != target.shape:
        raise DniError(
            f"mse needs targets of the output's shape {tuple(value.shape)}, and got {tuple(target.shape)}."
        )
    return F.mse_loss(value, target.to(value.dtype))


LOSSES: Registry[Loss] = Registry("loss", {CROSS_ENTROPY: cross_entropy, "mse": mse})


def loss_of(text: str) -> Loss:
    """The loss of this name, or package.module:function.

    Raises:
        FileError: there is no such function, or it is none.
        UnknownNameError: no loss has this name.
    """
    if ":" not in text:
        return LOSSES.get(text)
    found: Any = look_up(text, "--loss")
    if callable(found):
        return cast("Loss", found)
    raise FileError(f"--loss {text} is a {type(found).__name__}, and it has to be a function.")


def of_free_outputs(cut: Decoupled, judge: Loss) -> Loss:
    """A loss or metric that does not see the state that a model carries to its next step."""
    return lambda outputs, target: judge(free_of(cut, outputs), target)


def free_of(cut: Decoupled, outputs: Any) -> Any:
    """The outputs of a model; a list of those that are not state, if it carries some to its next step."""
    if not (paths := carried_by(cut)):
        return outputs
    flat, spec = pytree.tree_flatten(with_fields(outputs))
    taken = {at for path in paths for at in writes_of(spec, path)}
    return [each for at, each in enumerate(flat) if at not in taken]


def carried_by(cut: Decoupled) -> tuple[str, ...]:
    """The places of the outputs that a model carries to its next step."""
    return tuple(cutting_of(cut).carry.paths.values())


def first_tensor(outputs: Any) -> Tensor:
    """The first tensor of a model's outputs, which is the scores where there are several.

    Raises:
        DniError: there is none.
    """
    for leaf in pytree.tree_leaves(outputs):
        if isinstance(leaf, Tensor):
            return leaf
    raise DniError("the model returns no tensor to compute a loss of, besides the state that it carries.")


def _classes_last(outputs: Any, target: Tensor) -> Tensor:
    scores = first_tensor(outputs)
    whole = not target.is_floating_point()
    if whole and scores.shape[:-1] == target.shape:
        return scores
    if whole and scores.dim() > 1 and (scores.shape[0], *scores.shape[2:]) == tuple(target.shape):
        return scores.movedim(1, -1)
    integers = "" if whole else " Classes are integers: store them as np.int64."
    raise DniError(
        f"cross-entropy needs one class number for each row of the output {tuple(scores.shape)}, and the "
        f"targets are {tuple(target.shape)} of {str(target.dtype).removeprefix('torch.')}.{integers} For "
        "other targets use --loss mse."
    )
