"""The module under which the interfaces of a model live."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from dni_fx.keys import copied_under


class Interfaces(nn.Module):
    """Holds the DNIs of a model by the names of their boundaries, and counts their steps.

    State that is loaded before the boundary is there waits for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._waiting: dict[str, Tensor] = {}
        self._number: int | None = None
        with torch.inference_mode(False):  # it is counted in place, whatever mode the model was cut in
            self.register_buffer("steps", torch.zeros((), dtype=torch.long, device="cpu"))

    def count(self) -> int:
        """One more step has begun; returns how many there are."""
        if self._number is None:
            self._number = int(self.get_buffer("steps"))
        self._number += 1
        self.get_buffer("steps").fill_(self._number)
        return self._number

    def settle(self, name: str) -> None:
        """Load what waited for the boundary that has just been filled."""
        mine = {key: value for key, value in self._waiting.items() if key.startswith(f"{name}.")}
        if mine:
            self.get_submodule(name).load_state_dict({k.removeprefix(f"{name}."): v for k, v in mine.items()})
            self._waiting = {key: value for key, value in self._waiting.items() if key not in mine}

    @override
    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination |= {f"{prefix}{key}": value for key, value in self._waiting.items()}

    @override
    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        self._number = None
        if dict(self.named_children()):
            return super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        mine = copied_under(state_dict, prefix)
        if "steps" in mine:
            self.get_buffer("steps").copy_(mine.pop("steps"))
        self._waiting |= mine
        return None
