"""What the user does by hand before and between the epochs of a training run: steps, and other modes."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni_fx

RUNTIMES = ["backprop", "local"]


def data():
    draw = torch.Generator().manual_seed(0)
    return torch.randn(8, 6, generator=draw), torch.randint(3, (8,), generator=draw)


def trainer_of(runtime="backprop", **options):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 8), nn.BatchNorm1d(8)
    )
    cut = dni_fx.decouple(net, plan="at:after=2", synthesizer="mlp")
    return dni_fx.Trainer(cut, **{"loss": F.cross_entropy, "runtime": runtime} | options)


class Noting(dni_fx.Callback):
    def __init__(self):
        self.told = []

    def step(self, trainer, record):
        self.told.append((record.step, trainer.steps))

    def state_dict(self):
        return {"told": list(self.told)}

    def load_state_dict(self, state):
        self.told = list(state["told"])


def some_by_hand(trainer, path=None):
    """Two steps, an epoch, one more step, and the rest from the file if there is one."""
    batches = [data()] * 3
    trainer.step(data()), trainer.step(data())
    trainer.fit(batches, 1, progress=False)
    trainer.step(data())
    if path is not None:
        trainer.save(path)
        trainer = trainer_of(trainer.runtime, callbacks=[Noting()])
        torch.manual_seed(99)
        trainer.fit(batches, 2, progress=False, checkpoint=path, resume=True)
        trainer = resumed(trainer, path)
    trainer.fit(batches, 3, progress=False)
    return trainer


def resumed(trainer, path):
    other = trainer_of(trainer.runtime, callbacks=[Noting()])
    other.load(path)
    return other


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_records_have_the_numbers_of_the_steps_and_a_run_that_is_resumed_the_same(runtime, tmp_path):
    """The history counted for itself, and lagged behind by the steps that were taken by hand."""
    whole, part = (
        some_by_hand(trainer_of(runtime, callbacks=[Noting()]), path) for path in (None, tmp_path / "a")
    )
    for trainer in (whole, part):
        numbers = [3, 4, 5, 7, 8, 9, 10, 11, 12]
        assert trainer.callbacks[0].told == [(number, number) for number in numbers]
        assert [record.step for record in trainer.history.records] == numbers
        assert trainer.steps == 12
    assert whole.history.records == part.history.records
    ours, theirs = part.cut.state_dict(), whole.cut.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_every_second_record_is_kept_whatever_the_numbers():
    trainer = trainer_of()
    trainer.history._most = 4
    batches = [data()]
    for epoch in range(1, 9):
        trainer.step(data())
        trainer.fit(batches, epoch, progress=False)
    assert [record.step for record in trainer.history.records] == [2, 6, 10, 14]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_parts_in_eval_mode_stay_there_when_the_model_comes_back_from_eval_mode(runtime):
    cut = trainer_of().cut
    frozen = cut[1].eval()
    trainer = dni_fx.Trainer(cut, loss=F.cross_entropy, runtime=runtime)
    before = copy.deepcopy(frozen.state_dict())

    def are_right():
        return [part for part in cut.modules() if not part.training] == [frozen]

    cut.eval()  # before the first step, the modes that it was made with count
    for _ in range(2):
        trainer.fit([data()] * 2, len(trainer.epochs) + 1, validation=[data()], progress=False)
        assert are_right()
        trainer.evaluate([data()])
        assert are_right()
        dni_fx.evaluate(cut, [data()], {"accuracy": dni_fx.accuracy})
        cut.eval()
        trainer.step(data())
        assert are_right()
    after = frozen.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in ("running_mean", "num_batches_tracked"))
    cut.eval(), frozen.train()
    trainer.step(data())
    assert frozen.training


def test_modes_that_are_changed_between_steps_count():
    trainer = trainer_of()
    trainer.step(data())
    trainer.cut[5].eval()
    trainer.step(data())
    trainer.cut.eval()
    trainer.step(data())
    assert [trainer.cut[at].training for at in (1, 3, 5)] == [True, True, False]
    trainer.cut.train()
    trainer.step(data())
    trainer.cut.eval()
    trainer.step(data())
    assert all(part.training for part in trainer.cut.modules())


def test_a_model_that_is_in_eval_mode_from_the_beginning_is_trained_whole():
    torch.manual_seed(0)
    cut = dni_fx.decouple(
        nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).eval(), plan="at:after=1"
    )
    dni_fx.Trainer(cut, loss=F.cross_entropy).step(data())
    assert all(part.training for part in cut.modules())
