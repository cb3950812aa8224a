"""Code that branches on numbers in tensors is captured one way at a time, and never runs the wrong one."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni_fx
from dni_fx.decoupled import cutting_of
from passes.branches import BranchError, follow, ways_of
from tests.equality import assert_same, buffers_of, gradients, objective, seeded
from tests.zoo.untraceable import BranchesOnData, DropsLayers, ReadsANumber

MODELS = [BranchesOnData, ReadsANumber, DropsLayers]
FRONTENDS = ["auto", "export", "dynamo"]
BATCHES = [(3, 0), (3, 1), (5, 2), (1, 3), (3, 4), (2, 5)]


class BranchesLate(nn.Module):
    """What a first try has drawn and counted must be taken back before the second."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.3)
        self.up, self.down, self.last = (nn.Linear(6, 6) for _ in range(3))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        x = self.drop(self.norm(self.first(x)))
        x = self.up(x) if x[0].sum() > 0 else torch.tanh(self.down(x))
        return self.last(F.dropout(x, 0.3, self.training))


class CallsOneLayerEarlyOrLate(nn.Module):
    def __init__(self):
        super().__init__()
        self.early, self.middle, self.both = (nn.Linear(6, 6) for _ in range(3))

    def forward(self, x):
        x = torch.tanh(self.early(x))
        if x.sum() > 0:
            x = torch.tanh(self.both(x))
        return self.both(torch.tanh(self.middle(x)))


def data(batch, seed):
    return torch.randn(batch, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def _same_weights():
    torch.manual_seed(0)


@pytest.mark.parametrize("frontend", FRONTENDS)
@pytest.mark.parametrize("make", MODELS)
def test_every_way_is_exact_with_gradients(make, frontend):
    model = make().double()
    cut = dni_fx.decouple(copy.deepcopy(model), plan="bottleneck", synthesizer="oracle", frontend=frontend)
    for batch, seed in BATCHES:
        x = data(batch, seed)
        for each in (model, cut):
            each.zero_grad(set_to_none=True)
        ours, theirs = seeded(cut, (x,), seed=seed), seeded(model, (x,), seed=seed)
        assert_same(ours, theirs)
        objective(ours).backward()
        objective(theirs).backward()
        own = {name: p.grad for name, p in cut.named_parameters() if not name.startswith("dni.")}
        assert_same(own, {name: p.grad for name, p in model.named_parameters()}, tolerance=1e-10)


@pytest.mark.parametrize("make", [BranchesLate, CallsOneLayerEarlyOrLate])
def test_a_try_that_takes_the_wrong_way_leaves_no_trace(make):
    model = make().double()
    cut = dni_fx.decouple(copy.deepcopy(model), plan="balanced:stages=3", synthesizer="oracle")
    for batch, seed in [(3, 0), (3, 1), (3, 2), (4, 3), (3, 4), (3, 5)]:
        x = data(batch, seed)
        ours, theirs = after_a_step(cut, x, seed), after_a_step(model, x, seed)
        assert_same(ours, theirs, tolerance=1e-10)
        assert_same(buffers_of(cut), buffers_of(model))
    assert len(cutting_of(cut).graphs) == 2


def after_a_step(model, x, seed):
    """The gradients of one step from this seed, and the random state that it leaves."""
    model.zero_grad(set_to_none=True)
    torch.manual_seed(seed)
    objective(model(x)).backward()
    own = {name: p.grad for name, p in model.named_parameters() if not name.startswith("dni.")}
    return own, torch.get_rng_state()


def test_a_known_way_costs_no_capture():
    model = BranchesOnData().double()
    cut = dni_fx.decouple(model, plan="bottleneck")
    for batch, seed in BATCHES * 2:
        cut(data(batch, seed))
    assert [capture.ways for _, capture in cutting_of(cut).program.captures] == [((1.0,),), ((0.0,),)]


def test_history_says_that_one_way_is_followed():
    program = dni_fx.capture(BranchesOnData().double(), (data(3, 0),))
    assert program.history[-1] == (
        "train: export: it follows 1 branch on data the way that the example takes"
    )
    ((_, capture),) = program.captures
    assert capture.ways == ways_of(capture.graph)


def test_the_local_runtime_knows_the_way_before_the_first_stage_steps():
    cut = dni_fx.decouple(BranchesLate().double(), plan="balanced:stages=3", synthesizer="zero")
    twin = copy.deepcopy(cut)
    batches = [(data(4, seed), data(4, seed + 10)) for seed in range(6)]

    def sgd(parameters):
        return torch.optim.SGD(parameters, lr=0.1)

    options = {"loss": F.mse_loss, "optimizer": sgd, "progress": False}
    torch.manual_seed(1)
    dni_fx.train(cut, batches, runtime="local", **options)
    torch.manual_seed(1)
    dni_fx.train(twin, batches, runtime="backprop", **options)
    assert_same(dict(cut.named_parameters()), dict(twin.named_parameters()), tolerance=1e-12)
    assert_same(buffers_of(cut), buffers_of(twin))
    assert cut.calls == 6


def test_many_ways_are_warned_of():
    class CountsUp(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x):
            return self.last(torch.tanh(self.first(x)) * x[0, 0].abs().round().item())

    cut = dni_fx.decouple(CountsUp().double(), plan="bottleneck", frontend="dynamo")
    batches = [torch.full((2, 6), float(number), dtype=torch.float64) for number in range(10)]
    for x in batches[:-1]:
        cut(x)
    with pytest.warns(UserWarning, match="CountsUp branches on data, and has been captured for 10 ways"):
        cut(batches[-1])


def test_a_file_holds_one_way_and_says_where_the_data_takes_another(tmp_path):
    model = BranchesOnData().double()
    inputs = {bool(torch.tanh(model.first(x)).sum() > 0): x for x in (data(3, seed) for seed in range(8))}
    cut = dni_fx.decouple(model, (inputs[True],), plan="bottleneck")
    dni_fx.save(cut, tmp_path / "cut.pt2")
    loaded = dni_fx.load(tmp_path / "cut.pt2")
    assert_same(loaded(inputs[True]), cut(inputs[True]))
    with pytest.raises(dni_fx.DniError) as caught:
        loaded(inputs[False])
    assert str(caught.value) == (
        "the graph captured by saved takes another way than this data: what the code branches on differs "
        "between two runs on the same input, or the graph comes from a file."
    )


def test_what_is_seen_differently_each_time_is_refused():
    class Flips(nn.Module):
        now = False

        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x):
            Flips.now = not Flips.now
            x = self.first(x)
            return self.last(x * 2 if x.sum() * (1 if Flips.now else -1) > 0 else x)

    cut = dni_fx.decouple(Flips().double(), (data(3, 0),), plan="bottleneck", frontend="export")
    with pytest.raises(dni_fx.DniError, match="what the code branches on differs between two runs"):
        cut(data(3, 0))


def test_follow_compares_numbers_and_takes_nan_for_equal():
    follow(torch.tensor([1.0, float("nan")]), [1.0, float("nan")], 0)
    with pytest.raises(BranchError) as caught:
        follow(torch.tensor([True, False]), [1.0, 1.0], 3)
    assert (caught.value.index, caught.value.found) == (3, (1.0, 0.0))
    assert str(caught.value) == (
        "the data takes another way: at branch 3 of the forward pass the code sees 1, 0, for which this "
        "graph was not captured. Run the model from its code, which captures one more graph."
    )


def test_eval_mode_takes_any_way():
    model = BranchesOnData().double().eval()
    cut = dni_fx.decouple(copy.deepcopy(model)).eval()
    for batch, seed in BATCHES:
        assert_same(cut(data(batch, seed)), model(data(batch, seed)))


def test_a_branch_in_a_submodule_is_kept_whole_and_cut_around():
    class Branches(nn.Module):
        def forward(self, x):
            return x if bool(x.sum() > 0) else -x

    model = nn.Sequential(nn.Linear(6, 6), Branches(), nn.Linear(6, 2)).double()
    cut = dni_fx.decouple(copy.deepcopy(model), plan="bottleneck", synthesizer="oracle")
    for batch, seed in BATCHES:
        assert_same(gradients(cut, (data(batch, seed),)), gradients(model, (data(batch, seed),)), 1e-10)
    assert len(cutting_of(cut).graphs) == 1
