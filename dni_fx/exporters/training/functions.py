"""What the graphs of a training step compute: functions of named tensors.

A name says what a tensor is: `p:` a parameter, `b:` a buffer, `v:` a value, `g:` the gradient of a value,
`u:` a guess at it, `gp:` the gradient of a parameter, `s:<boundary>:` the state of a synthesizer, `<slot>:`
what an optimizer keeps of a parameter. What a graph returns under `new:` takes the place of what has the
rest of that name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from dni_fx.dni import DNI
from dni_fx.exporters.training import synthesis
from dni_fx.exporters.training.decompositions import randomness
from dni_fx.exporters.training.moves import Move
from dni_fx.exporters.training.plain import Plain
from dni_fx.exporters.training.tracing import Function, Shapes, plain_kernels
from dni_fx.gradients import gradients_of
from dni_fx.stage import Stage, carries_gradient
from dni_fx.stateless import run_with
from passes.split_stages import Name

Named = Mapping[str, Tensor]
Context = Callable[[Named], Tensor | None]
"""What synthesizers see beside the value, of what a graph is given."""
LEARNING_RATE, STEP, BATCH, CONTEXT, LOSS = "lr", "step", "batch", "context", "loss"
EXAMPLE_RATE = 1e-3
"""The learning rate at which graphs are traced, and compared with PyTorch."""


@dataclass(frozen=True)
class StageStep:
    """One stage in a training step.

    `moved` are the parameters that it moves, and `lent` those whose gradient it tells, since other stages
    read them as well. `taught` are the values that it reads whose gradient somebody wants; `sent` are those
    that it writes and that carry a gradient.
    """

    stage: Stage
    moved: tuple[str, ...]
    lent: tuple[str, ...]
    taught: tuple[str, ...]
    sent: tuple[str, ...]
    move: Move
    plain: Mapping[str, Plain]
    """What it reads that is no tensor."""
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    """What values are called that have another name than in the stage."""

    def forward(self, given: Named) -> dict[str, Tensor]:
        """What the stage writes, and its buffers after it."""
        written, _, buffers = self._run(given, learns=False)
        return {f"v:{name}": each for name, each in written.items()} | _renewed(buffers)

    def forward_alone(self, given: Named) -> dict[str, Tensor]:
        """What the stage writes."""
        return {f"v:{self._name(name)}": each for name, each in self._run(given, learns=False)[0].items()}

    def backward(self, given: Named) -> dict[str, Tensor]:
        """Its parameters after the step, and the gradients of what it has read, by those of what it sent."""
        written, wanted, _ = self._run(given, learns=True)
        sent = [name for name in self.sent if written[name].requires_grad]
        return self._end(
            given, wanted, [written[name] for name in sent], [given[f"g:{name}"] for name in sent]
        )

    def decoupled(self, dnis: Mapping[str, DNI], context: Context) -> Function:
        """The whole step of a stage that waits for nobody, as a function: forward, guess, and backward."""
        guesses = [guess(dnis[boundary], context) for boundary in self.stage.crossings]

        def step(given: Named) -> dict[str, Tensor]:
            written, wanted, buffers = self._run(given, learns=True)
            found = {f"v:{name}": each.detach() for name, each in written.items()}
            ups = {name: up for said in guesses for name, up in said({**given, **found}).items()}
            live = [name for name in self.sent if written[name].requires_grad]
            values, gradients = [written[name] for name in live], [ups[f"u:{name}"] for name in live]
            return found | self._end(given, wanted, values, gradients) | _renewed(buffers)

        return step

    def written(self, real: Named, fake: Named, shapes: Shapes) -> dict[str, tuple[Any, Any, bool]]:
        """What the stage writes at the example, the same without data, and whether it carries a gradient."""
        # A layer may write to its weights, and these are those of the model.
        own = {f"p:{name}": real[f"p:{name}"].clone() for name in self.stage.named_parameters()}
        found = [self._run({**real, **own}, learns=True, all_of_it=True)[0]]
        with plain_kernels(), shapes.mode:
            found.append(self._run(fake, learns=False, all_of_it=True)[0])
        return {
            name: (_bare(each), found[1][name], carries_gradient(each)) for name, each in found[0].items()
        }

    def _run(
        self, given: Named, learns: bool, all_of_it: bool = False
    ) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
        """What it writes, the tensors that want a gradient by the names of these, and its buffers."""
        parameters = {name: given[f"p:{name}"].detach() for name in self.stage.named_parameters()}
        buffers = {name: given[f"b:{name}"].clone() for name in self.stage.named_buffers()}
        reads = {
            name: self.plain[name].of(given)
            if name in self.plain
            else given[f"v:{self._name(name)}"].detach()
            for name in self.stage.code.part.reads
        }
        wanted: dict[str, Tensor] = {}
        if learns:
            wanted = {f"gp:{name}": parameters[name].requires_grad_() for name in (*self.moved, *self.lent)}
            wanted |= {f"g:{name}": reads[name].requires_grad_() for name in self.taught}
        randomness.begin(self.stage.index)
        with torch.set_grad_enabled(learns):
            written = run_with(self.stage, parameters, buffers, list(reads.values()))
        kept = written if all_of_it else {n: v for n, v in written.items() if isinstance(v, Tensor)}
        return kept, wanted, buffers

    def _end(
        self, given: Named, wanted: Mapping[str, Tensor], values: Sequence[Tensor], ups: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Gradients of what is wanted, and what is moved by them; what has none stays where it is."""
        tensors = list(wanted.values())
        found = gradients_of(values, ups, tensors, may_reenter=False) if values else [None] * len(tensors)
        known = dict(zip(wanted, found, strict=True))
        told = {
            name: torch.zeros_like(wanted[name]) if each is None else each
            for name, each in known.items()
            if name.startswith("g:") or name.removeprefix("gp:") in self.lent
        }
        gradients = {name: each for name in self.moved if (each := known[f"gp:{name}"]) is not None}
        return told | moved(self.move, gradients, given)

    def _name(self, value: str) -> str:
        return self.names.get(value, value)


def _renewed(buffers: Named) -> dict[str, Tensor]:
    return {f"new:b:{name}": each for name, each in buffers.items()}


def moved(move: Move, gradients: Named, given: Named) -> dict[str, Tensor]:
    """Parameters after a step by these gradients, and what the optimizer keeps of them."""
    found: dict[str, Tensor] = {}
    for name, gradient in gradients.items():
        kept = {slot: given[f"{slot}:{name}"] for slot in move.slots}
        parameter, after = move.moved(given[f"p:{name}"], gradient, kept, given[LEARNING_RATE], given[STEP])
        found[f"new:p:{name}"] = parameter
        found |= {f"new:{slot}:{name}": each for slot, each in after.items()}
    return found


def state_named(boundary: str, given: Named) -> dict[str, Tensor]:
    """The state of a synthesizer by its own names."""
    head = f"s:{boundary}:"
    return {name.removeprefix(head): each for name, each in given.items() if name.startswith(head)}


def guess(dni: DNI, context: Context) -> Function:
    """What goes up at a boundary, as a function."""

    def said(given: Named) -> dict[str, Tensor]:
        values = [given[f"v:{name}"] for name in dni.spec.names]
        ups = synthesis.guess_up(dni, state_named(dni.spec.name, given), values, context(given), given[BATCH])
        return {f"u:{name}": each for name, each in zip(dni.spec.names, ups, strict=True)}

    return said


def learn(dni: DNI, context: Context) -> Function:
    """The state of a synthesizer after it has heard of the true gradients, as a function."""

    def heard(given: Named) -> dict[str, Tensor]:
        values = [given[f"v:{name}"] for name in dni.spec.names]
        truths = [given[f"g:{name}"] for name in dni.spec.names]
        state = state_named(dni.spec.name, given)
        found = synthesis.learned(dni, state, values, context(given), given[BATCH], truths, given[STEP])
        return {f"new:s:{dni.spec.name}:{key}": each for key, each in found.items()}

    return heard


def loss(
    function: Callable[[Any, Any], Tensor],
    spec: pytree.TreeSpec,
    result: Sequence[Any],
    plain: Mapping[str, Plain],
    target: Any,
) -> Function:
    """The loss of the model's outputs, and their gradients, as a function.

    `result` is the flat list of outputs with a `Name` for each that is a value, `plain` those of them that
    are no tensors, and `target` the tree of names of the targets.
    """

    def judged(given: Named) -> dict[str, Tensor]:
        names = dict.fromkeys(each.of for each in result if isinstance(each, Name))
        values = {name: given[f"v:{name}"].detach() for name in names if name not in plain}
        live = {name: each.requires_grad_() for name, each in values.items() if each.is_floating_point()}
        known = values | {name: each.of(given) for name, each in plain.items()}
        flat = [known[each.of] if isinstance(each, Name) else each for each in result]
        targets = pytree.tree_map(lambda name: given[name], target)
        found = function(pytree.tree_unflatten(flat, spec), targets)
        gradients = gradients_of([found], [None], list(live.values()), may_reenter=False)
        both = zip(live.items(), gradients, strict=True)
        told = {f"g:{name}": torch.zeros_like(v) if g is None else g for (name, v), g in both}
        return {LOSS: found.detach().reshape(())} | told

    return judged


def _bare(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value
