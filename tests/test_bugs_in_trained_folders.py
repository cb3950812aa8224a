"""Bugs that were in the folders by which devices train, one test each."""

import numpy as np
import pytest

import dni_fx.device
from tests.device_nets import CASES, written
from tests.turns import shared_folder


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return shared_folder(tmp_path_factory)


def test_predictions_are_those_of_eval_mode(shared):
    """Stages run the modules of the model, and were traced when these were in train mode again."""
    case = CASES["norm_and_dropout"]
    session = dni_fx.device.open(written("norm_and_dropout", shared))
    (x, _), *_ = case.batches()
    wanted = case.cut().eval()(x).detach().numpy()
    assert np.abs(session.predict(x.numpy())[0] - wanted).max() < 1e-6


def test_what_an_optimizer_keeps_of_shared_weights_has_a_file(shared):
    """It is read by the graph of no stage, and what no stage read had no home."""
    session = dni_fx.device.open(written("tied", shared))
    assert session.store["exp_avg:twice.weight"].shape == (6, 6)


def test_the_gradient_of_a_shared_number_is_a_sum_of_arrays(shared):
    """What numpy adds up of arrays without dimensions is no array, and no graph took it."""
    case, session = CASES["tied"], dni_fx.device.open(written("tied", shared), mode="exact")
    (x, y), *_ = case.batches()
    before = session.store["p:scale"]
    session.step(x.numpy(), y.numpy())
    assert session.store["p:scale"] != before


def test_guesses_are_made_before_the_truth_of_their_step_is_learned_from(shared):
    """A stage that waits for the loss made them when it ran again, and knew too much by then."""
    manifest = dni_fx.device.open(written("two_heads", shared)).manifest
    files = [order.graph.file for order in manifest.orders["decoupled"]]
    guessing = {each.name: each for each in manifest.boundaries if each.guess is not None}
    assert guessing
    for boundary in guessing.values():
        assert files.index(boundary.guess.file) < files.index(boundary.learn.file)
