"""Is a cut model equal where it must be, and cut where it must be?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from dni_fx.apart import compare_gradients, digest_of, distance, is_equal, real_of, take_gradients
from dni_fx.calls import Call
from dni_fx.cut_graph import CutGraph
from dni_fx.decoupled import Decoupled, cutting_of, detach, dnis
from dni_fx.dni import DNI
from dni_fx.errors import DniError
from dni_fx.fields import with_fields
from dni_fx.modes import eval_mode, training_mode
from dni_fx.stage import shared_parameters
from passes import GraphError
from passes.boundary import CONTAINER
from passes.leaks import leaks
from passes.shell import shell
from passes.values import unannotated, value_of
from passes.words import counted

_SEED = 0
_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 1e-3}
"""How far gradients may be apart, relative to the largest: adding in another order rounds differently."""


@dataclass(frozen=True)
class Check:
    """One property: whether it holds, and the figure or names that say so."""

    name: str
    ok: bool
    found: str


@dataclass(frozen=True)
class Report:
    """What `verify` found. It is true if every check is."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether every check holds."""
        return all(check.ok for check in self.checks)

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        width = max(len(check.name) for check in self.checks)
        lines = [f"{'ok  ' if c.ok else 'FAIL'}  {c.name:<{width}}  {c.found}" for c in self.checks]
        return "\n".join(lines)


def check(cut: Decoupled, call: Call, context: Tensor | None = None) -> Report:
    """Compare a cut model with its original on an example. Both are copied first, so nothing changes.

    Synthesizers that need labels see zeros where no context is given.
    """
    needs = any(dni.synthesizer.needs == "context" for dni in dnis(cut).values())
    if needs and context is None and not cutting_of(cut).context:
        context = torch.zeros(call.batch, dtype=torch.long, device=call.leaves[0].device)
    with torch.random.fork_rng(devices=call.cuda_devices), torch.enable_grad():
        return Report(tuple(_checks(cut, call, context)))


def _checks(cut: Decoupled, call: Call, context: Tensor | None) -> Iterator[Check]:
    yield _forward_in_train(*_twins(cut), call, context)
    yield _forward_in_eval(*_twins(cut), _twins(cut)[0], call)
    yield _oracle(*_twins(cut), call, context)
    ours, _ = _twins(cut)
    with training_mode(ours):
        graph = cutting_of(ours).graph(ours, call)
    found = tuple(leaks(graph.marked.module(ours)))
    yield Check(
        "no gradient path past a boundary", not found, ", ".join(found) or counted(len(dnis(cut)), "boundary")
    )
    yield _scaling(ours, graph, call, context)
    shared = shared_parameters(graph.road.stages)
    listed = ", ".join(f"{name} (stages {' and '.join(map(str, at))})" for name, at in shared.items())
    yield Check("parameters that several stages read", True, listed or "none")
    yield _keys(cut)


def _twins(cut: Decoupled) -> tuple[Decoupled, nn.Module]:
    """Two copies of the same state: the cut model, and the model as it was before."""
    return _copied(cut), detach(_copied(cut))


def _copied(cut: Decoupled) -> Decoupled:
    """A copy with tensors of its own, those included that were computed and that torch refuses to copy.

    Only parameters that nothing can write to are on the same memory, which may be most that there is.
    """
    untouched = _untouched(cut)

    def own(tensor: Tensor) -> Tensor:
        alone = tensor.detach() if id(tensor) in untouched else tensor.detach().clone()
        return alone.requires_grad_(tensor.is_leaf and tensor.requires_grad)

    copied = shell(cut, replace=own)
    cutting_of(copied).step.tells_loss = True  # nothing is learned here, from a loss or anything else
    return copied


def _untouched(cut: Decoupled) -> set[int]:
    """The identities of the parameters that the graphs only read, if the model is nothing but graphs."""
    program = cutting_of(cut).program
    if not program.frontend.holds_all:
        return set()
    graphs = [capture.graph for _, capture in program.captures]
    if any(unannotated(graph) for graph in graphs):
        return set()
    nodes = [node for graph in graphs for node in graph.nodes]
    written = {name for node in nodes for name in value_of(node).mutates}
    changed = {str(node.target) for node in nodes if node.op == "get_attr" and node.name in written}
    named = list(detach(cut).named_parameters(remove_duplicate=False))
    spoiled = {id(parameter) for name, parameter in named if name in changed}  # by any of its names
    return {id(parameter) for _, parameter in named} - spoiled


def _forward_in_train(ours: Decoupled, theirs: nn.Module, call: Call, context: Tensor | None) -> Check:
    with training_mode(ours), training_mode(theirs):
        a, b = _seeded(ours, call, context), _seeded(theirs, call)
        buffers = [
            name for name, buffer in theirs.named_buffers() if not is_equal(buffer, ours.get_buffer(name))
        ]
    gap = distance(a, b)
    says = f"largest difference {gap:g}" + (f"; buffers differ: {', '.join(buffers)}" if buffers else "")
    # A kernel that runs over a part of a sequence adds in an order of its own.
    allowed = _rounding(b) if any(dni.spec.group for dni in dnis(ours).values()) else 0.0
    return Check("forward in train mode is bit-identical", gap <= allowed and not buffers, says)


def _forward_in_eval(ours: Decoupled, theirs: nn.Module, third: Decoupled, call: Call) -> Check:
    """The drop-in, and the graph that files are made from."""
    with eval_mode(ours), eval_mode(theirs), eval_mode(third), torch.no_grad():
        wanted = _seeded(theirs, call)
        apart = distance(_seeded(ours, call), wanted)
        says, fine = f"largest difference {apart:g}", apart == 0
        try:
            graph = cutting_of(third).graph(third, call)
        except (DniError, GraphError) as error:
            says += f"; no file can be made of it: {error}"
        else:
            torch.manual_seed(_SEED)
            outputs = graph.marked.whole(third, *call.copies())
            beside = distance(with_fields(pytree.tree_unflatten(outputs, graph.capture.out_spec)), wanted)
            fine = fine and beside <= _rounding(wanted)
            # Fused kernels that torch has for eval mode alone add in an order of their own.
            says += f"; {beside:g} in the graph for files" if beside else ""
    return Check("forward in eval mode is bit-identical", fine, says)


def _rounding(outputs: Any) -> float:
    """How far results may be apart that differ by the order of additions alone."""
    found = [real_of(t).detach() for t in pytree.tree_leaves(outputs) if isinstance(t, Tensor)]
    tensors = [t for t in found if t.is_floating_point()]
    # What is not finite has no digits to round: it is equal, or it is not.
    finite = [t[t.isfinite()] for t in tensors]
    return max(
        (_TOLERANCE.get(t.dtype, 0.0) * float(t.abs().max()) for t in finite if t.numel()), default=0.0
    )


def _oracle(ours: Decoupled, theirs: nn.Module, call: Call, context: Tensor | None) -> Check:
    cutting_of(ours).step.exact = True
    with training_mode(ours), training_mode(theirs):
        _objective(_seeded(ours, call, context)).backward()
        run = partial(_seeded, theirs, call)
        streaming = cutting_of(ours).program.frontend.holds_all
        found = compare_gradients(theirs, ours, lambda: _objective(run()).backward(), streaming)
    worst, where, fine = 0.0, "", True
    largest = max((gap.size for gap in found.values()), default=0.0)
    for name, parameter in theirs.named_parameters():
        # A gradient that is 0 by arithmetic (a bias before a softmax) is noise of what it was added up from.
        noise = torch.finfo(parameter.dtype).eps * largest
        gap = found[name].relative(noise)
        fine = fine and gap <= _TOLERANCE.get(parameter.dtype.to_real(), 0.0)
        if gap > worst:
            worst, where = gap, f" at {name}"
    return Check(
        "gradients under oracle equal backprop's", fine, f"largest relative difference {worst:.1e}{where}"
    )


def _scaling(ours: Decoupled, graph: CutGraph, call: Call, context: Tensor | None) -> Check:
    """Multiply the loss: gradients of stages that do not make an output must not notice."""
    name = "scaling the loss changes no earlier gradient"
    cutting_of(ours).step.takes_turns = False
    if exact := [name for name, dni in dnis(ours).items() if dni.mix]:
        return Check(name, True, f"not asked of {', '.join(exact)}: the true gradient is mixed in")
    touched = {n for stage in graph.road.stages if not stage.is_releasable for n in stage.named_parameters()}
    early = [n for stage in graph.road.stages for n in stage.named_parameters() if n not in touched]
    for dni in dnis(ours).values():
        _stir(dni)
    results: list[dict[str, bytes]] = []
    with training_mode(ours):
        for factor in (1.0, 8.0):
            results.append(_digests(_copied(ours), call, context, factor))
    changed = [n for n in early if results[0].get(n) != results[1].get(n)]
    return Check(
        name,
        not changed,
        ", ".join(changed[:5]) or f"{counted(len(early), 'parameter')} of earlier stages unchanged",
    )


def _digests(twin: Decoupled, call: Call, context: Tensor | None, factor: float) -> dict[str, bytes]:
    """What tells the gradients of one loss from those of another one, by the parameters' names."""
    found: dict[str, bytes] = {}

    def backward() -> None:
        (_objective(_seeded(twin, call, context)) * factor).backward()

    def take(name: str, parameter: Tensor) -> None:
        found[name] = digest_of(parameter.grad)

    take_gradients(twin, backward, take, cutting_of(twin).program.frontend.holds_all)
    return found


def _stir(dni: DNI) -> None:
    """Make a DNI send something: a fresh one sends zeros, which would prove nothing."""
    draw = torch.Generator().manual_seed(_SEED)
    with torch.no_grad():
        for parameter in dni.learner.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.1)
        dni.scale.get_buffer("mean_square").fill_(1)


def _keys(cut: Decoupled) -> Check:
    before, now = detach(cut).state_dict(), cut.state_dict()
    lost = [key for key in before if key not in now]
    added = [key for key in now if key not in before and not key.startswith(f"{CONTAINER}.")]
    says = f"{len(before)} kept, {len(now) - len(before)} under {CONTAINER}."
    if lost or added:
        says = f"lost: {', '.join(lost) or 'none'}; added: {', '.join(added) or 'none'}"
    return Check("state-dict keys are kept", not lost and not added, says)


def _seeded(model: Callable[..., Any], call: Call, context: Tensor | None = None) -> Any:
    args, kwargs = call.form.rebuild(call.copies())
    if context is not None:
        kwargs["dni_context"] = context
    torch.manual_seed(_SEED)
    return with_fields(model(*args, **kwargs))


def _objective(outputs: Any) -> Tensor:
    """A scalar on which every element of every output has an influence of its own."""
    draw = torch.Generator().manual_seed(_SEED)
    total = torch.zeros(())
    for value in pytree.tree_leaves(outputs):
        if isinstance(value, Tensor) and value.requires_grad:
            value = real_of(value)
            weights = torch.randn(value.shape, generator=draw, dtype=torch.float64).to(value)
            total = total.to(value) + (value * weights).sum()
    return total
