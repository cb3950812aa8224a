"""Bugs of training runs that were found once, and why they were bugs."""

import copy
import os
import pathlib
import signal
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import dni_fx
from dni_fx.cli.data import Arrays
from dni_fx.errors import DniError, StageError

RUNTIMES = ["backprop", "local"]
SGD = partial(torch.optim.SGD, lr=0.1)


def data(count=40):
    draw = torch.Generator().manual_seed(0)
    return torch.randn(count, 6, generator=draw), torch.randint(3, (count,), generator=draw)


def cut_net(**options):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)
    )
    options = {"plan": "at:after=2", "synthesizer": "mlp"} | options
    return dni_fx.decouple(net, **options)


class Branching(nn.Module):
    """Runs `b` and `c` in the one order or in the other, or one of them, as the data say."""

    def __init__(self, both):
        super().__init__()
        self.a, self.b, self.c, self.o = (nn.Linear(6, 6) for _ in range(4))
        self.both = both

    def forward(self, x):
        x = torch.tanh(self.a(x))
        first, second = (self.b, self.c) if x.sum() > 0 else (self.c, self.b)
        x = torch.tanh(first(x))
        return self.o(torch.tanh(second(x)) if self.both else x)


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_what_the_first_graph_does_not_read_or_reads_elsewhere_is_trained_too(runtime, both):
    """The local runtime made its optimizers for the first graph, and stepped them by its stages."""
    torch.manual_seed(0)
    cut = dni_fx.decouple(Branching(both), plan="every:module=Linear", synthesizer="linear")
    with torch.no_grad():
        cut.a.bias.fill_(1.0), cut.a.weight.mul_(0.1)
    x, y = data()
    trainer = dni_fx.Trainer(cut, loss=F.cross_entropy, optimizer=SGD, runtime=runtime)
    for _ in range(6):
        trainer.step((x, y))  # one way
    before = copy.deepcopy(cut.state_dict())
    with torch.no_grad():
        cut.a.bias.fill_(-1.0)
    for _ in range(6):
        trainer.step((x, y))  # the other way
    moved = {n for n in "abco" if not torch.equal(cut.state_dict()[f"{n}.weight"], before[f"{n}.weight"])}
    assert moved == (set("abco") if both else set("aco"))
    assert all(p.grad is None for p in dni_fx.recouple(cut).parameters())


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_what_is_thawed_or_replaced_later_is_trained_too(runtime):
    cut = cut_net()
    cut[0].weight.requires_grad_(False)
    x, y = data()
    trainer = dni_fx.Trainer(cut, loss=F.cross_entropy, optimizer=SGD, runtime=runtime)
    trainer.fit([(x, y)], progress=False)
    cut[0].weight.requires_grad_(True)
    cut[3] = nn.Linear(8, 8)
    before = copy.deepcopy(cut.state_dict())
    trainer.fit([(x, y)] * 3, 2, progress=False)
    for name in ("0.weight", "3.weight", "5.weight"):
        assert not torch.equal(cut.state_dict()[name], before[name]), name


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_synthesizers_without_an_optimizer_of_their_own_learn_in_a_model_that_is_cut_later(runtime):
    """The optimizer of backprop was made before the first batch, when there were none."""
    cut = cut_net(interface="dni:lr=0")
    x, y = data()
    dni_fx.train(cut, [(x, y)] * 4, loss=F.cross_entropy, optimizer=SGD, runtime=runtime, progress=False)
    (dni,) = dni_fx.boundaries(cut).values()
    assert dni.learner.last.weight.any()
    assert all(p.grad is None for p in dni.learner.parameters())


class Interrupting(dni_fx.Callback):
    def __init__(self, at):
        self.at = at

    def step(self, trainer, record):
        if trainer.steps == self.at:
            os.kill(os.getpid(), signal.SIGINT)


LOADERS = {
    "arrays": lambda: Arrays(*data(), 8, seed=0),
    "shuffled": lambda: DataLoader(TensorDataset(*data()), 8, shuffle=True),
}


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("at", [5, 7, 10])
def test_an_epoch_that_ends_with_the_step_that_was_interrupted_is_no_longer_than_others(loader, at, tmp_path):
    """What reads arrays said after the last batch that it was at the start of the next pass."""
    path = tmp_path / "run.ckpt"
    first = dni_fx.Trainer(cut_net(), loss=F.cross_entropy, callbacks=[Interrupting(at)])
    with pytest.raises(KeyboardInterrupt):
        first.fit(LOADERS[loader](), 3, checkpoint=path, resume=True, progress=False)
    second = dni_fx.Trainer(cut_net(), loss=F.cross_entropy, callbacks=[Interrupting(0)])
    second.fit(LOADERS[loader](), 3, checkpoint=path, resume=True, progress=False)
    torch.manual_seed(0)
    whole = dni_fx.Trainer(cut_net(), loss=F.cross_entropy)
    whole.fit(LOADERS[loader](), 3, progress=False)
    assert [epoch.steps for epoch in second.epochs] == [5, 5, 5]
    ours, theirs = second.cut.state_dict(), whole.cut.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_that_is_interrupted_in_its_validation_has_its_epoch(tmp_path):
    def held():
        os.kill(os.getpid(), signal.SIGINT)
        yield data()
        raise AssertionError("went on")

    class Held:
        __iter__ = staticmethod(held)

    path = tmp_path / "run.ckpt"
    with pytest.raises(KeyboardInterrupt):
        dni_fx.Trainer(cut_net(), loss=F.cross_entropy).fit(
            LOADERS["shuffled"](), validation=Held(), checkpoint=path, progress=False
        )
    trainer = dni_fx.Trainer(cut_net(), loss=F.cross_entropy)
    trainer.load(path)
    assert (trainer.steps, trainer.epochs) == (5, [])
    trainer.fit(LOADERS["shuffled"](), validation=[data()], checkpoint=path, resume=True, progress=False)
    assert (trainer.steps, [epoch.steps for epoch in trainer.epochs]) == (5, [5])


@pytest.mark.parametrize("value", [np.float64(1.0), np.zeros(2), pathlib.Path("a"), {1: [object()]}])
def test_a_state_that_could_not_be_read_back_is_refused_when_it_is_written(value, tmp_path):
    """It was written, and called damaged when the run was to go on."""

    class Keeping(dni_fx.Callback):
        def state_dict(self):
            return {"best": value}

    trainer = dni_fx.Trainer(cut_net(), loss=F.cross_entropy, callbacks=[Keeping()])
    says = r"cannot keep the run: the state\['callbacks'\]\[0\]\['best'\].* is a (float64|ndarray|Posix|obj)"
    with pytest.raises(StageError, match=says):
        trainer.fit([data()], checkpoint=tmp_path / "a.ckpt", progress=False)


def test_a_pass_that_was_broken_off_is_no_part_of_the_next_one():
    cut, (x, y) = cut_net(), data()

    def broken():
        yield x, y
        yield x, y
        raise MemoryError

    trainer = dni_fx.Trainer(cut, loss=F.cross_entropy, accumulate=4)
    with pytest.raises(MemoryError):
        trainer.fit(broken(), progress=False)
    assert trainer.fit([(x, y)] * 5, progress=False).epochs[0].steps == 5


def test_a_batch_that_fails_is_none_of_those_that_are_added():
    x, y = data()
    ours, theirs = (dni_fx.Trainer(cut_net(), loss=F.cross_entropy, accumulate=2) for _ in range(2))
    for trainer in (ours, theirs):
        torch.manual_seed(1)
        trainer.step((x, y))
        if trainer is ours:
            with pytest.raises(RuntimeError):
                trainer.step((x[:, :5], y))
        torch.manual_seed(2)
        trainer.step((x, y))
    for mine, other in zip(ours.cut.parameters(), theirs.cut.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_a_copied_trainer_moves_its_own_schedule():
    schedule = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    trainer = dni_fx.Trainer(cut_net(), loss=F.cross_entropy, optimizer=SGD, scheduler=schedule)
    trainer.step(data())
    twin = copy.deepcopy(trainer)
    twin.step(data())
    rates = [each.worker.updates.optimizers["model"].param_groups[0]["lr"] for each in (trainer, twin)]
    assert rates == [0.05, 0.025]


def test_batches_of_another_loader_or_fewer_of_them_are_refused(tmp_path):
    path = tmp_path / "run.ckpt"
    first = dni_fx.Trainer(cut_net(), loss=F.cross_entropy, callbacks=[Interrupting(3)])
    with pytest.raises(KeyboardInterrupt):
        first.fit([data()] * 5, checkpoint=path, progress=False)
    for batches, says in [
        ([data()] * 2, "made after 3 batches of an epoch, and now there are fewer"),
        (Arrays(*data(), 8), "made with a loader without a state_dict"),
        (
            DataLoader(TensorDataset(*data()), 8, generator=torch.Generator()),
            "a loader of 0 random generators, and this one has 1",
        ),
    ]:
        again = dni_fx.Trainer(cut_net(), loss=F.cross_entropy, callbacks=[Interrupting(0)])
        with pytest.raises(StageError, match=says):
            again.fit(batches, checkpoint=path, resume=True, progress=False)


@pytest.mark.parametrize("batch", [{"x": 1, "y": 2}, "ab"])
def test_two_keys_are_no_pair(batch):
    with pytest.raises(StageError, match=r"a batch is a pair \(inputs, targets\)"):
        dni_fx.Trainer(cut_net(), loss=F.cross_entropy).step(batch)


def test_a_model_that_is_not_cut_is_refused():
    with pytest.raises(DniError, match=r"a Linear is not cut: pass dni_fx\.decouple"):
        dni_fx.Trainer(nn.Linear(2, 2), loss=F.cross_entropy)


def test_nothing_to_validate_on_is_told():
    trainer = dni_fx.Trainer(cut_net(), loss=F.cross_entropy)
    with pytest.raises(StageError, match="epoch 2 has no batch to validate on"):
        trainer.fit([data()], 2, validation=iter([data()]), progress=False)
