"""What is known of the value of a node without running the model."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import fx


@dataclass(frozen=True)
class Value:
    """What a run on fake tensors tells about one node; kept in `node.meta["value"]`.

    `shape`, `dims`, `batch_dim`, `feature_dim` and `dtype` speak of a value that is one tensor and are
    empty for anything else (a tuple, an int, None). They mean what they mean in `ValueSpec`, and a size
    that does not follow the batch linearly is `?` in `dims`; `batch_dim` is -1 where no size follows the
    batch, `feature_dim` where there is no dimension at all.

    `requires_grad` says that some tensor in the value does. `aliases` names the earlier nodes whose
    memory the value shares, `mutates` those whose memory this node writes to. `random` says that it draws
    random numbers. `flops` counts its forward pass alone, `backward_flops` its backward pass; `bytes` is
    that of all tensors in the value. `saved` is how many bytes autograd keeps for its backward pass that are
    no parameter and that no earlier node keeps; for recurrent layers an estimate, without what a fused
    kernel keeps for itself, and 0 for a node that calls `torch.func`. `uncounted` names the
    operations that read a weight matrix and that `flops` knows nothing of.
    """

    shape: tuple[int, ...] | None = None
    dims: tuple[int | str, ...] = ()
    dtype: torch.dtype | None = None
    batch_dim: int = -1
    feature_dim: int = -1
    requires_grad: bool = False
    aliases: frozenset[str] = field(default_factory=frozenset[str])
    mutates: frozenset[str] = field(default_factory=frozenset[str])
    random: bool = False
    flops: int = 0
    backward_flops: int = 0
    bytes: int = 0
    saved: int = 0
    uncounted: frozenset[str] = field(default_factory=frozenset[str])

    @property
    def is_tensor(self) -> bool:
        """Whether the value is one tensor, so that it may cross a cut by itself."""
        return self.shape is not None


_UNKNOWN = Value()


def value_of(node: fx.Node) -> Value:
    """What `annotate` found out about a node; an empty `Value` where it has not been."""
    return node.meta.get("value", _UNKNOWN)


def unannotated(graph: fx.Graph) -> str:
    """What is wrong with a graph that `annotate` has not been over; empty if nothing is."""
    blank = [node.name for node in graph.nodes if "value" not in node.meta and node.op != "output"]
    return f"shapes are not known of {', '.join(blank[:5])}; annotate the graph first" if blank else ""
