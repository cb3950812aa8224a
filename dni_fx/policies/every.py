"""Cut after each module of a kind."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from typing_extensions import override

from dni_fx.errors import PlanError
from dni_fx.policies.base import Policy
from dni_fx.policies.places import depths, obstacles, returned, stuck, tensors
from passes import Plan, UnknownNameError
from passes.anchors import paths_around
from passes.dataflow import carrying, computed
from passes.placement import plan_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    import networkx as nx


@dataclass(frozen=True)
class Every(Policy):
    """Each module whose class or path matches a pattern is the end of a stage, as if named in `at`.

    A pattern is as in a shell: `Block`, `*Layer`, `layers.*`. Of modules inside one another only the
    outermost count, and of those every `step`-th in the order in which they return. A module that runs
    several times counts at its last call. Passed over are modules after which nothing learns, such as
    the last one, those that no gradient runs through, and those after which a constraint forbids a cut.
    Towers that run side by side are cut side by side.
    """

    name = "every"

    module: tuple[str, ...] = ()
    step: int = 1

    @override
    def choose(self, flow: nx.DiGraph[str]) -> Plan:
        """Cut after each match.

        Raises:
            passes.UnknownNameError: a pattern matches no module; says which classes there are.
            PlanError: there are matches, and a cut lies after none of them.
        """
        if self.step < 1:
            raise PlanError(f"{self} asks for every {self.step}-th module; it is the first or a later one.")
        cuts = self._cuts(flow)
        depth = depths(flow, cuts)
        if problems := list(stuck(flow, cuts, depth)):
            raise PlanError(f"{self} cannot be carried out:" + "".join(f"\n  * {each}" for each in problems))
        return plan_of(flow, {name: depth[name] for name in carrying(flow)}, str(self))

    def _cuts(self, flow: nx.DiGraph[str]) -> set[str]:
        """The values after which the chosen modules are cut off."""
        position = {name: at for at, name in enumerate(flow)}
        found = returned(flow, self._matches(flow))
        paths = sorted(found, key=lambda path: position[found[path]])
        values = {path: tensors(flow, found[path]) for path in paths if flow.nodes[found[path]]["carries"]}
        depth = depths(flow, {value for several in values.values() for value in several})
        reasons = {
            path: [each for value in several for each in obstacles(flow, value, depth)]
            for path, several in values.items()
        }
        kept = [path for path in values if not reasons[path]]
        if paths and not kept[self.step - 1 :: self.step]:
            raise PlanError(self._none(paths, kept, reasons))
        return {value for path in kept[self.step - 1 :: self.step] for value in values[path]}

    def _matches(self, flow: nx.DiGraph[str]) -> list[str]:
        """Paths of the outermost modules that some pattern means."""
        classes: dict[str, str] = flow.graph["classes"]
        around = (path for name in computed(flow) for path in paths_around(flow.nodes[name]["module"]))
        paths = dict.fromkeys([*classes, *around])
        found: set[str] = set()
        for pattern in self.module:
            new = {path for path in paths if _means(pattern, path, classes.get(path))}
            if not new:
                raise UnknownNameError(_unknown(pattern, paths, classes))
            found |= new
        return [path for path in paths if path in found and found.isdisjoint(paths_around(path)[:-1])]

    def _none(self, paths: list[str], kept: list[str], reasons: dict[str, list[str]]) -> str:
        if kept:
            return (
                f"{self} asks for every {self.step}-th of the modules after which a cut can lie, and there "
                f"are {len(kept)}: {', '.join(kept)}."
            )
        listed = [
            *(each for path in paths for each in reasons.get(path, ())),
            *(f"no gradient runs through {path}" for path in paths if path not in reasons),
        ]
        return f"{self} matches {', '.join(paths)}, and a cut can lie after none:" + "".join(
            f"\n  * {each}" for each in listed
        )


def _means(pattern: str, path: str, kind: str | None) -> bool:
    return fnmatchcase(path, pattern) or (kind is not None and fnmatchcase(kind, pattern))


def _unknown(pattern: str, paths: Iterable[str], classes: dict[str, str]) -> str:
    kinds = sorted(set(classes.values()))
    close = difflib.get_close_matches(pattern, [*kinds, *paths], n=3)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    return (
        f"no module in this graph has a class or a path that matches {pattern!r}.{hint} "
        f"The classes are {', '.join(kinds) or 'not known'}."
    )
