"""One test for each kind of model code that was once captured wrong, or refused without a reason."""

import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni_fx
from dni_fx.errors import CaptureError, DniError, StageError
from tests.equality import assert_same, seeded
from tests.stirred import stirred_zoo
from tests.zoo import made


class Three(nn.Module):
    """Three layers; what happens between them is a subclass's."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)
        self.register_buffer("mean", torch.zeros(6))
        self.double()

    def between(self, h):
        return h

    def forward(self, x):
        return self.c(self.b(self.between(self.a(x).relu())).relu())


class MovingMean(Three):
    def between(self, h):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
        return h - self.mean


class Remembers(Three):
    def between(self, h):
        self.last = h.detach().mean(0)
        return h


class Gambles(Three):
    def between(self, h):
        return h * 2 if random.random() < 0.5 else h


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class Reverses(Three):
    def between(self, h):
        return Reverse.apply(h)


def test_a_buffer_that_is_assigned_in_forward_is_updated():
    """A traced proxy was stored as the buffer, and the assignment was lost."""
    model, (x,) = MovingMean(), made("chain")[1]
    cut = dni_fx.decouple(model, (x,))
    for _ in range(3):
        cut(x).sum().backward()
    assert model.mean.abs().sum() > 0
    assert dni_fx.verify(cut).ok


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (Remembers, "it sets last, which a graph would do once for all"),
        (Gambles, "it draws random numbers that no traced operation makes"),
    ],
)
def test_what_a_graph_would_leave_out_is_refused_by_every_front_end(model, says):
    """The value of the first batch was in the graph for ever."""
    with pytest.raises(CaptureError) as caught:
        dni_fx.capture(model(), made("chain")[1])
    assert str(caught.value).count(says) == 3


def test_a_custom_backward_that_a_graph_would_lose_is_noticed():
    """torch.export drops it in silence; outputs are equal and gradients have the wrong sign."""
    program = dni_fx.capture(Reverses(), made("chain")[1])
    said = "train: export: it calls the autograd function Reverse, whose backward would be lost"
    assert [line for line in program.history if line.startswith(said)]
    assert program.history[-1].startswith("train: dynamo: ")


def test_a_forward_that_sets_an_attribute_inside_of_a_submodule_keeps_it_whole():
    model, (x,) = nn.Sequential(nn.Linear(6, 6), Remembers(), nn.Linear(4, 2)).double(), made("chain")[1]
    cut = dni_fx.decouple(model, (x,), frontend="symbolic")
    for scale in (1, 2):
        assert_same(seeded(cut, (x * scale,)), seeded(model, (x * scale,)))
        assert_same(cut[1].last, model[1].last)


def test_a_layer_that_was_replaced_after_the_cut_is_trained():
    """Gradients went to the layer that had been there before, and `verify` found nothing wrong."""
    model, (x,) = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6)).double(), made("chain")[1]
    cut = dni_fx.decouple(model, (x,), plan="at:after=1", synthesizer="linear")
    for _ in range(2):
        cut(x).sum().backward()
    cut[0] = nn.Linear(6, 6).double()
    for _ in range(2):
        cut(x).sum().backward()
    assert cut[0].weight.grad.abs().sum() > 0
    assert dni_fx.stages(cut)[0].parameters()[0] is cut[0].weight


def test_a_hook_added_after_the_cut_runs_in_train_mode():
    """The hooks of a traced module are part of its graph, and the graph was made before."""
    model, (x,) = nn.Sequential(Three(), nn.Linear(4, 4)).double(), made("chain")[1]
    cut = dni_fx.decouple(model, (x,), plan="bottleneck")
    before = seeded(cut, (x,))
    cut[0].register_forward_hook(lambda module, args, out: out * 2)
    assert not torch.equal(seeded(cut, (x,)), before)
    assert_same(seeded(cut, (x,)), seeded(dni_fx.recouple(cut), (x,)))


def test_an_argument_that_a_graph_cannot_follow_is_refused():
    """An object was a constant: the tensors in it stayed those of the first batch."""

    class Takes(nn.Module):
        def forward(self, x, extra):
            return x

    with pytest.raises(CaptureError, match="cannot capture a call that passes a object: what is in it would"):
        dni_fx.capture(Takes(), (torch.zeros(2, 6), object()))


def test_a_backward_after_the_next_step_has_begun_says_so():
    """The learner had moved in place under the older guess: torch spoke of a version counter."""
    cut, (x,) = stirred_zoo("chain", plan="bottleneck", synthesizer="mlp")
    first, second = cut(x), cut(x)
    first.sum().backward()
    cut(x)
    with pytest.raises(StageError, match="was updated between a forward pass and its backward"):
        second.sum().backward()


def test_a_context_that_is_no_tensor_is_refused():
    cut, (x,) = stirred_zoo("chain", plan="bottleneck")
    with pytest.raises(DniError, match="dni_context is a tensor, and this is a list"):
        cut(x, dni_context=[0, 1])


def test_a_second_derivative_is_refused_and_not_forgotten():
    """A gradient penalty that was added to a loss was a constant."""
    cut, (x,) = stirred_zoo("chain", plan="bottleneck")
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(cut(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.LSTM(6, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x):
        return self.outer(self.inner(x)[0])


class SharedNorm(Three):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6).double()

    def forward(self, x):
        return self.c(self.norm(self.b(self.norm(self.a(x)).relu())).relu())


@pytest.mark.parametrize(
    ("model", "shape"), [(Recurrent, (3, 5, 6)), (SharedNorm, (4, 6))], ids=["tuple", "shared"]
)
def test_what_was_one_operation_and_is_several_in_a_file_is_loaded_as_it_was(model, shape, tmp_path):
    """Boundaries got other names in the file's graph, and writes to one buffer had to be in one stage."""
    model = model().double()
    cut = dni_fx.decouple(model, (torch.randn(shape, dtype=torch.float64),))
    dni_fx.save(cut, tmp_path / "cut.pt2")
    again = dni_fx.load(tmp_path / "cut.pt2")
    assert list(dni_fx.boundaries(again)) == list(dni_fx.boundaries(cut))
    assert dni_fx.verify(again).ok


def test_a_model_that_was_cut_at_its_first_batch_can_be_saved(tmp_path):
    """There was no example to export with, although a batch had been seen."""
    model, (x,) = made("chain")
    cut = dni_fx.decouple(model)
    F.mse_loss(cut(x), torch.zeros_like(x)).backward()
    dni_fx.save(cut, tmp_path / "cut.pt2")
    assert_same(dni_fx.load(tmp_path / "cut.pt2").eval()(x), model.eval()(x))


def test_training_leaves_parts_in_eval_mode_that_were():
    """`train` put all parts into train mode, frozen batch norms included."""
    model, (x,) = (
        nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 6)).double(),
        made("chain")[1],
    )
    cut = dni_fx.decouple(model, (x,))
    cut[1].eval()
    dni_fx.train(cut, [(x, x)], loss=F.mse_loss, progress=False)
    assert not cut[1].training


def test_a_model_that_changed_its_type_is_saved_with_an_example_of_that_type(tmp_path):
    """The example of the first capture no longer fitted the model."""
    model, (x,) = made("chain")
    cut = dni_fx.decouple(model.float(), (x.float(),)).double()
    dni_fx.save(cut, tmp_path / "cut.pt2")
    assert_same(dni_fx.load(tmp_path / "cut.pt2").eval()(x), cut.eval()(x))
    assert dni_fx.verify(cut).ok


def test_a_cut_model_is_not_cut_again_in_silence():
    """Its synthesizers, with all that they had learned, were gone."""
    cut, (x,) = stirred_zoo("chain", plan="bottleneck")
    with pytest.raises(DniError, match="this model is decoupled already, and its synthesizers would be lost"):
        dni_fx.decouple(cut, (x,))


def test_verify_refuses_an_example_without_samples():
    """Seven checks were fine, and nothing had been compared."""
    cut, (x,) = stirred_zoo("chain", plan="bottleneck")
    with pytest.raises(DniError, match="an example without samples proves nothing"):
        dni_fx.verify(cut, x[:0])


def test_a_loss_that_is_not_finite_gives_a_warning():
    cut, (x,) = stirred_zoo("chain", plan="bottleneck")
    with pytest.warns(UserWarning, match="the loss of epoch 1 is nan"):
        dni_fx.train(cut, [(x * torch.nan, x)], loss=F.mse_loss, progress=False)
