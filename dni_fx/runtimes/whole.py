"""Makes the model of every process whole: each has trained a part of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from dni_fx.decoupled import Decoupled, dnis
from dni_fx.distributed.post import Post, copied
from dni_fx.runtimes.route import Route


class Whole:
    """Exchanges weights, buffers and synthesizers, each from the rank that has trained it."""

    def __init__(self, cut: Decoupled, route: Route, post: Post) -> None:
        self.cut = cut
        self.route = route
        self.post = post

    def adopt(self, peers: Post, topic: str, besides: Collection[Tensor]) -> None:
        """Have what the first of several replicas has trained of these stages, in the others of them.

        That is all `besides` parameters that they share.
        """
        if peers.size == 1:
            return
        if peers.rank == 0:
            weights, interfaces = self._trained()
            shared = {name for name in self.route.owned if self.route.parameters[name] in besides}
            own = {name: each for name, each in weights.items() if name not in shared}
            peers.send_all(topic, copied((own, interfaces)))
        else:
            self._put(*peers.take(0, topic))

    def gather(self, topic: str, alone: bool) -> None:
        """Have what all others have trained; with `alone`, only in the first process."""
        gathered = self.post.collected if alone else self.post.exchanged
        for rank, part in enumerate(gathered(topic, self._trained())):
            if rank != self.post.rank:
                self._put(*part)

    def _trained(self) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
        return self._weights(), self._interfaces()

    def _weights(self) -> dict[str, Tensor]:
        found = {name: self.route.parameters[name].detach() for name in self.route.owned}
        for at in self.route.within:
            found |= self.route.graph.road.stages[at].named_buffers()
        return found

    def _interfaces(self) -> dict[str, dict[str, Any]]:
        known = dnis(self.cut)
        mine = [spec.name for spec in self.route.graph.specs if spec.producer in self.route.within]
        return {name: dict(known[name].state_dict()) for name in mine}

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
