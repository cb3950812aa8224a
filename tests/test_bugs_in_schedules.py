"""Bugs of learning rates, their schedules and options in training runs that were found once."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni_fx
from dni_fx.errors import StageError
from tests import streams
from tests.equality import assert_same

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
    assert rates(part) == rates(whole)
    assert max(rates(whole)) < 0.002


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_options_of_a_checkpoint_that_are_not_those_asked_for_are_kept_and_told_once(runtime, tmp_path):
    """A run that was resumed with another learning rate kept the old one, and did not say so."""
    path = tmp_path / "a.ckpt"
    asked = {
        "optimizer": partial(torch.optim.SGD, lr=0.5, weight_decay=0.1),
        "scheduler": partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.9),
    }
    trainer_of(runtime=runtime).fit([data()] * 3, checkpoint=path, progress=False)
    says = (
        r"options of the checkpoint: lr=0.1 \(not 0.5\), weight_decay=0 \(not 0.1\), gamma=0.5 \(not 0.9\)\."
    )
    for epochs in (2, 3):
        part = trainer_of(runtime=runtime, **asked)
        with pytest.warns(UserWarning, match=says) as told:
            part.fit([data()] * 3, epochs, checkpoint=path, resume=True, progress=False)
        assert len(told) == 1
    whole = trainer_of(runtime=runtime)
    whole.fit([data()] * 3, 3, progress=False)
    ours, theirs = part.cut.state_dict(), whole.cut.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert rates(part) == rates(whole)


@pytest.mark.parametrize("name", ["OneCycleLR", "CyclicLR", "CosineAnnealingWarmRestarts", "LinearLR"])
def test_what_a_schedule_has_changed_since_is_not_taken_for_another_option(name, tmp_path):
    options = {
        "OneCycleLR": {"max_lr": 1.0, "total_steps": 20},
        "CyclicLR": {"base_lr": 0.1, "max_lr": 1.0},
        "CosineAnnealingWarmRestarts": {"T_0": 2},
        "LinearLR": {"total_iters": 3},
    }
    schedule = partial(getattr(torch.optim.lr_scheduler, name), **options[name])
    momentum = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    for epochs in (1, 2):
        trainer = trainer_of(optimizer=momentum, scheduler=schedule)
        trainer.fit([data()] * 3, epochs, checkpoint=tmp_path / "a.ckpt", resume=True, progress=False)
    assert trainer.steps == 6


@pytest.mark.parametrize("aux", [0.0, 0.1])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_rate_of_an_interface_is_that_of_the_step_whose_gradients_it_is_for(runtime, aux):
    """A plain loop updates a synthesizer with the next forward pass, and took the rate of that one."""
    (_, mine, _), (_, theirs, state) = (streams.made("lstm", interface=f"dni:aux={aux}") for _ in "ab")
    loss = lambda returned, y: streams.loss_of(returned[0], y)  # noqa: E731
    trainer, now = dni_fx.Trainer(mine, loss=loss, optimizer=streams.SGD, runtime=runtime), state()
    for number, batch in enumerate(streams.chunks(9)):
        for model in (mine, theirs):
            (dni,) = dni_fx.boundaries(model).values()
            dni.interface = dni_fx.Interface(aux=aux, lr=0.003 * 3 ** (number // 3))
        trainer.step(batch)
        now = streams.train(theirs, now, [batch])
    pairs = zip(dni_fx.recouple(mine).parameters(), dni_fx.recouple(theirs).parameters(), strict=True)
    for a, b in pairs:
        assert_same(a, b, 1e-12)


@pytest.mark.parametrize(
    "options", [{"epochs": 1.5}, {"epochs": -1}, {"every": 0.5, "checkpoint": "run.ckpt"}]
)
def test_parts_of_epochs_and_steps_are_refused(options, tmp_path, monkeypatch):
    """One and a half epochs were two."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StageError, match="are whole numbers, 0 or more"):
        trainer_of().fit([data()], progress=False, **options)
    with pytest.raises(StageError, match="are whole numbers, 0 or more"):
        dni_fx.train(trainer_of().cut, [data()], loss=F.mse_loss, progress=False, **options)
