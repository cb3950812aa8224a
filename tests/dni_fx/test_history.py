"""Every step is told once, in bounded room, and looking changes nothing."""

import copy
import itertools
import math
import re

import pytest
import torch
import torch.nn.functional as F

import dni_fx
from dni_fx.decoupled import cutting_of
from dni_fx.history import History
from tests.stirred import stirred_zoo
from tests.zoo import made


def cut_chain(**options):
    model, (x,) = made("chain")
    return dni_fx.decouple(model, (x,), plan="balanced:stages=3", **options), x


def test_a_loop_of_the_user_finds_what_each_boundary_has_to_say():
    cut, x = cut_chain()
    with dni_fx.diagnose(cut) as found:
        for _ in range(5):
            loss = cut(x).square().mean()
            loss.backward()
            found.note(loss, {"largest": x.max()})
    assert set(found.boundaries) == set(dni_fx.boundaries(cut))
    assert [record.step for record in found.records] == [1, 2, 3, 4, 5]
    last = found.records[-1]
    assert last.boundaries == found.boundaries
    assert last.loss == float(loss.detach())
    assert last.metrics == {"largest": float(x.max())}
    for diagnosis in last.boundaries.values():
        assert -1 <= diagnosis.cosine <= 1
        assert 0 <= diagnosis.sign <= 1
        assert diagnosis.scale > 0


def test_nobody_looks_any_more_when_the_block_has_ended():
    cut, x = cut_chain()
    step = cutting_of(cut).step
    with dni_fx.diagnose(cut), dni_fx.diagnose(cut):
        assert step.record
    assert not step.record
    with pytest.raises(TypeError), dni_fx.diagnose(cut):
        cut(x, "one too many")
    assert not step.record


def test_a_training_that_is_looked_at_is_the_same_to_the_bit():
    ours, (x,) = stirred_zoo("chain", plan="balanced:stages=3")
    theirs = copy.deepcopy(ours)
    for _ in range(3):
        ours(x).square().mean().backward()
    with dni_fx.diagnose(theirs):
        for _ in range(3):
            theirs(x).square().mean().backward()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=0)


def test_a_boundary_that_had_no_say_in_a_step_is_not_told_again():
    cut, x = cut_chain()
    with dni_fx.diagnose(cut) as found:
        cut(x).sum().backward()
        assert found.note(1.0).boundaries
        assert not found.note(1.0).boundaries
        assert found.boundaries
    with dni_fx.diagnose(cut) as later:
        assert not later.note(1.0).boundaries


@pytest.mark.parametrize("steps", [1, 7, 8, 9, 33, 1000])
def test_steps_are_kept_evenly_and_never_too_many(steps):
    cut, _ = cut_chain()
    history = History(cut, most=8)
    for _ in range(steps):
        history.note(0.0)
    kept = [record.step for record in history.records]
    assert kept[0] == 1
    assert len({later - step for step, later in itertools.pairwise(kept)}) <= 1
    assert len(kept) == steps if steps <= 8 else 4 <= len(kept) <= 8
    assert steps - kept[-1] < max(1, math.ceil(steps / 4))


@pytest.mark.parametrize("runtime", ["backprop", "local"])
def test_an_epoch_holds_the_means_of_its_steps(runtime):
    cut, x = cut_chain()
    batches = [(x, torch.zeros_like(x))] * 4
    training = dni_fx.train(
        cut, batches, loss=F.mse_loss, runtime=runtime, epochs=2, progress=False, metrics={"mae": F.l1_loss}
    )
    assert [record.step for record in training.history] == list(range(1, 9))
    for number, epoch in enumerate(training.epochs):
        records = training.history[4 * number : 4 * (number + 1)]
        assert epoch.loss == pytest.approx(sum(record.loss for record in records) / 4)
        assert epoch.metrics["mae"] == pytest.approx(sum(record.metrics["mae"] for record in records) / 4)
        assert list(epoch.boundaries) == list(dni_fx.boundaries(cut))
        for name, mean in epoch.boundaries.items():
            for figure in ("cosine", "sign", "error", "scale", "mix"):
                values = [getattr(record.boundaries[name], figure) for record in records]
                assert getattr(mean, figure) == pytest.approx(sum(values) / 4), figure
        assert epoch.cosine == {name: mean.cosine for name, mean in epoch.boundaries.items()}


def test_an_epoch_tells_of_the_mix_on_its_way_down():
    cut, x = cut_chain(interface="dni:warmup=2,fade=2")
    batches = [(x, torch.zeros_like(x))] * 6
    (epoch,) = dni_fx.train(cut, batches, loss=F.mse_loss, progress=False).epochs
    assert all(mean.mix == pytest.approx((1 + 1 + 1 + 0.5 + 0 + 0) / 6) for mean in epoch.boundaries.values())


def test_an_epoch_says_which_boundaries_are_locked():
    cut, x = cut_chain(interface="dni:guard=1")
    first, _ = dni_fx.boundaries(cut)
    with pytest.warns(UserWarning, match="sends true gradients from now on"):
        dni_fx.boundaries(cut)[first].guard.note(first, None)
    batches = [(x, torch.zeros_like(x))] * 2
    with pytest.warns(UserWarning, match="sends true gradients from now on"):
        training = dni_fx.train(cut, batches, loss=F.mse_loss, progress=False)
    assert training.epochs[0].boundaries[first].locked
    assert re.search(rf"cosine\({first}\) [+-]\d\.\d\d locked", str(training))


def test_a_step_that_is_not_finite_does_not_hide_the_others():
    cut, x = cut_chain()
    batches = [(x, torch.zeros_like(x)), (x * math.inf, torch.zeros_like(x)), (x, torch.zeros_like(x))]
    with pytest.warns(UserWarning, match="the loss of epoch 1 is"):
        (epoch,) = dni_fx.train(
            cut, batches, loss=F.mse_loss, progress=False, optimizer=lambda p: torch.optim.SGD(p, lr=0.0)
        ).epochs
    assert all(math.isfinite(mean.scale) for mean in epoch.boundaries.values())
