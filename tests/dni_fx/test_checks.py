"""How far two gradients are apart."""

import math

import pytest
import torch

from dni_fx.apart import gap_of

ONE, NAN = torch.tensor([1.0, 0.0]), torch.tensor([math.nan, 0.0])


@pytest.mark.parametrize(
    ("ours", "theirs", "noise", "apart"),
    [
        (ONE, ONE, 0.0, 0.0),
        (ONE, ONE * 0.75, 0.0, 0.25),
        (ONE * 1e-19, ONE * -1e-19, 1e-16, 0.0),  # 0 by arithmetic: what is left of it has any sign
        (ONE * 1e-19, None, 1e-16, 0.0),
        (ONE, ONE * 0.75, 1e-16, 0.25),
        (ONE, None, 1e-16, math.inf),
        (None, ONE, 0.0, math.inf),
        (None, ONE * 0, 0.0, 0.0),
        (None, None, 0.0, 0.0),
        (NAN, None, 1e-16, math.inf),
        (ONE, NAN, 1e-16, math.inf),
    ],
)
def test_what_rounding_leaves_of_a_gradient_of_zero_is_no_difference(ours, theirs, noise, apart):
    assert gap_of(ours, theirs).relative(noise) == apart
