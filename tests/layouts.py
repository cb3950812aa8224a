"""Stages and ranks of any shape, and what they cost in whole numbers, so that times are exact."""

from hypothesis import strategies as st

from dni_fx.schedules.costs import StageCost
from dni_fx.schedules.layout import Connection, Layout

UNIT = StageCost(forward=1, backward=2, weight=1, saved=1)
"""A stage whose backward pass takes twice its forward pass, half of it for parameters."""


@st.composite
def layouts(draw):
    ranks = draw(st.integers(1, 4))
    stages = draw(st.integers(ranks, 6))
    chain = [(at, at + 1, True) for at in range(stages - 1)]
    skips = [
        (one, other, draw(st.booleans()))
        for one in range(stages)
        for other in range(one + 2, stages)
        if draw(st.booleans())
    ]
    sizes = st.integers(0, 5)
    connections = (Connection(each[0], each[1], draw(sizes), draw(sizes), each[2]) for each in chain + skips)
    return Layout(ranks, stages, tuple(connections))


def costs(layout):
    """Costs for each stage of a layout."""
    seconds = st.integers(0, 9)
    one = st.builds(
        lambda forward, rest, weight, guess, regress, step: StageCost(
            forward, rest + weight, weight, guess, regress, step, saved=3, guessed=1
        ),
        st.integers(1, 9),
        *[seconds] * 5,
    )
    return st.lists(one, min_size=layout.stages, max_size=layout.stages)
