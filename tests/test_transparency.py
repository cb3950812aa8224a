"""Cutting changes who learns from what, and nothing else."""

import copy

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import dni_fx
from tests.equality import assert_same, buffers_of, copied, gradients, objective, seeded
from tests.random_models import made_up, planned
from tests.zoo import NEEDS_TWO_SAMPLES, ZOO, made, resized

PLANS = ["bottleneck", *(f"balanced:stages={n}" for n in (2, 3, 4)), "balanced:stages=3,width=1"]


def cut_of(name, plan, **options):
    """The model, a cut copy and the inputs. A test of a plan that the graph does not have is skipped."""
    model, inputs = made(name)
    try:
        return model, dni_fx.decouple(copied(model), inputs, plan=plan, **options), inputs
    except dni_fx.DniError as error:
        if "can be cut in" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", ZOO)
def test_forward_is_bit_identical_in_train_mode_and_in_eval_mode(name, plan):
    model, cut, inputs = cut_of(name, plan)
    for batch in (1, 2, 3, 7):
        if batch == 1 and name in NEEDS_TWO_SAMPLES:
            continue
        args = resized(inputs, batch)
        for training in (True, False):
            model.train(training)
            cut.train(training)
            assert_same(seeded(cut, args), seeded(model, args))
            assert_same(buffers_of(cut), buffers_of(model))


@pytest.mark.parametrize(
    "how", [{"synthesizer": "oracle"}, {"interface": "dni:mix=1"}], ids=["oracle", "mix"]
)
@pytest.mark.parametrize("name", ZOO)
def test_true_gradients_at_every_boundary_are_plain_backprop(name, how):
    model, cut, inputs = cut_of(name, "balanced:stages=3", **how)
    ours, theirs = gradients(cut, inputs), gradients(model, inputs)
    own = {key: value for key, value in ours.items() if not key.startswith("dni.")}
    assert_same(own, theirs, tolerance=1e-10)


@pytest.mark.parametrize("name", ZOO)
def test_inputs_get_the_gradients_of_plain_backprop_under_oracle(name):
    model, cut, inputs = cut_of(name, "balanced:stages=2", synthesizer="oracle")
    if not any(value.is_floating_point() for value in inputs):
        pytest.skip("integers have no gradient")
    got = []
    for each in (cut, model):
        leaves = [value.clone().requires_grad_(value.is_floating_point()) for value in inputs]
        objective(seeded(each, leaves)).backward()
        got.append([leaf.grad for leaf in leaves])
    assert_same(*got, tolerance=1e-10)


@pytest.mark.parametrize("name", ZOO)
def test_in_eval_mode_gradients_are_exact_whatever_fills_the_boundaries(name):
    model, cut, inputs = cut_of(name, "balanced:stages=2", synthesizer="zero")
    ours, theirs = gradients(cut.eval(), inputs), gradients(model.eval(), inputs)
    assert_same({key: value for key, value in ours.items() if not key.startswith("dni.")}, theirs)


@pytest.mark.parametrize("name", sorted(ZOO))
def test_verify_agrees(name):
    _, cut, inputs = cut_of(name, "balanced:stages=3")
    report = dni_fx.verify(cut, inputs)
    assert report, str(report)


@settings(max_examples=30, deadline=None, derandomize=True, report_multiple_bugs=False)
@given(seed=st.integers(0, 2**32))
def test_any_plan_of_any_model_keeps_the_numbers(seed):
    model, inputs = made_up(seed)
    assume_runs(model, inputs)
    cut = dni_fx.decouple(copy.deepcopy(model), inputs, plan=planned(model, inputs, seed))
    for training in (True, False):
        model.train(training)
        cut.train(training)
        assert_same(seeded(cut, inputs), seeded(model, inputs))
        assert_same(buffers_of(cut), buffers_of(model))


@settings(max_examples=30, deadline=None, derandomize=True, report_multiple_bugs=False)
@given(seed=st.integers(0, 2**32))
def test_any_plan_of_any_model_keeps_the_gradients_under_oracle(seed):
    model, inputs = made_up(seed)
    assume_runs(model, inputs)
    plan = planned(model, inputs, seed)
    cut = dni_fx.decouple(copied(model), inputs, plan=plan, synthesizer="oracle")
    ours = {key: value for key, value in gradients(cut, inputs).items() if not key.startswith("dni.")}
    assert_same(ours, gradients(model, inputs), tolerance=1e-10)


@settings(max_examples=15, deadline=None, derandomize=True, report_multiple_bugs=False)
@given(seed=st.integers(0, 2**32))
def test_any_plan_of_any_model_lets_no_gradient_past_a_boundary(seed):
    model, inputs = made_up(seed)
    assume_runs(model, inputs)
    cut = dni_fx.decouple(model, inputs, plan=planned(model, inputs, seed))
    report = dni_fx.verify(cut, inputs)
    assert report, str(report)


def assume_runs(model, inputs):
    """In-place operations may spoil what backward needs, in the model itself."""
    twin = copied(model)
    try:
        gradients(twin, inputs)
    except RuntimeError as error:
        assume(
            "modified by an inplace operation" not in str(error) and "does not require grad" not in str(error)
        )
        raise
