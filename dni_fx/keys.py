"""Parts of state dicts."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def copied_under(state_dict: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Copies of what has keys under a prefix, by the rest of the key: whoever owns it may train on."""
    return {
        key.removeprefix(prefix): value.detach().clone()
        for key, value in state_dict.items()
        if key.startswith(prefix)
    }
