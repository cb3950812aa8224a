"""Bugs of runs that fail on the way, and of what is then in their checkpoint, that were found once."""

from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import dni_fx
from dni_fx.errors import FileError, StageError

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
HALVED = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)


def data(count=40):
    draw = torch.Generator().manual_seed(0)
    return torch.randn(count, 6, generator=draw), torch.randint(3, (count,), generator=draw)


def loader():
    return DataLoader(TensorDataset(*data()), 8, shuffle=True)


def trainer_of(*callbacks, **options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 3))
    cut = dni_fx.decouple(net, plan="at:after=2", synthesizer="mlp")
    told = {"loss": F.cross_entropy, "optimizer": SGD, "scheduler": HALVED, "per_epoch": True} | options
    return dni_fx.Trainer(cut, callbacks=callbacks, **told)


class Counting(dni_fx.Callback):
    def __init__(self):
        self.epochs = []

    def epoch(self, trainer, number, epoch):
        self.epochs.append((number, epoch.steps, epoch.loss))

    def state_dict(self):
        return {"epochs": list(self.epochs)}

    def load_state_dict(self, state):
        self.epochs = [tuple(each) for each in state["epochs"]]


class Failing(dni_fx.Callback):
    def __init__(self, at):
        self.at = at

    def epoch(self, trainer, number, epoch):
        if number == self.at:
            raise MemoryError


def whole_run(runtime):
    whole = trainer_of(Counting(), Failing(0), runtime=runtime)
    whole.fit(loader(), 3, progress=False)
    return whole


def assert_same_run(ours, theirs):
    mine, other = ours.cut.state_dict(), theirs.cut.state_dict()
    assert all(torch.equal(mine[name], other[name]) for name in other)
    assert ours.history.records == theirs.history.records
    assert ours.callbacks[0].epochs == theirs.callbacks[0].epochs
    assert [epoch.steps for epoch in ours.epochs] == [5, 5, 5]
    for each in (ours, theirs):
        optimizers = each.worker.updates.optimizers.values()
        assert {optimizer.param_groups[0]["lr"] for optimizer in optimizers} == {0.1 / 8}


@pytest.mark.parametrize("runtime", ["backprop", "local"])
@pytest.mark.parametrize("validation", [None, [data()]])
@pytest.mark.parametrize("at", [1, 2])
def test_an_epoch_whose_callback_fails_is_kept_and_counted_once(at, validation, runtime, tmp_path):
    """Without validation it was lost; callbacks are told of it again, for they go back as well.

    With it, schedules by epochs of the local runtime, which are there after a batch, missed the epoch.
    """
    path, make = tmp_path / "a.ckpt", partial(trainer_of, runtime=runtime)
    with pytest.raises(MemoryError):
        make(Counting(), Failing(at)).fit(loader(), 3, checkpoint=path, validation=validation, progress=False)
    kept = make(Counting(), Failing(0))
    kept.load(path)
    assert (kept.steps, len(kept.epochs)) == (5 * at, at - 1)
    again = make(Counting(), Failing(0))
    torch.manual_seed(99)
    again.fit(loader(), 3, checkpoint=path, validation=validation, resume=True, progress=False)
    assert_same_run(again, whole_run(runtime))


def test_an_epoch_whose_observer_fails_twice_is_still_there(tmp_path):
    path = tmp_path / "a.ckpt"
    for _ in range(3):
        trainer = trainer_of(Counting(), Failing(1))
        with pytest.raises(MemoryError):
            trainer.fit(loader(), 3, checkpoint=path, resume=True, progress=False)
        assert trainer.steps == 5
    again = trainer_of(Counting(), Failing(0))
    again.fit(loader(), 3, checkpoint=path, resume=True, progress=False)
    assert_same_run(again, whole_run("backprop"))


def test_an_epoch_without_batches_leaves_the_checkpoint_as_it_was(tmp_path):
    """It was kept as an epoch that is through, and whatever the batches were then, it had none."""
    path, batches = tmp_path / "a.ckpt", [data(), data()]
    first = trainer_of()
    with pytest.raises(StageError, match="epoch 2 has no batch: the batches cannot be read a second time"):
        first.fit(iter(batches), 2, checkpoint=path, validation=[data()], progress=False)
    again = trainer_of()
    again.fit(batches, 2, checkpoint=path, validation=[data()], resume=True, progress=False)
    assert [epoch.steps for epoch in again.epochs] == [2, 2]
    with pytest.raises(StageError, match="epoch 1 has no batch: the batches are empty"):
        trainer_of().fit([], checkpoint=tmp_path / "b.ckpt", validation=[data()], progress=False)
    assert not (tmp_path / "b.ckpt").exists()


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize(
    ("name", "says"),
    [
        (".", "it is a folder. Name a file in it"),
        ("/dev/null", "it is a device or a pipe"),
        ("nowhere/a.ckpt", "No such file or directory"),
        ("file/a.ckpt", "Not a directory"),
    ],
)
def test_a_path_that_cannot_be_written_is_told_before_the_first_batch(name, says, resume, tmp_path):
    """Who was told that a folder is there already was to delete it."""

    def none():
        raise AssertionError("a batch was read")
        yield

    (tmp_path / "file").touch()
    with pytest.raises(FileError, match=f"cannot write .*{says}"):
        trainer_of().fit(none(), checkpoint=tmp_path / name, resume=resume, progress=False)
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize("by", ["place", "label"])
def test_a_synthesizer_whose_memory_has_grown_goes_on(by, tmp_path):
    """The state was refused as that of another model where the synthesizers were there already."""

    def run(epochs, **options):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        how = {"synthesizer": f"delayed:by={by}", "interface": "dni:classes=3"}
        cut = dni_fx.decouple(net, (torch.zeros(8, 6),), plan="at:after=1", **how)
        trainer = dni_fx.Trainer(cut, loss=F.cross_entropy, labels_as_context=True)
        trainer.fit(loader(), epochs, progress=False, **options)
        return cut.state_dict()

    whole, path = run(2), tmp_path / "run.ckpt"
    run(1, checkpoint=path)
    gone_on = run(2, checkpoint=path, resume=True)
    assert whole.keys() == gone_on.keys()
    assert all(torch.equal(value, gone_on[key]) for key, value in whole.items())
