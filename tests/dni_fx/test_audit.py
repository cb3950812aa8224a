"""A head that learns from labels alone is compared with the true gradient now and then only."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni_fx
from dni_fx.decoupled import cutting_of
from passes import SpecError
from tests.equality import assert_same

SGD = partial(torch.optim.SGD, lr=0.05)


def classifier(interface, synthesizer="local-head"):
    """A net cut in three, a batch and its labels, in float64."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x, y = torch.randn(8, 4).double(), torch.randint(3, (8,))
    cut = dni_fx.decouple(net, (x,), plan="at:after=1+3", synthesizer=synthesizer, interface=interface)
    return cut, x, y


def steps(cut, x, y, count, how):
    """So many steps of training."""
    if how == "local":
        trainer = dni_fx.Trainer(
            cut, loss=F.cross_entropy, optimizer=SGD, runtime="local", labels_as_context=True
        )
        for _ in range(count):
            trainer.step((x, y))
        return
    optimizer = SGD(cut.parameters())
    for _ in range(count):
        optimizer.zero_grad()
        F.cross_entropy(cut(x, dni_context=y), y).backward()
        optimizer.step()


def seen(cut):
    """How many true gradients each synthesizer has been compared with."""
    return [int(dni.scale.seen) for dni in dni_fx.boundaries(cut).values()]


@pytest.mark.parametrize("how", ["drop-in", "local"])
def test_how_often_it_is_compared_changes_nothing_that_is_learned(how):
    often, x, y = classifier("dni:audit=1,clip=0,guard=0")
    rarely, *_ = classifier("dni:audit=5,clip=0,guard=0")
    for cut in (often, rarely):
        steps(cut, x, y, 20, how)
    assert seen(often) == [20, 20]
    assert all(count < 12 for count in seen(rarely))
    for mine, other in zip(often.parameters(), rarely.parameters(), strict=True):
        assert_same(mine, other)


@pytest.mark.parametrize("how", ["drop-in", "local"])
def test_nobody_computes_the_gradient_between_comparisons_and_boundaries_take_turns(how):
    cut, x, y = classifier("dni:audit=4,guard=0")
    steps(cut, x, y, 4, how)
    asked = []
    cut[2].register_forward_hook(lambda m, args, out: asked.append(args[0].requires_grad))
    steps(cut, x, y, 1, how)  # captures again, with the hook
    asked.clear()
    before, number = seen(cut), cutting_of(cut).step.number
    steps(cut, x, y, 8, how)
    assert asked == [(number + at) % 4 == 0 for at in range(1, 9)]
    assert seen(cut) == [count + 2 for count in before]


def test_both_ways_to_train_learn_the_same():
    cut, x, y = classifier("dni:audit=3")
    theirs = copy.deepcopy(cut)
    steps(cut, x, y, 10, "drop-in")
    steps(theirs, x, y, 10, "local")
    assert seen(cut) == seen(theirs)
    plain, other = dni_fx.recouple(cut), dni_fx.recouple(theirs)  # the learners of one have still to step
    for mine, their in zip(plain.parameters(), other.parameters(), strict=True):
        assert_same(mine, their, 1e-12)


def test_auto_goes_by_whether_there_are_labels():
    cut, x, y = classifier("dni:audit=5,guard=0", "auto")
    steps(cut, x, y, 20, "drop-in")
    assert seen(cut) == [4, 4]
    for _ in range(3):
        cut(x).square().mean().backward()
    assert seen(cut) == [7, 7]


def test_what_learns_from_the_truth_hears_of_it_in_every_step():
    for synthesizer in ("linear", "critic", "local-head:regress=1"):
        cut, x, y = classifier("dni:audit=5", synthesizer)
        steps(cut, x, y, 12, "drop-in")
        assert seen(cut) == [12, 12]


def test_a_head_that_points_away_is_compared_in_every_step_until_it_is_locked():
    cut, x, y = classifier("dni:audit=6,guard=20,lr=1e-30")
    steps(cut, x, y, 12, "drop-in")
    dni = next(iter(dni_fx.boundaries(cut).values()))
    with torch.no_grad():
        for parameter in dni.learner.parameters():
            parameter.fill_(float("nan"))
    with pytest.warns(UserWarning, match=f"{dni.spec.name} were not finite"):
        steps(cut, x, y, 20 + 5, "drop-in")
    assert dni.guard.locked


def test_a_head_learns_nothing_from_a_loss_that_is_not_finite():
    cut, x, y = classifier("dni:audit=100,guard=0")
    steps(cut, x, y, 101, "local")
    before = copy.deepcopy(cut.state_dict())
    steps(cut, x * float("inf"), y, 1, "local")
    learners = [name for name in before if ".learner." in name]
    assert learners
    for name in learners:
        assert_same(cut.state_dict()[name], before[name])


@pytest.mark.parametrize("how", ["drop-in", "local"])
def test_whoever_asks_for_a_diagnosis_has_one_of_every_step(how):
    cut, x, y = classifier("dni:audit=4")
    steps(cut, x, y, 6, how)
    before = seen(cut)
    with dni_fx.diagnose(cut):
        steps(cut, x, y, 6, how)
    assert seen(cut) == [count + 6 for count in before]


def test_a_run_tells_of_the_steps_in_which_it_was_compared():
    cut, x, y = classifier("dni:audit=2")
    found = dni_fx.train(
        cut, [(x, y)] * 6, loss=F.cross_entropy, runtime="local", progress=False, labels_as_context=True
    )
    told = [sorted(record.boundaries) for record in found.history]
    assert told[2:] == [["3"], ["1"], ["3"], ["1"]]


def test_less_than_every_step_is_refused():
    with pytest.raises(SpecError, match="audit is 1 or more, not 0"):
        dni_fx.Interface(audit=0)
