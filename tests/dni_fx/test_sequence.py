"""What looks along a sequence, how far, and which labels it reads."""

import re

import pytest
import torch
import torch.nn.functional as F

from dni_fx.errors import SynthesizerError
from dni_fx.synthesizers import SYNTHESIZERS
from dni_fx.synthesizers.mlp import MLP
from dni_fx.synthesizers.sequence import Sequence
from passes import SpecError, parse
from tests.learners import guess_of, perturb, spec_of

TIME, CLASSES = 9, 5
SHAPE = (4, TIME, 8)
SPEC = spec_of(SHAPE, 2, classes=CLASSES)
AT = "at encoder_layers_0 (after encoder.layers.0)"


def value():
    return torch.randn(SHAPE, dtype=torch.float64)


def test_mixing_none_is_an_mlp():
    ours, mlp = Sequence(depth=2, mixing="none").build(SPEC), perturb(MLP(depth=2).build(SPEC))
    ours.load_state_dict(mlp.state_dict())
    at, labels = value(), torch.randint(CLASSES, (4, TIME))
    assert torch.equal(guess_of(ours, at, labels), guess_of(mlp, at, labels))


@pytest.mark.parametrize(
    ("choice", "reach"),
    [
        (Sequence(), TIME),
        (Sequence(mixing="conv"), 2),
        (Sequence(mixing="conv", kernel=3, depth=3), 3),
        (Sequence(mixing="none"), 0),
    ],
    ids=str,
)
def test_a_guess_looks_as_far_into_past_and_future_as_its_mixing_does(choice, reach):
    learner, before = perturb(choice.build(SPEC)), value()
    for changed in (0, TIME // 2, TIME - 1):
        after = before.clone()
        after[:, changed] = torch.randn(4, 8)
        differs = (guess_of(learner, before) != guess_of(learner, after)).any(-1)
        assert differs.tolist() == [[abs(at - changed) <= reach for at in range(TIME)]] * 4


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("mixing", ["attention", "conv", "none"])
def test_any_length_will_do_after_any_other(mixing, batch):
    learner = perturb(Sequence(mixing=mixing).build(SPEC))
    for time in (1, 2, 40):
        at, labels = torch.randn(batch, time, 8, dtype=torch.float64), torch.randint(CLASSES, (batch, time))
        assert guess_of(learner, at, labels).shape == at.shape


def test_attention_tells_the_order_of_tokens():
    learner, at = perturb(Sequence().build(SPEC)), value()
    assert not torch.allclose(guess_of(learner, at.flip(1)), guess_of(learner, at).flip(1))


@pytest.mark.parametrize(
    ("hidden", "asked", "heads"), [(64, 4, 4), (6, 4, 3), (7, 4, 1), (2, 4, 2), (6, 1, 1)]
)
def test_heads_are_lowered_to_a_divisor_of_the_width(hidden, asked, heads):
    learner = Sequence(hidden=hidden, heads=asked).build(SPEC)
    assert learner.mixing[0].heads == heads
    assert guess_of(learner, value()).shape == SHAPE


@pytest.mark.parametrize(
    ("mixing", "least", "most"), [("attention", 0, 0.4), ("conv", 0, 0.4), ("none", 0.9, 2)]
)
def test_a_target_that_stands_one_token_later_is_learned_by_what_looks_there(mixing, least, most):
    learner = Sequence(mixing=mixing).build(spec_of((16, 8, 8), 2, dtype=torch.float32))
    optimizer = torch.optim.Adam(learner.parameters(), 3e-3)
    for _ in range(300):
        at = torch.randn(16, 8, 8)
        error = (guess_of(learner, at) - at.roll(-1, 1)).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    assert least <= error < most


@pytest.mark.parametrize("other", [1, 3, 20])
def test_attention_reads_the_labels_of_another_sequence(other):
    learner, at = perturb(Sequence(depth=2).build(SPEC)), value()
    labels = torch.randint(CLASSES, (4, other))
    guess = guess_of(learner, at, labels)
    last = labels.clone()
    last[:, -1] = (last[:, -1] + 1) % CLASSES
    assert (guess_of(learner, at, last) != guess).any(-1).all()
    floats = F.one_hot(labels, CLASSES).double()
    torch.testing.assert_close(guess_of(learner, at, floats), guess, rtol=0, atol=1e-12)
    guess.square().sum().backward()
    assert learner.context.table.grad.count_nonzero() > 0


def test_negative_labels_and_floats_of_zero_in_another_sequence_say_nothing():
    learner, at = perturb(Sequence().build(SPEC)), value()
    labels = torch.randint(CLASSES, (4, 3))
    padded = F.pad(labels, (0, 3), value=-100)
    floats = F.pad(F.one_hot(labels, CLASSES).double(), (0, 0, 0, 3))
    # What is masked adds zeros to a sum, in another order.
    for context in (padded, floats):
        torch.testing.assert_close(
            guess_of(learner, at, context), guess_of(learner, at, labels), rtol=0, atol=1e-12
        )
    nothing = torch.full((4, 3), -1)
    torch.testing.assert_close(guess_of(learner, at, nothing), guess_of(learner, at), rtol=0, atol=1e-12)


def test_the_order_of_labels_of_another_sequence_counts():
    learner, at = perturb(Sequence().build(SPEC)), value()
    labels = torch.tensor([[0, 1, 2]] * 4)
    assert not torch.allclose(guess_of(learner, at, labels), guess_of(learner, at, labels.flip(1)))


def test_regression_finds_what_the_labels_of_another_sequence_say():
    learner = Sequence().build(spec_of((10, 6, 8), 2, classes=CLASSES, dtype=torch.float32))
    optimizer, targets = torch.optim.Adam(learner.parameters(), 3e-3), torch.randn(CLASSES, 1, 1)
    for _ in range(300):
        labels = torch.randint(CLASSES, (10, 2))
        error = (guess_of(learner, torch.randn(10, 6, 8), labels) - targets[labels[:, 1]]).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    assert error < 0.1 * targets.square().mean()


@pytest.mark.parametrize(
    ("choice", "labels"),
    [
        (Sequence(mixing="conv"), (4, 3)),
        (Sequence(mixing="none"), (4, 3)),
        (Sequence(), (3, 5)),
        (Sequence(), (3,)),
        (Sequence(), ()),
    ],
    ids=str,
)
def test_labels_that_nothing_can_read_are_refused(choice, labels):
    says = (
        f"{choice} {AT} is given labels of shape {labels} for a value whose batch and positions are (4, 9)."
    )
    with pytest.raises(SynthesizerError, match=f"^{re.escape(says)}"):
        guess_of(choice.build(SPEC), value(), torch.zeros(labels, dtype=torch.long))


@pytest.mark.parametrize(
    ("context", "says"),
    [
        (torch.full((4, 3), 7), "is given the label 7, and its 5 classes are 0 to 4."),
        (torch.zeros(4, 3, 2), "is given floats of shape (4, 3, 2). Floats weigh the 5 classes"),
    ],
    ids=str,
)
def test_labels_of_another_sequence_are_of_the_known_classes(context, says):
    with pytest.raises(SynthesizerError, match=f"^{re.escape(f'sequence {AT} {says}')}"):
        guess_of(Sequence().build(SPEC), value(), context)


@pytest.mark.parametrize(
    ("shape", "feature", "batch"),
    [((4, 8), 1, 0), ((4, 3, 6, 6), 1, 0), ((4, 5, 8), 2, -1), ((4,), 0, 0)],
    ids=str,
)
def test_what_is_no_sequence_is_refused(shape, feature, batch):
    says = (
        f"cannot build sequence {AT}: the value has shape {shape}, its batch in dimension {batch} and its "
        f"features in dimension {feature}. A sequence is (batch, time, features), in any order. Use mlp or "
        "auto here."
    )
    with pytest.raises(SynthesizerError, match=f"^{re.escape(says)}$"):
        Sequence().build(spec_of(shape, feature, batch_dim=batch))


def test_options_survive_text():
    choice = Sequence(32, 2, "conv", 2, 7)
    assert str(choice) == "sequence:hidden=32,depth=2,mixing=conv,heads=2,kernel=7"
    assert parse(str(choice), SYNTHESIZERS) == choice
    assert [layer.out_features for layer in choice.build(SPEC).hidden] == [32, 32]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sequence:hidden=-1", "sequence.hidden is 1 or more, or 0 for as wide as the value, not -1."),
        ("sequence:depth=0", "sequence.depth is 1 or more, not 0."),
        ("sequence:heads=0", "sequence.heads is 1 or more, not 0."),
        ("sequence:kernel=0", "sequence.kernel is 1 or more, not 0."),
        ("sequence:kernel=4", "sequence.kernel is odd, so that a token stands in its middle, not 4."),
        ("sequence:mixing=fourier", "sequence.mixing is attention, conv or none, not 'fourier'."),
    ],
)
def test_an_option_out_of_range_is_refused(text, says):
    with pytest.raises(SpecError, match=f"^{re.escape(says)}$"):
        parse(text, SYNTHESIZERS)
