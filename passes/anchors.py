"""Names of values by their place in the model, which outlive a capture.

Node names (`add_2`, `sym_size_int_1`) differ between the train graph, the eval graph,
front-ends and re-captures. An anchor says which call of which module made a value, and by
which of its operations: `encoder.layers.0` is what that module returned on its first call,
`encoder@1:add.2` the third addition in the second call of `encoder`.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NewType

from torch import fx, nn

Anchor = NewType("Anchor", str)

ANCHOR = "dni_fx.anchor"
"""The key under which a graph read from a file carries the anchors it was captured with."""


_PART = "~"
"""Stands behind the anchor of an operation that became several in a file, for all of them but the last."""


def set_anchors(graph: fx.Graph) -> None:
    """Give every computed value of a freshly captured graph its anchor, in `node.meta["anchor"]`.

    Anchors are unique within the graph. O(V).
    """
    # One captured operation may have become several in a file; the last one made its value.
    carried = {_carried(node): node for node in graph.nodes if _carried(node)}
    counts: Counter[str] = Counter()
    taken = set(carried)
    for node in graph.nodes:
        if node.op in {"placeholder", "get_attr", "output"}:
            continue
        anchor = _carried(node)
        if carried.get(anchor) is not node:
            place = f"{anchor}{_PART}" if anchor else _place(node)
            while (anchor := _numbered(place, counts[place])) in taken:
                counts[place] += 1
            counts[place] += 1
        taken.add(anchor)
        node.meta["anchor"] = Anchor(anchor)


def base_of(anchor: Anchor) -> Anchor:
    """The anchor of the captured operation that a value is a part of; but in graphs from files, its own.

    >>> base_of(Anchor("layers.0:chunk~.1"))
    'layers.0:chunk'
    """
    return Anchor(anchor.partition(_PART)[0])


def part_of(anchor: str) -> Anchor:
    """The anchor of what belongs to a captured operation and is not its value: a check of it, say.

    >>> base_of(part_of("layers.0:add"))
    'layers.0:add'
    """
    return Anchor(f"{anchor}{_PART}")


def anchor_of(node: fx.Node) -> Anchor:
    """The anchor that `set_anchors` gave to a node."""
    return node.meta["anchor"]


def module_of(anchor: Anchor) -> str:
    """The path of the module whose call made the value, without the number of the call.

    >>> module_of(Anchor("encoder.layers.0@1:add.2"))
    'encoder.layers.0'
    """
    return anchor.partition(":")[0].partition("@")[0]


def paths_around(module: str) -> list[str]:
    """The path of a module after those of the modules around it.

    >>> paths_around("encoder.layers.0")
    ['encoder', 'encoder.layers', 'encoder.layers.0']
    """
    parts = module.split(".") if module else []
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


def identifier(anchor: Anchor) -> str:
    """The anchor as a name that a submodule can have.

    >>> identifier(Anchor("encoder.layers.0@1:add.2")), identifier(Anchor(":float"))
    ('encoder_layers_0_at1__add_2', 'float_')
    """
    text = anchor.replace(":", "__").replace("@", "_at").strip("_")
    name = "".join(letter if letter.isalnum() or letter == "_" else "_" for letter in text)
    return f"{name}_" if hasattr(nn.Module, name) else name  # no submodule may hide a method


def _carried(node: fx.Node) -> str:
    return (node.meta.get("custom") or {}).get(ANCHOR, "")


def _numbered(place: str, count: int) -> str:
    if not count:
        return place
    return f"{place}.{count}" if ":" in place else f"{place}@{count}"


def _place(node: fx.Node) -> str:
    if node.op == "call_module":
        return str(node.target)
    path, call = _innermost(node)
    return f"{path}{call}:{_operation(node)}"


def _innermost(node: fx.Node) -> tuple[str, str]:
    """Path of the innermost module call that holds the node, and `@n` if it is not the first call."""
    stack: dict[str, Any] = node.meta.get("nn_module_stack") or {}
    if not stack:
        return "", ""
    key, (path, _) = list(stack.items())[-1]
    call = key.rpartition("@")[2] if "@" in key else ""
    path = str(path).partition("@")[0].removeprefix("L['self']").lstrip(".")
    if path.startswith("_empty_nn_module_stack"):  # torch.export's name for an operation of its own
        path = ""
    return path, f"@{call}" if call else ""


def _operation(node: fx.Node) -> str:
    if isinstance(node.target, str):
        return node.target
    name = getattr(node.target, "__name__", str(node.target))
    return name.split(".")[0]
