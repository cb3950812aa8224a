"""Replicas that share the weights of their stages learn what replicas with whole ones learn."""

import pytest
import torch
import torch.nn.functional as F

import dni_fx
from tests.processes import run_ranks
from tests.shared_runs import WIDTH, loader, net

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


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_two_replicas_that_share_weights_equal_two_with_whole_ones(optimizer):
    options = {"optimizer": optimizer}
    whole, shared = (run_ranks(fitted, 4, runtime, 2, options, {}) for runtime in (PLAIN, SHARDED))
    same(shared, whole)
