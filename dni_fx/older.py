"""What files of earlier versions say, as this version says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_MOVED = ("mean_square", "seen")


def interfaces_of(meta: Mapping[str, Any]) -> Mapping[str, str]:
    """The interface of each boundary; an older file has one for all."""
    if _is_older(meta):
        return {name: str(meta["interface"]) for name in meta["synthesizers"]}
    return meta["interfaces"]


def state_of(meta: Mapping[str, Any], state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The state of the synthesizers; an older file has counted no steps, and its boundaries had no guard."""
    if not _is_older(meta):
        return state
    found = {"steps": torch.zeros((), dtype=torch.long)}
    found |= {f"{name}.guard.state": torch.zeros(3) for name in meta["synthesizers"]}
    for key, value in state.items():
        boundary, _, rest = key.partition(".")
        found[f"{boundary}.scale.{rest}" if rest in _MOVED else key] = value
    return found


def _is_older(meta: Mapping[str, Any]) -> bool:
    return "interfaces" not in meta
