"""The train and eval flags of a model, changed for a while."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from torch import nn


@contextmanager
def training_mode(model: nn.Module) -> Generator[None]:
    """A model in eval mode is in train mode inside; one in train mode stays as it is, part by part."""
    with kept_modes(model):
        if not model.training:
            model.train()
        yield


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
