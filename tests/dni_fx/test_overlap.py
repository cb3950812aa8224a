"""A thread runs stages backward while the next ones run forward, and nothing else comes out."""

import copy
import threading
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import dni_fx
from dni_fx.runtimes.aside import Beside
from tests.conformance.test_runtimes import MODELS
from tests.stirred import stir, stirred_zoo

ADAM = partial(torch.optim.Adam, lr=0.01)
MAIN = threading.main_thread()


def assert_same_to_the_bit(cut, batches, loss, options="", steps=6, labels=True):
    ours, theirs = cut, copy.deepcopy(cut)
    for each, overlap in ((ours, "true"), (theirs, "false")):
        runtime = f"local:overlap={overlap}{options}"
        trainer = dni_fx.Trainer(each, loss=loss, optimizer=ADAM, runtime=runtime, labels_as_context=labels)
        torch.manual_seed(3)
        for at in range(steps):
            trainer.step(batches[at % len(batches)])
    for name, mine in ours.state_dict().items():
        assert torch.equal(mine, theirs.state_dict()[name]), name


@pytest.mark.parametrize("interface", ["dni", "dni:window=2", "dni:warmup=12,fade=2", "dni:stale=1,every=2"])
@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_the_weights_that_it_has_without_to_the_bit(name, interface):
    cut, inputs = stirred_zoo(name, plan="balanced:stages=3", interface=interface)
    batches = [(inputs, torch.full((), 0.3).double())]
    assert_same_to_the_bit(cut, batches, broadcast, steps=4, labels=False)


def broadcast(outputs, target):
    values = outputs if isinstance(outputs, tuple) else (outputs,)
    return sum(F.mse_loss(value, target.expand_as(value)) for value in values)


class Again(nn.Module):
    """A layer that is computed a second time for backward, drop-out included."""

    def __init__(self, reentrant):
        super().__init__()
        self.layer, self.drop, self.reentrant = nn.Linear(16, 16), nn.Dropout(0.5), reentrant

    def forward(self, x):
        return checkpoint(lambda value: self.drop(self.layer(value)), x, use_reentrant=self.reentrant)


def noisy(width=16, depth=5):
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(width, width), nn.Dropout(0.3), nn.ReLU()) for _ in range(depth)]
    batches = [(torch.randn(8, width), torch.randint(4, (8,))) for _ in range(3)]
    return nn.Sequential(*blocks, nn.Linear(width, 4)), batches


@pytest.mark.parametrize("synthesizer", ["auto", "mlp", "sobolev", "delayed"])
@pytest.mark.parametrize("options", ["", ",update_probability=0.5", ",unlock=forward"])
def test_random_numbers_are_drawn_in_the_same_order(synthesizer, options):
    net, batches = noisy()
    cut = dni_fx.decouple(net, batches[0][:1], plan="at:after=0+1+2+3", synthesizer=synthesizer)
    assert_same_to_the_bit(stir(cut), batches, F.cross_entropy, options, steps=9)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpoint_draws_again_before_the_next_stage_draws(reentrant):
    net, batches = noisy()
    for at in range(1, 4):
        net[at] = Again(reentrant)
    cut = dni_fx.decouple(net, batches[0][:1], plan="at:after=0+1+2+3", synthesizer="mlp")
    assert_same_to_the_bit(stir(cut), batches, F.cross_entropy, steps=9)


def test_stages_before_the_last_run_backward_in_a_thread_while_the_next_ones_run_forward():
    net, batches = noisy(depth=2)
    cut = dni_fx.decouple(net, batches[0][:1], plan="at:after=0+1", synthesizer="mlp")
    met, armed, threads = threading.Barrier(2, timeout=60), [], []

    def meet(*_):
        if armed:
            threads.append(threading.current_thread())
            met.wait()

    cut[0][0].weight.register_hook(meet)
    cut[1][0].register_forward_hook(meet)
    trainer = dni_fx.Trainer(cut, loss=F.cross_entropy, runtime="local:overlap=true")
    trainer.step(batches[0])  # captures again, with the hooks
    armed.append(True)
    trainer.step(batches[0])
    assert len(set(threads)) == 2
    assert MAIN in threads


def test_what_fails_in_the_thread_is_raised_and_the_next_step_works():
    net, batches = noisy(depth=2)
    cut = dni_fx.decouple(net, batches[0][:1], plan="at:after=0+1", synthesizer="mlp")
    trainer = dni_fx.Trainer(cut, loss=F.cross_entropy, runtime="local:overlap=true")
    trainer.step(batches[0])
    handle = cut[0][0].weight.register_hook(lambda gradient: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.step(batches[0])
    handle.remove()
    trainer.worker.updates.batches = 0
    assert trainer.step(batches[0]).loss.isfinite()


def test_work_after_a_failure_is_not_done():
    done, beside = [], Beside()
    beside.do(partial(done.append, 1))
    beside.do(lambda: 1 / 0)
    beside.do(partial(done.append, 2))
    with pytest.raises(ZeroDivisionError):
        beside.join()
    beside.drop()
    assert done == [1]
    beside.do(partial(done.append, 3))
    beside.join()
    assert done == [1, 3]
