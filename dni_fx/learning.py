"""The optimizer that a synthesizer owns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from dni_fx.interface import Interface


class Adam(nn.Module):
    """Adam whose state are buffers: it moves, is saved and is copied with the module that it serves.

    Gradients are added up by `collect` and used by `step`, so a learner's own parameters never have a
    `.grad` that an optimizer, a clipping or a weight decay of the user could take hold of.

    Sources:
        Kingma and Ba 2015, https://arxiv.org/abs/1412.6980; the update is `torch.optim.adam.adam`.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], settings: Interface) -> None:
        super().__init__()
        self.settings = settings
        parameters = list(parameters)
        self.size = len(parameters)
        for i, parameter in enumerate(parameters):
            for kind in ("first", "second", "pending"):
                self.register_buffer(f"{kind}_{i}", torch.zeros_like(parameter, requires_grad=False))
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("is_pending", torch.zeros((), dtype=torch.long))  # averages take no bool
        self._has_pending: bool | None = None

    def collect(self, gradients: Sequence[Tensor | None]) -> None:
        """Add one gradient per parameter to those that wait for the next step."""
        first = not self.has_pending
        for total, gradient in zip(self._all("pending"), gradients, strict=True):
            if first:
                total.copy_(gradient) if gradient is not None else total.zero_()
            elif gradient is not None:
                total.add_(gradient)
        self._mark(True)

    @torch.no_grad()
    def step(self, parameters: Sequence[nn.Parameter], pace: float = 1.0) -> None:
        """Move the parameters by what was collected since the last step; nothing happens if nothing was.

        `pace` multiplies the learning rate.
        """
        if not self.size or not self.has_pending:
            return
        self.steps: Tensor
        pending = self._all("pending")
        fused = _is_fused(pending)
        adam(
            list(parameters),
            pending,
            self._all("first"),
            self._all("second"),
            [],
            # The update counts in place, one counter a parameter.
            [counter := self.steps] + [self.steps.clone() for _ in range(self.size - 1)],
            amsgrad=False,
            beta1=self.settings.beta1,
            beta2=self.settings.beta2,
            lr=self.settings.lr * pace,
            weight_decay=self.settings.decay,
            eps=1e-8,
            maximize=False,
            fused=fused,
            foreach=False,
            decoupled_weight_decay=True,
        )
        assert counter is self.steps
        if fused:  # one kernel does not say that it has written
            torch.autograd.graph.increment_version(parameters)
        self._mark(False)

    def _all(self, kind: str) -> list[Tensor]:
        buffers: dict[str, Tensor] = vars(self)["_buffers"]
        return [buffers[f"{kind}_{i}"] for i in range(self.size)]

    @property
    def has_pending(self) -> bool:
        """Whether anything was collected since the last step."""
        if self._has_pending is None:
            self._has_pending = bool(self.get_buffer("is_pending"))
        return self._has_pending

    def _mark(self, pending: bool) -> None:
        # The Python flag saves a synchronization with the device a step; the buffer is what is saved.
        self.get_buffer("is_pending").fill_(pending)
        self._has_pending = pending

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._has_pending = None


def _is_fused(gradients: Sequence[Tensor]) -> bool:
    """Whether one kernel can do it all, as PyTorch has it for these devices and types."""
    return all(
        each.device.type in {"cpu", "cuda"} and each.dtype in {torch.float32, torch.float64}
        for each in gradients
    )
