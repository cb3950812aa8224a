"""A synthesizer that does harm is taken out of service, with a warning."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F

import dni_fx
from dni_fx.guard import Guard
from tests.equality import assert_same, gradients
from tests.stirred import stirred_zoo
from tests.zoo import made

POINTED = "pointed away from the true ones, step after step"
BROKEN = "were not finite, or far too large, step after step"


def poisoned(how, interface="dni:guard=4,lr=1e-30"):
    """A cut chain, one of whose synthesizers was poisoned."""
    cut, inputs = stirred_zoo("chain", plan="balanced:stages=3", synthesizer="linear", interface=interface)
    target = next(iter(dni_fx.boundaries(cut).values()))
    with torch.no_grad():
        for parameter in target.learner.parameters():
            how(parameter)
    return cut, inputs, target


def steps(cut, inputs, count, **call):
    for _ in range(count):
        cut(*inputs).square().mean().backward()


def test_a_guess_that_is_not_finite_moves_nothing_and_is_told():
    cut, inputs, target = poisoned(lambda p: p.fill_(float("nan")))
    steps(cut, inputs, 3)
    assert not target.guard.locked
    assert all(p.grad.isfinite().all() for p in dni_fx.recouple(cut).parameters())
    with pytest.warns(UserWarning, match=f"{target.spec.name} {BROKEN}"):
        steps(cut, inputs, 1)
    assert target.guard.locked
    assert target.mix == 1


def test_a_locked_boundary_passes_the_true_gradient():
    cut, inputs, target = poisoned(lambda p: p.fill_(float("nan")))
    with pytest.warns(UserWarning, match=BROKEN):
        steps(cut, inputs, 4)
    exact = copy.deepcopy(cut)
    dni = dni_fx.boundaries(exact)[target.spec.name]
    dni.guard.release()
    dni.interface = dni_fx.Interface(mix=1.0, lr=1e-30)
    ours, theirs = gradients(cut, inputs), gradients(exact, inputs)
    for name, _ in dni_fx.recouple(cut).named_parameters():
        assert_same(ours[name], theirs[name])


def test_guesses_that_point_away_are_told_and_the_learner_goes_on_learning():
    _, _, target = poisoned(lambda p: None, "dni:guard=30,lr=0.003")
    true = torch.randn(6, dtype=torch.float64).expand(5, 6)
    value = torch.zeros(5, 6, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        target.learner.layer.weight.zero_()
        target.learner.layer.bias.copy_(-true[0])
    for _ in range(2):
        target(value).backward(true)
    with pytest.warns(UserWarning, match=POINTED):
        target(value).backward(true)  # the further they point away, the sooner
    before = target.learner.layer.bias.clone()
    target.step()
    assert not torch.equal(target.learner.layer.bias, before)
    target.guard.release()
    assert not target.guard.locked


def test_targets_that_are_not_finite_are_told():
    cut, inputs, _ = poisoned(lambda p: None)
    for _ in range(3):
        (cut(*inputs).sum() * float("inf")).backward()
    with pytest.warns(UserWarning, match=BROKEN):
        (cut(*inputs).sum() * float("inf")).backward()


def test_a_guess_that_is_far_too_large_is_told():
    cut, inputs, target = poisoned(lambda p: None)
    target.scale.mean_square.fill_(1e20)
    with torch.no_grad():
        target.learner.layer.bias.fill_(1.0)
    steps(cut, inputs, 3)
    with pytest.warns(UserWarning, match=BROKEN):
        steps(cut, inputs, 1)


def test_one_good_step_begins_the_count_anew():
    guard = Guard(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for cosine in (None, None, 0.5, None, None, 0.5, 0.0, -0.01, 0.4):
            guard.note("b", cosine)
    assert not guard.locked
    guard.note("b", None)
    guard.note("b", None)
    with pytest.warns(UserWarning, match="b were not finite, or far too large"):
        guard.note("b", None)


@pytest.mark.parametrize(("past", "most"), [(0, 17), (500, 25)])
def test_what_was_good_for_long_is_told_soon_after(past, most):
    guard = Guard(100)
    for _ in range(past):
        guard.note("b", 0.9)
    with pytest.warns(UserWarning, match=rf"{POINTED}, by a mean cosine of -0\.\d\d\d\. The boundary"):
        [guard.note("b", -0.15) for _ in range(most)]


def test_a_guess_larger_than_true_gradients_ever_are_is_told_though_it_points_the_right_way():
    _, _, target = poisoned(lambda p: None, "dni:guard=30,lr=1e-30")
    with torch.no_grad():
        target.learner.layer.weight.zero_()
        target.learner.layer.bias.fill_(3.9)
    target.interface = dni_fx.Interface(guard=30, lr=1e-30, mix=0.5)
    true = target.scale.units().double().expand(5, 6)
    value = torch.zeros(5, 6, dtype=torch.float64, requires_grad=True)
    for _ in range(30):
        target(value).backward(true)
    assert not target.guard.locked
    with torch.no_grad():
        target.learner.layer.bias.fill_(4.1)
    for _ in range(2):
        target(value).backward(true)
    with pytest.warns(UserWarning, match=f"{target.spec.name} {BROKEN}"):
        target(value).backward(true)


def test_a_patience_of_zero_never_locks():
    guard = Guard(0)
    for _ in range(500):
        guard.note("b", None)
    assert not guard.locked


def test_a_lock_is_saved_and_copied():
    cut, inputs, _ = poisoned(lambda p: p.fill_(float("nan")))
    with pytest.warns(UserWarning, match=BROKEN):
        steps(cut, inputs, 4)
    other, _ = stirred_zoo("chain", plan="balanced:stages=3", synthesizer="linear", interface="dni:guard=4")
    other.load_state_dict(cut.state_dict())
    for each in (other, copy.deepcopy(cut)):
        assert [dni.guard.locked for dni in dni_fx.boundaries(each).values()] == [True, False]


@pytest.mark.parametrize("synthesizer", ["zero", "oracle"])
def test_what_learns_nothing_is_never_locked(synthesizer):
    model, inputs = made("chain")
    cut = dni_fx.decouple(
        model, inputs, plan="balanced:stages=3", synthesizer=synthesizer, interface="dni:guard=2"
    )
    steps(cut, inputs, 6)
    assert not any(dni.guard.locked for dni in dni_fx.boundaries(cut).values())


def test_the_local_runtime_locks_the_stages_of_a_locked_boundary_again():
    alone = {"tanh_1": "dni:guard=4,lr=1e-30", "*": "dni:guard=0,lr=1e-30"}
    cut, inputs, target = poisoned(lambda p: p.fill_(float("nan")), alone)
    twin = copy.deepcopy(cut)
    batches = [(inputs, torch.zeros_like(inputs[0]))] * 8
    sgd = lambda parameters: torch.optim.SGD(parameters, lr=0.1)  # noqa: E731
    for each, runtime in ((cut, "local"), (twin, "backprop")):
        with pytest.warns(UserWarning, match=BROKEN):
            dni_fx.train(each, batches, loss=F.mse_loss, runtime=runtime, optimizer=sgd, progress=False)
        assert dni_fx.boundaries(each)[target.spec.name].guard.locked
    ours, theirs = dni_fx.recouple(cut).state_dict(), dni_fx.recouple(twin).state_dict()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
