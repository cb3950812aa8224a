"""Replicas that share the weights of their stages learn what replicas with whole ones learn."""

import copy
import os
import signal
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import dni_fx
from dni_fx.training.parts import read_parts
from tests.processes import run_ranks
from tests.shared_runs import WIDTH, assert_equal_trees, loader, net
from tests.test_distributed_runs import watched

PLAIN, SHARDED = "distributed:replicas=2,lag=0", "distributed:replicas=2,shards=true,lag=0"

OPTIMIZERS = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01),
}


def trainer_for(runtime, optimizer="adam", **options):
    example = torch.zeros(10, WIDTH, dtype=torch.float64)
    cut = dni_fx.decouple(net(), (example,), plan="balanced:stages=3", synthesizer="critic")
    return dni_fx.Trainer(
        cut,
        loss=F.cross_entropy,
        optimizer=OPTIMIZERS[optimizer],
        runtime=runtime,
        labels_as_context=True,
        **options,
    )


def fitted(rank, runtime, epochs, options, run):
    """The loss of each step, and the model in the end."""
    trainer = trainer_for(runtime, **options)
    before = dict(trainer.cut.named_parameters())
    report = trainer.fit(loader(), epochs, progress=False, **run)
    after = dict(trainer.cut.named_parameters())
    assert before.keys() == after.keys()
    assert all(each is after[name] and type(each) is torch.nn.Parameter for name, each in before.items())
    losses = [record.loss for record in report.history]
    return losses, {key: value.clone() for key, value in trainer.cut.state_dict().items()}


def same(ours, theirs, **tolerance):
    for one, other in zip(ours, theirs, strict=True):
        assert not isinstance(one, str), one
        torch.testing.assert_close(one, other, **(tolerance or {"rtol": 0, "atol": 0}))


@pytest.mark.parametrize(
    ("optimizer", "lag"), [("adam", "lag=0"), ("momentum", "lag=0"), ("adam", "lag=2,deterministic=true")]
)
def test_two_replicas_that_share_weights_equal_two_with_whole_ones(optimizer, lag):
    options, whole = {"optimizer": optimizer}, f"distributed:replicas=2,{lag}"
    found = [run_ranks(fitted, 4, runtime, 2, options, {}) for runtime in (whole, f"{whole},shards=true")]
    same(*found)


@pytest.mark.parametrize(
    "options", [{"clip": 0.05}, {"accumulate": 4}, {"accumulate": 4, "clip": 0.5}], ids=str
)
def test_clipped_and_accumulated_gradients_differ_by_the_order_of_sums(options):
    whole, shared = (run_ranks(fitted, 4, runtime, 2, options, {}) for runtime in (PLAIN, SHARDED))
    same(shared, whole, rtol=1e-12, atol=1e-12)


def lasting(rank, runtime, epochs, path):
    """What a run of so many epochs keeps, going on from its checkpoint."""
    trainer = trainer_for(runtime)
    trainer.fit(loader(), epochs, progress=False, checkpoint=path, resume=True, validation=loader(False))
    state = trainer.state_dict()
    return {"model": state["model"], "updates": state["updates"]}


def kept_in(path):
    """The weights and optimizers in a checkpoint, by process."""
    return [[part["model"], part["optimizers"]] for part in read_parts(Path(path))]


def test_a_run_goes_on_with_shards_and_without_and_keeps_the_same(tmp_path):
    one, other = str(tmp_path / "one.ckpt"), str(tmp_path / "other.ckpt")
    for epochs, runtime in enumerate((SHARDED, PLAIN, SHARDED), 1):
        ours = run_ranks(lasting, 4, runtime, epochs, one)
        theirs = run_ranks(lasting, 4, PLAIN, epochs, other)
        for mine, whole in zip(ours, theirs, strict=True):
            assert not isinstance(mine, str), mine
            assert_equal_trees(mine, whole)
        assert_equal_trees(*map(kept_in, (one, other)))
    alone = [lasting(0, "local:streams=true", 4, path) for path in (one, other)]
    assert_equal_trees(*alone)
    back = run_ranks(lasting, 4, SHARDED, 5, one)
    assert_equal_trees(back[0], run_ranks(lasting, 4, PLAIN, 5, other)[3])


def test_a_callback_reads_the_whole_model():
    # Not within an epoch: where replicas are brought together there, they have the first one's
    # synthesizers from then on, and in which step they are hangs on when figures arrive.
    whole, shared = (run_ranks(watched, 4, runtime, False)[0] for runtime in (PLAIN, SHARDED))
    assert not isinstance(shared, str), shared
    assert_equal_trees(shared, whole)


def returned(rank, runtime):
    """The state of a run after some steps, after more, when it has gone back, and a step after that."""
    trainer, batches, found = trainer_for(runtime), list(loader()), []
    for part in (batches[:3], batches[3:]):
        for batch in part:
            trainer.step(batch)
        found.append(copy.deepcopy(trainer.state_dict()))
    trainer.load_state_dict(copy.deepcopy(found[0]))
    found.append(copy.deepcopy(trainer.state_dict()))
    trainer.step(batches[0])
    found.append(copy.deepcopy(trainer.state_dict()))
    return [{"model": each["model"], "updates": each["updates"]} for each in found]


def test_a_run_can_go_back_to_a_state_of_its_own():
    whole, shared = (run_ranks(returned, 4, runtime) for runtime in (PLAIN, SHARDED))
    for mine, others in zip(shared, whole, strict=True):
        assert not isinstance(mine, str), mine
        assert_equal_trees(mine, others)
    assert_equal_trees(shared[3][2], shared[0][0])


def between(rank, runtime):
    """The model after three runs: weights are written to before the second, in which one layer is frozen."""
    trainer = trainer_for(runtime, "momentum")
    trainer.fit(loader(), 1, progress=False)
    with torch.no_grad():
        trainer.cut[0].weight.mul_(0.5)
    trainer.cut[0].requires_grad_(False)
    trainer.fit(loader(), 2, progress=False)
    found = trainer.cut[0].weight.clone()
    trainer.cut[0].requires_grad_(True)
    trainer.fit(loader(), 3, progress=False)
    return found, {key: value.clone() for key, value in trainer.cut.state_dict().items()}


def test_what_is_done_to_a_model_between_two_runs_counts():
    whole, shared = (run_ranks(between, 4, runtime) for runtime in (PLAIN, SHARDED))
    same(shared, whole)


def broken(rank, who, how):
    trainer = trainer_for(f"{SHARDED},patience=4")
    if rank == who:
        lose(trainer, how)
    trainer.fit(loader(), 4, progress=False)


def lose(trainer, how):
    """Have this process end, or fall silent, when its first stage has run forward."""
    once = trainer.worker.shards.run

    def run(stage, reads):
        written = once(stage, reads)
        if trainer.steps == 7:
            os.kill(os.getpid(), how)
        return written

    trainer.worker.shards.run = run


@pytest.mark.parametrize(
    ("who", "how"), [(3, signal.SIGKILL), (0, signal.SIGSTOP), (2, signal.SIGSTOP)], ids=str
)
def test_when_a_replica_is_lost_the_others_end_and_say_so(who, how):
    begun = time.monotonic()
    found = run_ranks(broken, 4, who, how, silent=who)
    assert time.monotonic() - begun < 60  # a collective of torch would wait for half an hour
    for rank, each in enumerate(found):
        assert rank == who or f"rank {who} is gone" in each or "failed" in each, each
