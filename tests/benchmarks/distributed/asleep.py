"""Nets whose stages sleep where others compute, so that many processes need few cores."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.benchmarks.distributed.nets import TASKS, Task

WIDTH, SIZE = 64, 32
_FORWARD, _BACKWARD = 0.02, 0.04
"""Seconds of a stage for a whole batch."""


@torch.library.custom_op("benchmarks::sleep", mutates_args=())
def _sleep(x: Tensor, forward: float, backward: float) -> Tensor:
    time.sleep(forward * len(x) / SIZE)
    return x.clone()


@_sleep.register_fake
def _(x: Tensor, forward: float, backward: float) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("benchmarks::sleep_backward", mutates_args=())
def _sleep_backward(gradient: Tensor, seconds: float) -> Tensor:
    time.sleep(seconds * len(gradient) / SIZE)
    return gradient.clone()


@_sleep_backward.register_fake
def _(gradient: Tensor, seconds: float) -> Tensor:
    return torch.empty_like(gradient)


def _keep(ctx: Any, inputs: tuple[Tensor, float, float], output: Tensor) -> None:
    ctx.seconds = inputs[2]


def _back(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    return _sleep_backward(gradient, ctx.seconds), None, None


_sleep.register_autograd(_back, setup_context=_keep)


class Sleeper(nn.Module):
    """A small layer that sleeps in its forward and in its backward pass, as long as the batch is large."""

    def __init__(self, pace: float, width: int) -> None:
        super().__init__()
        self.forward_seconds, self.backward_seconds = pace * _FORWARD, pace * _BACKWARD
        self.inner = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, *features) to the same."""
        return _sleep(self.inner(x), self.forward_seconds, self.backward_seconds)


def sleeping(paces: Sequence[float], features: tuple[int, ...] = (WIDTH,)) -> Task:
    """A net of as many stages, each so many times as slow as the fastest that there is."""
    blocks: Callable[[], list[nn.Module]] = lambda: [Sleeper(pace, features[-1]) for pace in paces]  # noqa: E731
    return Task(
        blocks,
        lambda size: (torch.randn(size, *features), torch.randn(size, *features)),
        F.mse_loss,
        SIZE,
        0,
        "linear",
    )


PACES: dict[str, Callable[[int], list[float]]] = {
    "brief": lambda ranks: [0.1] * ranks,
    "even": lambda ranks: [1.0] * ranks,
    "slow": lambda ranks: [2.5 if rank == ranks // 2 else 1.0 for rank in range(ranks)],
    "rising": lambda ranks: [1 + rank / (ranks - 1) for rank in range(ranks)],
}
"""How slow the stages are, by name: one slow one among many, or each slower than the one before."""
_LIKE_GPT = "gpt-asleep"
NETS = (*TASKS, *PACES, _LIKE_GPT)
"""All there are: those that compute, those that sleep, and one that sends what the GPT does and sleeps."""


def task_of(net: str, ranks: int) -> Task:
    """The net of this name for so many ranks."""
    if net == _LIKE_GPT:
        return sleeping([7.5] * ranks, (64, 192))
    return TASKS[net] if net in TASKS else sleeping(PACES[net](ranks))
