"""Put a synthetic-gradient node in each boundary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn

from dni_fx.dni import DNI
from dni_fx.errors import SynthesizerError
from dni_fx.interface import Interface
from dni_fx.step import Step
from dni_fx.synthesizers import Synthesizer
from passes import BoundarySpec

Choice = Synthesizer | Mapping[str, Synthesizer]
"""One synthesizer for every boundary, or one for each pattern of boundaries' names or anchors."""


def fill(
    choice: Choice, interface: Interface, container: nn.Module, specs: Sequence[BoundarySpec], step: Step
) -> None:
    """Put a fresh DNI for each boundary into the container. Random state is left as it was.

    Raises:
        SynthesizerError: a boundary and the patterns do not match, or a synthesizer refuses its boundary.
    """
    if not dict(container.named_children()):
        check_patterns(choice, specs)
    for spec in specs:
        synthesizer = chosen(choice, spec)
        with torch.random.fork_rng(devices=[]):
            container.add_module(spec.name, DNI(spec, synthesizer, interface, step))


def check_patterns(choice: Choice, specs: Sequence[BoundarySpec]) -> None:
    """Do nothing if every pattern of a choice matches a boundary; `*` may match none.

    Raises:
        SynthesizerError: one matches nothing, so what was chosen for it would be lost.
    """
    patterns = [] if isinstance(choice, Synthesizer) else [pattern for pattern in choice if pattern != "*"]
    if lost := [p for p in patterns if not any(_matches(spec, p) for spec in specs)]:
        there = ", ".join(f"{spec.name} (after {spec.values[0].anchor})" for spec in specs)
        raise SynthesizerError(f"no boundary matches {', '.join(lost)}. There are: {there or 'none'}.")


def _matches(spec: BoundarySpec, pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in (spec.name, *(v.anchor for v in spec.values)))


def chosen(choice: Choice, spec: BoundarySpec) -> Synthesizer:
    """The synthesizer for a boundary: of the first pattern that matches its name, or its value's anchor."""
    if isinstance(choice, Synthesizer):
        return choice
    for pattern, synthesizer in choice.items():
        if _matches(spec, pattern):
            return synthesizer
    raise SynthesizerError(
        f"no synthesizer was chosen for the boundary {spec.name}: it matches none of {', '.join(choice)}. "
        "Add the pattern * for all the others."
    )
