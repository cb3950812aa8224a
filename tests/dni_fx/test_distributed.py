"""Stages on several processes learn what they learn in one."""

import pytest
import torch

from dni_fx.runtimes import RUNTIMES, Recipe
from passes import parse
from tests.processes import run_ranks
from tests.stirred import stirred_zoo

MODELS = [
    "chain",
    "residual",
    "skips-two-stages",
    "two-names",
    "tied-layer",
    "tied-weight",
    "frozen-layer",
    "early-output",
    "returns-what-crosses",
    "two-inputs",
    "chunk-and-cat",
    "masked",
    "in-place-relu",
    "in-place-add",
    "batch-norm",
    "own-parameters",
    "u-net",
]


def loss_of(outputs, target):
    values = outputs if isinstance(outputs, tuple) else (outputs,)
    return sum((value - target).square().mean() for value in values)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


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
    found = run_ranks(on_rank, ranks, MODELS, "distributed:lag=0", how)
    for name in MODELS:
        losses, weights = trained(name, "local:streams=true", how)
        for rank, each in enumerate(found):
            assert not isinstance(each[name], str), (name, rank, each[name])
            theirs, state = each[name]
            assert (theirs == losses) is (rank == ranks - 1)
            for key, value in weights.items():
                assert torch.equal(value, state[key]), (name, rank, key)
