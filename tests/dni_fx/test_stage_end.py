"""What stages of a pipeline hand on, what they are shown, and what becomes of them if one is lost."""

import time

import pytest
import torch
from torch import nn
from torch.distributed.pipelining import ScheduleGPipe

from dni_fx.errors import StageError, SynthesizerError
from dni_fx.integrations.pipelining import ScheduleDNI
from tests.pipelines import (
    BATCH,
    STEPS,
    WIDTH,
    batches,
    begun,
    ended,
    loss_of,
    modules,
    same,
    sgd,
    state_of,
    trained,
)
from tests.processes import run_ranks

HANDS_ON_ANYTHING = pytest.mark.skipif(
    torch.__version__ < "2.13", reason="no stage of torch could hand on what carries no gradient before"
)


class Pair(nn.Module):
    """Hands its input on beside what it has computed and, if there are `places`, what has no gradient."""

    def __init__(self, places):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(WIDTH, WIDTH).double()
        self.places = places

    def forward(self, x):
        return self.layer(x), x, *((torch.arange(x.shape[0]),) if self.places else ())


class Joined(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(WIDTH, WIDTH).double()

    def forward(self, y, x, at=None):
        return self.layer(y) + x + (0 if at is None else at[:, None])


def with_pairs(rank, ranks, places, warmup):
    module, stage = begun(rank, ranks, [modules(2)[0], Pair(places), Joined()][rank])
    schedule = ScheduleDNI(stage, 2, loss_of, interface=f"dni:warmup={warmup}")
    losses = trained(module, stage, schedule)
    schedule.settle()
    return ended((losses, state_of(module), schedule.dni and len(schedule.dni.spec.values)))


def pairs_under_gpipe(rank, ranks, places):
    module, stage = begun(rank, ranks, [modules(2)[0], Pair(places), Joined()][rank])
    return ended((trained(module, stage, ScheduleGPipe(stage, 2, loss_of)), state_of(module)))


@pytest.mark.parametrize("places", [False, pytest.param(True, marks=HANDS_ON_ANYTHING)])
def test_several_outputs_are_guessed_for_together(places):
    theirs = run_ranks(pairs_under_gpipe, 3, 3, places)
    ours, guessed = (run_ranks(with_pairs, 3, 3, places, warmup) for warmup in (1000000, 0))
    for rank in range(3):
        assert ours[rank][0] == theirs[rank][0]
        same(ours[rank][1], theirs[rank][1])
        assert not isinstance(guessed[rank], str)
    assert [outputs for _, _, outputs in guessed] == [1, 2, None]


class Passing(Pair):
    """Hands on memory that is written to later: where its input arrives, and a parameter."""

    def __init__(self):
        super().__init__(places=False)
        self.offset = nn.Parameter(torch.zeros(BATCH // 2, WIDTH, dtype=torch.float64))
        self.seen = []

    def forward(self, x):
        self.seen.append((x.detach().clone(), self.offset.detach().clone()))
        return *super().forward(x), self.offset


class Slow(Joined):
    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, y, x, offset):
        time.sleep(0.02)
        self.seen.append((x.detach().clone(), offset.detach().clone()))
        return super().forward(y, x) + offset


def handing_on(rank, ranks):
    module, stage = begun(rank, ranks, [modules(2)[0], Passing(), Slow()][rank])
    schedule = ScheduleDNI(stage, 2, loss_of, lag=STEPS)
    for batch in batches():
        trained(module, stage, schedule, [batch])
        if rank == 1:
            with torch.no_grad():
                module.offset.add_(1)
    schedule.settle()
    return ended([] if rank == 0 else module.seen[-2 * STEPS :])


def test_what_arrives_is_what_was_there_when_it_was_sent():
    _, sent, arrived = run_ranks(handing_on, 3, 3)
    assert len(sent) == len(arrived) == 2 * STEPS
    for (x, offset), (its, other) in zip(sent, arrived, strict=True):
        assert torch.equal(x, its)
        assert torch.equal(offset, other)


def frozen_in_front(rank, ranks):
    module, stage = begun(rank, ranks)
    if stage.is_first:
        module.requires_grad_(False)
    schedule = ScheduleDNI(stage, 2, loss_of)
    before = state_of(module)
    for x, y in batches():
        schedule.step(*((x,) if stage.is_first else ()), target=y if stage.is_last else None)
    schedule.settle()
    if stage.is_first:
        same(state_of(module), before)
    return ended(schedule.dni is not None)


@HANDS_ON_ANYTHING
def test_a_stage_whose_outputs_carry_no_gradient_guesses_nothing():
    assert run_ranks(frozen_in_front, 3, 3) == [False, True, False]


def with_labels(rank, ranks, synthesizer, told):
    module, stage = begun(rank, ranks)
    schedule = ScheduleDNI(
        stage, 2, nn.functional.cross_entropy, synthesizer=synthesizer, interface="dni:classes=5", lag=1
    )
    optimizer = sgd(module)
    for x, y in batches():
        optimizer.zero_grad()
        labels = y.argmax(1) if told or stage.is_last else None
        schedule.step(*((x,) if stage.is_first else ()), target=labels)
        optimizer.step()
    schedule.settle()
    learned = schedule.state_dict()["dni"]
    return ended([bool(value.any()) for key, value in learned.items() if key.startswith("learner")])


@pytest.mark.parametrize("synthesizer", ["linear", "local-head", "auto", "critic"])
def test_labels_reach_synthesizers_where_every_rank_is_given_them(synthesizer):
    first, last = run_ranks(with_labels, 2, 2, synthesizer, True)
    assert not isinstance(first, str), first
    assert any(first)
    assert last == []


def refused(rank, ranks):
    _, stage = begun(rank, ranks)
    found = []
    for options in (
        {"synthesizer": "oracle"},
        {"interface": "dni:mix=0.5"},
        {"interface": "dni:lr=0"},
        {"synthesizer": "sobolev"},
        {"synthesizer": "local-head"},
        {"lag": -1},
    ):
        try:
            ScheduleDNI(stage, 2, loss_of, **options)
        except (StageError, SynthesizerError) as error:
            found.append(f"{type(error).__name__}: {error}")
    stage.device = torch.device("cuda")
    try:
        ScheduleDNI(stage, 2, loss_of)
    except StageError as error:
        found.append(f"{type(error).__name__}: {error}")
    return ended(found)


def test_what_a_schedule_cannot_give_is_refused():
    (found,) = run_ranks(refused, 1, 1)
    kinds = [each.partition(":")[0] for each in found]
    assert kinds == ["StageError", "StageError", *["SynthesizerError"] * 3, "StageError", "StageError"]
    assert "classes=10" in found[4]


def without_labels(rank, ranks):
    with_labels(rank, ranks, "local-head", False)


def test_missing_labels_are_asked_for():
    found = run_ranks(without_labels, 2, 2)
    assert found[0].startswith("ContextError: ")
    assert "Give step() the target= on every rank" in found[0]


def left_alone(rank, ranks):
    module, stage = begun(rank, ranks)
    schedule = ScheduleDNI(stage, 1, loss_of, lag=50)
    trained(module, stage, schedule, batches()[:2])
    if stage.is_last:
        return ended("left")
    try:
        trained(module, stage, schedule)
        schedule.settle()
    except StageError as error:
        return str(error)
    return "nothing was missed"


def test_a_rank_that_goes_is_missed():
    first, last = run_ranks(left_alone, 2, 2)
    assert last == "left"
    assert first.startswith("a rank with a stage beside this one is gone: ")


class Failing(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        if self.calls > 5:
            raise ArithmeticError("on purpose")
        return self.inner(x)


def failing(rank, ranks):
    module = modules(ranks)[rank]
    module, stage = begun(rank, ranks, Failing(module) if rank == 0 else module)
    schedule = ScheduleDNI(stage, 2, loss_of, lag=STEPS)
    trained(module, stage, schedule)


def test_a_rank_that_fails_ends_while_it_waits_for_gradients_and_so_do_the_others():
    first, second, third = run_ranks(failing, 3, 3, seconds=30)
    assert "failed to run forward" in first
    for each in (second, third):
        assert each.startswith("StageError: a rank with a stage beside this one is gone: ")
