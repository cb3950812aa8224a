"""The state of a run as each of several processes has it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor

from dni_fx.decoupled import Decoupled
from dni_fx.distributed.post import Post
from dni_fx.runtimes.holding import needs
from dni_fx.runtimes.route import Route
from dni_fx.stage import detached
from passes.boundary import CONTAINER


def own_state(cut: Decoupled, routes: Sequence[Route], rank: int) -> dict[str, Any]:
    """The part of a model's state dict that is this rank's: each entry is in that of one rank.

    What several need is of the last of them, which moves it, and what none needs is of the first.
    """
    everything, mine, later = set[Tensor](), set[Tensor](), set[Tensor]()
    makers: dict[str, int] = {}
    for route in routes:
        end = len(route.graph.road.stages)
        everything |= needs(cut, route.graph, range(end))
        mine |= needs(cut, route.graph, route.within)
        later |= needs(cut, route.graph, range(route.within.stop, end))
        makers |= {spec.name: route.homes[spec.producer] for spec in route.graph.specs}

    def is_own(key: str, value: object) -> bool:
        if isinstance(value, Tensor) and value in everything:
            return value in mine and value not in later
        head, *rest = key.split(".", 2)
        return rank == (makers.get(rest[0], 0) if head == CONTAINER and rest else 0)

    state: dict[str, Any] = cut.state_dict(keep_vars=True)  # modules may have more in it than tensors
    return {key: detached(value) for key, value in state.items() if is_own(key, value)}


def exchanged(post: Post, topic: str, mine: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What each process has, in their order; all tell all."""
    # Whoever sends may train on before all of it is sent.
    post.send_all(topic, pytree.tree_map_only(Tensor, Tensor.clone, mine))
    for rank in range(post.size):
        yield mine if rank == post.rank else post.take(rank, topic)


def collected(post: Post, topic: str, mine: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """On the first process, what each has, asked for one after another; the others go on when it has theirs.

    If it stops asking, the rest of them go on as well.
    """
    if post.rank:
        if post.take(0, f"go {topic}"):
            post.send(0, topic, mine)
        return
    waiting = list(post.others)
    try:
        yield mine
        while waiting:
            other = waiting.pop(0)
            post.send(other, f"go {topic}", True)
            yield post.take(other, topic)
    finally:
        for other in waiting:
            post.send(other, f"go {topic}", False)
