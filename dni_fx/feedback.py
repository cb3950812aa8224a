"""State that a model returns so that it is passed in again: an edge from an output back to an input."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor, fx

from dni_fx.calls import Call, Form
from dni_fx.errors import CaptureError, DniError, PlanError
from dni_fx.fields import with_fields
from dni_fx.state_values import batch_dim_of, check_alike, value_spec_of
from passes import BoundarySpec, ValueSpec
from passes.values import value_of
from passes.words import counted


@dataclass(frozen=True)
class Feedback:
    """One edge back: tensors of an argument, and those of an output that take their places in the next step.

    `reads` are places among the tensors of a call, `writes` among the flat outputs. `batch_dims` says which
    dimension of each tensor is the batch. `spec` is the boundary on the edge, None if no gradient goes there;
    `carries` are those of its tensors that are values of the boundary.
    """

    argument: str
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    batch_dims: tuple[int, ...]
    spec: BoundarySpec | None = None
    carries: tuple[int, ...] = ()


class Carry:
    """Which argument the next call takes from which output of this one: `{"state": 1}`, or `"state.h"`.

    `batch_dims` says which dimension of each tensor is the batch, where that is known.
    """

    def __init__(
        self, paths: Mapping[str, str | int], batch_dims: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        self.paths = {argument: str(path) for argument, path in paths.items()}
        self._batch_dims = {argument: tuple(dims) for argument, dims in (batch_dims or {}).items()}

    def plain(self) -> dict[str, Any]:
        """All that it says, for JSON."""
        return {"paths": self.paths, "batch_dims": self._batch_dims}

    def __bool__(self) -> bool:
        return bool(self.paths)

    def check(self, reset: object) -> None:
        """Do nothing if episodes can end so.

        Raises:
            DniError: it is no mask, or no state is carried.
        """
        if reset is not None and not (self.paths and isinstance(reset, Tensor)):
            raise DniError(
                "dni_reset is a tensor (batch,) that marks the samples whose episode ends with this step, "
                "for a model that was decoupled with carry=."
            )

    @contextmanager
    def explained(self) -> Generator[None]:
        """Inside, who is told that the model writes to its state is told what to do."""
        try:
            yield
        except CaptureError as error:
            if not (self.paths and "leaf Variable that requires grad" in str(error)):
                raise
            raise CaptureError(
                f"{error} Nothing can be written to carried state where it comes in: let the model copy it "
                f"first ({next(iter(self.paths))}.clone())."
            ) from error

    def places(self, signature: inspect.Signature, call: Call) -> dict[str, tuple[int, ...]]:
        """Which of the tensors of a call are the state, by the argument that holds them.

        Raises:
            PlanError: the call passes no state.
        """
        return {argument: reads_of(signature, call.form, argument) for argument in self.paths}

    def batch_dims(self, argument: str, state: Sequence[Any], batch: int) -> tuple[int, ...]:
        """Which dimension of each tensor of a state is the batch, by the sizes of the first one there was.

        Raises:
            PlanError: none is, or several may be.
        """
        if argument not in self._batch_dims:
            tensors = [each for each in state if isinstance(each, Tensor)]
            self._batch_dims[argument] = tuple(batch_dim_of(each, batch, argument) for each in tensors)
        return self._batch_dims[argument]

    def opened(
        self, signature: inspect.Signature, call: Call, is_own: Callable[[Tensor], bool] | None = None
    ) -> Call:
        """The same call whose state hangs on no step before, and whose gradient is asked for.

        State that `is_own` to the caller, as a parameter is, stays as it is.
        """
        if not self.paths:
            return call
        places = {at for found in self.places(signature, call).values() for at in found}
        leaves = tuple(
            leaf.detach().requires_grad_()
            if at in places and leaf.is_floating_point() and not (is_own and is_own(leaf))
            else leaf
            for at, leaf in enumerate(call.leaves)
        )
        kinds = tuple((leaf.dtype, leaf.requires_grad) for leaf in leaves)
        return replace(call, form=replace(call.form, kinds=kinds), leaves=leaves)

    def edges(
        self, signature: inspect.Signature, call: Call, out_spec: pytree.TreeSpec
    ) -> Iterator[Feedback]:
        """The edges back, as far as a call and the form of its outputs show them.

        Raises:
            PlanError: the state that is returned has not the form of the one that is passed in.
        """
        for argument, reads in self.places(signature, call).items():
            path = self.paths[argument]
            writes = writes_of(out_spec, path)
            if len(reads) != len(writes):
                raise PlanError(
                    f"the argument {argument!r} holds {counted(len(reads), 'tensor')}, and the output "
                    f"{path!r} that is to be carried there {len(writes)}. State comes back in "
                    "the form it is passed in."
                )
            dims = self.batch_dims(argument, [call.leaves[at] for at in reads], call.batch)
            yield Feedback(argument, reads, writes, dims)

    def note(
        self, signature: inspect.Signature, call: Call, graph: fx.Graph, out_spec: pytree.TreeSpec
    ) -> None:
        """Write on the inputs of a graph which of its values they are in the next step.

        Raises:
            PlanError: the state that is returned has not the form of the one that is passed in.
        """
        inputs = [node for node in graph.nodes if node.op == "placeholder"]
        result: Any = next(iter(reversed(graph.nodes))).args[0]
        for edge in self.edges(signature, call, out_spec):
            for read, write in zip(edge.reads, edge.writes, strict=True):
                check_alike(edge.argument, inputs[read], result[write], call.leaves[read])
                inputs[read].meta["carried"] = result[write].name

    def located(
        self, signature: inspect.Signature, call: Call, graph: fx.Graph, out_spec: pytree.TreeSpec
    ) -> tuple[Feedback, ...]:
        """The edges back with their boundaries, by a graph whose nodes have their stages.

        Raises:
            PlanError: an output is no tensor like the state.
        """
        return tuple(_located(edge, graph, call) for edge in self.edges(signature, call, out_spec))


def reads_of(signature: inspect.Signature, form: Form, argument: str) -> tuple[int, ...]:
    """Which of the tensors of a call are those of an argument.

    Raises:
        PlanError: the call passes no such argument, or no tensor in it.
    """
    args, kwargs = form.rebuild([_Place(at) for at in range(len(form.names))])
    passed = signature.bind(*args, **kwargs).arguments
    held = pytree.tree_leaves(with_fields(passed.get(argument)))
    found = [leaf.at for leaf in held if isinstance(leaf, _Place)]
    if not found:
        raise PlanError(
            f"state is to be carried to the argument {argument!r}, and this call passes no tensor in it; it "
            f"passes {', '.join(passed)}. Pass the first state, zeros for example."
        )
    return tuple(found)


def writes_of(out_spec: pytree.TreeSpec, path: str) -> tuple[int, ...]:
    """Which of the flat outputs lie at a path, such as `1`, `state` or `1.0`; a lone tensor is at `0`.

    Raises:
        PlanError: there is nothing.
    """
    if out_spec.is_leaf() and path == "0":
        return (0,)
    whole: Any = pytree.tree_unflatten(list(range(out_spec.num_leaves)), out_spec)
    found = whole
    for step in path.split("."):
        try:
            found = _entered(found, step)
        except (KeyError, IndexError, AttributeError, TypeError):
            raise PlanError(
                f"state is to be carried from the output {path!r}, and the model returns {_shape(whole)}. "
                "Name the place of the state in it: 1 for the second of a tuple, a key, or a path like "
                "1.0; 0 for a tensor that is all there is."
            ) from None
    return tuple(pytree.tree_leaves(with_fields(found)))


def name_of(argument: str) -> str:
    """What the boundary on the edge back to an argument is called."""
    return f"carried_{argument}"


def _located(feedback: Feedback, graph: fx.Graph, call: Call) -> Feedback:
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    result: Any = next(iter(reversed(graph.nodes))).args[0]
    values: list[ValueSpec] = []
    carries: list[int] = []
    readers: list[fx.Node] = []
    makers: list[fx.Node] = []
    for at, (read, write) in enumerate(zip(feedback.reads, feedback.writes, strict=True)):
        node, source = inputs[read], result[write]
        check_alike(feedback.argument, node, source, call.leaves[read])
        if value_of(source).requires_grad:
            carries.append(at)
            values.append(value_spec_of(node, feedback.batch_dims[at]))
            makers.append(source)
            readers += node.users
    if not values:
        return feedback
    spec = BoundarySpec(
        name_of(feedback.argument),
        tuple(values),
        max(_stages(makers), default=0),
        tuple(sorted(set(_stages(readers)))),
        delay=1,
    )
    return replace(feedback, spec=spec, carries=tuple(carries))


def _stages(nodes: Iterable[fx.Node]) -> list[int]:
    return [node.meta["stage"] for node in nodes if "stage" in node.meta]


class _Place:
    """Stands for a tensor; no data class, which would be looked into as state that is one is."""

    def __init__(self, at: int) -> None:
        self.at = at


def _entered(found: Any, step: str) -> Any:
    if isinstance(found, Mapping):
        return found[step]
    if isinstance(found, tuple | list) and step.isdigit():
        return found[int(step)]
    return getattr(found, step)


def _shape(whole: Any) -> str:
    if isinstance(whole, Mapping):
        return f"a {type(whole).__name__} with {', '.join(map(str, whole))}"
    if isinstance(whole, tuple | list):
        return f"a {type(whole).__name__} of {len(whole)}"
    return f"a {type(whole).__name__ if not isinstance(whole, int) else 'tensor'}"
