"""A graph runs only at the sizes that it is right for; for others there is another graph."""

import copy

import pytest
import torch
from torch import nn

import dni_fx
from dni_fx.decoupled import cutting_of
from dni_fx.sizes import Sizes
from tests.equality import assert_same


class AsksForTheBatch(nn.Module):
    """More of the same at large batches, something else at even ones and at one sample."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        x = self.first(x)
        if x.shape[0] > 4:
            x = x * 2
        if x.shape[0] % 2 == 0:
            x = x * 3
        if x.shape[0] == 1:
            x = -x
        return self.last(torch.tanh(x))


class Positions(nn.Module):
    """Adds a vector for each position, so a length is asked for in numbers."""

    def __init__(self):
        super().__init__()
        self.tokens, self.places, self.last = nn.Embedding(11, 8), nn.Embedding(32, 8), nn.Linear(8, 11)
        self.register_buffer("order", torch.arange(32))

    def forward(self, ids):
        if ids.shape[1] > 32:
            raise ValueError("too long")
        x = torch.tanh(self.tokens(ids) + self.places(self.order[: ids.shape[1]]))
        return self.last(x.cumsum(1))


def captures(cut):
    return cutting_of(cut).program.captures


@pytest.mark.parametrize("frontend", ["auto", "export", "dynamo"])
def test_a_branch_on_the_batch_size_is_never_taken_for_another_size(frontend):
    model = AsksForTheBatch().double()
    cut = dni_fx.decouple(copy.deepcopy(model), plan="bottleneck", frontend=frontend)
    for batch in (6, 8, 3, 5, 1, 4, 2, 7, 1):
        x = torch.randn(batch, 6, dtype=torch.float64)
        assert_same(cut(x), model(x))
    assert len(captures(cut)) == 5  # even and odd, small and large, and one


@pytest.mark.parametrize("frontend", ["export", "dynamo"])
@pytest.mark.parametrize("first", [1, 2, 3])
def test_one_graph_serves_every_batch_size_from_any_example(frontend, first):
    model = Positions().double()
    cut = dni_fx.decouple(copy.deepcopy(model), plan="bottleneck", frontend=frontend)
    for batch in (first, 1, 2, 3, 7):
        ids = torch.randint(11, (batch, 5))
        assert_same(cut(ids), model(ids))
    assert len(captures(cut)) == 1


@pytest.mark.parametrize("frontend", ["export", "dynamo"])
def test_a_length_that_is_seen_to_vary_is_captured_open_once(frontend):
    model = Positions().double()
    cut = dni_fx.decouple(copy.deepcopy(model), plan="bottleneck", frontend=frontend)
    for batch, length in [(3, 5), (3, 7), (2, 9), (7, 4), (1, 1), (3, 32)]:
        ids = torch.randint(11, (batch, length))
        assert_same(cut(ids), model(ids))
    assert len(captures(cut)) == 2


def test_sizes_admit_what_they_ask_for():
    sizes = Sizes(((None, 3),), "L['t0'].size()[0] > 4")
    assert sizes.admit([torch.zeros(5, 3)])
    assert not sizes.admit([torch.zeros(4, 3)])
    assert not sizes.admit([torch.zeros(5, 2)])
    assert not sizes.admit([torch.zeros(5, 3, 1)])
    assert Sizes().admit([torch.zeros(1)])
    assert sizes.is_open
    assert not Sizes(((4, 3),)).is_open


@pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated:DeprecationWarning")
def test_a_compiled_cut_does_not_take_a_graph_for_another_size():
    model = AsksForTheBatch().double()
    cut = dni_fx.decouple(copy.deepcopy(model), (torch.randn(6, 6, dtype=torch.float64),), plan="bottleneck")
    compiled = torch.compile(cut, backend="eager")
    for batch in (6, 8, 3, 5, 3, 6):
        x = torch.randn(batch, 6, dtype=torch.float64)
        assert_same(compiled(x), model(x))
