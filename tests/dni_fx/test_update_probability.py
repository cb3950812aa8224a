"""Each stage of the local runtime is updated in some of the steps only."""

import copy
import random
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni_fx
from dni_fx.runtimes.local import Local
from passes import SpecError
from tests.stirred import stirred_zoo

SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
PLAN = "at:after=layers.1+layers.3"


class Chosen(Local):
    """Updates the stages that it is told of."""

    of = frozenset()

    def chosen(self, step, stages):
        return set(self.of)


def choosing(*stages):
    return type("Told", (Chosen,), {"of": frozenset(stages)})()


def trainer_of(cut, runtime, **options):
    return dni_fx.Trainer(cut, loss=F.mse_loss, optimizer=SGD, runtime=runtime, **options)


def loss_of(outputs, target):
    values = outputs if isinstance(outputs, tuple) else (outputs,)
    return sum(F.mse_loss(value, target.expand_as(value)) for value in values)


def state_of(cut):
    return {name: value.clone() for name, value in cut.state_dict().items()}


def moved(cut, before):
    return {name for name, value in cut.state_dict().items() if not torch.equal(value, before[name])}


def in_stages(names):
    return {name.split(".")[1] for name in names if not name.startswith("dni.")}


def learned(names):
    return {name.split(".")[1] for name in names if ".learner." in name}


@pytest.mark.parametrize(
    ("stages", "layers", "learners"),
    [
        ((0, 1, 2), {"0", "1", "2", "3", "4"}, {"layers_1", "layers_3"}),
        ((0,), {"0", "1"}, set()),
        ((1,), {"2", "3"}, {"layers_1"}),
        ((2,), {"4"}, {"layers_3"}),
        ((0, 2), {"0", "1", "4"}, {"layers_3"}),
        ((), set(), set()),
    ],
)
def test_a_stage_and_the_synthesizer_before_it_are_updated_together(stages, layers, learners):
    cut, (x,) = stirred_zoo("chain", plan=PLAN)
    before = state_of(cut)
    whole = copy.deepcopy(cut)
    trainer_of(cut, choosing(*stages)).step((x, x))
    trainer_of(whole, "local").step((x, x))
    assert in_stages(moved(cut, before)) == layers
    assert learned(moved(cut, before)) == learners
    for name in moved(cut, before) - {"dni.steps"}:
        assert torch.equal(cut.state_dict()[name], whole.state_dict()[name]), name


def test_a_stage_that_is_not_updated_runs_no_backward_and_hands_its_activation_on():
    cut, (x,) = stirred_zoo("chain", plan=PLAN)
    seen = {}
    for number in (1, 3, 4):
        cut.layers[number].register_forward_hook(
            lambda m, args, out, n=number: seen.update({n: (args[0], out)})
        )
    with torch.no_grad():
        wanted = dni_fx.recouple(cut)(x)
    outcome = trainer_of(cut, choosing(2)).step((x, x))
    assert {number: out.requires_grad for number, (_, out) in seen.items()} == {1: False, 3: False, 4: True}
    assert torch.equal(outcome.outputs.detach(), wanted)


@pytest.mark.parametrize("interface", ["dni", "dni:warmup=2,fade=2", "dni:window=2", "dni:lr=0"])
def test_with_probability_one_it_is_the_plain_local_runtime_to_the_bit(interface):
    ours, (x,) = stirred_zoo("skips-two-stages", plan="balanced:stages=3", interface=interface)
    theirs = copy.deepcopy(ours)
    mine = trainer_of(ours, "local:update_probability=1,seed=5")
    other = trainer_of(theirs, "local")
    for at in range(6):
        batch = (x * (at + 1) / 4, torch.ones(()).to(x).expand(3, 6))
        assert torch.equal(mine.step(batch).loss, other.step(batch).loss)
    assert not moved(ours, theirs.state_dict())


@pytest.mark.parametrize(
    "name", ["residual", "tied-layer", "early-output", "batch-norm", "lstm", "in-place-relu"]
)
@pytest.mark.parametrize("interface", ["dni", "dni:warmup=3,fade=2", "dni:window=2"])
def test_in_the_long_run_every_stage_and_synthesizer_learns(name, interface):
    cut, inputs = stirred_zoo(name, plan="balanced:stages=3", interface=interface)
    before = state_of(cut)
    trainer = dni_fx.Trainer(cut, loss=loss_of, optimizer=SGD, runtime="local:update_probability=0.4")
    for _ in range(20):
        trainer.step((inputs, torch.full((), 0.3).double()))
    now = moved(cut, before)
    still = {name for name, p in dni_fx.recouple(cut).named_parameters() if p.requires_grad} - now
    assert not still
    assert learned(now) == set(dni_fx.boundaries(cut))
    counts = [int(dni.scale.seen) - 10 for dni in dni_fx.boundaries(cut).values()]
    assert all(0 < count < 20 for count in counts)


def test_it_draws_from_a_stream_of_its_own():
    one, other = (Local(update_probability=0.5, seed=seed) for seed in (1, 2))
    assert one.chosen(7, 50) == one.chosen(7, 50)
    assert one.chosen(7, 50) != other.chosen(7, 50)
    assert one.chosen(7, 50) != one.chosen(8, 50)
    drawn = [len(Local(update_probability=0.2).chosen(step, 10)) for step in range(500)]
    assert 0.18 < sum(drawn) / 5000 < 0.22
    cut, (x,) = stirred_zoo("chain", plan=PLAN)
    trainer = trainer_of(cut, "local:update_probability=0.5")
    states = torch.get_rng_state(), random.getstate()
    trainer.step((x, x))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]


def test_gradients_of_earlier_batches_are_used_though_the_last_one_passed_the_stage_over():
    cut, (x,) = stirred_zoo("chain", plan=PLAN)
    theirs = copy.deepcopy(cut)
    trainer = trainer_of(cut, choosing(0, 1, 2), accumulate=2)
    trainer.step((x, x))
    trainer.worker.runtime = choosing()
    trainer.step((x, x))
    theirs.gradient_scale = 0.5
    (F.mse_loss(theirs(x), x) / 2).backward()
    SGD(dni_fx.recouple(theirs).parameters()).step()
    for name, mine in dni_fx.recouple(cut).named_parameters():
        torch.testing.assert_close(mine, dict(theirs.named_parameters())[name], rtol=0, atol=1e-15)
    assert all(parameter.grad is None for parameter in cut.parameters())


def test_a_tied_parameter_steps_though_its_last_reader_is_passed_over():
    cut, (x,) = stirred_zoo("tied-layer", plan=PLAN)
    before = cut.layers[0].weight.detach().clone()
    trainer_of(cut, choosing(0)).step((x, x))
    assert not torch.equal(cut.layers[0].weight, before)
    assert cut.layers[0].weight.grad is None


def test_a_scaled_loss_survives_a_step_in_which_nobody_is_updated():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    x = torch.randn(3, 4)
    cut = dni_fx.decouple(net, (x,), plan="at:after=1", synthesizer="mlp")
    trainer = trainer_of(cut, choosing(), autocast=torch.float16)
    trainer.step((x, x))
    trainer.worker.runtime = choosing(0, 1)
    trainer.step((x, x))
    assert trainer.worker.updates.scaler.get_scale() == 65536


@pytest.mark.parametrize("p", [0.0, -1.0, 1.5, float("nan")])
def test_a_probability_that_is_none_is_refused(p):
    with pytest.raises(SpecError, match="update_probability is above 0 and at most 1, not"):
        Local(update_probability=p)


class Branched(nn.Module):
    """An output in the first stage, and one in the second."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(2))

    def forward(self, x):
        h = torch.tanh(self.layers[0](x))
        return h, self.layers[1](h)


@pytest.mark.parametrize("of", [0, 1])
@pytest.mark.parametrize("stage", [0, 1])
def test_a_loss_may_hang_on_stages_alone_that_are_not_updated(stage, of):
    """It was said to hang on nothing where another stage of the step made an output as well."""
    torch.manual_seed(0)
    x = torch.randn(4, 3)
    cut = dni_fx.decouple(Branched(), x, plan="at:after=:tanh", synthesizer="linear")
    trainer = dni_fx.Trainer(
        cut, loss=lambda outputs, y: F.mse_loss(outputs[of], y), optimizer=SGD, runtime=choosing(stage)
    )
    before = state_of(cut)
    trainer.step((x, torch.randn(4, 3)))
    assert in_stages(moved(cut, before)) == ({f"{stage}"} if stage == of else set())


def test_what_a_synthesizer_without_an_optimizer_has_learned_does_not_wait_for_its_readers():
    """It lay there past the step that it belonged to, where a checkpoint does not keep it."""
    cut, (x,) = stirred_zoo("chain", plan=PLAN, interface="dni:lr=0")
    runtime = choosing(0, 1, 2)
    trainer = trainer_of(cut, runtime, accumulate=2)
    for stages in ({0, 1, 2}, {0}):
        type(runtime).of = stages
        trainer.step((x, x))
    learners = [dni.learner for dni in dni_fx.boundaries(cut).values()]
    assert all(parameter.grad is None for learner in learners for parameter in learner.parameters())
