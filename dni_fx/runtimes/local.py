"""Every stage updates as soon as it has run forward."""

from __future__ import annotations

import random
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from dni_fx.calls import Call
from dni_fx.carry import RESET
from dni_fx.cut_graph import CutGraph
from dni_fx.decoupled import Decoupled, cutting_of, dnis
from dni_fx.errors import StageError, first_line
from dni_fx.randomness import NO_STREAMS, Streams
from dni_fx.runtimes.aside import AtOnce, Beside
from dni_fx.runtimes.base import Outcome, Runtime, Worker
from dni_fx.runtimes.places import Places, devices_of
from dni_fx.runtimes.recipe import Recipe
from dni_fx.runtimes.staged import Staged
from dni_fx.runtimes.walk import Manner, Walk
from passes import SpecError
from passes.switches import switches_kept

_UNLOCKS = ("backward", "forward")


@dataclass(frozen=True)
class Local(Runtime):
    """A stage runs forward, gets its synthetic gradient, runs backward and steps before the next one runs.

    Its gradients are freed with its step, so no more than those of one stage are there at any time. Its
    synthesizers learn when the stages that read from it have run. A parameter that several stages
    read steps after the last of them. A stage that makes an output of the model waits for the loss. Stages
    with a boundary between them that passes the true gradient (while it warms up, while others have
    their turn, or because its guard has locked it) run backward and step together.

    With an `update_probability` below 1, each stage is updated in so many of the steps, drawn at random
    from `seed` and the number of the step; in the others it only runs forward, and hands its activation
    on. A synthesizer learns when all that read from its boundary are updated. In which order the stages
    of one step are updated makes no difference: none reads what an update of another has changed.

    With `unlock=forward` a stage does not wait for the ones before it either: it reads what a predictor
    tells of the model's inputs, and the predictor learns from what the stage before makes of its own
    prediction. Values without gradients, such as masks, are computed. In `eval()` the model runs as always.

    With `overlap` a thread runs stages backward and updates them while the next ones run forward. To the bit
    nothing else comes out: no forward pass of a step needs an update of the same step.

    With `devices`, such as `("cuda:0", "cuda:1")` or `local:devices=cuda:0+cuda:1` as text, the stages are
    spread over them in order, neighbors on one where there are fewer devices than stages. Each stage has its
    parameters, its synthesizers and its optimizer there, and values are moved to where they are read. The
    whole model is on the first device when training begins, and on one whenever it is captured anew. It
    stays spread, and its outputs are where they are made; `cut.to(device)` gathers it.

    With `streams`, each stage draws its random numbers from a stream of its own for each step, by `seed`, as
    the `distributed` runtime has it: the masks of dropout are then the same in one process and in many.

    Sources:
        Jaderberg et al. 2017, https://arxiv.org/abs/1608.05343, section 3.3.
    """

    name = "local"

    unlock: str = "backward"
    overlap: bool = False
    update_probability: float = 1.0
    seed: int = 0
    streams: bool = False
    devices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for each in self.devices:
            try:
                torch.device(each)
            except RuntimeError as error:
                raise SpecError(f"local.devices: {each!r} is no device. {first_line(error)}") from None
        if self.unlock not in _UNLOCKS:
            raise SpecError(f"local.unlock is {' or '.join(_UNLOCKS)}, not {self.unlock!r}.")
        if not 0 < self.update_probability <= 1:
            raise SpecError(
                f"local.update_probability is above 0 and at most 1, not {self.update_probability}."
            )

    @override
    def start(self, cut: Decoupled, recipe: Recipe) -> Worker:
        places = Places(cut, devices_of(self.devices))
        if recipe.autocast is not None and len({device.type for device in places.devices}) > 1:
            raise StageError(
                f"autocast is for devices of one type, and these are {', '.join(self.devices)}. Train "
                "without it, or choose others."
            )
        if places.devices:
            places.gather(places.devices[0])
        return _Worker(cut, recipe, self, places)

    def chosen(self, step: int, stages: int) -> set[int]:
        """The stages that are updated in this step: the same ones whenever it is asked."""
        # The number of the step is in the model's state, so a run that is resumed draws what it would have.
        draw = random.Random(f"{self.seed}/{step}")
        return {stage for stage in range(stages) if draw.random() < self.update_probability}


class _Worker(Staged):
    def __init__(self, cut: Decoupled, recipe: Recipe, runtime: Local, places: Places) -> None:
        super().__init__(cut, recipe)
        self.runtime = runtime
        self.places = places
        self.aside = Beside() if runtime.overlap else AtOnce()

    @override
    def across(self) -> AbstractContextManager[object]:
        return self.places.meeting if self.places.devices else nullcontext()

    @override
    def step(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], target: Any, context: Tensor | None
    ) -> Outcome:
        self._refuse()
        with self.across():
            call = self.opened(args, kwargs)
            graph = self.settled(call, self.places.gathered, self.runtime.name)
            return self._walk(graph, call, target, context, kwargs.get(RESET))

    def _walk(
        self, graph: CutGraph, call: Call, target: Any, context: Tensor | None, reset: Tensor | None
    ) -> Outcome:
        cutting = cutting_of(self.cut)
        if self.places.spread(graph):
            self.updates.follow()
        due = self.due(graph)
        with self.updates.batch(), switches_kept(), cutting.step.telling_loss():
            with self.updates.autocast():
                cutting.begin(call, context)
                passage = cutting.passage(graph, reset)
                leaves = passage.enter(call.leaves, as_leaves=True)
            values = dict(zip(graph.road.split.inputs, leaves, strict=True))
            number = cutting.step.number
            chosen = self.runtime.chosen(number, len(graph.road.stages))
            predicts, places = self.runtime.unlock == "forward", self.places.of(graph)
            streams = Streams(self.runtime.seed, number) if self.runtime.streams else NO_STREAMS
            manner = Manner(due, chosen, passage, predicts, self.aside, places, streams)
            return Walk(self, graph, values, manner).run(target)

    def _refuse(self) -> None:
        self.refuse_true_gradients(self.runtime.name)
        asked = [
            *["unlock=forward"] * (self.runtime.unlock == "forward"),
            *["devices="] * bool(self.runtime.devices),
        ]
        if asked and (carry := cutting_of(self.cut).carry):
            raise StageError(
                f"carried state ({', '.join(carry.paths)}) does not go with {' and '.join(asked)}: leave "
                "that out, or decouple without carry= and pass the state in by yourself."
            )
        still = [name for name, dni in dnis(self.cut).items() if not dni.interface.lr]
        if still and self.runtime.unlock == "forward":
            raise StageError(
                "with unlock=forward predictors learn at the rate of the interface, and at these boundaries "
                f"it is 0: {', '.join(still)}. Use an lr above 0."
            )
