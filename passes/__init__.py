"""Passes over torch.fx graphs. Knows torch and networkx; knows nothing of dni_fx."""

from passes.anchors import Anchor
from passes.base import Observer, Pass, Pipeline, copy_graph
from passes.boundary import Boundary, BoundarySpec, ValueSpec, boundaries
from passes.errors import (
    GraphError,
    InvalidGraphError,
    PostconditionError,
    PreconditionError,
    SpecError,
    UnknownNameError,
)
from passes.named import Named, parse
from passes.plan import Plan
from passes.registry import Registry

# A pass is listed here if its options are plain data, so that text can name it whole.
# mark-boundaries takes a Plan, so it is used from Python and by `dni-fx decouple`.
PASSES: Registry[type[Pass]] = Registry(
    "pass",
    {
        "chunk-time": "passes.chunk_time:ChunkTime",
        "erase-boundaries": "passes.erase_boundaries:EraseBoundaries",
    },
)

__all__ = [
    "PASSES",
    "Anchor",
    "Boundary",
    "BoundarySpec",
    "GraphError",
    "InvalidGraphError",
    "Named",
    "Observer",
    "Pass",
    "Pipeline",
    "Plan",
    "PostconditionError",
    "PreconditionError",
    "Registry",
    "SpecError",
    "UnknownNameError",
    "ValueSpec",
    "boundaries",
    "copy_graph",
    "parse",
]
