"""What the built-in synthesizers promise beyond the common contract, and what they refuse."""

import re

import pytest
import torch
import torch.nn.functional as F

from dni_fx.errors import SynthesizerError
from dni_fx.synthesizers import SYNTHESIZERS
from dni_fx.synthesizers.auto import Auto
from dni_fx.synthesizers.conv import Conv
from dni_fx.synthesizers.linear import Linear
from dni_fx.synthesizers.mlp import MLP
from dni_fx.synthesizers.sequence import Sequence
from passes import SpecError, parse
from tests.learners import guess_of, perturb, spec_of


def exactly(says):
    return f"^{re.escape(says)}$"


@pytest.mark.parametrize(
    ("choice", "shape", "feature"),
    [
        (MLP(32, 2, "gelu"), (4, 8), 1),
        (MLP(32, 1), (4, 5, 8), 2),
        (MLP(16, 3), (4, 3, 6, 6), 1),
        (MLP(16, 2, norm="none"), (4, 3, 6, 6), 1),
        (Conv(7, 5, 2), (4, 3, 6, 6), 1),
        (Conv(7, 1), (4, 3, 6), 1),
        (Conv(7, 3), (4, 3, 2, 6, 6), 1),
    ],
    ids=str,
)
def test_options_survive_text_and_are_carried_out(choice, shape, feature):
    assert parse(str(choice), SYNTHESIZERS) == choice
    learner = choice.build(spec_of(shape, feature))
    weights = [parameter for parameter in learner.parameters() if parameter.dim() > 1]
    assert len(weights) == choice.depth + 1
    assert {weight.shape[0] for weight in weights[:-1]} == {choice.hidden if isinstance(choice, MLP) else 7}
    kernels = {size for weight in weights for size in weight.shape[2:]}
    assert kernels == (set() if isinstance(choice, MLP) else {choice.kernel})
    value = torch.randn(shape, dtype=torch.float64)
    assert guess_of(perturb(learner), value).shape == shape


@pytest.mark.parametrize(("features", "width"), [(8, 64), (200, 200), (3000, 1024)])
def test_an_mlp_is_as_wide_as_its_value_within_bounds(features, width):
    assert MLP().build(spec_of((2, features), 1)).hidden[0].out_features == width


@pytest.mark.parametrize(("features", "width"), [(3, 16), (20, 20), (200, 128)])
def test_a_conv_has_as_many_channels_as_its_value_within_bounds(features, width):
    assert Conv().build(spec_of((2, features, 4), 1)).hidden[0].out_channels == width


def test_relu_and_gelu_are_different_guesses():
    one, other = (MLP(activation=name).build(spec_of((4, 8), 1)) for name in ("relu", "gelu"))
    other.load_state_dict(perturb(one).state_dict())
    value = torch.randn(4, 8, dtype=torch.float64)
    assert not torch.equal(guess_of(one, value), guess_of(other, value))


def test_a_linear_guess_without_a_norm_is_an_affine_map_of_the_value_as_it_is():
    choice = Linear("none")
    assert parse(str(choice), SYNTHESIZERS) == choice
    learner = perturb(choice.build(spec_of((4, 8), 1)))
    value = 5 * torch.randn(4, 8, dtype=torch.float64)
    assert torch.equal(guess_of(learner, value), learner.layer(value))


def test_an_mlp_without_norms_is_its_layers_and_activations_alone():
    learner = perturb(MLP(depth=2, norm="none").build(spec_of((4, 8), 1)))
    value = torch.randn(4, 8, dtype=torch.float64)
    inside = F.layer_norm(value, (8,))
    for layer in learner.hidden:
        inside = F.relu(layer(inside))
    assert torch.equal(guess_of(learner, value), learner.last(inside))


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 0, 2), (0, 2, 1)], ids=str)
@pytest.mark.parametrize("choice", [Linear(), MLP(), Sequence()], ids=str)
def test_the_place_of_batch_and_features_is_read_off_the_spec(choice, order):
    """A value (batch, time, features) has the same guess in any order of its dimensions."""
    value, labels = torch.randn(4, 5, 8, dtype=torch.float64), torch.randint(5, (4, 5))
    usual = perturb(choice.build(spec_of((4, 5, 8), 2, classes=5)))
    moved = value.permute(order)
    spec = spec_of(tuple(moved.shape), order.index(2), batch_dim=order.index(0), classes=5)
    other = choice.build(spec)
    other.load_state_dict(usual.state_dict())
    assert torch.equal(guess_of(other, moved, labels), guess_of(usual, value, labels).permute(order))


@pytest.mark.parametrize("choice", [Linear(), MLP()], ids=str)
def test_a_row_added_for_a_label_equals_a_one_hot_vector_concatenated(choice):
    learner = perturb(choice.build(spec_of((4, 8), 1, classes=5)))
    value, labels = torch.randn(4, 8, dtype=torch.float64), torch.arange(4)
    first = learner.layer if choice == Linear() else learner.hidden[0]
    wide = torch.nn.Linear(8 + 5, first.out_features, dtype=torch.float64)
    with torch.no_grad():
        wide.weight.copy_(torch.cat([first.weight, learner.context.table.T], 1))
        wide.bias.copy_(first.bias)
    after = wide(torch.cat([F.layer_norm(value, (8,)), F.one_hot(labels, 5).double()], 1))
    if choice == MLP():
        after = learner.last(F.relu(F.layer_norm(after, after.shape[1:])))
    torch.testing.assert_close(guess_of(learner, value, labels), after, rtol=0, atol=1e-12)


def test_linear_on_an_image_is_a_convolution_of_one_pixel():
    learner = perturb(Linear().build(spec_of((4, 8, 6, 6), 1)))
    value = torch.randn(4, 8, 6, 6, dtype=torch.float64)
    inside = F.layer_norm(value.movedim(1, -1), (8,)).movedim(-1, 1)
    expected = F.conv2d(inside, learner.layer.weight[:, :, None, None], learner.layer.bias)
    torch.testing.assert_close(guess_of(learner, value), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "feature", "batch", "chosen"),
    [
        ((4, 8), 1, 0, "mlp"),
        ((4, 5, 8), 2, 0, "mlp"),
        ((4, 8, 5), 1, 0, "conv"),
        ((4, 3, 6, 6), 1, 0, "conv"),
        ((4, 6, 6, 3), -1, 0, "mlp"),
        ((4, 3, 2, 6, 6), 1, 0, "conv"),
        ((5, 4, 8), 2, 1, "mlp"),
        ((8, 3, 5), 1, -1, "mlp"),
        ((4,), 0, 0, "mlp"),
        ((), -1, -1, "mlp"),
    ],
)
def test_auto_convolves_where_features_stand_before_space(shape, feature, batch, chosen):
    spec = spec_of(shape, feature, batch_dim=batch)
    assert Auto().choose(spec).name == chosen
    value = torch.randn(shape, dtype=torch.float64)
    assert guess_of(perturb(Auto().build(spec)), value).shape == shape


AT = "at encoder_layers_0 (after encoder.layers.0)"
FITS = (
    "for a value whose batch and positions are (4, 5). A context has the batch of the value and then none, "
    "some or all of its positions, from the left."
)
WEIGHTS = "Floats weigh the 5 classes, (batch, 5); labels that name a class are integers."
CLASS = 'and its 5 classes are 0 to 4. Say how many there are with interface="dni:classes=8".'


@pytest.mark.parametrize(
    ("context", "says"),
    [
        (torch.tensor([0, 1, 2]), f"labels of shape (3,) {FITS}"),
        (torch.zeros(4, 6, dtype=torch.long), f"labels of shape (4, 6) {FITS}"),
        (torch.tensor(1), f"labels of shape () {FITS}"),
        (torch.zeros(3, 5), f"floats of shape (3, 5) {FITS}"),
        (torch.zeros(5), f"floats of shape (5,) {FITS}"),
        (torch.zeros(4, 3), f"floats of shape (4, 3). {WEIGHTS}"),
        (torch.tensor([0, 7, 1, 2]), f"the label 7, {CLASS}"),
    ],
    ids=str,
)
def test_a_context_that_does_not_fit_is_refused(context, says):
    learner = MLP().build(spec_of((4, 5, 8), 2, classes=5))
    with pytest.raises(SynthesizerError, match=exactly(f"mlp {AT} is given {says}")):
        guess_of(learner, torch.randn(4, 5, 8), context)


def test_a_context_where_no_class_is_known_is_refused():
    says = (
        f"mlp {AT} is given a context of shape (4,) and was built for no classes. Say how many there are "
        'with interface="dni:classes=10", or pass no dni_context.'
    )
    with pytest.raises(SynthesizerError, match=exactly(says)):
        guess_of(MLP().build(spec_of((4, 5, 8), 2)), torch.randn(4, 5, 8), torch.arange(4))


def test_a_context_for_a_value_without_a_batch_is_refused():
    learner = MLP().build(spec_of((5, 8), 1, batch_dim=-1, classes=5))
    says = (
        f"mlp {AT} is given labels of shape (5,) for a value without a batch, which no label can speak of. "
        "Choose zero for this boundary, or cut elsewhere."
    )
    with pytest.raises(SynthesizerError, match=exactly(says)):
        guess_of(learner, torch.randn(5, 8), torch.arange(5))


@pytest.mark.parametrize(
    ("shape", "feature", "batch"), [((4, 8), 1, 0), ((4, 5, 8), 2, 0), ((4, 3, 8), 1, 2)], ids=str
)
def test_conv_refuses_what_has_no_space_behind_its_channels(shape, feature, batch):
    says = (
        f"cannot build conv {AT}: the value has shape {shape}, its batch in dimension {batch} and its "
        f"features in dimension {feature}. A convolution takes (batch, channels, *space) with one to three "
        "dimensions in space. Use mlp or auto here."
    )
    with pytest.raises(SynthesizerError, match=exactly(says)):
        Conv().build(spec_of(shape, feature, batch_dim=batch))


def test_a_value_that_is_not_of_real_numbers_is_refused():
    says = (
        f"cannot build linear {AT}: the value is torch.complex64, and only the gradients of floating-point "
        "values are learned. Use zero or oracle here, or cut elsewhere."
    )
    with pytest.raises(SynthesizerError, match=exactly(says)):
        Linear().build(spec_of((4, 8), 1, dtype=torch.complex64))


def test_features_that_follow_the_batch_are_refused():
    says = (
        f"cannot build mlp {AT}: its features, dimension 1 of (4, 8), follow the batch (2*b), and a learned "
        "map has a fixed width. Use zero or oracle here, or cut elsewhere."
    )
    with pytest.raises(SynthesizerError, match=exactly(says)):
        Auto().build(spec_of((4, 8), 1, dims=("b", "2*b")))


@pytest.mark.parametrize("choice", [Linear(), MLP(), Conv()], ids=str)
def test_a_value_of_another_width_is_refused(choice):
    says = (
        f"{choice} {AT} was built for 3 features and is given 4. Decouple the model anew with an example of "
        "this size."
    )
    with pytest.raises(SynthesizerError, match=exactly(says)):
        guess_of(choice.build(spec_of((4, 3, 6, 6), 1)), torch.randn(4, 4, 6, 6))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mlp:hidden=-1", "mlp.hidden is 1 or more, or 0 for as wide as the value, not -1."),
        ("mlp:depth=0", "mlp.depth is 1 or more, not 0. Use linear for no hidden layer."),
        ("mlp:activation=sine", "mlp.activation is relu or gelu, not 'sine'."),
        ("linear:norm=batch", "linear.norm is layer or none, not 'batch'."),
        ("mlp:norm=batch", "mlp.norm is layer or none, not 'batch'."),
        ("conv:channels=-1", "conv.channels is 1 or more, or 0 for as many as the value has, not -1."),
        ("conv:kernel=4", "conv.kernel is odd, so that a gradient has its value's size, not 4."),
        ("conv:depth=0", "conv.depth is 1 or more, not 0. Use linear for no hidden layer."),
    ],
)
def test_an_option_out_of_range_is_refused(text, says):
    with pytest.raises(SpecError, match=exactly(says)):
        parse(text, SYNTHESIZERS)
