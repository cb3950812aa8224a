"""Undo mark-boundaries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx
from typing_extensions import override

from passes.base import Pass
from passes.boundary import boundaries, moments, sides
from passes.chunk_time import in_one_piece


@dataclass(frozen=True)
class EraseBoundaries(Pass):
    """Remove every boundary, and whatever fills it. What is left is the captured graph."""

    name = "erase-boundaries"

    @override
    def apply(self, gm: fx.GraphModule) -> bool:
        marked = list(boundaries(gm))
        for node, spec in marked:
            for source, side in sides(node):
                for copy in [user for user in side.users if user.meta.get("copies") == side.name]:
                    copy.replace_all_uses_with(source)
                    gm.graph.erase_node(copy)
                side.replace_all_uses_with(source)
                if side is not node:
                    gm.graph.erase_node(side)
            gm.graph.erase_node(node)
            gm.delete_submodule(spec.path)
        return in_one_piece(gm) or bool(marked)

    @override
    def ensures(self, gm: fx.GraphModule) -> Iterator[str]:
        return (f"{spec.name} is still there" for _, spec in (*boundaries(gm), *moments(gm)))
