"""Nodes folded into boxes by the modules that they lie in, few enough to look at."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import fx, nn

from passes.anchors import paths_around

if TYPE_CHECKING:
    import networkx as nx


_FEW = 3
"""A stage of fewer boxes than this shows more, however little is in them."""
_SOME, _MANY = 8, 30
"""A module of more nodes than this is worth opening: if it is most of its stage, and in any case."""
_PARTS = 8
"""Into how many boxes one is split that the tree of modules does not divide well."""


@dataclass(frozen=True)
class Fold:
    """Nodes of one stage that are drawn as one box.

    `path` is the module that holds them all, `label` what they are in words, `kind` the class of the module
    if it is known. `is_part` says that other stages hold the rest of it, `is_rest` that these are the
    operations of a module beside those of its children, or some of them.
    """

    path: str
    label: str
    kind: str
    names: tuple[str, ...]
    is_part: bool = False
    is_rest: bool = False


@dataclass(frozen=True)
class Modules:
    """Where each node lies in the tree of modules, of which class the modules are and how large."""

    path_of: Mapping[str, str]
    anchor_of: Mapping[str, str]
    kinds: Mapping[str, str]
    sizes: Mapping[str, int]
    weights: Mapping[str, float]

    def weight(self, fold: Fold) -> tuple[float, int]:
        """What decides which box is opened first: its cost, then its nodes."""
        return sum(self.weights[name] for name in fold.names), len(fold.names)

    def children(self, fold: Fold) -> list[Fold]:
        """What is in a box: a box for each child module, and one for the operations beside them.

        Empty if no child module is in the box.
        """
        groups: dict[str, list[str]] = {}
        for name in fold.names:
            path = self.path_of[name]
            at = len(fold.path.split(".")) if fold.path else 0
            groups.setdefault(".".join(path.split(".")[: at + 1]), []).append(name)
        if fold.is_rest or set(groups) == {fold.path}:
            return []
        return [self.fold(path, names, path == fold.path) for path, names in groups.items()]

    def fold(self, path: str, names: Sequence[str], is_rest: bool = False) -> Fold:
        """One box for some nodes below a module, with the longest path that holds them all."""
        while not is_rest:
            below = {self.path_of[name] for name in names}
            deeper = {".".join(each.split(".")[: path.count(".") + 1 + bool(path)]) for each in below}
            if below == {path} or len(deeper) > 1:
                break
            (path,) = deeper
        if is_rest:
            label = f"{path or 'model'}: other operations" if len(names) > 1 else self._operation(names[0])
            return Fold(path, label, "", tuple(names), is_rest=True)
        is_part = len(names) < self.sizes.get(path, 0)
        return Fold(path, path or "model", self.kinds.get(path, ""), tuple(names), is_part)

    def operations(self, fold: Fold) -> list[Fold]:
        """A box for each node."""
        return [
            Fold(self.path_of[name], self._operation(name), "", (name,), is_rest=True) for name in fold.names
        ]

    def _operation(self, name: str) -> str:
        return self.anchor_of[name].lstrip(":")


def modules_of(gm: fx.GraphModule, flow: nx.DiGraph[str], weights: Mapping[str, float]) -> Modules:
    """Where the nodes of an annotated graph lie, as their anchors say. O(V)."""
    kinds: dict[str, str] = {}
    for node in gm.graph.nodes:
        kinds |= _kinds_around(gm, node)
    anchors = {name: str(flow.nodes[name]["anchor"]) for name in weights}
    paths = {name: str(flow.nodes[name]["module"]) for name in weights}
    sizes = Counter(path for name in weights for path in ["", *paths_around(paths[name])])
    return Modules(paths, anchors, kinds, sizes, weights)


def folded(modules: Modules, names: Sequence[str], budget: int) -> list[Fold]:
    """At most `budget` boxes that hold each of the nodes once, in graph order.

    Modules are opened from the root down, the costliest first, and those of one class all together or not at
    all. Where one box still holds nearly all of the stage, it is opened too, and neighbors in it share boxes.
    O(budget**2 V).
    """
    if not names:
        return []
    folds = [modules.fold("", names)]
    while opened := _opened(modules, folds, budget):
        folds = opened
    folds = _split(modules, folds, budget)
    position = {name: at for at, name in enumerate(names)}
    return sorted(folds, key=lambda fold: position[fold.names[0]])


def _opened(modules: Modules, folds: list[Fold], budget: int) -> list[Fold]:
    """The boxes after those of one class were opened; empty if there is no room for any."""
    total = [sum(each) for each in zip(*map(modules.weight, folds), strict=True)]
    for largest in sorted(folds, key=modules.weight, reverse=True):
        alike = [fold for fold in folds if fold == largest or (largest.kind and fold.kind == largest.kind)]
        inside = {id(fold): modules.children(fold) for fold in alike}
        opened = [each for fold in folds for each in inside.get(id(fold)) or [fold]]
        is_most = any(2 * own > whole for own, whole in zip(modules.weight(largest), total, strict=True))
        is_large = len(largest.names) > (_SOME if is_most else _MANY)
        is_worth_it = is_large or len(folds) < _FEW or not largest.kind
        if is_worth_it and len(folds) < len(opened) <= budget:
            return opened
    return []


def _split(modules: Modules, folds: list[Fold], budget: int) -> list[Fold]:
    """The boxes, but one that is nearly all of them is opened, and neighbors in it share boxes."""
    room = min(budget - len(folds) + 1, _PARTS)
    total = [sum(each) for each in zip(*map(modules.weight, folds), strict=True)]
    largest = max(folds, key=modules.weight)
    is_most = any(3 * own > 2 * whole for own, whole in zip(modules.weight(largest), total, strict=True))
    parts = modules.children(largest) or modules.operations(largest)
    if not is_most or len(largest.names) <= _MANY or room < 2:
        return folds
    at = folds.index(largest)
    return [*folds[:at], *_merged(parts, room), *folds[at + 1 :]]


def _merged(parts: list[Fold], room: int) -> list[Fold]:
    """At most `room` boxes of neighbors, of about as many parts each."""
    count = min(room, len(parts))
    ends = [len(parts) * at // count for at in range(count + 1)]
    return [_together(parts[start:end]) for start, end in itertools.pairwise(ends)]


def _together(parts: list[Fold]) -> Fold:
    if len(parts) == 1:
        return parts[0]
    kinds = {fold.kind for fold in parts}
    kind = f"{len(parts)} {kinds.pop()}" if len(kinds) == 1 and "" not in kinds else ""
    names = tuple(name for fold in parts for name in fold.names)
    last = parts[-1].label.rpartition(".")[2] if parts[-1].kind else parts[-1].label
    return Fold(parts[0].path, f"{parts[0].label} … {last}", kind, names, is_rest=True)


def _kinds_around(gm: fx.GraphModule, node: fx.Node) -> Iterator[tuple[str, str]]:
    """The classes of the modules around a node, by path, as the capture noted them."""
    for path, kind in (node.meta.get("nn_module_stack") or {}).values():
        clean = str(path).partition("@")[0].removeprefix("L['self']").lstrip(".")
        name = kind if isinstance(kind, str) else kind.__qualname__
        yield clean, name.rpartition(".")[2]
    if node.op == "call_module":
        module: nn.Module = gm.get_submodule(str(node.target))
        yield str(node.target), type(module).__name__


def tree_of(modules: Modules, names: Sequence[str]) -> dict[str, tuple[int, float]]:
    """Nodes and cost below each module path, the paths in the order in which they come up."""
    found: dict[str, tuple[int, float]] = {}
    for name in names:
        for path in ["", *paths_around(modules.path_of[name])]:
            nodes, cost = found.get(path, (0, 0.0))
            found[path] = nodes + 1, cost + modules.weights[name]
    return found
