"""What a synthesizer would cost at a boundary, found without any of its memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch._subclasses import FakeTensorMode

from dni_fx.errors import SynthesizerError
from dni_fx.fill import Choice, chosen
from dni_fx.synthesizers import Synthesizer
from dni_fx.synthesizers.heads import Headed, label_sizes
from passes import BoundarySpec
from passes.anchors import identifier
from passes.boundary import value_spec
from passes.watch import Watch

if TYPE_CHECKING:
    import networkx as nx

COPIES = 4
"""What learns from a parameter holds it, the gradient that waits, and two running means of Adam."""


@dataclass(frozen=True)
class Price:
    """Costs of one learner in one training step, at the batch size of the example.

    `flops` counts its guess and the backward pass that it learns by; `saved_bytes` is what autograd keeps
    between them, the value that it reads not included.
    """

    parameters: int
    parameter_bytes: int
    flops: int
    saved_bytes: int

    @property
    def bytes(self) -> int:
        """Memory that training takes: the parameters with their optimizer's state, and what is saved."""
        return COPIES * self.parameter_bytes + self.saved_bytes


def price(synthesizer: Synthesizer, spec: BoundarySpec) -> Price:
    """What the learner that this synthesizer builds costs at a boundary. No memory is allocated.

    Raises:
        SynthesizerError: the synthesizer refuses the boundary.
    """
    watch = Watch()
    if isinstance(synthesizer, Headed):  # which classes a batch holds is not known here; all cost no less
        synthesizer = replace(synthesizer, samples=0)
    with FakeTensorMode(), torch.inference_mode(False), torch.enable_grad():
        learner = synthesizer.build(spec)
        values = tuple(torch.empty(value.shape, dtype=value.dtype) for value in spec.values)
        labels = torch.zeros(label_sizes(spec.values[0]), dtype=torch.long)
        watch.weigh([learner, *values])  # the stage holds the values anyway
        with watch:
            with watch.saving():
                guess = learner(values, labels if synthesizer.needs else None)
            watch.node_made(spec.name, guess)
        parameters = list(learner.parameters())
    found = watch.found[spec.name]
    return Price(
        sum(each.numel() for each in parameters),
        sum(each.numel() * each.element_size() for each in parameters),
        found.flops + found.backward_flops,
        found.saved,
    )


def price_all(flow: nx.DiGraph[str], gm: fx.GraphModule, choice: Choice) -> None:
    """Every carrying value has `synthesizer_flops` and `synthesizer_bytes`, should a boundary lie after it.

    A value that may not cross, or whose boundary the synthesizer refuses, has 0 of both; the latter may not
    cross from now on. O(V), and each kind of value is priced once.
    """
    known: dict[tuple[Any, ...], Price | None] = {}
    for node in gm.graph.nodes:
        facts = flow.nodes[node.name]
        facts["synthesizer_flops"] = facts["synthesizer_bytes"] = 0
        if not (facts["carries"] and facts["crossable"]):
            continue
        spec = BoundarySpec(identifier(facts["anchor"]), (value_spec(node),), 0, (1,))
        synthesizer = chosen(choice, spec)
        value = spec.value
        kind = (synthesizer, value.shape, value.dims, value.dtype, value.batch_dim, value.feature_dim)
        if kind not in known:
            known[kind] = _price_or_none(synthesizer, spec)
        if (found := known[kind]) is None:
            facts["crossable"] = False
        else:
            facts["synthesizer_flops"], facts["synthesizer_bytes"] = found.flops, found.bytes


def _price_or_none(synthesizer: Synthesizer, spec: BoundarySpec) -> Price | None:
    try:
        return price(synthesizer, spec)
    except SynthesizerError:
        return None
