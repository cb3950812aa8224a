"""Cut after the values that the user names."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import override

from dni_fx.errors import PlanError
from dni_fx.policies.base import Policy
from dni_fx.policies.places import anchor, depths, obstacles, returned, stuck, tensors
from passes import Plan, UnknownNameError
from passes.anchors import Anchor, module_of, paths_around
from passes.dataflow import carrying, computed
from passes.placement import plan_of

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True)
class At(Policy):
    """Each of the named values is the last of its stage, and what comes after it is in a later one.

    A value is in the stage that says how many named values lie one after another above it. So those
    that depend on one another are cuts of their own, and parallel ones (the two towers of an encoder) are
    one cut. A name is the path of a module, for what its last call
    returned; an anchor such as `layers.0@1:add.2`; or the name of an fx node. It is understood as the
    first of these that there is. A value that is not one tensor is cut where it is unpacked.
    """

    name = "at"

    after: tuple[str, ...] = ()

    @override
    def choose(self, flow: nx.DiGraph[str]) -> Plan:
        """Cut after each of the names.

        Raises:
            passes.UnknownNameError: a name means nothing in this graph; says which come close.
            PlanError: a gradient does not cross where a name asks for a cut, or a constraint forbids it.
        """
        cuts = {value for name in self.after for value in self._values(flow, name)}
        depth = depths(flow, cuts)
        problems = [
            *(each for value in flow if value in cuts for each in obstacles(flow, value, depth)),
            *stuck(flow, cuts, depth),
        ]
        if problems:
            raise PlanError(f"{self} cannot be carried out:" + "".join(f"\n  * {each}" for each in problems))
        return plan_of(flow, {name: depth[name] for name in carrying(flow)}, str(self))

    def _values(self, flow: nx.DiGraph[str], name: str) -> list[str]:
        """The tensors after which the name cuts."""
        value = _find(flow, name)
        if not flow.nodes[value]["carries"]:
            raise PlanError(
                f"{self} cannot cut after {name!r}: no gradient runs through {anchor(flow, value)}, so "
                "there is nothing to decouple. Name a value that depends on an input and a trained parameter."
            )
        return tensors(flow, value)


def _find(flow: nx.DiGraph[str], name: str) -> str:
    """The node that a name means.

    Raises:
        UnknownNameError: there is none.
    """
    if (value := returned(flow, [name]).get(name)) is not None:
        return value
    anchors: dict[Anchor, str] = {flow.nodes[value]["anchor"]: value for value in computed(flow)}
    if (value := anchors.get(Anchor(name))) is not None:
        return value
    if name in flow and flow.nodes[name]["anchor"] is not None:
        return name
    modules = dict.fromkeys(path for each in anchors for path in paths_around(module_of(each)))
    close = difflib.get_close_matches(name, [*modules, *anchors, *computed(flow)], n=3)
    hint = f" Did you mean {' or '.join(map(repr, dict.fromkeys(close)))}?" if close else ""
    top = ", ".join(path for path in modules if "." not in path) or "none"
    raise UnknownNameError(
        f"no value to cut after is named {name!r}: it is the path of no module that the graph calls, no "
        f"anchor and no node.{hint} The modules at the top are {top}."
    )
