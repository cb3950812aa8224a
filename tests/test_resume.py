"""A run that was stopped, anywhere, goes on as if nothing had happened."""

import multiprocessing
import os
import random
import signal
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler

import dni_fx
from dni_fx.errors import StageError

RUNTIMES = ["backprop", "local"]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(6, 8),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(8, 8),
            nn.Tanh(),
            nn.Linear(8, 3),
        )

    def forward(self, x):
        return self.layers(x)


class Noisy(Dataset):
    """Samples that are changed at random, by three generators, each time they are read."""

    def __len__(self):
        return 22

    def __getitem__(self, at):
        noise = torch.randn(6) + random.random() + float(np.random.rand())
        return torch.full((6,), float(at)) / 20 + noise, at % 3


class Stream(IterableDataset):
    def __iter__(self):
        return iter([Noisy()[at] for at in range(22)])


class Stated:
    """A loader that says where it is."""

    def __init__(self):
        self.at = 0

    def __iter__(self):
        while self.at < 6:
            self.at += 1
            yield torch.full((4, 6), self.at / 6), torch.tensor([0, 1, 2, self.at % 3])
        self.at = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state_dict):
        self.at = state_dict["at"]


class Ending(Stated):
    """One that is asked after a pass, and goes on there."""

    def state_dict(self):
        return {"at": self.at or 6}


LOADERS = {
    "shuffled": lambda: DataLoader(Noisy(), 4, shuffle=True),
    "own generator": lambda: DataLoader(Noisy(), 4, shuffle=True, generator=torch.Generator().manual_seed(5)),
    "with replacement": lambda: DataLoader(Noisy(), 4, sampler=RandomSampler(Noisy(), True, 22)),
    "list": lambda: [(torch.full((4, 6), at / 6) + torch.eye(4, 6), torch.arange(4) % 3) for at in range(6)],
    "stated": Stated,
    "ending": Ending,
}


def seeded():
    torch.manual_seed(0), random.seed(0), np.random.seed(0)


def trainer_of(runtime, **options):
    seeded()
    model = Net()
    plan = "at:after=layers.2+layers.5"
    cut = dni_fx.decouple(
        model, plan=plan, synthesizer="mlp", interface={"*5": "dni:lr=0", "*": "dni:warmup=2"}
    )
    schedule = lambda o: torch.optim.lr_scheduler.StepLR(o, 3, 0.5)  # noqa: E731
    options = {
        "loss": F.cross_entropy,
        "runtime": runtime,
        "scheduler": schedule,
        "labels_as_context": True,
    } | options
    return dni_fx.Trainer(cut, **options)


class StoppedError(Exception):
    pass


class Stopping(dni_fx.Callback):
    def __init__(self, at):
        self.at, self.seen = at, []

    def step(self, trainer, record):
        if record.step == self.at:
            raise StoppedError
        self.seen.append(record.loss)

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = list(state["seen"])


def run(trainer, loader, path, **options):
    held = [(torch.ones(4, 6), torch.tensor([0, 1, 2, 0]))]
    return trainer.fit(loader, 3, validation=held, checkpoint=path, resume=True, progress=False, **options)


def assert_same_run(ours, theirs):
    for (name, mine), (_, other) in zip(
        ours.cut.state_dict().items(), theirs.cut.state_dict().items(), strict=True
    ):
        assert torch.equal(mine, other), name
    strip = lambda epoch: {k: v for k, v in epoch.plain().items() if k != "seconds"}  # noqa: E731
    assert [strip(e) for e in ours.epochs] == [strip(e) for e in theirs.epochs]
    assert ours.history.records == theirs.history.records
    assert ours.steps == theirs.steps
    state, wanted = ours.worker.updates.state_dict(), theirs.worker.updates.state_dict()
    for mine, other in zip(tree_leaves(state), tree_leaves(wanted), strict=True):
        assert torch.equal(mine, other) if isinstance(mine, torch.Tensor) else mine == other
    assert [c.seen for c in ours.callbacks] == [c.seen for c in theirs.callbacks]


@pytest.mark.parametrize(
    ("runtime", "stop"), [("backprop", 3), ("local", 7), ("local", 14), ("local:update_probability=0.5", 7)]
)
@pytest.mark.parametrize("loader", LOADERS)
def test_it_ends_bit_equal_to_the_run_that_was_not_stopped(runtime, loader, stop, tmp_path):
    whole = trainer_of(runtime, callbacks=[Stopping(0)])
    run(whole, LOADERS[loader](), tmp_path / "whole.ckpt")
    first = trainer_of(runtime, callbacks=[Stopping(stop)])
    with pytest.raises(StoppedError):
        run(first, LOADERS[loader](), tmp_path / "part.ckpt", every=1)
    second = trainer_of(runtime, callbacks=[Stopping(0)])
    torch.manual_seed(99)  # what was drawn since is of no account
    run(second, LOADERS[loader](), tmp_path / "part.ckpt", every=1)
    assert_same_run(second, whole)
    assert len(second.epochs) == 3


def test_checkpoints_wait_for_the_step_that_uses_all_gradients(tmp_path):
    whole = trainer_of("local", accumulate=4)
    run(whole, LOADERS["list"](), tmp_path / "whole.ckpt", every=1)
    first = trainer_of("local", accumulate=4, callbacks=[Stopping(12)])
    first.callbacks[0].state_dict = dict
    with pytest.raises(StoppedError):
        run(first, LOADERS["list"](), tmp_path / "part.ckpt", every=1)
    second = trainer_of("local", accumulate=4, callbacks=[Stopping(0)])
    second.callbacks[0].load_state_dict = lambda state: None
    second.load(tmp_path / "part.ckpt")
    assert second.steps == 10  # six batches an epoch: four and the two that are left, and four more
    run(second, LOADERS["list"](), tmp_path / "part.ckpt", every=1)
    second.callbacks = []
    assert_same_run(second, whole)


def test_with_processes_that_read_ahead_it_is_the_same(tmp_path):
    make = lambda: DataLoader(Noisy(), 4, shuffle=True, num_workers=1)  # noqa: E731
    whole = trainer_of("backprop", callbacks=[Stopping(0)])
    run(whole, make(), tmp_path / "whole.ckpt")
    first = trainer_of("backprop", callbacks=[Stopping(9)])
    with pytest.raises(StoppedError):
        run(first, make(), tmp_path / "part.ckpt", every=1)
    second = trainer_of("backprop", callbacks=[Stopping(0)])
    run(second, make(), tmp_path / "part.ckpt", every=1)
    assert_same_run(second, whole)


def test_a_stream_goes_on_after_the_last_whole_epoch_and_says_so(tmp_path):
    loader = lambda: DataLoader(Stream(), 4)  # noqa: E731
    whole = trainer_of("backprop", callbacks=[Stopping(0)])
    run(whole, loader(), tmp_path / "whole.ckpt")
    first = trainer_of("backprop", callbacks=[Stopping(9)])
    with (
        pytest.raises(StoppedError),
        pytest.warns(
            UserWarning, match="a DataLoader cannot go on in the middle of an epoch, so checkpoints"
        ),
    ):
        run(first, loader(), tmp_path / "part.ckpt", every=1)
    second = trainer_of("backprop", callbacks=[Stopping(0)])
    run(second, loader(), tmp_path / "part.ckpt")
    assert_same_run(second, whole)


def test_what_cannot_go_on_in_the_middle_of_an_epoch_is_refused(tmp_path):
    first = trainer_of("backprop", callbacks=[Stopping(9)])
    with pytest.raises(StoppedError):
        run(first, LOADERS["shuffled"](), tmp_path / "part.ckpt", every=1)
    second = trainer_of("backprop", callbacks=[Stopping(0)])
    with pytest.raises(StageError, match="made after 2 batches of an epoch, and a loader of type DataLoader"):
        run(second, DataLoader(Stream(), 4), tmp_path / "part.ckpt")


def test_a_finished_run_is_not_run_again(tmp_path):
    run(trainer_of("local"), LOADERS["list"](), tmp_path / "a.ckpt")
    again = trainer_of("local")
    before = [p.clone() for p in again.cut.parameters()]
    assert len(run(again, LOADERS["list"](), tmp_path / "a.ckpt").epochs) == 3
    assert again.steps == 18
    assert not torch.equal(before[0], next(again.cut.parameters()))


class Slow(dni_fx.Callback):
    """Tells of every step, and takes its time."""

    def __init__(self, told):
        self.told = told

    def step(self, trainer, record):
        self.told.send(record.step)
        time.sleep(0.05)


def child(path, told=None):
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    trainer = trainer_of("local", callbacks=[] if told is None else [Slow(told)])
    run(trainer, LOADERS["shuffled"](), path, every=1)
    torch.save(trainer.cut.state_dict(), f"{path}.weights")


def started(path, told=None):
    process = multiprocessing.get_context("fork").Process(target=child, args=(path, told))
    process.start()
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 1), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_a_signal_leaves_a_checkpoint_of_the_very_step(number, code, tmp_path):
    here, there = multiprocessing.Pipe(duplex=False)
    process = started(tmp_path / "a.ckpt", there)
    steps = [here.recv() for _ in range(4)]
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == code
    while here.poll():
        steps.append(here.recv())
    state = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert state["steps"] == state["order"]["read"] == steps[-1] < 6
    here.close(), there.close()


def test_a_run_that_is_killed_twenty_times_ends_bit_equal(tmp_path):
    """Wherever it is killed, also while it writes, the checkpoint is whole, and no litter is left."""
    child(tmp_path / "whole.ckpt")
    draw, kills = random.Random(0), 0
    while kills < 20:
        process = started(tmp_path / "part.ckpt")
        process.join(draw.random() * 1.5)
        if process.exitcode is None:
            process.kill()
            kills += 1
        elif kills < 20:  # it came to the end too soon
            (tmp_path / "part.ckpt").unlink()
        process.join()
        if (tmp_path / "part.ckpt").exists():
            trainer_of("local").load(tmp_path / "part.ckpt")
    child(tmp_path / "part.ckpt")
    ours, theirs = (torch.load(f"{tmp_path}/{name}.ckpt.weights") for name in ("part", "whole"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"part.ckpt", "part.ckpt.weights", "whole.ckpt", "whole.ckpt.weights"}
