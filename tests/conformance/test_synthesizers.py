"""What every registered synthesizer must do. A new one is tested by being registered."""

import copy
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F

from dni_fx.synthesizers import SYNTHESIZERS, Guess
from passes import parse
from tests.learners import built, guess_of, joint, perturb, seasoned, spec_of

CLASSES = 5
VECTOR, SEQUENCE, IMAGE = ((4, 8), 1), ((4, 5, 8), 2), ((4, 3, 6, 6), 1)
LAYOUTS = [VECTOR, SEQUENCE, IMAGE]
# Refused by conv; whatever maps features to features has to take them.
UNUSUAL = [((4,), 0), ((4, 6, 6, 8), 3), ((4, 1), 1)]
# Those that regress a guess of their own; what `auto` is to be lies with the boundary.
LEARNED = ["conv", "linear", "mlp", "sequence"]
TOKEN_BY_TOKEN = ["linear", "mlp"]
JOINT = [(VECTOR, ((4, 2), 1)), (SEQUENCE, ((4, 5, 3), 2)), (IMAGE, ((4, 5, 6, 6), 1))]


def spec_for(choice, shape, feature):
    """A boundary where no class is known, unless the synthesizer cannot guess without."""
    return spec_of(shape, feature, classes=CLASSES if choice.needs else 0)


def context_for(choice, batch):
    """None, unless the synthesizer cannot guess without: then integer labels."""
    return torch.arange(batch) % CLASSES if choice.needs else None


@pytest.fixture(autouse=True)
def _same_seed():
    torch.manual_seed(0)


@pytest.fixture(params=list(SYNTHESIZERS))
def choice(request):
    return SYNTHESIZERS.get(request.param)()


@pytest.fixture(params=LEARNED)
def learned(request):
    return SYNTHESIZERS.get(request.param)()


@pytest.mark.parametrize("batch", [4, 1, 7])
@pytest.mark.parametrize(("shape", "feature"), LAYOUTS + UNUSUAL, ids=str)
def test_a_guess_is_of_its_values_shape_and_dtype_and_starts_at_exactly_zero(choice, shape, feature, batch):
    learner = built(choice, spec_for(choice, shape, feature))
    for dtype in (torch.float64, torch.float32):
        value = torch.randn(batch, *shape[1:], dtype=dtype)
        guess = learner((value,), context_for(choice, batch))
        assert isinstance(guess, Guess)
        assert (guess.loss is not None) == (choice.needs == "loss")
        assert guess.gradients[0].dtype == dtype
        assert torch.equal(guess.gradients[0], torch.zeros_like(value))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("shape", "feature"), LAYOUTS, ids=str)
def test_a_learner_is_built_in_its_values_dtype_and_guesses_finite_numbers(choice, shape, feature, dtype):
    learner = built(choice, spec_of(shape, feature, dtype=dtype, classes=CLASSES))
    seasoned(learner, [shape], torch.arange(4))
    assert {parameter.dtype for parameter in learner.parameters()} <= {dtype}
    for size in (0.0, 1e-4, 1.0, 1e4):  # badly scaled activations are the usual ones
        guess = guess_of(learner, torch.randn(shape).to(dtype) * size, torch.arange(4))
        assert guess.dtype == dtype
        assert guess.isfinite().all()


@pytest.mark.parametrize(("shape", "feature"), LAYOUTS, ids=str)
def test_autocast_changes_a_guess_only_by_rounding(choice, shape, feature):
    value, labels = torch.randn(shape), torch.arange(4)
    learner = built(choice, spec_of(shape, feature, dtype=torch.float32, classes=CLASSES))
    seasoned(learner, [shape], labels)
    exact = guess_of(learner, value, labels)
    with torch.autocast("cpu", torch.bfloat16):
        for each in (value, value.bfloat16()):
            guess = guess_of(learner, each, labels)
            assert guess.dtype == each.dtype
            # bfloat16 keeps 8 bits, and the input, two layers and the output are rounded.
            assert (guess - exact).norm() <= 2**-5 * exact.norm()


@pytest.mark.parametrize(("shape", "feature"), LAYOUTS, ids=str)
def test_a_guess_for_a_sample_does_not_depend_on_the_other_samples(choice, shape, feature):
    value, labels = torch.randn(shape, dtype=torch.float64), torch.arange(4)
    learner = seasoned(built(choice, spec_of(shape, feature, classes=CLASSES)), [shape], labels)
    whole = guess_of(learner, value, labels)
    alone = torch.cat([guess_of(learner, value[i : i + 1], labels[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(alone, whole, rtol=0, atol=1e-12)  # another batch, another summation order


@pytest.mark.parametrize(("shape", "feature"), LAYOUTS, ids=str)
def test_two_boundaries_do_not_share_parameters(choice, shape, feature):
    spec = spec_of(shape, feature, classes=CLASSES)
    ours, theirs = built(choice, spec), built(choice, spec)
    assert not {p.data_ptr() for p in ours.parameters()} & {p.data_ptr() for p in theirs.parameters()}


@pytest.mark.parametrize(("shape", "feature"), LAYOUTS, ids=str)
def test_the_same_seed_builds_the_same_learner_on_the_cpu(choice, shape, feature):
    spec = spec_of(shape, feature, classes=CLASSES)
    torch.manual_seed(7)
    ours = built(choice, spec).state_dict()
    torch.manual_seed(7)
    with torch.device("meta"):
        theirs = built(choice, spec).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_choice_is_data(choice):
    assert type(choice)() == choice
    assert hash(choice) == hash(type(choice)())
    assert parse(str(choice), SYNTHESIZERS) == choice
    assert pickle.loads(pickle.dumps(choice)) == choice


@pytest.mark.parametrize(("shape", "feature"), LAYOUTS, ids=str)
def test_a_forward_draws_no_random_numbers_and_keeps_no_state(choice, shape, feature):
    labels = torch.arange(4)
    learner = seasoned(built(choice, spec_of(shape, feature, classes=CLASSES)), [shape], labels)
    value = torch.randn(shape, dtype=torch.float64)
    state, before = copy.deepcopy(learner.state_dict()), torch.get_rng_state()
    first = guess_of(learner, value, labels)
    assert torch.equal(guess_of(learner, value, labels), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(state[name], now) for name, now in learner.state_dict().items())


@pytest.mark.parametrize(("shape", "feature"), LAYOUTS + UNUSUAL, ids=str)
def test_a_gradient_reaches_every_parameter_when_a_context_is_given(learned, shape, feature):
    learner = perturb(built(learned, spec_of(shape, feature, classes=CLASSES)))
    guess = guess_of(learner, torch.randn(shape, dtype=torch.float64), torch.arange(4))
    (guess * torch.randn_like(guess)).sum().backward()
    for name, parameter in learner.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.count_nonzero() > 0, name


@pytest.mark.parametrize(("shape", "feature"), LAYOUTS, ids=str)
def test_regression_lowers_its_error_and_lower_still_with_labels(learned, shape, feature):
    """The target depends on the label alone and the value is noise: only a context can tell."""
    spec = spec_of((40, *shape[1:]), feature, classes=CLASSES)
    plain, conditioned = built(learned, spec), built(learned, spec)
    labels = torch.arange(40) % CLASSES
    targets = torch.randn(CLASSES, *[1] * (len(shape) - 1), dtype=torch.float64)
    for learner, context in ((plain, None), (conditioned, labels)):
        optimizer = torch.optim.Adam(learner.parameters(), 1e-2)
        for _ in range(200):
            value = torch.randn(40, *shape[1:], dtype=torch.float64)
            target = targets[labels].expand_as(value)
            error = (guess_of(learner, value, context) - target).square().mean()
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
        if context is None:
            without = error
    assert error < 0.1 * without < 0.11 * targets.square().mean()


@pytest.mark.parametrize(("shape", "feature"), LAYOUTS + UNUSUAL, ids=str)
def test_different_labels_give_different_guesses_and_a_negative_one_says_nothing(learned, shape, feature):
    learner = perturb(built(learned, spec_of(shape, feature, classes=CLASSES)))
    value = torch.randn(shape, dtype=torch.float64)
    plain = guess_of(learner, value)
    guess = guess_of(learner, value, torch.tensor([0, 1, 2, -100]))
    shifted = guess_of(learner, value, torch.tensor([1, 2, 3, -1]))
    for sample in range(3):
        assert not torch.equal(guess[sample], plain[sample])
        assert not torch.equal(guess[sample], shifted[sample])
    assert torch.equal(guess[3], plain[3])
    assert torch.equal(shifted[3], plain[3])


@pytest.mark.parametrize(
    ("shape", "feature", "labels"),
    [(*VECTOR, (4,)), (*SEQUENCE, (4,)), (*SEQUENCE, (4, 5)), (*IMAGE, (4,)), (*IMAGE, (4, 6, 6))],
    ids=str,
)
def test_one_hot_floats_are_the_same_context_as_labels(learned, shape, feature, labels):
    learner = perturb(built(learned, spec_of(shape, feature, classes=CLASSES)))
    value, context = torch.randn(shape, dtype=torch.float64), torch.randint(CLASSES, labels)
    floats = F.one_hot(context, CLASSES)
    expected = guess_of(learner, value, context)
    for dtype in (torch.float32, torch.float64):
        torch.testing.assert_close(guess_of(learner, value, floats.to(dtype)), expected, rtol=0, atol=1e-12)
    assert torch.equal(guess_of(learner, value, context.to(torch.uint8)), expected)


def test_labels_of_samples_speak_of_all_tokens(learned):
    learner = perturb(built(learned, spec_of(*SEQUENCE, classes=CLASSES)))
    value, labels = torch.randn(4, 5, 8, dtype=torch.float64), torch.arange(4)
    repeated = labels.unsqueeze(1).expand(4, 5)
    assert torch.equal(guess_of(learner, value, labels), guess_of(learner, value, repeated))


@pytest.mark.parametrize("name", TOKEN_BY_TOKEN)
def test_labels_of_tokens_speak_of_their_own(name):
    learner = perturb(SYNTHESIZERS.get(name)().build(spec_of(*SEQUENCE, classes=CLASSES)))
    value = torch.randn(4, 5, 8, dtype=torch.float64)
    labels = torch.randint(CLASSES, (4, 5))
    other = labels.clone()
    other[:, 2] = (labels[:, 2] + 1) % CLASSES
    differs = (guess_of(learner, value, labels) != guess_of(learner, value, other)).any(-1)
    assert differs.tolist() == [[False, False, True, False, False]] * 4


def test_no_labels_cost_no_parameters(learned):
    without = built(learned, spec_of(*SEQUENCE))
    with_labels = built(learned, spec_of(*SEQUENCE, classes=CLASSES))
    assert with_labels.state_dict().keys() - without.state_dict().keys() == {"context.table"}


@pytest.mark.parametrize("layouts", JOINT, ids=str)
def test_guesses_for_values_side_by_side_have_each_its_values_shape_and_dtype(choice, layouts):
    spec = joint(*(spec_for(choice, shape, feature) for shape, feature in layouts))
    learner = built(choice, spec)
    values = tuple(torch.randn(shape, dtype=torch.float64) for shape, _ in layouts)
    values = (values[0], values[1].float())
    for each in (learner, seasoned(learner, [shape for shape, _ in layouts], context_for(choice, 4))):
        guesses = each(values, context_for(choice, 4)).gradients
        assert [(g.shape, g.dtype) for g in guesses] == [(v.shape, v.dtype) for v in values]
    assert choice.exact or all(guess.isfinite().all() for guess in guesses)


@pytest.mark.parametrize("layouts", JOINT, ids=str)
def test_the_guess_for_each_value_looks_at_all_of_them(learned, layouts):
    learner = perturb(built(learned, joint(*(spec_of(*layout) for layout in layouts))))
    values = tuple(torch.randn(shape, dtype=torch.float64) for shape, _ in layouts)
    guesses = learner(values, None).gradients
    for other in range(2):
        changed = list(values)
        changed[other] = torch.randn_like(values[other])
        for before, after in zip(guesses, learner(tuple(changed), None).gradients, strict=True):
            assert not torch.equal(before, after)


@pytest.mark.parametrize("name", ["zero", "oracle", "delayed"])
def test_values_of_several_tensors_need_no_learning_to_be_filled(name):
    spec = spec_of(*VECTOR, count=2)
    values = (torch.randn(4, 8), torch.randn(4, 2))
    guess = SYNTHESIZERS.get(name)().build(spec)(values, torch.arange(4))
    assert all(torch.equal(g, torch.zeros_like(v)) for g, v in zip(guess.gradients, values, strict=True))


def test_only_the_oracle_is_exact():
    assert [name for name in SYNTHESIZERS if SYNTHESIZERS.get(name).exact] == ["oracle"]


def test_no_synthesizer_warns_when_it_is_built_or_called(choice):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        guess_of(built(choice, spec_for(choice, *IMAGE)), torch.randn(1, 3, 6, 6), context_for(choice, 1))
