"""A tiny model of a published architecture, as data."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

LIBRARY = "transformers"


@dataclass(frozen=True)
class Architecture:
    """A class of the library, what makes the keyword inputs of one call, and options of its configuration.

    Weights are random. Dropout is what the architecture has by default.
    """

    task: str
    inputs: Callable[[int], dict[str, Any]]
    options: Mapping[str, Any] = field(default_factory=dict)
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float64)

    def model(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """The model in train mode and in this type, with the same weights each time."""
        cls = getattr(importlib.import_module(LIBRARY), self.task)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return cls(cls.config_class(**self.options)).to(dtype).train()

    def call(self, batch: int = 2, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
        """Keyword inputs for so many samples, the same ones each time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(batch)
            inputs = self.inputs(batch)
        return pytree.tree_map_only(Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, inputs)
