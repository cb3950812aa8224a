"""One test for each branch on data that was once taken the wrong way, or not at all."""

import copy
import pickle

import pytest
import torch
from torch import nn

import dni_fx
from dni_fx.decoupled import cutting_of
from dni_fx.errors import CaptureError
from tests.equality import assert_same, gradients, seeded
from tests.zoo.untraceable import BranchesOnData


class Two(nn.Module):
    """Two layers, with code between them."""

    def __init__(self, between):
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 6)
        self.between = between

    def forward(self, x):
        return self.last(self.between(torch.tanh(self.first(x)), x))


def data(seed, batch=4):
    return torch.randn(batch, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@torch._dynamo.disable
def equal(h, x):
    return h * 2 if torch.equal(x, x.abs()) else h


@torch._dynamo.disable
def written(h, x):
    return h * float(f"{h[0, 0]:.0f}")


@torch._dynamo.disable
def contained(h, x):
    return h * 2 if 2.0 in x else h


@pytest.mark.parametrize(
    ("between", "name"), [(equal, "equal"), (written, "__format__"), (contained, "__contains__")]
)
def test_dynamo_refuses_what_no_graph_can_look_at_again(between, name):
    """It was taken for a fact that holds for ever."""
    with pytest.raises(CaptureError) as caught:
        dni_fx.capture(Two(between).double(), (data(0),), frontend="dynamo")
    assert str(caught.value) == (
        f"Python asks a tensor for a number ({name}) in a way that no graph can look at again; compare "
        "tensors by operations, and branch on the result"
    )


@torch._dynamo.disable
def by_type(h, x):
    return h * 2 if x.is_floating_point() and not h.is_complex() else h


def test_dynamo_lets_python_ask_for_the_type_of_a_tensor():
    """The question was refused like one for a number; another type is captured by itself."""
    model = Two(by_type).double()
    cut = dni_fx.decouple(copy.deepcopy(model), plan="bottleneck", frontend="dynamo")
    for seed in range(2):
        assert_same(cut(data(seed)), model(data(seed)))
    assert len(cutting_of(cut).graphs) == 1


def by_count(h, x):
    found = (x > 1).nonzero()
    return h * 2 if len(found) > 3 else h - 1


def by_mask(h, x):
    chosen = h[x[:, 0] > 0]
    return h + chosen.sum() / max(chosen.shape[0], 1)


@pytest.mark.parametrize("between", [by_count, by_mask])
@pytest.mark.parametrize("frontend", ["dynamo", "auto"])
def test_sizes_that_depend_on_numbers_are_looked_at_again(between, frontend):
    """The size of what `nonzero` found in the example was taken for that of all data."""
    torch.manual_seed(0)
    model = Two(between).double()
    cut = dni_fx.decouple(copy.deepcopy(model), plan="bottleneck", synthesizer="oracle", frontend=frontend)
    for seed in range(6):
        assert_same(gradients(cut, (data(seed),)), gradients(model, (data(seed),)), tolerance=1e-10)


class BranchesWithoutGradient(nn.Module):
    """The branch is in a region of its own, whose graph nobody looked into."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        h = torch.tanh(self.first(x))
        with torch.no_grad():
            factor = h.mean() * 2
            if h.sum() > 0:
                factor = factor + 1
        return self.last(h * factor)


class BranchesTwice(nn.Module):
    """The second branch is on an input, so it could be looked at before the first."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(6, 6) for _ in range(3))

    def forward(self, x):
        h = self.b(torch.tanh(self.a(x)))
        if h.sum() > 0:
            h = h * 2
        if x.sum() > 0:
            h = h * 3
        return self.c(h)


@pytest.mark.parametrize("make", [BranchesWithoutGradient, BranchesTwice])
@pytest.mark.parametrize("frontend", ["export", "dynamo"])
def test_every_way_is_found(make, frontend):
    torch.manual_seed(0)
    model = make().double()
    cut = dni_fx.decouple(copy.deepcopy(model), plan="bottleneck", synthesizer="oracle", frontend=frontend)
    for seed in range(8):
        assert_same(gradients(cut, (data(seed),)), gradients(model, (data(seed),)), tolerance=1e-10)
    assert len(cutting_of(cut).graphs) > 1


def two_ways(model):
    """Data that takes one way, and data that takes the other."""
    found = {bool(torch.tanh(model.first(data(seed))).sum() > 0): data(seed) for seed in range(12)}
    return found[True], found[False]


def test_a_pickled_cut_goes_on_by_another_way():
    """Its plan was held against the graph of the other way, and refused."""
    model = BranchesOnData().double()
    one, other = two_ways(model)
    cut = dni_fx.decouple(model, (one,), plan="bottleneck")
    again = pickle.loads(pickle.dumps(cut))
    for x in (other, one):
        assert_same(seeded(again, (x,)), seeded(model, (x,)))


def test_a_file_of_a_model_that_went_several_ways_can_be_read(tmp_path):
    """It named the synthesizers of all ways, and its graph has the boundaries of one."""

    class CutsDiffer(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.up, self.down, self.last = (nn.Linear(6, 6) for _ in range(4))

        def forward(self, x):
            x = torch.tanh(self.first(x))
            return self.last(torch.tanh(self.up(x)) if x.sum() > 0 else torch.sigmoid(self.down(x)))

    model = CutsDiffer().double()
    one, other = two_ways(model)
    cut = dni_fx.decouple(model, (one,), plan="bottleneck:stages=3", synthesizer="linear")
    for x in (one, other):
        cut(x).sum().backward()
    with pytest.warns(UserWarning, match="holds one way through the model, and not the synthesizers of"):
        dni_fx.save(cut, tmp_path / "cut.pt2")
    assert_same(dni_fx.load(tmp_path / "cut.pt2")(one), cut(one))


def test_an_output_that_no_graph_can_make_is_named():
    """What a front-end said was a NameError in the code of a graph."""

    class Cache:
        def __init__(self, value):
            self.value = value

    class Caches(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(6, 6)

        def forward(self, x):
            h = self.first(x)
            return h, Cache(h)

    with pytest.raises(CaptureError) as caught:
        dni_fx.capture(Caches().double(), (data(0),))
    assert str(caught.value) == (
        "cannot capture Caches: it returns a Cache, and no graph can make another. Call it so that it does "
        "not (without a cache, say), or return tensors, plain values, and lists, tuples, dictionaries or "
        "data classes of them."
    )
