"""Bugs of synthesizers, one test each, with why."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni_fx
from dni_fx.errors import StageError
from tests.learners import perturb


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 5)).double()


def batch():
    torch.manual_seed(1)
    return torch.randn(8, 6).double(), torch.randint(5, (8,))


def trained(cut, steps=6, runtime="backprop", **options):
    x, y = batch()
    sgd = lambda parameters: torch.optim.SGD(parameters, lr=0.1)  # noqa: E731
    given = {"loss": F.cross_entropy, "optimizer": sgd, "labels_as_context": True, "progress": False}
    return dni_fx.train(cut, [(x, y)] * steps, runtime=runtime, **given | options)


@pytest.mark.parametrize("synthesizer", ["mlp", "critic", "surrogate"])
def test_a_backward_through_a_learner_that_has_stepped_since_is_refused(synthesizer):
    # The fused kernel of Adam tells nobody that it has written, so wrong gradients went unseen.
    x, y = batch()
    cut = dni_fx.decouple(net(), (x,), plan="at:after=1+3", synthesizer=synthesizer)
    for dni in dni_fx.boundaries(cut).values():
        perturb(dni.learner)
    one, other = cut(x, dni_context=y), cut(x, dni_context=y)
    one.sum().backward()
    cut(x, dni_context=y)
    with pytest.raises(StageError, match="was updated between a forward pass and its backward"):
        other.sum().backward()


def test_sobolev_steps_once_a_step_in_every_runtime_and_to_the_same_weights():
    # The local runtime stepped it before the loss was there, and then once more by stale gradients.
    cuts = [dni_fx.decouple(net(), batch()[:1], plan="at:after=1+3", synthesizer="sobolev") for _ in range(2)]
    cuts[1].load_state_dict(cuts[0].state_dict())
    for cut, runtime in zip(cuts, ("backprop", "local"), strict=True):
        trained(cut, runtime=runtime)
        for dni in dni_fx.boundaries(cut).values():
            dni.step()  # a learner of the plain loop steps at the next forward
    ours, theirs = cuts
    for name, dni in dni_fx.boundaries(ours).items():
        other = dni_fx.boundaries(theirs)[name]
        assert int(dni.optimizer.steps) == int(other.optimizer.steps) == 6
        torch.testing.assert_close(dni.learner.state_dict(), other.learner.state_dict(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("synthesizer", ["sobolev", "local-head:regress=1", "critic", "mlp"])
@pytest.mark.parametrize("runtime", ["backprop", "local"])
def test_true_gradients_of_zero_leave_every_learner_finite(synthesizer, runtime):
    # A guess in its own units was divided by a unit of next to nothing.
    both = {"1*": synthesizer, "*": "zero"}
    cut = dni_fx.decouple(net(), batch()[:1], plan="at:after=1+3", synthesizer=both)
    for dni in dni_fx.boundaries(cut).values():
        perturb(dni.learner)
    trained(cut, runtime=runtime)
    assert all(tensor.isfinite().all() for tensor in cut.state_dict().values())


@pytest.mark.parametrize("synthesizer", ["local-head", "critic"])
def test_a_head_on_a_folded_batch_sends_the_gradient_of_its_loss(synthesizer):
    # It was multiplied by the 12 rows of the value, and divided by the 4 samples of the call.
    class Folds(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 5)

        def forward(self, x):
            return self.b(torch.tanh(self.a(x.flatten(0, 1))))

    torch.manual_seed(0)
    model, x, y = Folds().double(), torch.randn(4, 3, 6).double(), torch.randint(5, (12,))
    cut = dni_fx.decouple(model, (x,), plan="at:after=:tanh", synthesizer=synthesizer)
    (dni,) = dni_fx.boundaries(cut).values()
    perturb(dni.learner)
    below, head = copy.deepcopy((model.a, dni.learner.head))
    F.cross_entropy(cut(x, dni_context=y), y).backward()
    head.loss(torch.tanh(below(x.flatten(0, 1))), y).backward()
    torch.testing.assert_close(model.a.weight.grad, below.weight.grad, rtol=1e-12, atol=0)


@pytest.mark.parametrize("runtime", ["backprop", "local"])
def test_learners_without_an_optimizer_are_trained_by_the_runtimes(runtime):
    # The local runtime left their gradients to grow.
    cut = dni_fx.decouple(net(), batch()[:1], plan="at:after=1+3", synthesizer="linear", interface="dni:lr=0")
    before = {name: copy.deepcopy(dni.learner.state_dict()) for name, dni in dni_fx.boundaries(cut).items()}
    trained(cut, runtime=runtime)
    for name, dni in dni_fx.boundaries(cut).items():
        assert not torch.equal(dni.learner.state_dict()["layer.weight"], before[name]["layer.weight"])


@pytest.mark.parametrize("synthesizer", ["critic", "local-head", "sobolev", "surrogate", "delayed", "auto"])
def test_every_synthesizer_can_be_verified_with_labels_and_without(synthesizer):
    # What needs labels or the loss was refused.
    x, y = batch()
    cut = dni_fx.decouple(net(), (x,), plan="at:after=1+3", synthesizer=synthesizer)
    for report in (dni_fx.verify(cut), dni_fx.verify(cut, (x,), context=y)):
        assert report.ok, report


def test_a_guard_goes_on_from_a_file_to_the_bit():
    # The smoothed cosine was kept in double precision and saved in single.
    x, y = batch()
    cut = dni_fx.decouple(net(), (x,), plan="at:after=1+3", synthesizer="linear")
    trained(cut)
    twin = dni_fx.decouple(net(), (x,), plan="at:after=1+3", synthesizer="linear")
    twin.load_state_dict(copy.deepcopy(cut.state_dict()))
    for each in (cut, twin):
        F.cross_entropy(each(x), y).backward()
    for name, dni in dni_fx.boundaries(cut).items():
        assert torch.equal(dni.guard.state, dni_fx.boundaries(twin)[name].guard.state)


def test_labels_of_pixels_are_told_of_a_grid_and_a_value_without_batch_of_itself():
    image = dni_fx.decouple(
        nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 5, 1)),
        (torch.randn(2, 3, 8, 8),),
        plan="at:after=1",
        synthesizer="local-head",
    )
    with pytest.raises(Exception, match="Labels are \\(batch,\\) or with grid=1 one for each position"):
        image(torch.randn(2, 3, 8, 8), dni_context=torch.zeros(2, 8, 8, dtype=torch.long))
