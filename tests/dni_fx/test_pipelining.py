"""Pipeline stages that wait for no gradients learn what the algorithm, written out, says."""

import copy

import pytest
import torch
from torch import nn
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe

from dni_fx.integrations.pipelining import ScheduleDNI
from tests.pipelines import STEPS, Hand, batches, begun, ended, loss_of, modules, same, sgd, state_of, trained
from tests.processes import run_ranks


def under_gpipe(rank, ranks, micro, scale):
    module, stage = begun(rank, ranks)
    losses = trained(module, stage, ScheduleGPipe(stage, micro, loss_of, scale_grads=scale))
    return ended((losses, state_of(module)))


def under_dni(rank, ranks, micro, options):
    module, stage = begun(rank, ranks)
    schedule = ScheduleDNI(stage, micro, loss_of, **options)
    losses = trained(module, stage, schedule)
    schedule.settle()
    assert schedule.behind == 0
    return ended((losses, state_of(module), schedule.state_dict()["dni"]))


@pytest.mark.parametrize(("ranks", "micro", "scale"), [(2, 1, True), (3, 3, True), (2, 2, False)])
def test_while_it_warms_up_it_is_gpipe(ranks, micro, scale):
    options = {"interface": "dni:warmup=1000000", "scale_grads": scale}
    theirs = run_ranks(under_gpipe, ranks, ranks, micro, scale)
    ours = run_ranks(under_dni, ranks, ranks, micro, options)
    for rank in range(ranks):
        assert not isinstance(ours[rank], str), ours[rank]
        assert ours[rank][0] == theirs[rank][0]
        same(ours[rank][1], theirs[rank][1])


@pytest.mark.parametrize(
    ("ranks", "micro", "lag", "how"),
    [
        (2, 1, 0, "dni"),
        (3, 3, 0, "dni"),
        (3, 2, 0, "dni:warmup=5,fade=4"),
        (2, 2, 0, "dni:window=2"),
        (3, 1, 2, "dni"),
        (2, 3, 3, "dni:stale=1"),
    ],
)
def test_it_is_the_algorithm_written_out(ranks, micro, lag, how):
    options = {"interface": how, "lag": lag, "deterministic": True}
    ours = run_ranks(under_dni, ranks, ranks, micro, options)
    hand = Hand(ranks, micro, how, lag)
    for x, y in batches():
        hand.step(x, y)
    for at in range(ranks - 1):
        hand.learn(at, 0)
    for rank in range(ranks):
        assert not isinstance(ours[rank], str), ours[rank]
        same(ours[rank][1], state_of(hand.modules[rank]))
        same(ours[rank][2], state_of(hand.dnis[rank]) if rank < ranks - 1 else {})


def many_steps(rank, ranks):
    module, stage = begun(rank, ranks)
    schedule = ScheduleDNI(stage, 2, loss_of, lag=3)
    losses, most = [], 0
    for _ in range(20):
        losses += trained(module, stage, schedule)
        most = max(most, schedule.behind)
    schedule.settle()
    seen = None if schedule.dni is None else schedule.dni.scale.count
    return ended((losses, most, schedule.behind, seen))


@pytest.mark.parametrize("ranks", [2, 3])
def test_it_trains_ahead_of_gradients_and_takes_them_all_in(ranks):
    *before, last = run_ranks(many_steps, ranks, ranks)
    losses = last[0]
    assert sum(losses[-STEPS:]) < 0.5 * sum(losses[:STEPS])
    for _, most, behind, seen in before:
        assert most <= 3 * 2
        assert behind == 0
        assert seen == 20 * STEPS * 2


def evaluated(rank, ranks, options):
    module, stage = begun(rank, ranks)
    schedule = ScheduleDNI(stage, 2, loss_of, **options)
    trained(module, stage, schedule, batches()[:3])
    x, y = batches()[5]
    losses, before = [], state_of(module)
    args = (x,) if stage.is_first else ()
    with torch.no_grad():
        output = schedule.eval(*args, target=y if stage.is_last else None, losses=losses)
    assert schedule.behind == 0
    same(state_of(module), before)
    trained(module, stage, schedule, batches()[3:])
    schedule.settle()
    return ended((output, [float(each) for each in losses], before, state_of(module)))


def test_evaluation_changes_nothing_and_training_goes_on():
    options = {"lag": 2, "deterministic": True, "interface": "dni:warmup=1000000"}
    found = run_ranks(evaluated, 3, 3, options)
    assert not [each for each in found if isinstance(each, str)]
    whole = nn.Sequential(*copy.deepcopy(modules(3)))
    for module, (_, _, before, _) in zip(whole, found, strict=True):
        module.load_state_dict(before)
    x, y = batches()[5]
    expected = torch.cat([whole(each) for each in x.chunk(2)])
    assert torch.equal(found[-1][0], expected)
    pairs = zip(expected.chunk(2), y.chunk(2), strict=True)
    assert found[-1][1] == [float(loss_of(*both).detach()) for both in pairs]
    theirs = run_ranks(under_gpipe, 3, 3, 2, True)
    for rank in range(3):
        same(found[rank][3], theirs[rank][1])


def evaluated_in_between(rank, ranks):
    return evaluated(rank, ranks, {"lag": 3})


def test_evaluation_waits_for_what_is_still_to_come():
    found = run_ranks(evaluated_in_between, 2, 2)
    assert not [each for each in found if isinstance(each, str)]


def resumed(rank, ranks, at):
    module, stage = begun(rank, ranks)
    options = {"lag": 0, "interface": "dni:window=2"}
    schedule = ScheduleDNI(stage, 2, loss_of, **options)
    optimizer = sgd(module)
    for number, (x, y) in enumerate(batches()):
        if number == at:
            state = copy.deepcopy(schedule.state_dict())
            stage = PipelineStage(module, rank, ranks, torch.device("cpu"))
            schedule = ScheduleDNI(stage, 2, loss_of, **options)
            schedule.load_state_dict(state)
            same(schedule.state_dict()["dni"], state["dni"])
        optimizer.zero_grad()
        schedule.step(*((x,) if stage.is_first else ()), target=y if stage.is_last else None)
        optimizer.step()
    return ended((state_of(module), schedule.state_dict()["dni"]))


def test_what_synthesizers_have_learned_is_in_the_state():
    once, twice = run_ranks(resumed, 2, 2, -1), run_ranks(resumed, 2, 2, 5)
    for (module, dni), (other, its) in zip(once, twice, strict=True):
        same(other, module)
        same(its, dni)
