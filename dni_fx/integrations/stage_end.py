"""The end of a pipeline stage, where the gradient of what leaves it is guessed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dni_fx.dni import DNI
from dni_fx.errors import ContextError, StageError, SynthesizerError
from dni_fx.interface import INTERFACES, Interface
from dni_fx.step import Step, Synthesis
from dni_fx.synthesizers import SYNTHESIZERS, Synthesizer
from passes import BoundarySpec, ValueSpec, parse
from passes.anchors import Anchor


class StageEnd:
    """Guesses gradients of the outputs of one stage, and learns when the true ones are there.

    Its `dni` is made when the outputs are first seen, since their shapes are not known before. `now` is what
    it knows of the step. With a number of classes in the interface, labels are shown to the synthesizer.

    Raises:
        StageError: true gradients would go up for good.
        SynthesizerError: the synthesizer wants to be told what nobody tells it.
        UnknownNameError, SpecError: a text form names nothing, or cannot be read.
    """

    def __init__(
        self, index: int, synthesizer: str | Synthesizer, interface: str | Interface, feature_dim: int
    ) -> None:
        self.index = index
        self.synthesizer = parse(synthesizer, SYNTHESIZERS) if isinstance(synthesizer, str) else synthesizer
        self.interface = parse(interface, INTERFACES) if isinstance(interface, str) else interface
        self.feature_dim = feature_dim
        self.now = Step()
        self.dni: DNI | None = None
        self._loaded: Mapping[str, Any] | None = None
        self._refuse()

    def meet(self, values: Sequence[Tensor], labels: Tensor | None) -> None:
        """See what leaves the stage for one micro-batch, and labels for it where there are some.

        Raises:
            StageError: not so many outputs as before carry gradients.
            SynthesizerError: the synthesizer cannot guess for such outputs.
        """
        if not values:
            return
        if self.dni is None:
            self._build(values)
        assert self.dni is not None
        if len(values) != len(self.dni.spec.values):
            raise StageError(
                f"stage {self.index} has returned {len(values)} outputs that carry gradients, and "
                f"{len(self.dni.spec.values)} at first: it is to return the same ones in every step."
            )
        shape = values[0].shape
        self.now.batch = max(shape[0], 1) if shape else 1
        shown = labels is not None and self.interface.classes > 0
        self.now.context = labels.clone() if labels is not None and shown else None

    @property
    def is_locked(self) -> bool:
        """Whether anything of the true gradient goes up now, so that it must be waited for."""
        return self.dni is not None and self.dni.mix > 0

    def guess(self, values: Sequence[Tensor]) -> tuple[Synthesis | None, tuple[Tensor, ...]]:
        """What goes up at once; the guess is there if the truth is to teach it.

        Raises:
            ContextError: it takes labels, and there are none.
        """
        if self.dni is None or not values:
            return None, ()
        try:
            with self.now.coming_late(frozenset({self.dni.spec.name})):
                synthesis, upward = self.dni.guess_up(values)
        except ContextError as error:
            raise error.instead("Give step() the target= on every rank") from None
        up = tuple(
            torch.zeros_like(value) if each is None else each
            for each, value in zip(upward, values, strict=True)
        )
        if synthesis.taught:
            return synthesis, up
        self.learn(synthesis, [None] * len(values))
        return None, up

    def learn(self, synthesis: Synthesis, true: Sequence[Tensor | None]) -> None:
        """Learn from what was guessed and what was true."""
        assert self.dni is not None
        with torch.inference_mode(False), torch.enable_grad():
            self.dni.regress(synthesis, true)
            self.dni.step()

    def mixed(self, values: Sequence[Tensor], true: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What goes up where the true gradients are there already, which teach, too."""
        if self.dni is None or not values:
            return tuple(true)
        up = self.dni.learn(self.dni.guess([value.detach() for value in values]), true)
        self.dni.step()
        return tuple(up)

    def state_dict(self) -> dict[str, Any]:
        """The number of the step, and what the synthesizer has learned if there is one."""
        learned = self._loaded or {} if self.dni is None else self.dni.state_dict()
        return {"number": self.now.number, "dni": dict(learned)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; a synthesizer that is not made yet takes its state when it is."""
        self.now.number = int(state["number"])
        if self.dni is None:
            self._loaded = state["dni"]
        else:
            self.dni.load_state_dict(state["dni"])

    def _build(self, values: Sequence[Tensor]) -> None:
        anchor = Anchor(f"stage {self.index}")
        specs = tuple(self._spec(anchor, value) for value in values)
        classes = self.interface.classes
        spec = BoundarySpec(
            f"stage_{self.index}", specs, self.index, (self.index + 1,), classes=classes, outputs=classes
        )
        with torch.random.fork_rng(devices=[]):
            dni = DNI(spec, self.synthesizer, self.interface, self.now).to(values[0].device)
        dni.guard.place = "schedule.dni"
        if self._loaded:
            dni.load_state_dict(self._loaded)
        self.dni, self._loaded = dni, None

    def _spec(self, anchor: Anchor, value: Tensor) -> ValueSpec:
        shape = tuple(value.shape)
        feature_dim = self.feature_dim if -len(shape) <= self.feature_dim < len(shape) else -1
        return ValueSpec(anchor, shape, ("b", *shape[1:]), value.dtype, 0, feature_dim % max(len(shape), 1))

    def _refuse(self) -> None:
        chosen, how = self.synthesizer, self.interface
        if chosen.exact or how.mix:
            raise StageError(
                f"a stage goes on before the true gradient is there, and {chosen} with {how} sends that up "
                "for good. Use ScheduleGPipe, or mix=0 and a synthesizer that learns; warmup=N sends true "
                "gradients for a while."
            )
        if chosen.needs == "loss" or not how.lr:
            raise SynthesizerError(
                f"ScheduleDNI tells no synthesizer the loss of a step and moves none by your optimizer, and "
                f"{chosen} with {how} wants it so. Choose another, with an lr above 0."
            )
        if chosen.needs == "context" and not how.classes:
            raise SynthesizerError(
                f"{chosen} guesses from labels: say how many classes there are, as in "
                'interface="dni:classes=10", and give step() the target= on every rank. Or choose linear.'
            )
