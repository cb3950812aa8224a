"""How a model is cut, and its graphs so far: one for each mode and form of call."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, TypeVar

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from dni_fx.calls import Call, call_of
from dni_fx.carry import Passage, end_episodes, is_first
from dni_fx.compiled import condition_of, number_of
from dni_fx.cut_graph import CutGraph, Marked, misfits, specs_of
from dni_fx.dni import DNI
from dni_fx.errors import CaptureError, DniError, PlanError
from dni_fx.feedback import Carry
from dni_fx.fields import with_fields
from dni_fx.hooks import hooks_passed_by
from dni_fx.interfaces import Interfaces
from dni_fx.program import Capture, Key, Program, key_of, modules_of, signature_of
from dni_fx.refusals import refuse_meta, refuse_transforms
from dni_fx.release import own_saved_tensors, run_stages
from dni_fx.rewind import rewound
from dni_fx.stage import road
from dni_fx.step import Step
from passes import BoundarySpec, Pipeline, Plan
from passes.boundary import CONTAINER
from passes.branches import BranchError, Way
from passes.chunk_time import chunkings
from passes.code import compile_graph
from passes.dataflow import dataflow
from passes.mark_boundaries import MarkBoundaries
from passes.placement import refit
from passes.split_stages import split_stages
from passes.switches import switches_kept
from passes.values import value_of

_T = TypeVar("_T")

Around = Callable[[], AbstractContextManager[object]]
"""What a capture is made inside of."""


class Cutting:
    """Everything that a drop-in adds to its model, but for the synthesizers' parameters.

    `plan` is a plan or what chooses one when the first graph is there; `fill` puts a DNI for each boundary
    into a container; `context` names the model input that holds the labels.
    """

    def __init__(
        self,
        program: Program,
        plan: Plan | Callable[[fx.GraphModule, Sequence[Tensor]], Plan],
        fill: Callable[[nn.Module, Sequence[BoundarySpec], Step], None],
        classes: int,
        context: str,
    ) -> None:
        self.program = program
        self.plan = plan
        self.fill = fill
        self.classes = classes
        self.context = context
        self.step = Step()
        self.interfaces = Interfaces()
        self.instance_forward: Callable[..., Any] | None = None
        self.graphs: list[CutGraph] = []
        self.was_cut = False
        self.number = number_of(self)

    def __getstate__(self) -> dict[str, Any]:
        # A pickled model makes its graphs again at its next batch, which may take another way.
        return vars(self) | {"graphs": [], "was_cut": bool(self.graphs)}

    def __deepcopy__(self, memo: dict[int, Any]) -> Cutting:
        twin = memo[id(self)] = object.__new__(Cutting)
        twin.__setstate__(copy.deepcopy(vars(self), memo))
        return twin

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.number = number_of(self)  # a copy's own

    def forward(
        self, tree: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], context: Any, reset: Any = None
    ) -> Any:
        """Run the cut graph for this call in train mode; the synthesizers learn from the step before."""
        refuse_transforms(tree)
        call = self.opened(tree, call_of(signature_of(tree), args, kwargs))

        def run(graph: CutGraph) -> Any:
            self.begin(call, context)
            passage = self.passage(graph, reset)
            leaves = passage.enter(call.leaves)
            values = dict(zip(graph.road.split.inputs, leaves, strict=True))
            if graph.road.split.in_order:
                outputs = run_stages(graph.road, values, self.filled())
            else:
                outputs = graph.marked.whole(tree, *leaves)
            return pytree.tree_unflatten(passage.leave(outputs), graph.capture.out_spec)

        with own_saved_tensors():
            return self._along(tree, call, run)

    @property
    def carry(self) -> Carry:
        """Which argument the next call takes from which output of this one."""
        return self.program.carry

    def passage(self, graph: CutGraph, reset: Any) -> Passage:
        """The way of carried state through one step; of none where true gradients go up everywhere.

        Raises:
            DniError: episodes are to end, and no state is carried.
        """
        self.carry.check(reset)
        return Passage(() if self.step.exact else graph.feedback, self.filled(), reset)

    def opened(self, tree: nn.Module, call: Call) -> Call:
        """The same call whose carried state hangs on no step before, and whose gradient is asked for.

        A first state that the user learns, a parameter or made from some, hangs on that.
        """
        return call if self.step.exact else self.carry.opened(signature_of(tree), call, is_first)

    def ended(
        self, tree: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any, reset: Any
    ) -> Any:
        """The outputs of a call, with zeros for the state of samples whose episode is over."""
        self.carry.check(reset)
        signature = signature_of(tree)
        flat, spec = pytree.tree_flatten(with_fields(outputs))
        for edge in self.carry.edges(signature, call_of(signature, args, kwargs), spec):
            end_episodes(edge, flat, reset)
        return pytree.tree_unflatten(flat, spec)

    def settled(self, tree: nn.Module, call: Call, around: Around = nullcontext) -> CutGraph:
        """The cut graph that takes the way of this data; it is run once for that if it has branches.

        What has to be captured is captured inside of `around`.
        """

        def run(graph: CutGraph) -> CutGraph:
            if graph.capture.ways:
                with torch.no_grad():
                    graph.marked.whole(tree, *call.leaves)
            return graph

        return self._along(tree, call, run, back=True, around=around)

    def _along(
        self,
        tree: nn.Module,
        call: Call,
        run: Callable[[CutGraph], _T],
        back: bool = False,
        around: Around = nullcontext,
    ) -> _T:
        """What `run` returns on a graph that takes the way of this data, found by trying."""
        ways: tuple[Way, ...] = ()
        while True:
            graph = self.graph(tree, call, ways, around)
            try:
                with switches_kept(), rewound(tree, graph.capture, call, always=back):
                    return run(graph)
            except BranchError as error:
                if error.index < len(ways):
                    raise CaptureError(
                        f"cannot run {type(tree).__name__} as a graph: what the code branches on differs "
                        "between two runs on the same input (a clock, say, or a global)."
                    ) from error
                ways = (*graph.capture.ways[: error.index], error.found)

    def begin(self, call: Call, context: Any) -> None:
        """Start a training step: the learners take the update that waits, and hear of the new batch."""
        if context is None and self.context:
            named = call.named()
            if self.context not in named:
                raise DniError(
                    f"the context is to be the model's input {self.context!r}, and this call has only "
                    f"{', '.join(named)}."
                )
            context = named[self.context]
        if not (context is None or isinstance(context, Tensor)):
            raise DniError(f"dni_context is a tensor, and this is a {type(context).__name__}.")
        self.start(call.batch, context)

    def start(self, batch: int, context: Tensor | None) -> None:
        """The learners take the update that waits, and hear of the new batch and its context."""
        self.step.number = self.interfaces.count()
        for dni in self.filled().values():
            if dni.optimizer is not None:
                # Who freezes a model means the model, not what learns to guess.
                dni.learner.requires_grad_(True)
            dni.step()
        self.step.batch = max(batch, 1)  # an empty batch divides nothing
        self.step.context = context

    def filled(self) -> dict[str, DNI]:
        """The DNIs there are, by the names of their boundaries."""
        return {name: dni for name, dni in self.interfaces.named_children() if isinstance(dni, DNI)}

    def graph(
        self, tree: nn.Module, call: Call, ways: tuple[Way, ...] = (), around: Around = nullcontext
    ) -> CutGraph:
        """The cut graph for calling `tree`, as it is, on data that takes these ways, made now if need be.

        Raises:
            CaptureError: no front-end can capture the model.
            PlanError: the graph cannot be cut as asked.
        """
        key, modules = key_of(tree, call), modules_of(tree)
        self.graphs = [known for known in self.graphs if known.is_bound_to(modules)]
        for known in self.graphs:
            if known.key == key and known.capture.fits(call, ways) and known.has_its_hooks():
                return known
        with around():
            self.graphs.append(made := self._made(tree, call, ways, key, modules))
        self.was_cut = False  # from here on, a plan that does not fit is told
        return made

    def _made(
        self, tree: nn.Module, call: Call, ways: tuple[Way, ...], key: Key, modules: list[nn.Module]
    ) -> CutGraph:
        refuse_meta(tree, call.leaves)
        capture = self.program.annotated(tree, call, ways)
        captured = capture.module(tree)
        if not isinstance(self.plan, Plan):
            self.plan = self.plan(captured, call.leaves)
            self.program.history.append(f"plan: {self.plan.summary}")
        elif not (self.graphs or self.was_cut or self.program.is_from_file):
            late = ", older than its layers; decouple dni_fx.recouple(model) anew" if self.filled() else ""
            doing = f"cannot cut this graph by the plan{late}"
            PlanError.unless_none(doing, self.plan.problems(captured.graph))
        plan = refit(self.plan, dataflow(captured)) if self.graphs or self.was_cut else self.plan
        chunks = chunkings(plan.time) if tree.training else ()
        told = self._classes(capture)
        marked = Pipeline((*chunks, MarkBoundaries(plan, *told))).run(captured, self.program.observe)
        specs = specs_of(marked, *told)
        edges = self.carry.located(signature_of(tree), call, marked.graph, capture.out_spec)
        self._fill(tree, (*specs, *(edge.spec for edge in edges if edge.spec is not None)))
        if self.program.example is None:
            self.program.example = replace(call, leaves=tuple(leaf.detach() for leaf in call.leaves))
        code = Marked(marked.graph, specs, compile_graph(marked.graph), condition_of(capture.sizes.condition))
        hooks = hooks_passed_by(capture.graph, tree)
        return CutGraph(key, modules, capture, code, road(tree, split_stages(marked, plan)), hooks, edges)

    def _classes(self, capture: Capture) -> tuple[int, int]:
        """How many classes a context can have, and how many features the model's first output has."""
        outputs = next(iter(reversed(capture.graph.nodes))).all_input_nodes
        values = [value_of(node) for node in outputs]
        sizes = [v.shape[v.feature_dim] for v in values if v.requires_grad and v.shape and len(v.shape) > 1]
        first = next(iter(sizes), 0)
        return self.classes or (first if first <= _MANY else 0), first

    def _fill(self, tree: nn.Module, specs: tuple[BoundarySpec, ...]) -> None:
        filled = self.filled()
        new = [spec for spec in specs if spec.name not in filled]
        PlanError.unless_none(
            "one synthesizer cannot serve both graphs",
            misfits(specs, {name: dni.spec for name, dni in filled.items()}),
        )
        if new and filled and not tree.training:
            names = ", ".join(spec.name for spec in new)
            raise PlanError(
                f"in eval mode other values cross the cuts ({names}) than in train mode "
                f"({', '.join(filled)}): the model computes something else there. Cut after whole modules."
            )
        like = next((p for p in tree.parameters() if p.is_floating_point()), None)
        self.fill(self.interfaces, new, self.step)
        for spec in new:
            dni = self.interfaces.get_submodule(spec.name).train(tree.training)
            if like is not None:
                dni.to(like.device)
            self.interfaces.settle(spec.name)
        names = [f"{CONTAINER}.{name}" for name in self.interfaces.state_dict()]
        vars(tree)["_ddp_params_and_buffers_to_ignore"] = names  # DDP waits for gradients that never come


_MANY = 1024
"""Classes beyond which a context is not prepared for unasked: its weights would outgrow the stage."""
