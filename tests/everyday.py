"""What the tests of everyday use share: the rows of the README's table, a model, and what "works" means."""

import copy
import functools

import pytest
import torch
from torch import nn

import dni_fx
from dni_fx.decoupled import cutting_of
from tests.equality import assert_same, buffers_of, gradients, seeded
from tests.stirred import stir

PLAN = "at:after=2+5"


def row(name, verdict):
    """Mark a test as one that holds the project to a row of the table."""

    def mark(test):
        test.row = (name, verdict, "")
        return test

    return mark


def works(name):
    return row(name, "works")


def captures_again(name):
    return row(name, "captures again")


def refused(name, error, message):
    """Mark a test that shows a row to be refused: its last line raises this very message."""

    def mark(test):
        @functools.wraps(test)
        def wrapped(*args, **kwargs):
            with pytest.raises(error) as caught:
                test(*args, **kwargs)
            assert type(caught.value) is error
            assert str(caught.value) == message

        wrapped.row = (name, "refused", message)
        return wrapped

    return mark


def net():
    """Three linear layers with batch norm, in float64, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = (
            [nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh()],
            [nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Tanh()],
        )
        return nn.Sequential(*parts[0], *parts[1], nn.Linear(8, 4)).double()


def rows(count=5, seed=1):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, 6, dtype=torch.float64, generator=draw)


def pair(model=None, synthesizer="oracle", plan=PLAN, x=None):
    """A model, and a cut copy of it that sends true gradients."""
    model = net() if model is None else model
    example = (rows() if x is None else x,)
    return model, dni_fx.decouple(copy.deepcopy(model), example, plan=plan, synthesizer=synthesizer)


def learned(plan=PLAN, synthesizer="linear"):
    """A cut model whose synthesizers send something and learn."""
    return stir(pair(synthesizer=synthesizer, plan=plan)[1])


def assert_trains_alike(model, cut, x=None, tolerance=1e-10):
    """Outputs and buffers of both are equal, and so are the gradients but for the order of additions."""
    inputs = (rows() if x is None else x,)
    ours, theirs = gradients(cut, inputs), gradients(model, inputs)
    assert_same({key: value for key, value in ours.items() if not key.startswith("dni.")}, theirs, tolerance)
    assert_same(seeded(cut, inputs), seeded(model, inputs))
    assert_same(buffers_of(cut), buffers_of(model))


def grads_of(model):
    """The gradients that lie on the parameters of the model itself."""
    return {name: p.grad for name, p in model.named_parameters() if not name.startswith("dni.")}


def in_step(*models, steps=3, x=None, loss=None):
    """Train each of the models alike: SGD, a fresh optimizer, a loss that reads every output."""
    x = rows() if x is None else x
    for model in models:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(steps):
            optimizer.zero_grad()
            (loss or _loss)(model(x)).backward()
            optimizer.step()


def _loss(out):
    return (out - 0.3).square().mean()


def assert_goes_on_alike(one, other, steps=3):
    """Both take the same steps from here, bit for bit, their synthesizers included."""
    in_step(one, other, steps=steps)
    assert_same(dict(one.state_dict()), dict(other.state_dict()))


def captures(cut):
    """How many graphs were captured so far."""
    return len(cutting_of(cut).program.captures)
