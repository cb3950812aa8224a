"""Small models, each named for the one thing about its graph that can go wrong."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.zoo import (
    algebra,
    attention,
    calls,
    chance,
    choosing,
    control,
    images,
    memory,
    norms,
    outputs,
    plain,
    recurrent,
    state,
    structure,
    weights,
)

Made = tuple[nn.Module, tuple[Any, ...]]
"""A model and the positional inputs of one call, three samples of them."""

SAMPLES = 3

ZOO: dict[str, Callable[[], Made]] = {
    **plain.MODELS,
    **structure.MODELS,
    **outputs.MODELS,
    **calls.MODELS,
    **control.MODELS,
    **state.MODELS,
    **memory.MODELS,
    **chance.MODELS,
    **weights.MODELS,
    **norms.MODELS,
    **images.MODELS,
    **recurrent.MODELS,
    **attention.MODELS,
    **choosing.MODELS,
    **algebra.MODELS,
}

NEEDS_TWO_SAMPLES = {"batch-norm", "one-norm-for-all", "batch-norms"}
"""Models that refuse a batch of one themselves."""


def made(name: str) -> Made:
    """The model and its inputs in float64, the same ones each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, inputs = ZOO[name]()
    return model.double(), resized(inputs, SAMPLES)


def resized(inputs: tuple[Any, ...], batch: int) -> tuple[Any, ...]:
    """The inputs with another batch size and floats in float64: samples over again, smaller each time.

    The first dimension of a tensor that is as long as there are samples holds them; a tensor that has
    none such stays as long as it is.
    """
    return tuple(_resized(value, batch) for value in inputs)


def _resized(value: Tensor, batch: int) -> Tensor:
    value = value.double() if value.is_floating_point() else value
    if SAMPLES not in value.shape:
        return value
    along = value.shape.index(SAMPLES)
    index = torch.arange(batch)
    rows = value.index_select(along, index % SAMPLES)
    if not value.is_floating_point():
        return rows
    fade = 1 + index.div(SAMPLES, rounding_mode="floor")
    return rows / fade.view(-1, *[1] * (value.dim() - along - 1))
