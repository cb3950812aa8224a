"""What of a model a process has memory for: of several, each for its own stages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from dni_fx.cut_graph import CutGraph
from dni_fx.decoupled import Decoupled, dnis
from dni_fx.dni import DNI


class Holding:
    """Lets go of the memory of tensors that a process has no use for, and takes it again.

    They stay the objects that they are, with their shape; what is read of them meanwhile is NaN, or 0 where a
    type has none, and nothing can be written to them.
    """

    def __init__(self, cut: Decoupled) -> None:
        self.cut = cut
        self.is_whole = True
        self._strides: dict[Tensor, tuple[int, ...]] = {}

    def let_go(self, graphs: Sequence[CutGraph], within: range) -> None:
        """Let go of what others of these graphs' stages need, and those `within` do not."""
        self.is_whole = False
        own = set[Tensor]().union(*(needs(self.cut, graph, within) for graph in graphs))
        others = set[Tensor]().union(
            *(needs(self.cut, graph, range(len(graph.road.stages))) for graph in graphs)
        )
        for dni in dnis(self.cut).values():
            if not own & _weights(dni):
                dni.step()  # an update that waits could not be written later
        for tensor in alone_in_memory(self.cut, others - own):
            self._strides[tensor] = tensor.stride()
            nothing = torch.nan if tensor.is_floating_point() or tensor.is_complex() else 0
            tensor.data = torch.full((), nothing, dtype=tensor.dtype, device=tensor.device).expand(
                tensor.shape
            )

    def take(self) -> None:
        """Have memory for everything again; what was let go of has any values until they are written."""
        for tensor, strides in self._strides.items():
            tensor.data = torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device)
        self._strides, self.is_whole = {}, True


def needs(cut: Decoupled, graph: CutGraph, within: range) -> set[Tensor]:
    """The tensors of a model that these stages of it need: weights, buffers, and those of synthesizers."""
    found: set[Tensor] = set()
    for at in within:
        stage = graph.road.stages[at]
        found |= {*stage.parameters(), *stage.named_buffers().values()}
    known = dnis(cut)
    for spec in graph.specs:
        if spec.producer in within and spec.name in known:
            found |= _weights(known[spec.name])
    return found


def _weights(dni: DNI) -> set[Tensor]:
    """What a synthesizer learns, and as large with it; by the rest every process knows what it is about."""
    moments = () if dni.optimizer is None else dni.optimizer.buffers()
    return {*dni.learner.parameters(), *(each for each in moments if each.dim())}


def alone_in_memory(cut: Decoupled, tensors: Iterable[Tensor]) -> list[Tensor]:
    """Those of which nothing else of the model is a part, so that nobody else's memory goes with theirs."""
    sharing: defaultdict[int, int] = defaultdict(int)
    for tensor in (*cut.parameters(), *cut.buffers()):
        sharing[_place(tensor)] += 1
    return [each for each in tensors if _is_plain(each) and each.numel() > 1 and sharing[_place(each)] == 1]


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided and not tensor.is_meta


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else id(tensor)
