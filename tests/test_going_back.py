"""A callback that goes back to a state of the run, wherever it is then, has the run go on from there."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni_fx
from dni_fx.training.checkpoint import read_checkpoint
from tests.processes import run_ranks
from tests.shared_runs import assert_equal_trees
from tests.test_resume import LOADERS, assert_same_run, run, trainer_of

WIDTH = 8


class GoingBack(dni_fx.Callback):
    """Keeps the state after the first epoch, and goes back to it for once after so many steps."""

    seen = ()

    def __init__(self, at):
        self.at, self.kept = at, None

    def epoch(self, trainer, number, epoch):
        if number == 1:
            self.kept = copy.deepcopy(trainer.state_dict())

    def step(self, trainer, record):
        if trainer.steps == self.at:
            self.at = 0
            trainer.load_state_dict(copy.deepcopy(self.kept))


@pytest.mark.parametrize("runtime", ["backprop", "local"])
@pytest.mark.parametrize("at", [9, 12], ids=["inside of an epoch", "at its end"])
@pytest.mark.parametrize("loader", LOADERS)
def test_it_is_the_run_that_never_was_elsewhere(loader, at, runtime, tmp_path):
    both = []
    for step in (0, at):
        both.append(trainer_of(runtime, callbacks=[GoingBack(step)]))
        run(both[-1], LOADERS[loader](), tmp_path / f"{step}.ckpt", every=2)
    assert_same_run(*both)


class Tied(nn.Module):
    """Three layers and the first one once more, which another process has."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x):
        for layer in (*self.layers, self.layers[0]):
            x = layer(x).tanh()
        return x


def gone_back(rank, runtime, at):
    """The losses of a run that goes back where gradients wait for more batches, and what it leaves."""
    torch.manual_seed(rank)
    cut = dni_fx.decouple(Tied(), plan="balanced:stages=4", synthesizer="linear")
    batches = [tuple(torch.randn(2, 4, WIDTH, generator=torch.Generator().manual_seed(n))) for n in range(6)]
    how = {"runtime": runtime, "accumulate": 4, "callbacks": [GoingBack(at)]}
    trainer = dni_fx.Trainer(cut, loss=F.mse_loss, **how)
    report = trainer.fit(batches, 3, progress=False)
    losses = [record.loss for record in report.history], [epoch.loss for epoch in report.epochs]
    return losses, {key: value.clone() for key, value in cut.state_dict().items()}


@pytest.mark.parametrize("runtime", ["distributed:lag=0", "distributed:lag=3,deterministic=true"])
def test_of_several_processes_all_go_back(runtime):
    """One waited for gradients that the first one had let go of; and those of what it lends stayed."""
    first, second = run_ranks(gone_back, 2, runtime, 0)
    assert_equal_trees(first, second)
    for at in (9, 11, 12):
        for each in run_ranks(gone_back, 2, runtime, at, seconds=40):
            assert_equal_trees(each, first)


def test_a_state_that_was_loaded_is_kept_as_it_was(tmp_path):
    """The place in the data and the random state were those of a run that had not begun."""

    class Stops(dni_fx.Callback):
        seen = ()

        def step(self, trainer, record):
            if record.step == 9:
                trainer.save(tmp_path / "first.ckpt")

    run(whole := trainer_of("local", callbacks=[Stops()]), LOADERS["shuffled"](), None)
    between = trainer_of("local", callbacks=[Stops()])
    between.load(tmp_path / "first.ckpt")
    between.save(tmp_path / "second.ckpt")
    assert_equal_trees(*(read_checkpoint(tmp_path / f"{name}.ckpt") for name in ("first", "second")))
    rest = trainer_of("local", callbacks=[Stops()])
    run(rest, LOADERS["shuffled"](), tmp_path / "second.ckpt")
    assert_same_run(rest, whole)
