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

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from typing_extensions import override

from dni_fx.ahead import Ahead
from dni_fx.compiled import interfaced, number_of
from dni_fx.errors import ContextError, SynthesizerError
from dni_fx.gradients import bounded
from dni_fx.interface import Interface
from dni_fx.pupil import Pupil
from dni_fx.step import Step, Synthesis, wide
from dni_fx.synthesizers import Synthesizer
from passes import BoundarySpec


class DNI(Pupil):
    """Fills a boundary. Forward is the identity; backward sends a guess instead of the truth."""

    def __init__(
        self, spec: BoundarySpec, synthesizer: Synthesizer, interface: Interface, step: Step
    ) -> None:
        _refuse_delay(spec, synthesizer)
        super().__init__(spec, synthesizer, interface)
        self.ahead = Ahead(spec, synthesizer, interface) if spec.delay and interface.aux else None
        self.__dict__["now"] = step  # shared by all DNIs of a model
        self._number = number_of(self)

    @property
    def mix(self) -> float:
        """The part of the true gradient in what goes up now: 1 while warming up, guarded or not cut."""
        now: Step = self.__dict__["now"]
        if self.synthesizer.exact or now.exact or self.guard.locked or not self._has_its_turn(now):
            return 1.0
        return self.interface.mix_after(self.scale.count)

    @property
    def context(self) -> Tensor | None:
        """What is known beside the value; of state, what is told of whole samples and not of single steps."""
        context: Tensor | None = self.__dict__["now"].context
        if self.spec.delay:
            return None
        is_of_steps = context is not None and context.dim() > 1 + context.is_floating_point()
        return None if self.spec.group and is_of_steps else context

    @property
    def is_due(self) -> bool:
        """Whether it learns from the true gradient of this step: always until its mix is what it will be."""
        now: Step = self.__dict__["now"]
        return self.is_scheduled or (now.number + self.spec.producer) % self.interface.every == 0

    @property
    def wants_truth(self) -> bool:
        """Whether it has a use for the true gradient of this step, but to send it up."""
        now: Step = self.__dict__["now"]
        if not self.is_due or self.is_scheduled or now.compare:
            return self.is_due
        return (self.learns or now.record) and self._is_audited(now)

    @override
    def forward(self, *values: Tensor) -> Any:
        """(batch, *features) to (batch, *features), unchanged; several values to a tuple of them.

        Raises:
            SynthesizerError: the guess has not the shape of the value, or cannot be made.
        """
        now: Step = self.__dict__["now"]
        (value, *rest) = values
        same = values if rest else value
        if not (torch.is_grad_enabled() and any(each.requires_grad for each in values)):
            return same
        if torch.compiler.is_dynamo_compiling():
            return interfaced(values, now.clock, self._number)
        mix = self.mix
        if not self._guesses(mix):
            return same
        synthesis = self.synthesize(tuple(each.detach() for each in values))
        return _Substitute.apply(self, synthesis, mix, *values)

    def send(self, values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The same as calling it, always as a tuple."""
        sent = self(*values)
        return sent if len(values) > 1 else (sent,)

    def guess(self, values: Sequence[Tensor]) -> tuple[Synthesis | None, float]:
        """A guess, if one is needed, for values in compiled code, and the part of the true gradient.

        The values are copied for the learner: compiled code writes to their memory before backward.
        """
        mix = self.mix
        if not self._guesses(mix):
            return None, mix
        return self.synthesize(tuple(each.clone() if self.learns else each for each in values)), mix

    def learn(self, guessed: tuple[Synthesis | None, float], true: Sequence[Tensor]) -> Sequence[Tensor]:
        """What goes up from values in compiled code when the true gradients have arrived.

        Raises:
            StageError: this guess was regressed already.
        """
        synthesis, mix = guessed
        return true if synthesis is None else cast("Any", self.answer(synthesis, true, true, mix))

    def guess_up(
        self, values: Sequence[Tensor], learns: bool = True
    ) -> tuple[Synthesis, tuple[Tensor | None, ...]]:
        """A guess for values, and what goes up at once, where none of the truth does; None is zeros.

        Nothing can be learned from it if it is not to be one that `learns`.
        """
        synthesis = self.synthesize(tuple(each.detach() for each in values), learns)
        upward = self.upward(synthesis, values, (None,) * len(values), 0)
        if not synthesis.taught:
            synthesis.be_sent()
        return synthesis, upward

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

    def synthesize(self, values: tuple[Tensor, ...], learns: bool = True) -> Synthesis:
        """A guess for detached values, each `(batch, *features)`, with a graph to the learner's parameters.

        Raises:
            SynthesizerError: a guess has not the shape of its value, or there is no context to make it from.
        """
        now: Step = self.__dict__["now"]
        self._check_needs(now)
        learns = learns and self.is_due
        taught = learns and self.wants_truth
        stale = taught and (self.interface.stale > 0 or self.spec.name in now.late)
        context = None if self.context is None else self.context.to(values[0].device)
        guess = self.ask(values, context, learns and self.learns and not stale and not now.exact)
        made = Synthesis(
            guess.gradients,
            self.scale.units(),
            guess.natural,
            guess.objective,
            guess.learned,
            guess.loss,
            context,
            now.batch,
            now.gradient_scale,
            now.record,
            self.mix,
            taught,
            learns,
            tuple(value.clone() for value in values) if stale else (),
        )
        self.waits_for_loss += [made] if guess.loss is not None else []
        return made

    def upward(
        self, synthesis: Synthesis, values: Sequence[Tensor], true: Sequence[Tensor | None], mix: float
    ) -> tuple[Tensor | None, ...]:
        """What goes up: mix * true + (1 - mix) * scale * synthetic, in the units of the user's loss.

        A guess that is not finite counts as one of zeros. What is known to be zeros is None before the truth
        is there.

        Sources:
            Jaderberg et al. 2017 (mix = 0); Pemberton and Costa 2024, https://arxiv.org/abs/2401.07044.
        """
        if mix == 1:
            return tuple(true)
        if self.learner.silent:
            return tuple(None if t is None else mix * t if mix else torch.zeros_like(t) for t in true)
        factors = self._factors((1 - mix) * self.interface.scale * synthesis.gradient_scale)
        result: list[Tensor] = []
        parts = zip(synthesis.gradients, values, true, synthesis.units, factors, strict=True)
        for guess, value, exact, unit, factor in parts:
            guess = guess.detach().to(wide(guess))  # a mean loss makes gradients too small for half precision
            guess = bounded(guess, self.interface.clip, unit / synthesis.batch if synthesis.natural else None)
            if not synthesis.natural:  # a number and a tensor of float32 would be multiplied in float32
                guess = guess * (unit * (factor / synthesis.batch)).to(guess.dtype)
            elif factor != 1:  # else no second tensor of this size is there while the stage runs backward
                guess = guess * factor
            up = guess.to(value.dtype)
            result.append(up if mix == 0 or exact is None else up + mix * exact)
        return tuple(result)

    def _factors(self, whole: float) -> tuple[float, ...]:
        """What the guess for each value is multiplied by: `whole`, or what is borne out of it."""
        if self.trust is None or not self.trusts:
            return (whole,) * len(self.spec.values)
        return tuple(whole * each for each in self.trust.factors())

    @override
    def step(self) -> None:
        """Update the learner, and what looks ahead, by what was collected since the last time."""
        super().step()
        if self.ahead is not None:
            self.ahead.step()

    def _check_needs(self, now: Step) -> None:
        place = f"{self.synthesizer} at {self.spec.name} (after {self.spec.values[0].anchor})"
        if self.synthesizer.needs == "loss" and not now.tells_loss:
            raise SynthesizerError(
                f"{place} learns from the loss, which a loop of your own does not tell. Train with "
                "dni_fx.train, or choose critic."
            )
        if self.synthesizer.needs == "loss" and self.interface.stale:
            raise SynthesizerError(f"{place} learns from the loss of the batch itself: choose stale=0.")
        is_told = self.context is not None
        if self.synthesizer.needs == "context" and not is_told and now.context is not None:
            raise SynthesizerError(
                f"{place} guesses from labels, and of steps to come there are none: choose linear."
            )
        if self.synthesizer.needs == "context" and not is_told:
            raise ContextError(place)
        if self.spec.delay and self.interface.aux and self.ahead is None:
            raise SynthesizerError(f"{place} has no auxiliary task: give decouple() an interface with aux.")

    def _is_audited(self, now: Step) -> bool:
        """Whether the true gradient of this step is wanted by a learner that could do without."""
        interface = self.interface
        if self.learner.needs_truth(self.context) or interface.stale:
            return True
        doubts = interface.guard and self.guard.doubts
        return bool(doubts) or (now.number + self.spec.producer) % interface.audit == 0

    def _has_its_turn(self, now: Step) -> bool:
        """Whether this boundary is cut in this step, where boundaries take turns."""
        return not now.takes_turns or (now.number + self.spec.producer) % self.interface.window == 0

    def _guesses(self, mix: float) -> bool:
        """Whether anybody has a use for a guess."""
        now: Step = self.__dict__["now"]
        return mix != 1 or (self.learns and self.is_due and not now.exact) or self.is_scheduled

    @override
    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._number = number_of(self)  # a copy's own


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


def _refuse_delay(spec: BoundarySpec, synthesizer: Synthesizer) -> None:
    """Do nothing if a synthesizer can guess what steps to come will say, of which only the state is known."""
    if spec.delay and synthesizer.needs:
        what = "labels" if synthesizer.needs == "context" else "the loss"
        raise SynthesizerError(
            f"cannot build {synthesizer} at {spec.name}: it learns from {what}, and of steps to come nothing "
            f'is known. Choose another: synthesizer={{"{spec.name}": "linear", "*": "{synthesizer}"}}.'
        )
