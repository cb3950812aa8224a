"""How a plan and a graph that it was not made for differ, for people to read."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Mapping, Sequence

from passes.anchors import Anchor, module_of
from passes.words import counted

_MODULES = 8
"""Modules that are told of; of the others only how many there are."""
_LINES = 4
"""Lines of either kind for one module."""


def difference(stage_of: Mapping[Anchor, int], there: Sequence[Anchor]) -> str:
    """What a plan knows and a graph has not, and the other way around; empty if there is neither.

    Grouped by module in the order of the graph: `-` before what only the plan has, with its stage, and `+`
    before what only the graph has. A name that is close to a missing one is told, and so is a prefix that
    makes all names fit. O(V), but for those names.
    """
    known = set(there)
    lost = [anchor for anchor in stage_of if anchor not in known]
    new = [anchor for anchor in there if anchor not in stage_of]
    if not lost and not new:
        return ""
    head = (
        f"the plan belongs to another graph: {len(lost)} of its {counted(len(stage_of), 'value')} are not "
        f"in this one (-), and {len(new)} of the {len(there)} in this one are not in the plan (+)"
    )
    if moved := _moved(lost, new):
        return f"{head}. {moved}"
    return "\n      ".join([head, *_by_module(stage_of, lost, new)])


def _by_module(stage_of: Mapping[Anchor, int], lost: list[Anchor], new: list[Anchor]) -> list[str]:
    groups: dict[str, tuple[list[Anchor], list[Anchor]]] = defaultdict(lambda: ([], []))
    for at, anchors in enumerate((lost, new)):
        for anchor in anchors:
            groups[_holder(anchor)][at].append(anchor)
    lines: list[str] = []
    for module, (gone, came) in list(groups.items())[:_MODULES]:
        lines.append(f"in {module}:" if module else "in the model itself:")
        shown = gone[:_LINES]
        lines += _some([f"  - {each} (stage {stage_of[each]}){_close(each, new)}" for each in shown], gone)
        lines += _some([f"  + {anchor}" for anchor in came[:_LINES]], came)
    if len(groups) > _MODULES:
        lines.append(f"and in {len(groups) - _MODULES} more modules")
    return lines


def _holder(anchor: Anchor) -> str:
    """The module in whose forward a value is made; what a leaf returns is told of in the module around it."""
    return module_of(anchor) if ":" in anchor else module_of(anchor).rpartition(".")[0]


def _some(lines: list[str], of: list[Anchor]) -> list[str]:
    return lines if len(lines) == len(of) else [*lines, f"    and {len(of) - len(lines)} more"]


def _close(anchor: Anchor, new: list[Anchor]) -> str:
    close = difflib.get_close_matches(anchor, new[:1000], n=1, cutoff=0.75)
    return f": is it {close[0]} now?" if close else ""


def _moved(lost: list[Anchor], new: list[Anchor]) -> str:
    """What to do if the names differ by a prefix alone, as they do when a model is wrapped in another."""
    if not lost or not new:
        return ""
    if prefix := _prefix(lost, new):
        return f"They fit once `{prefix}` stands before each name of the plan."
    if prefix := _prefix(new, lost):
        return f"They fit once `{prefix}` is taken off the names of the plan."
    return ""


def _prefix(short: list[Anchor], long: list[Anchor]) -> str:
    """The module path that stands before each of some names in the other list; empty if there is none."""
    known = set(long)
    for name in long:
        prefix = name.removesuffix(short[0]).rstrip(".") if name.endswith(short[0]) else ""
        if prefix and all(_below(prefix, each) in known for each in short):
            return prefix
    return ""


def _below(path: str, anchor: Anchor) -> Anchor:
    return Anchor(path + anchor if anchor.startswith((":", "@")) else f"{path}.{anchor}")
