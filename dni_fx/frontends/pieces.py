"""One graph out of the pieces that TorchDynamo makes of a run, and of what Python calls between them."""

from __future__ import annotations

import inspect
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from torch._C import DisableTorchFunction
from torch._dynamo import disable, maybe_mark_dynamic
from torch._dynamo.eval_frame import skip_code
from torch.fx.node import map_aggregate
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from dni_fx.errors import CaptureError
from dni_fx.frontends.facts import HARMLESS, LEGAL, SHAPELY, Sizing, noted, refuse_lost, shape_of
from dni_fx.frontends.places import Places
from dni_fx.frontends.regions import Ambience, outlined
from dni_fx.frontends.ways import NUMBERS
from dni_fx.sizes import Sizes, is_open
from passes.branches import numbers

_TENSOR = re.compile(r"\bt(\d+)\b")
_TORCH = str(Path(torch.__file__).parent)
_TRACERS = tuple(f"{_TORCH}/{part}" for part in ("_dynamo/", "_subclasses/", "_guards.py", "fx/"))


class Stitched(TorchFunctionMode):
    """The graph of all pieces so far, and of what was called between them while this mode was on.

    A tensor is known by its identity: Python hands on the very object that a piece returned.
    """

    def __init__(
        self,
        tree: nn.Module,
        names: Sequence[str],
        leaves: Sequence[Tensor],
        varying: Sequence[frozenset[int]],
    ) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.constants: dict[str, Any] = {}
        self.pieces = 0
        self._is_open = True
        self._branches = 0
        self._ambience = Ambience.now()
        self._places = Places(tree)
        self._state = {id(t): name for name, t in [*tree.named_buffers(), *tree.named_parameters()][::-1]}
        self._attributes = {
            id(value)
            for module in tree.modules()
            for value in vars(module).values()
            if isinstance(value, Tensor)
        }
        self._nodes: dict[int, fx.Node] = {}
        self._kept: list[Any] = list(leaves)  # an identity is one as long as the object lives
        self._open: dict[int, frozenset[int]] = {}
        self._leaves = {id(leaf): at for at, leaf in enumerate(leaves)}
        self._conditions: list[str] = []
        self._fixed = [list[int | None](leaf.shape) for leaf in leaves]
        for name, leaf, dims in zip(names, leaves, varying, strict=True):
            self._nodes[id(leaf)] = self.graph.placeholder(name)
            self._open[id(leaf)] = dims
            for dim in dims:
                self._fixed[self._leaves[id(leaf)]][dim] = None
                maybe_mark_dynamic(leaf, dim)

    def backend(self, gm: fx.GraphModule, examples: Sequence[Any]) -> Callable[..., Any]:
        """What TorchDynamo calls for each piece, and then runs in its place."""

        def run(*args: Any) -> Any:
            caller = self._places.of_code(inspect.currentframe())
            with DisableTorchFunction():
                return self._run(gm, args, caller)

        return run

    @override
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if torch.compiler.is_compiling():  # TorchDynamo is reading this; a piece will have it
            return func(*args, **(kwargs or {}))
        return _called(self, func, args, kwargs or {})

    @property
    def sizes(self) -> Sizes:
        """What is asked of the sizes of the graph's inputs."""
        if self._is_open:
            return Sizes(tuple(map(tuple, self._fixed)), " and ".join(dict.fromkeys(self._conditions)))
        return Sizes(tuple(tuple(leaf.shape) for leaf in self._kept[: len(self._leaves)]))

    def finish(self, outputs: Sequence[Any]) -> fx.Graph:
        """The graph with these outputs, every region in one node."""
        self._is_open &= not any(type(each) is int for each in outputs)
        self.graph.output([self._node_of(each) if isinstance(each, Tensor) else each for each in outputs])
        return outlined(self.graph, self.constants)

    def _node_of(self, tensor: Tensor) -> fx.Node:
        if id(tensor) in self._nodes:
            return self._nodes[id(tensor)]
        if id(tensor) in self._attributes:
            return self._constant(tensor)
        if (name := self._state.get(id(tensor))) is None:
            raise CaptureError(
                f"Python made a tensor of shape {tuple(tensor.shape)} from something that is no tensor (an "
                "array, say), which no graph can do again"
            )
        self._nodes[id(tensor)] = node = self.graph.get_attr(name)
        return node

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call what Python calls between two pieces, and note it."""
        with Sizing() as sizing:
            result = func(*args, **kwargs)
        frame = _asking(inspect.currentframe())
        if frame.f_code.co_filename.startswith(_TRACERS):
            return result  # it looks at the inputs of a piece
        caller = self._places.of_code(frame)
        with DisableTorchFunction():
            name = getattr(func, "__name__", "")
            refuse_lost(name)
            if name in NUMBERS:
                self._follow(args[0], result)
            elif (
                any(isinstance(each, Tensor) for each in pytree.tree_leaves(result)) or name == "__setitem__"
            ):
                node = self._note(func, args, kwargs, caller)
                self._spread(node, result, has_open_sizes=not sizing.by_numbers)
                if sizing.by_numbers:
                    self._follow_sizes(result)
            elif isinstance(result, int | float | str | torch.Size):
                self._fact(name, func, args[0] if args else None, result)
        return result

    def _fact(self, name: str, func: Any, value: Any, result: Any) -> None:
        """Take note that Python knows something of a tensor which is no tensor."""
        if name == "__get__" or name in SHAPELY:
            is_size = isinstance(result, int | torch.Size) and type(result) is not bool
            self._is_open &= not (is_size and self._open.get(id(value)))
        elif name not in HARMLESS:
            raise CaptureError(
                f"Python asks a tensor for a number ({name}) in a way that no graph can look at again; "
                "compare tensors by operations, and branch on the result"
            )

    def _follow_sizes(self, made: Any) -> None:
        """Look again whether what numbers in tensors made so large is as large as it was."""
        for value in pytree.tree_leaves(made):
            if isinstance(value, Tensor):
                way, node = list(map(float, value.shape)), self._node_of(value)
                sizes = self.graph.call_function(shape_of, (node,))
                self.graph.call_function(torch.ops.dni_fx.follow.default, (sizes, way, self._branches))
                self._branches += 1

    def _note(self, func: Any, args: Any, kwargs: dict[str, Any], caller: str) -> fx.Node:
        args, kwargs = map_aggregate((args, kwargs), self._argument)
        with self._ambience.around(self.graph):
            node = noted(self.graph, func, args, kwargs)
        node.meta["nn_module_stack"] = self._places.stack(caller)
        return node

    def _spread(self, node: fx.Node, result: Any, has_open_sizes: bool) -> None:
        """Know every tensor in what a node gave."""
        if isinstance(result, Tensor):
            self._made(result, node, frozenset(range(result.dim() if has_open_sizes else 0)))
        elif isinstance(result, tuple | list):
            for index, item in enumerate(result):
                if not isinstance(item, Tensor | tuple | list):
                    continue
                part = self.graph.call_function(operator.getitem, (node, index))
                part.meta = dict(node.meta)
                self._spread(part, item, has_open_sizes)

    def _argument(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._node_of(value)
        if isinstance(value, LEGAL):
            return value
        raise CaptureError(f"Python passes a {type(value).__name__} to an operation between two graphs")

    def _follow(self, value: Tensor, seen: Any) -> None:
        way = list(numbers(seen))
        self.graph.call_function(torch.ops.dni_fx.follow.default, (self._node_of(value), way, self._branches))
        self._branches += 1

    def _run(self, gm: fx.GraphModule, args: Sequence[Any], caller: str) -> Any:
        self.pieces += 1
        copies = self._inputs(gm, args)
        with self._ambience.around(self.graph):
            for node in gm.graph.nodes:
                if node.op == "get_attr":
                    copies[node] = self._constant(attrgetter(str(node.target))(gm))
                elif node.op not in {"placeholder", "output"}:
                    copies[node] = made = self.graph.node_copy(node, copies.__getitem__)
                    made.meta = {"nn_module_stack": self._places.stack(caller, node)}
        results = gm(*args)
        returned = next(iter(reversed(gm.graph.nodes))).args[0]
        for source, value in zip(returned, results, strict=True):
            if isinstance(value, Tensor) and isinstance(source, fx.Node):
                sizes = enumerate(source.meta["example_value"].shape)
                open_dims = frozenset(dim for dim, size in sizes if is_open(size))
                self._made(value, copies[source], open_dims)
        return results

    def _made(self, value: Tensor, node: fx.Node, open_dims: frozenset[int]) -> None:
        if id(value) in self._nodes:
            return  # written in place
        self._kept.append(value)
        self._nodes[id(value)] = node
        self._open[id(value)] = open_dims
        for dim in open_dims:
            maybe_mark_dynamic(value, dim)

    def _inputs(self, gm: fx.GraphModule, args: Sequence[Any]) -> dict[fx.Node, Any]:
        """What stands in this graph for the placeholders of a piece."""
        holders = dict(zip((node for node in gm.graph.nodes if node.op == "placeholder"), args, strict=True))
        found: dict[fx.Node, Any] = {}
        sizes: dict[str, tuple[fx.Node, int]] = {}
        for holder, value in holders.items():
            if not isinstance(value, Tensor):
                continue
            found[holder] = node = self._node_of(value)
            for dim, size in enumerate(holder.meta["example_value"].shape):
                if is_open(size):
                    sizes.setdefault(str(size), (node, dim))
                else:
                    self._close(value, dim)
        for holder, value in holders.items():
            if not isinstance(value, Tensor):
                symbol = str(holder.meta.get("example_value"))
                self._is_open &= symbol in sizes
                found[holder] = (
                    self.graph.call_function(torch.ops.aten.sym_size.int, sizes[symbol])
                    if symbol in sizes
                    else value
                )
        self._ask({id(value): holder.meta["example_value"] for holder, value in holders.items()})
        return found

    def _close(self, value: Tensor, dim: int) -> None:
        """Take note that a piece is right for one size only."""
        if dim in self._open.get(id(value), ()):
            if id(value) in self._leaves:
                self._fixed[self._leaves[id(value)]][dim] = value.shape[dim]
            else:
                self._is_open = False

    def _ask(self, examples: Mapping[int, Any]) -> None:
        """Take note of what the code of a piece was found to ask of the sizes of its inputs."""
        known = {value: each for value, each in examples.items() if isinstance(each, Tensor)}
        symbols: list[Any] = [size for each in known.values() for size in each.shape if is_open(size)]
        if not symbols:
            return
        guards: str = symbols[0].node.shape_env.produce_guards_expression(list(known.values())) or ""
        # That no size is below 0 goes without saying.
        condition = " and ".join(part for part in guards.split(" and ") if not part.startswith("0 <= "))
        places = [self._leaves.get(value, -1) for value in known]
        if any(places[int(each)] < 0 for each in _TENSOR.findall(condition)):
            self._is_open = False
        elif condition:
            self._conditions.append(_TENSOR.sub(lambda match: f"t{places[int(match[1])]}", condition))

    def _constant(self, value: Any) -> fx.Node:
        if id(value) in self._state:
            return self._node_of(value)
        if id(value) not in self._nodes:
            name = f"_constant_{id(value):x}"
            self._kept.append(value)
            self.constants[name] = value
            self._nodes[id(value)] = self.graph.get_attr(name)
        return self._nodes[id(value)]


_called: Any = disable(Stitched.call)


def _asking(frame: Any) -> Any:
    """The frame of the code whose call this mode has caught."""
    while frame.f_code is not Stitched.__torch_function__.__code__:
        frame = frame.f_back
    return frame.f_back


skip_code(Stitched.__torch_function__.__code__)  # it is read as part of what calls it, never by itself
