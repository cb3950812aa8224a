"""A synthesizer learns in every n-th step, and what the others would cost is saved."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni_fx
from dni_fx.decoupled import cutting_of
from dni_fx.interface import Interface
from passes import SpecError
from tests.stirred import stirred_zoo

SGD = partial(torch.optim.SGD, lr=0.05)
PLAN = "at:after=layers.1+layers.3"


def loops(cut, how):
    """One step of training, as a function of inputs and targets."""
    if how == "local":
        trainer = dni_fx.Trainer(cut, loss=F.mse_loss, optimizer=SGD, runtime="local")
        return lambda x, y: trainer.step((x, y))
    run = torch.compile(cut, backend="aot_eager", fullgraph=True) if how == "compiled" else cut
    optimizer = SGD(cut.parameters())

    def step(x, y):
        optimizer.zero_grad()
        F.mse_loss(run(x), y).backward()
        optimizer.step()

    return step


@pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("how", ["drop-in", "local", "compiled"])
@pytest.mark.parametrize("every", [1, 2, 3])
def test_it_learns_in_every_nth_step_boundaries_in_turn(how, every):
    cut, (x,) = stirred_zoo("chain", plan=PLAN, interface=f"dni:every={every}")
    step, found = loops(cut, how), {name: [] for name in dni_fx.boundaries(cut)}
    for _ in range(7):
        seen = {name: int(dni.scale.seen) for name, dni in dni_fx.boundaries(cut).items()}
        step(x, x)
        number = cutting_of(cut).step.number
        for name, dni in dni_fx.boundaries(cut).items():
            found[name] += [number + dni.spec.producer] * (int(dni.scale.seen) - seen[name])
    for numbers in found.values():
        assert numbers
        assert all(number % every == 0 for number in numbers)
        assert len(numbers) in (7 // every, 7 // every + 1)


@pytest.mark.parametrize("how", ["drop-in", "local"])
def test_between_them_stages_train_on_guesses_as_they_do_otherwise(how):
    cut, (x,) = stirred_zoo("skips-two-stages", plan="balanced:stages=3", interface="dni:every=100")
    theirs = copy.deepcopy(cut)
    for dni in dni_fx.boundaries(theirs).values():
        dni.interface = Interface(lr=1e-30)
        dni.scale.observe = lambda squares: None
    for at in range(1, 4):
        for each in (cut, theirs):
            loops(each, how)(x * at / 2, x)
    for (name, mine), (_, other) in zip(cut.named_parameters(), theirs.named_parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-12, msg=name)
        assert how == "local" or ".learner." in name or torch.equal(mine, other)


@pytest.mark.parametrize("how", ["drop-in", "local"])
def test_a_step_in_which_nobody_learns_computes_no_gradients_of_what_stages_read(how):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    x = torch.randn(3, 4)
    cut = dni_fx.decouple(net, (x,), plan="at:after=1+3", synthesizer="mlp", interface="dni:every=3")
    asked = []
    cut[2].register_forward_hook(lambda m, args, out: asked.append(args[0].requires_grad))
    step = loops(cut, how)
    step(x, x)  # captures again, with the hook
    asked.clear()
    for _ in range(2, 7):
        step(x, x)
    assert asked == [False, True, False, False, True]  # in steps 3 and 6


@pytest.mark.parametrize("how", ["drop-in", "local"])
def test_it_warms_up_on_every_true_gradient(how):
    cut, (x,) = stirred_zoo("chain", plan=PLAN, interface="dni:every=4,warmup=12")
    step = loops(cut, how)
    for _ in range(2):
        step(x, x)
    assert [int(dni.scale.seen) for dni in dni_fx.boundaries(cut).values()] == [12, 12]
    assert [dni.mix for dni in dni_fx.boundaries(cut).values()] == [0.0, 0.0]


def test_stages_that_learn_nothing_by_themselves_pass_their_gradient_on_all_the_same():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Identity(), nn.Sigmoid())
    x = torch.randn(3, 4)
    cut = dni_fx.decouple(net, (x,), plan="at:after=0+1", synthesizer="mlp", interface="dni:every=2")
    for how in ("local", "drop-in"):
        step = loops(cut, how)
        for _ in range(3):
            if how == "local":
                step(x, x)
    assert all(int(dni.scale.seen) >= 1 for dni in dni_fx.boundaries(cut).values())


def test_no_diagnosis_is_told_of_steps_in_which_it_does_not_learn():
    cut, (x,) = stirred_zoo("chain", plan=PLAN, interface="dni:every=2")
    found = dni_fx.train(cut, [(x, x)] * 4, loss=F.mse_loss, optimizer=SGD, runtime="local", progress=False)
    told = [sorted(record.boundaries) for record in found.history]
    assert told == [["layers_3"], ["layers_1"], ["layers_3"], ["layers_1"]]


def test_the_place_in_the_turn_is_saved_with_the_model():
    cut, (x,) = stirred_zoo("chain", plan=PLAN, interface="dni:every=3")
    step = loops(cut, "drop-in")
    step(x, x)
    again, _ = stirred_zoo("chain", plan=PLAN, interface="dni:every=3")
    again.load_state_dict(cut.state_dict())
    other = loops(again, "drop-in")
    for _ in range(4):
        step(x, x), other(x, x)
    assert all(map(torch.equal, cut.state_dict().values(), again.state_dict().values()))


def test_less_than_every_step_is_refused():
    with pytest.raises(SpecError, match="every is 1 or more, not 0"):
        Interface(every=0)
