"""Small models, each named for the one thing about its graph that can go wrong."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.zoo import images, plain, recurrent, state, structure

Made = tuple[nn.Module, tuple[Any, ...]]
"""A model and the positional inputs of one call, three samples of them."""

ZOO: dict[str, Callable[[], Made]] = {
    **plain.MODELS,
    **structure.MODELS,
    **state.MODELS,
    **images.MODELS,
    **recurrent.MODELS,
}


def made(name: str) -> Made:
    """The model and its inputs in float64, the same ones each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, inputs = ZOO[name]()
    return model.double(), resized(inputs, 3)


def resized(inputs: tuple[Any, ...], batch: int) -> tuple[Any, ...]:
    """The inputs with another batch size and floats in float64: rows over again, smaller each time."""
    return tuple(_resized(value, batch) for value in inputs)


def _resized(value: Tensor, batch: int) -> Tensor:
    index = torch.arange(batch)
    rows = value[index % len(value)]
    if not value.is_floating_point():
        return rows
    fade = 1 + index.div(len(value), rounding_mode="floor")
    return rows.double() / fade.view(-1, *[1] * (value.dim() - 1))
