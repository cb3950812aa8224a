"""A captured graph as an `ExportedProgram`, the form that files are written from.

The names of parameters, the place of every value in the model and its stage all go along, so that a
graph read back from the file can be cut the same way, or another.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.fx import traceback

from dni_fx.errors import ExportError, first_line
from dni_fx.literals import leave_out_literals
from dni_fx.marker import Marker
from dni_fx.wrapped import mend_regions
from passes.anchors import ANCHOR
from passes.boundary import CONTAINER

STAGE = "dni_fx.stage"
"""The key under which a node of an exported graph carries its stage, beside `ANCHOR`."""

_STACK = "nn_module_stack"
_PYTHON = ("torch._functorch", "dni_fx.frontends")
"""Where the functions come from that trace graphs and are no operators."""


class Exported(NamedTuple):
    """The program, and why its batch size is fixed to the example's; empty where it is free."""

    program: ExportedProgram
    fixed: str


def export_graph(
    tree: nn.Module,
    graph: fx.Graph,
    leaves: Sequence[Tensor],
    *,
    stage_of: Mapping[str, int],
    dynamic_batch: bool = True,
) -> Exported:
    """Export a graph over a tree of modules; the program computes what the graph computes, in its mode.

    Parameters and buffers keep their names and stay the tree's own tensors. Every value of a boundary
    goes through a call of `dni_fx::interface`. A node of the program carries, in `meta["custom"]`, the
    anchor and the stage of the node of `graph` that it came from. Only fake tensors run: no statistic moves
    and no random number is drawn.

    Args:
        tree: what the graph's `call_module` and `get_attr` speak of. What lies under `dni` in it is replaced.
        graph: its placeholders are the leaves, in order; its output is a flat list of values.
        leaves: an example of each input.
        stage_of: the stage of each computed node, by the node's name.
        dynamic_batch: whether to leave open the first size of every leaf that has the first leaf's.

    Raises:
        ExportError: torch.export cannot trace the graph, not even for the example's sizes alone.
    """
    _put_markers(tree, graph)
    runner = Runner(tree, annotated(graph, stage_of))
    fixed = "it was asked for" if not dynamic_batch else ""
    if dynamic_batch:
        try:
            return Exported(_export(runner, *with_open_batch(leaves)), "")
        except Exception as error:  # torch.export reports one cause in several types
            fixed = first_line(error)
    try:
        return Exported(_export(runner, leaves, None), fixed)
    except Exception as error:
        raise ExportError(
            f"cannot export the graph: {first_line(error)}. A file can hold only what is made of torch "
            "operators; save the model's state instead."
        ) from error


class Runner(nn.Module):
    """Runs the graph as a module that has the tree's own registries, so that no name gets a prefix."""

    def __init__(self, tree: nn.Module, graph: fx.Graph) -> None:
        super().__init__()
        registries = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"}
        # Constants that a capture found in the code are plain attributes of the tree.
        read = {str(node.target).partition(".")[0] for node in graph.nodes if node.op == "get_attr"}
        self.__dict__.update({name: value for name, value in vars(tree).items() if name in registries | read})

        def forward(*leaves: Tensor) -> tuple[Any, ...]:
            return tuple(fx.Interpreter(self, graph=graph).run(*leaves, enable_io_processing=False))

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        names = [node.name for node in graph.nodes if node.op == "placeholder"]
        # torch.export names the inputs of the program after the signature.
        vars(forward)["__signature__"] = inspect.Signature([inspect.Parameter(name, kind) for name in names])
        self.forward = forward


def _put_markers(tree: nn.Module, graph: fx.Graph) -> None:
    paths = {str(node.target) for node in graph.nodes if node.op == "call_module"}
    names = [path.removeprefix(f"{CONTAINER}.") for path in paths if path.startswith(f"{CONTAINER}.")]
    if names or hasattr(tree, CONTAINER):
        markers = nn.Module()
        for name in sorted(names):
            markers.add_module(name, Marker(name))
        tree.add_module(CONTAINER, markers)


def annotated(graph: fx.Graph, stage_of: Mapping[str, int]) -> fx.Graph:
    """A copy whose nodes carry what the exported nodes are to carry, and nothing else."""
    copies: dict[fx.Node, fx.Node] = {}
    twin = fx.Graph()
    twin.output(twin.graph_copy(graph, copies))
    for node, copy in copies.items():
        copy.name = node.name
        copy.meta = {}
        if "anchor" in node.meta:
            copy.meta["custom"] = {ANCHOR: str(node.meta["anchor"]), STAGE: stage_of[node.name]}
            copy.meta[_STACK] = {"": ("", nn.Module), **(node.meta.get(_STACK) or {})}
    leave_out_literals(twin)
    return twin


def with_open_batch(leaves: Sequence[Tensor]) -> tuple[list[Tensor], tuple[dict[int, Any] | None, ...]]:
    """The leaves and, for each, which of its sizes is open. A batch of one is doubled: torch would fix it."""
    if not leaves or not leaves[0].dim():
        raise ExportError("the first input has no batch dimension")
    size, batch = leaves[0].shape[0], Dim("batch")
    batched = [leaf.dim() > 0 and leaf.shape[0] == size for leaf in leaves]
    if size == 1:
        leaves = [
            torch.cat([leaf, leaf]) if each else leaf for leaf, each in zip(leaves, batched, strict=True)
        ]
    return list(leaves), tuple({0: batch} if each else None for each in batched)


def _export(
    runner: Runner, leaves: Sequence[Tensor], sizes: tuple[dict[int, Any] | None, ...] | None
) -> ExportedProgram:
    return traced(runner, tuple(leaves), {}, sizes)


def traced(runner: Runner, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any) -> ExportedProgram:
    """What torch.export makes of a call of the runner; `shapes` says which sizes are open."""
    with _quiet(), traceback.preserve_node_meta():
        program = torch.export.export(runner, args, kwargs, dynamic_shapes=shapes, strict=False)
    mend_regions(program.graph_module)
    for module in program.graph_module.modules():
        if isinstance(module, fx.GraphModule):
            _refuse_python(module.graph)
            _tidy(module.graph)
    return program


def _refuse_python(graph: fx.Graph) -> None:
    """Do nothing if the graph calls operators alone, so that a file of it can be read again."""
    for node in graph.nodes:
        home = str(getattr(node.target, "__module__", ""))
        if node.op == "call_function" and home.startswith(_PYTHON):
            raise TypeError(f"it calls {node.name}, which is Python of {home}")


def _tidy(graph: fx.Graph) -> None:
    """Take off what tells of this trace and not of the model."""
    root = ("L__self__", ("", f"{nn.Module.__module__}.{nn.Module.__qualname__}"))
    for node in graph.nodes:
        custom = node.meta.pop("custom", {})
        node.meta.pop("from_node", None)
        if ANCHOR in custom:
            node.meta["custom"] = {key: custom[key] for key in (ANCHOR, STAGE)}
        elif _STACK in node.meta:
            node.meta[_STACK] = dict([root])


@contextmanager
def _quiet() -> Generator[None, None, None]:
    with warnings.catch_warnings():
        # An LSTM keeps its parameters in a list as well; torch.export swaps and restores them there.
        warnings.filterwarnings("ignore", message=r"The tensor attributes? .*_flat_weights")
        yield
