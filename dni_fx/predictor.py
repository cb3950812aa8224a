"""Synthetic inputs: what a stage would be sent, told from the inputs of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from dni_fx.foresight import network_for
from dni_fx.interface import Interface
from dni_fx.keys import copied_under
from dni_fx.learning import Adam
from dni_fx.scale import Scale
from passes import BoundarySpec


class Predictor(nn.Module):
    """Predicts the values of one boundary from the model's inputs; a runtime that does so fills it.

    It learns from the real values, by the mean of the squares of the differences in units of each value's
    running root mean square, with an optimizer of its own. Labels are no input of it: later stages would
    learn to read them off the prediction, and find none in the real values.

    Empty, it has no key in the state dict, and state that is loaded waits until it is filled.

    Sources:
        Jaderberg et al. 2017, https://arxiv.org/abs/1608.05343, section 3.3 ("complete unlock").
    """

    def __init__(self) -> None:
        super().__init__()
        self.networks: nn.ModuleList | None = None
        self._waiting: dict[str, Tensor] = {}

    def fill(
        self, spec: BoundarySpec, settings: Interface, inputs: Sequence[Tensor], device: torch.device
    ) -> None:
        """Make its networks for inputs like these. Random state is left as it was.

        Raises:
            StageError: a value has a shape that cannot be predicted.
        """
        with torch.random.fork_rng(devices=[]):
            self.networks = nn.ModuleList(network_for(spec, value, inputs) for value in spec.values)
        self.optimizer = Adam(self.networks.parameters(), settings)
        self.scale = Scale(len(spec.values))
        self.to(device)
        if self._waiting:
            waiting, self._waiting = self._waiting, {}
            self.load_state_dict(waiting)

    def predict(self, inputs: Sequence[Tensor], real: Sequence[Tensor], learns: bool) -> tuple[Tensor, ...]:
        """What these values are thought to be, detached; if it `learns`, it has learned when it returns.

        Nothing but the shape of the real values is in what is returned.
        """
        assert self.networks is not None
        units = self._units()
        with torch.set_grad_enabled(learns):
            told = [network(inputs, value) for network, value in zip(self.networks, real, strict=True)]
        if learns:
            self._learn(told, real)
        both = zip(told, units, real, strict=True)
        return tuple((each.detach() * unit).to(value.dtype) for each, unit, value in both)

    def _units(self) -> Tensor:
        """What the networks predict in: each value's root mean square, 1 where it is not known yet or 0."""
        units = self.scale.units()
        return torch.where(units > 0, units, 1.0)

    def _learn(self, told: Sequence[Tensor], real: Sequence[Tensor]) -> None:
        assert self.networks is not None
        squares = [float(value.detach().float().square().mean()) for value in real]
        if not all(square < _LARGEST for square in squares):
            return  # nor is it a number
        self.scale.observe(squares)
        units = self._units()
        both = zip(told, real, units, strict=True)
        errors = [
            (each - value.detach().to(each) / unit.to(each)).square().mean() for each, value, unit in both
        ]
        parameters = list(self.networks.parameters())
        self.optimizer.collect(torch.autograd.grad(errors, parameters, allow_unused=True))
        self.optimizer.step(parameters)

    @override
    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination |= {f"{prefix}{key}": value for key, value in self._waiting.items()}

    @override
    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        if self.networks is not None:
            return super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._waiting = copied_under(state_dict, prefix)
        return None


_LARGEST = torch.finfo(torch.float32).max
