"""The graphs of the training step of a cut model, stage by stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from dni_fx.calls import Call
from dni_fx.cut_graph import CutGraph
from dni_fx.dni import DNI
from dni_fx.errors import ExportError, first_line
from dni_fx.exporters.training import functions
from dni_fx.exporters.training.functions import BATCH, CONTEXT, EXAMPLE_RATE, LEARNING_RATE, STEP, StageStep
from dni_fx.exporters.training.known import Entry, Known
from dni_fx.exporters.training.lesson import Lesson
from dni_fx.exporters.training.synthesis import state_of
from dni_fx.exporters.training.tracing import SEED, Shapes
from dni_fx.stage import Stage
from passes.split_stages import Name
from passes.values import value_of

TARGET = "target"
EVAL = "e."
"""What the names of values begin with in eval mode, whose graphs have others of the same names."""


class Assembly:
    """Takes a step of a model apart into functions.

    Stages that wait for nobody go forward and backward in one. What holds an output of the model waits
    for the loss, as all stages do where true gradients go up.
    """

    def __init__(self, graph: CutGraph, dnis: Mapping[str, DNI], call: Call, lesson: Lesson) -> None:
        self.graph = graph
        self.inputs = tuple(zip(call.named(), graph.road.split.inputs, strict=True))
        self.predictions: list[str] = []
        self.dnis = {spec.name: dnis[spec.name] for spec in graph.marked.specs}
        self.lesson = lesson
        self.known = Known(Shapes())
        self.steps: list[StageStep] = []
        self._open(call.leaves)
        for stage in graph.road.stages:
            try:
                self._pass(stage)
            except Exception as error:  # whatever an operator may raise that dislikes what has no data
                told = f"{type(error).__name__}: {first_line(error)}"
                raise ExportError(
                    f"cannot run stage {stage.index} for a batch of any size: {told}"
                ) from error

    @cached_property
    def parts(self) -> dict[str, str]:
        """The boundary of each value that goes through one."""
        return {name: spec.name for spec in self.graph.marked.specs for name in spec.names}

    @cached_property
    def readers(self) -> dict[str, tuple[int, ...]]:
        """The stages that read each parameter that learns."""
        found: dict[str, list[int]] = {}
        for stage in self.graph.road.stages:
            for name, parameter in stage.named_parameters().items():
                if parameter.requires_grad:
                    found.setdefault(name, []).append(stage.index)
        return {name: tuple(stages) for name, stages in found.items()}

    @property
    def shared(self) -> dict[str, tuple[int, ...]]:
        """The parameters that several stages read, with these."""
        return {name: stages for name, stages in self.readers.items() if len(stages) > 1}

    @property
    def targets(self) -> Any:
        """The tree of targets, a name for each tensor."""
        leaves, spec = pytree.tree_flatten(self.lesson.targets)
        names = [TARGET] if len(leaves) == 1 else [f"{TARGET}.{at}" for at in range(len(leaves))]
        return pytree.tree_unflatten(names, spec)

    @property
    def target_names(self) -> list[str]:
        """The names of the targets, in order."""
        return pytree.tree_leaves(self.targets)

    @property
    def outputs(self) -> list[str]:
        """The tensors that the model returns, in order; what else it returns, a device is not told."""
        return [f"v:{name}" for name in self._returned(self.graph, self.known)]

    @staticmethod
    def _returned(graph: CutGraph, known: Known) -> list[str]:
        names = [each.of for each in graph.road.split.result if isinstance(each, Name)]
        return [name for name in names if name not in known.told]

    def context(self, given: Mapping[str, Tensor]) -> Tensor | None:
        """What synthesizers see beside the value."""
        return given.get(CONTEXT)

    def entries(self) -> Iterator[Entry]:
        """All graphs of the step."""
        for step in self.steps:
            yield from self._of_stage(step)
        for dni in self.dnis.values():
            if not dni.learner.silent:
                spec = dni.spec
                given = [*self._of_boundary(dni), *(f"g:{name}" for name in spec.names), STEP]
                yield self.known.entry(f"learn.{spec.name}", functions.learn(dni, self.context), given)
        result, spec = self.graph.road.split.result, self.graph.capture.out_spec
        plain = self.known.plain([each.of for each in result if isinstance(each, Name)], self.outputs)
        judged = functions.loss(self.lesson.loss, spec, result, plain, self.targets)
        yield self.known.entry("loss", judged, [*self.outputs, *self.target_names])
        if self.shared:
            move, names = self.lesson.optimizer, list(self.shared)

            def update(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
                return functions.moved(move, {name: given[f"gp:{name}"] for name in names}, given)

            yield self.known.entry(
                "shared", update, [*self._of_optimizer(names), *(f"gp:{n}" for n in names)]
            )

    def evaluation(self, graph: CutGraph) -> Iterator[Entry]:
        """The graphs of the stages in eval mode, whose graph this is; inputs have the names of here."""
        same = dict(zip(graph.road.split.inputs, self.graph.road.split.inputs, strict=True))
        known = Known(self.known.shapes, dict(self.known.real), dict(self.known.fake))
        for stage in graph.road.stages:
            names = {n: same.get(n, f"{EVAL}{n}") for n in (*stage.code.part.reads, *stage.code.part.writes)}
            reads = [f"v:{names[name]}" for name in stage.code.part.reads]
            plain = known.plain(stage.code.part.reads, reads)
            step = StageStep(stage, (), (), (), (), self.lesson.optimizer, plain, names)
            known.hold(stage)
            for name, (real, fake, _) in step.written(known.real, known.fake, known.shapes).items():
                known.take(name, f"v:{names[name]}", real, fake)
            yield known.entry(
                f"stage_{stage.index}.evaluate", step.forward_alone, [*reads, *_held(stage), SEED]
            )
        self.predictions = [f"v:{same.get(name, EVAL + name)}" for name in self._returned(graph, known)]
        self.known.is_fixed |= known.is_fixed

    def _of_stage(self, step: StageStep) -> Iterator[Entry]:
        index = step.stage.index
        reads = [f"v:{name}" for name in step.stage.code.part.reads]
        given = [*reads, *_held(step.stage), SEED]
        moving = [*given, *self._of_optimizer([*step.moved])]
        yield self.known.entry(f"stage_{index}.forward", step.forward, given)
        sent = [f"g:{name}" for name in step.sent]
        yield self.known.entry(f"stage_{index}.backward", step.backward, [*moving, *sent])
        dnis = [self.dnis[name] for name in step.stage.crossings]
        if step.stage.is_releasable:
            state = [each for dni in dnis for each in self._of_state(dni)]
            alone = step.decoupled(self.dnis, self.context)
            yield self.known.entry(f"stage_{index}.step", alone, [*moving, *state, CONTEXT, BATCH])
        else:
            for dni in dnis:
                given = self._of_boundary(dni)
                yield self.known.entry(f"guess.{dni.spec.name}", functions.guess(dni, self.context), given)

    def _of_boundary(self, dni: DNI) -> list[str]:
        return [*(f"v:{name}" for name in dni.spec.names), *self._of_state(dni), CONTEXT, BATCH]

    def _of_state(self, dni: DNI) -> list[str]:
        return [f"s:{dni.spec.name}:{key}" for key in state_of(dni)]

    def _of_optimizer(self, names: list[str]) -> list[str]:
        slots = [f"{slot}:{name}" for slot in self.lesson.optimizer.slots for name in names]
        return [*(f"p:{name}" for name in names), *slots, LEARNING_RATE, STEP]

    def _open(self, leaves: tuple[Tensor, ...]) -> None:
        """Take in what a batch and a step have: inputs, targets, numbers, and the state of synthesizers."""
        known, varying = self.known, frozenset([0])
        nodes = self.graph.marked.graph.find_nodes(op="placeholder")
        for node, name, leaf in zip(nodes, self.graph.road.split.inputs, leaves, strict=True):
            dims = value_of(node).dims
            known.add(f"v:{name}", leaf, frozenset(at for at, dim in enumerate(dims) if isinstance(dim, str)))
        batch = _batch_of(self.known)
        for name, leaf in zip(self.target_names, pytree.tree_leaves(self.lesson.targets), strict=True):
            known.add(name, leaf, varying if leaf.dim() and len(leaf) == batch else frozenset())
        if self.lesson.labels_as_context:
            known.real[CONTEXT], known.fake[CONTEXT] = known.real[TARGET], known.fake[TARGET]
        for name, number in ((LEARNING_RATE, EXAMPLE_RATE), (STEP, 1.0)):
            known.add(name, torch.full((), number, dtype=torch.float64))
        for name, number in ((BATCH, batch), (SEED, 0)):
            known.add(name, torch.full((), number, dtype=torch.int64))
        for dni in self.dnis.values():
            for key, value in state_of(dni).items():
                known.add(f"s:{dni.spec.name}:{key}", value)

    def _pass(self, stage: Stage) -> None:
        """Take in what a stage has, and what it writes at the example."""
        known = self.known
        known.hold(stage)
        for name, parameter in stage.named_parameters().items():
            known.add(f"gp:{name}", parameter)
            for slot in self.lesson.optimizer.slots:
                known.add(f"{slot}:{name}", torch.zeros_like(parameter))
        plain = known.plain(stage.code.part.reads, [f"v:{name}" for name in stage.code.part.reads])
        learning = [name for name, each in stage.named_parameters().items() if each.requires_grad]
        taught = [
            n for n in stage.code.part.reads if n in self.parts and known.real[f"v:{n}"].is_floating_point()
        ]
        step = StageStep(
            stage,
            tuple(name for name in learning if name not in self.shared),
            tuple(name for name in learning if name in self.shared),
            tuple(taught),
            (),
            self.lesson.optimizer,
            plain,
        )
        sent = step.written(known.real, known.fake, known.shapes)
        for name, (real, fake, _) in sent.items():
            if known.take(name, f"v:{name}", real, fake):
                # An object of its own: a tracer knows what a tensor is by who it is.
                known.real[f"g:{name}"] = _some(real)
                known.fake[f"g:{name}"] = known.shapes.another(fake)
        wanted = {*stage.code.part.outputs, *(name for names in stage.crossings.values() for name in names)}
        live = tuple(name for name, (_, _, is_live) in sent.items() if is_live and name in wanted)
        self.steps.append(replace(step, sent=live))


def _some(value: Tensor) -> Tensor:
    """A gradient as one might arrive, of the shape of a value."""
    if not value.is_floating_point():
        return torch.zeros_like(value)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(value.shape, generator=generator, dtype=value.dtype) / value.numel()


def _held(stage: Stage) -> list[str]:
    """The names of its weights and buffers."""
    return [
        *(f"p:{name}" for name in stage.named_parameters()),
        *(f"b:{name}" for name in stage.named_buffers()),
    ]


def _batch_of(known: Known) -> int:
    """The size that varies of the first input that has one."""
    for name, tensor in known.fake.items():
        for at, size in enumerate(tensor.shape):
            if isinstance(size, torch.SymInt):
                return known.real[name].shape[at]
    return next((len(each) for each in known.real.values() if each.dim()), 1)
