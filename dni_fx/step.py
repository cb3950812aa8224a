"""What interfaces know of the step that is under way, and what one of them has guessed in it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Step:
    """What every DNI of one model must know of the step that is under way.

    `context` is what the synthesizers may see beside the value. `batch` is the batch size of the input,
    `gradient_scale` what the user's loop multiplies its loss by. `exact` sends true gradients up
    everywhere. With `record`, DNIs keep how well they guessed. `clock` counts the steps of compiled code.
    """

    context: Tensor | None = None
    batch: int = 1
    gradient_scale: float = 1.0
    exact: bool = False
    record: bool = False
    clock: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.long, device="cpu"), repr=False)


@dataclass
class Synthesis:
    """One guess: per-sample gradients, the units that they are in, and what they were made for."""

    gradients: tuple[Tensor, ...]
    units: Tensor
    objective: Tensor | None
    batch: int
    gradient_scale: float
    record: bool
    fired: bool = field(default=False)
