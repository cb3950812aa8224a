"""One loss.backward() through a DNI is the paper's two-sided step written out."""

import copy
import re
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni_fx
from dni_fx.dni import DNI
from dni_fx.errors import StageError, SynthesizerError
from dni_fx.interface import Interface
from dni_fx.runtimes.backprop import Backprop
from dni_fx.runtimes.local import Local
from dni_fx.runtimes.recipe import Recipe
from dni_fx.step import Step
from dni_fx.synthesizers import SYNTHESIZERS
from dni_fx.synthesizers.base import Guess, Learner, Synthesizer
from passes import parse
from tests.learners import perturb, spec_of
from tests.stirred import stir

BATCH, WIDTH, MEMORY = 5, 4, 0.99
SPEC = spec_of((BATCH, WIDTH), 1)


class Affine(Learner):
    def __init__(self, out=WIDTH):
        super().__init__()
        self.layer = nn.Linear(WIDTH, out, dtype=torch.float64)

    def forward(self, values, context):
        return Guess((self.layer(values[0]),))


@dataclass(frozen=True)
class OneLayer(Synthesizer):
    name = "one-layer"

    out: int = WIDTH

    def build(self, spec):
        return Affine(self.out)


def node(out=WIDTH, step=None, **interface):
    return DNI(SPEC, OneLayer(out), Interface(**interface), step or Step(batch=BATCH))


def task():
    model = nn.Sequential(
        nn.Linear(WIDTH, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)
    ).double()
    return model, torch.randn(BATCH, WIDTH).double(), torch.randn(BATCH, 3).double()


def unit_of(dni):
    return (dni.scale.mean_square.double() / (1 - MEMORY ** int(dni.scale.seen))).sqrt()


def by_hand(model, dni, x, target, scale=1.0):
    """Gradients of the stage below, the stage above and the learner, each of them from its own loss."""
    below, above, learner = copy.deepcopy((model[:2], model[2:5], dni.learner))
    value = below(x)
    (raw,) = learner((value.detach(),), None).gradients
    value.backward(scale * unit_of(dni) * raw.detach() / BATCH)
    arrived = value.detach().requires_grad_()
    F.mse_loss(above(arrived), target).backward()
    true = arrived.grad * BATCH
    mean_square = torch.lerp(dni.scale.mean_square, true.square().mean(), 1 - MEMORY)
    unit = (mean_square / (1 - MEMORY ** (int(dni.scale.seen) + 1))).sqrt()
    (raw - true / unit).square().mean().backward()
    return [[p.grad for p in part.parameters()] for part in (below, above, learner)]


@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("how", ["drop-in", "backprop", "local"])
def test_one_backward_is_the_two_sided_step_written_out(how, scale):
    model, x, target = task()
    cut = dni_fx.decouple(
        model, (x,), plan="at:after=1", synthesizer="mlp:hidden=7", interface=f"dni:lr=0,scale={scale}"
    )
    (dni,) = dni_fx.boundaries(stir(cut)).values()
    dni.double()  # its running mean square too, so that nothing is rounded to float32
    wanted = by_hand(model, dni, x, target, scale)
    learning = list(dni.learner.parameters())
    parameters = [*model.parameters(), *learning]
    before = [p.detach().clone() for p in parameters]
    if how == "drop-in":
        F.mse_loss(cut(x), target).backward()
        ours = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    else:
        recipe = Recipe(F.mse_loss, lambda parameters: torch.optim.SGD(parameters, lr=1.0))
        (Local() if how == "local" else Backprop()).start(cut, recipe).step((x,), {}, target, None)
        ours = [old - new for old, new in zip(before, parameters, strict=True)]
    torch.testing.assert_close(ours[: -len(learning)], [*wanted[0], *wanted[1]], rtol=0, atol=1e-15)
    unseen = [torch.zeros_like(p) if g is None else g for p, g in zip(learning, wanted[2], strict=True)]
    torch.testing.assert_close(ours[-len(learning) :], unseen, rtol=1e-12, atol=1e-15)


def test_a_node_by_itself_does_what_the_paper_says():
    dni = node(lr=0.0).double()
    dni.scale.mean_square.fill_(0.04 * (1 - MEMORY))
    dni.scale.seen.fill_(1)
    value = torch.randn(BATCH, WIDTH, dtype=torch.float64, requires_grad=True)
    up = torch.randn(BATCH, WIDTH, dtype=torch.float64)
    dni(value).backward(up)
    (raw,) = dni.learner((value.detach(),), None).gradients
    torch.testing.assert_close(value.grad, 0.2 * raw / BATCH, rtol=1e-12, atol=0)
    unit = (dni.scale.mean_square / (1 - MEMORY**2)).sqrt()
    wanted = torch.autograd.grad((raw - up * BATCH / unit).square().mean(), list(dni.learner.parameters()))
    torch.testing.assert_close([p.grad for p in dni.learner.parameters()], list(wanted), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("mix", [0.25, 0.9])
def test_mix_adds_true_and_synthetic(mix):
    both = [node(mix=m, lr=0.0, clip=0.0) for m in (0.0, mix)]
    perturb(both[0].learner)
    both[1].learner.load_state_dict(both[0].learner.state_dict())
    value = torch.randn(BATCH, WIDTH, dtype=torch.float64)
    true = torch.randn(BATCH, WIDTH, dtype=torch.float64)
    sent = []
    for dni in both:
        dni.double().scale.mean_square.fill_(0.04)
        dni.scale.seen.fill_(5)
        leaf = value.clone().requires_grad_()
        dni(leaf).backward(true)
        sent.append(leaf.grad)
    torch.testing.assert_close(sent[1], mix * true + (1 - mix) * sent[0], rtol=1e-12, atol=1e-15)


def test_the_learner_regresses_on_what_arrived_whatever_the_mix():
    grads = []
    for mix in (0.0, 0.5, 1.0):
        torch.manual_seed(0)
        dni = node(mix=mix, lr=0.0)
        value = torch.ones(BATCH, WIDTH, dtype=torch.float64, requires_grad=True)
        dni(value).backward(torch.arange(20.0, dtype=torch.float64).view(BATCH, WIDTH))
        grads.append([p.grad for p in dni.learner.parameters()])
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=0)
    torch.testing.assert_close(grads[0], grads[2], rtol=0, atol=0)


def test_clip_bounds_the_guess_in_units_of_the_root_mean_square():
    dni = node(clip=0.5)
    nn.init.constant_(dni.learner.layer.bias, 9.0)
    dni.scale.mean_square.fill_(0.04 * (1 - MEMORY))
    dni.scale.seen.fill_(1)
    value = torch.zeros(BATCH, WIDTH, dtype=torch.float64, requires_grad=True)
    dni(value).backward(torch.ones(BATCH, WIDTH, dtype=torch.float64))
    torch.testing.assert_close(value.grad, torch.full_like(value, 0.5 * 0.2 / BATCH), rtol=1e-6, atol=0)


def test_without_gradients_it_is_the_very_value():
    value = torch.randn(BATCH, WIDTH, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        assert node()(value) is value
    assert node()(value.detach()) is not value
    assert not node()(value.detach()).requires_grad


def test_a_fresh_learner_sends_nothing_until_it_has_seen_a_gradient():
    dni = node()
    value = torch.randn(BATCH, WIDTH, dtype=torch.float64, requires_grad=True)
    dni(value).backward(torch.ones(BATCH, WIDTH, dtype=torch.float64))
    assert not value.grad.any()
    dni(value).sum().backward()
    assert value.grad.any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_a_target_that_is_not_finite_moves_neither_learner_nor_mean_square(bad):
    dni = node(lr=0.1)
    before = {name: value.clone() for name, value in dni.state_dict().items() if "guard" not in name}
    value = torch.randn(BATCH, WIDTH, dtype=torch.float64, requires_grad=True)
    true = torch.ones(BATCH, WIDTH, dtype=torch.float64)
    true[2, 1] = bad
    dni(value).backward(true)
    dni.step()
    after = {name: value for name, value in dni.state_dict().items() if "guard" not in name}
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    dni(value).sum().backward()
    dni.step()
    assert int(dni.scale.seen) == 1
    assert not torch.equal(dni.learner.layer.weight, before["learner.layer.weight"])


def test_warmup_sends_true_gradients_as_often_as_asked():
    dni = node(warmup=2)
    perturb(dni.learner)
    true = torch.randn(BATCH, WIDTH, dtype=torch.float64)
    exact = []
    for _ in range(4):
        value = torch.randn(BATCH, WIDTH, dtype=torch.float64, requires_grad=True)
        dni(value).backward(true)
        exact.append(torch.equal(value.grad, true))
    assert exact == [True, True, False, False]


def test_a_guess_of_the_wrong_shape_says_where():
    wrong = node(out=2)
    with pytest.raises(SynthesizerError) as caught:
        wrong(torch.randn(BATCH, WIDTH, dtype=torch.float64, requires_grad=True))
    assert str(caught.value) == (
        "at encoder_layers_0 (after encoder.layers.0) Affine returned (5, 2) for a value of shape (5, 4). "
        "A gradient has the shape of its value."
    )


def test_a_second_backward_is_refused():
    value = torch.randn(BATCH, WIDTH, dtype=torch.float64, requires_grad=True)
    total = node()(value).sum()
    total.backward(retain_graph=True)
    with pytest.raises(StageError) as caught:
        total.backward()
    assert str(caught.value) == (
        "a second backward pass reached encoder_layers_0. Its synthetic gradient was used up by the first "
        "one: run the forward pass again, or add the losses and call backward once."
    )


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"mix": 1.5}, "mix is between 0 (synthetic) and 1 (true), not 1.5."),
        ({"mix": -0.1}, "mix is between 0 (synthetic) and 1 (true), not -0.1."),
        ({"window": 0}, "window is 1 or more, not 0."),
        ({"beta1": 1.0}, "beta1 is 0 or more and below 1, not 1.0."),
        *(
            ({field: -1}, f"{field} is 0 or more, not -1.")
            for field in ("scale", "warmup", "fade", "clip", "lr", "decay", "guard", "classes")
        ),
    ],
)
def test_an_interface_outside_its_range_is_refused(wrong, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        Interface(**wrong)


def test_cosine_is_kept_only_when_asked():
    step = Step(batch=BATCH)
    dni = node(step=step)
    perturb(dni.learner)
    value = torch.randn(BATCH, WIDTH, dtype=torch.float64, requires_grad=True)
    dni(value).sum().backward()
    assert dni.diagnosis is None
    step.record = True
    true = torch.randn(BATCH, WIDTH, dtype=torch.float64)
    dni(value).backward(true)
    (raw,) = dni.learner((value.detach(),), None).gradients
    wanted = F.cosine_similarity(raw.flatten(), true.flatten(), dim=0)
    assert dni.diagnosis.cosine == pytest.approx(float(wanted.detach()), abs=1e-6)


def test_an_interface_that_is_changed_counts_from_then_on():
    dni = node(lr=0.1)
    true = torch.ones(BATCH, WIDTH, dtype=torch.float64)
    value = torch.randn(BATCH, WIDTH, dtype=torch.float64, requires_grad=True)
    dni.interface = Interface(mix=1.0, lr=1e-30)
    before = dni.learner.layer.weight.clone()
    dni(value).backward(true)
    dni.step()
    assert torch.equal(value.grad, true)
    torch.testing.assert_close(dni.learner.layer.weight, before, rtol=0, atol=1e-25)


@pytest.mark.parametrize("synthesizer", ["local-head", "local-head:regress=1", "critic"])
def test_the_gradient_of_a_head_goes_up_as_it_is_and_is_compared_per_sample(synthesizer):
    step = Step(context=torch.tensor([0, 1, 2, 0, 1]), batch=BATCH)
    choice = parse(synthesizer, SYNTHESIZERS)
    dni = DNI(spec_of((BATCH, WIDTH), 1, classes=3), choice, Interface(), step)
    perturb(dni.learner)
    value = torch.randn(BATCH, WIDTH)
    synthesis = dni.synthesize((value,))
    (own,) = synthesis.gradients
    assert dni.upward(synthesis, (value,), (None,), 0)[0].data_ptr() == own.data_ptr()
    step.record = True
    compared = dni.synthesize((value,))
    dni.regress(compared, (2 * own.detach(),))
    assert dni.diagnosis.cosine == pytest.approx(1)
    assert dni.diagnosis.error == pytest.approx(0.5)
    assert dni.diagnosis.scale == pytest.approx(2 * BATCH * float(own.detach().square().mean().sqrt()))
    step.gradient_scale = 4.0
    scaled = dni.synthesize((value,))
    (up,) = dni.upward(scaled, (value,), (None,), 0)
    torch.testing.assert_close(up, own.detach() * 4, rtol=0, atol=0)
