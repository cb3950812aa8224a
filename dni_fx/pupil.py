"""What the synthesizer of a boundary learns from: the true gradients, and the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from typing_extensions import override

from dni_fx.diagnosis import Diagnosis, Sums, sign_agreement
from dni_fx.errors import StageError, SynthesizerError
from dni_fx.guard import Guard
from dni_fx.interface import Interface
from dni_fx.late import Kept, Late
from dni_fx.learning import Adam
from dni_fx.predictor import Predictor
from dni_fx.scale import Scale
from dni_fx.step import Synthesis, wide
from dni_fx.synthesizers import Guess, Remembering, Synthesizer
from dni_fx.trust import Trust
from passes import BoundarySpec

_WILD = 100.0
"""A relative error that no batch explains. A head's gradient has a size of its own, and is not asked."""
_TOO_LARGE = 4.0
"""A root mean square of guesses, in that of true gradients, that no regression on them explains."""


_TRUST = 100
"""Steps over which guesses are judged where nobody says another number: measured on the Copy task."""


class Pupil(nn.Module):
    """A learner with its own optimizer, the scale of what it learns from, and a guard over what it says.

    It sees per-sample gradients (times the batch size, since a mean loss divides by it) in units of their
    running root mean square, so neither batch size nor the scale of the loss matters. `diagnosis` says how
    well the last guess went, if the step was recorded.
    """

    def __init__(self, spec: BoundarySpec, synthesizer: Synthesizer, interface: Interface) -> None:
        super().__init__()
        self.spec = spec
        self.interface = interface
        self.synthesizer = synthesizer
        self.learner = synthesizer.build(spec)
        self.optimizer = Adam(self.learner.parameters(), interface) if interface.lr else None
        self.scale = Scale(len(spec.values))
        self.guard = Guard(interface.guard, "zeros" if self.is_late else "true gradients")
        self.trust = Trust(len(spec.values)) if self.trusts else None
        self.late = Late()
        self.predictor = Predictor()
        self.diagnosis: Diagnosis | None = None
        parameters = any(True for _ in self.learner.parameters())
        self.learns = parameters or self.remembers  # whatever it guesses from
        self.waits_for_loss: list[Synthesis] = []
        self._apply(lambda tensor: tensor)  # a learner for half precision is kept in full precision, too

    @property
    def remembers(self) -> bool:
        """Whether the learner keeps something of the true gradients themselves."""
        return isinstance(self.learner, Remembering)

    @property
    def is_late(self) -> bool:
        """Whether the true gradient comes with a later step, and never in time to be sent in its place."""
        return bool(self.spec.delay) or self.spec.rate > 1

    @property
    def trusts(self) -> int:
        """Over how many steps it is judged what part of a guess is sent; 0 if all of it is."""
        if self.interface.trust >= 0:
            return self.interface.trust
        return _TRUST if self.is_late and not self.learner.self_taught else 0

    @property
    def is_scheduled(self) -> bool:
        """Whether the mix is still to change with the number of true gradients that have arrived."""
        return self.scale.count < self.interface.warmup + self.interface.fade

    def ask(self, values: tuple[Tensor, ...], context: Tensor | None, learns: bool) -> Guess:
        """The learner's guess for detached values, with a graph to its parameters if it `learns`.

        Raises:
            SynthesizerError: a guess has not the shape of its value.
        """
        with torch.set_grad_enabled(learns):
            guess = self.learner(values, context)
        for value, gradient, known in zip(values, guess.gradients, self.spec.values, strict=True):
            if gradient.shape != value.shape:
                raise SynthesizerError(
                    f"at {self.spec.name} (after {known.anchor}) {type(self.learner).__name__} "
                    f"returned {tuple(gradient.shape)} for a value of shape {tuple(value.shape)}. "
                    "A gradient has the shape of its value."
                )
        return guess

    def regress(self, synthesis: Synthesis, true: Sequence[Tensor | None]) -> None:
        """Collect what the learner learns from the true gradients; what is not finite is skipped.

        It minimizes the mean of (guess - true)² over all elements, in units of their root mean square.

        Raises:
            StageError: this guess was regressed already.
        """
        if synthesis.fired:
            raise StageError(
                f"a second backward pass reached {self.spec.name}. Its synthetic gradient was used up by the "
                "first one: run the forward pass again, or add the losses and call backward once."
            )
        synthesis.fired = True
        if not synthesis.taught:
            self._learn_alone(synthesis)
            return
        truths = [
            torch.zeros_like(g, dtype=wide(g)) if t is None else t.detach().to(wide(g))
            for g, t in zip(synthesis.gradients, true, strict=True)
        ]
        if synthesis.values:
            targets = tuple(truth * synthesis.true_size for truth in truths)
            kept = Kept(synthesis.values, targets, synthesis.context, synthesis.batch)
            synthesis.values = ()
            if (earlier := self.late.exchange(kept, self.interface.stale)) is None:
                return
            synthesis, truths = self._again(synthesis, earlier)
        self._study(synthesis, truths)

    def _again(self, synthesis: Synthesis, earlier: Kept) -> tuple[Synthesis, Sequence[Tensor]]:
        """A guess by the learner as it is now for an earlier batch, and the truth that arrived there."""
        kept = earlier.moved(lambda tensor: tensor.to(synthesis.units.device))
        guess = self.ask(kept.values, kept.context, self.learns)
        made = replace(
            synthesis,
            gradients=guess.gradients,
            units=self.scale.units(),
            natural=guess.natural,
            objective=guess.objective,
            learned=guess.learned,
            context=kept.context,
            batch=kept.batch,
        )
        return made, [target / made.true_size for target in kept.targets]

    def _study(self, synthesis: Synthesis, truths: Sequence[Tensor]) -> None:
        """Compare a guess with the truth, and learn from it."""
        own = torch.ones_like(synthesis.units) if synthesis.natural else synthesis.units
        # Sums are scaled, not the tensors: a head that does not learn from the truth needs no copies of them.
        sums = Sums.of(synthesis.gradients, truths, own).scaled(synthesis.size, synthesis.true_size)
        if sums.is_target_finite:
            self.scale.observe(
                [s / max(t.numel(), 1) for s, t in zip(sums.target_squares, truths, strict=True)]
            )
        self._diagnose(synthesis, truths, sums)
        if sums.is_target_finite and sums.is_guess_finite:
            if self.trust is not None and self.trusts:
                self.trust.note(sums, self.trusts)
            self._learn_from(synthesis, truths)
        synthesis.let_go()

    def _learn_alone(self, synthesis: Synthesis) -> None:
        """Learn what needs no true gradient."""
        synthesis.be_sent()
        if synthesis.learns:
            self._learn_by(synthesis, [], [])
        synthesis.let_go()

    def hear(self, loss: Tensor) -> None:
        """Collect what the learner learns from the loss of the step, if it has said what it thinks of it."""
        for synthesis in self.waits_for_loss:
            assert synthesis.loss is not None
            if bool(loss.isfinite()):
                error = (synthesis.loss - loss.detach().to(synthesis.loss)).square()
                self._collect([error], [None], synthesis, keep=True)
            synthesis.loss = None
        self.waits_for_loss = []

    def step(self) -> None:
        """Update the learner with what was collected since the last time; no guess waits for a loss now."""
        self.waits_for_loss = []
        if self.optimizer is not None and self.optimizer.has_pending:
            self.optimizer.step(list(self.learner.parameters()), self.learner.pace)

    def _learn_from(self, synthesis: Synthesis, truths: Sequence[Tensor]) -> None:
        units = self.scale.units()
        units = torch.where(units > 0, units, torch.inf)  # of zeros there is no unit, and nothing to learn
        if isinstance(self.learner, Remembering):
            pairs = zip(truths, units, strict=True)
            scaled = tuple(t * synthesis.true_size / unit.to(t.dtype) for t, unit in pairs)
            self.learner.remember(scaled, synthesis.context)
        heads: list[Tensor] = []
        ups: list[Tensor | None] = []
        for head, truth, unit in zip(synthesis.gradients, truths, units, strict=True):
            if head.requires_grad:
                unit = unit.to(truth.dtype)
                own, target = head.detach().to(truth.dtype), truth * synthesis.true_size
                error = (own * synthesis.size - target) / unit if synthesis.natural else own - target / unit
                slope = error.mul_(2 / max(error.numel(), 1))  # of the mean of squares
                heads.append(head)
                ups.append((slope * (synthesis.size / unit) if synthesis.natural else slope).to(head.dtype))
        self._learn_by(synthesis, heads, ups)

    def _learn_by(self, synthesis: Synthesis, heads: list[Tensor], ups: list[Tensor | None]) -> None:
        """Learn by gradients of the guess, and by what else the learner wants of it."""
        if synthesis.objective is not None and synthesis.objective.requires_grad:
            heads, ups = [*heads, synthesis.objective], [*ups, None]
        if heads:
            self._collect(heads, ups, synthesis, keep=synthesis.loss is not None)
        if synthesis.learned is not None:
            self._add(synthesis.learned, synthesis.gradient_scale)

    def _diagnose(self, synthesis: Synthesis, truths: Sequence[Tensor], sums: Sums) -> None:
        finite = sums.is_target_finite and sums.is_guess_finite
        cosine = sums.cosine
        elements = max(sum(truth.numel() for truth in truths), 1)
        if self.learns and (not finite or any(sums.target_squares)):
            self.guard.patience = 0 if self.is_late and self.trusts else self.interface.guard
            is_wild = not synthesis.natural and sums.error > _WILD
            is_large = not synthesis.natural and sum(sums.guess_squares) > elements * _TOO_LARGE**2
            self.guard.note(self.spec.name, cosine if finite and not is_wild else None, is_large)
        if synthesis.record:
            self.diagnosis = Diagnosis(
                cosine,
                sign_agreement(synthesis.gradients, truths),
                sums.error,
                (sum(sums.target_squares) / elements) ** 0.5,
                synthesis.mix,
                self.guard.locked,
            )

    def _collect(
        self, heads: Sequence[Tensor], ups: Sequence[Tensor | None], synthesis: Synthesis, keep: bool
    ) -> None:
        try:
            gradients = torch.autograd.grad(
                heads, list(self.learner.parameters()), ups, allow_unused=True, retain_graph=keep
            )
        except RuntimeError as error:
            if "modified by an inplace operation" not in str(error):
                raise
            raise StageError(
                f"the synthesizer at {self.spec.name} was updated between a forward pass and its backward: "
                "another forward in train mode ran there after a backward. Finish all backward passes of a "
                "step before the next one's forward."
            ) from error
        self._add(gradients, synthesis.gradient_scale)

    def _add(self, gradients: Sequence[Tensor | None], gradient_scale: float) -> None:
        if self.optimizer is not None:
            self.optimizer.settings = self.interface  # as it is now, whenever the step comes
            self.optimizer.collect(gradients)
            return
        with torch.no_grad():
            for parameter, gradient in zip(self.learner.parameters(), gradients, strict=True):
                # The user's loop takes its scale out again, of these gradients as of all others.
                waiting = [parameter.grad, None if gradient is None else gradient * gradient_scale]
                there = [each for each in waiting if each is not None]
                parameter.grad = torch.stack(there).sum(0) if there else None

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Pupil:
        """Move with the model, but learn in float32 at least: squares of gradients vanish in less."""

        def kept(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved.to(wide(moved)) if moved.is_floating_point() else moved

        return super()._apply(kept, recurse)
