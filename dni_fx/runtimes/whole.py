"""Makes the model of every process whole: each has trained a part of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dni_fx.decoupled import Decoupled, dnis
from dni_fx.distributed.post import Post
from dni_fx.runtimes.route import Route


class Whole:
    """Exchanges weights, buffers and synthesizers, each from the rank that has trained it."""

    def __init__(self, cut: Decoupled, route: Route, post: Post) -> None:
        self.cut = cut
        self.route = route
        self.post = post

    def adopt(self, peers: Post, topic: str) -> None:
        """Have what the first of several replicas has trained of these stages, in the others of them."""
        if peers.size == 1:
            return
        if peers.rank == 0:
            peers.send_all(topic, (self._weights(), self._interfaces()))
        else:
            self._put(*peers.take(0, topic))

    def exchange(self, topic: str) -> None:
        """Send what was trained here to all others, and take what they have trained."""
        self.post.send_all(topic, (self._weights(), self._interfaces()))
        for other in self.post.others:
            weights, interfaces = self.post.take(other, topic)
            self._put(weights, interfaces)

    def _weights(self) -> dict[str, Tensor]:
        """Copies, since training may go on before they are sent."""
        found = {name: self.route.parameters[name].detach() for name in self.route.owned}
        for at in self.route.within:
            found |= self.route.graph.road.stages[at].named_buffers()
        return {name: tensor.clone() for name, tensor in found.items()}

    def _interfaces(self) -> dict[str, dict[str, Any]]:
        known = dnis(self.cut)
        mine = [spec.name for spec in self.route.graph.specs if spec.producer in self.route.within]
        return {
            name: {key: value.clone() for key, value in known[name].state_dict().items()} for name in mine
        }

    @torch.no_grad()
    def _put(self, weights: Mapping[str, Tensor], interfaces: Mapping[str, Mapping[str, Any]]) -> None:
        buffers = {
            name: each
            for stage in self.route.graph.road.stages
            for name, each in stage.named_buffers().items()
        }
        own: Mapping[str, Tensor] = buffers | dict(self.route.parameters)
        for name, value in weights.items():
            own[name].copy_(value)
        known = dnis(self.cut)
        for name, state in interfaces.items():
            known[name].load_state_dict(state)


def begin(cut: Decoupled, world: Post, topic: str) -> None:
    """Have the first process's model everywhere: others may have been made with other random numbers."""
    if world.rank == 0:
        world.send_all(topic, {key: value.clone() for key, value in cut.state_dict().items()})
    else:
        cut.load_state_dict(world.take(0, topic))
