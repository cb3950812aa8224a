"""Boundaries and learners to test synthesizers with."""

import dataclasses

import pytest
import torch

from dni_fx.errors import SynthesizerError
from dni_fx.synthesizers import Remembering
from passes import Anchor, BoundarySpec, ValueSpec


def spec_of(shape, feature_dim, *, classes=0, dtype=torch.float64, batch_dim=0, dims=None, count=1):
    sizes = tuple("b" if at == batch_dim else size for at, size in enumerate(shape)) if dims is None else dims
    value = ValueSpec(Anchor("encoder.layers.0"), shape, sizes, dtype, batch_dim, feature_dim)
    return BoundarySpec("encoder_layers_0", (value,) * count, 0, (1,), classes=classes, outputs=classes)


def joint(*specs):
    """A boundary that all their values cross together."""
    values = [
        dataclasses.replace(value, anchor=Anchor(f"encoder.layers.0#{at}"))
        for at, value in enumerate(value for spec in specs for value in spec.values)
    ]
    return dataclasses.replace(specs[0], values=tuple(values))


def built(choice, spec):
    """The learner, or a skipped test where the synthesizer refuses this kind of value."""
    try:
        return choice.build(spec)
    except SynthesizerError as error:
        if f" at {spec.name} (after {', '.join(value.anchor for value in spec.values)})" not in str(error):
            raise
        pytest.skip(str(error))


def guess_of(learner, value, context=None):
    """The gradient that is guessed for each sample of a value whose batch comes first."""
    guess = learner((value,), context)
    return guess.gradients[0] * (len(value) if guess.natural else 1)


def perturb(learner):
    """Move off the start, where every guess is zero whatever the input."""
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(torch.randn_like(parameter) / 4)
    return learner


def seasoned(learner, shapes, context=None):
    """Off its start in whatever it starts from: its parameters, and true gradients that it has heard of."""
    if isinstance(perturb(learner), Remembering):
        learner.remember(tuple(torch.randn(shape, dtype=torch.float64) for shape in shapes), context)
    return learner
