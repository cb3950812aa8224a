"""Bugs of learning rates, their schedules and options in training runs that were found once."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni_fx

RUNTIMES = ["backprop", "local"]
SGD = partial(torch.optim.SGD, lr=0.1)
HALVED = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)


def data():
    draw = torch.Generator().manual_seed(0)
    return torch.randn(8, 6, generator=draw), torch.randn(8, 3, generator=draw)


def trainer_of(**options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    cut = dni_fx.decouple(net, plan="at:after=1", synthesizer="mlp")
    return dni_fx.Trainer(cut, **{"loss": F.mse_loss, "optimizer": SGD, "scheduler": HALVED} | options)


def rates(trainer):
    return {each.param_groups[0]["lr"] for each in trainer.worker.updates.optimizers.values()}


KINDS = {
    "plain": SGD,
    "fused": partial(torch.optim.SGD, lr=0.1, fused=True),
    "fused adam": partial(torch.optim.Adam, lr=0.1, fused=True),
}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_schedule_does_not_move_in_a_step_with_infinities(kind, runtime):
    """A scaler calls an optimizer that is fused, which then does nothing, and that counted as a step."""
    trainer = trainer_of(optimizer=KINDS[kind], runtime=runtime, autocast=torch.float16, clip=1.0)
    scaler = trainer.worker.updates.scaler
    scaler.load_state_dict(scaler.state_dict() | {"scale": 8.0})
    x, y = data()
    trainer.step((x, y))
    assert rates(trainer) == {0.05}
    before = copy.deepcopy(trainer.cut[2].state_dict())
    trainer.step((x, torch.full_like(y, 1e35)))
    last = list(trainer.worker.updates.optimizers.values())[-1]
    assert last.param_groups[0]["lr"] == 0.05
    assert all(torch.equal(value, trainer.cut[2].state_dict()[name]) for name, value in before.items())
    trainer.step((x, y))
    assert last.param_groups[0]["lr"] == 0.025


def test_the_milestones_of_a_schedule_are_in_a_checkpoint(tmp_path):
    """It refused the kind of dictionary that they are in."""
    steps = partial(torch.optim.lr_scheduler.MultiStepLR, milestones=[2, 4])
    whole = trainer_of(scheduler=steps)
    whole.fit([data()] * 3, 2, progress=False)
    for epochs in (1, 2):
        part = trainer_of(scheduler=steps)
        part.fit([data()] * 3, epochs, checkpoint=tmp_path / "a.ckpt", resume=True, progress=False)
    assert rates(part) == rates(whole) and max(rates(whole)) < 0.002
