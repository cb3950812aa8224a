"""Heads: their loss's gradient is the guess, and equals the algorithm written out by hand."""

import copy
import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni_fx
from dni_fx.errors import SynthesizerError
from dni_fx.synthesizers import SYNTHESIZERS
from dni_fx.synthesizers.scores import Scores
from passes import SpecError, parse
from tests.learners import perturb, spec_of

CLASSES = 5


def learner_of(text, shape=(4, 16), feature=1, **facts):
    return perturb(parse(text, SYNTHESIZERS).build(spec_of(shape, feature, classes=CLASSES, **facts)))


def by_hand(head, value, labels, width=16):
    """The mean loss of a linear head on a value, behind a layer norm."""
    return F.cross_entropy(
        F.linear(F.layer_norm(value, (width,)), head.scores.weight, head.scores.bias), labels
    )


def task():
    torch.manual_seed(0)
    below = nn.Sequential(nn.Linear(6, 16), nn.Tanh())
    model = nn.Sequential(below, nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, CLASSES))).double()
    return model, torch.randn(7, 6).double(), torch.randint(CLASSES, (7,))


@pytest.mark.parametrize("how", ["drop-in", "backprop", "local"])
def test_a_step_with_a_local_head_is_greedy_learning_written_out(how):
    model, x, y = task()
    cut = dni_fx.decouple(model, (x,), plan="at:after=0", synthesizer="local-head", interface="dni:lr=0")
    (dni,) = dni_fx.boundaries(cut).values()
    perturb(dni.learner).double()
    below, above, head = copy.deepcopy((model[0], model[1], dni.learner.head))
    value = below(x)
    by_hand(head, value, y).backward()  # the stage and its head learn from the head's loss
    F.cross_entropy(above(value.detach()), y).backward()
    parameters = [*model.parameters(), *dni.learner.parameters()]
    before = [p.detach().clone() for p in parameters]
    if how == "drop-in":
        F.cross_entropy(cut(x, dni_context=y), y).backward()
        ours = [p.grad for p in parameters]
    else:
        sgd = lambda parameters: torch.optim.SGD(parameters, lr=1.0)  # noqa: E731
        options = {"runtime": how, "optimizer": sgd, "labels_as_context": True, "progress": False}
        dni_fx.train(cut, [(x, y)], loss=F.cross_entropy, **options)
        ours = [old - new for old, new in zip(before, parameters, strict=True)]
    theirs = [p.grad for p in (*below.parameters(), *above.parameters(), *head.parameters())]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("text", "own"), [("critic", 0.0), ("local-head:regress=2", 0.5)])
def test_a_head_that_is_regressed_minimizes_the_distance_of_both_gradients(text, own):
    model, x, y = task()
    cut = dni_fx.decouple(model, (x,), plan="at:after=0", synthesizer=text, interface="dni:lr=0")
    (dni,) = dni_fx.boundaries(cut).values()
    perturb(dni.learner).double()
    head = copy.deepcopy(dni.learner.head)
    F.cross_entropy(cut(x, dni_context=y), y).backward()
    value = model[0](x).detach().requires_grad_()
    true = torch.autograd.grad(F.cross_entropy(model[1](value), y), value)[0] * len(x)
    loss = by_hand(head, value, y)
    guess = torch.autograd.grad(loss * len(x), value, create_graph=True)[0]
    unit = true.square().mean().sqrt()
    (((guess - true) / unit).square().mean() + own * loss).backward()
    # The unit is kept in float32.
    for ours, theirs in zip(dni.learner.parameters(), head.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(dni.scale.units()[0].double(), unit, rtol=1e-6, atol=0)


def test_what_a_local_head_sends_does_not_depend_on_the_scale_of_the_true_gradient():
    model, x, y = task()
    found = []
    for factor in (1.0, 1e6):
        cut = dni_fx.decouple(copy.deepcopy(model), (x,), plan="at:after=0", synthesizer="local-head")
        for dni in dni_fx.boundaries(cut).values():
            perturb(torch.manual_seed(0) and dni.learner)
        (F.cross_entropy(cut(x, dni_context=y), y) * factor).backward()
        found.append(cut[0][0].weight.grad)
    assert torch.equal(*found)
    assert found[0].any()


@pytest.mark.parametrize(
    ("shape", "feature", "labels"),
    [((4, 16), 1, (4,)), ((4, 3, 16), 2, (4, 3)), ((4, 3, 16), 2, (4,)), ((4, 16, 6, 6), 1, (4,))],
    ids=str,
)
@pytest.mark.parametrize("text", ["local-head", "critic", "surrogate", "local-head:depth=2,rank=3"])
def test_the_guess_is_the_gradient_of_the_heads_own_loss(text, shape, feature, labels):
    learner = learner_of(text, shape, feature)
    value, context = torch.randn(shape, dtype=torch.float64), torch.randint(CLASSES, labels)
    guess = learner((value,), context)
    leaf = value.clone().requires_grad_()
    loss = learner.head.loss(learner.head.layout.join((leaf,)), context)
    (wanted,) = torch.autograd.grad(loss, leaf)
    assert guess.natural
    torch.testing.assert_close(guess.gradients[0], wanted, rtol=0, atol=1e-14)
    assert wanted.any()


def test_labels_of_pixels_need_a_grid_of_one():
    value, labels = torch.randn(4, 8, 6, 6, dtype=torch.float64), torch.randint(CLASSES, (4, 6, 6))
    learner = learner_of("local-head:grid=1", (4, 8, 6, 6))
    pixels = F.layer_norm(value.movedim(1, -1), (8,)).flatten(0, 2).requires_grad_()
    scores = learner.head.scores
    wanted = F.cross_entropy(F.linear(pixels, scores.weight, scores.bias), labels.flatten())
    found = learner.head.loss(learner.head.layout.join((value,)), labels)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-14)
    with pytest.raises(
        SynthesizerError, match=re.escape("given labels of shape (4, 6, 6) for a value whose")
    ):
        learner_of("local-head", (4, 8, 6, 6))((value,), labels)


def test_a_negative_label_is_none():
    learner = learner_of("local-head", (4, 3, 16), 2)
    value, labels = torch.randn(4, 3, 16, dtype=torch.float64), torch.randint(CLASSES, (4, 3))
    labels[1] = -100
    labels[2, 1] = -1
    (guess,) = learner((value,), labels).gradients
    assert not guess[1].any()
    assert not guess[2, 1].any()
    assert guess[0].any()
    alone = learner((value,), torch.full((4, 3), -1)).gradients[0]
    assert torch.equal(alone, torch.zeros_like(alone))


@pytest.mark.parametrize("task", ["auto", "mse"])
def test_floats_are_targets_of_a_squared_error(task):
    learner = learner_of(f"local-head:task={task}")
    value, target = torch.randn(4, 16).double(), torch.randn(4, CLASSES).double()
    scores = learner.head.scores
    wanted = F.mse_loss(F.linear(F.layer_norm(value, (16,)), scores.weight, scores.bias), target)
    torch.testing.assert_close(learner.head.loss(value, target), wanted, rtol=0, atol=1e-14)


def test_probabilities_are_targets_of_a_cross_entropy_if_said_so():
    learner = learner_of("local-head:task=cross-entropy")
    value, labels = torch.randn(4, 16).double(), torch.randint(CLASSES, (4,))
    ours = learner.head.loss(value, F.one_hot(labels, CLASSES).double())
    torch.testing.assert_close(ours, learner.head.loss(value, labels), rtol=0, atol=1e-14)


def test_a_sampled_loss_over_every_class_there_is_is_the_whole_loss():
    torch.manual_seed(0)
    sampled, whole = (perturb(Scores(8, 12, 0, samples, torch.float64)) for samples in (6, 0))
    whole.load_state_dict(sampled.state_dict())
    features, labels = torch.randn(40, 8).double(), torch.arange(40) % 12
    ours, theirs = sampled.cross_entropy(features, labels), whole.cross_entropy(features, labels)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)


def test_a_sampled_loss_is_near_the_whole_one_and_learns_from_a_part_of_the_classes():
    torch.manual_seed(0)
    sampled = perturb(Scores(8, 1000, 0, 200, torch.float64))
    features, labels = torch.randn(64, 8).double(), torch.randint(1000, (64,))
    ours = sampled.cross_entropy(features, labels)
    sampled.samples = 0
    theirs = sampled.cross_entropy(features, labels)
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=0.1)
    sampled.samples = 200
    sampled.cross_entropy(features, labels).backward()
    assert 0 < int(sampled.weight.grad.any(1).sum()) <= 64 + 200


def test_auto_leaves_out_a_head_that_costs_more_than_its_stage():
    auto = SYNTHESIZERS.get("auto")()
    spec = lambda cost, classes: replace(spec_of((4, 16), 1, classes=classes), cost=cost)  # noqa: E731
    whole = 2 * 4 * 16 * 5000
    assert str(auto.head(spec(whole, 5000))) == "local-head"
    assert str(auto.head(spec(whole - 1, 5000))) == "local-head:rank=4"
    assert str(auto.head(spec(2 * 4 * 16 * 1100, 5000))) == "local-head:samples=1024"
    assert auto.head(spec(100, 5000)) is None
    assert str(auto.head(spec(0, 5000))) == "local-head"
    assert auto.head(spec(whole, 0)) is None


def test_auto_asks_the_head_only_where_there_are_labels_for_it():
    learner = learner_of("auto", (4, 3, 16), 2)
    value = torch.randn(4, 3, 16, dtype=torch.float64)
    assert learner((value,), torch.randint(CLASSES, (4, 3))).natural
    assert learner((value,), torch.randint(CLASSES, (4,))).natural
    assert not learner((value,), None).natural
    assert not learner((value,), torch.rand(4, 3, CLASSES)).natural


@pytest.mark.parametrize("name", ["critic", "local-head"])
def test_without_labels_a_head_says_what_to_do(name):
    model, x, _ = task()
    cut = dni_fx.decouple(model, (x,), plan="at:after=0", synthesizer=name)
    with pytest.raises(SynthesizerError) as caught:
        cut(x)
    assert str(caught.value) == (
        f"{name} at 0_1 (after 0.1) guesses from the labels, and there are none. Pass dni_context= with "
        "every batch, name the input of the model that holds them with context=, or choose mlp."
    )


def test_labels_that_a_head_has_no_output_for_are_told():
    learner = learner_of("local-head")
    with pytest.raises(SynthesizerError, match="is given the label 9, and its 5 classes are 0 to 4"):
        learner((torch.randn(4, 16).double(),), torch.tensor([0, 1, 2, 9]))


def test_a_head_of_unknown_outputs_is_refused():
    with pytest.raises(SynthesizerError, match="it is not known how many outputs the model has"):
        parse("critic", SYNTHESIZERS).build(spec_of((4, 16), 1))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("critic:task=hinge", "critic.task is one of auto, cross-entropy, mse, not 'hinge'."),
        ("local-head:regress=-1", "local-head.regress is 0 or more, not -1.0."),
        ("critic:rank=-1", "critic.rank is 0 or more, not -1."),
        ("sobolev:depth=0", "sobolev.depth is 1 or more, not 0."),
    ],
)
def test_an_option_out_of_range_is_refused(text, says):
    with pytest.raises(SpecError, match=re.escape(says)):
        parse(text, SYNTHESIZERS)


def test_sobolev_is_refused_where_nobody_tells_the_loss():
    model, x, y = task()
    cut = dni_fx.decouple(model, (x,), plan="at:after=0", synthesizer="sobolev")
    with pytest.raises(SynthesizerError) as caught:
        cut(x, dni_context=y)
    assert str(caught.value) == (
        "sobolev at 0_1 (after 0.1) learns from the loss, which a loop of your own does not tell. Train with "
        "dni_fx.train, or choose critic."
    )


@pytest.mark.parametrize("runtime", ["backprop", "local"])
@pytest.mark.parametrize("labels", [True, False])
def test_sobolev_learns_the_loss_and_its_gradient(runtime, labels):
    model, x, y = task()
    cut = dni_fx.decouple(model, (x,), plan="at:after=0", synthesizer="sobolev", interface="dni:lr=0.01")
    frozen = lambda parameters: torch.optim.SGD(parameters, lr=0.0)  # noqa: E731
    found = dni_fx.train(
        cut,
        [(x, y)] * 100,
        loss=F.cross_entropy,
        runtime=runtime,
        optimizer=frozen,
        epochs=4,
        labels_as_context=labels,
        progress=False,
    )
    (dni,) = dni_fx.boundaries(cut).values()
    value = model[0](x).detach()
    loss = dni.learner((value,), y if labels else None).loss
    assert float(loss.detach()) == pytest.approx(found.epochs[-1].loss, rel=0.05)
    assert dni.diagnosis.cosine > 0.8


def test_a_surrogate_needs_no_labels():
    learner = parse("surrogate", SYNTHESIZERS).build(spec_of((64, 16), 1))
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(learner.parameters(), 1e-2)
    turn = torch.randn(16, 16, dtype=torch.float64) / 4
    errors = []
    for _ in range(300):
        value = torch.randn(64, 16, dtype=torch.float64)
        target = torch.tanh(value @ turn)
        error = (64 * learner((value,), None).gradients[0] - target).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(float(error.detach()))
    assert errors[-1] < 0.7 * errors[0]
