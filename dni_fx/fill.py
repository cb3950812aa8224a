"""Put a synthetic-gradient node in each boundary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

import torch
from torch import nn

from dni_fx.dni import DNI
from dni_fx.errors import SynthesizerError
from dni_fx.interface import Interface
from dni_fx.step import Step
from dni_fx.synthesizers import Synthesizer
from passes import BoundarySpec, Named

N = TypeVar("N", bound=Named)

Choice = Synthesizer | Mapping[str, Synthesizer]
"""One synthesizer for every boundary, or one for each pattern of boundaries' names or anchors."""

InterfaceChoice = Interface | Mapping[str, Interface]
"""One interface for every boundary, or one for each pattern of boundaries' names or anchors."""


def fill(
    choice: Choice,
    interfaces: InterfaceChoice,
    container: nn.Module,
    specs: Sequence[BoundarySpec],
    step: Step,
) -> None:
    """Put a fresh DNI for each boundary into the container. Random state is left as it was.

    Raises:
        SynthesizerError: a boundary and the patterns do not match, or a synthesizer refuses its boundary.
    """
    if not dict(container.named_children()):
        check_patterns(choice, specs)
        check_patterns(interfaces, specs)
    for spec in specs:
        synthesizer, interface = chosen(choice, spec), chosen(interfaces, spec, "interface")
        with torch.random.fork_rng(devices=[]):
            container.add_module(spec.name, DNI(spec, synthesizer, interface, step))


def check_patterns(choice: Choice | InterfaceChoice, specs: Sequence[BoundarySpec]) -> None:
    """Do nothing if every pattern of a choice matches a boundary; `*` may match none.

    Raises:
        SynthesizerError: one matches nothing, so what was chosen for it would be lost.
    """
    patterns = [pattern for pattern in choice if pattern != "*"] if isinstance(choice, Mapping) else []
    if lost := [p for p in patterns if not any(_matches(spec, p) for spec in specs)]:
        there = ", ".join(f"{spec.name} (after {spec.values[0].anchor})" for spec in specs)
        raise SynthesizerError(f"no boundary matches {', '.join(lost)}. There are: {there or 'none'}.")


def chosen(choice: N | Mapping[str, N], spec: BoundarySpec, kind: str = "synthesizer") -> N:
    """What was chosen for a boundary: by the first pattern that matches its name, or its value's anchor.

    Raises:
        SynthesizerError: no pattern matches.
    """
    if not isinstance(choice, Mapping):
        return choice
    for pattern, each in choice.items():
        if _matches(spec, pattern):
            return each
    raise SynthesizerError(
        f"no {kind} was chosen for the boundary {spec.name}: it matches none of {', '.join(choice)}. "
        "Add the pattern * for all the others."
    )


def _matches(spec: BoundarySpec, pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in (spec.name, *(v.anchor for v in spec.values)))
