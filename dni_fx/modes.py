"""The train and eval flags of a model, changed for a while."""

from __future__ import annotations

from collections.abc import Collection, Generator
from contextlib import contextmanager

from torch import nn


@contextmanager
def training_mode(model: nn.Module) -> Generator[None]:
    """A model in eval mode is in train mode inside; one in train mode stays as it is, part by part."""
    with kept_modes(model):
        if not model.training:
            model.train()
        yield


def resume_training(model: nn.Module, frozen: Collection[nn.Module]) -> list[nn.Module]:
    """Put a model that is in eval mode in train mode, but for its frozen parts, which stay in eval mode.

    One that is in train mode stays as it is. Returns the parts that are in eval mode now.
    """
    if not model.training:
        still = [part for part in frozen if not part.training]
        model.train()
        for part in still:
            part.training = False
    return [part for part in model.modules() if not part.training]


@contextmanager
def eval_mode(model: nn.Module) -> Generator[None]:
    """The model is in eval mode inside."""
    with kept_modes(model):
        model.eval()
        yield


@contextmanager
def kept_modes(model: nn.Module) -> Generator[None]:
    """Every module's flag is afterwards what it was before, partly frozen models included."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag
