"""Stages on several processes learn what they learn in one."""

import pytest
import torch
from torch import nn

import dni_fx
from dni_fx.runtimes import RUNTIMES, Recipe
from passes import parse
from tests.conformance.test_runtimes import MODELS, sgd
from tests.processes import run_ranks
from tests.stirred import stirred_zoo


def loss_of(outputs, target):
    values = outputs if isinstance(outputs, tuple) else (outputs,)
    return sum((value - target).square().mean() for value in values)


def trained(name, runtime, how, steps=6):
    """The loss of each step, and the whole model at the end."""
    torch.manual_seed(0)
    cut, inputs = stirred_zoo(name, **how)
    worker = parse(runtime, RUNTIMES).start(cut, Recipe(loss_of, sgd))
    losses = []
    for step in range(steps):
        args = tuple(value * (1 + step) / 4 if value.is_floating_point() else value for value in inputs)
        losses.append(float(worker.step(args, {}, torch.full((), 0.3, dtype=torch.float64), None).loss))
    worker.gather()
    return losses, {key: value.clone() for key, value in cut.state_dict().items()}


def on_rank(rank, names, runtime, how):
    found = {}
    for name in names:
        try:
            found[name] = trained(name, runtime, how)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("interface", ["dni", "dni:window=2", "dni:warmup=3"])
def test_without_lag_each_step_equals_one_of_local(interface, ranks):
    how = {"plan": "balanced:stages=3", "interface": interface}
    found = run_ranks(on_rank, ranks, list(MODELS), "distributed:lag=0", how)
    for name in MODELS:
        losses, weights = trained(name, "local:streams=true", how)
        for rank, each in enumerate(found):
            assert not isinstance(each[name], str), (name, rank, each[name])
            theirs, state = each[name]
            assert (theirs == losses) is (rank == ranks - 1)
            for key, value in weights.items():
                assert torch.equal(value, state[key]), (name, rank, key)


REPLICAS = ["chain", "tied-layer", "frozen-layer", "early-output", "two-inputs", "own-parameters"]


def replicated(rank, names, how):
    """The losses and weights after steps in which each replica has its half of the samples."""
    found = {}
    for name in names:
        torch.manual_seed(0)
        cut, inputs = stirred_zoo(name, **how)
        worker = parse("distributed:lag=0,replicas=2", RUNTIMES).start(cut, Recipe(loss_of, sgd))
        target, losses = torch.full((), 0.3, dtype=torch.float64), []
        for step in range(6):
            args, kwargs, _ = worker.share((doubled(inputs, step), {}, target))
            losses.append(float(worker.step(args, kwargs, target, None).loss))
        worker.gather()
        found[name] = losses, {key: value.clone() for key, value in cut.state_dict().items()}
    return found


def doubled(inputs, step):
    """Twice as many samples, half of them others."""
    return tuple(
        torch.cat([x * (1 + step) / 4, x.flip(0) * 0.3]) if x.is_floating_point() else x for x in inputs
    )


@pytest.mark.parametrize("how", [{"interface": "dni:warmup=1000"}, {"synthesizer": "zero"}], ids=str)
def test_two_replicas_of_two_stages_equal_one_process(how):
    how = {"plan": "balanced:stages=3", **how}
    found = run_ranks(replicated, 4, REPLICAS, how)
    for name in REPLICAS:
        torch.manual_seed(0)
        cut, inputs = stirred_zoo(name, **how)
        worker = parse("local:streams=true", RUNTIMES).start(cut, Recipe(loss_of, sgd))
        target = torch.full((), 0.3, dtype=torch.float64)
        losses = [float(worker.step(doubled(inputs, step), {}, target, None).loss) for step in range(6)]
        for rank, each in enumerate(found):
            assert not isinstance(each, str), (rank, each)
            state = each[name][1]
            for key, value in dni_fx.recouple(cut).state_dict().items():
                torch.testing.assert_close(state[key], value, rtol=1e-10, atol=1e-12)
        halves = zip(found[1][name][0], found[3][name][0], strict=True)
        torch.testing.assert_close([(one + two) / 2 for one, two in halves], losses, rtol=1e-10, atol=1e-12)


class Twice(nn.Module):
    """One batch norm that is used before and after a layer."""

    def __init__(self):
        super().__init__()
        self.norm, self.layer = nn.BatchNorm1d(6), nn.Linear(6, 6)

    def forward(self, x):
        return self.norm(self.layer(self.norm(x)))


def tried(rank, model, after):
    x = torch.randn(8, 6)
    cut = dni_fx.decouple(model(), (x,), plan=f"at:after={after}")
    dni_fx.train(cut, [(x, x)], loss=loss_of, runtime="distributed", progress=False)


def test_a_buffer_that_stages_of_two_processes_write_to_is_refused():
    found = run_ranks(tried, 2, Twice, "layer")
    assert any("stages of several processes read norm." in each for each in found), found
    assert all(each.startswith("StageError") for each in found)


class Two(nn.Module):
    """Two layers with a buffer each."""

    def __init__(self):
        super().__init__()
        self.one, self.two = (nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)) for _ in range(2))

    def forward(self, x, scale=1.0):
        return self.two(self.one(x) * scale)


def held(rank, runtime):
    """Which weights of the model a process has memory for, before the first step and after each.

    Each scale is a graph of its own.
    """
    torch.manual_seed(rank)
    first = torch.full((8, 6), 0.5)
    cut = dni_fx.decouple(Two(), (first,), plan="at:after=one", synthesizer="linear")
    worker = parse(runtime, RUNTIMES).start(cut, Recipe(loss_of, sgd))
    found = [kept(cut)]
    for scale in (1.0, 1.0, 2.0, 1.0):
        worker.step((first, scale), {}, torch.ones(()), None)
        found.append(kept(cut))
    worker.gather()
    return [*found, kept(cut)], {key: value.clone() for key, value in cut.state_dict().items()}


def kept(cut):
    named = {**dict(cut.named_parameters()), **dict(cut.named_buffers())}
    large = {key: value for key, value in named.items() if value.numel() >= 6}  # no counters
    return sorted(key for key, value in large.items() if value.untyped_storage().nbytes() >= value.nbytes)


def test_a_process_has_memory_for_its_own_stages_alone():
    (first, mine), (second, theirs) = run_ranks(held, 2, "distributed:lag=2")
    everything = first[0]
    assert {"one.0.weight", "two.1.running_mean", "dni.one_1.optimizer.first_0"} < set(everything)
    assert first == [everything, *[[key for key in everything if "two." not in key]] * 4, everything]
    assert second == [everything, *[[key for key in everything if "two." in key]] * 4, everything]
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert mine.keys() == theirs.keys()
    assert all(bool(value.isfinite().all()) for value in mine.values())


class Branching(nn.Module):
    """Goes one way or another by what a layer has found."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        x = self.one(x)
        return self.two(x) if x.sum() > 0 else self.two(-x)


def test_code_that_branches_on_data_is_refused():
    found = run_ranks(tried, 2, Branching, "one")
    assert all("branches on data" in each for each in found), found


def test_more_processes_than_stages_are_refused():
    found = run_ranks(tried, 3, Two, "one")
    assert all("there are 3 processes for 2 stages" in each for each in found), found
