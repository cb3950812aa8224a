"""Shapes, memory sharing, randomness and cost of every value in a graph, without running the model.

The graph runs node by node on fake tensors, which have shapes and storages and no memory. What a node
did is read from the aten operations that it dispatched, so a symbolic graph, an exported one and an
opaque module are all seen alike.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch._subclasses import FakeTensorMode
from typing_extensions import override

from passes.errors import PreconditionError
from passes.one_step import OneStep
from passes.parts import OverParts, copied_parts
from passes.replay import run_backward
from passes.switches import switches_kept
from passes.watch import Watch

Sizes = tuple[int, ...]

_NO_HOOKS = "saved tensor hooks"
"""Where torch says this, as `torch.func.grad` does, what is saved cannot be seen, and counts as nothing."""


def annotate(gm: fx.GraphModule, leaves: Sequence[Tensor]) -> None:
    """Every node has a `Value` in `node.meta["value"]`, found from one example for each placeholder.

    No kernel of the model runs and none of its memory is allocated, unless a node needs the numbers in a
    tensor: then the graph runs once on the examples. Buffers and random state stay as they are. The batch
    size is the first size of the first example that has one; a second run at twice that size tells which
    sizes follow it. O(V) operations.

    Raises:
        PreconditionError: the examples do not match the placeholders, or a node cannot run on them; says
            which node of which module, and why.
    """
    placeholders = [node.name for node in gm.graph.nodes if node.op == "placeholder"]
    if len(placeholders) != len(leaves):
        raise PreconditionError(
            f"cannot annotate a graph with {len(placeholders)} inputs ({', '.join(placeholders)}) from "
            f"{len(leaves)} examples: give one tensor for each, in order."
        )
    batch = next((leaf.shape[0] for leaf in leaves if leaf.dim()), 0)
    try:
        sizes = _run(gm, leaves, batch, 1, watch := Watch())
    except PreconditionError:
        sizes = _run_on_data(gm, leaves, watch := Watch())
    try:
        with _without_reports():
            larger = _run(gm, leaves, batch, 2, None) if batch else {}
    except PreconditionError:
        larger = {}  # The model takes this batch size and no other, or cannot be run on shapes.
    reached: set[fx.Node] = set()  # a weight that happens to be as long as the batch does not follow it
    for node in gm.graph.nodes:
        if node.op == "placeholder" or not reached.isdisjoint(node.all_input_nodes):
            reached.add(node)
        value = watch.found[node.name]
        if (shape := sizes.get(node)) is not None:
            dims, batch_dim = _dims(shape, larger.get(node), batch if node in reached else 0)
            value = replace(value, dims=dims, batch_dim=batch_dim)
        node.meta["value"] = value


def _run(
    gm: fx.GraphModule, leaves: Sequence[Tensor], batch: int, times: int, watch: Watch | None
) -> dict[fx.Node, Sizes]:
    """Sizes of every value that is one tensor, at `times` the batch size."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with switches_kept(), torch.inference_mode(False), torch.enable_grad():
        parts = copied_parts(gm, lambda tensor: _faked(tensor, fake))
        inputs = [_faked(leaf, fake) for leaf in leaves]
        for position, leaf in enumerate(leaves):
            if times > 1 and leaf.shape[:1] == (batch,):
                # As `new_empty` would not, this keeps the memory format.
                larger = torch.cat([inputs[position].detach()] * times)
                inputs[position] = _like(leaf, larger)
        if watch is None:
            with fake, OneStep(lambda _: contextlib.nullcontext()):
                return _Interpreter(gm, parts, None).sizes_at(inputs)
        watch.weigh(parts.values())
        with fake, watch, OneStep(watch.repeated):
            return _Interpreter(gm, parts, watch).sizes_at(inputs)


def _run_on_data(gm: fx.GraphModule, leaves: Sequence[Tensor], watch: Watch) -> dict[fx.Node, Sizes]:
    """Sizes of every value that is one tensor, from a run on the examples themselves."""
    devices = sorted({leaf.device.index for leaf in leaves if leaf.device.type == "cuda"})
    with switches_kept(), torch.random.fork_rng(devices=devices), torch.enable_grad():
        parts = copied_parts(gm, lambda tensor: tensor.detach().clone())
        inputs = [_like(leaf, leaf.detach().clone()) for leaf in leaves]
        watch.weigh(parts.values())
        with watch:
            return _Interpreter(gm, parts, watch).sizes_at(inputs)


@contextlib.contextmanager
def _without_reports() -> Generator[None]:
    """Inside, torch does not log that an operation has failed on fake tensors."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def _faked(tensor: Tensor, fake: FakeTensorMode) -> Tensor:
    leaf = tensor if tensor.is_leaf else tensor.detach()  # fake copies look at `.grad`, which then warns
    copied = cast("Tensor", fake.from_tensor(leaf))
    if copied.is_inference():
        copied = copied.clone()  # autograd takes no tensor made in inference mode
    return _like(tensor, copied)


def _like(tensor: Tensor, copied: Tensor) -> Tensor:
    """The copy, with a gradient where the tensor has one, and a leaf, not to be written to, if it is one."""
    copied.requires_grad_(tensor.requires_grad)
    return copied if tensor.is_leaf else copied.clone()


class _Interpreter(OverParts):
    """Runs a graph over fake parts and notes sizes; `watch` notes the rest."""

    def __init__(self, gm: fx.GraphModule, parts: Mapping[str, Any], watch: Watch | None) -> None:
        super().__init__(gm, parts, keeps=True)  # a freed storage's address names another one
        self.watch = watch
        self.sizes: dict[fx.Node, Sizes] = {}

    def sizes_at(self, inputs: Sequence[Tensor]) -> dict[fx.Node, Sizes]:
        """Run once and tell the size of every value that is one tensor."""
        self.run(*inputs, enable_io_processing=False)
        return self.sizes

    @override
    def run_node(self, n: fx.Node) -> Any:
        try:
            value = super().run_node(n) if self.watch is None else self._watched(n, self.watch)
        except Exception as error:
            raise PreconditionError(_refusal(n, error)) from error
        if isinstance(value, Tensor):
            self.sizes[n] = tuple(value.shape)
        if self.watch is not None:
            self.watch.node_made(n.name, value)
        return value

    def _watched(self, node: fx.Node, watch: Watch) -> Any:
        try:
            with watch.saving():
                value = super().run_node(node)
        except RuntimeError as error:
            if _NO_HOOKS not in str(error):
                raise
            watch.start_over()
            value = super().run_node(node)
        if watch.is_backward_hidden:
            # Where it cannot be run on shapes, what the formulas say is all that is known.
            with contextlib.suppress(Exception):
                watch.replayed(self._backward_of(node))
        return value

    def _backward_of(self, node: fx.Node) -> Iterator[None]:
        part = self.parts.get(str(node.target)) if node.op == "call_module" else None
        parameters = list(part.parameters()) if isinstance(part, nn.Module) else []

        def run(arguments: Any) -> Any:
            return getattr(self, node.op)(node.target, *arguments)

        return run_backward(run, self.fetch_args_kwargs_from_env(node), parameters)


def _refusal(node: fx.Node, error: Exception) -> str:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = node.target if node.op == "call_module" else str(stack[-1][0]) if stack else ""
    what = getattr(node.target, "__name__", str(node.target))
    reason = (str(error).splitlines() or [""])[0]
    return (
        f"cannot run node {node.name} ({node.op} {what}{f', in {path}' if path else ''}) on shapes alone: "
        f"{type(error).__name__}: {reason}. A value that depends on the numbers in a tensor is unknown "
        "before the model runs; keep it out of the graph or inside a custom operator that has a fake rule."
    )


def _dims(shape: Sizes, larger: Sizes | None, batch: int) -> tuple[tuple[int | str, ...], int]:
    """Sizes as expressions of the batch size `b`, and the first dimension that follows it."""
    if larger is None or not batch:
        return shape, 0 if batch and shape[:1] == (batch,) else -1
    if len(larger) != len(shape):
        return ("?",) * len(shape), -1
    dims = tuple(_size(*sizes, batch) for sizes in zip(shape, larger, strict=True))
    follows = (at for at, dim in enumerate(dims) if isinstance(dim, str) and dim != "?")
    return dims, next(follows, -1)


def _size(size: int, larger: int, batch: int) -> int | str:
    """The size as `a*b+c` from its values at `batch` and twice that.

    >>> _size(7, 7, 4), _size(4, 8, 4), _size(9, 17, 4), _size(2, 4, 4)
    (7, 'b', '2*b+1', '?')
    """
    times, rest = divmod(larger - size, batch)
    constant = size - times * batch
    # Two points always make a line; one that a product of two sizes makes starts far below zero.
    if rest or times < 0 or (times > 1 and constant < 0):
        return "?"
    if not times:
        return size
    return f"{times}*b" * (times > 1) + "b" * (times == 1) + f"{constant:+d}" * (constant != 0)
