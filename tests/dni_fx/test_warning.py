"""A warning points at the line of the user's code that led to it."""

import inspect
import warnings

import pytest
import torch
import torch.nn.functional as F

import dni_fx
from tests.stirred import stirred_zoo


def poisoned():
    cut, (x,) = stirred_zoo("chain", plan="balanced:stages=3", synthesizer="linear", interface="dni:guard=4")
    with torch.no_grad():
        for parameter in next(iter(dni_fx.boundaries(cut).values())).learner.parameters():
            parameter.fill_(float("nan"))
    return cut, x


def last_line_of(function):
    lines, first = inspect.getsourcelines(function)
    return first + len(lines) - 1


def backward_by_hand(cut, x):
    for _ in range(4):
        cut(x).square().mean().backward()


def fit_by_trainer(cut, x):
    trainer = dni_fx.Trainer(cut, loss=F.mse_loss)
    trainer.fit([(x, x)] * 4, progress=False)


def train_stages(cut, x):
    dni_fx.train(cut, [(x, x)] * 4, loss=F.mse_loss, progress=False, runtime="local")


def keep_a_stream(cut, x, path="kept.ckpt"):
    dni_fx.train(cut, iter([(x, x)]), loss=F.mse_loss, progress=False, checkpoint=path, every=1)


@pytest.mark.parametrize("run", [backward_by_hand, fit_by_trainer, train_stages, keep_a_stream])
def test_it_is_the_innermost_line_outside_of_the_library_and_torch(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cut, x = poisoned()
    with pytest.warns(UserWarning, match="true gradients from now on|in the middle of an epoch") as found:
        run(cut, x)
    assert [(each.filename, each.lineno) for each in found] == [(__file__, last_line_of(run))] * len(found)


def test_where_nobody_outside_has_called_it_is_told_all_the_same():
    cut, x = poisoned()
    with pytest.warns(UserWarning, match="true gradients from now on"):
        dni_fx.train(cut, [(x, x)] * 4, loss=F.mse_loss, progress=False, runtime="local:overlap=true")


def test_the_filters_of_python_hold():
    cut, x = poisoned()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", "the synthetic gradients at", UserWarning, __name__)
        with pytest.raises(UserWarning, match="true gradients from now on"):
            backward_by_hand(cut, x)
