"""The part of a model's state that each of several processes has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from dni_fx.decoupled import Decoupled
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
