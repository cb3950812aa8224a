"""What processes get of the first one before they train: at the start of a run, or where it goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dni_fx.cut_graph import CutGraph
from dni_fx.decoupled import Decoupled
from dni_fx.distributed.post import Post, copied
from dni_fx.runtimes.holding import needs
from dni_fx.runtimes.route import Route
from dni_fx.runtimes.updates import Updates


class Start:
    """Has the first process's weights where they are needed: others may have been made with other numbers.

    Each process gets those that its stages need, and what no stage needs; and all that is in no state dict,
    such as constants of the code, which nobody brings together at the end. Where the first one has taken in
    the state of a run, `is_renewed`, the others get of that what their optimizers had, too.
    """

    def __init__(self, cut: Decoupled, updates: Updates, world: Post) -> None:
        self.cut = cut
        self.updates = updates
        self.world = world
        self.is_due, self.is_renewed = True, False

    def renew(self) -> None:
        """Have it all again, of the state that the first process takes in now."""
        self.is_due = self.is_renewed = True

    def give(self, routes: Sequence[Route], number: int) -> None:
        """Give or get what the stages of these graphs need before a step of this number."""
        if not self.is_due:
            return
        graphs, topic = [route.graph for route in routes], f"start {number}"
        if self.world.rank:
            kept, unkept, optimizers = self.world.take(0, topic)
            self._put(kept)
            _put_unkept(graphs, self.cut, unkept)
            if self.is_renewed:
                self.updates.load_state_dict({"scaler": None, "optimizers": optimizers})
        else:
            self._send(routes, topic)
        self.is_due = self.is_renewed = False

    def give_all(self, number: int) -> None:
        """Have everywhere the whole model whose state the first process has taken in."""
        if not self.is_renewed:
            return
        topic = f"state {number}"
        if self.world.rank:
            self._put(self.world.take(0, topic))
        else:
            self.world.send_all(topic, copied(self._kept()))

    def _send(self, routes: Sequence[Route], topic: str) -> None:
        unkept = _unkept([route.graph for route in routes], self.cut)
        everything = set[Tensor]().union(*(needs(self.cut, each.graph, range(each.loss)) for each in routes))
        named: dict[str, nn.Parameter] = dict(self.cut.named_parameters(remove_duplicate=False))
        kept, optimizers = self._kept(), self.updates.optimizers_state() if self.is_renewed else {}
        for other in self.world.others:
            own = (needs(self.cut, each.graph, each.held_by(other % each.ranks)) for each in routes)
            others = everything.difference(*own)
            told = {key: each for key, each in kept.items() if not _is_in(others, each)}
            moved = {
                key: _names_alone(state)
                if {named.get(name) for name in state["parameters"]} <= others
                else dict(state)
                for key, state in optimizers.items()
            }
            self.world.send(other, topic, copied((told, unkept, moved)))

    def _kept(self) -> dict[str, Any]:
        """The state dict; what in it is no tensor only where it came with the state of a run."""
        state: dict[str, Any] = self.cut.state_dict(keep_vars=True)
        return {key: each for key, each in state.items() if self.is_renewed or isinstance(each, Tensor)}

    def _put(self, kept: Mapping[str, Any]) -> None:
        self.cut.load_state_dict(kept, strict=False)


def _names_alone(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state of an optimizer for those who do not move what it moves: what that is."""
    return {"parameters": state["parameters"]}


def _is_in(tensors: set[Tensor], value: object) -> bool:
    return isinstance(value, Tensor) and value in tensors


@torch.no_grad()
def _put_unkept(graphs: Sequence[CutGraph], cut: Decoupled, values: Sequence[Tensor]) -> None:
    for mine, first in zip(_unkept(graphs, cut), values, strict=True):
        if not torch.equal(mine, first):
            mine.copy_(first)


def _unkept(graphs: Sequence[CutGraph], cut: Decoupled) -> list[Tensor]:
    """What the stages read that is in no state dict, in an order that is the same in all processes."""
    state: dict[str, Any] = cut.state_dict(keep_vars=True)
    kept = {each for each in state.values() if isinstance(each, Tensor)}
    stages = [stage for graph in graphs for stage in graph.road.stages]
    read = [each for stage in stages for each in (*stage.named_buffers().values(), *stage.constants())]
    return [each for each in read if each not in kept]
