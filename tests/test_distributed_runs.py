"""A run of several processes is the same run as one of a single process, and ends as well."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni_fx
from dni_fx.training.checkpoint import read_checkpoint
from tests.processes import run_ranks
from tests.shared_runs import (
    CLASSES,
    WIDTH,
    assert_equal_trees,
    fitted,
    loader,
    net,
    on_rank,
    same,
    trainer_of,
)


@pytest.mark.parametrize("options", [{}, {"accumulate": 4, "clip": 0.5}])
def test_a_run_without_lag_is_that_of_local_with_all_its_figures(options):
    alone = fitted("local:streams=true", **options)
    for each in run_ranks(on_rank, 2, "distributed:lag=0", 2, options):
        same(alone, each)


def test_replicas_have_one_model_and_one_report_in_the_end():
    found = run_ranks(on_rank, 4, "distributed:replicas=2,lag=1", 2, {"accumulate": 4})
    for each in found[1:]:
        same(found[0], each)
    alone = fitted("local:streams=true", accumulate=4)
    assert [step for step, _, _ in found[0][1]] == [step for step, _, _ in alone[1]]
    assert abs(found[0][0][-1][0] - alone[0][-1][0]) < 0.1


def test_with_lag_and_deterministic_a_run_can_be_repeated():
    first, again = (run_ranks(on_rank, 3, "distributed:lag=2,deterministic=true", 2, {}) for _ in range(2))
    same(first[0], again[0])
    same(first[0], first[2])
    alone = fitted("local:streams=true")
    assert first[0][0] != alone[0]
    assert abs(first[0][0][-1][0] - alone[0][-1][0]) < 0.2


class Sum(nn.Module):
    """The first input goes through all layers, the second one comes in late."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x, late):
        for at, layer in enumerate(self.layers):
            x = layer(x + late if at == 2 else x).tanh()
        return x


def fed(rank, runtime, labels):
    """Which tensors of each batch have memory in a process, and the loss of each epoch."""
    torch.manual_seed(0)
    both = torch.randn(2, 20, WIDTH)
    y = torch.randint(CLASSES, (20,))
    cut = dni_fx.decouple(Sum(), (both[0], both[1]), plan="at:after=layers.0+layers.1", synthesizer="zero")
    trainer = dni_fx.Trainer(cut, loss=F.cross_entropy, runtime=runtime, labels_as_context=labels)
    once, found = trainer.train_on, []

    def train_on(batch):
        found.append([t.untyped_storage().nbytes() >= t.nbytes for t in (*batch.args, batch.target)])
        return once(batch)

    trainer.train_on = train_on
    batches = [((both[0][:size], both[1][:size]), y[:size]) for size in (20, 20, 20, 12)]
    return found, [each.loss for each in trainer.fit(batches, 2, progress=False).epochs]


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_process_gets_of_a_batch_what_its_stages_need(labels, replicas):
    found = run_ranks(fed, 3 * replicas, f"distributed:lag=0,replicas={replicas}", labels)
    alone = fed(0, "local:streams=true", labels)
    new, all_there = {0, 3, 4, 7}, [True, True, True]  # steps whose batches are not like the ones before
    for rank, (there, losses) in enumerate(found):
        needed = [[True, False, labels], [False, False, labels], [False, True, True]][rank % 3]
        needed = needed if rank else all_there  # this one reads the data
        assert there == [all_there if step in new else needed for step in range(8)], rank
        assert losses == (alone[1] if replicas == 1 else pytest.approx(alone[1], rel=1e-5)), rank


class Sequences(nn.Module):
    """Asks for the length of its input, which torch.export traces."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        return self.two(self.one(x if x.shape[1] < 100 else x[:, :100]).tanh()).mean(1)


def read(rank, runtime):
    """The losses of a run on sequences of several lengths, of which one process has no more than the form."""
    torch.manual_seed(0)
    lengths = (5, 5, 7, 7, 9, 9)
    batches = [(torch.randn(8, length, WIDTH), torch.randint(CLASSES, (8,))) for length in lengths]
    cut = dni_fx.decouple(Sequences(), plan="at:after=one", synthesizer="zero", frontend="export")
    trainer = dni_fx.Trainer(cut, loss=F.cross_entropy, runtime=runtime)
    return [each.loss for each in trainer.fit(batches, 2, progress=False).epochs]


@pytest.mark.parametrize("replicas", [1, 2])
def test_who_reads_other_parts_of_a_batch_or_none_goes_on_with_the_same_graph(replicas):
    """Where the part began, and that nothing was there, was found to be another form."""
    alone = read(0, "local:streams=true")
    for each in run_ranks(read, 2 * replicas, f"distributed:lag=0,replicas={replicas}"):
        assert each == (alone if replicas == 1 else pytest.approx(alone, rel=1e-5)), each


class Reads(dni_fx.Callback):
    """Reads weights where an epoch has ended, and judges the model where it likes to."""

    def __init__(self, asks=True):
        self.found, self.asks = [], asks

    def epoch(self, trainer, number, epoch):
        self.found.append({key: value.clone() for key, value in trainer.cut.state_dict().items()})
        self.found.append(trainer.evaluate(loader(shuffle=False)))

    def step(self, trainer, record):
        if self.asks and record.step == 9:
            figures = trainer.evaluate(loader(shuffle=False))
            self.found.append(0 < figures["loss"] < 2 and bool(trainer.cut[12].weight.isfinite().all()))
            model = trainer.state_dict()["model"]
            self.found.append(all(bool(value.isfinite().all()) for value in model.values()))


def watched(rank, runtime, asks=True):
    trainer = trainer_of(runtime, callbacks=[seen := Reads(asks)])
    trainer.fit(loader(), 2, progress=False)
    return seen.found


def test_a_callback_reads_the_whole_model():
    found, nothing = run_ranks(watched, 2, "distributed:lag=0")
    assert nothing == []
    assert_equal_trees(found, watched(0, "local:streams=true"))


def broken(rank, who, how, path, replicas=1):
    trainer = trainer_of(f"distributed:patience=4,replicas={replicas}")
    if rank == who:
        once = trainer.worker.step

        def step(*args):
            if trainer.steps == 7:
                os.kill(os.getpid(), how)
            return once(*args)

        trainer.worker.step = step
    trainer.fit(loader(), 4, progress=False, checkpoint=path)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "silent"])
@pytest.mark.parametrize("who", [0, 1, 2])
def test_when_a_process_is_lost_the_others_end_and_say_so(who, how, tmp_path):
    path = str(tmp_path / "run.ckpt")
    found = run_ranks(broken, 3, who, how, path, silent=who)
    for rank, each in enumerate(found):
        if rank != who:
            assert f"rank {who} is gone" in each or "has failed" in each, (rank, each)
    alone = fitted("local:streams=true", 2, checkpoint=path, resume=True)
    assert len(alone[0]) == 2


@pytest.mark.parametrize("who", [1, 2])
def test_a_silent_replica_ends_the_others(who, tmp_path):
    found = run_ranks(broken, 4, who, signal.SIGSTOP, str(tmp_path / "run.ckpt"), 2, silent=who)
    for rank, each in enumerate(found):
        assert rank == who or f"rank {who} is gone: nothing was heard of it" in each or "failed" in each, each


def raising(rank):
    def loss(outputs, target):
        raise ValueError("no such loss")

    example = torch.zeros(10, WIDTH, dtype=torch.float64)
    cut = dni_fx.decouple(net(), (example,), plan="balanced:stages=2")
    dni_fx.train(cut, loader(), loss=loss, runtime="distributed", progress=False)


def test_an_error_of_the_users_code_is_told_where_it_is_and_ends_the_others():
    first, last = run_ranks(raising, 2)
    assert last == "ValueError: no such loss"
    assert "rank 1 is gone: it has failed: ValueError: no such loss" in first


def asked(rank, path):
    trainer = trainer_of("distributed")
    if rank == 1:
        trainer.metrics["kills"] = lambda out, y: (
            trainer.steps > 1 or os.kill(os.getpid(), signal.SIGTERM) or 0
        )
    try:
        trainer.fit(loader(), 50, progress=False, checkpoint=path)
    except SystemExit as end:
        return f"exit {end.code} after {trainer.steps}"


def test_a_request_to_terminate_that_came_to_another_process_keeps_the_run(tmp_path):
    path = str(tmp_path / "run.ckpt")
    first, last = run_ranks(asked, 2, path)
    assert first.startswith("exit 143 after "), first
    assert "rank 0 has ended the run" in last
    assert read_checkpoint(Path(path))["steps"] == int(first.rpartition(" ")[2])


RESTARTED = """
import os, signal, sys
from pathlib import Path
from tests.shared_runs import loader, trainer_of

trainer = trainer_of("distributed:lag=0")
once = Path("killed")

def accuracy(out, y):
    if trainer.steps == 9 and not once.exists():
        once.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return 0.0

trainer.metrics["kills"] = accuracy
report = trainer.fit(loader(), 3, checkpoint="run.ckpt", every=2, resume=True, progress=False)
if trainer.worker.leads:
    print([epoch.loss for epoch in report.epochs])
"""


def test_torchrun_goes_on_from_the_last_checkpoint(tmp_path):
    (tmp_path / "train.py").write_text(RESTARTED, "utf-8")
    launcher = "-m torch.distributed.run --standalone --nproc-per-node 2 --max-restarts 1 train.py"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launcher.split()],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "killed").exists()
    assert "rank 1 is gone" in done.stderr
    assert json.loads(done.stdout) == [figures[0] for figures in fitted("local:streams=true", 3)[0]]
