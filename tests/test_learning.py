"""Synthesizers learn, by themselves, and nobody else moves them."""

import copy

import pytest
import torch
import torch.nn.functional as F

import dni_fx
from dni_fx.decoupled import cutting_of
from tests.stirred import stirred_zoo
from tests.zoo import made


def learners_of(cut):
    return {name: copy.deepcopy(dni.learner.state_dict()) for name, dni in dni_fx.boundaries(cut).items()}


def learned(key):
    """Whether a key of a state dict names something that changes only with what is learned."""
    return key.startswith("dni.") and "guard" not in key and key != "dni.steps"


@pytest.mark.parametrize(("synthesizer", "least"), [("linear", 0.5), ("mlp", 0.9)])
def test_on_a_fixed_task_the_guess_turns_towards_the_truth(synthesizer, least):
    model, (x,) = made("chain")
    x, y = torch.randn(16, x.shape[1]).double(), torch.randn(16, x.shape[1]).double()
    cut = dni_fx.decouple(
        model, (x,), plan="balanced:stages=3", synthesizer=synthesizer, interface="dni:lr=0.01"
    )
    cutting_of(cut).step.record = True
    history = []
    for _ in range(300):
        F.mse_loss(cut(x), y).backward()  # nobody steps: the gradients to guess stay the same
        history.append([dni.diagnosis.cosine for dni in dni_fx.boundaries(cut).values()])
    assert len(history[0]) == 2
    for first, last in zip(history[0], history[-1], strict=True):
        assert first == 0
        assert last > least


def test_every_learner_moves_over_a_few_steps_and_its_parameters_never_have_a_grad():
    cut, (x,) = stirred_zoo("residual", plan="balanced:stages=3", synthesizer="mlp")
    before = learners_of(cut)
    for _ in range(3):
        cut(x).square().mean().backward()
    for name, dni in dni_fx.boundaries(cut).items():
        for key, parameter in dni.learner.named_parameters():
            assert parameter.grad is None
            if key == "context.table":
                continue  # nobody gave labels
            assert not torch.equal(parameter, before[name][key]), key


def test_learners_move_at_the_start_of_a_forward_and_never_inside_a_backward():
    cut, (x,) = stirred_zoo("chain")
    before = learners_of(cut)
    cut(x).sum().backward()
    torch.testing.assert_close(learners_of(cut), before, rtol=0, atol=0)
    cut(x)
    after = learners_of(cut)
    assert any(not torch.equal(after[n][k], before[n][k]) for n in before for k in before[n])


@pytest.mark.parametrize("runtime", ["backprop", "local"])
def test_an_optimizer_of_the_user_never_moves_a_learner(runtime):
    model, (x,) = made("chain")
    cut = dni_fx.decouple(model, (x,), plan="balanced:stages=3", interface="dni:lr=1e-30")
    before = learners_of(cut)
    moved = [p.detach().clone() for p in model.parameters()]
    dni_fx.train(
        cut,
        [(x, torch.zeros_like(x))] * 3,
        loss=F.mse_loss,
        runtime=runtime,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.5),
        progress=False,
    )
    torch.testing.assert_close(learners_of(cut), before, rtol=0, atol=1e-25)
    assert all(not torch.equal(old, new) for old, new in zip(moved, model.parameters(), strict=True))


def test_an_optimizer_over_all_parameters_skips_the_learners():
    cut, (x,) = stirred_zoo("chain", interface="dni:lr=1e-30")
    optimizer = torch.optim.AdamW(cut.parameters(), lr=0.1, weight_decay=0.5)
    before = learners_of(cut)
    cut(x).sum().backward()
    optimizer.step()
    torch.testing.assert_close(learners_of(cut), before, rtol=0, atol=0)


def test_with_lr_0_the_gradients_wait_for_one_optimizer_of_the_user():
    cut, (x,) = stirred_zoo("chain", plan="balanced:stages=3", synthesizer="mlp", interface="dni:lr=0")
    groups = dni_fx.parameter_groups(cut)
    names = [f"dni.{name}" for name in dni_fx.boundaries(cut)]
    assert [group["name"] for group in groups] == ["stage 0", "stage 1", "stage 2", *names]
    assert {id(p) for group in groups for p in group["params"]} == {id(p) for p in cut.parameters()}
    optimizer = torch.optim.SGD(groups, lr=0.1)
    before = learners_of(cut)
    cut(x).sum().backward()
    cut(x)
    torch.testing.assert_close(learners_of(cut), before, rtol=0, atol=0)
    optimizer.step()
    after = learners_of(cut)
    assert all(
        not torch.equal(after[n][k], before[n][k]) for n in before for k in ("last.weight", "last.bias")
    )


def test_the_groups_hold_each_parameter_once_and_the_unused_ones_too():
    for name in ("tied-layer", "tied-weight", "never-read", "own-parameters"):
        model, inputs = made(name)
        cut = dni_fx.decouple(model, inputs, plan="balanced:stages=3")
        grouped = [id(p) for group in dni_fx.parameter_groups(cut) for p in group["params"]]
        assert len(grouped) == len(set(grouped)), name
        assert set(grouped) == {id(p) for p in model.parameters()}, name


def test_scaling_the_loss_and_telling_so_leaves_the_learning_as_it_was():
    ours, (x,) = stirred_zoo("chain", plan="balanced:stages=3")
    theirs = copy.deepcopy(ours)
    scale = 1024.0  # a power of two rounds nothing
    theirs.gradient_scale = scale
    ours(x).square().mean().backward()
    (theirs(x).square().mean() * scale).backward()
    for a, b in zip(dni_fx.recouple(ours).parameters(), dni_fx.recouple(theirs).parameters(), strict=True):
        torch.testing.assert_close(a.grad * scale, b.grad, rtol=0, atol=0)
        assert a.grad.any()
    ours(x), theirs(x)
    mine, other = ours.state_dict(), theirs.state_dict()
    torch.testing.assert_close(mine, other, rtol=0, atol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_teaches_the_learners_nothing(bad):
    cut, (x,) = stirred_zoo("chain", plan="bottleneck")
    before = cut.state_dict()
    before = {key: value.clone() for key, value in before.items() if learned(key)}
    (cut(x).sum() * bad).backward()
    cut(x)
    after = {key: value for key, value in cut.state_dict().items() if learned(key)}
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_guesses_do_not_depend_on_the_batch_size():
    """The same samples twice over: every gradient of a mean loss stays what it was."""
    cut, (x,) = stirred_zoo("chain", plan="balanced:stages=3")
    twin = copy.deepcopy(cut)
    cut(x).square().mean().backward()
    twin(torch.cat([x, x])).square().mean().backward()
    for a, b in zip(dni_fx.recouple(cut).parameters(), dni_fx.recouple(twin).parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-14)
    for a, b in zip(dni_fx.boundaries(cut).values(), dni_fx.boundaries(twin).values(), strict=True):
        torch.testing.assert_close(a.scale.mean_square, b.scale.mean_square, rtol=1e-6, atol=0)


def test_what_was_learned_reduces_the_loss_of_a_cut_model():
    torch.manual_seed(0)
    model, (x,) = made("chain")
    x = torch.randn(32, 6).double()
    y = torch.tanh(x @ torch.randn(6, 6).double())
    cut = dni_fx.decouple(model, (x,), plan="balanced:stages=3", interface="dni:lr=0.003")
    report = dni_fx.train(cut, [(x, y)] * 50, loss=F.mse_loss, runtime="local", epochs=4, progress=False)
    assert report.epochs[-1].loss < 0.8 * report.epochs[0].loss
    assert all(value > 0.3 for value in report.epochs[-1].cosine.values())
    assert "cosine(" in str(report)
