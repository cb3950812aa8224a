"""The classes of the modules that a graph was captured from."""

from __future__ import annotations

from typing import Any

from torch import fx


def classes_of(gm: fx.GraphModule) -> dict[str, str]:
    """The name of the class of each module whose call the graph holds, by the module's path.

    A captured graph notes around every operation the modules that were running. Some front-ends note the
    innermost alone; then a module that only calls others is not known. O(V) times the depth of the modules.
    """
    found: dict[str, str] = {}
    for node in gm.graph.nodes:
        stack: dict[str, Any] = node.meta.get("nn_module_stack") or {}
        for path, kind in stack.values():
            place = str(path).partition("@")[0].removeprefix("L['self']").lstrip(".")
            if place and not place.startswith("_empty_nn_module_stack"):
                name = kind.__name__ if isinstance(kind, type) else str(kind).rpartition(".")[2]
                found.setdefault(place, name)
        if node.op == "call_module":
            found[str(node.target)] = type(gm.get_submodule(str(node.target))).__name__
    return found
