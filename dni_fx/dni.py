"""The synthetic-gradient node.

Jaderberg et al. 2017, "Decoupled Neural Interfaces using Synthetic Gradients",
https://arxiv.org/abs/1608.05343. This file and `release.py` are the two that bend autograd.

    value ────────────┬──────────────────▶ value        forward: identity
                      ▼
                 synthesizer
                      │ synthetic
    synthetic ◀───────┤◀────────────────── true         backward: the guess goes up,
                      ▼                                 the truth stays here
          d/d guess  mean((guess - true)²)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from typing_extensions import override

from dni_fx.compiled import interfaced, number_of
from dni_fx.errors import StageError, SynthesizerError
from dni_fx.interface import Interface
from dni_fx.learning import Adam
from dni_fx.step import Step, Synthesis
from dni_fx.synthesizers import Synthesizer
from passes import BoundarySpec

_MEMORY = 0.99
"""How much of the running mean square of the targets stays at each new one."""


class DNI(nn.Module):
    """Fills a boundary. Forward is the identity; backward sends a guess instead of the truth.

    Synthesizers see per-sample gradients (times the batch size, since a mean loss divides by it) in
    units of their running root mean square, so neither batch size nor the scale of the loss matters.
    """

    def __init__(
        self, spec: BoundarySpec, synthesizer: Synthesizer, interface: Interface, step: Step
    ) -> None:
        super().__init__()
        self.spec = spec
        self.interface = interface
        self.synthesizer = synthesizer
        self.learner = synthesizer.build(spec)
        self.optimizer = Adam(self.learner.parameters(), interface.lr) if interface.lr else None
        self.register_buffer("mean_square", torch.zeros(len(spec.values)))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.cosine: Tensor | None = None
        self.__dict__["now"] = step  # shared by all DNIs of a model
        self._count: int | None = None
        self._number = number_of(self)
        self._apply(lambda tensor: tensor)  # a learner for half precision is kept in full precision, too

    @property
    def mix(self) -> float:
        """The part of the true gradient in what goes up now: 1 while warming up."""
        now: Step = self.__dict__["now"]
        if self.synthesizer.exact or now.exact or self._is_warming():
            return 1.0
        return self.interface.mix

    @override
    def forward(self, value: Tensor) -> Tensor:
        """(batch, *features) to (batch, *features), unchanged.

        Raises:
            SynthesizerError: the guess has not the shape of the value.
        """
        now: Step = self.__dict__["now"]
        if not (torch.is_grad_enabled() and value.requires_grad):
            return value
        if torch.compiler.is_dynamo_compiling():
            return interfaced(value, now.clock, self._number)
        mix = self.mix
        if not self._guesses(mix):
            return value
        synthesis = self.synthesize((value.detach(),))
        return cast("Tensor", _Substitute.apply(self, synthesis, mix, value))

    def guess(self, value: Tensor) -> tuple[Synthesis | None, float]:
        """A guess, if one is needed, for a value in compiled code, and the part of the true gradient.

        The value is copied for the learner: compiled code writes to its memory before backward.
        """
        mix = self.mix
        if not self._guesses(mix):
            return None, mix
        return self.synthesize((value.clone() if self._learns(None) else value,)), mix

    def learn(self, guessed: tuple[Synthesis | None, float], true: Tensor) -> Tensor:
        """What goes up from a value in compiled code when the true gradient has arrived.

        Raises:
            StageError: this guess was regressed already.
        """
        synthesis, mix = guessed
        up = (true,) if synthesis is None else self.answer(synthesis, (true,), (true,), mix)
        return cast("Tensor", up[0])

    def answer(
        self, synthesis: Synthesis, values: Sequence[Tensor], true: Sequence[Tensor | None], mix: float
    ) -> tuple[Tensor | None, ...]:
        """What `upward` sends when the true gradients arrive, after which the guess is regressed on them.

        Raises:
            StageError: this guess was regressed already.
        """
        up = () if synthesis.fired else self.upward(synthesis, values, true, mix)
        self.regress(synthesis, true)
        return up

    def synthesize(self, values: tuple[Tensor, ...]) -> Synthesis:
        """A guess for detached values, each `(batch, *features)`, with a graph to the learner's parameters.

        Raises:
            SynthesizerError: a guess has not the shape of its value.
        """
        now: Step = self.__dict__["now"]
        with torch.set_grad_enabled(self._learns(now)):
            guess = self.learner(values, now.context)
        for value, gradient, known in zip(values, guess.gradients, self.spec.values, strict=True):
            if gradient.shape != value.shape:
                raise SynthesizerError(
                    f"at {self.spec.name} (after {known.anchor}) {type(self.learner).__name__} "
                    f"returned {tuple(gradient.shape)} for a value of shape {tuple(value.shape)}. "
                    "A gradient has the shape of its value."
                )
        return Synthesis(
            guess.gradients, self._units(), guess.objective, now.batch, now.gradient_scale, now.record
        )

    def upward(
        self, synthesis: Synthesis, values: Sequence[Tensor], true: Sequence[Tensor | None], mix: float
    ) -> tuple[Tensor | None, ...]:
        """What goes up: mix * true + (1 - mix) * scale * synthetic, in the units of the user's loss.

        Sources:
            Jaderberg et al. 2017 (mix = 0); Pemberton and Costa 2024, https://arxiv.org/abs/2401.07044.
        """
        if mix == 1:
            return tuple(true)
        bound = self.interface.clip
        factor = (1 - mix) * self.interface.scale * synthesis.gradient_scale / synthesis.batch
        result: list[Tensor] = []
        for guess, value, exact, unit in zip(synthesis.gradients, values, true, synthesis.units, strict=True):
            guess = guess.detach().to(
                _wide(guess)
            )  # a mean loss makes gradients too small for half precision
            guess = guess.clamp(-bound, bound) if bound else guess
            up = (guess * (unit * factor).to(guess.dtype)).to(value.dtype)
            result.append(up if mix == 0 or exact is None else up + mix * exact)
        return tuple(result)

    def regress(self, synthesis: Synthesis, true: Sequence[Tensor | None]) -> None:
        """Collect the gradient of mean((guess - true)²) for the learner; targets not finite are skipped.

        Raises:
            StageError: this guess was regressed already.
        """
        if synthesis.fired:
            raise StageError(
                f"a second backward pass reached {self.spec.name}. Its synthetic gradient was used up by the "
                "first one: run the forward pass again, or add the losses and call backward once."
            )
        synthesis.fired = True
        if not (self._learns(None) or synthesis.record or self._is_warming()):
            return
        factor = synthesis.batch / synthesis.gradient_scale
        targets = [
            torch.zeros_like(g) if t is None else t.detach().to(_wide(g)) * factor
            for g, t in zip(synthesis.gradients, true, strict=True)
        ]
        if synthesis.record:
            self.cosine = _cosine(synthesis.gradients, targets)
        squares = torch.stack([target.float().square().mean() for target in targets])
        if not bool(squares.isfinite().all()):  # a square too large for float32 would stay for ever, too
            return
        self._observe(squares)
        units = self._units().clamp_min(torch.finfo(torch.float32).tiny)
        with torch.enable_grad():
            loss = torch.zeros(()) if synthesis.objective is None else synthesis.objective
            for guess, target, unit in zip(synthesis.gradients, targets, units, strict=True):
                wide = guess.to(_wide(guess))
                loss = loss.to(wide) + (wide - target.to(wide.dtype) / unit.to(wide.dtype)).square().mean()
            if loss.requires_grad:
                self._collect(loss)
        synthesis.gradients, synthesis.objective = (), None

    def step(self) -> None:
        """Update the learner with what was collected since the last time."""
        if self.optimizer is not None:
            self.optimizer.step(self.learner.parameters())

    def _collect(self, loss: Tensor) -> None:
        parameters = list(self.learner.parameters())
        try:
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        except RuntimeError as error:
            if "modified by an inplace operation" not in str(error):
                raise
            raise StageError(
                f"the synthesizer at {self.spec.name} was updated between a forward pass and its backward: "
                "another forward in train mode ran there after a backward. Finish all backward passes of a "
                "step before the next one's forward."
            ) from error
        if self.optimizer is not None:
            self.optimizer.collect(gradients)
            return
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                waiting: list[Tensor | None] = [parameter.grad, gradient]
                there = [each for each in waiting if each is not None]
                parameter.grad = torch.stack(there).sum(0) if there else None

    def _guesses(self, mix: float) -> bool:
        """Whether anybody has a use for a guess."""
        return mix != 1 or self._learns(self.__dict__["now"]) or self._is_warming()

    def _learns(self, now: Step | None) -> bool:
        return any(True for _ in self.learner.parameters()) and not (now is not None and now.exact)

    def _is_warming(self) -> bool:
        return self._seen() < self.interface.warmup

    def _units(self) -> Tensor:
        """Root mean square of each value's targets, corrected for its start at zero; 0 before the first."""
        correction = 1 - _MEMORY ** max(self._seen(), 1)
        return (self.get_buffer("mean_square") / correction).sqrt()

    def _observe(self, squares: Tensor) -> None:
        mean_square = self.get_buffer("mean_square")
        mean_square.lerp_(squares.to(mean_square.dtype), 1 - _MEMORY)
        self._count = self._seen() + 1
        self.get_buffer("seen").fill_(self._count)

    def _seen(self) -> int:
        if self._count is None:
            self._count = int(self.get_buffer("seen"))
        return self._count

    @override
    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._number = number_of(self)  # a copy's own

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._count = None

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DNI:
        """Move with the model, but learn in float32 at least: squares of gradients vanish in less."""

        def kept(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved.to(_wide(moved)) if moved.is_floating_point() else moved

        return super()._apply(kept, recurse)


class _Substitute(torch.autograd.Function):
    """Identity forward; backward hands the true gradients to the DNI and takes what goes up from it."""

    @staticmethod
    def forward(dni: DNI, synthesis: Synthesis, mix: float, *values: Tensor) -> Any:
        first, *rest = [value.view_as(value) for value in values]
        return (first, *rest) if rest else first

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.dni, ctx.synthesis, ctx.mix, *_ = inputs
        ctx.like = [value.new_empty(0) for value in inputs[3:]]
        ctx.set_materialize_grads(False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *true: Tensor | None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, None, None, *ctx.dni.answer(ctx.synthesis, ctx.like, true, ctx.mix)


def _wide(guess: Tensor) -> torch.dtype:
    """At least float32: a regression in half precision would round small errors away."""
    return torch.promote_types(guess.dtype, torch.float32)


def _cosine(guesses: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Cosine of the angle between all synthetic and all true gradients of one boundary; 0 if either is 0."""
    guess = torch.cat([g.detach().flatten() for g in guesses]).float()
    target = torch.cat([t.flatten() for t in targets]).float()
    return torch.nn.functional.cosine_similarity(guess, target, dim=0)
