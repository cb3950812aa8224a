"""Processes that would not train one model in one way are refused in the first step at the latest."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import StepLR

import dni_fx
from tests.processes import run_ranks
from tests.shared_runs import CLASSES, WIDTH

OTHERS = {
    "clip": {"clip": 0.5},
    "optimizer": {"optimizer": partial(torch.optim.SGD, lr=0.2)},
    "scheduler": {"scheduler": partial(StepLR, step_size=3)},
    "labels_as_context": {"labels_as_context": False},
    "plan": {"plan": "at:after=2"},
    "what guesses at 1": {"interface": "dni:scale=0.5"},
    "layer 1": {"slope": 0.2},
    "layer 4": {"drop": 0.4},
    "dropout in stage 1": {"late": 0.4},
}
"""What differs, and the choice of the last process that makes it so."""


class Net(nn.Sequential):
    """Some layers, and dropout that is none."""

    def __init__(self, slope=0.1, drop=0.1, late=0.1):
        layers = [nn.Linear(WIDTH, WIDTH), nn.LeakyReLU(slope), nn.Linear(WIDTH, WIDTH), nn.Tanh()]
        super().__init__(*layers, nn.Dropout(drop), nn.Linear(WIDTH, CLASSES))
        self.late = late

    def forward(self, x):
        return F.dropout(super().forward(x), self.late, self.training)


def trained(rank, choice):
    """A run in which the last process has chosen something else; nobody makes weights like another one."""
    torch.manual_seed(rank)
    choice = dict(choice) if rank else {}
    net = Net(**{key: choice.pop(key) for key in {"slope", "drop", "late"} & choice.keys()})
    how = {key: choice.pop(key, default) for key, default in (("plan", "at:after=1"), ("interface", "dni"))}
    cut = dni_fx.decouple(net, synthesizer="linear", **how)
    given = {
        "optimizer": partial(torch.optim.SGD, lr=0.1),
        "scheduler": partial(StepLR, step_size=2),
        "labels_as_context": True,
    } | choice
    batch = torch.zeros(4, WIDTH), torch.zeros(4, dtype=torch.long)
    trainer = dni_fx.Trainer(cut, loss=F.cross_entropy, runtime="distributed:lag=0", **given)
    return trainer.fit([batch, batch], 1, progress=False).epochs[0].loss


@pytest.mark.parametrize("what", OTHERS)
def test_a_choice_of_one_process_alone_is_told_by_name_in_all(what):
    for each in run_ranks(trained, 2, OTHERS[what]):
        assert str(each).startswith("StageError: the processes do not train the same model in the same way")
        assert all(part in each for part in (f" {what}: ", "on rank 0", "on rank 1"))


def by_size(parameters):
    """An optimizer whose kind and rate are those that fit the parameters of one stage."""
    count = sum(each.numel() for each in parameters)
    return torch.optim.Adam(parameters, lr=1e-3) if count % 2 else torch.optim.SGD(parameters, lr=1 / count)


def trained_by_size(rank):
    cut = dni_fx.decouple(Net(), plan="at:after=1", synthesizer="linear")
    trainer = dni_fx.Trainer(cut, loss=F.cross_entropy, runtime="distributed", optimizer=by_size)
    batch = torch.zeros(4, WIDTH), torch.zeros(4, dtype=torch.long)
    return trainer.fit([batch], 1, progress=False).epochs[0].steps


def test_code_that_makes_other_optimizers_for_other_stages_is_no_difference():
    assert run_ranks(trained_by_size, 2) == [1, 1]
