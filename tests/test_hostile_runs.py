"""Runs of several processes that users have broken; one test for each way, with why."""

import contextlib
import copy
import time

import torch
import torch.nn.functional as F
from torch import nn

import dni_fx
from dni_fx.distributed import processes
from dni_fx.distributed.frames import Inlet
from dni_fx.distributed.processes import joined
from dni_fx.training.callbacks import Callback
from dni_fx.training.checkpoint import read_checkpoint
from tests.processes import run_ranks

WIDTH = 8


class Chain(nn.Module):
    """Four layers, and dropout between them."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.drop = nn.Dropout(0.3)

    def forward(self, x):
        return self.d(self.drop(self.c(self.drop(self.b(self.a(x).tanh())).tanh()).tanh()))


class AfterEpochs(Callback):
    """Does something after each epoch, for the first time that many."""

    def __init__(self, do):
        self.do = do
        self.calls = 0

    def epoch(self, trainer, number, epoch):
        self.calls += 1
        self.do(self, trainer)


def batches(count=6):
    generator = torch.Generator().manual_seed(1)
    return [tuple(torch.randn(2, 16, WIDTH, generator=generator)) for _ in range(count)]


def trainer_of(rank, runtime, model=Chain, **options):
    """A trainer of a model that is other in each process when it is made."""
    torch.manual_seed(rank)
    cut = dni_fx.decouple(model(), plan="balanced:stages=3", synthesizer="linear")
    return dni_fx.Trainer(cut, loss=F.mse_loss, runtime=runtime, **options)


def told(trainer, report):
    """The losses of a run, and the tensors that it leaves."""
    state = trainer.cut.state_dict()
    tensors = {key: value.clone() for key, value in state.items() if isinstance(value, torch.Tensor)}
    return [epoch.loss for epoch in report.epochs], tensors


def same(ours, theirs):
    assert not isinstance(theirs, str), theirs
    assert ours[0] == theirs[0]
    for key, value in ours[1].items():
        assert torch.equal(value, theirs[1][key]), key


def back(rank, runtime):
    """After the third epoch it goes on from the state after the first one."""

    def go_back(callback, trainer):
        if callback.calls == 1:
            callback.kept = copy.deepcopy(trainer.state_dict())
        if callback.calls == 3:
            trainer.load_state_dict(copy.deepcopy(callback.kept))

    trainer = trainer_of(rank, runtime, callbacks=[AfterEpochs(go_back)])
    return told(trainer, trainer.fit(batches(), 4, progress=False))


def test_a_callback_takes_the_state_of_a_run_and_goes_back_to_it():
    alone = back(0, "local:streams=true")
    for each in run_ranks(back, 2, "distributed:lag=0"):
        same(alone, each)


def slower(rank, runtime):
    """A callback changes a rate in the process that it is called in."""

    def slow(callback, trainer):
        for each in trainer.worker.updates.optimizers.values():
            each.param_groups[0]["lr"] /= 2

    trainer = trainer_of(rank, runtime, callbacks=[AfterEpochs(slow)])
    return told(trainer, trainer.fit(batches(), 2, progress=False))


def test_a_callback_that_changes_a_rate_in_one_process_ends_all():
    slower(0, "local:streams=true")
    for each in run_ranks(slower, 2, "distributed"):
        assert "a callback has changed lr of the optimizer of stage 0" in each, each


def broken_off(rank, runtime):
    """A callback fails late in the first epoch, which all scripts catch; then they fit again."""

    class Fails(Callback):
        calls = 0

        def step(self, trainer, record):
            Fails.calls += 1
            if Fails.calls == 4:
                raise ValueError("no more")

    trainer = trainer_of(rank, runtime, callbacks=[Fails()])
    with contextlib.suppress(ValueError, dni_fx.DniError):
        trainer.fit(batches(), 1, progress=False)
    report = trainer.fit(batches(2), 1, progress=False)
    return [report.epochs[-1].steps, len(report.history)]


def test_figures_of_a_run_that_was_broken_off_do_not_count_in_the_next_one():
    found = run_ranks(broken_off, 3, "distributed:lag=2")
    assert [steps for steps, _ in found] == [2, 2, 2], found


def frozen(rank):
    """A layer is frozen after the first epoch, where callbacks are called."""
    callback = AfterEpochs(lambda _, trainer: trainer.cut.a.requires_grad_(False))
    trainer_of(rank, "distributed", callbacks=[callback]).fit(batches(), 2, progress=False)


def test_a_model_that_a_callback_changes_in_one_process_ends_all():
    first, second = run_ranks(frozen, 2)
    assert second.startswith("StageError: rank 0 makes a new graph of the model, and rank 1 goes on"), second
    assert "it has failed: rank 0 makes a new graph" in first, first


def failing(rank):
    """All processes fail at once, and wait for nothing then."""
    wire = joined(patience=60.0)
    wire.send(1 - rank, "ready")
    wire.take(1 - rank, "ready")
    wire.fail("all do")
    begun = time.monotonic()
    while 1 - rank not in wire._gone:
        time.sleep(0.01)
    wire.close()
    return time.monotonic() - begun


def test_processes_that_fail_at_once_do_not_wait_for_one_another():
    found = run_ranks(failing, 2)
    assert all(isinstance(each, float) and each < 30 for each in found), found


class Refilled:
    """A loader that fills the same memory with each batch; its targets count them."""

    def __iter__(self):
        x, y = torch.empty(20000, WIDTH), torch.empty(20000, WIDTH)
        for number in range(10):
            x.fill_(number / 10)
            y.fill_(number)
            yield x, y


def refilled(rank):
    """What the targets of each step were in the process that has the loss, to which the way is a slow one."""
    once = Inlet.message

    def message(inlet):
        time.sleep(0.02)
        return once(inlet)

    Inlet.message = message
    trainer = trainer_of(rank, "distributed:lag=4", metrics={"y": lambda out, y: y.mean()})
    report = trainer.fit(Refilled(), 1, progress=False)
    return [record.metrics["y"] for record in report.history]


def test_a_loader_may_fill_the_same_memory_with_the_next_batch():
    for each in run_ranks(refilled, 2):
        assert each == [float(number) for number in range(10)]


class Beside(Chain):
    """Has numbers that are in no state dict, and something in it that is no tensor."""

    def __init__(self):
        super().__init__()
        self.register_buffer("first", torch.randn(WIDTH), persistent=False)
        self.register_buffer("last", torch.randn(WIDTH), persistent=False)
        self.plain = torch.randn(WIDTH)

    def get_extra_state(self):
        return {"version": 3}

    def set_extra_state(self, state):
        assert state == {"version": 3}

    def forward(self, x):
        return super().forward(x * self.first) * self.last + self.plain


def beside(rank, runtime, path):
    trainer = trainer_of(rank, runtime, Beside)
    losses, tensors = told(trainer, trainer.fit(batches(), 2, progress=False, checkpoint=path))
    return [*losses, trainer.evaluate(batches(2))], tensors


def test_all_processes_compute_with_the_constants_of_the_first(tmp_path):
    alone = beside(0, "local:streams=true", str(tmp_path / "file"))
    for each in run_ranks(beside, 2, "distributed:lag=0", str(tmp_path / "folder")):
        same(alone, each)
    assert read_checkpoint(tmp_path / "folder")["model"].keys() == alone[1].keys() | {"_extra_state"}


def caught(rank):
    """A metric fails where the loss is, and the script lives on there."""

    def metric(outputs, target):
        raise ValueError("no such metric")

    try:
        trainer_of(rank, "distributed", metrics={"odd": metric}).fit(batches(), 1, progress=False)
    except Exception as error:
        time.sleep(5 * rank)
        return str(error), time.monotonic()


def test_an_error_that_a_script_catches_in_one_process_ends_the_others():
    (first, ended), (second, lived) = run_ranks(caught, 2, seconds=15)
    assert second == "no such metric"
    assert "rank 1 is gone: it has failed: ValueError: no such metric" in first
    assert ended < lived - 4


class Again(nn.Module):
    """Uses its first layer a second time, at the end, if it is asked to."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x, again=False):
        x = self.c(self.b(self.a(x).tanh()).tanh())
        return self.a(x.tanh()) if again else x


def asked_again(rank):
    trainer = trainer_of(rank, "distributed", Again)
    (x, y), *_ = batches()
    for again in (False, True):
        trainer.step(((x, again), y))


def test_a_parameter_that_another_process_would_move_in_another_graph_is_refused():
    for each in run_ranks(asked_again, 2):
        assert each.startswith("StageError: in this call of the model a.weight, a.bias would be moved"), each


def in_need(rank):
    cut = dni_fx.decouple(Chain(), plan="balanced:stages=2", synthesizer="sobolev")
    dni_fx.train(cut, batches(), loss=F.mse_loss, runtime="distributed", progress=False)


def test_synthesizers_that_need_the_loss_are_refused_by_name():
    for each in run_ranks(in_need, 2):
        assert each.startswith("StageError: the distributed runtime tells no synthesizer the loss"), each


def late(rank):
    """The second process ends before it has joined the first one."""
    if rank == 1:
        return None
    processes._AT_LEAST = 3.0
    start = time.monotonic()
    try:
        trainer_of(rank, "distributed:patience=0.5")
    except dni_fx.DniError as error:
        return [str(error), time.monotonic() - start]


def test_a_process_that_never_comes_is_not_waited_for_for_ever():
    (told, seconds), _ = run_ranks(late, 2)
    assert told.startswith("cannot join the other processes within 3 s")
    assert seconds < 30
