"""A captured model: graphs, one for each way of calling it, over one tree of modules."""

from __future__ import annotations

import abc
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
import torch.utils._pytree as pytree
from torch import fx, nn

from dni_fx.calls import PLAIN, Call, Form
from dni_fx.errors import CaptureError
from dni_fx.feedback import Carry
from dni_fx.hooks import hooks_of, hooks_passed_by, numbers_of
from dni_fx.randomness import kept_random_state
from dni_fx.sizes import Sizes
from dni_fx.warning import warn
from passes import Named, Observer, PreconditionError
from passes.anchors import set_anchors
from passes.annotate_shapes import annotate
from passes.boundary import CONTAINER
from passes.branches import Way

_MANY_WAYS = {10, 100, 1000}


@dataclass(frozen=True)
class Capture:
    """What a front-end makes of a model: a graph from tensors to tensors.

    The placeholders of `graph` are the call's tensors in order; its output is the flat list that
    `out_spec` gives its nesting back. Its targets are paths into the model's own tree. `constants`
    are tensors (and graphs of regions) that the capture found in the code and not in the tree. `sizes`
    says which sizes of the tensors it is right for, `shapes` which they had when it was captured. `ways`
    holds what the code saw where it branched on data: other data raises `BranchError` there. `hooks` are the
    numbers of those hooks that were on the modules it goes through: they are part of the graph.
    """

    graph: fx.Graph
    out_spec: pytree.TreeSpec
    constants: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    sizes: Sizes = field(default_factory=Sizes)
    shapes: tuple[torch.Size, ...] = ()
    ways: tuple[Way, ...] = ()
    hooks: tuple[int, ...] = ()

    def fits(self, call: Call, ways: tuple[Way, ...] = ()) -> bool:
        """Whether the graph is right for tensors of these sizes, and first takes these ways."""
        return self.ways[: len(ways)] == ways and self.sizes.admit(call.leaves)

    def __deepcopy__(self, memo: dict[int, Any]) -> Capture:
        return self  # nothing in it belongs to one copy of the model

    def install(self, tree: nn.Module) -> None:
        """Put the constants into a tree, as plain attributes: `.to()` leaves them, as it does in the code."""
        for name, value in self.constants.items():
            tree.__dict__[name] = value

    def module(self, tree: nn.Module) -> fx.GraphModule:
        """A copy of the graph that passes may change, over the modules of `tree`."""
        self.install(tree)
        graph = fx.Graph()
        graph.output(graph.graph_copy(self.graph, {}))
        return fx.GraphModule(tree, graph)


@dataclass(frozen=True)
class FrontEnd(Named):
    """How to turn a model into a graph.

    With `holds_all` the model is nothing but its graphs: to call it is to run one, and no other code.
    """

    holds_all: ClassVar[bool] = False

    @abc.abstractmethod
    def capture(self, model: nn.Module, call: Call) -> Capture:
        """Capture a model as it is now (mode, dtype, device) for calls of one form.

        `model` is a shell, thrown away afterwards: a front-end may leave marks on it. It takes no
        random numbers and runs no kernel that writes to a parameter or buffer.

        Raises:
            CaptureError: says why in one line.
        """


@dataclass(frozen=True)
class Key:
    """What a graph was captured for; a model in another state needs another graph."""

    modules: tuple[tuple[Any, ...], ...]
    parameters: tuple[tuple[str, bool], ...]
    place: tuple[torch.dtype, str]
    autocast: tuple[bool, torch.dtype]
    form: Form


@dataclass
class Program:
    """A model as graphs: one per mode, dtype, device type and form of call, captured on first use.

    They share all state: `tree` owns every parameter and buffer under its original name.
    `history` says what made each graph, pass by pass. `carry` are its edges from outputs back to inputs.
    `observe` is told of every pass that changes a copy of a graph.
    """

    tree: nn.Module
    frontend: FrontEnd
    fresh: Callable[[nn.Module], nn.Module]
    example: Call | None = None
    history: list[str] = field(default_factory=list)
    captures: list[tuple[Key, Capture]] = field(default_factory=list)
    carry: Carry = field(default_factory=lambda: Carry({}))
    is_from_file: bool = False
    observe: Observer | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        return self  # a copy of a cut model is captured like the model itself

    def __getstate__(self) -> dict[str, Any]:
        # Graphs are captured again where they are needed, and whoever watched is not there.
        return vars(self) | {"captures": [], "observe": None}

    def __str__(self) -> str:
        nodes = ", ".join(str(len(capture.graph.nodes)) for _, capture in self.captures)
        return f"Program of {type(self.tree).__name__}: graphs of {nodes or 'no'} nodes, by {self.frontend}"

    def capture(self, tree: nn.Module, call: Call, ways: tuple[Way, ...] = ()) -> Capture:
        """The graph for calling `tree` like this, in its present mode; captured now if there is none.

        `tree` is the program's own or a shell of it. Every node of the graph has its anchor. Random state is
        left as it was. `ways` is what is known of the ways that this data takes.

        Raises:
            CaptureError: no front-end can capture the model; says what each of them said.
        """
        key = key_of(tree, call)
        for known, capture in self.captures:
            if known == key and capture.fits(call, ways) and capture.hooks == _hooks_in(capture, tree):
                return capture
        earlier = [capture.shapes for known, capture in self.captures if known == key]
        with kept_random_state(), torch.enable_grad():
            capture = self.frontend.capture(self.fresh(tree), call.opened(earlier))
        returned: Any = next(iter(reversed(capture.graph.nodes))).args[0]
        refuse_odd_outputs(tree, returned)
        set_anchors(capture.graph)
        if capture.ways[: len(ways)] != ways:
            raise CaptureError(
                f"the graph captured by {self.frontend} takes another way than this data: what the code "
                "branches on differs between two runs on the same input, or the graph comes from a file."
            )
        shapes = tuple(leaf.shape for leaf in call.leaves)
        capture = replace(capture, shapes=shapes, hooks=_hooks_in(capture, tree))
        self.captures.append((key, capture))
        self._warn_of_many(key)
        mode = "train" if tree.training else "eval"
        self.history += [f"{mode}: {note}" for note in capture.notes]
        return capture

    def annotated(self, tree: nn.Module, call: Call, ways: tuple[Way, ...] = ()) -> Capture:
        """Like `capture`, and every node of the graph has its `Value`, which planning and cutting ask for.

        Raises:
            CaptureError: no front-end can capture the model, or its graph cannot run on the example.
        """
        capture = self.capture(tree, call, ways)
        with kept_random_state(), self.carry.explained():
            _annotate(capture, self.fresh(tree), call)
        self.carry.note(signature_of(tree), call, capture.graph, capture.out_spec)
        return capture

    def _warn_of_many(self, key: Key) -> None:
        count = sum(1 for known, capture in self.captures if known == key and capture.ways)
        if count in _MANY_WAYS:
            warn(
                f"{type(self.tree).__name__} branches on data, and has been captured for {count} ways by "
                "now. Each new way costs a capture."
            )


def signature_of(model: nn.Module) -> inspect.Signature:
    """The signature of the model's forward, as its callers see it."""
    if "forward" in vars(model):
        return inspect.signature(model.forward)
    cls = type(model)
    known = _signatures.get(cls)
    if known is None or known[0] is not cls.forward:  # reading one takes as long as a small layer
        known = _signatures[cls] = cls.forward, inspect.signature(model.forward)
    return known[1]


_signatures: WeakKeyDictionary[type, tuple[Any, inspect.Signature]] = WeakKeyDictionary()


def key_of(tree: nn.Module, call: Call) -> Key:
    """What a graph for this call of this tree, as it is now, is captured for."""
    modules = modules_of(tree)
    parameters = [
        (name, p) for each in modules for name, p in vars(each)["_parameters"].items() if p is not None
    ]
    first = next((p for _, p in parameters if p.is_floating_point()), None)
    place = (first.dtype, first.device.type) if first is not None else (torch.float32, "cpu")
    device = place[1] if torch.amp.is_autocast_available(place[1]) else "cpu"
    autocast = (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
    # The tree itself may be of the drop-in's class; below it, another class computes something else.
    kinds = [type(None), *(type(each) for each in modules[1:])]
    states = tuple((kind, each.training, *_hooks(each)) for kind, each in zip(kinds, modules, strict=True))
    return Key(states, tuple((name, p.requires_grad) for name, p in parameters), place, autocast, call.form)


def modules_of(tree: nn.Module) -> list[nn.Module]:
    """The modules of the model itself, the tree first, without those that fill its boundaries."""
    found = [tree]
    for name, child in vars(tree)["_modules"].items():
        if name != CONTAINER and child is not None:
            found += child.modules()
    return found


def _hooks(module: nn.Module) -> tuple[int, ...]:
    """The numbers of a module's hooks, where they are part of the graph or keep the module whole."""
    if not vars(module)["_modules"] and type(module).__module__.startswith("torch.nn"):
        return ()  # such a module is called as it is, or the graph knows its hooks
    return numbers_of(hooks_of(module))


def _hooks_in(capture: Capture, tree: nn.Module) -> tuple[int, ...]:
    return numbers_of(hooks_passed_by(capture.graph, tree))


def refuse_odd_outputs(tree: nn.Module, leaves: Sequence[Any]) -> None:
    """Do nothing if a graph can return values like these.

    Raises:
        CaptureError: one is neither a tensor nor a plain value.
    """
    if odd := [each for each in leaves if not isinstance(each, (fx.Node, torch.Tensor, *PLAIN))]:
        raise CaptureError(
            f"cannot capture {type(tree).__name__}: it returns a {type(odd[0]).__name__}, and no graph can "
            "make another. Call it so that it does not (without a cache, say), or return tensors, plain "
            "values, and lists, tuples, dictionaries or data classes of them."
        )


def _annotate(capture: Capture, tree: nn.Module, call: Call) -> None:
    if all("value" in node.meta for node in capture.graph.nodes if node.op != "output"):
        return
    module = capture.module(tree)
    try:
        annotate(module, call.leaves)
    except PreconditionError as error:
        raise CaptureError(str(error)) from error
    for node, twin in zip(capture.graph.nodes, module.graph.nodes, strict=True):
        if "value" in twin.meta:
            node.meta["value"] = twin.meta["value"]
