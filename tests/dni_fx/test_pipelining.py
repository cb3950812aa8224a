"""Pipeline stages that wait for no gradients learn what the algorithm, written out, says."""

import copy
import time
from collections import deque

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe

from dni_fx.dni import DNI
from dni_fx.errors import StageError, SynthesizerError
from dni_fx.integrations.pipelining import ScheduleDNI
from dni_fx.interface import INTERFACES
from dni_fx.step import Step
from dni_fx.synthesizers import SYNTHESIZERS
from passes import BoundarySpec, ValueSpec, parse
from passes.anchors import Anchor
from tests.processes import run_ranks

STEPS, BATCH, WIDTH = 8, 6, 5

HANDS_ON_ANYTHING = pytest.mark.skipif(
    torch.__version__ < "2.13", reason="no stage of torch could hand on what carries no gradient before"
)


def modules(ranks):
    torch.manual_seed(0)
    made = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(ranks - 1)]
    return [module.double() for module in [*made, nn.Linear(WIDTH, WIDTH)]]


def batches(steps=STEPS):
    made = torch.Generator().manual_seed(1)
    x = torch.randn(steps, BATCH, WIDTH, generator=made, dtype=torch.float64)
    return [(each, each.flip(1).tanh() / 2) for each in x]


def loss_of(output, target):
    return (output - target).square().mean()


def labeled(output, target):
    return nn.functional.cross_entropy(output, target)


def sgd(module):
    return torch.optim.SGD(module.parameters(), lr=0.3)


def begun(rank, ranks, module=None):
    dist.init_process_group("gloo")
    module = modules(ranks)[rank] if module is None else module
    return module, PipelineStage(module, rank, ranks, torch.device("cpu"))


def trained(module, stage, schedule, data=None):
    """The mean loss of each step where it is known."""
    optimizer, found = sgd(module), []
    for x, y in batches() if data is None else data:
        optimizer.zero_grad()
        losses = []
        args = (x,) if stage.is_first else ()
        schedule.step(*args, target=y if stage.is_last else None, losses=losses)
        optimizer.step()
        found += [float(torch.stack(losses).detach().mean())] if losses else []
    return found


def state_of(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def ended(result):
    dist.destroy_process_group()
    return result


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


class Hand:
    """The stages of one process, each with a DNI of its own but the last, as the algorithm has them."""

    def __init__(self, ranks, micro, how, lag):
        self.modules, self.micro, self.lag = modules(ranks), micro, lag
        self.optimizers = [sgd(module) for module in self.modules]
        size = BATCH // micro
        value = ValueSpec(Anchor("here"), (size, WIDTH), ("b", WIDTH), torch.float64, 0, 1)
        parts = parse("linear", SYNTHESIZERS), parse(how, INTERFACES)
        self.steps = [Step(batch=size) for _ in range(ranks - 1)]
        specs = [BoundarySpec("here", (value,), at, (at + 1,)) for at in range(ranks - 1)]
        self.dnis = [DNI(spec, *parts, step) for spec, step in zip(specs, self.steps, strict=True)]
        self.waiting = [deque() for _ in self.dnis]

    def step(self, x, y):
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        values, inner = x.chunk(self.micro), []
        for at, module in enumerate(self.modules[:-1]):
            inputs = [each.detach().requires_grad_(at > 0) for each in values]
            values = [module(each) for each in inputs]
            inner.append((inputs, values))
        true = self._last(values, y.chunk(self.micro))
        for at, (inputs, outputs) in reversed([*enumerate(inner)]):
            self.steps[at].number += 1
            locked = self.dnis[at].mix > 0
            (self._exactly if locked else self._by_guess)(at, outputs, true)
            true = [each.grad for each in inputs]
        for parameter in [each for module in self.modules for each in module.parameters()]:
            parameter.grad.div_(self.micro)
        for optimizer in self.optimizers:
            optimizer.step()

    def learn(self, at, most):
        while len(self.waiting[at]) > most:
            for guess, true in self.waiting[at].popleft():
                self.dnis[at].regress(guess, (true,))
                self.dnis[at].step()

    def _last(self, values, targets):
        ends = [each.detach().requires_grad_() for each in values]
        for end, target in zip(ends, targets, strict=True):
            loss_of(self.modules[-1](end), target).backward()
        return [end.grad for end in ends]

    def _exactly(self, at, outputs, true):
        self.learn(at, 0)
        dni = self.dnis[at]
        for output, each in zip(outputs, true, strict=True):
            output.backward(dni.learn(dni.guess([output.detach()]), (each,))[0])
            dni.step()

    def _by_guess(self, at, outputs, true):
        arrived = []
        for output, each in zip(outputs, true, strict=True):
            with self.steps[at].coming_late(frozenset({"here"})):
                guess, (up,) = self.dnis[at].guess_up((output,))
            output.backward(up)
            arrived.append((guess, each))
        self.waiting[at].append(arrived)
        self.learn(at, self.lag)


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert torch.equal(ours[key], value), key


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
    schedule = ScheduleDNI(stage, 2, labeled, synthesizer=synthesizer, interface="dni:classes=5", lag=1)
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
