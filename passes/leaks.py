"""Ways for a true gradient to get past the boundaries of a marked graph."""

from __future__ import annotations

from collections.abc import Iterator

import networkx as nx
from torch import fx

from passes.boundary import boundaries, sides
from passes.dataflow import dataflow


def leaks(gm: fx.GraphModule) -> Iterator[str]:
    """Pairs of values in different stages that a path of gradients joins without meeting a boundary.

    Parameters that several stages read are set aside, and so is the output, which is in no stage. O(V + E).
    """
    flow = dataflow(gm)
    markers = {each.name for node, _ in boundaries(gm) for _, side in sides(node) for each in (node, side)}
    stages = {node.name: node.meta["stage"] for node in gm.graph.nodes if "stage" in node.meta}
    carriers = [
        n for n in stages if n not in markers and flow.nodes[n]["requires_grad"] and flow.nodes[n]["fed"]
    ]
    paths: nx.DiGraph[str] = nx.subgraph(flow, carriers)
    for source, reader in paths.edges:
        if stages[source] != stages[reader] and flow.nodes[reader]["carries"]:
            yield f"{source} (stage {stages[source]}) reaches {reader} (stage {stages[reader]})"
