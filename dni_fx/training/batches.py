"""What a batch is."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, SupportsFloat, cast

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from dni_fx.carry import RESET
from dni_fx.errors import InputsError, StageError
from dni_fx.program import signature_of

Metric = Callable[[Any, Any], Tensor | float]
"""The model's outputs and the targets to a number; averaged over batches by their size."""


@dataclass(frozen=True)
class Batch:
    """Positional inputs, keyword inputs and targets."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    target: Any

    @staticmethod
    def of(batch: Any, device: torch.device) -> Batch:
        """A batch taken apart, its tensors on this device.

        Raises:
            StageError: it is not a pair of inputs and targets.
        """
        try:
            if isinstance(batch, Tensor | Mapping | str):
                raise TypeError  # two samples, or two keys, are no pair
            inputs, target = batch
        except (TypeError, ValueError):
            raise StageError(
                f"a batch is a pair (inputs, targets), and this one is a {type(batch).__name__}. The inputs "
                "are a tensor, a tuple of positional arguments, or a dictionary of keyword arguments."
            ) from None
        args = tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
        # torch looks into no mapping of another kind, as tokenizers return.
        parts = ((), dict(inputs), target) if isinstance(inputs, Mapping) else (args, {}, target)
        return Batch(*pytree.tree_map_only(Tensor, lambda t: t.to(device, non_blocking=True), parts))

    def part(self, share: Callable[[Any], Any]) -> Batch:
        """What `share` takes of it."""
        return Batch(*share((self.args, self.kwargs, self.target)))

    @contextmanager
    def explained(self, model: nn.Module) -> Generator[None]:
        """Inside, the model is called with the inputs.

        Raises:
            InputsError: its forward takes other ones.
        """
        try:
            yield
        except TypeError as error:
            signature, named = signature_of(model), self.named
            try:
                signature.bind(*self.args, **named)
            except TypeError as misfit:
                given = [f"{len(self.args)} by position"] * bool(self.args) + [*map(str, named)]
                raise InputsError(
                    f"the inputs of the batch do not fit {type(model).__name__}: {misfit}. The batch has "
                    f"{', '.join(given) or 'none'}; the model takes {', '.join(signature.parameters)}.",
                    self._missing(signature),
                ) from error
            raise

    def _missing(self, signature: inspect.Signature) -> tuple[str, ...]:
        try:
            given = signature.bind_partial(*self.args, **self.named).arguments
        except TypeError:
            return ()  # there is too much as well, and no telling what goes where
        optional = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
        return tuple(
            name
            for name, each in signature.parameters.items()
            if name not in given and each.default is each.empty and each.kind not in optional
        )

    @property
    def named(self) -> dict[str, Any]:
        """The keyword inputs that are the model's own."""
        return {name: value for name, value in self.kwargs.items() if name != RESET}

    @property
    def size(self) -> int:
        """How many samples there are, by the first tensor among the inputs; 1 if there is none."""
        values = (*self.args, *self.kwargs.values())
        tensors = (value for value in values if isinstance(value, Tensor) and value.dim())
        return next((tensor.shape[0] for tensor in tensors), 1)


def measured(metrics: Mapping[str, Metric], outputs: Any, target: Any) -> dict[str, Tensor | float]:
    """What each metric says of the outputs for one batch.

    Raises:
        StageError: one says something that is no number.
    """
    with torch.no_grad():
        found = {name: metric(outputs, target) for name, metric in metrics.items()}
    for name, value in found.items():
        if isinstance(value, Tensor) and value.numel() != 1:
            raise StageError(
                f"the metric {name} returned a tensor of shape {tuple(value.shape)}, not a number."
            )
        if not isinstance(cast("object", value), SupportsFloat):
            raise StageError(f"the metric {name} returned a {type(value).__name__}, not a number.")
    return found


def device_of(model: nn.Module) -> torch.device:
    """Where a model's inputs are to be: with its first parameter."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def accuracy(outputs: Tensor, target: Tensor) -> Tensor:
    """Part of the samples whose largest output, (batch, classes), is at the target's place."""
    return (outputs.argmax(-1) == target).float().mean()
