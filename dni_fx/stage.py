"""One stage of a cut model, bound to the modules that it runs on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from typing_extensions import override

from passes.code import compile_graph
from passes.split_stages import Name, Part, Split
from passes.values import value_of


@dataclass(frozen=True)
class Code:
    """A compiled stage. It belongs to no tree, so copies of a model share it."""

    part: Part
    function: Callable[..., Any]

    def __deepcopy__(self, memo: dict[int, Any]) -> Code:
        return self


class Stage:
    """What one stage reads, computes, writes, and the parameters and buffers that it owns."""

    def __init__(self, tree: nn.Module, part: Part) -> None:
        self.code = Code(part, compile_graph(part.graph))
        self.tree = tree
        nodes = [node for node in part.graph.nodes if "value" in node.meta]
        self._written = {name for node in nodes for name in value_of(node).mutates} & set(part.reads)
        self.may_reenter = any(_is_own_code(tree, node) for node in part.graph.nodes)
        self._owners = [(tree.get_submodule(path), leaf) for path, _, leaf in _split_names(part.parameters)]
        both = zip(part.buffers, _split_names(part.buffers), strict=True)
        self._buffer_owners = [(name, tree.get_submodule(path), leaf) for name, (path, _, leaf) in both]

    @override
    def __repr__(self) -> str:
        part = self.code.part
        return f"<stage {part.index}: reads {', '.join(part.reads)}; writes {', '.join(part.writes)}>"

    @property
    def index(self) -> int:
        """The stage's place in the order of all stages."""
        return self.code.part.index

    @property
    def crossings(self) -> Mapping[str, tuple[str, ...]]:
        """The boundaries through which its values leave it, each with the names of these values."""
        return self.code.part.crossings

    @property
    def is_releasable(self) -> bool:
        """Whether its gradients depend on nothing but what its boundaries send: no output of the model."""
        return bool(self.crossings) and not self.has_outputs

    @property
    def has_outputs(self) -> bool:
        """Whether it makes an output of the model that carries a gradient."""
        return bool(self.code.part.outputs)

    def writes_to_callers(self, values: Mapping[str, Any]) -> bool:
        """Whether it writes to one of these values that the caller wants a gradient for."""
        return any(carries_gradient(values.get(name)) for name in self._written)

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that the stage reads, by their names in the model; tied ones once."""
        return dict(zip(self.code.part.parameters, self.parameters(), strict=True))

    def parameters(self) -> list[nn.Parameter]:
        """The parameters that the stage reads, each once."""
        return [vars(owner)["_parameters"][leaf] for owner, leaf in self._owners]

    def named_buffers(self) -> dict[str, Tensor]:
        """The buffers that the stage reads, by their names in the model; tied ones once."""
        # A constant of the code is a buffer of the graph alone.
        held = [(name, vars(owner)["_buffers"].get(leaf)) for name, owner, leaf in self._buffer_owners]
        return {name: buffer for name, buffer in held if buffer is not None}

    def constants(self) -> list[Tensor]:
        """The tensors that its code reads and that are no buffers; each process names them in its own way."""
        held = [vars(owner).get(leaf) for _, owner, leaf in self._buffer_owners]
        return [each for each in held if isinstance(each, Tensor)]

    def state_dict(self) -> dict[str, Tensor]:
        """The stage's part of the model's state dict, under the same keys; tied weights once."""
        found = {**self.named_parameters(), **self.named_buffers()}
        return {name: tensor.detach() for name, tensor in found.items()}

    def reads(self, values: Mapping[str, Any], place: torch.device | None = None) -> list[Any]:
        """What the stage takes from the values there are, in its own order, on its device if it has one.

        What it writes to stays where it is: a copy would keep it to itself.
        """
        names = self.code.part.reads
        return [moved(values[name], None if name in self._written else place) for name in names]

    def run(self, reads: list[Any]) -> dict[str, Any]:
        """What the stage writes, by name, computed from what it reads."""
        part = self.code.part
        return dict(zip(part.writes, self.code.function(self.tree, *reads), strict=True))


@dataclass(frozen=True)
class Road:
    """The stages of one graph in order, and how the model's result is put together from their values.

    `drops` are the values that each stage is the last to read; `last_readers` says which stage is the last to
    read what crosses a boundary.
    """

    stages: tuple[Stage, ...]
    split: Split
    drops: tuple[tuple[str, ...], ...]
    last_readers: Mapping[str, int]

    def result(self, values: Mapping[str, Any]) -> list[Any]:
        """The flat list of the model's outputs."""
        return [_look_up(item, values) for item in self.split.result]


def road(tree: nn.Module, split: Split) -> Road:
    """The stages of a split graph over the modules of `tree`, and when each value is read last."""
    stages = tuple(Stage(tree, part) for part in split.parts)
    last: dict[str, int] = {}
    for part in split.parts:
        last |= dict.fromkeys(part.writes, part.index) | dict.fromkeys(part.reads, part.index)
    for item in split.result:
        if isinstance(item, Name):
            last.pop(item.of, None)
    drops: list[list[str]] = [[] for _ in stages]
    for name, at in last.items():
        drops[at].append(name)
    boundary = {
        value: name for part in split.parts for name, values in part.crossings.items() for value in values
    }
    readers = {boundary[name]: part.index for part in split.parts for name in part.reads if name in boundary}
    return Road(stages, split, tuple(map(tuple, drops)), readers)


def shared_parameters(stages: tuple[Stage, ...]) -> dict[str, tuple[int, ...]]:
    """Names of the parameters that several stages read, with those stages."""
    readers: dict[str, list[int]] = {}
    for stage in stages:
        for name in stage.named_parameters():
            readers.setdefault(name, []).append(stage.index)
    return {name: tuple(at) for name, at in readers.items() if len(at) > 1}


def carries_gradient(value: object) -> bool:
    """Whether a value is a tensor that gradients flow through now."""
    return isinstance(value, Tensor) and value.requires_grad


def detached(value: Any) -> Any:
    """A value without its history; anything but a tensor as it is."""
    return value.detach() if isinstance(value, torch.Tensor) else value


def moved(value: Any, place: torch.device | None) -> Any:
    """A tensor on this device, with its history; anything else, and with no device everything, as it is."""
    if place is None or not isinstance(value, Tensor) or value.device == place:
        return value
    # What is copied to the host while nobody waits would be read before it is there.
    return value.to(place, non_blocking=place.type != "cpu")


def _is_own_code(tree: nn.Module, node: fx.Node) -> bool:
    """Whether a node runs a module that is no layer of torch's own, in which there may be a checkpoint."""
    if node.op != "call_module":
        return False
    module = tree.get_submodule(str(node.target))
    return bool(vars(module)["_modules"]) or not type(module).__module__.startswith("torch.nn")


def _look_up(item: Any, values: Mapping[str, Any]) -> Any:
    return values[item.of] if isinstance(item, Name) else item


def _split_names(names: tuple[str, ...]) -> list[tuple[str, str, str]]:
    return [name.rpartition(".") for name in names]
