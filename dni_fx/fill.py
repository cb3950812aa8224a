"""Put a synthetic-gradient node in each boundary."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

import torch
from torch import nn

from dni_fx.dni import DNI, Step
from dni_fx.errors import SynthesizerError
from dni_fx.interface import Interface
from dni_fx.synthesizers import Synthesizer
from passes import BoundarySpec

Choice = Synthesizer | Mapping[str, Synthesizer]
"""One synthesizer for every boundary, or one for each pattern of boundary names."""


def fill(choice: Choice, interface: Interface, container: nn.Module, spec: BoundarySpec, step: Step) -> None:
    """Put a fresh DNI for one boundary into the container. Random state is left as it was.

    Raises:
        SynthesizerError: no pattern matches the boundary, or the synthesizer refuses it.
    """
    synthesizer = chosen(choice, spec)
    with torch.random.fork_rng(devices=[]):
        container.add_module(spec.name, DNI(spec, synthesizer, interface, step))


def chosen(choice: Choice, spec: BoundarySpec) -> Synthesizer:
    """The synthesizer for a boundary: of the first pattern that matches its name."""
    if isinstance(choice, Synthesizer):
        return choice
    for pattern, synthesizer in choice.items():
        if fnmatchcase(spec.name, pattern):
            return synthesizer
    raise SynthesizerError(
        f"no synthesizer was chosen for the boundary {spec.name}: it matches none of {', '.join(choice)}. "
        "Add the pattern * for all the others."
    )
